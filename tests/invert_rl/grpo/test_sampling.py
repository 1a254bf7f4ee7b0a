"""A completion's tokens depend on its own random numbers, not on process, batch or global generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from invert_rl.grpo.rollout import generate_completions
from invert_rl.grpo.sampling import ChooseByNumbers, sampling_numbers, sampling_processors
from invert_rl.models import load_model
from invert_rl.schedule import Draw

DRAWS = [Draw("tvg", row, 5, slot) for slot, row in enumerate((8, 3)) for _ in range(4)]


def test_ranks_get_their_part_of_the_numbers_of_one():
    whole = sampling_numbers(1, DRAWS, 0, 4, 6)
    parts = [sampling_numbers(1, DRAWS[first : first + 2], first, 4, 6) for first in range(0, 8, 2)]
    assert torch.equal(torch.cat(parts), whole)
    assert len({tuple(row) for row in whole.tolist()}) == 8
    other_row = [draw._replace(row=99) for draw in DRAWS]  # a replacement keeps its place
    assert torch.equal(sampling_numbers(1, other_row, 0, 4, 6), whole)
    for other in ([draw._replace(round=6) for draw in DRAWS], [draw._replace(slot=draw.slot + 2) for draw in DRAWS]):
        assert not (sampling_numbers(1, other, 0, 4, 6) == whole).any()
    assert not (sampling_numbers(2, DRAWS, 0, 4, 6) == whole).any()


def chosen(scores: torch.Tensor, config: GenerationConfig, count: int = 20_000) -> np.ndarray:
    """How often each token is chosen from ``scores``, with evenly spread numbers."""
    numbers = (torch.arange(count).float() / count)[:, None]
    processors = sampling_processors(config, numbers)
    tokens = processors(torch.zeros(count, 3, dtype=torch.long), scores.repeat(count, 1)).argmax(dim=1)
    return np.bincount(tokens, minlength=scores.numel()) / count


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_come_as_often_as_the_model_says(temperature):
    scores = torch.tensor([1.0, -torch.inf, 0.0, 2.0, -1.0])
    frequencies = chosen(scores, GenerationConfig(temperature=temperature, top_k=0))
    expected = torch.softmax(scores / temperature, dim=0).numpy()
    assert np.abs(frequencies - expected).max() < 2e-4
    assert frequencies[1] == 0  # a suppressed token, also at its neighbours' borders


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({"top_k": 2}, {0, 3}), ({"top_k": 0, "top_p": 0.7}, {0, 3}), ({"top_k": 0, "min_p": 0.1}, {0, 2, 3})],
)
def test_what_is_cut_off_is_never_chosen(settings, kept):
    frequencies = chosen(torch.tensor([1.0, -3.0, 0.0, 2.0, -1.0]), GenerationConfig(**settings))
    assert set(np.flatnonzero(frequencies)) == kept


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match="typical_p, .*epsilon_cutoff|typical_p, epsilon_cutoff"):
        sampling_processors(GenerationConfig(typical_p=0.5, epsilon_cutoff=0.1), torch.zeros(1, 1))


def test_the_largest_number_still_chooses_a_token():
    scores = torch.tensor([[0.0, 1.0, -torch.inf]])
    largest = torch.tensor([[np.nextafter(np.float32(1), np.float32(0))]])
    assert ChooseByNumbers(largest)(torch.zeros(1, 1, dtype=torch.long), scores).argmax().item() == 1
    smallest = torch.tensor([[-torch.inf, 1.0, 0.0]])
    assert ChooseByNumbers(torch.zeros(1, 1))(torch.zeros(1, 1, dtype=torch.long), smallest).argmax().item() == 1


def test_a_completion_is_the_same_alone_and_in_company(make_trainer, tiny_checkpoint):
    trainer = make_trainer(tiny_checkpoint, tasks=["tvg"])
    items = [trainer.train_dataset[Draw("tvg", row, 0, row)] for row in range(2)]
    prompts = [trainer._encode("tvg", trainer.train_dataset.rows[item["draw"].row], item["prompt"]) for item in items]
    model = load_model(tiny_checkpoint)
    config = GenerationConfig(do_sample=True, max_new_tokens=8, pad_token_id=0, eos_token_id=[1], top_k=0)
    index = [0, 0, 1, 1]
    numbers = sampling_numbers(3, [items[i]["draw"] for i in index], 0, 2, 8)

    def generate(rows: list[int], seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        return generate_completions(model, prompts, [index[row] for row in rows], config, 0, [1], numbers[rows])

    together = generate([0, 1, 2, 3], seed=0)
    assert len({tuple(ids) for ids in together}) == 4
    assert [generate([row], seed=row + 1)[0] for row in range(4)] == together
