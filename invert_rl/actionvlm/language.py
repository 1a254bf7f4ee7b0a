"""Language feature generation (ActionVLM, section 3.2): a causal language model over frames and special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from invert_rl.actionvlm.prompt import Prompt

LAYOUTS = ("interleaved", "blocks")
TOKENS = ("separate", "shared", "vision")
IGNORED = -100


@dataclass(frozen=True)
class LanguageFeatures:
    """Last hidden states at the tokens of each frame, ``(B, L, D)``; without a norm."""

    classify: Tensor
    """F_lang,cls."""
    localize: Tensor
    """F_lang,loc."""
    advantage: Tensor
    """F_adv."""
    text_loss: Tensor | None
    """Cross-entropy of the answer, a scalar (eq. 8); None without answers."""


class LanguageModel(nn.Module):
    """A causal language model that reads the prompt, and for each frame its feature and its special tokens.

    The special tokens are three vectors of their own: the model's vocabulary stays as it is.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        prompt: Prompt,
        end_token: int,
        layout: str = "interleaved",
        tokens: str = "separate",
        digits: Sequence[int] = (),
    ) -> None:
        """``llm`` is a causal language model with a decoder and output embeddings, ``end_token`` ends an answer.

        ``layout``: ``interleaved`` [S 3.2] puts a frame's special tokens behind its feature, so that they see the past;
        ``blocks`` [R] all features first, then all [cls], all [loc], all [adv]. ``tokens``: ``separate``; ``shared``,
        one token for [cls] and [loc] (table 9 b); ``vision``, language features at the frames themselves. ``digits``
        are the ids of 0 to 9, for `written`.
        """
        super().__init__()
        if layout not in LAYOUTS or tokens not in TOKENS:
            raise ValueError(f"layout is one of {LAYOUTS} and tokens of {TOKENS}, not {layout!r}, {tokens!r}")
        self.llm = llm
        self.prompt = prompt
        self.end_token = end_token
        self.layout, self.tokens, self.digits = layout, tokens, list(digits)
        self.names = {"separate": ("cls", "loc", "adv"), "shared": ("cls", "adv"), "vision": ("adv",)}[tokens]
        width = self.width
        self.special = nn.Parameter(torch.empty(len(self.names), width))
        deviation = float(llm.get_input_embeddings().weight.detach().float().std())
        nn.init.normal_(self.special, std=deviation)

    @property
    def width(self) -> int:
        """D, channels of the model's hidden states."""
        return int(self.llm.get_input_embeddings().weight.shape[1])

    def forward(self, frames: Tensor, mask: Tensor, answers: Sequence[Sequence[int]] | None = None) -> LanguageFeatures:
        """Language features of frames ``(B, L, D)`` with a mask ``(B, L)``; ``answers`` are token ids of each video.

        Answers are taught by teacher forcing. Without them the prompt runs once and nothing is decoded: the one token
        of text that the paper allows at inference (A.2) would follow from the same pass, and nothing uses it.
        """
        inputs, attention = self._inputs(frames, mask)
        prompt_length = inputs.shape[1]
        labels = None
        if answers is not None:
            labels = self._labels(answers, inputs.device)
            words = self._embed(labels.clamp(min=0))
            inputs = torch.cat([inputs, words], dim=1)
            attention = torch.cat([attention, labels != IGNORED], dim=1)
        hidden = self._hidden(inputs, attention)
        text_loss = None
        if labels is not None:
            before_answer = hidden[:, prompt_length - 1 : -1]
            logits = self.llm.get_output_embeddings()(before_answer)
            text_loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        first = len(self.prompt.before)
        span = hidden[:, first : first + frames.shape[1] * (1 + len(self.names))].to(frames.dtype)
        slots = {"vision": 0, **{name: 1 + index for index, name in enumerate(self.names)}}
        of_token = self._split(span, 1 + len(self.names))
        classify = of_token[slots.get("cls", 0)]
        localize = of_token[slots.get("loc", slots.get("cls", 0))]
        return LanguageFeatures(classify, localize, of_token[slots["adv"]], text_loss)

    def written(self, states: Tensor) -> Tensor:
        """λ ``(B, L)`` in [0, 1] that the language model writes behind the states ``(B, L, D)`` of its [adv] tokens.

        The paper names such a weight (table 4) and no more. Here it is the digit 0 to 9 that would come next, a ninth
        each, in expectation over the ten, so that the detection loss reaches the language model [C].
        """
        head = self.llm.get_output_embeddings()
        logits = head(states.to(head.weight.dtype))[..., self.digits].float()
        return logits.softmax(dim=-1) @ torch.linspace(0, 1, len(self.digits), device=states.device)

    @torch.no_grad()
    def generate(self, frames: Tensor, mask: Tensor, max_new_tokens: int) -> list[list[int]]:
        """Token ids that the model answers by itself, greedily: what question-answering models would do (table 2)."""
        inputs, attention = self._inputs(frames, mask)
        generated = self.llm.generate(
            inputs_embeds=inputs.to(self.llm.dtype),
            attention_mask=attention.long(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.end_token,
            pad_token_id=self.end_token,
        )
        answers = []
        for ids in generated.tolist():
            answers.append(ids[: ids.index(self.end_token)] if self.end_token in ids else ids)
        return answers

    def _inputs(self, frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, S, D)`` of prompt, frames and special tokens, and which of them count ``(B, S)``."""
        batch = len(frames)
        special = self.special[:, None, None].expand(-1, *frames.shape[:2], -1)
        tokens = torch.cat([frames[None], special.to(frames.dtype)])  # (1 + K, B, L, D)
        if self.layout == "interleaved":
            tokens = tokens.permute(1, 2, 0, 3).flatten(1, 2)
            of_tokens = mask.bool().repeat_interleave(len(special) + 1, dim=1)
        else:
            tokens = tokens.transpose(0, 1).flatten(1, 2)
            of_tokens = mask.bool().repeat(1, len(special) + 1)
        parts, counts = [], []
        for ids in (self.prompt.before, self.prompt.after):
            embedded = self._embed(torch.tensor([ids], dtype=torch.long, device=frames.device))
            parts.append(embedded.expand(batch, -1, -1).to(tokens.dtype))
            counts.append(of_tokens.new_ones(batch, len(ids)))
        return torch.cat([parts[0], tokens, parts[1]], dim=1), torch.cat([counts[0], of_tokens, counts[1]], dim=1)

    def _split(self, span: Tensor, kinds: int) -> list[Tensor]:
        """The hidden states of each kind of token, ``(B, L, D)`` each, out of ``(B, kinds * L, D)``."""
        if self.layout == "interleaved":
            return list(span.unflatten(1, (-1, kinds)).unbind(dim=2))
        return list(span.unflatten(1, (kinds, -1)).unbind(dim=1))

    def _labels(self, answers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        """Ids of the answers and their end ``(B, A)``, filled up with `IGNORED`."""
        whole = [[*ids, self.end_token] for ids in answers]
        longest = max(map(len, whole))
        return torch.tensor([ids + [IGNORED] * (longest - len(ids)) for ids in whole], device=device)

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.llm.get_input_embeddings()(ids)
        return embedded

    def _hidden(self, inputs: Tensor, attention: Tensor) -> Tensor:
        decoder = self.llm.get_decoder()
        places = (attention.long().cumsum(dim=1) - 1).clamp(min=0)  # padding between frames and text takes none
        outputs = decoder(
            inputs_embeds=inputs.to(self.llm.dtype),
            attention_mask=attention.long(),
            position_ids=places,
            use_cache=False,
        )
        hidden: Tensor = outputs.last_hidden_state
        return hidden
