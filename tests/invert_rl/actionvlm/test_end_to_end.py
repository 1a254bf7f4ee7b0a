"""Videos as input: frames at rows, VideoMAE features per frame, training that reaches the encoder."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEModel

from data_prep.errors import DataError, VideoError
from invert_rl.actionvlm.experiment import build, load_data, score_test_set
from invert_rl.actionvlm.frames import FrameReader, crop_of, recoloured, stored_frames, time_videos
from invert_rl.actionvlm.vision import DEVIATION, MEAN, VideoEncoder, load_video_encoder
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore
from tests.invert_rl.actionvlm.small import arguments
from tests.invert_rl.actionvlm.test_encoders import internvideo2_weights

SIZE = 32


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory) -> Path:
    """A tiny VideoMAE, made for frames of another size."""
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=64,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        use_mean_pooling=False,
    )
    folder = tmp_path_factory.mktemp("videomae")
    VideoMAEModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Two videos of 8 s at 8 frames a second, grey with a white second of action; frame n has the red value 3 n."""
    folder = tmp_path_factory.mktemp("videos")
    for name in ("a", "b"):
        with av.open(str(folder / f"{name}.mp4"), "w") as file:
            stream = file.add_stream("libx264rgb", rate=8)
            stream.width = stream.height = SIZE
            stream.pix_fmt = "rgb24"
            stream.options = {"qp": "0"}
            for number in range(64):
                picture = np.full((SIZE, SIZE, 3), 100, dtype=np.uint8)
                picture[..., 0] = 3 * number
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
    entry = {"segment": [2.0, 4.0], "label": "flash"}
    record = {"duration": 8.0, "annotations": [entry, {"segment": [5.0, 5.5], "label": "dim"}]}
    database = {"a": {**record, "subset": "validation"}, "b": {**record, "subset": "test"}}
    (folder / "notes.json").write_text(json.dumps({"database": database}))
    return folder


def test_features_are_the_mean_over_space_stretched_over_time(encoder_folder):
    encoder = load_video_encoder(str(encoder_folder), SIZE).eval()
    assert encoder.encoder.config.image_size == SIZE
    frames = torch.randint(0, 256, (2, 32, 3, SIZE, SIZE), dtype=torch.uint8)
    mask = torch.ones(2, 32, dtype=torch.bool)
    mask[1, 20:] = False
    with torch.no_grad():
        got = encoder(frames, mask)
        mean, deviation = torch.tensor(MEAN)[:, None, None], torch.tensor(DEVIATION)[:, None, None]
        steps = []
        for chunk in (frames[0, :16], frames[0, 16:]):
            hidden = encoder.encoder(((chunk / 255 - mean) / deviation)[None]).last_hidden_state[0]
            steps += list(hidden.view(8, 4, 32).mean(dim=1))  # 8 steps of 2 x 2 patches
    rows = (np.arange(32) + 0.5) / 2 - 0.5
    expected = np.stack([np.interp(rows, np.arange(16), torch.stack(steps)[:, channel]) for channel in range(32)], 1)
    np.testing.assert_allclose(got[0].numpy(), expected, atol=1e-4)
    assert not got[1, 20:].any() and got[1, :20].any()
    with pytest.raises(ValueError, match="multiple of 16"):
        encoder(frames[:, :20], mask[:, :20])


def test_an_encoder_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        load_video_encoder(str(tmp_path / "nowhere"), SIZE)


