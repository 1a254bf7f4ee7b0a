"""Features of a frozen tower: the same as computed anew, computed once, and never kept for a tower that is trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from trl.trainer.utils import add_fused_lm_head

from invert_rl.grpo import vision_store
from invert_rl.grpo.shared_prompt import add_shared_prompts
from invert_rl.grpo.vision import VisionFeatures, freeze_tower, same_tower, tower_is_frozen
from invert_rl.grpo.vision_store import FeatureFolder
from invert_rl.models import load_model, vision_language_model
from tests.invert_rl.grpo.scoring_batches import batch_of, encode, mixed_groups, score_and_gradients, shared_inputs


@pytest.fixture
def clips(rows):
    """A row of each video."""
    return list({row.video: row for row in rows}.values())


@pytest.fixture
def prompts(tiny_checkpoint, world, clips):
    return encode(tiny_checkpoint, world, [("tvg", clips[0]), ("tvg", clips[1]), ("ar", clips[2])])


def frozen_model(checkpoint):
    model = load_model(checkpoint)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    add_shared_prompts(model)
    freeze_tower(model)
    return model.train()


def tower_calls(model):
    """A list that grows by the number of videos at each run of the tower's first layer."""
    calls = []
    visual = vision_language_model(model).visual
    visual.patch_embed.register_forward_pre_hook(lambda _module, args: calls.append(len(args[0])))
    return calls


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kept_features_change_nothing(tiny_checkpoint, prompts, seed):
    """Log-probabilities and gradients with the tower run each time, with it run now, and with kept features."""
    rows = mixed_groups(prompts, seed)
    inputs = shared_inputs(rows, batch_of(rows, seed))
    model = frozen_model(tiny_checkpoint)
    results = [score_and_gradients(model, inputs)]
    features = VisionFeatures()
    features.serve(model)
    calls = tower_calls(model)
    for _ in range(2):
        with features.of(inputs["shared_prompts"].prompts):
            results.append(score_and_gradients(model, inputs))
    assert len(calls) == 1
    assert features.calls == 3
    assert features.seconds > 0
    first = results[0]
    for result in results[1:]:
        assert torch.equal(result[0], first[0])
        assert result[2].keys() == first[2].keys()
        for name, gradient in first[2].items():
            assert (gradient - result[2][name]).norm() <= 1e-5 * gradient.norm() + 1e-9, name


def test_only_new_videos_are_computed(tiny_checkpoint, prompts):
    """A batch with a known and two new videos: the new ones alone go through the tower, and order does not matter."""
    model, plain = frozen_model(tiny_checkpoint), frozen_model(tiny_checkpoint)
    features = VisionFeatures()
    features.serve(model)
    for rows in (prompts[:1], [prompts[2], prompts[0], prompts[1]], prompts):
        inputs = shared_inputs(rows, batch_of(rows, seed=0))
        with features.of(inputs["shared_prompts"].prompts):
            scores = score_and_gradients(model, inputs)[0]
        assert (scores - score_and_gradients(plain, inputs)[0]).abs().max() <= 1e-5
    assert features.calls == 3


def test_a_budget_keeps_the_latest_videos_across_rounds(tiny_qwen2_5, world, clips):
    first, second = encode(tiny_qwen2_5, world, [("tvg", clips[0]), ("tvg", clips[1])])
    model = frozen_model(tiny_qwen2_5)

    def play(features, *prompts):
        """One round each; returns how many videos went through the tower in the last one."""
        for prompt in prompts:
            before = features.calls
            features.start_round()
            inputs = shared_inputs([prompt], batch_of([prompt], seed=0))
            with features.of(inputs["shared_prompts"].prompts):
                score_and_gradients(model, inputs)
        return features.calls - before

    nothing, one, both = (VisionFeatures() for _ in range(3))
    nothing.serve(model)
    assert play(nothing, first, first) == 1
    model = frozen_model(tiny_qwen2_5)
    both.budget = 10**9
    both.serve(model)
    again = dataclasses.replace(first)  # the same clip in another round is another object
    assert play(both, first, second, again) == 0
    model = frozen_model(tiny_qwen2_5)
    one.serve(model)
    play(one, first)
    one.budget = one.nbytes
    assert play(one, first) == 0
    assert play(one, second, first) == 1  # no room for both
    one.start_round()
    assert one.nbytes <= one.budget


