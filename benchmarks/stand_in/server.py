"""A stand-in for ``vllm serve``: transformers behind the routes that training uses, as slow as one likes.

    python -m benchmarks.stand_in.server MODEL --port 8767 [--delay 1.5]

For Qwen2.5-VL in float32. It answers from the weights it was given last, by the numbers that a request's seed gives.
What it cannot show is how vLLM computes.
"""

from __future__ import annotations

import argparse
import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from invert_rl.encoding import EncodedPrompt, video_inputs
from invert_rl.grpo.rollout import generate_completions
from invert_rl.models import decoding_config, load_model, load_processor, never_sampled_ids
from invert_rl.positions import VIDEO


class Policy:
    """The model, one request at a time."""

    def __init__(self, name: str, delay: float) -> None:
        self.name, self.delay = name, delay
        self.model, self.processor = load_model(name).eval(), load_processor(name)
        self.banned = never_sampled_ids(self.processor)
        self.generator = torch.Generator().manual_seed(0)
        self.lock = threading.Lock()

    def reload(self, folder: str) -> None:
        """Take the weights of a folder."""
        own = dict(self.model.named_parameters())
        with self.lock, torch.no_grad():
            for name, value in safetensors.torch.load_file(Path(folder) / "model.safetensors").items():
                own[name].copy_(value)

    def answer(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of a request, after the delay; requests wait for it together, as in a batch."""
        time.sleep(self.delay)
        prompt, sampling = prompt_of(body), body["sampling_params"]
        with self.lock:
            completions = self.complete(prompt, sampling)
            scores = self.score(prompt, completions, sampling["temperature"] or 1.0)
        return [
            {"index": index, "token_ids": ids, "logprobs": {"content": [{"logprob": value} for value in row]}}
            for index, (ids, row) in enumerate(zip(completions, scores, strict=True))
        ]

    def complete(self, prompt: EncodedPrompt, sampling: dict[str, Any]) -> list[list[int]]:
        """Token ids of ``n`` completions."""
        length, count, numbers = sampling["max_tokens"], sampling["n"], None
        how: dict[str, Any] = {}
        if sampling["temperature"]:
            how = {"do_sample": True, "temperature": sampling["temperature"], "top_k": 0, "top_p": 1.0}
            seed = sampling.get("seed")
            chosen = self.generator if seed is None else torch.Generator().manual_seed(seed)
            numbers = torch.rand((count, length), generator=chosen)
        config = decoding_config(self.model, self.processor, length, **how)
        return generate_completions(
            self.model, [prompt], [0] * count, config, config.pad_token_id, config.eos_token_id, numbers
        )

    @torch.no_grad()
    def score(self, prompt: EncodedPrompt, completions: list[list[int]], temperature: float) -> list[list[float]]:
        """The log-probability of each token under what it was sampled from."""
        most = max(map(len, completions))
        rows = torch.tensor([prompt.input_ids + ids + [0] * (most - len(ids)) for ids in completions])
        types = torch.tensor([prompt.mm_token_type_ids + [0] * most] * len(rows))
        video = video_inputs([prompt] * len(rows))
        logits = self.model(input_ids=rows, mm_token_type_ids=types, logits_to_keep=most + 1, **video).logits[:, :-1]
        logits[..., self.banned] = -torch.inf
        logps = (logits.float() / temperature).log_softmax(dim=-1).gather(2, rows[:, -most:, None])[..., 0]
        return [row[: len(ids)].tolist() for row, ids in zip(logps, completions, strict=True)]


def prompt_of(body: dict[str, Any]) -> EncodedPrompt:
    """The prompt of a request, whose video is one run of placeholders."""
    ((place,),) = body["features"]["mm_placeholders"].values()
    ((item,),) = body["features"]["kwargs_data"].values()
    fields = safetensors.torch.load(base64.b64decode(item))
    types = [0] * len(body["token_ids"])
    types[place["offset"] : place["offset"] + place["length"]] = [VIDEO] * place["length"]
    return EncodedPrompt(
        input_ids=body["token_ids"],
        mm_token_type_ids=types,
        pixel_values_videos=fields["pixel_values_videos"],
        video_grid_thw=fields["video_grid_thw"],
        second_per_grid_ts=fields["second_per_grid_ts"],
    )


class Routes(BaseHTTPRequestHandler):
    """HTTP for a `Policy`."""

    policy: Policy

    def log_message(self, *args: Any) -> None:
        """Nothing for each request."""

    def reply(self, content: Any = None, status: int = 200) -> None:
        """Send a JSON value, or nothing."""
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Health, name and settings."""
        settings: dict[str, Any] = {"dtype": "torch.float32", "logprobs_mode": "processed_logprobs"}
        settings["multimodal_config"] = {"mm_device_do_normalize": False}
        known = {
            "/health": None,
            "/v1/models": {"data": [{"id": self.policy.name}]},
            "/server_info?config_format=json": {"vllm_config": {"model_config": settings}},
        }
        self.reply(known.get(self.path), 200 if self.path in known else 404)

    def do_POST(self) -> None:
        """Completions, new weights, caches that there are not."""
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/generate"):
            self.reply({"choices": self.policy.answer(json.loads(data))})
        elif self.path.endswith("/collective_rpc"):
            self.policy.reload(json.loads(data)["kwargs"]["weights_path"])
            self.reply({"results": [None]})
        else:
            self.reply({"success": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder of a Qwen2.5-VL")
    parser.add_argument("--port", type=int, default=8767)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes besides computing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Routes.policy = Policy(options.model, options.delay)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Routes)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
