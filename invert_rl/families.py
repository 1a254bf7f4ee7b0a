"""The model families that this library trains, by the ``model_type`` of their configuration; imports nothing heavy."""

FAMILIES = {
    "qwen2_5_vl": "invert_rl.models.qwen2_5_vl",
    "qwen3_vl": "invert_rl.models.qwen3_vl",
    "qwen3_vl_moe": "invert_rl.models.qwen3_vl_moe",
    "qwen3_5": "invert_rl.models.qwen3_5",
    "qwen3_5_moe": "invert_rl.models.qwen3_5_moe",
}
"""Module of each family, which holds an `invert_rl.models.family.Family` named ``FAMILY``; see docs/models.md."""
