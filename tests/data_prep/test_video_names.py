"""Which file of a folder is a data set's video, whatever either is called."""

from __future__ import annotations

from pathlib import Path

from data_prep.convert.grounding import VideoNames


def test_files_are_found_by_their_stem(tmp_path: Path) -> None:
    for name in ("1@N00_a.m2ts", "2@N01_b.mp4", "sub/-x_y.webm", "s30-d52.avi", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = VideoNames("{video}", tmp_path)
    assert names("1@N00_a.m2ts") == names("1@N00_a.mov") == "1@N00_a.m2ts"
    assert names("2@N01_b.") == "2@N01_b.mp4"  # DiDeMo has names that end in a dot
    assert names("-x_y") == "sub/-x_y.webm" and names("s30-d52.avi") == "s30-d52.avi"
    assert names("note") == "note" and list(names.missing) == ["note"]
