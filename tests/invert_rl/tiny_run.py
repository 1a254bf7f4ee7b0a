"""What all short training runs of the tests have in common; each adds its steps and what it is about."""

SHORT_RUN = {
    "learning_rate": 1e-3,
    "min_pixels": 56 * 56,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
    "seed": 3,
}
