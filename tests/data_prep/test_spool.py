"""Collections that move to disk: the same content, order and answers as in memory; a conversion beyond the limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep import spool
from data_prep.rows import Row, as_record, read_rows
from data_prep.spool import RowSpool, Seen, Spool
from invert_rl.cli import main


@pytest.mark.parametrize("count", [0, 2, 3, 10])
def test_a_spool_gives_back_what_it_was_given_in_order(count: int) -> None:
    kept = Spool(in_memory=3)
    records = [{"number": number, "text": "\ud83d é"} for number in range(count)]
    for record in records:
        kept.append(record)
    assert list(kept) == list(kept) == records and len(kept) == count


def test_rows_come_back_as_they_were() -> None:
    rows = [
        Row(f"r{number}", "a.mp4", 9.0, "a b", ((1.0, 2.5), (3.0, 4.0)), clip=(0.5, 5.0) if number % 2 else None)
        for number in range(5)
    ]
    kept = RowSpool(in_memory=2)
    for row in rows:
        kept.append(row)
    assert list(kept) == rows
    assert "clip" in as_record(rows[1]) and "clip" not in as_record(rows[0])


def test_seen_keys_are_known_in_memory_and_on_disk() -> None:
    seen = Seen(in_memory=3)
    assert all(seen.add(f"k{number}", f"line {number}") for number in range(8))
    assert len(seen) == 8
    assert not seen.add("k0", "again") and seen.find("k0") == "line 0"
    assert not seen.add("k7") and seen.find("k7") == "line 7" and seen.find("k8") is None
    assert seen.add("half of a character \ud83d")


def test_a_conversion_beyond_what_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Spool, RowSpool, Seen):
        monkeypatch.setattr(kind.__init__, "__defaults__", (4,))
    assert spool.Spool()._in_memory == 4
    records = [{"v": f"{n % 3}.mp4", "d": 9, "q": f"a b {n}", "w": [1, 0 if n % 5 == 0 else 3]} for n in range(23)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    arguments = ["--annotations", "a.jsonl", "--split", "test", "--output", "o.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "jsonl", *arguments, "--map", "video=v", "duration=d", "query=q", "windows=w"]) == 0
    assert [row.query for row in read_rows("o.jsonl")] == [record["q"] for n, record in enumerate(records) if n % 5]
    rejected = [json.loads(line)["line"] for line in Path("o.rejected.jsonl").read_text().splitlines()]
    assert rejected == [1, 6, 11, 16, 21]
    assert json.loads(Path("o.summary.json").read_text())["videos"] == 3
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({**record, "id": min(n, 20)}) for n, record in enumerate(records))
    )
    common = ["convert", "jsonl", *arguments, "--map", "video=v", "duration=d", "query=q", "windows=w", "id=id"]
    assert main(common) == 1  # an id of the last lines, met long ago
