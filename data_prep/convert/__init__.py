"""From official annotation files to rows (grounding) or ActivityNet-style JSON (detection)."""
