"""Video LLMs with an action token: the token's embedding, three heads on its last state, and the losses."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.integrations import is_deepspeed_zero3_enabled

from invert_rl.llavaction.action_token import ACTION_TOKENS, add_action_tokens, embedding_row, find_action_token
from invert_rl.loading import CheckpointError, load_pretrained, load_tensors, readable
from invert_rl.models import check_source, load_processor
from invert_rl.positions import use_trained_positions

IGNORED = -100
"""Label of tokens that carry no loss."""
UNLABELLED = -1
"""Class of a row that has none."""
MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")
"""Architectures; LLaVA-Video in the format of transformers is the last."""
PREFIX = "action_heads."
"""Of the heads' weights in a checkpoint of a run."""
HEADS_FOLDER = "action_heads"
"""Where a model folder has the heads' weights: out of sight of engines, which refuse weights that they do not know."""
HEADS = ("verb", "noun", "action")
LAYERS = ("last", "first", "all")
"""Layers whose state of the action token the heads see; the paper's is the last, Table 10 has the others."""
WEIGHTS = (0.025, 0.025, 0.005)
"""Weights of the heads' losses [R]: (0.5, 0.5, 0.1) / 2 · 0.1; the paper names none."""


@dataclass(frozen=True)
class ActionSettings:
    """What a checkpoint's ``config.json`` says about its action token."""

    token_id: int
    classes: tuple[int, int, int]
    """Numbers of verbs, nouns and actions."""
    weights: tuple[float, float, float] = WEIGHTS
    layers: str = "last"
    """Whose states the heads see, one of `LAYERS`."""
    more_ids: tuple[int, ...] = ()
    """Of the tokens right behind that of ``token_id``: those of the noun and the action head, or none."""

    @property
    def ids(self) -> list[int]:
        """Of all action tokens, in their order."""
        return [self.token_id, *self.more_ids]


class ActionHeads(nn.Module):
    """Verb, noun and action class of an action token's last state: three linear maps without bias (spec 3.7)."""

    def __init__(self, width: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.verb, self.noun, self.action = (nn.Linear(width, number, bias=False) for number in classes)

    def forward(self, states: Sequence[Tensor]) -> list[Tensor]:
        """Logits of verbs, nouns and actions, (batch, classes), each for its state (batch, width)."""
        return [head(state) for head, state in zip((self.verb, self.noun, self.action), states, strict=True)]

    def losses(self, states: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Mean cross-entropy of each head over the rows that have a class; labels (batch, 3), -1 for none.

        Without any such row it is 0 and still depends on the head, so that ranks reduce the same gradients [R].
        """
        found = []
        for logits, classes in zip(self(states), labels.unbind(1), strict=True):
            loss = functional.cross_entropy(logits.float(), classes, ignore_index=UNLABELLED, reduction="sum")
            found.append((loss + 0.0 * logits.float().sum()) / (classes != UNLABELLED).sum().clamp(min=1))
        return found


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the labelled tokens; ``logits`` are those of the last positions of ``labels``."""
    kept = logits.shape[1]
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, -kept + 1 :].flatten(), ignore_index=IGNORED
    )


def seen_layers(states: Sequence[Tensor], layers: str) -> Sequence[Tensor]:
    """Of a model's hidden states, embeddings first, those of the layers that the heads see."""
    return {"last": states[-1:], "first": states[1:2], "all": states[1:]}[layers]


