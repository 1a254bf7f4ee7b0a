"""``invert-rl mix``: write the rows of a mixture, a manifest of where they are from, and what was left out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write
from data_prep.rows import write_rows
from invert_rl.evaluation.data import file_sha256
from invert_rl.mixture.config import CONTAMINATION, read_mixture
from invert_rl.mixture.resolve import IN_TEST_SET, resolve

SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl mix``."""
    parser.description = (
        "Resolve a mixture's YAML (docs/data.md) into one file of rows. Beside it appear *.mixture.json (hashes, "
        "counts, settings) and *.rejected.jsonl (every row left out, with why)."
    )
    parser.add_argument("mixture", type=Path, metavar="MIXTURE.yaml", help="sources, weights and test sets")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.jsonl", help="the rows to write")
    parser.add_argument(
        "--contamination",
        choices=CONTAMINATION,
        help="rows whose video is in a test set: an error, or left out and listed; default: the YAML's, or refuse",
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Write the mixture; raises `DataError` for a wrong YAML, unreadable files, and contamination that is refused."""
    mixture = read_mixture(args.mixture)
    named = [source.data for source in mixture.sources] + [test_set.data for test_set in mixture.test_sets]
    inputs = [mixture.located(name) for name in named]
    if args.output.resolve() in [path.resolve() for path in [*inputs, args.mixture]]:
        raise DataError(f"{args.output}: --output is one of the files to read; choose another name")
    resolved = resolve(mixture)
    rejected = args.output.with_suffix(".rejected.jsonl")
    _write_lines(rejected, resolved.rejected)
    if resolved.contaminated and (args.contamination or mixture.contamination) != "drop":
        found = [record for record in resolved.rejected if record["kind"] == IN_TEST_SET]
        shown = "; ".join(f"{record['id']} of {record['source']}: {record['reason']}" for record in found[:SHOWN])
        raise DataError(
            f"{args.mixture}: {resolved.contaminated} rows have videos of test sets ({shown}"
            f"{'; …' if len(found) > SHOWN else ''}), all are in {rejected}; nothing else was written. "
            "--contamination drop leaves them out"
        )
    if not resolved.rows:
        raise DataError(f"{args.mixture}: no row is left, see {rejected}")
    manifest = {
        "mixture": args.mixture.name,
        "mixture_sha256": file_sha256(args.mixture),
        "version": version("invert-rl"),
        "seed": mixture.seed,
        "rows": write_rows(resolved.rows, args.output),
        "sha256": file_sha256(args.output),
        "windows": next((source["windows"] for source in resolved.sources if source["windows"] != "split"), "split"),
        "sources": resolved.sources,
        "test_sets": resolved.test_sets,
        "contaminated": resolved.contaminated,
        "rejected": len(resolved.rejected),
    }
    with atomic_write(args.output.with_suffix(".mixture.json")) as out:
        out.write(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    sys.stdout.write(json.dumps(manifest, ensure_ascii=False) + "\n" if args.json else _as_text(manifest, args.output))
    return 0


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with atomic_write(path) as out:
        out.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _as_text(manifest: dict[str, Any], output: Path) -> str:
    lines = [f"{manifest['rows']} rows in {output}, sha256 {manifest['sha256']}"]
    for source in manifest["sources"]:
        left = ", ".join(f"{count} {reason}" for reason, count in source["rejected"].items()) or "none left out"
        lines.append(
            f"  {source['name']}: {source['taken']} taken of {source['entries']} ({left}), {source['videos']} videos"
        )
    for test_set in manifest["test_sets"]:
        lines.append(
            f"  apart from {test_set['data']}: {test_set['videos']} videos, {test_set['files_hashed']} files "
            "compared by content, all by name"
        )
    if manifest["windows"] != "split":
        lines.append(f"train with --windows {manifest['windows']}")
    return "\n".join(lines) + "\n"