def test_rows_show_the_frames_at_their_times(world):
    database = json.loads((world / "notes.json").read_text())["database"]
    (video,) = time_videos(database, "test", ["dim", "flash"], frame_rate=4.0)
    assert len(video.features) == 32
    assert video.labels.tolist() == [1, 0]
    times = video.grid.seconds(torch.arange(32.0))
    torch.testing.assert_close(video.features[:, 0], times)
    torch.testing.assert_close(video.grid.seconds(video.segments), torch.tensor([[2.0, 4.0], [5.0, 5.5]]))
    frames = FrameReader(world, ".mp4", SIZE).read("b", video.features[:, 0])
    assert frames.shape == (32, 3, SIZE, SIZE)
    number = frames[:, 0].float().mean(dim=(1, 2)) / 3
    assert ((number / 8 - times).abs() <= 1 / 16 + 1e-6).all()  # the nearest of eight frames a second
    (resized,) = time_videos(database, "TEST", ["dim", "flash"], frame_rate=4.0, size=16)
    assert len(resized.features) == 16
    assert float(resized.features[-1]) == pytest.approx(7.75)
    with pytest.raises(DataError, match="training"):
        time_videos(database, "training", ["dim", "flash"], 4.0)


@pytest.mark.parametrize(
    ("kind", "size", "parameter"),
    [
        ("videomae", SIZE, "vision.encoder.embeddings.patch_embeddings.projection.weight"),
        ("internvideo2", 28, "vision.encoder.places"),
    ],
)
def test_training_end_to_end_changes_the_encoder(kind, size, parameter, world, encoder_folder, tmp_path):
    name = encoder_folder
    if kind == "internvideo2":
        name = tmp_path / "internvideo2.pth"
        torch.save(internvideo2_weights(steps=16, layers=1), name)
    args = arguments(
        tmp_path,
        train_annotations=str(world / "notes.json"),
        video_root=str(world),
        vision_model=str(name),
        frame_rate=4.0,
        frame_size=size,
        window=32,
        descriptions=None,
        per_device_train_batch_size=1,
        max_steps=2,
        gradient_checkpointing=True,
        vision_learning_rate=1e-3,
    )
    data, vision = load_data(args)
    assert isinstance(vision, VideoEncoder) and data.classes == ["dim", "flash"]
    run = build(args, data, vision)
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.trainer().train()
    moved = {name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])}
    assert {parameter, "projection.weight"} <= moved
    assert any(name.startswith("language.llm") for name in moved)
    metrics, results = score_test_set(run)
    assert 0 <= metrics["average_mAP"] <= 1
    assert set(results) == {"b"}


