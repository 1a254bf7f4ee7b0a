"""The client of an OpenAI-compatible server, against a small one that looks at each request."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

from data_prep.errors import DataError
from invert_rl.ask.served import ServedGrounder
from invert_rl.described import describe_model
from invert_rl.tasks import load_preset


class Server(HTTPServer):
    """Answers every request with ``reply`` and keeps it."""

    reply: tuple[int, bytes] = (200, b"")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict, dict]] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, dict(self.headers), body))  # type: ignore[attr-defined]
        status, reply = self.server.reply  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def says(text: str) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@pytest.fixture
def described(tmp_path: Path) -> str:
    preset = load_preset("no_think", ["tvg"])
    frames = {"fps": 1.0, "min_pixels": 3136, "max_pixels": 6272, "image_patch_size": 14}
    describe_model(tmp_path, frames=frames, prompt=preset.description(), max_new_tokens=77)
    return str(tmp_path)


def test_it_asks_as_the_model_was_trained(server, described, world):
    clip = sorted((world / "videos").iterdir())[0]
    server.reply = says("<answer>1.50 to 4.00</answer>")
    url = f"http://127.0.0.1:{server.server_port}/"
    answer = ServedGrounder(url, "grounder", described, api_key="k").ask(clip, " a person jumps ")
    assert (answer.windows, answer.status, answer.model) == ([(1.5, 4.0)], "ok", "grounder")
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer k"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("grounder", 0.0, 77)
    video, text = body["messages"][-1]["content"]
    wanted = load_preset("no_think", ["tvg"]).tasks["tvg"].prompt
    assert text == {"type": "text", "text": wanted.replace("{query}", "a person jumps")}
    address = video["video_url"]["url"]
    assert address.startswith("data:video/jpeg;base64,")
    frames = [Image.open(io.BytesIO(base64.b64decode(part))) for part in address.partition(",")[2].split(",")]
    assert (len(frames), frames[0].size) == (12, (56, 56))  # 12 s at 1 frame a second, as in training


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((404, b"no such model"), r"refused \(404\): no such model"),
        ((200, b"<html>"), "no answer"),
        ((200, b'{"choices": []}'), "no answer"),
    ],
)
def test_a_server_that_does_not_answer_is_one_sentence(server, described, world, reply, reason):
    clip = sorted((world / "videos").iterdir())[0]
    server.reply = reply
    with pytest.raises(DataError, match=reason):
        ServedGrounder(f"http://127.0.0.1:{server.server_port}", "grounder", described).ask(clip, "a")


def test_addresses_and_dead_servers(described, world):
    clip = sorted((world / "videos").iterdir())[0]
    with pytest.raises(DataError, match="http://HOST:PORT"):
        ServedGrounder("file:///etc/passwd", "m", described)
    with pytest.raises(DataError, match="is the server running"):
        ServedGrounder("http://127.0.0.1:9", "m", described, timeout=5).ask(clip, "a")
