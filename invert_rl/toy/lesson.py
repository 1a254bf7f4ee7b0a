"""How the toy model's language model is taught before its tasks, its vision tower fixed: the loop of both lessons.

More is told than answers, in the middle of the model: what each group of frames holds, read by a linear head that is
thrown away, and where some heads of the next layer look.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.progress import progress
from invert_rl.sft.muon import MuonWithAdamW
from invert_rl.toy.shown import IGNORED, MARKS
from invert_rl.toy.tower import NAMES, pace

LEARNING_RATE, MUON_LEARNING_RATE = 3e-3, 6e-3
TELLING = 0.3
"""Weight of what is told besides the answers."""
FLOOR = 1e-4
"""Added to a share of attention, whose logarithm is taken."""

Step = Callable[[nn.Linear, list[int], np.random.Generator], tuple[torch.Tensor, float]]
"""Makes the loss of a step, and the share of attention on what is told of: from the head that reads, the tokens before
a clip, and the random numbers to draw by."""


def teach_language(
    model: PreTrainedModel, processor: ProcessorMixin, name: str, steps: int, seed: int, step: Step
) -> float:
    """Train all but the vision tower of ``model`` in place by so many steps; ``name`` is shown beside the progress.

    Returns the mean share of attention of the last 20 steps, 0 to 1. The global random state stays as it is.
    """
    language = model.model.language_model
    chat = processor.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}])
    opening = processor.tokenizer(chat[: chat.index("<|video_pad|>")], add_special_tokens=False)["input_ids"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = nn.Linear(language.config.hidden_size, len(NAMES) + 2 * MARKS)
    taught = nn.ModuleList([language, reader])  # an answer's words are those of the prompt
    optimizer = MuonWithAdamW(taught, LEARNING_RATE, MUON_LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = LambdaLR(optimizer, lambda done: pace(done, steps))
    rng = np.random.default_rng(seed)
    shares: list[float] = []
    attention = language.config._attn_implementation
    language.set_attn_implementation("eager")  # the others do not say where they look
    for _ in progress(range(steps), name, total=steps):
        loss, share = step(reader, opening, rng)
        loss.backward()
        nn.utils.clip_grad_norm_(taught.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        shares.append(share)
    language.set_attn_implementation(attention)
    return float(np.mean(shares[-20:]))


def read(reader: nn.Linear, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Logits of the verb, of when its event began and of when the last one ended, each ``(n, choices)``, of states
    ``(n, width)`` in the middle of the model."""
    return reader(nn.functional.rms_norm(states, states.shape[-1:])).split([len(NAMES), MARKS, MARKS], 1)


def misread(found: tuple[torch.Tensor, ...], told: torch.Tensor) -> torch.Tensor:
    """Cross entropy of what was `read` of tokens against their `marks`, ``(n, 3)``, summed over the three."""
    losses = [cross_entropy(logits, wanted, ignore_index=IGNORED) for logits, wanted in zip(found, told.T, strict=True)]
    return torch.stack(losses).sum()


def middle_of(model: PreTrainedModel) -> int:
    """How many layers come before what is read, and before the layer that is told where to look: half of them."""
    return model.config.get_text_config().num_hidden_layers // 2
