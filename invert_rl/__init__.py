"""RL post-training for video LLMs that ground language in time.

>>> from invert_rl import Grounder
>>> Grounder("runs/grpo/model").ask("video.mp4", "person opens the door").windows
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from invert_rl import own_packages

if TYPE_CHECKING:
    from invert_rl.ask.answer import Answer
    from invert_rl.ask.grounder import Grounder

own_packages.claim(__name__)

__version__: str
__all__ = ["Answer", "Grounder", "__version__"]


def __getattr__(name: str) -> Any:
    """`Grounder`, `Answer` and the version, looked up when they are asked for: most commands need no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("invert-rl")
    if name == "Grounder":
        from invert_rl.ask.grounder import Grounder

        return Grounder
    if name == "Answer":
        from invert_rl.ask.answer import Answer

        return Answer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
