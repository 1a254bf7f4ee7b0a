"""Released ActionFormer weights by two commands, against the official code's outputs (shared/data/golden/SOURCE.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.tal.actionformer import read_weights, saved_detector
from invert_rl.tal.actionformer_settings import read_settings
from invert_rl.tal.checkpoint import load_detector, read_about
from invert_rl.tal.external import read_video_scores, with_video_classes

GOLDEN = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "golden"
needs_golden = pytest.mark.skipif(
    not (GOLDEN / "actionformer_tiny.json").is_file(),
    reason="actionformer_tiny is not here: weights and detections of the official code",
)
CASES = [
    *[(model, setting) for model in ("full", "window9") for setting in ("thumos_i3d", "tight", "hard")],
    ("full", "agnostic_voting"),
    ("window9", "agnostic_voting"),
    ("class_agnostic", "anet_tsp"),
    ("class_agnostic", "anet_tsp_fused"),
]


@pytest.fixture(scope="module")
def golden() -> tuple[Any, Any]:
    return json.loads((GOLDEN / "actionformer_tiny.json").read_text()), load_file(
        GOLDEN / "actionformer_tiny.safetensors"
    )


def files(golden: tuple[Any, Any], name: str, setting: str, folder: Path) -> dict[str, Path]:
    """Checkpoint, settings, annotations, features and video scores as a user has them."""
    about, tensors = golden
    model = about["models"][name]
    config = json.loads(json.dumps(model["config"]))
    config["test_cfg"].update(model["test_settings"][setting.removesuffix("_fused")])
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    database = {video: about["videos"][video] for video in model["videos"]}
    ids = {label: index for index, label in enumerate(model["labels"])}
    for record in database.values():
        record["annotations"] = [{**entry, "label_id": ids[entry["label"]]} for entry in record["annotations"]]
    # every class occurs somewhere, as in the published file
    named = [{"segment": [0, 1], "label": label, "label_id": index} for label, index in ids.items()]
    others = {"other": {"subset": "training", "duration": 9.0, "fps": 30.0, "annotations": named}}
    (folder / "a.json").write_text(json.dumps({"database": {**database, **others}}))
    state = {
        f"module.{key.split('/', 2)[2]}": value
        for key, value in tensors.items()
        if key.startswith(f"{name}/state_dict/")
    }
    torch.save({"epoch": 1, "state_dict": {}, "state_dict_ema": state, "optimizer": {}}, folder / "w.pth.tar")
    (folder / "features").mkdir()
    prefix = config["dataset"]["file_prefix"] or ""
    for video in database:
        np.save(folder / "features" / f"{prefix}{video}.npy", tensors[f"features/{video}"].numpy())
    found = {"checkpoint": folder / "w.pth.tar", "config": folder / "c.yaml", "annotations": folder / "a.json"}
    if setting.endswith("_fused"):
        (folder / "s.json").write_text(json.dumps({"results": model["external_scores"], "class": model["labels"]}))
        found["scores"] = folder / "s.json"
    return found


def run_both(found: dict[str, Path], folder: Path, *more: str) -> dict[str, Any]:
    given = ["--config", str(found["config"]), "--annotations", str(found["annotations"])]
    assert main(["import-actionformer", str(found["checkpoint"]), *given, "--output", str(folder / "model")]) == 0
    arguments = ["--model", str(folder / "model"), "--annotations", str(found["annotations"]), "--cpu"]
    arguments += ["--features", str(folder / "features"), "--output", str(folder / "detections.json")]
    if "scores" in found:
        arguments += ["--external-scores", str(found["scores"])]
    assert main(["detect", *arguments, *more]) == 0
    return dict(json.loads((folder / "detections.json").read_text())["results"])


@needs_golden
@pytest.mark.parametrize(("name", "setting"), CASES)
def test_detections_of_the_official_code(name: str, setting: str, golden: Any, tmp_path: Path) -> None:
    """Label, score and segment as a multiset: equal up to 1e-5 in score and 1e-4 s."""
    about, tensors = golden
    found = run_both(files(golden, name, setting, tmp_path), tmp_path)
    labels = about["models"][name]["labels"]
    if setting == "anet_tsp":
        labels = ["action"]
    assert found.keys() == set(about["models"][name]["videos"])
    for video, entries in found.items():
        wanted = [
            tensors[f"{name}/{setting}/{video}/{part}"].double().tolist() for part in ("labels", "scores", "segments")
        ]
        rows = sorted([labels[int(label)], *segment, score] for label, score, segment in zip(*wanted, strict=True))
        ours = sorted([entry["label"], *entry["segment"], entry["score"]] for entry in entries)
        assert [row[0] for row in ours] == [row[0] for row in rows]
        distance = match(ours, rows)
        assert distance[0] < 1e-4, (video, distance)
        assert distance[1] < 1e-5, (video, distance)


def match(ours: list[list[Any]], rows: list[list[Any]]) -> tuple[float, float]:
    """Largest distance of borders and of scores when every detection is given the nearest of its class."""
    from scipy.optimize import linear_sum_assignment

    a, b = (np.array([row[1:] for row in part]) for part in (ours, rows))
    other = np.array([[first[0] != second[0] for second in rows] for first in ours])
    cost = np.abs(a[:, None] - b[None]).max(axis=-1) + 1e6 * other
    first, second = linear_sum_assignment(cost)
    gap = np.abs(a[first] - b[second])
    return float(gap[:, :2].max()), float(gap[:, 2].max())


@needs_golden
@pytest.mark.parametrize("name", ["full", "window9", "class_agnostic"])
def test_losses_and_gradients_of_the_official_code(name: str, golden: Any, tmp_path: Path) -> None:
    about, tensors = golden
    model = about["models"][name]
    found = files(golden, name, next(iter(model["test_settings"])), tmp_path)
    run_both(found, tmp_path)
    detector, saved = load_detector(tmp_path / "model")
    detector.train()
    for module in detector.modules():
        if hasattr(module, "probability"):
            module.probability = 0.0  # drop path leaves nothing out; its scale stays
    agnostic = bool(saved.video_classes)
    ids = {label: 0 if agnostic else index for index, label in enumerate(model["labels"])}
    for step in model["training"]:
        rows, segments, labels = [], [], []
        for key in step["batch"]:
            video = key.removesuffix("#no_actions")
            resized = f"{name}/resized_features/{video}"
            rows.append(tensors[resized].T if resized in tensors else tensors[f"features/{video}"])
            times, own = tensors[f"grid_segments/{video}"], about["videos"][video]["annotations"]
            empty = key.endswith("#no_actions")
            segments.append(times[:0] if empty else times)
            labels.append(torch.tensor([ids[entry["label"]] for entry in own][: len(segments[-1])], dtype=torch.long))
        padded = torch.zeros(len(rows), saved.window, rows[0].shape[1])
        mask = torch.zeros(len(rows), saved.window, dtype=torch.bool)
        for place, part in enumerate(rows):
            padded[place, : len(part)], mask[place, : len(part)] = part, True
        detector.zero_grad()
        losses = detector.losses(detector(padded, mask), segments, labels)
        losses.total.backward()
        assert losses.classification.item() == pytest.approx(step["cls_loss"], rel=1e-5)
        assert losses.regression.item() == pytest.approx(step["reg_loss"], rel=1e-5)
        assert losses.total.item() == pytest.approx(step["final_loss"], rel=1e-5)
        norms = torch.stack([value.grad.norm() for value in detector.parameters() if value.grad is not None])
        assert norms.norm().item() == pytest.approx(step["grad_norm"], rel=1e-4)


@needs_golden
def test_detect_goes_on_where_it_was_killed(golden: Any, tmp_path: Path, capsys: Any) -> None:
    found = files(golden, "full", "tight", tmp_path)
    whole = run_both(found, tmp_path)
    output = tmp_path / "detections.json"
    output.unlink()
    video = next(iter(whole))
    mark = [{"segment": [0.0, 1.0], "label": "Diving", "score": 0.5}]
    part = json.dumps({"video": video, "detections": mark})
    (tmp_path / "detections.json.part0").write_text(f'{part}\n{{"video": "val_0')  # the last line was cut off
    again = run_both(found, tmp_path)
    assert again == {**whole, video: mark}  # what was there was not made again
    assert not list(tmp_path.glob("*.part*"))
    arguments = ["detect", "--model", str(tmp_path / "model"), "--annotations", str(found["annotations"]), "--cpu"]
    arguments += ["--features", str(tmp_path / "features"), "--output", str(output), "--max-segments", "3"]
    assert main(arguments) == 1
    assert "begun with another max_segments" in capsys.readouterr().err


@needs_golden
def test_bad_features_of_detect(golden: Any, tmp_path: Path, capsys: Any) -> None:
    found = files(golden, "full", "tight", tmp_path)
    (tmp_path / "features" / "val_00.npy").unlink()
    np.save(tmp_path / "features" / "val_01.npy", np.zeros((50, 7), dtype=np.float32))
    given = ["--config", str(found["config"]), "--annotations", str(found["annotations"])]
    main(["import-actionformer", str(found["checkpoint"]), *given, "--output", str(tmp_path / "model")])
    arguments = ["detect", "--model", str(tmp_path / "model"), "--annotations", str(found["annotations"]), "--cpu"]
    arguments += ["--features", str(tmp_path / "features"), "--output", str(tmp_path / "d.json")]
    capsys.readouterr()
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert "val_00" in told and "val_01" in told and "expected 24 channels" in told
    assert main([*arguments, "--bad-features", "skip", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["features"]
    assert told["missing"] == ["val_00"] and list(told["odd"]) == ["val_01"]
    assert told["ground_truth_without_features"] == 16
    assert json.loads((tmp_path / "d.json").read_text())["results"].keys() == {"val_02", "val_03", "val_04"}


@needs_golden
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["model"].update(fpn_type="fpn"), "fpn_type is 'fpn'; only 'identity'"),
        (
            lambda config: config["model"].update(backbone_arch=[2, 2, 4]),
            "regression_range has 4 entries, but backbone_arch makes 5 levels",
        ),
        (lambda config: config["model"].update(head_num_layers=2), "has unknown"),
        (lambda config: config["model"].update(head_num_layers=4), "lacks"),
        (lambda config: config["dataset"].update(num_classes=4), "4 classes, but the annotations have 5"),
    ],
)
def test_settings_that_do_not_fit(change: Any, message: str, golden: Any, tmp_path: Path, capsys: Any) -> None:
    found = files(golden, "full", "tight", tmp_path)
    config = yaml.safe_load(found["config"].read_text())
    change(config)
    found["config"].write_text(yaml.safe_dump(config))
    given = ["--config", str(found["config"]), "--annotations", str(found["annotations"])]
    assert main(["import-actionformer", str(found["checkpoint"]), *given, "--output", str(tmp_path / "model")]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("dataset", "input_dim", [1024, 1024]),
        ("dataset", "max_seq_len", 2300),  # no whole chunks of a window of 9 at the last level
        ("dataset", "max_seq_len", None),
        ("dataset", "feat_stride", 0),
        ("dataset", "default_fps", "30"),
        ("dataset", "downsample_rate", 1.5),
        ("dataset", "force_upsampling", "yes"),
        ("model", "n_head", 0),
        ("model", "n_mha_win_size", [9, 9]),
        ("model", "n_mha_win_size", "9"),
        ("model", "backbone_arch", [2, 2]),
        ("model", "regression_range", [0, 4, 8, 16, 32, 64]),
        ("model", "regression_range", None),
        ("train_cfg", "center_sample", "circle"),
        ("train_cfg", "cls_prior_prob", 0),
        ("test_cfg", "nms_sigma", 0),
        ("test_cfg", "max_seg_num", -5),
        ("test_cfg", "pre_nms_topk", "many"),
        ("test_cfg", "iou_threshold", 2),
        ("test_cfg", "multiclass_nms", "no"),
        ("test_cfg", "voting_thresh", None),
        ("test_cfg", "min_score", float("nan")),
    ],
)
def test_settings_that_are_none(part: str, name: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    settings: dict[str, Any] = {"dataset": {}, "model": {"n_mha_win_size": 9}}
    file.write_text(yaml.safe_dump(settings))
    read_settings(file)  # as published for EPIC-KITCHENS, 2,304 rows
    settings.setdefault(part, {})[name] = value
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(DataError, match=rf"c.yaml: {part}.{name} "):
        read_settings(file)


@pytest.mark.parametrize("subsets", [[], 5, ["validation", None]])
def test_subsets_that_are_none(subsets: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"dataset": {}, "val_split": subsets}))
    with pytest.raises(DataError, match="val_split must be names of subsets"):
        read_settings(tmp_path / "c.yaml")


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"state_dict": {"a": Evil()}}, tmp_path / "w.pth.tar")
    with pytest.raises(DataError, match="cannot be read as a checkpoint of weights alone"):
        read_weights(tmp_path / "w.pth.tar")
    assert not (tmp_path / "touched").exists()


def test_the_released_thumos_settings(tmp_path: Path) -> None:
    """configs/thumos_i3d.yaml of the repository: what it says, and defaults for the rest."""
    (tmp_path / "c.yaml").write_text(
        "dataset_name: thumos\nval_split: ['test']\n"
        "dataset: {feat_stride: 4, num_frames: 16, input_dim: 2048, num_classes: 20, max_seq_len: 2304}\n"
        "model: {n_mha_win_size: 19}\ntrain_cfg: {init_loss_norm: 100}\n"
        "test_cfg: {voting_thresh: 0.7, pre_nms_topk: 2000, max_seg_num: 200, min_score: 0.001}\n"
    )
    labels = [{"label": f"class {index:02d}"} for index in range(20)]
    about = saved_detector(read_settings(tmp_path / "c.yaml"), {"a": {"annotations": labels}}, "c.yaml")
    assert (about.layout.stride, about.layout.clip, about.layout.fps, about.layout.width) == (4, 16, None, 2048)
    assert (about.window, about.resize, about.subset, len(about.classes)) == (2304, None, "test", 20)
    assert (about.config.pyramid.window, about.config.pyramid.levels, about.config.pyramid.width) == (19, 6, 512)
    assert about.config.suppression.max_segments == 200
    assert about.config.top_points == 2000


def test_external_scores(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"results": {"v": [0.25, 1.0, 0.0]}, "class": ["a", "b", "c"]}')
    scores, names = read_video_scores(tmp_path / "s.json", ("x",))
    detections = [{"segment": [0, 1], "score": 0.25}, {"segment": [2, 3], "score": 1.0}]
    found = with_video_classes(detections, scores["v"], names)
    assert [(entry["label"], entry["segment"], entry["score"]) for entry in found] == [
        ("b", [2, 3], 1.0),
        ("b", [0, 1], 0.5),
        ("a", [2, 3], 0.5),
        ("a", [0, 1], 0.25),
    ]
    with pytest.raises(DataError, match="expected 1 finite scores"):
        (tmp_path / "s.json").write_text('{"v": [0.25, 1.0]}')
        read_video_scores(tmp_path / "s.json", ("x",))


def test_a_folder_that_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no invert_rl.json; import-actionformer makes such a folder"):
        read_about(tmp_path)
    (tmp_path / "invert_rl.json").write_text('{"kind": "grpo"}')
    with pytest.raises(DataError, match="is not of a detector"):
        read_about(tmp_path)
