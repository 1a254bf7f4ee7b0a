"""``invert-rl extract-clip`` with a tiny random CLIP: what the reader takes, resumable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, CLIPProcessor

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.models import CheckpointError
from invert_rl.psftr.clip import Clip
from invert_rl.psftr.extract import Extraction, sample
from invert_rl.psftr.text import PROMPTS, read_text_embeddings
from invert_rl.tal.data import read_videos
from invert_rl.tal.features import Features
from invert_rl.video.clip import Clip as FrameClip
from invert_rl.video.ref import VideoRef
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore
from tests.invert_rl.psftr.tiny_clip import SIDE, WIDTH, save_tiny_clip
from tests.invert_rl.video.video_clips import read_indices, write_video

FPS, FRAMES = 10.0, {"one": 60, "two": 83}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations of two videos whose pictures say their number, and the videos."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos").mkdir()
    database = {}
    for video, frames in FRAMES.items():
        times = [100 * number for number in range(frames)]
        write_video(folder / "videos" / f"v_{video}.mkv", "mpeg4", times, rate=10)
        entries = [{"segment": [1.0, 3.0], "label": "LongJump"}, {"segment": [4.0, 5.0], "label": "Diving"}]
        database[video] = {"subset": "test", "duration": frames / FPS, "fps": FPS, "annotations": entries}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return folder


def extract(data: Path, tiny: Path, output: Path, *more: str) -> int:
    arguments = ["extract-clip", str(data / "annotations.json"), "--videos", str(data / "videos"), "--prefix", "v_"]
    return main([*arguments, "--output", str(output), "--model", str(tiny), "--stride", "4", "--batch", "8", *more])


def test_features_are_read_by_the_reader_and_are_the_model_s(data: Path, tiny: Path, tmp_path: Path, capsys) -> None:
    assert extract(data, tiny, tmp_path / "clip", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["videos"], summary["extracted"], summary["missing"], summary["broken"]) == (2, 2, [], {})
    features = Features(tmp_path / "clip", Extraction(str(tiny), 4, None).layout(WIDTH))
    one, two = read_videos(data / "annotations.json", features, "test")
    assert (one.features.shape, two.features.shape) == ((15, WIDTH), (20, WIDTH))
    assert one.grid.row(1.0) == pytest.approx(2.0)  # row 2 stands for frames 8 to 11, its middle is frame 10
    # row r is frame 4 r, or the one beside it, as the checkpoint's own processor and model see it
    store = FrameStore(data / "videos", FrameSettings.every_row(FPS / 4, SIDE))
    clip = store.clip(VideoRef("v_one.mkv"))
    assert read_indices(clip.frames[sample(clip, FPS, 4)]) == list(range(0, 60, 4))
    clip = store.clip(VideoRef("v_two.mkv"))
    frames = clip.frames[sample(clip, FPS, 4)]
    assert np.abs(np.array(read_indices(frames)) - np.arange(0, 80, 4)).max() <= 1
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    model, processor = CLIPModel.from_pretrained(tiny).eval(), CLIPProcessor.from_pretrained(tiny)
    with torch.no_grad():
        inputs = processor(images=pictures, text=["x"], return_tensors="pt", padding=True)
        expected = model(**inputs).image_embeds
    assert torch.allclose(F.normalize(two.features[:], dim=-1), expected, atol=1e-4)
    assert not torch.allclose(two.features[:], expected, atol=1e-2)  # the file holds them as they are, not normalised


def test_texts_are_the_model_s_for_every_prompt(data: Path, tiny: Path, tmp_path: Path) -> None:
    arguments = ["extract-clip", str(data / "annotations.json"), "--output", str(tmp_path), "--model", str(tiny)]
    assert main([*arguments, "--spaced-names"]) == 0  # without --videos
    model, tokenizer = CLIPModel.from_pretrained(tiny).eval(), AutoTokenizer.from_pretrained(tiny)
    for prompt, form in PROMPTS.items():
        found = read_text_embeddings(tmp_path / "text.safetensors", ["LongJump", "Diving"], prompt)
        for row, name in zip(found, ("long jump", "diving"), strict=True):
            with torch.no_grad():
                tokens = tokenizer([form.format(name)], return_tensors="pt")
                text = model.get_text_features(**tokens).pooler_output[0]
            assert torch.allclose(row, text, atol=1e-5), prompt


def test_goes_on_where_it_stopped(data: Path, tiny: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    output = tmp_path / "clip"
    real = Clip.frames

    def stops(self, frames, batch):
        if (output / "one.npy").exists():
            raise KeyboardInterrupt
        return real(self, frames, batch)

    monkeypatch.setattr(Clip, "frames", stops)
    with pytest.raises(KeyboardInterrupt):
        extract(data, tiny, output)
    assert not (output / "two.npy").exists()
    np.save(output / "one.npy", np.zeros((15, WIDTH), np.float32))  # what is there stays
    monkeypatch.setattr(Clip, "frames", real)
    assert extract(data, tiny, output) == 0
    assert not np.load(output / "one.npy").any()
    assert np.load(output / "two.npy").shape == (20, WIDTH)
    assert sorted(path.name for path in output.iterdir()) == [
        "extraction.json",
        "one.npy",
        "text.safetensors",
        "two.npy",
    ]
    capsys.readouterr()
    assert extract(data, tiny, output, "--stride", "8") == 1
    assert "choose another --output" in capsys.readouterr().err


def test_videos_without_features_are_named(data: Path, tiny: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "v_one.mp4").write_bytes(b"no video")
    content = json.loads((data / "annotations.json").read_text())
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert extract(tmp_path, tiny, tmp_path / "clip", "--json") == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["missing"] == ["two"]
    assert list(summary["broken"]) == ["one"]
    content["database"]["one"]["duration"] = 20.0  # the file has 6 s
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    (tmp_path / "videos" / "v_one.mp4").unlink()
    (tmp_path / "videos" / "v_one.mkv").write_bytes((data / "videos" / "v_one.mkv").read_bytes())
    assert extract(tmp_path, tiny, tmp_path / "clip", "--json") == 1
    assert "15 rows, but 20 s" in json.loads(capsys.readouterr().out)["broken"]["one"]
    for fps in (0, "x"):
        content["database"]["one"]["fps"] = fps
        (tmp_path / "annotations.json").write_text(json.dumps(content))
        assert extract(tmp_path, tiny, tmp_path / "clip") == 1
        assert f"video 'one': fps must be frames a second above 0, found {fps!r}" in capsys.readouterr().err
    del content["database"]["one"]["fps"]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert extract(tmp_path, tiny, tmp_path / "clip") == 1
    assert "has no fps in the annotations; give --fps" in capsys.readouterr().err


def test_rows_are_the_nearest_frames() -> None:
    clip = FrameClip(torch.zeros(6, 3, 2, 2, dtype=torch.uint8), np.array([0, 0.4, 1.1, 1.4, 2.0, 2.4]), 0.0, 3.0, "x")
    assert sample(clip, 2.0, 1.0).tolist() == [0, 1, 2, 3, 4, 5]  # seconds 0, .5, 1, 1.5, 2, 2.5
    assert sample(clip, 1.0, 1.0).tolist() == [0, 2, 4]


def test_another_checkpoint_is_refused(tmp_path: Path, data: Path, capsys) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="of type 'bert'; a CLIP"):
        Clip(str(tmp_path / "bert"))
    assert extract(data, tmp_path / "nothing", tmp_path / "clip") == 1
    assert "no such checkpoint folder" in capsys.readouterr().err
    with pytest.raises(DataError, match="no such video folder"):
        from invert_rl.psftr.extract import find_videos

        find_videos(tmp_path / "none", ["a"])
