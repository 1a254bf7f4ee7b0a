"""Protocols by name: how each benchmark's published numbers were made, ``invert-rl evaluate --protocol NAME``.

A name is ``benchmark/publisher``. It fixes the rules of counting and, where the publisher fixes them, the prompt, its
place before or after the video, the frames and the length of answers. docs/evaluation.md has them as a table, with the
evaluator that ours was compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from data_prep.errors import DataError
from invert_rl.evaluation.protocols.rules import Rules
from invert_rl.tasks.base import WindowMode

TIME_R1_FRAMES = {"fps": 2.0, "total_pixels": 3584, "min_pixels": 16}
TIMELENS_FRAMES = {"fps": 2.0, "total_pixels": 14336, "min_pixels": 64, "max_frames": 14336}
TIMELENS2_FRAMES = {"fps": 4.0, "total_pixels": 128_000, "max_frames": 2048}
VUE_TR_FRAMES = {"fps": 1.0, "total_pixels": 128_000, "max_frames": 2048}
LONG_FRAMES = {"fps": 2.0, "total_pixels": 128_000, "max_frames": 2048}


@dataclass(frozen=True)
class NamedProtocol:
    """What a publisher fixes; what it leaves open (None, empty) is the model's own."""

    who: str
    """Whose numbers are made so."""
    rules: Rules
    windows: WindowMode = "any"
    """What is asked of queries with several windows."""
    prompt: str | None = None
    """Preset; its ``video`` says whether the text stands before or after the frames."""
    frames: Mapping[str, float] = field(default_factory=dict)
    """Frame settings; pixels in tokens of the model (28 x 28 pixels for Qwen2.5-VL, 32 x 32 for Qwen3-VL)."""
    max_new_tokens: int | None = None

    def frame_settings(self, factor: int) -> dict[str, Any]:
        """``frames`` for a model whose token is ``factor`` pixels high and wide."""
        return {
            name: int(value) * factor * factor if name.endswith("_pixels") else value if name == "fps" else int(value)
            for name, value in self.frames.items()
        }


TIME_R1 = NamedProtocol(
    "Time-R1",
    Rules(comparison=">", reader="time_r1", missing="left out"),
    prompt="time_r1",
    frames=TIME_R1_FRAMES,
    max_new_tokens=1024,
)
TIMELENS = NamedProtocol(
    "TimeLens",
    Rules(reader="timelens", rounding="nearest", duplicates="merged, query cleaned"),
    prompt="timelens",
    frames=TIMELENS_FRAMES,
    max_new_tokens=512,
)
VUE_TR = NamedProtocol(
    "Vidi, Vidi2", Rules(measure="vue_tr", rounding="outward"), windows="all", prompt="vue_tr", frames=VUE_TR_FRAMES
)
TIMELENS2 = NamedProtocol(
    "TimeLens2",
    Rules(thresholds=(0.1, 0.2, 0.3, 0.5, 0.7), reader="timelens2"),
    prompt="ego4d_nlq",
    frames=LONG_FRAMES,
    max_new_tokens=4096,
)