def test_the_middle_square_in_testing_and_one_random_crop_a_window_in_training(world):
    assert crop_of(100, 180, None) == (0, 40, 100, 100)
    assert crop_of(181, 100, None) == (40, 0, 100, 100)
    crops = {crop_of(100, 180, seed) for seed in range(20)}
    assert len(crops) > 15 and crop_of(100, 180, 3) == crop_of(100, 180, 3)
    for top, left, height, width in crops:
        assert 0 <= top <= 100 - height and 0 <= left <= 180 - width
        assert 0.06 < height * width / (100 * 180) <= 1 and 0.7 < width / height < 1.4
    frames = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8).expand(5, -1, -1, -1)
    turned = [recoloured(frames, seed) for seed in range(8)]
    assert all((one == one[:1]).all() for one in turned)  # every frame of a window alike
    assert sum(not torch.equal(one, frames) for one in turned) >= 6
    assert torch.equal(turned[2], recoloured(frames, 2))
    reader, times = FrameReader(world, ".mp4", SIZE), torch.tensor([1.0, 3.0])
    plain, first, again, other = (reader.read("a", times, seed) for seed in (None, 5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, plain)


def test_a_store_gives_the_frames_of_the_file_and_decodes_it_once(world, tmp_path):
    """Of a lossless video whose pictures are as large as those kept: the same frames, also when the file is gone."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes((world / "a.mp4").read_bytes())
    times = torch.arange(2.0, 6.0, 0.25)
    store = FrameStore(folder, FrameSettings.every_row(4.0, 24), directory=tmp_path / "store")
    reader = FrameReader(folder, ".mp4", SIZE, store=store)
    plain, kept = FrameReader(folder, ".mp4", SIZE).read("a", times), reader.read("a", times)
    number = kept[:, 0].float().mean(dim=(1, 2)) / 3
    assert ((number / 8 - times).abs() <= 1 / 8 + 1e-3).all()  # red is 3 times the number of the frame
    assert kept.shape == plain.shape and (kept[:, 1].float() - plain[:, 1].float()).abs().max() <= 2
    assert torch.equal(reader.read("a", times, 5), reader.read("a", times, 5))
    again = stored_frames(folder, tmp_path / "store", 4.0, 21)
    assert again.settings == store.settings
    calls = []
    again._decoded = lambda *given: calls.append(given)
    assert torch.equal(FrameReader(folder, ".mp4", SIZE, store=again).read("a", times), kept) and not calls


@pytest.fixture
def damaged(world, encoder_folder, tmp_path):
    """Settings of a data set whose videos c are no videos, one in each subset, and whose videos d are not there."""
    database = json.loads((world / "notes.json").read_text())["database"]
    for name, like in (("c1", "a"), ("c2", "b"), ("d1", "a"), ("d2", "b")):
        database[name] = database[like]
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.mp4").write_bytes((world / f"{name}.mp4").read_bytes())
    for name in ("c1", "c2"):
        (folder / f"{name}.mp4").write_bytes(b"no video")
    (tmp_path / "notes.json").write_text(json.dumps({"database": database}))
    return {
        "train_annotations": str(tmp_path / "notes.json"),
        "video_root": str(folder),
        "vision_model": str(encoder_folder),
        "frame_rate": 4.0,
        "frame_size": SIZE,
        "window": 32,
        "descriptions": None,
        "per_device_train_batch_size": 2,
    }


def test_the_setting_makes_a_store_and_broken_videos_are_noted_as_ever(damaged, tmp_path):
    args = arguments(tmp_path, bad_features="skip", frame_store=str(tmp_path / "store"), **damaged)
    data, _ = load_data(args)
    assert data.reader is not None and data.reader.store is not None
    window = data.train[0]
    assert data.read(window).shape == (len(window.features), 3, SIZE, SIZE)
    assert any((tmp_path / "store").rglob("*"))
    with pytest.raises(VideoError):
        data.read(next(video for video in data.train if video.video == "c1"))
    assert set(data.undecodable()) == {"c1.mp4"}
    with pytest.raises(ValueError, match="frame_store needs video_root"):
        arguments(tmp_path, frame_store="store")


def test_missing_videos_are_listed_or_left_out_and_broken_ones_replaced_and_counted(damaged, tmp_path):
    with pytest.raises(DataError, match="2 videos are missing: d1, d2; correct --video_ending"):
        load_data(arguments(tmp_path, **damaged))
    args = arguments(tmp_path, bad_features="skip", **damaged)
    data, vision = load_data(args)
    assert [video.video for video in data.train] == ["a", "c1"]
    assert data.features == {"videos": {"policy": "skip", "missing": ["d1", "d2"]}}
    run = build(args, data, vision)
    batch = run.batches()(1, 0)  # of the second step: both places hold video a, with its own segments
    assert batch["features"].shape == (2, 32, 3, SIZE, SIZE)
    shown = [segments.shape[0] for segments in batch["segments"]]
    assert shown[0] == shown[1] and batch["features"].flatten(1).any(dim=1).all()
    metrics, results = score_test_set(run)
    assert results["c2"] == [] and set(results) == {"b", "c2"}
    assert metrics["n"] == 6  # of b, and of the videos without detections: c2 and d2
    assert set(data.undecodable()) == {"c1.mp4", "c2.mp4"}
    log = (tmp_path / "left_out.jsonl").read_text().splitlines()
    assert len(log) == 2  # once each, though asked for again


def test_nothing_that_can_be_decoded_ends_with_a_reason(damaged, tmp_path):
    args = arguments(tmp_path, bad_features="skip", **damaged)
    (Path(damaged["video_root"]) / "a.mp4").write_bytes(b"no video")
    data, vision = load_data(args)
    with pytest.raises(DataError, match="none of 2 training videos can be decoded; 2 videos left out"):
        build(args, data, vision).batches()(0, 0)
