"""The report of an invented run: self-contained, complete, honest about what is missing."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import av
import pytest
from fake_run import make_run
from PIL import Image

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.report.media import media_of
from invert_rl.report.page import as_json
from invert_rl.report.run_data import read_run


@pytest.fixture(scope="module")
def run_dir(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), world / "train.jsonl", world / "videos")


class Page(HTMLParser):
    """Elements and data scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id") or "code"

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def report(run_dir: Path, output: Path, *arguments: str) -> Page:
    assert main(["report", str(run_dir), "--output", str(output), *arguments]) == 0
    return Page(output.read_text(encoding="utf-8"))


def test_page_holds_everything_and_needs_nothing(run_dir: Path, tmp_path: Path, world: Path) -> None:
    page = report(run_dir, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text) and "http://" not in text and "https://" not in text
    assert str(world) not in re.sub(r"<dd>.*?</dd>", "", text)  # the settings tell the paths, nothing else does
    samples = json.loads(page.scripts["data"])
    rows = sum(1 for _ in (world / "train.jsonl").open())
    assert len(samples) == 4 * rows
    clips = {sample["video"]: sample["media"] for sample in samples}
    assert {medium["kind"] for medium in clips.values()} == {"clip"}
    for name, medium in clips.items():
        (data,) = json.loads(page.scripts[f"media-{medium['index']}"])
        assert base64.b64decode(data) == (world / "videos" / name).read_bytes()
    assert "I cannot </script> tell & so on" in {s["after"]["thought"] for s in samples if s["after"]}
    assert text.count("<figure") >= 10
    for heading in ("Before and after", "Curves", "Similar verbs", "Samples", "Videos left out of training"):
        assert heading in text
    labels = {attributes["id"] for tag, attributes in page.tags if tag in ("select", "input")}
    assert labels == {"sort", "task", "verb", "status", "change", "lowest", "highest", "query"}


def test_frames_and_nothing(run_dir: Path, tmp_path: Path) -> None:
    frames = report(run_dir, tmp_path / "f.html", "--media", "frames")
    sample = json.loads(frames.scripts["data"])[0]
    pictures = json.loads(frames.scripts[f"media-{sample['media']['index']}"])
    assert len(pictures) == len(sample["media"]["times"]) >= 4
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).format == "JPEG"
    nothing = report(run_dir, tmp_path / "n.html", "--media", "none")
    assert not [name for name in nothing.scripts if name.startswith("media-")]


def test_limit_falls_back_to_frames_and_then_to_nothing(world: Path) -> None:
    names = sorted(path.name for path in (world / "videos").iterdir())
    clips = media_of(names, world / "videos", "clips", 10**9)
    frames = media_of(names, world / "videos", "frames", 10**9)
    size = {name: sum(map(len, clips[name].data)) for name in names}
    least = min(sum(map(len, frames[name].data)) for name in names)
    room = size[names[0]] + sum(map(len, frames[names[1]].data))
    assert room < size[names[0]] + size[names[1]]
    kinds = [medium.kind for medium in media_of(names, world / "videos", "clips", room).values()]
    assert kinds[:2] == ["clip", "frames"]
    total = sum(sum(map(len, medium.data)) for medium in media_of(names, world / "videos", "clips", room).values())
    assert total <= room
    assert {medium.kind for medium in media_of(names, world / "videos", "clips", least - 1).values()} == {"none"}


