"""The page, by Gradio: a clip, a query, one or two checkpoints; a time line and the moment."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio

from data_prep.errors import DataError
from invert_rl.ask.answer import Answer
from invert_rl.ask.grounder import Grounder
from invert_rl.demo.view import time_line, told
from invert_rl.video.cut_file import cut_file
from rewards.errors import RewardError


def answer_all(models: Mapping[str, Grounder], video: str | None, query: str) -> tuple[str, str, str | None]:
    """Time line, text, and the file of the first answer's moment (None where nothing was found).

    Raises `gradio.Error`, which the page shows, for what cannot be asked.
    """
    if not video:
        raise gradio.Error("Choose a video first.")
    try:
        answers: list[tuple[str, Answer]] = [(name, model.ask(video, query)) for name, model in models.items()]
        first = next((answer for _, answer in answers if answer.windows), None)
        moment = None
        if first is not None:
            moment = str(Path(tempfile.mkdtemp(prefix="invert-rl-")) / "moment.mp4")
            cut_file(Path(video), *first.windows[0], Path(moment))
    except (DataError, RewardError) as error:
        raise gradio.Error(str(error)) from error
    return time_line(answers), told(answers), moment


def build_page(models: Mapping[str, Grounder], examples: Sequence[tuple[str, str]] = ()) -> Any:
    """The page for these models by name; ``examples`` are pairs of a video file and a query."""
    with gradio.Blocks(title="invert-rl") as page:
        gradio.Markdown(f"# When does it happen?\n{', '.join(models)}")
        with gradio.Row():
            video = gradio.Video(label="Video", sources=["upload"], elem_id="video")
            moment = gradio.Video(label="The moment", interactive=False, autoplay=True, elem_id="moment")
        query = gradio.Textbox(label="Query", placeholder="person opens the door", elem_id="query")
        ask = gradio.Button("Ask", variant="primary", elem_id="ask")
        line = gradio.HTML(elem_id="line")
        text = gradio.Markdown(elem_id="told")

        def run(clip: str | None, words: str) -> tuple[str, str, str | None]:
            return answer_all(models, clip, words)

        for event in (ask.click, query.submit):
            event(run, [video, query], [line, text, moment])
        if examples:
            gradio.Examples([list(example) for example in examples], [video, query])
    return page
