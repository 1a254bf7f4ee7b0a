"""How much the text attends to the visual tokens and to the action token (paper, section 4.5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invert_rl.llavaction.encode import ClipEncoder, Encoded


@dataclass(frozen=True)
class TokenAttention:
    """Of one prompt: the largest attention that any text token pays, averaged over layers and heads."""

    visual: np.ndarray
    """To each visual token, shape (V,)."""
    action: float | None
    """To the action token; None for a model without one."""


@torch.no_grad()
def token_attention(model: Any, encoder: ClipEncoder, item: Encoded) -> TokenAttention:
    """The attention of the text after the clip to visual tokens and action token.

    ``model`` must have been loaded with ``attn_implementation="eager"``, which alone gives attention weights. They are
    averaged over layers and heads [C] and the largest over text tokens is taken [S]. Memory grows with the square of
    the prompt's length. Raises `ValueError` where no weights come back.
    """
    inputs = encoder.batch([item], labels=False)
    device = next(model.parameters()).device
    outputs = model(**{n: v.to(device) for n, v in inputs.items()}, output_attentions=True, use_cache=False)
    if not outputs.attentions or outputs.attentions[0] is None:
        raise ValueError("the model gives no attention weights; load it with attn_implementation='eager'")
    mean: Tensor = sum(layer[0].float().mean(0) for layer in outputs.attentions) / len(outputs.attentions)
    ids = inputs["input_ids"][0]
    visual = torch.zeros_like(ids, dtype=torch.bool)
    for token in encoder.placeholders:
        visual |= ids == token
    first_text = int(visual.nonzero().max()) + 1
    action = [int((ids == token).nonzero()[0]) for token in encoder.token_ids]
    text = [place for place in range(first_text, len(ids)) if place not in action]
    weights = mean[text].amax(0).cpu()  # (length,)
    return TokenAttention(weights[visual].numpy(), float(weights[action].mean()) if action else None)


def attention_summary(found: Iterable[TokenAttention]) -> dict[str, float]:
    """Mean and 90th percentile of text-visual attention, mean of text-action attention, over all prompts (4.5).

    ``visual_below_action`` is the percentage of visual tokens that the text attends to less than to the action token.
    """
    prompts = list(found)
    visual = np.concatenate([prompt.visual for prompt in prompts])
    summary = {
        "n": float(len(prompts)),
        "text_visual_mean": float(visual.mean()),
        "text_visual_p90": float(np.percentile(visual, 90)),
    }
    with_action = [(prompt, prompt.action) for prompt in prompts if prompt.action is not None]
    if with_action:
        below = np.concatenate([prompt.visual < action for prompt, action in with_action])
        summary["text_action_mean"] = float(np.mean([action for _, action in with_action]))
        summary["visual_below_action"] = 100 * float(below.mean())
    return summary
