"""ActionVLM: temporal action localization that lets a language model in only where it helps."""
