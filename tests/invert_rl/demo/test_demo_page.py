"""The demo's time line, and its page in headless Chromium with two models beside each other."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from invert_rl.ask.answer import Answer
from invert_rl.demo.view import time_line, told

CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)


def answer(query: str, windows: list, status: str = "ok", video: str = "v.mp4") -> Answer:
    return Answer(query, "tvg", windows, "text", "said <b>", "thought", status, "m", video, 12.0)


def test_a_lane_for_each_model_and_a_bar_for_each_span():
    line = time_line([("one <x>", answer("q", [(3.0, 6.0), (9.0, 12.0)])), ("two", answer("q", [], "nothing"))])
    assert line.count('class="bar"') == 2 and line.count('class="lane"') == 2
    assert "one &lt;x&gt;" in line and "<x>" not in line
    first = re.search(r'class="bar" x="([\d.]+)" y="\d+" width="([\d.]+)"', line)
    assert [float(value) for value in first.groups()] == [130 + 580 / 4, 580 / 4]  # type: ignore[union-attr]
    assert "the video does not show it" in line
    assert "0:12.0" in line
    assert told([("one", answer("q", [(3.0, 6.0)]))]) == "**one**: 3.00 to 6.00 s (0:03.0 to 0:06.0)\n\n> thought"


VISIT = """
<script>
(async () => {
  const out = {};
  const until = async (test) => {
    for (let i = 0; i < 300 && !test(); i += 1) await new Promise((r) => setTimeout(r, 100));
    return test();
  };
  const $ = (selector) => document.querySelector(selector);
  try {
    const row = await until(() => $(".gallery-item, table tbody tr.tr-body, table tbody tr"));
    out.example = Boolean(row);
    row.click();
    await until(() => $("#video video"));
    out.query = (await until(() => $("#query textarea") && $("#query textarea").value));
    ($("#ask").tagName === "BUTTON" ? $("#ask") : $("#ask button")).click();
    out.bars = (await until(() => document.querySelectorAll("#line .bar").length)) || 0;
    out.label = $("#line svg").getAttribute("aria-label");
    out.told = $("#told").textContent;
    out.moment = Boolean(await until(() => $("#moment video")));
  } catch (error) {
    out.error = String(error.stack);
  }
  const result = document.createElement("pre");
  result.id = "visit";
  result.textContent = JSON.stringify(out);
  document.body.append(result);
})();
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page(world: Path, tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio", reason="the extra demo is not installed")
    from invert_rl.demo.page import build_page

    class Model:
        def __init__(self, *windows: tuple[float, float]) -> None:
            self.windows = list(windows)

        def ask(self, video: str, query: str) -> Answer:
            return answer(query, self.windows, "ok" if self.windows else "nothing", video)

    clip = sorted((world / "videos").iterdir())[0]
    page = build_page({"start": Model((1.0, 3.0)), "after": Model((2.0, 5.0))}, [(str(clip), "a person jumps")])
    more = {"head": VISIT} if int(gradio.__version__.split(".")[0]) >= 6 else {}
    if not more:
        page.head = VISIT
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, allowed_paths=[str(clip.parent)], **more)
    try:
        done = subprocess.run(
            [
                *(str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1000"),
                *(f"--user-data-dir={tmp_path / 'profile'}", "--timeout=120000", "--virtual-time-budget=90000"),
                *("--dump-dom", url),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        page.close()
    found = re.search(r'<pre id="visit">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    out = json.loads(html.unescape(found[1]))
    assert "error" not in out, out
    assert (out["example"], out["query"], out["bars"], out["moment"]) == (True, "a person jumps", 2, True)
    assert "start: 1.00 to 3.00 s" in out["told"] and "after: 2.00 to 5.00 s" in out["label"]
