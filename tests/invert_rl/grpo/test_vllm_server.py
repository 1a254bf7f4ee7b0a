"""Rollouts by a vLLM server: real HTTP to a stand-in for ``vllm serve``, a transformers model behind its routes.

Tensors travel as safetensors here, and in vLLM's own format with the real server (docs/parity.md).
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import LoraConfig
from trl.generation import vllm_client as trl_client
from trl.generation import vllm_generation as trl_vllm

from invert_rl.grpo import vllm_prompts
from invert_rl.grpo.vllm_prompts import content_key, served_prompt
from invert_rl.grpo.vllm_rollout import BAN, connect_all_ranks, generate_with_vllm
from invert_rl.grpo.vllm_server import ServerError, VideoClient
from invert_rl.models import load_model, never_sampled_ids
from tests.invert_rl.grpo.test_scoring import encode
from tests.invert_rl.grpo.test_vllm_rollout import AGREE, StandInEngine, differences

KINDS = {"image": 1, "video": 2}
"""transformers' ``mm_token_type_ids``."""


class StandInServer(ThreadingHTTPServer):
    """The routes of ``vllm serve`` that training uses. ``calls`` names them in the order they came in."""

    def __init__(self, checkpoint: str, **settings: Any) -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.checkpoint = checkpoint
        self.engine = StandInEngine(checkpoint)
        self.image_token = self.engine.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self.settings = {
            "dtype": "torch.float32",
            "logprobs_mode": "processed_logprobs",
            "multimodal_config": {"mm_device_do_normalize": False},
            **settings,
        }
        self.calls: list[str] = []
        self.reloaded: list[set[str]] = []
        self.requests: list[dict[str, Any]] = []
        self.refuses: dict[str, int] = {}
        self.keeps_prefixes = False
        self.lock = threading.Lock()

    def reload(self, folder: str) -> None:
        weights = safetensors.torch.load_file(Path(folder) / "model.safetensors")
        own = dict(self.engine.model.named_parameters())
        assert {name: value.shape for name, value in weights.items()} == {name: own[name].shape for name in weights}
        self.reloaded.append(set(weights))
        for name, value in weights.items():
            own[name].data.copy_(value)

    def generate(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """What vLLM makes of a request, by transformers' own paths for a video or for images."""
        self.requests.append(body)
        features = body["features"]
        ((modality, places),) = features["mm_placeholders"].items()
        items = [safetensors.torch.load(base64.b64decode(item)) for item in features["kwargs_data"][modality]]
        assert len(places) == len(items) == len(set(features["mm_hashes"][modality]))
        ids = torch.tensor([body["token_ids"]])
        types = torch.zeros_like(ids)
        for place in places:
            run = slice(place["offset"], place["offset"] + place["length"])
            types[0, run] = KINDS[modality]
            assert (ids[0, run] == self.engine.video_token).all()
            if modality == "image":
                ids[0, run] = self.image_token
        inputs = {name: torch.cat([item[name] for item in items]) for name in items[0]}
        params = SimpleNamespace(**body["sampling_params"])
        params.logit_bias = {int(token): bias for token, bias in params.logit_bias.items()}
        with torch.no_grad():
            samples = [self.engine.sample(ids, {**inputs, "mm_token_type_ids": types}, params) for _ in range(params.n)]
        return [
            {
                "index": index,
                "token_ids": sample.token_ids,
                "logprobs": {
                    "content": [{"logprob": value.logprob} for step in sample.logprobs for value in step.values()]
                },
            }
            for index, sample in enumerate(samples)
        ]


class Routes(BaseHTTPRequestHandler):
    """HTTP for `StandInServer`."""

    server: StandInServer

    def log_message(self, *args: Any) -> None:
        """Tests are quiet."""

    def answer(self, content: Any = None, status: int = 200) -> None:
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        model = {"data": [{"id": self.server.checkpoint}]}
        info = {"vllm_config": {"model_config": self.server.settings}}
        known = {"/health": None, "/v1/models": model, "/server_info?config_format=json": info}
        self.answer(known.get(self.path), 200 if self.path in known else 404)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.loads(data) if data else None
        route = self.path.rsplit("/", 1)[-1]
        if route in self.server.refuses:
            self.answer({"error": "refused"}, self.server.refuses[route])
            return
        with self.server.lock:
            self.server.calls.append(route)
            if route == "generate":
                assert body["model"] == self.server.checkpoint
                self.answer({"choices": self.server.generate(body)[::-1]})
            elif route == "collective_rpc":
                assert body["method"] == "reload_weights"
                self.server.reload(**{"folder": body["kwargs"]["weights_path"]})
                self.answer({"results": [None]})
            elif route == "reset_prefix_cache":
                self.answer({"success": not self.server.keeps_prefixes})
            elif route in ("reset_mm_cache", "reset_encoder_cache"):
                self.answer()
            else:
                self.answer({"error": f"no route {self.path}"}, 404)


def encode_for_stand_in(modality: str, fields: dict[str, torch.Tensor]) -> str:
    """In the place of vLLM's own encoder, which needs vLLM."""
    tensors = {name: value.contiguous() for name, value in fields.items()}
    return base64.b64encode(safetensors.torch.save(tensors)).decode()


def pretend_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL takes vLLM to be installed, and prompts are encoded for the stand-in."""
    for module in (trl_vllm, trl_client):
        monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    monkeypatch.setattr(vllm_prompts, "encode_fields", encode_for_stand_in)


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pretend_vllm` in each test."""
    pretend_vllm(monkeypatch)


def started(kind: type[StandInServer]) -> Iterator[Any]:
    """A function that starts servers of that kind; they end with the test."""
    servers: list[StandInServer] = []

    def start(checkpoint: str, **settings: Any) -> StandInServer:
        servers.append(kind(checkpoint, **settings))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def serve() -> Iterator[Any]:
    """Start a `StandInServer` of a checkpoint."""
    yield from started(StandInServer)


@pytest.fixture
def make_served_trainer(make_trainer, serve):
    """A trainer with ``vllm_mode: server``, and the stand-in it talks to."""

    def build(checkpoint: str, **overrides: Any):
        server = serve(checkpoint)
        settings = {"vllm_mode": "server", "vllm_server_base_url": server.url, "vllm_server_timeout": 10, **overrides}
        return make_trainer(checkpoint, use_vllm=True, **settings), server

    return build


PUSH = ["collective_rpc", "reset_prefix_cache", "reset_mm_cache", "reset_encoder_cache"]


@pytest.mark.parametrize(("kind", "lora"), [("tiny_qwen2_5", True), ("tiny_qwen3", False)])
def test_server_follows_the_weights(make_served_trainer, request, kind, lora):
    adapters = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"])} if lora else {}
    checkpoint = request.getfixturevalue(kind)
    trainer, server = make_served_trainer(checkpoint, max_steps=3, learning_rate=3e-2, **adapters)
    trainer.train()
    assert server.calls == [*PUSH, "generate"] * 3
    names = {name for name, _ in server.engine.model.named_parameters()}
    trained = {name for name in names if ".layers." in name} if lora else names  # q_proj and v_proj of all layers
    assert server.reloaded == [names, trained, trained]
    steps = differences(trainer)
    assert len(steps) == 3
    assert max(steps) <= AGREE


def test_server_left_behind_is_seen(make_served_trainer, tiny_qwen2_5, monkeypatch):
    """The negative control of the test above."""
    trainer, server = make_served_trainer(tiny_qwen2_5, max_steps=3, learning_rate=3e-2)
    monkeypatch.setattr(server, "reload", lambda folder: None)
    trainer.train()
    steps = differences(trainer)
    assert steps[0] <= AGREE
    assert steps[2] > 5 * AGREE


def test_each_prompt_is_sent_once_as_the_trainer_scores_it(make_served_trainer, tiny_checkpoint, world, rows):
    trainer, server = make_served_trainer(tiny_checkpoint, temperature=0.9)
    prompts = encode(tiny_checkpoint, world, [("tvg", rows[0]), ("ar", rows[2])])
    completions, logps = generate_with_vllm(
        trainer.vllm_generation, prompts, [1, 0, 1], trainer.banned_ids, trainer.eos_token_ids
    )
    requests = {tuple(request["token_ids"]): request for request in server.requests}
    assert set(requests) == {tuple(prompt.input_ids) for prompt in prompts}
    assert [len(row) for row in logps] == [len(row) for row in completions]
    assert all(value < 0 for row in logps for value in row)
    for prompt, count in zip(prompts, (1, 2), strict=True):
        request = requests[tuple(prompt.input_ids)]
        features, sampling = request["features"], request["sampling_params"]
        ((modality, keys),) = features["mm_hashes"].items()
        if prompt.second_per_grid_ts is None:
            assert keys == [f"{content_key(prompt.clip)}-{step}" for step in range(int(prompt.video_grid_thw[0, 0]))]
        else:
            assert keys == [content_key(prompt.clip)]
        items = [safetensors.torch.load(base64.b64decode(item)) for item in features["kwargs_data"][modality]]
        (patches,) = (name for name in items[0] if name.startswith("pixel_values"))
        assert torch.equal(torch.cat([item[patches] for item in items]), prompt.pixel_values_videos)
        assert sampling["n"] == count
        assert sampling["temperature"] == 0.9
        assert sampling["stop_token_ids"] == trainer.eos_token_ids
        banned = never_sampled_ids(trainer.processing_class)
        assert sampling["logit_bias"] == {str(token): BAN for token in banned}


def test_completions_come_back_in_the_order_asked_for(make_served_trainer, tiny_qwen2_5, world, rows, monkeypatch):
    trainer, server = make_served_trainer(tiny_qwen2_5)
    prompts = encode(tiny_qwen2_5, world, [("tvg", rows[0]), ("vc", rows[4]), ("ar", rows[2])])
    answers: dict[tuple[int, ...], list[list[int]]] = {}
    generate = server.generate

    def remember(body):
        choices = generate(body)
        answers[tuple(body["token_ids"])] = [choice["token_ids"] for choice in choices]
        return choices

    monkeypatch.setattr(server, "generate", remember)
    completions, _ = generate_with_vllm(
        trainer.vllm_generation, prompts, [2, 0, 2, 1, 0], trainer.banned_ids, trainer.eos_token_ids
    )
    tvg, vc, ar = (answers[tuple(prompt.input_ids)] for prompt in prompts)
    assert completions == [ar[0], tvg[0], ar[1], vc[0], tvg[1]]


def test_patches_have_the_precision_of_the_trainer(tiny_checkpoint, world, rows):
    (prompt,) = encode(tiny_checkpoint, world, [("tvg", rows[0])])
    ((item, *_),) = served_prompt(prompt, torch.bfloat16)["features"]["kwargs_data"].values()
    fields = safetensors.torch.load(base64.b64decode(item))
    assert [value.dtype for name, value in fields.items() if name.startswith("pixel")] == [torch.bfloat16]


def test_placeholders_without_patches_are_an_error(tiny_qwen3, world, rows):
    (prompt,) = encode(tiny_qwen3, world, [("tvg", rows[0])])
    prompt.video_grid_thw[0, 0] += 1
    with pytest.raises(ValueError, match=f"{rows[0].video}: .* runs of placeholders for"):
        served_prompt(prompt, torch.float32)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"dtype": "torch.bfloat16"}, r"torch\.bfloat16 \(not torch\.float32\).*--dtype float32"),
        ({"multimodal_config": {"mm_device_do_normalize": True}}, "normalize True.*--no-mm-device-do-normalize"),
        ({"logprobs_mode": "raw_logprobs"}, "raw_logprobs.*--logprobs-mode processed_logprobs"),
    ],
)
def test_unfit_server_is_refused(serve, tiny_qwen2_5, setting, message):
    client = VideoClient(base_url=serve(tiny_qwen2_5, **setting).url, dtype=torch.float32)
    with pytest.raises(ServerError, match=message):
        client.init_communicator("cpu")


