"""The toy model's tokenizer: Qwen's scheme and special tokens with a vocabulary of a few hundred."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from invert_rl.tasks import DEFAULT_TASKS, TASKS
from invert_rl.toy.queries import COLOURS, OBJECTS, VERBS, all_bodies

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen's special tokens by name; here their ids are 0 to 7."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Ordinary tokens (kept by ``skip_special_tokens``) for what every completion must hold."""
VOCABULARY = 900
"""Largest number of tokens before the tags."""

CHAT_TEMPLATE = """\
{%- if not messages or messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part.type == 'image' or part.type == 'image_url' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.text is string -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""The chat as Qwen2.5-VL writes it: a default system line, one turn per message, placeholders for vision."""


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer on ``texts``; it encodes any text, as all 256 bytes are tokens."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return Qwen2Tokenizer(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,  # as in the released tokenizers: bytes cover everything
        bos_token=None,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in ("<|im_end|>", "<|endoftext|>")],
        padding_side="left",
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def toy_texts() -> list[str]:
    """What the toy tokenizer is trained on: the tasks' prompts, the chat's words every wording of a query."""
    texts = ["system\n", "user\n", "assistant\n", "You are a helpful assistant.", "0123456789. to"] * 64
    for task in (TASKS[name] for name in DEFAULT_TASKS):
        # A tag always is a token of its own, so what stands around it is learned as separate texts.
        for piece in re.split("|".join(TAGS), task.prompt.format(query="", masked_query="the person [] the box")):
            texts += [piece] * 64
    for verb in VERBS:
        for noun in OBJECTS:
            for colour in COLOURS:
                for text, masked in all_bodies(verb, noun, colour):
                    texts += [text, f" {masked}"]
        texts += [verb, f" {verb}"] * 64
    return texts
