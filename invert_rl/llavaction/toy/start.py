"""The tiny model that the toy default starts from: a language model that can find an option, and has seen no clip."""

from __future__ import annotations

import torch
from accelerate import PartialState
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from invert_rl.llavaction.model import IGNORED
from invert_rl.llavaction.mqa import LETTERS, options_text
from invert_rl.llavaction.toy.kitchen import NOUNS, VERBS
from invert_rl.models.tiny import build_model, save_checkpoint
from invert_rl.runs import cache_folder
from invert_rl.toy.tiny_model import build_config, build_processor
from invert_rl.toy.tiny_tokenizer import build_tokenizer

VERSION = 1
"""Raised whenever the same seed would give another start."""
SHAPE = {"hidden": 96, "layers": 3, "intermediate": 192, "vision_hidden": 96, "vision_blocks": 2}
SPREAD = 0.1
"""Standard deviation of the first weights. With the usual 0.02 so small a model takes several times the steps to find
out that a letter belongs to what stands behind it."""
STEPS, BATCH, RATE = 600, 32, 2e-3
ONE_NOUN = 0.25
"""Share of the texts' questions whose options are all of one noun."""
COUNT = 5


def toy_start(seed: int) -> str:
    """Folder of a tiny Qwen2.5-VL, in the cache folder; the main process makes it, in half a minute of one core."""
    folder = cache_folder() / f"toy-kitchen-start-v{VERSION}-seed{seed}"
    with PartialState().main_process_first():
        if not (folder / "processor_config.json").is_file():
            tokenizer = kitchen_tokenizer()
            model = build_model(build_config(tokenizer, **SHAPE), seed)
            spread_weights(model, seed)
            teach_letters(model, tokenizer, seed)
            save_checkpoint(model, build_processor(tokenizer), folder, torch.float32)
    return str(folder)


def kitchen_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer in which every verb and noun of the kitchen is one token."""
    texts = [f"{verb} {noun}" for verb in VERBS for noun in NOUNS]
    chat = ["system\n", "user\n", "assistant\n", "You are a helpful assistant.", options_text(texts[:COUNT])]
    return build_tokenizer([*chat, *texts, *(f" {text}" for text in texts)] * 16)


def spread_weights(model: nn.Module, seed: int) -> None:
    """Draw all matrices of a model anew, from N(0, `SPREAD`²)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.copy_(SPREAD * torch.randn(weight.shape, generator=generator))


def text_question(generator: torch.Generator) -> tuple[str, str]:
    """A question that names an action and lists options, and its answer: ``push cup`` … ``C. push cup``.

    In a share of `ONE_NOUN` all options are of one noun, in the others of any.
    """
    if torch.rand((), generator=generator) < ONE_NOUN:
        noun = int(torch.randint(len(NOUNS), (), generator=generator))
        options = [f"{VERBS[v]} {NOUNS[noun]}" for v in torch.randperm(len(VERBS), generator=generator)[:COUNT]]
    else:
        drawn = torch.randperm(len(VERBS) * len(NOUNS), generator=generator)[:COUNT].tolist()
        options = [f"{VERBS[n // len(NOUNS)]} {NOUNS[n % len(NOUNS)]}" for n in drawn]
    place = int(torch.randint(COUNT, (), generator=generator))
    return f"{options[place]}\n{options_text(options)}", f"{LETTERS[place]}. {options[place]}"


def teach_letters(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int, steps: int = STEPS) -> float:
    """Train a model on `text_question`, in place; returns the loss of the last step.

    Any language model that video LLMs start from can do this; one of this size has to be taught. No clip is shown.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 20, (steps - step) / (0.25 * steps))
    )
    loss = torch.zeros(())
    model.train()
    for _ in range(steps):
        prompts, answers = zip(*(text_question(generator) for _ in range(BATCH)), strict=True)
        ids, labels = text_batch(prompts, answers, tokenizer)
        logits = model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long()).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return float(loss)


def text_batch(
    prompts: tuple[str, ...], answers: tuple[str, ...], tokenizer: PreTrainedTokenizerBase
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of chats with their answers, padded on the left, and labels that are the answers alone; (batch, longest)."""
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        taught = tokenizer(f"{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
        rows.append((tokenizer(chat, add_special_tokens=False)["input_ids"], taught))
    longest = max(len(chat) + len(taught) for chat, taught in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for number, (chat, taught) in enumerate(rows):
        ids[number, longest - len(chat) - len(taught) :] = torch.tensor([*chat, *taught])
        labels[number, longest - len(taught) :] = torch.tensor(taught)
    return ids, labels