def test_large_clips_are_encoded_small_with_their_times(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = sorted(path.name for path in (world / "videos").iterdir())[0]
    monkeypatch.setattr("invert_rl.report.media.AS_IT_IS", 0)
    (data,) = media_of([name], world / "videos", "clips", 10**9)[name].data
    with av.open(str(world / "videos" / name)) as original:
        duration = original.duration / 1e6
    with av.open(io.BytesIO(base64.b64decode(data))) as clip:
        stream = clip.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        times = [frame.time for frame in clip.decode(stream)]
    assert times[0] == 0 and times == sorted(times)
    assert times[-1] == pytest.approx(duration, abs=0.5) and len(times) == pytest.approx(6 * duration, abs=2)


def test_broken_video_says_why(world: Path, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"no video at all")
    medium = media_of(["v.mp4", "gone.mp4"], tmp_path, "clips", 10**9)
    assert medium["v.mp4"].kind == "none" and "v.mp4" in medium["v.mp4"].reason
    assert "no such file" in medium["gone.mp4"].reason


def test_json_cannot_end_its_script() -> None:
    value = {"a": "</script><script>alert(1)</script><!--\u2028"}
    assert "<" not in as_json(value)
    assert json.loads(as_json(value)) == value


def copy_of(run_dir: Path, target: Path, *names: str) -> Path:
    target.mkdir(exist_ok=True)
    for name in names:
        (target / name).write_bytes((run_dir / name).read_bytes())
    return target


def test_run_that_was_stopped(run_dir: Path, world: Path, tmp_path: Path) -> None:
    folder = copy_of(run_dir, tmp_path / "stopped", "log.jsonl", "samples_before.jsonl")
    lines = (folder / "log.jsonl").read_text().splitlines()[:5]
    (folder / "log.jsonl").write_text("\n".join([*lines, '{"step": 3, "reward": 99}', '{"step": 6, "rew']))
    with pytest.raises(DataError, match="does not say where the rows of the samples are; give --data"):
        read_run(folder)
    run = read_run(folder, world / "train.jsonl", world / "videos")
    assert [record["step"] for record in run.log] == [1, 2, 3, 4, 5] and run.log[2] == {"step": 3, "reward": 99}
    assert len(run.notes) == 3
    page = report(folder, tmp_path / "r.html", "--data", str(world / "train.jsonl"), "--videos", str(world / "videos"))
    assert all(sample["after"] is None for sample in json.loads(page.scripts["data"]))
    assert "the run has not ended" in (tmp_path / "r.html").read_text()


def test_run_without_samples_has_its_curves(run_dir: Path, tmp_path: Path) -> None:
    folder = copy_of(run_dir, tmp_path / "curves", "log.jsonl")
    page = report(folder, tmp_path / "r.html")
    assert json.loads(page.scripts["data"]) == [] and "code" not in page.scripts
    assert (tmp_path / "r.html").read_text().count("<figure") >= 8


def test_a_supervised_run_has_its_curves_and_metrics_in_percent(tmp_path: Path) -> None:
    folder = tmp_path / "detector"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    (folder / "summary.json").write_text('{"before": {"average_mAP": 0.0123}, "after": {"average_mAP": 0.809}}')
    (folder / "samples_after.jsonl").write_text('{"id": "a", "task": "mqa", "choice": 1}\n')
    report(folder, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "<td>1.2</td><td>80.9</td>" in text
    assert "those of this run are of another kind" in text
    assert "<figure" in text


def test_controls_stand_beside_the_metrics_and_blind_ceilings_in_the_curves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1, "eval/mIoU": 50.0}\n{"step": 2, "eval/mIoU": 55.0}\n')
    controls = {"blind": {"mIoU": 23.4}, "grey_after": {"mIoU": 21.2}}
    summary = {"before": {"mIoU": 50.0, "VC": 70.0}, "after": {"mIoU": 55.0, "VC": 71.0}, "controls": controls}
    (folder / "summary.json").write_text(json.dumps(summary))
    report(folder, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert '<th scope="col">blind</th><th scope="col">grey after</th>' in text
    assert "<td>23.4</td><td>21.2</td></tr>" in text and "<td>–</td><td>–</td></tr>" in text
    assert "mIoU, blind from 23.4 to 23.4" in text and "mIoU, grey after from 21.2 to 21.2" in text
    shutil.copytree(folder, tmp_path / "other")
    assert main(["report", str(folder), str(tmp_path / "other"), "--output", str(tmp_path / "both.html")]) == 0
    beside = (tmp_path / "both.html").read_text().split("mIoU in validation, by run: ")[1].split('"')[0]
    levels = "mIoU, blind from 23.4 to 23.4; mIoU, grey after from 21.2 to 21.2"
    assert beside == f"run from 50 to 55; other from 50 to 55; {levels}"
    (folder / "summary.json").write_text(json.dumps({**summary, "controls": None}))
    report(folder, tmp_path / "r.html")
    assert "blind" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither log.jsonl nor samples_before.jsonl"),
        ({"log.jsonl": "{}\n"}, r"log\.jsonl:1: expected an object with 'step'"),
        ({"log.jsonl": '{"step"\n{"step": 1}\n'}, r"log\.jsonl:1: not valid JSON"),
        ({"summary.json": "{"}, r"summary\.json:1: not valid JSON"),
    ],
)
def test_what_is_no_run(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_run(tmp_path)


def test_samples_of_other_data_are_refused(run_dir: Path, world: Path) -> None:
    with pytest.raises(DataError, match="predictions have an unknown id"):
        read_run(run_dir, world / "test.jsonl", world / "videos")
    with pytest.raises(DataError, match="no such file or folder, needed as the video folder"):
        read_run(run_dir, None, world / "nothing")
