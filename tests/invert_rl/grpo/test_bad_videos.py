"""Broken videos and rows that do not fit: replaced as a whole, reported by name, never swapped or cut."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.tasks import video_of


@pytest.fixture
def half_broken(world: Path, rows: list[Row], tmp_path: Path) -> tuple[list[Row], Path]:
    """The rows with every second one moved to a video that is missing, empty or no video."""
    root = tmp_path / "videos"
    shutil.copytree(world / "videos", root)
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("not a video")
    names = ["missing.mp4", "empty.mp4", "text.mp4"]
    return [replace(row, video=names[i // 2 % 3]) if i % 2 else row for i, row in enumerate(rows)], root


def test_rows_with_broken_videos_are_replaced_as_a_whole(make_trainer, tiny_qwen2_5, half_broken):
    rows, root = half_broken
    by_id = {row.id: row for row in rows}
    trainer = make_trainer(
        tiny_qwen2_5, rows=rows, video_root=root, max_steps=8, per_device_train_batch_size=8, tvg_probability=0.5
    )
    seen = []

    def spy(prompts, completions, id, windows, verbs, **columns):
        seen.extend(zip(prompts, id, windows, verbs, strict=True))
        return [0.5] * len(completions)

    trainer.reward_funcs[0] = spy
    trainer.train()
    assert len(seen) == 8 * 8
    for prompt, row_id, windows, verbs in seen:
        row = by_id[row_id]
        assert video_of(prompt).path == row.video
        assert row.video.startswith("train_")  # a good one
        assert [tuple(window) for window in windows] == list(row.windows)
        assert verbs == row.meta["verbs"]
    assert set(trainer.quarantine.videos) == {"missing.mp4", "empty.mp4", "text.mp4"}
    assert "no such file" in trainer.quarantine.videos["missing.mp4"]
    replaced = [log["data/replaced"] for log in trainer.state.log_history if "data/replaced" in log]
    assert sum(replaced) > 0


def test_groups_stay_whole_after_a_replacement(make_trainer, tiny_qwen2_5, half_broken):
    rows, root = half_broken
    trainer = make_trainer(tiny_qwen2_5, rows=rows, video_root=root, max_steps=6)
    groups = []
    trainer.reward_funcs[0] = lambda id, **columns: groups.append(id) or [0.5] * len(id)
    trainer.train()
    assert all(len(set(group)) == 1 and len(group) == 4 for group in groups)


def test_a_set_of_broken_videos_ends_with_a_clear_error(make_trainer, tiny_qwen2_5, rows, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "other.mp4").touch()
    trainer = make_trainer(tiny_qwen2_5, video_root=tmp_path / "videos")
    with pytest.raises(DataError, match="no usable video after 100 replacements.*no such file"):
        trainer.train()


def test_a_prompt_that_is_too_long_is_refused_by_id(make_trainer, tiny_qwen2_5, rows):
    """TVG prompts of the toy world have about 160 tokens; the limit leaves those of short queries alone."""
    lengths = {}
    probe = make_trainer(tiny_qwen2_5, tasks=["tvg"])
    for index, row in enumerate(rows):
        lengths[row.id] = len(probe._encode("tvg", row, probe.train_dataset[probe_draw(index)]["prompt"]).input_ids)
    limit = sorted(lengths.values())[len(lengths) // 2]
    too_long = {row_id for row_id, length in lengths.items() if length > limit}
    assert 0 < len(too_long) < len(rows)
    trainer = make_trainer(tiny_qwen2_5, tasks=["tvg"], max_prompt_length=limit, max_steps=12)
    used = []
    trainer.reward_funcs[0] = lambda id, **columns: used.extend(id) or [0.5] * len(id)
    trainer.train()
    assert used and not set(used) & too_long
    assert trainer.quarantine.videos
    for name, reason in trainer.quarantine.videos.items():
        assert any(f"row {row_id}, tvg, " in name and "train.jsonl:" in name for row_id in too_long)
        assert f"more than max_prompt_length {limit}" in reason


def test_the_models_own_positions_are_the_limit_by_default(make_trainer, tiny_qwen2_5, rows, monkeypatch):
    trainer = make_trainer(tiny_qwen2_5, tasks=["tvg"])
    places = trainer.model.config.get_text_config().max_position_embeddings
    assert trainer.prompt_limit.tokens == places - 6  # max_completion_length
    config = type(trainer.model.config.get_text_config())
    built = config.__init__

    def small(self, *args, **kwargs):
        built(self, *args, **kwargs)
        self.max_position_embeddings = 100

    monkeypatch.setattr(config, "__init__", small)
    trainer = make_trainer(tiny_qwen2_5, tasks=["tvg"])
    assert trainer.prompt_limit.tokens == 94
    with pytest.raises(DataError, match="the prompt has .* tokens, more than 94, the model's 100 places less the 6"):
        trainer.train()
    with pytest.raises(ValueError, match="answers of 200 tokens leave no room"):
        make_trainer(tiny_qwen2_5, tasks=["tvg"], max_completion_length=200)


def probe_draw(index: int):
    from invert_rl.schedule import Draw

    return Draw("tvg", index, 0, 0)
