"""Asking a model about a video that nobody annotated: `Grounder`, and what ``invert-rl ask`` is made of."""
