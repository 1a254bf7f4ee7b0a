"""What the shipped verb pipeline is trained on; see ``python -m rewards.train_verbs --help``."""
