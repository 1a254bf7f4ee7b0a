"""Questions answered by vLLM: the same prompts and frames, many at a time, through evaluation's engine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from accelerate import PartialState

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.evaluation.model import choose_backend
from invert_rl.evaluation.predict import Complete
from invert_rl.llavaction.answers.answer import QuestionAnswerer
from invert_rl.llavaction.answers.loaded import has_trained_positions
from invert_rl.llavaction.data import SampleEncoder
from invert_rl.llavaction.encode import Encoded

BATCH = {"transformers": 16, "vllm": 256}
"""Questions at a time unless ``--batch-size`` says."""


class EngineAnswerer(QuestionAnswerer):
    """Has an engine complete the prompts, greedily; clips of any number of frames go together.

    Args:
        complete: from `complete_with_vllm`.
        encode: as for `QuestionAnswerer`, for a Qwen model.
        batch_size: questions at a time.
    """

    def __init__(self, complete: Complete, encode: SampleEncoder, batch_size: int) -> None:
        self.complete, self.encode, self.batch_size = complete, encode, batch_size
        self.rank, self.ranks = 0, 1

    def _say(self, encoded: Sequence[Encoded], rows: Sequence[Row]) -> list[str]:
        prompts = [item.prompt for item in encoded if item.prompt is not None]
        return self.encode.encoder.tokenizer.batch_decode(self.complete(prompts), skip_special_tokens=True)


def backend_of(args: argparse.Namespace, encode: SampleEncoder, state: PartialState) -> str:
    """``transformers`` or ``vllm``, as `choose_backend`; what needs a model's scores is not for an engine.

    Raises `DataError` where vLLM is asked for with such an option, or for LLaVA-OneVision, whose frames its own
    processor would resize once more.
    """
    reasons = [
        (encode.encoder.qwen is None, "LLaVA-OneVision, whose frames vLLM would process once more"),
        (not has_trained_positions(args), "a model with the positions of transformers, which vLLM does not have"),
        (args.likeliest, "--likeliest, which needs the probability of every option"),
        (bool(args.appending), "--appending, which needs the probability of every class"),
    ]
    against = next((why for there, why in reasons if there), None)
    if against is None:
        return choose_backend(args.backend, state)
    if args.backend == "vllm":
        raise DataError(f"--backend vllm does not take {against}; use --backend transformers")
    return "transformers"


def engine_answerer(args: argparse.Namespace, encode: SampleEncoder, batch_size: int) -> tuple[EngineAnswerer, str]:
    """An answerer with a vLLM engine for ``args.model``, made for the clips' frames, and the engine's precision."""
    from invert_rl.evaluation.vllm_backend import complete_with_vllm
    from invert_rl.grpo.vllm_limits import engine_limits

    encoder = encode.encoder
    limits = engine_limits(encode.store.settings, args.max_new_tokens, positions=encoder.max_length)
    complete, dtype, encoder.max_length = complete_with_vllm(
        args.model, None, encoder.processor, args.max_new_tokens, args.dtype, limits, encoder.never_answered()
    )
    return EngineAnswerer(complete, encode, batch_size), dtype
