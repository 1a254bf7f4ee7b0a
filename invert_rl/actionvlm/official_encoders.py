"""VideoMAEv2's and InternVideo2's own checkpoints as encoders of frames: names turned into ours, sizes from shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, VideoMAEConfig, VideoMAEModel
from transformers.utils import cached_file

from data_prep.errors import DataError
from invert_rl.actionvlm.internvideo2 import InternVideo2, InternVideo2Config
from invert_rl.loading import CheckpointError, load_tensors, read_tensors

IMAGE_SIZE = 224
"""Pixels of a side in both pretrainings [R]."""
HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 3200: 25}
"""Attention heads by width: small, base, large, huge, giant (1B), 6B [R]."""
WRAPPED = re.compile(r"^(?:module\.|model\.|encoder\.|vision_encoder\.|backbone\.)+")
"""Before the names: those of DeepSpeed, of the hub's class, of the pretraining and of multimodal models."""
OTHERS = (
    *("head.", "fc_norm.", "norm.", "clip_projector.", "decoder.", "encoder_to_decoder.", "mask_token", "pos_embed_"),
    *("clip_decoder.", "mae_decoder.", "final_clip_decoder.", "clip_pos_embed", "mae_pos_embed", "clip_img_pos_embed"),
)
"""Parts that only pooling, classes or the pretraining have."""

VIDEOMAE = (
    (r"patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"blocks\.(\d+)\.attn\.q_bias$", r"encoder.layer.\1.attention.attention.query.bias"),
    (r"blocks\.(\d+)\.attn\.v_bias$", r"encoder.layer.\1.attention.attention.value.bias"),
    (r"blocks\.(\d+)\.attn\.qkv\.weight$", r"encoder.layer.\1.attention.attention.{}.weight"),
    (r"blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
)
INTERNVIDEO2 = (
    (r"patch_embed\.proj\.", "patches."),
    (r"cls_token$", "cls_token"),
    (r"pos_embed$", "places"),
    (r"blocks\.(\d+)\.(norm1|norm2)\.", r"blocks.\1.\2."),
    (r"blocks\.(\d+)\.attn\.(qkv|q_norm|k_norm|proj)\.", r"blocks.\1.\2."),
    (r"blocks\.(\d+)\.mlp\.(fc1|fc2)\.", r"blocks.\1.\2."),
    (r"blocks\.(\d+)\.ls([12])\.gamma$", r"blocks.\1.scale\2"),
)


def official_encoder(name: str) -> PreTrainedModel:
    """The encoder of an official checkpoint: a pth or safetensors file, or a folder or hub name with one.

    Files are read without running what is in them, and no code of the hub is run. Raises `DataError` where it is
    neither a VideoMAEv2 nor an InternVideo2.
    """
    weights = _own_names(_read(name))
    try:
        if "cls_token" in weights:
            return _internvideo2(weights, name)
        return _videomae(weights, name)
    except KeyError as error:
        raise DataError(
            f"vision_model {name!r}: lacks {error.args[0]}; give a VideoMAE of transformers, or a checkpoint of "
            "VideoMAEv2 or InternVideo2"
        ) from error


def _read(name: str) -> Mapping[str, Tensor]:
    path = Path(name)
    if not path.is_file():
        found = cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False)
        if found is None:
            raise DataError(f"vision_model {name!r}: no model.safetensors there; name the checkpoint's file itself")
        path = Path(found)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in any way, from EOFError to UnpicklingError
        raise DataError(f"vision_model {name!r}: cannot be read ({str(error).splitlines()[0]})") from error
    for key in ("model", "module", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"vision_model {name!r}: expected tensors by name")
    return content


def _own_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without wrappers' prefixes and the parts that no encoder has."""
    bare = {WRAPPED.sub("", key): value.float() for key, value in weights.items()}
    if "pos_embed_spatial" in bare:  # InternVideo2 with places of space and time apart [R]
        space, time = bare["pos_embed_spatial"], bare["pos_embed_temporal"]
        whole = space.repeat(1, time.shape[1], 1) + time.repeat_interleave(space.shape[1], dim=1)
        bare["pos_embed"] = torch.cat([bare["pos_embed_cls"], whole], dim=1)
    return {key: value for key, value in bare.items() if not key.startswith(OTHERS)}


def _renamed(weights: Mapping[str, Tensor], names: tuple[tuple[str, str], ...], where: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        ours = next((re.sub(old, new, name) for old, new in names if re.match(old, name)), None)
        if ours is None:
            raise DataError(f"vision_model {where!r}: has an unknown weight {name}")
        if "{}" in ours:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[ours.format(part)] = rows
        else:
            found[ours] = value
    return found


def _sizes(weights: Mapping[str, Tensor], where: str) -> dict[str, int]:
    width, _, tubelet, patch, _ = weights["patch_embed.proj.weight"].shape
    if width not in HEADS:
        raise DataError(f"vision_model {where!r}: {width} channels; known are {', '.join(map(str, HEADS))}")
    return {
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        "num_attention_heads": HEADS[width],
        "intermediate_size": weights["blocks.0.mlp.fc1.weight"].shape[0],
        "image_size": IMAGE_SIZE,
        "patch_size": patch,
        "tubelet_size": tubelet,
    }


def _videomae(weights: dict[str, Tensor], where: str) -> VideoMAEModel:
    weights.pop("pos_embed", None)  # sines, which the model makes itself
    config = VideoMAEConfig(
        **_sizes(weights, where),
        num_frames=16,
        qkv_bias=True,
        layer_norm_eps=1e-6,
        use_mean_pooling=True,  # no norm behind the last layer
    )
    model = VideoMAEModel(config)
    _fill(model, _renamed(weights, VIDEOMAE, where), where)
    return model


def _internvideo2(weights: dict[str, Tensor], where: str) -> InternVideo2:
    sizes = _sizes(weights, where)
    side = sizes["image_size"] // sizes["patch_size"]
    steps, rest = divmod(weights["pos_embed"].shape[1] - 1, side**2)
    if rest or not steps:
        raise DataError(f"vision_model {where!r}: its places are not those of frames of {IMAGE_SIZE} pixels")
    config = InternVideo2Config(**sizes, num_frames=steps * sizes["tubelet_size"])
    model = InternVideo2(config)
    _fill(model, _renamed(weights, INTERNVIDEO2, where), where)
    return model


def _fill(model: PreTrainedModel, weights: Mapping[str, Tensor], where: str) -> None:
    try:
        load_tensors(model, weights, where)
    except CheckpointError as error:
        raise DataError(f"vision_model {error}") from error
