"""`invert-rl plan`: the table worked out by hand, refusals, and changes that make a run fit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trl import ModelConfig

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.grpo.config import InvertGRPOConfig
from invert_rl.plan.gpus import GPUS, gpu_named
from invert_rl.plan.job import Launch, read_job, read_launch
from invert_rl.plan.plan import plan_here, plan_of

ROOT = Path(__file__).resolve().parents[3]
CHARADES = ROOT / "recipes" / "configs" / "charades_sta"
LAUNCHES = ROOT / "recipes" / "configs" / "accelerate"


def plan(released, config: str, launch: str | None, name: str, memory: float | None = None, *settings: str):
    path = None if launch is None else LAUNCHES / f"{launch}.yaml"
    job = read_job(CHARADES / f"{config}.yaml", read_launch(path), released(name), settings)
    return plan_of(job, GPUS["h100"], capacity=None if memory is None else memory * 2**30)


@pytest.mark.parametrize(
    ("config", "launch", "name", "state", "reference"),
    [
        ("qwen2_5_vl_3b", "8gpu_ddp", "qwen2_5_vl_3b", 75.1, 7.5),  # 20 bytes a parameter, buckets among them
        ("qwen2_5_vl_3b", "8gpu_fsdp2", "qwen2_5_vl_3b", 7.5, 0.94),  # 16 / 8
        ("qwen2_5_vl_7b", "8gpu_fsdp2", "qwen2_5_vl_7b", 16.6, 2.07),
        ("qwen2_5_vl_7b", "8gpu_zero3", "qwen2_5_vl_7b", 16.6, 2.07),  # 2 + 2 + 4 + 8 bytes
        ("qwen2_5_vl_7b", "2x8gpu_fsdp2", "qwen2_5_vl_7b", 8.3, 1.04),
        ("qwen2_5_vl_3b_80gb", "1gpu", "qwen2_5_vl_3b", 37.5, 7.5),  # 8-bit moments: 10 bytes
    ],
)
def test_the_hand_table_in_gb(released, config, launch, name, state, reference):
    found = plan(released, config, launch, name).as_json()
    assert found["per_gpu_gb"]["state"] == pytest.approx(state, abs=0.06)
    assert found["per_gpu_gb"]["reference"] == pytest.approx(reference, abs=0.02)
    for part, size in found["per_gpu_gib"].items():
        assert size * 2**30 / 1e9 == pytest.approx(found["per_gpu_gb"][part], abs=2e-3)


@pytest.mark.parametrize(("size", "weights"), [("3b_24gb", 7.5), ("7b_80gb", 16.6), ("7b_24gb", 7.2)])
def test_lora_holds_the_base_once_and_no_reference(released, size, weights):
    found = plan(released, f"qwen2_5_vl_{size}", "1gpu", f"qwen2_5_vl_{size[:2]}").as_json()
    assert found["per_gpu_gb"]["weights"] == pytest.approx(weights, abs=0.06)
    assert "reference" not in found["per_gpu_gb"] and "half_precision_copies" not in found["per_gpu_gb"]
    trained = found["trained_parameters"]
    assert 1e8 < trained < 2e8
    assert found["per_gpu_gb"]["optimizer"] == pytest.approx(8 * trained / 1e9, abs=1e-3)


def test_the_shipped_configs_fit_where_the_documents_say(released):
    for config, launch, gpu in (
        ("qwen2_5_vl_3b_24gb", "1gpu", 24),
        ("qwen2_5_vl_7b_24gb", "1gpu", 24),
        ("qwen2_5_vl_3b_80gb", "1gpu", 79.6),
        ("qwen2_5_vl_7b_80gb", "1gpu", 79.6),
        ("qwen2_5_vl_3b", "8gpu_fsdp2", 79.6),
        ("qwen2_5_vl_7b", "8gpu_fsdp2", 79.6),
        ("qwen2_5_vl_7b", "8gpu_zero3", 79.6),
    ):
        found = plan(released, config, launch, config[:13], gpu)
        assert found.fits, (config, launch, found.problems)


@pytest.mark.parametrize(
    ("config", "launch", "memory", "change"),
    [
        ("qwen2_5_vl_3b", "8gpu_ddp", 80, "8gpu_fsdp2.yaml --num_processes 8"),
        ("qwen2_5_vl_7b", "1gpu", 80, "--use_peft true"),
        ("qwen2_5_vl_3b_80gb", "1gpu", 24, ""),
        ("qwen2_5_vl_7b_80gb", "1gpu", 22, "--load_in_4bit true"),
    ],
)
def test_what_cannot_fit_is_refused_with_a_change_that_does(released, config, launch, memory, change):
    found = plan(released, config, launch, config[:13], memory)
    assert not found.fits and found.memory.total > memory * 2**30
    assert f"on a GPU of {memory}" in found.problems[0]
    assert found.changes and change in " ".join(found.changes)
    words = [word for text in found.changes for word in text.partition(" (")[0].split()]
    settings, launched = [], LAUNCHES / f"{launch}.yaml"
    if "--config_file" in words:
        place = words.index("--config_file")
        launched = ROOT / words[place + 1]
        del words[place : place + 2]
    if "--num_processes" in words:
        place = words.index("--num_processes")
        processes = int(words[place + 1])
        del words[place : place + 2]
    else:
        processes = None
    settings = words
    job = read_job(CHARADES / f"{config}.yaml", read_launch(launched), released(config[:13]), settings)
    if processes is not None:
        job = job.with_settings(launch=Launch("fsdp", processes, max(1, processes // 8), "bf16"))
    assert plan_of(job, GPUS["h100"], capacity=memory * 2**30).memory.total < memory * 2**30


def test_nothing_known_is_enough_for_a_gpu_of_two_gib(released):
    found = plan(released, "qwen2_5_vl_7b", "1gpu", "qwen2_5_vl_7b", 2)
    assert not found.fits and "GPUs of" in found.changes[0]


def test_an_engine_without_room_for_its_weights_is_told(released):
    settings = ("--use_vllm", "true", "--vllm_gpu_memory_utilization", "0.1")
    found = plan(released, "qwen2_5_vl_7b_80gb", "1gpu", "qwen2_5_vl_7b", 79.6, *settings)
    assert any("vllm_gpu_memory_utilization" in problem for problem in found.problems)


def test_sleeping_frees_the_engine_for_the_update(released):
    sizes = {}
    for sleeps in ("true", "false"):
        settings = ("--use_vllm", "true", "--vllm_gpu_memory_utilization", "0.5", "--vllm_enable_sleep_mode", sleeps)
        sizes[sleeps] = plan(released, "qwen2_5_vl_3b", "8gpu_fsdp2", "qwen2_5_vl_3b", 80, *settings).memory.total
    assert sizes["false"] - sizes["true"] > 2 * 2**30


def test_each_setting_moves_what_it_should(released):
    def parts(*settings: str) -> dict[str, float]:
        return plan(released, "qwen2_5_vl_3b", "8gpu_fsdp2", "qwen2_5_vl_3b", 80, *settings).memory.parts()

    base = parts()
    without = parts("--gradient_checkpointing", "false")
    assert without["layers"] > 20 * base["one_layer"] and base["states"] > 10 * without["states"]
    assert "reference" not in parts("--beta", "0")
    assert parts("--optim", "adamw_bnb_8bit")["optimizer"] == base["optimizer"] / 4
    assert parts("--freeze_vision", "true")["gradients"] < base["gradients"]
    assert parts("--per_device_train_batch_size", "8")["states"] > base["states"]
    assert parts("--total_pixels", "401408")["vision"] < base["vision"] / 4


def test_of_rounds_made_ahead_the_longer_part_counts(released):
    server = ["--use_vllm", "true", "--vllm_mode", "server"]
    serial, ahead = (
        plan(released, "qwen2_5_vl_3b", "8gpu_fsdp2", "qwen2_5_vl_3b", None, *server, "--rounds_ahead", str(number))
        for number in (0, 1)
    )
    parts = serial.work.seconds
    pushed = parts["weights_to_engine"]
    rest = sum(parts.values()) - parts["rollout"] - pushed
    assert "rollout_hidden" not in parts
    assert sum(ahead.work.seconds.values()) == pytest.approx(max(parts["rollout"], rest) + pushed)


def test_the_command_prints_one_json_object(released, capsys):
    folder = released("qwen3_vl_8b")
    arguments = ["plan", "--config", str(CHARADES / "qwen2_5_vl_7b.yaml"), "--model_name_or_path", folder]
    arguments += ["--launch", str(LAUNCHES / "8gpu_fsdp2.yaml"), "--json"]
    assert main([*arguments, "--memory", "80"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is True and found["family"] == "qwen3_vl"
    assert found["per_gpu_gib"]["total"] < 80 and found["step_seconds"]["total"] > 0
    assert main([*arguments, "--memory", "20", "--", "--optim", "adamw_torch"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] is False and found["changes"]


def test_people_get_a_table(released, capsys):
    assert main(["plan", "--model_name_or_path", released("qwen2_5_vl_7b"), "--memory", "24"]) == 1
    text = capsys.readouterr().out
    assert "state" in text and "does not fit" in text and "change:" in text


@pytest.mark.parametrize("name", ["qwen3_5_9b", "qwen3_5_35b_a3b", "qwen3_vl_30b_a3b", "qwen3_vl_4b"])
def test_all_families_are_planned(released, name):
    found = plan(released, "qwen2_5_vl_3b", "8gpu_fsdp2", name)
    state = 16 * found.sizes.parameters / 8
    assert found.memory.state == pytest.approx(state, rel=1e-6)
    assert found.work.seconds["update"] > 0


def test_rows_give_their_prompts(released, tmp_path, capsys):
    rows = [
        {
            "id": str(n),
            "dataset": "x",
            "split": "train",
            "video": "v.mp4",
            "duration": d,
            "query": "q",
            "windows": [[0, 1]],
        }
        for n, d in enumerate((4.0, 30.0, 2000.0))
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({**row, "meta": {}}) + "\n" for row in rows))
    arguments = ["plan", "--config", str(CHARADES / "qwen2_5_vl_3b.yaml"), "--data", str(data), "--json"]
    arguments += ["--model_name_or_path", released("qwen2_5_vl_3b"), "--launch", str(LAUNCHES / "8gpu_fsdp2.yaml")]
    assert main(arguments) == 0
    tokens = json.loads(capsys.readouterr().out)["prompt_tokens"]
    # 8 frames of at most 768 tokens; 60 frames share 3,584; 768 of 16 and more: a small one, enlarged, has 4 x 6
    assert tokens["rows"] == 3 and tokens["longest_video"] == 384 * 24
    assert tokens["mean"] == pytest.approx(300 + (4 * 768 + 30 * 119 + 384 * 24) / 3, abs=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--launch", "nowhere.yaml"], "nowhere.yaml"),
        (["--config", str(CHARADES / "invert_sft_3b.yaml")], "sft_invert.py"),
        (["--", "--no_such_setting", "3"], "no_such_setting"),
        (["--", "--num_generations", "many"], "num_generations must be a number"),
        (["--", "--num_generations", "0"], "num_generations must be a positive"),
        (["--", "--use_peft", "true", "--lora_target_modules", "c_attn"], "c_attn"),
        (["--", "stray"], "--name value"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line(released, capsys, arguments, said):
    assert main(["plan", "--model_name_or_path", released("qwen2_5_vl_3b"), *arguments]) == 1
    assert said in capsys.readouterr().err


def test_a_missing_model_and_an_odd_memory_are_refused(tmp_path, capsys):
    assert main(["plan"]) == 1
    assert "--model_name_or_path" in capsys.readouterr().err
    assert main(["plan", "--model_name_or_path", str(tmp_path)]) == 1
    assert "config.json is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "--memory", "-3"])


def test_the_recipe_refuses_on_a_gpu_what_cannot_fit(released, monkeypatch, tmp_path):
    args = InvertGRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=8, num_generations=8
    )
    model_args, model = ModelConfig(dtype="bfloat16"), released("qwen2_5_vl_3b")
    assert plan_here(args, model_args, model, []) is None  # no GPU: it says nothing
    device = SimpleNamespace(name="NVIDIA RTX 4090", total_memory=24 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: device)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(DataError, match="does not fit.*smallest change.*skip_plan"):
        plan_here(args, model_args, model, [])
    args.skip_plan = True
    assert plan_here(args, model_args, model, []) is None
    args.skip_plan = False
    device.total_memory = 140 * 2**30
    found = plan_here(args, model_args, model, [])
    assert found is not None and "GiB" in found.summary()


def test_gpus_are_known_by_their_names():
    assert gpu_named("NVIDIA H200") is GPUS["h200"]
    assert gpu_named("NVIDIA GeForce RTX 4090") is GPUS["rtx4090"]
    assert gpu_named("something else") is GPUS["h100"]
