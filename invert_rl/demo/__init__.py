"""``invert-rl demo``: a page to play with."""
