"""The report in headless Chromium: load, sort, filter, open, click a bar, keyboard, no error in the console."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow
import pytest
from fake_run import make_run
from pyarrow import parquet

from invert_rl.cli import main

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

ENDING = """
    out.too_wide = document.documentElement.scrollWidth - window.innerWidth;
  } catch (error) {
    errors.push(String(error.stack));
  }
  const result = document.createElement("pre");
  result.id = "visit";
  result.textContent = JSON.stringify(out);
  document.body.append(result);
});
</script>
"""


VISIT = """
<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
window.addEventListener("securitypolicyviolation", (event) => errors.push("blocked " + event.blockedURI));
window.addEventListener("load", async () => {
  const out = { errors };
  const $ = (selector) => document.querySelector(selector);
  const heads = () => [...document.querySelectorAll(".head")];
  const choose = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change")); };
  const until = async (test) => {
    for (let i = 0; i < 100 && !test(); i += 1) await new Promise((r) => setTimeout(r, 50));
  };
  const numbers = () => heads().map((head) => head.querySelector(".numbers").textContent);
  try {
    out.count = $("#count").textContent;
    out.shown = heads().length;
    $("#more").click();
    out.shown_more = heads().length;
    choose("#task", "tvg");
    out.tvg = heads().length;
    for (const order of ["up", "down", "low", "high", "order"]) { choose("#sort", order); out[order] = numbers(); }
    choose("#status", "unparsable");
    out.unparsable = $("#count").textContent;
    choose("#status", "");
    $("#query").value = "zzz";
    $("#query").dispatchEvent(new Event("input"));
    out.none = $("#count").textContent;
    $("#query").value = "";
    $("#query").dispatchEvent(new Event("input"));
    $("[data-verb]").click();
    out.verb = [$("[data-verb]").dataset.verb, $("#verb").value, $("#count").textContent];
    choose("#verb", "");
    choose("#sort", "high");
    heads()[0].focus();
    heads()[0].click();
    out.expanded = heads()[0].getAttribute("aria-expanded");
    out.thought = $(".body .thought").textContent;
    out.parts = $(".body .parts").textContent;
    const bar = $(".track button.truth");
    out.bar = bar.getAttribute("aria-label");
    const picture = $("video");
    if (picture) {
      await until(() => picture.readyState >= 2);
      picture.play = () => Promise.resolve();
      bar.click();
      await until(() => !picture.seeking);
      out.time = picture.currentTime;
      out.cursor = [$(".now").hidden, $(".now").style.left];
    } else {
      bar.click();
      out.frame = document.querySelectorAll(".strip .on").length;
    }
    heads()[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
    out.focus = heads().indexOf(document.activeElement);
    heads()[0].click();
    out.closed = document.querySelectorAll(".body").length;
"""


def visit(page: Path, width: int, script: str = VISIT, fragment: str = "") -> tuple[dict, str]:
    """Open a copy of the page that acts on itself; what it found, and what the browser wrote to its console."""
    copy = page.with_name(f"visit-{width}.html")
    copy.write_text(page.read_text().replace("</head>", script + ENDING + "</head>"))
    done = subprocess.run(
        [
            str(CHROMIUM),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},900",
            "--virtual-time-budget=20000",
            "--dump-dom",
            copy.as_uri() + fragment,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r'<pre id="visit">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), "\n".join(x for x in done.stderr.splitlines() if "CONSOLE" in x)


@pytest.fixture(scope="module")
def run_dir(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), world / "train.jsonl", world / "videos")


def first_number(text: str) -> int:
    return int(re.match(r"\d+", text)[0])  # type: ignore[index]


def after(numbers: list[str]) -> list[int]:
    return [int(re.findall(r"→ (\d+)", text)[0]) for text in numbers if "→" in text]


def changes(numbers: list[str]) -> list[int]:
    return [int(text.split()[-1].replace("−", "-").replace("±", "")) for text in numbers if "→" in text]


@pytest.mark.parametrize(("media", "width"), [("clips", 1200), ("frames", 500)])
def test_a_visit(run_dir: Path, tmp_path: Path, world: Path, media: str, width: int) -> None:
    assert main(["report", str(run_dir), "--output", str(tmp_path / "r.html"), "--media", media]) == 0
    found, console = visit(tmp_path / "r.html", width)
    assert found["errors"] == [] and console == ""
    rows = sum(1 for _ in (world / "train.jsonl").open())
    assert found["count"] == f"{4 * rows} of {4 * rows} samples"
    assert (found["shown"], found["shown_more"]) == (min(40, 4 * rows), min(80, 4 * rows))
    assert found["tvg"] == min(40, rows)
    assert changes(found["up"]) == sorted(changes(found["up"]), reverse=True)
    assert changes(found["down"]) == sorted(changes(found["down"]))
    assert after(found["low"]) == sorted(after(found["low"]))
    assert after(found["high"]) == sorted(after(found["high"]), reverse=True)
    assert sorted(found["order"]) == sorted(found["high"])
    assert 0 < first_number(found["unparsable"]) < rows and first_number(found["none"]) == 0
    assert found["verb"][0] == found["verb"][1] and 0 < first_number(found["verb"][2]) < rows
    assert found["expanded"] == "true" and found["thought"] and "IoU" in found["parts"]
    start = float(re.search(r"Truth: ([\d.]+) s to", found["bar"])[1])  # type: ignore[index]
    if media == "clips":
        assert found["time"] == pytest.approx(start, abs=0.05)
        assert found["cursor"][0] is False and found["cursor"][1].endswith("%")
    else:
        assert found["frame"] == 1
    assert (found["focus"], found["closed"]) == (1, 0)
    assert found["too_wide"] <= 0


COMPARE = """
<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
window.addEventListener("load", async () => {
  const out = { errors };
  const $ = (selector) => document.querySelector(selector);
  const heads = () => [...document.querySelectorAll(".head")];
  const choose = (id, value, kind) => { $(id).value = value; $(id).dispatchEvent(new Event(kind || "change")); };
  const numbers = () => heads().map((head) => head.querySelector(".numbers").textContent);
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const place = () => heads().indexOf(document.activeElement);
  const pause = () => new Promise((r) => setTimeout(r, 100));
  try {
    await pause();
    const opened = $('.head[aria-expanded="true"]').closest("li");
    out.opened = [opened.dataset.task, opened.dataset.id, document.activeElement === opened.querySelector(".head")];
    out.lanes = [...opened.querySelectorAll(".lane > span")].map((span) => span.textContent);
    out.address = opened.querySelector(".address").getAttribute("href");
    out.answers = opened.querySelectorAll(".answers > div").length;
    press("Escape");
    out.closed = document.querySelectorAll(".body").length;
    choose("#task", "tvg");
    choose("#change", "up");
    out.up = numbers();
    choose("#versus", "RUN_B|after");
    out.up_against_b = numbers();
    choose("#change", "");
    choose("#lowest", "20", "input");
    choose("#highest", "90", "input");
    out.range = numbers();
    choose("#lowest", "", "input");
    choose("#highest", "", "input");
    heads()[0].focus();
    out.places = [];
    for (const key of ["ArrowDown", "j", "k", "ArrowUp", "ArrowUp", "End", "Home"]) {
      press(key);
      out.places.push(place());
    }
    out.total = heads().length;
    window.location.hash = "#sample=vd/LAST";
    await pause();
    out.second = document.activeElement.closest("li").dataset.id;
    window.location.hash = "#sample=vd/nobody";
    await pause();
    out.nobody = $("#count").textContent;
    out.details = [...document.querySelectorAll("#completions details summary")].map((node) => node.textContent);
"""


@pytest.mark.parametrize("width", [1200, 500])
def test_two_runs_side_by_side(run_dir: Path, tmp_path: Path, world: Path, width: int) -> None:
    other = make_run(tmp_path / "run_b", world / "train.jsonl", world / "videos", seed=3)
    (run_dir / "completions").mkdir(exist_ok=True)
    table = {"step": [4, 4], "prompt": ["When?", "When?"], "completion": ["a", "b"], "iou": [0.5, None]}
    parquet.write_table(pyarrow.table(table), run_dir / "completions" / "completions_00004.parquet")
    page = tmp_path / "r.html"
    assert main(["report", str(run_dir), str(other), "--output", str(page), "--media", "none"]) == 0
    text = page.read_text()
    for wanted in ("against it", "Reward by run", "Settings in which the runs differ: 1", "Training completions"):
        assert wanted in text
    rows = [json.loads(line) for line in (world / "train.jsonl").open()]
    script = COMPARE.replace("RUN_B", "run_b").replace("LAST", rows[-1]["id"])
    found, console = visit(page, width, script, f"#sample=tvg/{rows[2]['id']}")
    assert found["errors"] == [] and console == ""
    assert found["opened"] == ["tvg", rows[2]["id"], True]
    assert found["address"] == f"#sample=tvg/{rows[2]['id']}"
    assert {"Truth", "Before", "After", "run_b"} <= set(found["lanes"])
    assert (found["answers"], found["closed"]) == (3, 0)
    assert found["up"] and all(change > 0 for change in changes(found["up"]))
    assert found["up_against_b"] != found["up"] and all(change >= 0 for change in changes(found["up_against_b"]))
    assert all(20 <= value <= 90 for value in after(found["range"]))
    assert 0 < len(found["range"]) < len(rows)
    last = found["total"] - 1
    assert found["places"] == [1, 2, 1, 0, 0, last, 0]
    assert found["second"] == rows[-1]["id"]
    assert found["nobody"] == "this report has no sample nobody of vd"
    assert found["details"] == ["Step 4: 2 of 2 completions, mean reward 0.25"]
    assert found["too_wide"] <= 0
