"""Strict loading: every damaged checkpoint is refused by the names of what is wrong, every sound one still loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from invert_rl.loading import CheckpointError, load_adapters, load_folder, load_weights
from invert_rl.models import load_model

Tensors = dict[str, torch.Tensor]

PLACE = "model.layers.1.mlp.up_proj.weight"
"""Of a tensor in the file, under its name on the hub."""
LOADED = "model.language_model.layers.1.mlp.up_proj.weight"
"""The same in the model."""


@pytest.fixture
def damaged(tiny_qwen2_5: str, tmp_path: Path) -> Callable[[Callable[[Tensors], Tensors]], str]:
    """A copy of the tiny checkpoint whose tensors went through a function."""

    def copy(change: Callable[[Tensors], Tensors]) -> str:
        folder = tmp_path / "checkpoint"
        shutil.copytree(tiny_qwen2_5, folder)
        whole = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}  # as runs do
        tensors = change(whole)
        save_file({name: value.clone() for name, value in tensors.items()}, folder / "model.safetensors")
        return str(folder)

    return copy


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def changed(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: value(tensors[name])}


def with_nan(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value.view(-1)[-1] = torch.nan
    return value


BROKEN: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "all renamed": (prefixed("old."), r"missing: .*model\.language_model.* unexpected: old\."),
    "one missing": (
        lambda tensors: {name: value for name, value in tensors.items() if name != PLACE},
        rf"1 missing: {LOADED}; nothing",
    ),
    "one renamed": (
        lambda tensors: {f"{name}s" if name == PLACE else name: value for name, value in tensors.items()},
        rf"1 missing: {LOADED}; 1 unexpected: model\.language_model\.layers\.1\.mlp\.up_proj\.weights",
    ),
    "one too many": (lambda tensors: {**tensors, "extra.bias": torch.zeros(3)}, r"1 unexpected: extra\.bias; nothing"),
    "another shape": (
        changed(PLACE, lambda value: value[:-1]),
        rf"1 of another shape: {LOADED} \(\d+, 64\) instead of \(\d+, 64\)",
    ),
    "transposed": (changed(PLACE, lambda value: value.T.contiguous()), f"1 of another shape: {LOADED}"),
    "not a number": (changed(PLACE, with_nan), f"{LOADED} holds NaN or infinity"),
    "an adapter inside": (
        lambda tensors: {
            **{name: value for name, value in tensors.items() if name != PLACE},
            PLACE.replace("weight", "base_layer.weight"): tensors[PLACE],
            PLACE.replace("weight", "lora_A.default.weight"): torch.zeros(4, 64),
        },
        r"tensors of an adapter \(LoRA\), .*up_proj\.base_layer",
    ),
    "an adapter around": (prefixed("base_model.model."), r"tensors of an adapter \(LoRA\), base_model\.model\."),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_start_checkpoint_that_does_not_fit_is_refused_by_name(damaged, case):
    change, message = BROKEN[case]
    folder = damaged(change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(folder)
    assert str(error.value).startswith(f"{folder}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("case", BROKEN)
def test_a_resume_from_it_is_refused_too_and_leaves_the_model_as_it_was(damaged, tiny_qwen2_5, case):
    change, message = BROKEN[case]
    model = load_model(tiny_qwen2_5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, damaged(change))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_names_with_the_prefix_of_a_wrapper_load(damaged, tiny_qwen2_5, prefix):
    expected = load_model(tiny_qwen2_5).state_dict()
    folder = damaged(prefixed(prefix))
    loaded = load_model(folder)
    other = load_model(tiny_qwen2_5)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    load_weights(other, folder)
    for model in (loaded, other):
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_tied_weights_need_to_be_there_once(damaged, tiny_qwen2_5):
    """The tiny model's output head is its embedding; its file has both names."""
    expected = load_model(tiny_qwen2_5)
    assert expected.lm_head.weight is expected.get_input_embeddings().weight
    folder = damaged(lambda tensors: {name: value for name, value in tensors.items() if name != "lm_head.weight"})
    loaded = load_model(folder)
    load_weights(loaded, folder)
    assert torch.equal(loaded.lm_head.weight, expected.lm_head.weight)


@pytest.mark.parametrize("content", [b"", b"<html>Sign in</html>", b"\x80\x04.", b"\xff" * 4096], ids=range(4))
def test_a_file_that_holds_no_tensors_is_one_sentence(damaged, content):
    folder = damaged(lambda tensors: tensors)
    (Path(folder) / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be loaded: .*a damaged file of weights") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_file_beside_the_weights_is_one_sentence(damaged, name):
    from invert_rl.models import load_processor

    folder = damaged(lambda tensors: tensors)
    (Path(folder) / name).write_text("{")
    with pytest.raises(CheckpointError, match=f"{folder}: cannot be loaded"):
        load_processor(folder)
        load_model(folder)


def adapters(tiny: str) -> nn.Module:
    torch.manual_seed(0)
    model = get_peft_model(load_model(tiny), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    return model


def test_an_adapter_is_loaded_strictly(tiny_qwen2_5, tmp_path):
    saved, other = adapters(tiny_qwen2_5), adapters(tiny_qwen2_5)
    saved.save_pretrained(tmp_path)
    with torch.no_grad():
        for name, value in other.named_parameters():
            if "lora" in name:
                value.add_(1.0)
    load_adapters(other, tmp_path)
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in other.state_dict().items())
    path = tmp_path / "adapter_model.safetensors"
    whole = load_file(path)
    for content, message in (
        (prefixed("module.")(whole), r"8 missing: .*8 unexpected: module\.base_model"),
        (dict(list(whole.items())[1:]), "1 missing: base_model"),
        ({**whole, next(iter(whole)): torch.zeros(1, 1)}, "1 of another shape: base_model"),
        ({**whole, next(iter(whole)): with_nan(next(iter(whole.values())))}, "holds NaN"),
    ):
        save_file(content, path)
        with pytest.raises(CheckpointError, match=message):
            load_adapters(other, tmp_path)


class Shared(nn.Module):
    """Two names of one weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("mean", torch.ones(2))


def test_modules_of_our_own_load_strictly_with_buffers_and_shared_weights(tmp_path):
    weight, mean = torch.randn(2, 2), torch.full((2,), 7.0)
    for tensors in ({"one.weight": weight, "mean": mean}, {"module.two.weight": weight, "module.mean": mean}):
        model = Shared()
        save_file(tensors, tmp_path / "model.safetensors")
        load_folder(model, tmp_path)
        assert torch.equal(model.one.weight, weight) and torch.equal(model.mean, mean)
    for broken, message in (
        ({"one.weight": weight}, "1 missing: mean"),
        ({"mean": mean}, r"2 missing: one\.weight, two\.weight"),
        ({"one.weight": weight, "mean": mean, "three": mean + 1}, "1 unexpected: three"),
        ({"one.weight": weight[:1], "mean": mean}, r"one\.weight \(1, 2\) instead of \(2, 2\)"),
    ):
        save_file(broken, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_folder(Shared(), tmp_path)
    with pytest.raises(CheckpointError, match="no such file of weights"):
        load_folder(Shared(), tmp_path / "nowhere")
