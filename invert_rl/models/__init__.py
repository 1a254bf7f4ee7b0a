"""Models: loading a checkpoint, and one file for each family of them (docs/models.md)."""

from invert_rl.models.adapters import Adapter
from invert_rl.models.family import Family, family_named, family_of, vision_language_model
from invert_rl.models.loading import (
    NEVER_SAMPLED,
    CheckpointError,
    adapter_of,
    check_source,
    decoding_config,
    load_config,
    load_model,
    load_processor,
    never_sampled_ids,
)

__all__ = [
    "NEVER_SAMPLED",
    "Adapter",
    "CheckpointError",
    "Family",
    "adapter_of",
    "check_source",
    "decoding_config",
    "family_named",
    "family_of",
    "load_config",
    "load_model",
    "load_processor",
    "never_sampled_ids",
    "vision_language_model",
]
