"""From a prompt with one clip, and its answer, to padded model inputs with the action token in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import ProcessorMixin

from data_prep.errors import DataError
from invert_rl.encoding import EncodedPrompt, PromptEncoder, video_inputs
from invert_rl.llavaction.action_token import ACTION_TOKENS, action_place, visual_ids
from invert_rl.llavaction.model import IGNORED, UNLABELLED
from invert_rl.video.clip import Clip

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Encoded:
    """One prompt, with its answer if there is one, and its clip."""

    ids: list[int]
    kinds: list[int]
    """0 text, 2 video; same length as ``ids``."""
    answer: int
    """How many of the last ids are the answer."""
    video: dict[str, Tensor]
    """The video tensors that the model's forward takes."""
    classes: tuple[int, int, int] = field(default=(UNLABELLED, UNLABELLED, UNLABELLED))
    """Verb, noun and action; -1 where there is none."""
    prompt: EncodedPrompt | None = None
    """The same without the answer as an engine takes it; None for LLaVA-OneVision."""


class ClipEncoder:
    """Encodes text under a clip for Qwen2.5-VL, Qwen3-VL and LLaVA-OneVision.

    Args:
        processor: of the checkpoint, with the action token in its tokenizer.
        config: the model's configuration.
        action_token: put the token in; False gives the plain prompt.
        max_length: most tokens of prompt and answer; a longer one is refused, never cut. Default: the model's places.
    """

    def __init__(
        self, processor: ProcessorMixin, config: Any, action_token: bool = True, max_length: int | None = None
    ) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        places = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.max_length = places if max_length is None else max_length
        self.placeholders, self.closing = visual_ids(processor, config)
        self.video_token_id = config.video_token_id
        more = (getattr(config, "action_token", None) or {}).get("more_ids", ())
        names = ACTION_TOKENS[: 1 + len(more)] if action_token else ()
        self.token_ids = [self.tokenizer.convert_tokens_to_ids(name) for name in names]
        self.end_id = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.qwen = PromptEncoder(processor) if config.model_type != "llava_onevision" else None

    def __call__(
        self,
        text: str,
        clip: Clip,
        answer: str | None = None,
        classes: tuple[int, int, int] = (UNLABELLED, UNLABELLED, UNLABELLED),
    ) -> Encoded:
        """Encode the user's ``text`` after the clip, and ``answer`` with its end token.

        Raises `DataError` where it is longer than ``max_length``.
        """
        chat = [{"role": "user", "content": [{"type": "video", "video": clip.path}, {"type": "text", "text": text}]}]
        prompt = None
        if self.qwen is not None:
            prompt = self._with_token(self.qwen(chat, clip))
            ids, kinds, video = prompt.input_ids, prompt.mm_token_type_ids, video_inputs([prompt])
        else:
            ids, kinds, video = self._llava(chat, clip)
        taught = [] if answer is None else [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.end_id]
        if self.max_length is not None and len(ids) + len(taught) > self.max_length:
            raise DataError(
                f"{clip.path}: prompt and answer have {len(ids) + len(taught)} tokens, more than max_length "
                f"{self.max_length}; take fewer or smaller frames, nothing is cut off"
            )
        return Encoded([*ids, *taught], [*kinds, *([0] * len(taught))], len(taught), video, classes, prompt)

    @property
    def token_id(self) -> int | None:
        """Of the action token, or the first of three; None without any."""
        return self.token_ids[0] if self.token_ids else None

    def never_answered(self) -> list[int]:
        """Ids that no answer may hold: action tokens, placeholders and their borders."""
        names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", *ACTION_TOKENS)
        vocabulary = self.tokenizer.get_vocab()
        return sorted({*self.placeholders, *(vocabulary[name] for name in names if name in vocabulary)})

    def _llava(self, chat: list[dict[str, Any]], clip: Clip) -> tuple[list[int], list[int], dict[str, Tensor]]:
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        inputs = self.processor(text=[text], videos=[clip.frames], return_tensors="pt", do_sample_frames=False)
        ids = inputs["input_ids"][0].tolist()
        ids = self._token_put_in(ids)
        kinds = [2 * (token == self.video_token_id) for token in ids]
        return ids, kinds, {"pixel_values_videos": inputs["pixel_values_videos"]}

    def _token_put_in(self, ids: Sequence[int]) -> list[int]:
        """A prompt's ids with the action tokens in their place, if this encoder has any."""
        if not self.token_ids:
            return list(ids)
        place = action_place(ids, self.placeholders, self.closing)
        return [*ids[:place], *self.token_ids, *ids[place:]]

    def _with_token(self, prompt: EncodedPrompt) -> EncodedPrompt:
        """A prompt with the action token in its place, also before its placeholder is expanded."""
        if not self.token_ids:
            return prompt
        place = action_place(prompt.input_ids, self.placeholders, self.closing)
        kinds = [*prompt.mm_token_type_ids[:place], *([0] * len(self.token_ids)), *prompt.mm_token_type_ids[place:]]
        return replace(
            prompt,
            input_ids=self._token_put_in(prompt.input_ids),
            mm_token_type_ids=kinds,
            unexpanded_ids=self._token_put_in(prompt.unexpanded_ids),
        )

    def batch(self, items: Sequence[Encoded], side: Side = "left", labels: bool = True) -> dict[str, Tensor]:
        """Model inputs of several items, padded on one side; text tensors are (batch, longest).

        With ``labels`` they hold ``answer_labels`` and, unless the action token is left out, ``class_labels``.
        """
        longest = max(len(item.ids) for item in items)

        def pad(values: list[int], padding: int) -> list[int]:
            missing = [padding] * (longest - len(values))
            return missing + values if side == "left" else values + missing

        inputs = {
            "input_ids": [pad(item.ids, self.tokenizer.pad_token_id) for item in items],
            "attention_mask": [pad([1] * len(item.ids), 0) for item in items],
        }
        if self.qwen is not None:
            inputs["mm_token_type_ids"] = [pad(item.kinds, 0) for item in items]
        if labels:
            inputs["answer_labels"] = [
                pad([IGNORED] * (len(item.ids) - item.answer) + item.ids[len(item.ids) - item.answer :], IGNORED)
                for item in items
            ]
            if self.token_ids:
                inputs["class_labels"] = [list(item.classes) for item in items]
        tensors = {name: torch.tensor(values) for name, values in inputs.items()}
        return tensors | {name: self._videos([item.video[name] for item in items]) for name in items[0].video}

    def together(self, items: Sequence[Encoded]) -> list[list[int]]:
        """The places of the items in groups that can be one batch."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, item in enumerate(items):
            groups.setdefault(self._shape(item), []).append(place)
        return list(groups.values())

    def check_together(self, first: Encoded, second: Encoded) -> None:
        """Raise `DataError` for clips that cannot be in one batch."""
        if self._shape(first) != self._shape(second):
            raise DataError(
                f"clips of {first.video['pixel_values_videos'].shape[1]} and "
                f"{second.video['pixel_values_videos'].shape[1]} frames cannot be in one batch of LLaVA-OneVision; set "
                "--min_frames and --max_frames to the same number, then shorter clips repeat frames"
            )

    def _shape(self, item: Encoded) -> tuple[int, ...]:
        """What clips of a batch have in common: nothing for Qwen, all sizes for LLaVA-OneVision."""
        return () if self.qwen is not None else tuple(item.video["pixel_values_videos"].shape)

    def _videos(self, tensors: list[Tensor]) -> Tensor:
        return torch.cat(tensors)
