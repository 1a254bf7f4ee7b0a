"""The methods of TRL and transformers that are overridden, as they were when the overrides were written."""

from __future__ import annotations

import inspect

import pytest
from transformers import Trainer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from trl import GRPOTrainer

from invert_rl.grpo.trainer import InvertGRPOTrainer

GRPO = {
    "_get_train_sampler": ["self", "dataset"],
    "_tokenize_prompts": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_generate_and_score_completions": ["self", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_compute_loss": ["self", "model", "inputs"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "log": ["self", "logs", "start_time"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "_get_per_token_logps_and_entropies": [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
        "compute_aux_loss",
        "pixel_values",
        "image_grid_thw",
        "num_images",
        "pixel_attention_mask",
        "spatial_shapes",
        "num_tiles",
        "image_sizes",
        "token_type_ids",
        "mm_token_type_ids",
        "image_position_ids",
    ],
}


@pytest.mark.parametrize("name", GRPO)
def test_trl_methods_have_the_signature_that_is_overridden(name):
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == GRPO[name]
    assert getattr(InvertGRPOTrainer, name) is not getattr(GRPOTrainer, name)


def test_trainer_loads_checkpoints_as_overridden():
    parameters = inspect.signature(Trainer._load_from_checkpoint).parameters
    assert list(parameters) == ["self", "resume_from_checkpoint", "model"]


def test_rope_index_takes_what_the_replacement_takes():
    names = list(inspect.signature(Qwen2_5_VLModel.get_rope_index).parameters)
    assert names[:7] == [
        "self",
        "input_ids",
        "mm_token_type_ids",
        "image_grid_thw",
        "video_grid_thw",
        "second_per_grid_ts",
        "attention_mask",
    ]
