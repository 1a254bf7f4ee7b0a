"""Atomic writing and the strict readers of data_prep.files."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_csv, read_json, read_jsonl


def test_atomic_write_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with atomic_write(path) as out:
        out.write("old")
    with pytest.raises(KeyError), atomic_write(path) as out:
        out.write("new")
        raise KeyError
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_csv_fields_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"a, ""b""\nc"\n\n2,d\n', encoding="utf-8")
    rows = read_csv(path, ("id",))
    assert [record for _, record in rows] == [{"id": "1", "text": 'a, "b"\nc'}, {"id": "2", "text": "d"}]
    assert rows[1][0] == 5


def test_unicode_line_separators_do_not_split_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x\u2028y"}\n\n{"a": "z"}\n', encoding="utf-8")
    assert read_jsonl(path) == [(1, {"a": "x\u2028y"}), (3, {"a": "z"})]


def test_a_repeated_key_deep_inside_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [{"b": 1, "c": 2, "b": 3}]}', encoding="utf-8")
    with pytest.raises(DataError, match="key 'b' occurs twice"):
        read_json(path)
