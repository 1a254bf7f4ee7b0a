"""Benchmarks: each file runs alone and prints one JSON object with ``--json``."""
