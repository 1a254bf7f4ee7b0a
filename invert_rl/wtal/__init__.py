"""Weakly supervised temporal action localization: DELU with key and complete semantics of a multimodal LLM."""