def test_other_precision_is_computed_anew(tiny_qwen2_5, world, rows):
    (prompt,) = encode(tiny_qwen2_5, world, [("tvg", rows[0])])
    model = frozen_model(tiny_qwen2_5)
    features = VisionFeatures()
    features.serve(model)
    inputs = shared_inputs([prompt], batch_of([prompt], seed=0))
    with features.of([prompt]), torch.no_grad():
        model(**inputs, fused_lm_head=True)
        with torch.autocast("cpu", torch.bfloat16):
            model(**inputs, fused_lm_head=True)
    assert features.calls == 2


def test_which_towers_are_frozen(tiny_checkpoint):
    assert not tower_is_frozen(load_model(tiny_checkpoint))
    assert tower_is_frozen(frozen_model(tiny_checkpoint))
    on_text = get_peft_model(load_model(tiny_checkpoint), LoraConfig(r=2, target_modules=["q_proj"]))
    assert tower_is_frozen(on_text)
    on_tower = get_peft_model(load_model(tiny_checkpoint), LoraConfig(r=2, target_modules=["q_proj", "qkv"]))
    assert not tower_is_frozen(on_tower)
    freeze_tower(on_tower)
    assert tower_is_frozen(on_tower)


def test_same_tower(tiny_qwen2_5):
    model, other = load_model(tiny_qwen2_5), load_model(tiny_qwen2_5)
    assert same_tower(model, other)
    with torch.no_grad():
        vision_language_model(other).visual.patch_embed.proj.weight[0] += 1e-3
    assert not same_tower(model, other)


def test_features_come_back_from_disk_for_the_same_tower_only(tmp_path):
    """Bit for bit, by content, grid and precision; a broken file is made anew, another tower finds nothing."""
    torch.manual_seed(0)
    tower = torch.nn.Linear(4, 4)
    folder = FeatureFolder(tmp_path, tower)
    features = (torch.randn(6, 4), torch.randn(6, 4).bfloat16())
    assert folder.load(b"a", (1, 2, 3), torch.float32) is None
    folder.save(b"a", (1, 2, 3), torch.float32, features)
    found = FeatureFolder(tmp_path, tower).load(b"a", (1, 2, 3), torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(features, found, strict=True))
    assert folder.load(b"a", (1, 2, 3), torch.bfloat16) is None and folder.load(b"b", (1, 2, 3), torch.float32) is None
    (file,) = folder.folder.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert folder.load(b"a", (1, 2, 3), torch.float32) is None
    tower.weight.data[0, 0] += 1e-3
    assert FeatureFolder(tmp_path, tower).folder != folder.folder


@pytest.mark.parametrize("how", ["disk", "library"])
def test_a_disk_that_is_full_does_not_end_the_run(tmp_path, monkeypatch, caplog, how):
    folder = FeatureFolder(tmp_path, torch.nn.Linear(2, 2))
    tries = []

    def refuse(_tensors, path):
        tries.append(path)
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device") if how == "disk" else SafetensorError("I/O error: No space left")

    monkeypatch.setattr(vision_store, "save_file", refuse)
    for name in (b"a", b"b"):
        folder.save(name, (1, 2, 3), torch.float32, [torch.ones(2)])
    assert len(tries) == 1 and not list(folder.folder.iterdir())
    (record,) = caplog.records
    assert "No space left" in record.getMessage() and str(folder.folder) in record.getMessage()
    assert folder.load(b"a", (1, 2, 3), torch.float32) is None
