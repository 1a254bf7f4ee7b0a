"""Clips as kitchens have them: shorter than the frames asked for, damaged in one place, found bad by a worker."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from data_prep.rows import Row
from invert_rl.llavaction.answers.answer import QuestionAnswerer
from invert_rl.llavaction.data import Batches, Classes, SampleEncoder, SegmentStore, repeat_frames
from invert_rl.llavaction.left_out import STRIKES, LeftOut
from invert_rl.llavaction.mixture import Mixture
from invert_rl.llavaction.views import ViewSettings
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from tests.invert_rl.llavaction.conftest import make_clip

OPTIONS = ["open the box", "sit down", "jump up and down", "wave a hand", "spin around"]
LENGTHS = (0.5, 0.7, 1.0, 3.0)
"""Seconds; at 10 frames a second the first three have fewer than 16 frames."""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Path:
    """A video of 8 s with 10 frames a second."""
    folder = tmp_path_factory.mktemp("kitchen")
    with av.open(str(folder / "k.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for number in range(80):
            frame = np.full((64, 64, 3), number, dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return folder


def rows_of(lengths=LENGTHS) -> list[Row]:
    meta = {"options": OPTIONS, "answer": "B", "option_classes": ["0:0", "1:1", "2:2", "3:3", "4:4"]}
    meta |= {"verb_class": 1, "noun_class": 1}
    return [
        Row(f"P01_0{place}", "k.mp4", 8.0, "sit down", ((float(place), place + length),), meta=meta)
        for place, length in enumerate(lengths)
    ]


def encoder_of(load, checkpoint, kitchen: Path, frames: tuple[int, int]) -> tuple:
    model, encoder = load(checkpoint)
    patch = getattr(encoder.processor.video_processor, "patch_size", 14)
    settings = FrameSettings(30.0, *frames, min_pixels=3136, image_patch_size=patch)
    store = SegmentStore(kitchen, settings)
    return model, SampleEncoder(encoder, store, ViewSettings("none"), Classes(6, 7, ["1:1"]))


def test_a_short_clip_repeats_frames_evenly():
    clip = make_clip(frames=6)
    longer = repeat_frames(clip, 16)
    order = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    assert torch.equal(longer.frames, clip.frames[order])
    assert longer.timestamps.tolist() == clip.timestamps[order].tolist()
    assert (longer.start, longer.end) == (clip.start, clip.end)
    assert repeat_frames(clip, 4) is clip


@pytest.mark.parametrize("frames", [16, 32])
def test_short_clips_train_and_are_asked_where_the_number_of_frames_is_fixed(load, checkpoint, kitchen, frames):
    """16 as in the shipped configs, and 32; in one batch with a clip that has them."""
    model, encode = encoder_of(load, checkpoint, kitchen, (frames, frames))
    assert [len(encode.store.clip(VideoRef("k.mp4", *row.window)).frames) for row in rows_of()] == [frames] * 4
    mixture = Mixture({"mqa": rows_of(), "temporal": rows_of()}, {"mqa": 1, "temporal": 1}, seed=0)
    batches = Batches(mixture, encode, 8, 1)
    batch = batches(0, 0)
    assert len(batch["input_ids"]) == 8
    assert batches.left_out.videos == {}
    answers = QuestionAnswerer(model, encode, batch_size=4, max_new_tokens=2)(rows_of())
    assert {answer.status for answer in answers.values()} <= {"ok", "unparsable"}


def test_where_the_number_varies_a_row_that_fits_no_batch_is_replaced(load, tiny_llava, kitchen):
    model, encode = encoder_of(load, tiny_llava, kitchen, (4, 16))
    mixture = Mixture({"mqa": rows_of((0.5, 3.0, 2.0, 3.0))}, {"mqa": 1}, seed=0)
    batches = Batches(mixture, encode, 4, 1)
    for step in range(3):
        assert batches(step, 0)["pixel_values_videos"].shape[0] == 4
    assert any("cannot be in one batch" in reason for reason in batches.left_out.videos.values())
    answers = QuestionAnswerer(model, encode, batch_size=4, max_new_tokens=2)(rows_of())
    assert {answer.status for answer in answers.values()} <= {"ok", "unparsable"}


class Flaky:
    """In place of a store: one window takes too long, one video is not there."""

    settings = FrameSettings()

    def clip(self, ref):
        if ref.path == "gone.mp4":
            raise VideoError(ref.path, "no such file")
        if ref.start == 2.0:
            raise VideoError(ref.path, "not decoded within 60 s; raise the timeout or leave it out")
        return make_clip(int(ref.start))


def test_a_window_that_takes_too_long_does_not_cost_its_kitchen(load, tiny_qwen2_5, tmp_path):
    _, encoder = load(tiny_qwen2_5)
    encode = SampleEncoder(encoder, Flaky(), ViewSettings("none", False), Classes(6, 7, ["1:1"]))
    gone = [Row(f"g{n}", "gone.mp4", 9.0, "x", ((float(n), n + 0.5),), meta=rows_of()[0].meta) for n in range(6)]
    mixture = Mixture({"mqa": [*rows_of(), *gone]}, {"mqa": 1}, seed=1)
    left_out = LeftOut(tmp_path / "left_out.jsonl")
    for step in range(4):
        Batches(mixture, encode, 10, 1, left_out)(step, 0)
    names = set(left_out.videos)
    assert "k.mp4 [2.00, 3.00]" in names
    assert "k.mp4" not in names
    assert "gone.mp4" in names
    assert len([name for name in names if name.startswith("gone.mp4 [")]) == STRIKES
    assert left_out.reason(VideoRef("gone.mp4", 5.0, 6.0)) is not None
    assert left_out.reason(VideoRef("k.mp4", 3.0, 6.0)) is None


def test_what_workers_leave_out_is_in_the_file(load, tiny_qwen2_5, tmp_path):
    """Each worker of a `DataLoader` has a copy of its own; the file has what all of them found."""
    from torch.utils.data import DataLoader

    from invert_rl.tal.training import StepBatches, only_item

    _, encoder = load(tiny_qwen2_5)
    encode = SampleEncoder(encoder, Flaky(), ViewSettings("none", False), Classes(6, 7, ["1:1"]))
    left_out = LeftOut(tmp_path / "left_out.jsonl")
    mixture = Mixture({"mqa": rows_of()}, {"mqa": 1}, seed=1)
    batches = StepBatches(2, 1, Batches(mixture, encode, 4, 1, left_out))
    for _ in DataLoader(batches, batch_size=1, collate_fn=only_item, num_workers=2):
        pass
    assert left_out.videos == {}
    left_out.write(tmp_path / "quarantine.json")
    assert json.loads((tmp_path / "quarantine.json").read_text()).keys() == {"k.mp4 [2.00, 3.00]"}
