"""A vLLM server that hangs, lies, forgets, wants a token, serves another model or is started again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from invert_rl.grpo.vllm_answers import read_completions
from invert_rl.grpo.vllm_rollout import generate_with_vllm
from invert_rl.grpo.vllm_server import TOKEN, ServerError, ServerLostError, VideoClient
from tests.invert_rl.grpo.test_scoring import encode
from tests.invert_rl.grpo.test_vllm_rollout import AGREE, differences
from tests.invert_rl.grpo.test_vllm_server import (  # noqa: F401 - fixtures
    PUSH,
    Routes,
    make_served_trainer,
    serve,
    without_vllm,
)

SAMPLING = {"n": 2, "max_tokens": 3, "logit_bias": {"7": -100.0}}


def choice(index: int = 0, ids: Any = (1, 2), logprobs: Any = (-0.5, 0.0)) -> dict[str, Any]:
    content = [{"logprob": value} for value in logprobs] if isinstance(logprobs, tuple) else logprobs
    return {"index": index, "token_ids": list(ids) if isinstance(ids, tuple) else ids, "logprobs": {"content": content}}


def test_a_sound_answer_is_read_in_the_order_of_its_index():
    answer = {"choices": [choice(1, (3, 4, 5), (-1.0, -2.0, -3.0)), choice(0)]}
    assert read_completions(answer, SAMPLING, 10) == [([1, 2], [-0.5, 0.0]), ([3, 4, 5], [-1.0, -2.0, -3.0])]


LIES = {
    "no object": ([], "no completions"),
    "no list": ({"choices": None}, "no completions"),
    "too few": ({"choices": [choice(0)]}, "1 of 2"),
    "one twice": ({"choices": [choice(0), choice(0)]}, "2 of 2"),
    "nothing said": ([choice(ids=(), logprobs=())], "0 tokens, not 1 to 3"),
    "said too much": ([choice(ids=(1,) * 4, logprobs=(-1.0,) * 4)], "4 tokens, not 1 to 3"),
    "beyond the vocabulary": ([choice(ids=(1, 10))], "token 10"),
    "below it": ([choice(ids=(1, -1))], "token -1"),
    "banned": ([choice(ids=(1, 7))], "token 7, which is banned"),
    "text for a token": ([choice(ids=(1, "2"))], "token '2'"),
    "a truth value for a token": ([choice(ids=(1, True))], "token True"),
    "one number short": ([choice(logprobs=(-0.5,))], "2 tokens with 1 log-prob"),
    "no numbers": ([choice(logprobs=None)], "2 tokens with 0 log-prob"),
    "NaN": ([choice(logprobs=(-0.5, float("nan")))], "log-probability of nan"),
    "infinity": ([choice(logprobs=(-0.5, float("-inf")))], "log-probability of -inf"),
    "above 0": ([choice(logprobs=(-0.5, 0.5))], "log-probability of 0.5"),
    "null": ([choice(logprobs=(-0.5, None))], "log-probability of None"),
}


@pytest.mark.parametrize("case", LIES)
def test_what_cannot_be_an_answer_is_refused(case):
    answer, message = LIES[case]
    if isinstance(answer, list) and answer:
        answer = {"choices": [*answer, choice(1)]}
    with pytest.raises(ValueError, match=message):
        read_completions(answer, SAMPLING, 10)


def test_a_lie_stops_training_with_the_video_and_what_to_do(make_served_trainer, tiny_qwen2_5, monkeypatch):  # noqa: F811
    trainer, server = make_served_trainer(tiny_qwen2_5)
    generate = server.generate

    def lie(body: dict[str, Any]) -> list[dict[str, Any]]:
        choices = generate(body)
        choices[0]["logprobs"]["content"][-1]["logprob"] = float("nan")
        return choices

    monkeypatch.setattr(server, "generate", lie)
    with pytest.raises(ServerError, match=r"\.mp4: http.* a log-probability of nan; use vLLM"):
        trainer.train()


class Slow(BaseHTTPRequestHandler):
    """Answers health and model; of a rollout it sends the head, or a byte now and then, and no end."""

    server: Any

    def log_message(self, *args: Any) -> None:
        """Tests are quiet."""

    def whole(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.server.hangs == "always":
            self.server.over.wait()
        self.whole({"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.hangs == "silent":
            self.server.over.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.over.wait(0.05):
            try:
                self.wfile.write(b" ")
            except OSError:
                return


@pytest.fixture
def slow() -> Iterator[Any]:
    servers: list[Any] = []

    def start(hangs: str) -> str:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
        server.hangs, server.over, server.daemon_threads = hangs, threading.Event(), True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("hangs", ["silent", "drips"])
def test_a_server_that_hangs_is_given_up(slow, hangs):
    client = VideoClient(base_url=slow(hangs), dtype=torch.float32, connection_timeout=1.0)
    began = time.monotonic()
    with pytest.raises(ServerError, match="no answer within 1 s.*--vllm_server_timeout"):
        client._call("collective_rpc", {})
    assert time.monotonic() - began < 10


def test_a_server_that_hangs_from_the_start_is_given_up(slow):
    began = time.monotonic()
    with pytest.raises(ServerLostError, match="no vLLM server after 1 s.*start it with: .*vllm serve"):
        VideoClient(base_url=slow("always"), dtype=torch.float32, connection_timeout=1.0)
    assert time.monotonic() - began < 20


def test_no_server_and_what_is_none_are_one_sentence(slow):
    with pytest.raises(ServerLostError, match="no vLLM server after 0.2 s"):
        VideoClient(base_url="http://127.0.0.1:9", dtype=torch.float32, connection_timeout=0.2)
    client = VideoClient(base_url=slow("never"), dtype=torch.float32, connection_timeout=1.0)
    client.base_url = "http://127.0.0.1:9"
    with pytest.raises(ServerLostError, match="127.0.0.1:9/collective_rpc: the server is gone"):
        client._call("collective_rpc", {})


def test_the_token_of_the_environment_is_sent(serve, tiny_qwen2_5, monkeypatch):  # noqa: F811
    seen: list[str | None] = []
    real = Routes.do_GET

    def guarded(self: Routes) -> None:
        seen.append(self.headers.get("Authorization"))
        if self.path.startswith("/v1") and seen[-1] != "Bearer secret":
            self.answer({"error": "Unauthorized"}, 401)
        else:
            real(self)

    monkeypatch.setattr(Routes, "do_GET", guarded)
    url = serve(tiny_qwen2_5).url
    with pytest.raises(ServerError, match=f"answered 401.*environment variable {TOKEN}"):
        VideoClient(base_url=url, dtype=torch.float32)
    monkeypatch.setenv(TOKEN, "secret")
    assert VideoClient(base_url=url, dtype=torch.float32).model == tiny_qwen2_5


def test_another_model_is_refused_by_its_content(serve, tiny_qwen2_5, tiny_qwen3):  # noqa: F811
    from invert_rl.models import load_model

    server = serve(tiny_qwen3)
    client = VideoClient(base_url=server.url, dtype=torch.float32, config=load_model(tiny_qwen2_5).config)
    with pytest.raises(ServerError, match="another model than the trainer's: .*qwen3_vl_text .not qwen2_5_vl_text"):
        client.init_communicator("cpu")


@pytest.mark.parametrize("kind", ["gone in the middle", "back before anybody asked"])
def test_a_server_that_was_started_again_gets_the_weights_again(
    make_served_trainer,  # noqa: F811
    tiny_qwen2_5,
    monkeypatch,
    kind,
):
    """Its answers would else be those of the start model: the differences of log-probabilities would grow."""
    trainer, server = make_served_trainer(tiny_qwen2_5, max_steps=3, learning_rate=3e-2, freeze_vision=True)
    start = {name: value.clone() for name, value in server.engine.model.state_dict().items()}
    generate, asked, reloads = server.generate, [], []
    born = [1.0]
    monkeypatch.setattr(VideoClient, "started", lambda self: born[0])
    reload = server.reload
    monkeypatch.setattr(server, "reload", lambda folder: (reloads.append(folder), reload(folder)))

    def once(body: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append(body)
        if len(asked) == 2:  # in the second step
            server.engine.model.load_state_dict(start)
            born[0] = 2.0
            if kind == "gone in the middle":
                raise ConnectionAbortedError  # the handler's thread ends, and with it the connection
        return generate(body)

    monkeypatch.setattr(server, "generate", once)
    trainer.train()
    assert len(reloads) == 4
    everything = {name for name, _ in server.engine.model.named_parameters()}
    assert [sent == everything for sent in server.reloaded] == [True, False, True, False]  # a new server has nothing
    assert max(differences(trainer)) <= AGREE
    again = server.calls.index("collective_rpc", 2 * len(PUSH) + 1)
    assert server.calls[again : again + len(PUSH)] == PUSH


def test_a_server_that_never_comes_back_ends_the_run(make_served_trainer, tiny_qwen2_5, world, rows):  # noqa: F811
    trainer, server = make_served_trainer(tiny_qwen2_5, vllm_server_timeout=1.0)
    (prompt,) = encode(tiny_qwen2_5, world, [("tvg", rows[0])])
    server.shutdown()
    server.server_close()
    with pytest.raises(ServerLostError, match="no vLLM server after 1 s"):
        generate_with_vllm(trainer.vllm_generation, [prompt], [0], trainer.banned_ids, trainer.eos_token_ids)
