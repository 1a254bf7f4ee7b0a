"""Prompts as loggers can show them: the name and part of a video in place of what the loader reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def readable_prompt(messages: Any) -> Any:
    """A chat whose contents are texts; one that is so already, or no chat, is returned as it is.

    Tables of wandb and trackio take texts only.
    """
    if not isinstance(messages, list):
        return messages
    return [{**message, "content": _readable(message["content"])} for message in messages]


def _readable(content: str | Sequence[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_part(part) for part in content)


def _part(part: dict[str, Any]) -> str:
    if part["type"] == "text":
        return str(part["text"])
    return f"[{part['type']} {part.get(part['type'], '')}]"