def test_server_without_the_route_for_tokens(make_served_trainer, tiny_qwen2_5, world, rows):
    trainer, server = make_served_trainer(tiny_qwen2_5)
    server.refuses["generate"] = 404
    (prompt,) = encode(tiny_qwen2_5, world, [("tvg", rows[0])])
    with pytest.raises(ServerError, match=f"{rows[0].video}: .*404.*--enable-scale-out"):
        generate_with_vllm(trainer.vllm_generation, [prompt], [0], trainer.banned_ids, trainer.eos_token_ids)


def test_server_that_remembers_old_weights_stops_training(make_served_trainer, tiny_qwen2_5):
    trainer, server = make_served_trainer(tiny_qwen2_5)
    server.keeps_prefixes = True
    with pytest.raises(ServerError, match="did not forget its prefixes"):
        trainer.train()


def test_server_in_production_mode_cannot_take_weights(make_served_trainer, tiny_qwen2_5):
    trainer, server = make_served_trainer(tiny_qwen2_5)
    server.refuses["collective_rpc"] = 404
    with pytest.raises(ServerError, match="collective_rpc answered 404"):
        trainer.train()


def test_weights_go_by_nccl_where_there_is_a_gpu(make_served_trainer, tiny_checkpoint, monkeypatch):
    """Names, types and shapes that TRL's own way announces to the server: the checkpoint's, tied weights once."""
    opened: list[Any] = []
    announced: list[tuple[str, str, list[int]]] = []
    streamed: list[tuple[str, list[int]]] = []

    def send(self, metadata, named_params):
        announced.extend(metadata)
        streamed.extend((name, list(tensor.shape)) for name, tensor in named_params)

    trainer, server = make_served_trainer(tiny_checkpoint)
    monkeypatch.setattr(trl_client.VLLMClient, "init_communicator", lambda self, device: opened.append(device))
    monkeypatch.setattr(trl_client.VLLMClient, "update_named_params", send)
    client = VideoClient(base_url=server.url, dtype=torch.float32)
    client.init_communicator(torch.device("cuda:0"))
    assert opened == [torch.device("cuda:0")]
    trainer.vllm_generation.vllm_client = client
    trainer.vllm_generation.sync_weights()
    assert server.calls == PUSH[1:]
    parameters = load_model(tiny_checkpoint).named_parameters()
    assert announced == [(name, "float32", list(value.shape)) for name, value in parameters]
    assert streamed == [(name, shape) for name, _, shape in announced]


def test_all_ranks_get_a_client(serve, tiny_qwen2_5):
    server = serve(tiny_qwen2_5)
    args = SimpleNamespace(bf16=True, fp16=False)
    generation = SimpleNamespace(
        mode="server",
        accelerator=SimpleNamespace(is_main_process=False),
        server_base_url=None,
        server_host="127.0.0.1",
        server_port=server.server_port,
        server_timeout=10,
    )
    connect_all_ranks(generation, args, None)
    assert generation.vllm_client.base_url == server.url
    assert generation.vllm_client.dtype == torch.bfloat16
    main = SimpleNamespace(mode="server", accelerator=SimpleNamespace(is_main_process=True))
    connect_all_ranks(main, args, None)
    assert "vllm_client" not in vars(main)
