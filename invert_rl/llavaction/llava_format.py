"""``invert-rl export-llava``: a LLaVA-OneVision checkpoint in the format of its own code, which lmms-eval loads.

lmms-eval's ``llava_onevision`` and ``llava_vid`` load a folder with `load_pretrained_model` of LLaVA-NeXT, whose
`LlavaQwenForCausalLM` has other names for the same weights [R LLaVA-VL/LLaVA-NeXT llava/model/builder.py,
language_model/llava_qwen.py, multimodal_encoder/siglip_encoder.py]. Its SigLIP is one fixed model without the last
layer and the pooling head.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_json

RULES = (
    (r"(?:model\.)?vision_tower\.(?:vision_model\.)?", "model.vision_tower.vision_tower.vision_model."),
    (r"(?:model\.)?multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"(?:model\.)?multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"(?:model\.)?image_newline$", "model.image_newline"),
    (r"(?:language_model\.)?lm_head\.", "lm_head."),
    (r"language_model\.model\.|model\.language_model\.", "model."),
)
"""What a weight's name begins with in transformers, in a file or in memory, and in LLaVA-NeXT."""
LEFT_OUT = re.compile(r"(?:model\.)?vision_tower\.(?:vision_model\.)?head\.|action_heads\.")
SIGLIP = {"hidden_size": 1152, "num_hidden_layers": 26, "image_size": 384, "patch_size": 14}
"""The only vision tower that the code builds, its last layer left out."""
TEXT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "rms_norm_eps", "max_position_embeddings", "bos_token_id", "eos_token_id", "hidden_act"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl export-llava``."""
    parser.description = (
        "Write a LLaVA-OneVision model folder in the format of LLaVA-NeXT, for lmms-eval's --model llava_onevision and "
        "llava_vid. The action token is not part of what these ask."
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="model folder of a run, or a llava-onevision checkpoint"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Write the folder and say how it is loaded; raises `DataError` for a model that has no such format."""
    from safetensors.torch import load_file, save_file

    config = read_json(args.model / "config.json")
    exported = exported_config(config, args.model)
    files = sorted(args.model.glob("*.safetensors"))
    if not files:
        raise DataError(f"{args.model}: holds no safetensors")
    if args.output.exists():
        raise DataError(f"{args.output}: is there already; choose a new folder")
    args.output.mkdir(parents=True)
    index: dict[str, str] = {}
    for path in files:
        tensors = renamed({name: value.contiguous() for name, value in load_file(path).items()}, args.model)
        save_file(tensors, args.output / path.name, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, path.name)
    if len(files) > 1:
        _write(args.output / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    _write(args.output / "config.json", exported)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (args.model / name).is_file():
            (args.output / name).write_bytes((args.model / name).read_bytes())
    arguments = f"pretrained={args.output},conv_template=qwen_1_5,model_name=llava_qwen"
    result = {"output": str(args.output), "weights": len(index), "model_args": arguments}
    text = f"{len(index)} weights in {args.output}\nlmms_eval --model llava_onevision --model_args {arguments}\n"
    sys.stdout.write(json.dumps(result) + "\n" if args.json else text)
    return 0


def renamed(weights: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Weights by their names in LLaVA-NeXT; raises `DataError` for a name that is none of LLaVA-OneVision's."""
    found = {}
    for name, value in weights.items():
        if LEFT_OUT.match(name):
            continue
        rule = next(((match, new) for old, new in RULES if (match := re.match(old, name))), None)
        if rule is None:
            raise DataError(f"{where}: weight {name!r} is none of LLaVA-OneVision's")
        match, new = rule
        found[new + name[match.end() :]] = value
    return found


def exported_config(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The ``config.json`` of LLaVA-NeXT for that of transformers; raises `DataError` for another architecture."""
    if config.get("model_type") != "llava_onevision":
        raise DataError(
            f"{where}: is a {config.get('model_type')!r}; lmms-eval loads Qwen's folders as they are "
            "(--model qwen2_5_vl or qwen3_vl), this format is LLaVA-OneVision's"
        )
    vision, text = config["vision_config"], config["text_config"]
    odd = {name: vision.get(name) for name, value in SIGLIP.items() if vision.get(name) != value}
    if odd:
        raise DataError(f"{where}: its vision tower is not SigLIP-so400m-384 without the last layer: {odd}")
    rope = text.get("rope_parameters") or {}
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        **{name: text[name] for name in TEXT if name in text},
        "rope_theta": rope.get("rope_theta", text.get("rope_theta", 1_000_000.0)),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        "torch_dtype": config.get("dtype", config.get("torch_dtype", "bfloat16")),
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "mm_hidden_size": vision["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_newline_position": "one_token",
        "mm_spatial_pool_mode": "bilinear",
        "mm_spatial_pool_stride": 2,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_tunable_parts": "mm_vision_tower,mm_mlp_adapter,mm_language_model",
        "unfreeze_mm_vision_tower": True,
        "image_aspect_ratio": config.get("vision_aspect_ratio", "anyres_max_9"),
        "image_grid_pinpoints": config["image_grid_pinpoints"],
        "use_mm_proj": True,
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as out:
        json.dump(content, out, indent=1)
        out.write("\n")
