"""The report in headless Chromium: load, sort, filter, open, click a bar, keyboard, no error in the console."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_run import make_run

from invert_rl.cli import main

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

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


def visit(page: Path, width: int) -> tuple[dict, str]:
    """Open a copy of the page that acts on itself; what it found, and what the browser wrote to its console."""
    copy = page.with_name(f"visit-{width}.html")
    copy.write_text(page.read_text().replace("</head>", VISIT + "</head>"))
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
            copy.as_uri(),
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
