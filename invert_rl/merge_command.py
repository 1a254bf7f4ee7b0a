"""``invert-rl merge``: one checkpoint of an adapter and its base, for vLLM, for training as a whole, to hand on."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from data_prep.errors import DataError
from invert_rl.described import FILE, description_of, description_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``invert-rl merge``."""
    parser.add_argument("adapter", metavar="ADAPTER_DIR", help="the `model` folder of a LoRA run, or one on the hub")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the checkpoint to write")
    parser.add_argument("--revision", help="of an adapter on the hub")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="precision of what is written; default: that of the base",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """Merge; 0 on success. Raises `DataError` for what is no adapter and for an output folder that is not empty."""
    from invert_rl.model_card import write_card
    from invert_rl.models import CheckpointError, adapter_of, load_model, load_processor

    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise DataError(f"{args.output}: is there already; choose another --output")
    try:
        adapter = adapter_of(args.adapter, args.revision)
        if adapter is None:
            raise DataError(f"{args.adapter}: no adapter, adapter_config.json is missing")
        processor = load_processor(args.adapter, args.revision)
        model = load_model(args.adapter, args.revision, dtype=args.dtype)
    except (CheckpointError, OSError) as error:
        raise DataError(str(error)) from error
    merged = model.merge_and_unload(safe_merge=True)
    draft = args.output.with_name(f".{args.output.name}.saving")
    shutil.rmtree(draft, ignore_errors=True)
    merged.save_pretrained(draft)
    processor.save_pretrained(draft)
    told = description_path(args.adapter, args.revision)
    if told is not None:
        shutil.copyfile(told, draft / FILE)
        write_card(draft, description_of(args.adapter, args.revision), args.output.name)
    if args.output.is_dir():
        args.output.rmdir()
    draft.rename(args.output)
    result = {
        "output": str(args.output),
        "base": adapter.base,
        "adapter": args.adapter,
        "parameters": sum(parameter.numel() for parameter in merged.parameters()),
        "dtype": str(merged.dtype).removeprefix("torch."),
    }
    text = (
        f"{args.output}: {adapter.base} with {args.adapter}, {result['parameters']} parameters in {result['dtype']}\n"
    )
    sys.stdout.write(json.dumps(result) + "\n" if args.json else text)
    return 0
