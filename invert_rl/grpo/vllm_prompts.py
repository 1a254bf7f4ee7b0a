"""One prompt with its video as vLLM takes it: for an engine in this process and for a server."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import torch
from transformers import BatchFeature

from invert_rl.encoding import EncodedPrompt
from invert_rl.positions import VIDEO
from invert_rl.video.clip import Clip

PROCESSOR_ARGUMENTS = {"do_sample_frames": False, "do_resize": False}
"""Frames come sampled and resized: vLLM's processor must do neither again."""


def vllm_prompt(prompt: EncodedPrompt) -> dict[str, Any]:
    """The prompt for `vllm.LLM`: ids with one placeholder, frames with their times, a key for its caches."""
    clip = _clip(prompt)
    return {
        "prompt_token_ids": prompt.unexpanded_ids,
        "multi_modal_data": {"video": [(clip.frames.numpy(), clip.vllm_metadata())]},
        "multi_modal_uuids": {"video": [content_key(clip)]},
        "mm_processor_kwargs": PROCESSOR_ARGUMENTS,
    }


def served_prompt(prompt: EncodedPrompt, dtype: torch.dtype) -> dict[str, Any]:
    """The prompt for the ``/inference/v1/generate`` of ``vllm serve``: expanded ids and the patches, in ``dtype``.

    The server expands and processes nothing: it computes on the very ids and patches that the trainer scores. A
    request says where each item's tokens are by a first token and a length, which fits the one run of placeholders of
    Qwen2.5-VL. For Qwen3-VL, which has a run for each time step with the time between them, each step goes as an
    image: its vision tower looks at one step at a time, and gives an image the positions of such a step. Raises
    `ValueError` if placeholders and patches do not belong together.
    """
    key = content_key(_clip(prompt))
    patches = prompt.pixel_values_videos.to(dtype)
    runs = []
    for kind, run in itertools.groupby(range(len(prompt.input_ids)), key=prompt.mm_token_type_ids.__getitem__):
        if kind == VIDEO:
            places = list(run)
            runs.append({"offset": places[0], "length": len(places)})
    if prompt.second_per_grid_ts is not None:
        modality, keys = "video", [key]
        times = prompt.second_per_grid_ts
        fields = {"pixel_values_videos": patches, "video_grid_thw": prompt.video_grid_thw, "second_per_grid_ts": times}
        items = [encode_fields(modality, fields)]
    else:
        steps, height, width = prompt.video_grid_thw[0].tolist()
        modality, keys = "image", [f"{key}-{step}" for step in range(steps)]
        grid = torch.tensor([[1, height, width]])
        parts = patches.chunk(steps)
        items = [encode_fields(modality, {"pixel_values": part, "image_grid_thw": grid}) for part in parts]
    if len(runs) != len(items):
        raise ValueError(f"{_clip(prompt).path}: {len(runs)} runs of placeholders for {len(items)} parts of the video")
    return {
        "token_ids": prompt.input_ids,
        "features": {
            "mm_hashes": {modality: keys},
            "mm_placeholders": {modality: runs},
            "kwargs_data": {modality: items},
        },
    }


def encode_fields(modality: str, fields: dict[str, torch.Tensor]) -> str:
    """One item's model inputs in the format that vLLM's server reads: base64 of msgpack, without pickle."""
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

    patches, grid, *_ = fields
    kinds = {name: MultiModalFieldConfig.batched(modality, keep_on_cpu=True) for name in fields}
    kinds[patches] = MultiModalFieldConfig.flat_from_sizes(modality, fields[grid].prod(-1))
    (item,) = MultiModalKwargsItems.from_hf_inputs(BatchFeature(fields), kinds)[modality]
    return encode_mm_kwargs_item(item)


def content_key(clip: Clip) -> str:
    """Name of a clip in vLLM's caches: file, part, frame size and times, as a hexadecimal digest.

    Two clips of one run with the same key have the same pixels, so that these need not be hashed in each round.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((clip.path, clip.start, clip.end, tuple(clip.frames.shape))).encode())
    digest.update(clip.timestamps.tobytes())
    return digest.hexdigest()


def _clip(prompt: EncodedPrompt) -> Clip:
    if prompt.clip is None:
        raise ValueError("vLLM needs the frames of a prompt: encode it with `PromptEncoder`")
    return prompt.clip
