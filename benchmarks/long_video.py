"""A long video: what a frame costs by where it is, and a training step on 16k prompt tokens of it.

``python -m benchmarks.long_video [--minutes 30] [--tokens 16000] [--no-train] [--json]`` makes a clip with a key frame
every 250 frames and B frames. Compared are, in processor seconds, frames taken from 1, 50 and 99 % of it by
`data_prep.decode.decode_at`, which seeks, and by decoding from the start; and as many frames as are asked for by
``--frames`` over the whole clip against decoding it all. Their pictures must be equal. Then a tiny model with a frozen
vision tower takes one GRPO step on a prompt of that many tokens; ``peak_rss_mib`` is the most memory the process had.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np

from data_prep.decode import VideoInfo, decode_at, list_frames

RATE, GROUP = 10, 250
"""Frames per second, and frames from key frame to key frame."""
HEIGHT, WIDTH = 108, 192
POSITIONS = (0.01, 0.5, 0.99)
FRAMES = 768
"""The most that the model sees; a pair of them is one step of its grid."""
WINDOW = 20
"""Frames taken at each position, half a second apart."""


def make_video(path: Path, seconds: int) -> None:
    """A clip whose picture moves on with every frame."""
    y, x = np.mgrid[0:HEIGHT, 0 : 2 * WIDTH].astype(np.float32)
    wide = np.stack([127 + 100 * np.sin(0.05 * x + 0.03 * k * y) for k in range(3)], axis=-1).astype(np.uint8)
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "bf": "2", "g": str(GROUP), "x264-params": f"scenecut=0:keyint={GROUP}"}
        stream: Any = container.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(seconds * RATE):
            image = np.ascontiguousarray(wide[:, index % WIDTH : index % WIDTH + WIDTH])
            image[:8] = index * 255 // (seconds * RATE)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def taken(path: Path, info: VideoInfo, wanted: Sequence[int], to_end: bool) -> tuple[dict[int, np.ndarray], float]:
    """The pictures of some frames, and the processor seconds they took."""
    start = time.process_time()
    pictures, found = decode_at(path, info, wanted, np.copy, to_end)
    assert found is info
    return pictures, time.process_time() - start


def compare_positions(path: Path, frames: int) -> dict[str, Any]:
    """Seconds by position, seeking and from the start, and those of ``frames`` frames over all of the clip."""
    start = time.process_time()
    info = list_frames(path)
    result: dict[str, Any] = {"frames": info.frames, "listing_seconds": round(time.process_time() - start, 3)}
    unindexed = replace(info, keyframes=())  # nowhere to seek to
    rows = []
    for position in POSITIONS:
        first = round(position * (info.frames - WINDOW * RATE // 2))
        wanted = [first + number * RATE // 2 for number in range(WINDOW)]
        pictures, seconds = taken(path, info, wanted, to_end=False)
        from_start, all_seconds = taken(path, unindexed, wanted, to_end=False)
        assert all(np.array_equal(pictures[index], from_start[index]) for index in wanted)
        ms = {"ms_per_frame": seconds, "from_start_ms_per_frame": all_seconds}
        rows.append({"position": position, **{name: round(value / WINDOW * 1e3, 2) for name, value in ms.items()}})
    result["positions"] = rows
    costs = [row["ms_per_frame"] for row in rows]
    result["last_over_first"] = round(costs[-1] / costs[0], 2)
    wanted = [number * info.frames // frames for number in range(frames)]
    _, some = taken(path, info, wanted, to_end=True)
    _, every = taken(path, unindexed, wanted, to_end=True)
    result |= {"spread_frames": frames, "spread_seconds": round(some, 3), "whole_seconds": round(every, 3)}
    result["spread_ratio"] = round(every / some, 2)
    return result


def train(folder: Path, name: str, seconds: float, tokens: int) -> dict[str, Any]:
    """One GRPO step of a tiny Qwen2.5-VL on a prompt of at least ``tokens`` tokens."""
    from transformers import PrinterCallback

    from data_prep.rows import Row
    from invert_rl.grpo.config import InvertGRPOConfig
    from invert_rl.grpo.trainer import InvertGRPOTrainer
    from invert_rl.models import load_model, load_processor
    from invert_rl.models.tiny import save_tiny_checkpoint
    from invert_rl.video.store import FrameStore

    def share_of_even(completions: list, completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]

    checkpoint = str(save_tiny_checkpoint(folder / "model", "qwen2_5_vl", seed=0, hidden=64, layers=2, vision_blocks=2))
    args = InvertGRPOConfig(
        output_dir=str(folder / "run"),
        tasks=["tvg"],
        tvg_probability=1.0,
        max_frames=FRAMES,
        min_pixels=-(-tokens // (min(FRAMES, 2 * int(seconds)) // 2)) * 28 * 28,
        max_prompt_length=2 * tokens,
        freeze_vision=True,
        vision_store=str(folder / "features"),
        per_device_train_batch_size=8,
        num_generations=8,
        max_completion_length=16,
        max_steps=1,
        learning_rate=1e-3,
        gradient_checkpointing=True,
        bf16=False,
        use_cpu=True,
        report_to=["none"],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    processor = load_processor(checkpoint)
    trainer = InvertGRPOTrainer(
        model=load_model(checkpoint),
        rows=[Row("a", name, seconds, "the band moves", ((seconds / 3, seconds / 2),))],
        reward_funcs=[share_of_even],
        args=args,
        processing_class=processor,
        store=FrameStore(folder, args.frame_settings(processor.video_processor.patch_size), in_process=True),
    )
    trainer.remove_callback(PrinterCallback)
    began = time.process_time()
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    per_completion = log["num_tokens"] / args.num_generations - log["completions/mean_length"]
    return {
        "prompt_tokens": round(per_completion),
        "cpu_seconds": round(time.process_time() - began, 1),
        **{key: round(value, 2) for key, value in log.items() if key.startswith("time/")},
        "grad_norm": log["grad_norm"],
        "self_check": log["score/self_check"],
        "features_mib": round(sum(file.stat().st_size for file in (folder / "features").rglob("*.*")) / 2**20, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the clip")
    parser.add_argument("--frames", type=int, default=16, help="frames spread over the clip")
    parser.add_argument("--tokens", type=int, default=16_000, help="least prompt tokens of the training step")
    parser.add_argument("--no-train", action="store_true", help="decoding only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = round(args.minutes * 60)
        make_video(folder / "long.mp4", seconds)
        result: dict[str, Any] = {
            "compared": "frames of a long video by seeking against decoding from its start, processor time",
            "minutes": args.minutes,
            **compare_positions(folder / "long.mp4", args.frames),
        }
        if not args.no_train:
            result["step"] = train(folder, "long.mp4", seconds, args.tokens)
    if args.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()
