"""The protocol of a result: everything two numbers must share before they can be compared."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import read_json

Protocol = dict[str, Any]

PACKAGES = ("invert-rl", "torch", "transformers", "vllm", "qwen-vl-utils", "av", "spacy", "numpy")
MUST_AGREE = ("data", "scoring", "prompt", "frames", "decoding")
"""Parts that make two numbers incomparable when they differ; versions and the model may differ."""
TOLD_RULES = ("windows", "measure", "unparsable", "missing", "reader", "rounding", "swapped", "duplicates", "clips")
"""Rules of a named protocol that its line tells; thresholds and comparison are told anyway."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt")


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that an answer can depend on, of those installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def model_sha256(folder: Path) -> str:
    """Hash of a checkpoint folder: names and contents of weights, configuration and tokenizer, 16 digits."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def protocol_line(protocol: Protocol) -> str:
    """The protocol in one line of text, starting with the hash of the parts that must agree."""
    data, scoring = protocol["data"], protocol["scoring"]
    parts = [f"data {data['name']} {data['rows']} rows sha256 {data['sha256']}"]
    if "model" in protocol:
        prompt, frames, decoding = (protocol[name] for name in ("prompt", "frames", "decoding"))
        model = protocol["model"]
        parts += [
            f"model {model['name']} {model.get('sha256') or model.get('commit') or 'unknown'}",
            f"prompt {prompt['name']} {prompt['sha256']}",
            f"{frames['fps']:g} fps, {frames['min_frames']} to {frames['max_frames']} frames, "
            f"{frames['total_pixels']} pixels a video, {frames['min_pixels']} to {frames['max_pixels']} a frame",
            f"{decoding['method']}, {decoding['max_new_tokens']} tokens, {decoding['backend']} {decoding['dtype']}",
        ]
    else:
        parts.append("how the answers were made is not known")
    if "predictions" in protocol:
        parts.append(f"predictions {protocol['predictions']['name']} sha256 {protocol['predictions']['sha256']}")
    thresholds = ", ".join(f"{threshold:g}" for threshold in scoring["thresholds"])
    if "protocol" in scoring:
        rules = {name: value for name, value in scoring["rules"].items() if value and name in TOLD_RULES}
        told = [f"{name} {value}" for name, value in rules.items()]
        parts.append(f"as {scoring['protocol']}: R1 IoU {scoring['comparison']} {thresholds}, {', '.join(told)}")
    else:
        parts.append(f"R1 IoU {scoring['comparison']} {thresholds}, {scoring['windows']}, {scoring['no_answer']}")
    if scoring.get("verbs"):
        told = [
            f"{name.replace('_', ' ')} {scoring[name]}" for name in ("verb_guard", "ignore_verbs") if name in scoring
        ]
        parts.append(", ".join([f"verbs {scoring['verbs']}, match {scoring['verb_match']}", *told]))
    parts.append(" ".join(f"{name} {value}" for name, value in protocol["versions"].items()))
    return f"protocol {protocol_id(protocol)}: " + "; ".join(parts)


def protocol_id(protocol: Protocol) -> str:
    """Hash of the parts that must agree, 8 digits: two results with the same one can be compared."""
    content = {name: _identity(name, protocol.get(name)) for name in MUST_AGREE}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _identity(name: str, part: Any) -> Any:
    """A part without what may differ: where a data file lies, which preset file holds the same prompts."""
    if name in ("data", "prompt") and isinstance(part, dict):
        return {key: value for key, value in part.items() if key != "name"}
    return part


def differences(a: Protocol, b: Protocol) -> list[str]:
    """What keeps two results from being compared, as ``part.field: a, b``; empty when they can be."""
    found = []
    for name in MUST_AGREE:
        first, second = _identity(name, a.get(name)), _identity(name, b.get(name))
        if first == second:
            continue
        if not isinstance(first, dict) or not isinstance(second, dict):
            found.append(f"{name}: {'known' if first else 'unknown'}, {'known' if second else 'unknown'}")
            continue
        for field in sorted(first.keys() | second.keys()):
            if first.get(field) != second.get(field):
                found.append(f"{name}.{field}: {first.get(field)}, {second.get(field)}")
    return found


def compare_results(result: Mapping[str, Any], other_path: Path) -> dict[str, float]:
    """Change of each metric since the result that ``invert-rl evaluate --json`` wrote into ``other_path``.

    Raises `DataError` naming every difference when the two were not made by the same protocol.
    """
    other = read_json(other_path)
    if not isinstance(other, dict) or not isinstance(other.get("protocol"), dict):
        raise DataError(f"{other_path}: holds no protocol; write it with `invert-rl evaluate … --json > FILE`")
    found = differences(result["protocol"], other["protocol"])
    if found:
        raise DataError(f"{other_path}: cannot be compared with this result, the protocols differ: {'; '.join(found)}")
    numbers = {name for name in result.keys() & other.keys() if isinstance(result[name], float)}
    return {name: result[name] - other[name] for name in result if name in numbers}
