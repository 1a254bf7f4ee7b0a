"""PSFTR: zero-shot temporal action localization by progressive semantic fusion of CLIP's video and text features."""
