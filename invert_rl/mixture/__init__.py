"""Mixtures: one training list of several sources, kept apart from named test sets."""
