"""The toy model's eyes: its vision tower first learns to tell what happens in each picture of a clip.

Released video LLMs get a tower that was trained before their language model was; one with random weights learns to see
far too slowly through the few words of an answer. Like those it is aligned with words: a pair of frames is to point to
the embedding of the verb that it shows. A linear head, thrown away afterwards, names each frame and reads the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, ProcessorMixin

from data_prep.progress import progress
from data_prep.rows import Row
from invert_rl.sft.muon import MuonWithAdamW
from invert_rl.toy.queries import VERBS
from invert_rl.toy.scene import DURATION
from invert_rl.video.ref import VideoRef
from invert_rl.video.store import FrameStore

NAMES = ("idle", *VERBS)
"""What a frame can show, by label."""
CLIPS = 16
"""Clips of a step."""
WARMUP, DECAY = 20, 0.4
"""First steps, in which the learning rate rises, and the part of all steps at the end in which it falls to 0."""
TIME_STEP = 0.5
"""What the time is read to, in seconds."""
CLOCK = round(DURATION / TIME_STEP)
"""How many times there are."""
LEARNING_RATE, MUON_LEARNING_RATE = 1e-3, 2e-3


def pace(step: int, steps: int) -> float:
    """Factor of the learning rate at ``step`` of ``steps``: it rises in `WARMUP` steps and falls to 0 at the end."""
    return min(1.0, (step + 1) / WARMUP, (steps - step) / (DECAY * steps))


def frame_labels(row: Row, times: Sequence[float] | np.ndarray) -> list[int]:
    """For each time (seconds) the place in `NAMES` of what the clip of ``row`` shows then."""
    shown = [[verb for verb, start, end in row.meta["events"] if start <= time < end] for time in times]
    return [NAMES.index(verbs[0]) if verbs else 0 for verbs in shown]


def half_seconds(times: np.ndarray, frames: int) -> torch.Tensor:
    """The time of each group of ``frames`` sampled frames, in half seconds and rounded; ``times`` are seconds."""
    return torch.from_numpy(np.rint(times[::frames] / TIME_STEP).astype(np.int64))


def teach_tower(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Sequence[Row], store: FrameStore, steps: int, seed: int
) -> float:
    """Train the vision tower of ``model`` in place; returns the share of frames named rightly in the last 20 steps.

    ``rows`` are the toy world's; each of their clips counts once. The rest of the model stays as it is, and so does the
    global random state.
    """
    clips = list({row.video: row for row in rows}.values())
    tower = model.model.visual
    width, frames = model.config.vision_config.out_hidden_size, processor.video_processor.temporal_patch_size
    words = [processor.tokenizer(f" {verb}").input_ids for verb in VERBS]
    embeddings = model.get_input_embeddings().weight.detach()[torch.tensor(words).view(-1)]  # one token each
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(width, frames * len(NAMES) + CLOCK + 1)  # the last: that no verb is shown
    embeddings = nn.functional.normalize(embeddings, dim=1)
    taught = nn.ModuleList([tower, head])
    optimizer = MuonWithAdamW(taught, LEARNING_RATE, MUON_LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = LambdaLR(optimizer, lambda step: pace(step, steps))
    rng = np.random.default_rng(seed)
    right: list[float] = []
    for _ in progress(range(steps), "vision tower", total=steps):
        drawn = [clips[int(place)] for place in rng.integers(len(clips), size=CLIPS)]
        cut = int(rng.integers(frames))  # segments of tasks begin anywhere: so do groups of frames
        shown = [store.clip(VideoRef(row.video)) for row in drawn]
        frames_shown = [clip.frames[cut : len(clip.frames) - cut] for clip in shown]
        times = [clip.timestamps[cut : len(clip.frames) - cut] for clip in shown]
        labels = torch.tensor([frame_labels(row, of) for row, of in zip(drawn, times, strict=True)]).view(-1)
        clocks = torch.cat([half_seconds(of, frames) for of in times])
        inputs = processor.video_processor(
            videos=frames_shown, do_sample_frames=False, do_resize=False, return_tensors="pt"
        )
        tokens = tower(inputs["pixel_values_videos"], inputs["video_grid_thw"]).pooler_output
        groups = tokens.view(len(clocks), -1, width).mean(1)  # (groups, width)
        groups = nn.functional.rms_norm(groups, (width,))
        logits, clock, idle = head(groups).split([frames * len(NAMES), CLOCK, 1], 1)
        logits = logits.reshape(len(labels), len(NAMES))
        pointing = torch.cat([idle, groups @ embeddings.T], 1)
        loss = sum(
            nn.functional.cross_entropy(found, wanted)
            for found, wanted in ((logits, labels), (clock, clocks), (pointing, labels.view(-1, frames)[:, 0]))
        )
        loss.backward()
        nn.utils.clip_grad_norm_(taught.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        right.append((logits.argmax(1) == labels).float().mean().item())
    return float(np.mean(right[-20:]))
