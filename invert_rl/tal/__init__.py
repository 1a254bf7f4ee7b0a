"""Temporal action localization: what all its recipes share (grid, features, suppression, pyramid, losses, windows)."""
