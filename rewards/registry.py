"""Rewards by name: the names a configuration may use, and how a plugin adds one.

A reward has TRL's signature ``fn(completions, **columns) -> list[float | None]``. It scores every completion that
it is given, and returns None only where its columns say that one cannot be scored; whoever mixes tasks in a batch
passes it only the rows that it is meant for. Columns are lists of one value a row; options are keyword-only.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, overload

from rewards.errors import RewardError

Reward: TypeAlias = Callable[..., list[float | None]]
AnyReward = TypeVar("AnyReward", bound=Reward)

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_rewards: dict[str, Reward] = {}


@overload
def register_reward(name: str) -> Callable[[AnyReward], AnyReward]: ...
@overload
def register_reward(name: str, reward: AnyReward) -> AnyReward: ...
def register_reward(name: str, reward: Reward | None = None) -> Any:
    """Make ``reward`` known as ``name``; returns it, or without it a decorator.

    ``name`` is a lower-case word of letters, digits and underscores. Raises `RewardError` when it is none, when it
    is taken by another function, or when ``reward`` cannot be called.
    """
    if reward is None:
        return functools.partial(register_reward, name)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RewardError(
            f"reward name {name!r}: use a lower-case word of letters, digits and underscores, such as 'my_iou'"
        )
    if not callable(reward):
        raise RewardError(
            f"reward {name!r}: {reward!r} cannot be called; register a function fn(completions, **columns)"
        )
    taken = _rewards.setdefault(name, reward)
    if taken is not reward:
        raise RewardError(f"reward {name!r} is taken by {_where(taken)}; register {_where(reward)} under another name")
    return reward


def get_reward(name: str) -> Reward:
    """The reward registered as ``name``, or the function that ``package.module:function`` names.

    Raises `RewardError` for an unknown name, a module that cannot be imported, a function that is not there or
    something that cannot be called.
    """
    if not isinstance(name, str) or not name.strip():
        raise RewardError(f"reward {name!r}: give a name ({', '.join(reward_names())}) or package.module:function")
    if ":" in name:
        return _imported(name)
    if name not in _rewards:
        raise RewardError(
            f"unknown reward {name!r}; the rewards are {', '.join(reward_names())}, or name one of your own as "
            "package.module:function"
        )
    return _rewards[name]


def reward_names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_rewards)


def _imported(path: str) -> Reward:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise RewardError(f"reward {path!r}: write it as package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a user's module can raise anything
        raise RewardError(
            f"reward {path!r}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); install "
            "it or put its folder on PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise RewardError(f"reward {path!r}: {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise RewardError(f"reward {path!r}: {found!r} cannot be called")
    reward: Reward = found
    return reward


def _where(reward: Reward) -> str:
    name = getattr(reward, "__qualname__", None) or repr(reward)
    return f"{getattr(reward, '__module__', '?')}.{name}"