PROTOCOLS: dict[str, NamedProtocol] = {
    "charades-sta/published": NamedProtocol("papers on Charades-STA; VSLNet, moment_detr, TimeZero", Rules()),
    "charades-sta/videochat-r1": NamedProtocol(
        "VideoChat-R1, TimeZero",
        Rules(reader="time_r1", missing="left out"),
        prompt="videochat_r1",
        frames=TIME_R1_FRAMES,
        max_new_tokens=2048,
    ),
    "charades-sta/time-r1": TIME_R1,
    "charades-sta/lmms-eval": NamedProtocol(
        "lmms-eval temporal_grounding_charades",
        Rules(reader="lmms_eval", swapped="ordered", duplicates="merged"),
        prompt="lmms_eval",
        max_new_tokens=50,
    ),
    "charades-sta/museg": NamedProtocol(
        "MUSEG",
        Rules(reader="museg", thresholds=(0.1, 0.3, 0.5, 0.7), measure="f1"),
        frames={"total_pixels": 3584},
        max_new_tokens=512,
    ),
    "activitynet-captions/published": NamedProtocol("papers on ActivityNet Captions", Rules()),
    "activitynet-captions/time-r1": TIME_R1,
    "tacos/2d-tan": NamedProtocol(
        "2D-TAN and detectors after it",
        Rules(windows="clipped", comparison=">", thresholds=(0.1, 0.3, 0.5), ranks=(1, 5)),
    ),
    "tacos/published": NamedProtocol("video LLMs", Rules(windows="clipped")),
    "didemo/official": NamedProtocol(
        "DiDeMo (LocalizingMoments), which ranks all moments of 5 s chunks", Rules(measure="chunks")
    ),
    "qvhighlights/moment-detr": NamedProtocol("papers on QVHighlights", Rules(thresholds=(0.5, 0.7))),
    "tvgbench/published": replace(
        TIME_R1,
        who="Time-R1, whose reader does not apply the clips of 252 rows",
        rules=replace(TIME_R1.rules, clips="ignored", unscorable=(11, 800)),
    ),
    "tvgbench/clips": replace(
        TIME_R1,
        who="ours: as tvgbench/published with the clips of 252 rows applied, and rows without an answer counted",
        rules=replace(TIME_R1.rules, missing="zero", unscorable=(11, 800)),
    ),
    "timelens-bench/official": TIMELENS,
    "timelens-bench/lmms-eval": replace(
        TIMELENS,
        who="lmms-eval timelens_charades, timelens_activitynet, timelens_qvhighlights",
        rules=replace(TIMELENS.rules, rounding="none"),
        frames={},
        max_new_tokens=50,
    ),
    "timelens-bench/timelens2": replace(
        TIMELENS,
        who="TimeLens2 (VLMEvalKit), which samples (temperature 0.01, top_k 1, presence_penalty 1.5); ours is greedy",
        rules=Rules(reader="timelens", missing="left out", unparsable="left out"),
        frames=TIMELENS2_FRAMES,
        max_new_tokens=4096,
    ),
    "vue-tr/official": VUE_TR,
    "vue-tr/timelens2": replace(
        VUE_TR,
        who="TimeLens2, on queries about pictures alone",
        rules=replace(VUE_TR.rules, reader="timelens2", missing="left out"),
        max_new_tokens=4096,
    ),
    "momentseeker/timelens2": replace(
        TIMELENS2,
        who="TimeLens2, on text queries",
        rules=Rules(measure="set", rounding="outward", reader="timelens2", missing="left out"),
        windows="all",
        prompt="momentseeker",
    ),
    "ego4d-nlq/challenge": NamedProtocol("Ego4D's challenge", Rules(thresholds=(0.3, 0.5), ranks=(1, 5))),
    "ego4d-nlq/timelens2": TIMELENS2,
    "next-gqa/official": NamedProtocol(
        "NExT-GQA, grounding part", Rules(measure="iop", thresholds=(0.3, 0.5), missing="left out")
    ),
    "rextime/official": NamedProtocol("ReXTime, grounding part", Rules(thresholds=(0.3, 0.5))),
    "hirest/official": NamedProtocol("HiREST moment retrieval", Rules(thresholds=(0.5, 0.7))),
    "museg/official": NamedProtocol(
        "MUSEG, several spans",
        Rules(reader="museg", thresholds=(0.1, 0.3, 0.5, 0.7), measure="f1"),
        windows="all",
        max_new_tokens=512,
    ),
    "et-bench/tvg": NamedProtocol(
        "E.T. Bench; its F1@m is our R1@m",
        Rules(reader="first_in_order", swapped="ordered", thresholds=(0.1, 0.3, 0.5, 0.7)),
    ),
    "extremewhenbench/lmms-eval": NamedProtocol(
        "ExtremeWhenBench in lmms-eval, which prints fractions", Rules(reader="extreme_when", swapped="ordered")
    ),
    "ra-rft/published": NamedProtocol(
        "RA-RFT, whose decisions a judge model reads; ours are read by rule", Rules(measure="refusal")
    ),
}
"""By name; docs/evaluation.md prints this table."""


def named_protocol(name: str) -> NamedProtocol:
    """The protocol of that name; raises `DataError` with those there are."""
    if name not in PROTOCOLS:
        raise DataError(f"--protocol {name!r} is unknown; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