def with_losses(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A model's ``forward`` that gives losses by name if it is handed ``answer_labels``, and else what it gave before.

    ``answer_labels`` (batch, length) are token ids, -100 where there is no loss; ``class_labels`` (batch, 3) verb,
    noun and action, -1 where a row has none, or None to train without the action token.
    """

    @functools.wraps(plain)  # `generate` looks at the signature
    def forward(
        self: Any, *args: Any, answer_labels: Tensor | None = None, class_labels: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if answer_labels is None:
            return plain(self, *args, **kwargs)
        length = answer_labels.shape[1]
        labelled = (answer_labels != IGNORED).any(dim=0).nonzero()
        first = max(1, int(labelled[0])) if len(labelled) else length - 1
        # PEFT hands some of these along; only the answers' logits are needed
        asked = {"logits_to_keep": length - first + 1, "output_hidden_states": True, "use_cache": False}
        outputs = plain(self, *args, **(kwargs | asked))
        answer = answer_loss(outputs.logits, answer_labels)
        if class_labels is None:
            return {"loss": answer, "answer_loss": answer.detach()}
        settings = action_settings(self.config)
        places = find_action_token(kwargs["input_ids"], settings.token_id)
        rows = torch.arange(len(places), device=places.device)
        by_head = [places + (offset if settings.more_ids else 0) for offset in range(len(HEADS))]
        by_layer = [
            self.action_heads.losses([states[rows, place] for place in by_head], class_labels)
            for states in seen_layers(outputs.hidden_states, settings.layers)
        ]
        heads = [torch.stack(losses).mean() for losses in zip(*by_layer, strict=True)]
        total = answer + sum(weight * loss for weight, loss in zip(settings.weights, heads, strict=True))
        names = {f"{name}_loss": loss.detach() for name, loss in zip(HEADS, heads, strict=True)}
        return {"loss": total, "answer_loss": answer.detach(), **names}

    return forward


def action_settings(config: Any) -> ActionSettings:
    """What `load_action_model` put into a model's configuration; raises `CheckpointError` where it is not there."""
    settings = getattr(config, "action_token", None)
    if settings is None:
        raise CheckpointError(f"{config.name_or_path}: has no action token; train one with recipes/train_llavaction.py")
    layers, more = settings.get("layers", "last"), tuple(settings.get("more_ids", ()))
    return ActionSettings(settings["token_id"], tuple(settings["classes"]), tuple(settings["weights"]), layers, more)


def load_action_processor(name: str, revision: str | None = None, tokens: int = 1) -> ProcessorMixin:
    """The processor of a Qwen2.5-VL, Qwen3-VL or LLaVA-OneVision checkpoint, with ``tokens`` action tokens (1 or 3)."""
    check_source(name)
    if AutoConfig.from_pretrained(name, revision=revision).model_type == "llava_onevision":
        processor = AutoProcessor.from_pretrained(name, revision=revision)
    else:
        processor = load_processor(name, revision)
    add_action_tokens(processor.tokenizer, tokens)
    return processor


def load_action_model(
    name: str,
    processor: ProcessorMixin,
    classes: Sequence[int],
    weights: Sequence[float] = WEIGHTS,
    seed: int = 0,
    revision: str | None = None,
    trained_positions: bool = True,
    layers: str = "last",
    tokens: int | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """A checkpoint with an action token and heads for ``classes`` (numbers of verbs, nouns and actions).

    Token and heads of a checkpoint that was trained with them are kept, the heads if their numbers are the same. Else
    the token's embedding is drawn from N(0, 1/d) [C] (the released code leaves it uninitialised) and the heads as
    `nn.Linear` does, both by ``seed``. The model stays of its class, so that it is saved, sharded and generates as
    without them; only its ``forward`` gives losses when asked (`with_losses`). ``tokens``: 1, or 3 for a token for each
    head; default: as the checkpoint has. ``kwargs`` go to ``from_pretrained``. Raises `CheckpointError` for an
    architecture that is not one of `MODEL_TYPES`.
    """
    check_source(name)
    config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type not in MODEL_TYPES:
        raise CheckpointError(f"{name}: model type {config.model_type!r} is not one of {', '.join(MODEL_TYPES)}")
    known = getattr(config, "action_token", None)
    there = [] if known is None else [known["token_id"], *known.get("more_ids", ())]
    names = ACTION_TOKENS[: tokens or max(1, len(there))]
    ids = [processor.tokenizer.convert_tokens_to_ids(token) for token in names]
    fresh = [token for token in ids if token not in there]
    if fresh and is_deepspeed_zero3_enabled():
        raise CheckpointError(
            f"{name}: has no action token yet, and DeepSpeed ZeRO-3 shards the embeddings before it is put in; train "
            "with FSDP2 (recipes/configs/accelerate/8gpu_fsdp2.yaml), ZeRO-2 or DDP, or start from the model folder "
            "of a run of one step without ZeRO-3, which has the token"
        )
    model = load_pretrained(AutoModelForImageTextToText, name, unexpected=(PREFIX,), revision=revision, **kwargs)
    sizes, shares = (classes[0], classes[1], classes[2]), (weights[0], weights[1], weights[2])
    settings = ActionSettings(ids[0], sizes, shares, layers, tuple(ids[1:]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.get_input_embeddings().num_embeddings <= max(ids):
            model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        width = model.get_input_embeddings().embedding_dim
        with torch.no_grad():
            for token in fresh:
                embedding_row(model, token).copy_(torch.randn(width) / width**0.5)
        heads = ActionHeads(config.get_text_config().hidden_size, settings.classes)
    kept = known is not None and tuple(known["classes"]) == settings.classes
    if kept:
        load_tensors(heads, read_heads(name), name)
    model.action_heads = heads.to(model.dtype)
    model.config.action_token = asdict(settings)
    model.forward = types.MethodType(with_losses(type(model).forward), model)
    if trained_positions:
        use_trained_positions(model)
    return model


def read_heads(folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The heads' weights in a checkpoint or model folder, by name inside `ActionHeads`; empty where it has none."""
    found: dict[str, Tensor] = {}
    for path in sorted([*Path(folder).glob("*.safetensors"), *(Path(folder) / HEADS_FOLDER).glob("*.safetensors")]):
        with readable(path), safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if name.startswith(PREFIX):
                    found[name.removeprefix(PREFIX)] = tensors.get_tensor(name)
    return found


def load_action_weights(model: PreTrainedModel, checkpoint: str | os.PathLike[str]) -> None:
    """Load a checkpoint folder of a training run into ``model`` with its heads, in place and strictly."""
    plain = load_pretrained(type(model), checkpoint, unexpected=(PREFIX,), dtype=torch.float32).state_dict()
    heads = {PREFIX + name: value for name, value in read_heads(checkpoint).items()}
    load_tensors(model, plain | heads, checkpoint)
