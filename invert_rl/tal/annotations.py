"""Annotations in ActivityNet's layout, as ``invert-rl convert`` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json


def read_database(annotations: Path) -> dict[str, Any]:
    """The ``database`` of an ActivityNet-style JSON file; raises `DataError` where there is none."""
    content = read_json(annotations)
    if not isinstance(content, dict) or not isinstance(content.get("database"), dict):
        raise DataError(f"{annotations}: expected an object with 'database', as invert-rl convert writes it")
    return content["database"]


def class_names(database: dict[str, Any]) -> list[str]:
    """Classes of all subsets in alphabetical order; their places are the class ids."""
    return sorted({entry["label"] for record in database.values() for entry in record["annotations"]})
