"""Controls: no row keeps its video, none keeps its segment, and everything else stays."""

from __future__ import annotations

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.controls import with_other_segments, with_shuffled_videos
from invert_rl.tasks import load_preset


def row(name: str, duration: float = 12.0, window: tuple[float, float] = (1.0, 2.0), **more) -> Row:
    return Row(
        f"{name}-{window[0]}", f"{name}.mp4", duration, f"{name} opens", (window,), meta={"verbs": ["open"]}, **more
    )


ROWS = [row(f"v{number}") for number in range(7)] + [row("v0", window=(3.0, 5.0))]


@pytest.mark.parametrize("seed", range(5))
def test_no_row_keeps_its_video_and_nothing_else_changes(seed):
    shuffled = with_shuffled_videos(ROWS, seed)
    for before, after in zip(ROWS, shuffled, strict=True):
        assert after.video != before.video
        assert (after.id, after.query, after.windows, after.meta) == (
            before.id,
            before.query,
            before.windows,
            before.meta,
        )
    assert shuffled[0].video == shuffled[7].video  # rows of one video stay together
    assert {r.video for r in shuffled} == {r.video for r in ROWS}
    assert shuffled == with_shuffled_videos(ROWS, seed)
    assert shuffled != with_shuffled_videos(ROWS, seed + 100)


def test_lengths_are_kept_as_far_as_there_are_others():
    rows = [row("a", 10.0), row("b", 100.0, (50.0, 60.0)), row("c", 10.0), row("d", 90.0, (80.0, 90.0))]
    videos = {r.video: s.video for r, s in zip(rows, with_shuffled_videos(rows, 0), strict=True)}
    assert videos == {"a.mp4": "c.mp4", "c.mp4": "a.mp4", "b.mp4": "d.mp4", "d.mp4": "b.mp4"}


def test_windows_are_cut_to_a_shorter_video_and_clips_are_kept_in_their_files():
    rows = [row("long", 100.0, (96.0, 100.0)), row("short", 50.0, (10.0, 20.0), clip=(10.0, 40.0))]
    long, short = with_shuffled_videos(rows, 0)
    assert (long.video, long.clip, long.windows) == ("short.mp4", (10.0, 40.0), ((36.0, 40.0),))
    assert (short.video, short.clip, short.windows) == ("long.mp4", None, ((0.0, 10.0),))


def test_one_video_cannot_be_shuffled():
    with pytest.raises(DataError, match="two videos"):
        with_shuffled_videos([row("a"), row("a", window=(3.0, 4.0))], 0)


def test_a_placebo_shows_another_videos_segment_and_asks_the_same():
    tasks = load_preset("think").tasks
    changed = with_other_segments(tasks, ROWS, 0)
    for name, task in tasks.items():
        for r in task.rows(ROWS):
            assert changed[name].text(r) == task.text(r) and changed[name].columns(r) == task.columns(r)
            if task.segment:
                assert changed[name].video(r).path != r.video
                assert changed[name].video(r) in [task.video(other) for other in ROWS]
            else:
                assert changed[name].video(r) == task.video(r)
    again = with_other_segments(tasks, ROWS, 0)
    assert [changed["ar"].video(r) for r in ROWS] == [again["ar"].video(r) for r in ROWS]
    with pytest.raises(DataError, match="two videos"):
        with_other_segments(tasks, ROWS[:1], 0)
