"""What both lessons of a toy start's language model have in common."""

from __future__ import annotations

import pytest
import torch

from invert_rl.tasks import DEFAULT_TASKS, load_preset
from invert_rl.toy.captions import teach_captions
from invert_rl.toy.matching import teach_matching

FREE = {name: load_preset("no_think").tasks[name] for name in DEFAULT_TASKS}


@pytest.mark.parametrize(
    ("teach", "tasks"), [(teach_captions, load_preset("think").tasks["tvg"]), (teach_matching, FREE)]
)
def test_the_language_model_learns_and_the_tower_stays(world, start, teach, tasks):
    rows, store = world
    processor, model = start
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    share = teach(model, processor, rows, store, 1, 0, tasks)
    assert 0.0 < share < 1.0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.model.language_model.config._attn_implementation == "sdpa"
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and not any(".visual." in name for name in moved)
