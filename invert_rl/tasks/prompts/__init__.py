"""Prompt presets as data: one JSON file per convention, read by `invert_rl.evaluation.presets`."""
