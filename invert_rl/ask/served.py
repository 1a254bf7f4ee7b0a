"""A client of an OpenAI-compatible server, such as ``vllm serve``, that asks as a model was trained (docs/serve.md)."""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.decode import list_frames
from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.ask.answer import Answer
from invert_rl.ask.reading import answer_of, check_query
from invert_rl.described import description_of
from invert_rl.tasks import DEFAULT_TASK, load_preset, messages, video_of
from invert_rl.tasks.options import complete_task_arguments
from invert_rl.video.clip import Clip
from invert_rl.video.options import FRAME_FIELDS, frame_options
from invert_rl.video.settings import FrameSettings
from invert_rl.video.store import FrameStore

QUALITY = 95
"""Of the JPEG frames that are sent."""
LONGEST_ANSWER = 1024
MOST_BYTES = 1 << 24
"""Of an answer of the server; more is damage."""


class ServedGrounder:
    """Asks a server about videos; the answers are those of `invert_rl.Grounder`, but for what docs/serve.md says.

    Args:
        url: of the server, without ``/v1``.
        model: the name under which it serves the model.
        described_by: folder or hub name whose ``invert_rl.json`` says how the model was trained.
        image_patch_size: side of the vision tower's patch, pixels; None: what the description says, or 14.
        api_key: sent as a bearer token if there is one.
        timeout: seconds for an answer.
    """

    def __init__(
        self,
        url: str,
        model: str,
        described_by: str,
        image_patch_size: int | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise DataError(f"{url}: give the server's address as http://HOST:PORT")
        self.url, self.model, self.api_key, self.timeout = url.rstrip("/"), model, api_key, timeout
        described = description_of(described_by)
        args = argparse.Namespace(
            model=described_by, revision=None, prompt=None, windows=None, **dict.fromkeys(FRAME_FIELDS)
        )
        complete_task_arguments(args)
        self.preset = load_preset(args.prompt, (), args.windows)
        patch = image_patch_size or described.get("frames", {}).get("image_patch_size", 14)
        self.settings = FrameSettings(**frame_options(args), image_patch_size=patch)
        self.max_new_tokens = described.get("max_new_tokens", LONGEST_ANSWER)

    def ask(self, video: str | os.PathLike[str], query: str) -> Answer:
        """The server's answer to a query about a video file.

        Raises `VideoError` for a file that cannot be decoded, `DataError` for a server that does not answer.
        """
        path = Path(video)
        task = self.preset.tasks[DEFAULT_TASK]
        duration = list_frames(path, name=str(path)).duration
        row = Row(id="0", video=path.name, duration=duration, query=check_query(query, task), windows=())
        chat = messages(task, row)
        clip = FrameStore(path.parent, self.settings).clip(video_of(chat))
        text = self._completion(request_of(chat, clip, self.model, self.max_new_tokens))
        return answer_of(task, query, text, row, self.model, str(path))

    def _completion(self, request: dict[str, Any]) -> str:
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        address = f"{self.url}/v1/chat/completions"
        asked = urllib.request.Request(address, json.dumps(request).encode(), headers)
        try:
            with urllib.request.urlopen(asked, timeout=self.timeout) as response:
                content = json.loads(response.read(MOST_BYTES))
            return str(content["choices"][0]["message"]["content"] or "")
        except urllib.error.HTTPError as error:
            told = error.read(500).decode("utf-8", "replace")
            raise DataError(f"{address}: the server refused ({error.code}): {told}") from error
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"{address}: no answer ({type(error).__name__}: {error}); is the server running?"
            ) from error


def request_of(chat: list[dict[str, Any]], clip: Clip, model: str, max_new_tokens: int) -> dict[str, Any]:
    """The body of a request: the chat with its video as base64 JPEG frames, decoded greedily."""
    frames = ",".join(_jpeg(frame) for frame in clip.frames)
    video = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
    told = [
        {
            "role": message["role"],
            "content": [video if part["type"] == "video" else part for part in message["content"]],
        }
        for message in chat
    ]
    return {"model": model, "messages": told, "temperature": 0.0, "max_tokens": max_new_tokens}


def _jpeg(frame: Any) -> str:
    """A frame (3, H, W) uint8 as base64."""
    target = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(target, format="JPEG", quality=QUALITY)
    return base64.b64encode(target.getvalue()).decode("ascii")
