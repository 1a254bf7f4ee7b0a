"""Rewards by name: the built-in ones, a user's own, and what is refused."""

import sys

import pytest

import rewards
from rewards import RewardError, get_reward, only_for_task, register_reward, reward_names, with_options
from rewards.registry import _rewards

SPAN_REWARDS = ["iou", "giou", "timestamp_iou", "multi_window_iou", "set_iou", "wasserstein"]


@pytest.fixture
def clean_registry():
    known = dict(_rewards)
    yield
    _rewards.clear()
    _rewards.update(known)


def test_the_built_in_rewards():
    assert set(reward_names()) == {"format", *SPAN_REWARDS, "soft_iou", "parse_penalty", "vc", "ar", "vd"}


@pytest.mark.parametrize("name", [*SPAN_REWARDS, "parse_penalty", "format"])
def test_a_reward_scores_every_completion_whatever_its_task(name):
    columns = {
        "task": ["tvg", "my_task"],
        "windows": [[[1.0, 2.0]]] * 2,
        "duration": [9.0] * 2,
        "answer_format": ["bare/span"] * 2,
        "trainer_state": None,
        "prompts": ["p"] * 2,
    }
    right, same = get_reward(name)(["1 to 2", "1 to 2"], **columns)
    assert right == same == (0.0 if name == "parse_penalty" else 1.0)


@pytest.mark.parametrize("name", ["vc", "ar", "vd"])
def test_verb_rewards_score_every_completion_that_has_verbs(name):
    columns = {"task": ["tvg", "my_task", "vc", "vd"], "verbs": [["open"], ["close"], [], None]}
    assert get_reward(name)(["He opens it."] * 4, **columns) == [1.0, 0.0, None, None]


@pytest.mark.parametrize("name", SPAN_REWARDS)
def test_a_query_that_is_not_in_the_video_pays_for_saying_so(name):
    columns = {"windows": [[], [], [[1.0, 2.0]], None], "duration": [9.0] * 4}
    silent = -1.0 if name == "giou" else 0.0
    assert get_reward(name)(["not in the video", "1 to 2", "[]", "1 to 2"], **columns) == [1.0, 0.0, silent, None]


def test_a_name_is_registered_once(clean_registry):
    @register_reward("my_reward")
    def my_reward(completions, **columns):
        return [1.0 for _ in completions]

    assert get_reward("my_reward") is my_reward
    assert register_reward("my_reward", my_reward) is my_reward  # a plugin imported twice
    with pytest.raises(RewardError, match="'my_reward' is taken by .*my_reward.*register .*another"):
        register_reward("my_reward", lambda completions, **columns: [])
    with pytest.raises(RewardError, match="'iou' is taken by rewards.span_rewards.iou"):
        register_reward("iou", my_reward)


@pytest.mark.parametrize("name", ["", "My", "a b", "a:b", "tvg=1", "1st", None, 3])
def test_names_that_a_configuration_could_not_write_are_refused(name):
    with pytest.raises(RewardError, match="reward name"):
        register_reward(name, lambda completions, **columns: [])


def test_what_cannot_be_called_is_refused():
    with pytest.raises(RewardError, match="'constant': 1.0 cannot be called"):
        register_reward("constant", 1.0)


def test_a_reward_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "their_rewards.py").write_text(
        "LIMIT = 3\n\ndef always(completions, **columns):\n    return [1.0] * len(completions)\n", encoding="utf-8"
    )
    (tmp_path / "broken_rewards.py").write_text("raise RuntimeError('no key')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_rewards", raising=False)
    assert get_reward("their_rewards:always")(["a", "b"]) == [1.0, 1.0]
    assert get_reward("rewards.span_rewards:iou") is get_reward("iou")
    for path, message in {
        "no_such_module:f": "'no_such_module' cannot be imported .*ModuleNotFoundError",
        "broken_rewards:f": "'broken_rewards' cannot be imported .RuntimeError: no key",
        "their_rewards:never": "'their_rewards' has no 'never'",
        "their_rewards:LIMIT": "3 cannot be called",
        "their_rewards:": "package.module:function",
        ":always": "package.module:function",
        ".relative:f": "package.module:function",
    }.items():
        with pytest.raises(RewardError, match=message):
            get_reward(path)
    with pytest.raises(RewardError, match="unknown reward 'iuo'; the rewards are .*iou"):
        get_reward("iuo")


def test_a_reward_of_one_task_gives_none_for_the_others():
    def length(completions, wanted, *, factor=1, **columns):
        assert len(completions) == len(wanted)
        return [factor * float(len(text) == size) for text, size in zip(completions, wanted, strict=True)]

    of_task = only_for_task(length, "short", ["wanted"])
    assert of_task.__name__ == "length_reward"
    columns = {"wanted": [1, None, 2], "factor": 3, "other": [1, 2]}
    assert of_task(["a", "bb", "c"], task=["short", "tvg", "short"], **columns) == [3.0, None, 0.0]
    assert of_task(["a", "bb"], wanted=[1, 1]) == [1.0, 0.0]
    assert with_options(of_task, factor=2).__name__ == "length_reward"
    with pytest.raises(ValueError, match="shorter|longer"):
        of_task(["a"], task=["short", "short"], wanted=[1, 1])


def test_everything_public_is_there():
    assert all(hasattr(rewards, name) for name in rewards.__all__)
