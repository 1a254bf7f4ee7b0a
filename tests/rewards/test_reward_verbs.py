"""Verb rewards: the three equations, None for other tasks, and answers that try to be paid for lists."""

import json
import random
from pathlib import Path

import numpy
import pytest

from rewards.answers import answer_or_bare_text
from rewards.errors import RewardError
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.verbs import (
    EXTRA_VERBS,
    MAX_ANSWER_CHARS,
    MAX_AR_WORDS,
    ar_reward,
    ar_score,
    vc_reward,
    vc_score,
    vd_reward,
    vd_score,
    with_options,
)

ANSWERS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "verbs" / "answers_dev.jsonl"
REWARDS = {"vc": vc_reward, "ar": ar_reward, "vd": vd_reward}
COMMON_VERBS = [
    "open",
    "close",
    "take",
    "put",
    "hold",
    "sit",
    "stand",
    "walk",
    "drink",
    "eat",
    "run",
    "throw",
    "pour",
    "wash",
    "smile",
    "laugh",
    "look",
    "talk",
    "play",
    "watch",
    "turn",
    "jump",
    "cook",
    "clean",
    "dress",
]


def answer(text):
    return f"<think>I watch.</think> <answer>{text}</answer>"


def reward(task, text, verbs, **options):
    return REWARDS[task]([answer(text)], task=[task], verbs=[verbs], **options)[0]


@pytest.mark.parametrize(
    ("predicted", "truth", "all_", "any_"),
    [
        ({"close"}, {"close"}, 1, 1),
        ({"open"}, {"close"}, 0, 0),
        ({"open", "walk"}, {"open", "walk"}, 1, 1),
        ({"open"}, {"open", "walk"}, 0, 1),
        ({"open", "run"}, {"open", "walk"}, 0, 1),
        ({"open", "close"}, {"open"}, 0, 0),
        (set(), {"open"}, 0, 0),
        (set(), set(), 0, 0),
    ],
)
def test_verb_completion_equation(predicted, truth, all_, any_):
    assert vc_score(predicted, truth) == all_
    assert vc_score(predicted, truth, "any") == any_


def test_action_recognition_equation():
    assert ar_score({"walk"}, {"walk", "laugh"}) == 1
    assert ar_score({"run"}, {"walk", "laugh"}) == 0
    assert ar_score({"walk", "laugh"}, {"walk", "laugh"}) == 0
    assert ar_score(set(), {"walk"}) == 0
    assert ar_score({"walk"}, {"walk"}, words=MAX_AR_WORDS) == 1
    assert ar_score({"walk"}, {"walk"}, words=MAX_AR_WORDS + 1) == 0


def test_video_description_equation_and_guard():
    assert vd_score({"jump", "laugh"}, {"jump"}, words=6) == 1
    assert vd_score({"laugh"}, {"jump"}, words=6) == 0
    assert vd_score({"jump"}, {"jump", "laugh"}, words=6) == 0
    assert vd_score({"jump"}, {"jump", "laugh"}, words=6, verb_match="any") == 1
    many = {"jump", *(f"verb{i}" for i in range(EXTRA_VERBS))}
    assert vd_score(many, {"jump"}, words=100) == 1
    assert vd_score(many | {"one more"}, {"jump"}, words=100) == 0
    assert vd_score({"jump", "run", "sit"}, {"jump"}, words=5) == 0
    assert vd_score({"jump"}, {"jump"}, words=1) == 1


def test_examples_of_the_paper():
    assert reward("vc", "Person [closes] the door", ["close"]) == 1.0
    assert reward("vc", "Person opens the door", ["close"]) == 0.0
    assert reward("ar", "walk", ["walk", "laugh"]) == 1.0
    assert reward("vd", "A person jumps and laughs", ["jump"]) == 1.0


def test_tenses_of_a_verb_are_equal():
    for form in ("throw", "throws", "threw", "thrown", "throwing"):
        assert reward("ar", form, ["throw"]) == 1.0, form


def test_only_its_own_task_is_scored_and_the_rest_is_none():
    completions = [answer("open"), answer("1 to 2"), [{"role": "assistant", "content": answer("opens")}]]
    task = ["ar", "tvg", "vc"]
    verbs = [["open"], None, ["open"]]
    columns = {"task": task, "verbs": verbs, "prompts": [""] * 3, "windows": [None] * 3, "trainer_state": None}
    assert ar_reward(completions, **columns) == [1.0, None, None]
    assert vc_reward(completions, **columns) == [None, None, 1.0]
    assert vd_reward(completions, **columns) == [None, None, None]


def test_options_keep_the_name_under_which_a_trainer_logs():
    configured = with_options(vc_reward, verb_match="any")
    assert configured.__name__ == "vc_reward"
    assert configured([answer("opens")], task=["vc"], verbs=[["open", "walk"]]) == [1.0]
    assert vc_reward([answer("opens")], task=["vc"], verbs=[["open", "walk"]]) == [0.0]


def test_unknown_options_are_errors():
    with pytest.raises(RewardError, match="verb_match 'most'"):
        vc_reward([], task=[], verbs=[], verb_match="most")
    with pytest.raises(RewardError, match="verb_score 'soft'"):
        ar_reward([], task=[], verbs=[], verb_score="soft")


@pytest.mark.parametrize("separator", [" ", ", ", " and ", "\n", " / ", "; ", " or ", ". "])
@pytest.mark.parametrize("task", ["vc", "ar", "vd"])
def test_a_list_of_common_verbs_is_not_paid(task, separator):
    rng = random.Random(f"{task}{separator}")
    pipeline = load_pipeline()
    scores = []
    for _ in range(40):
        verbs = rng.sample(COMMON_VERBS, 20)
        ending = rng.choice(["", "s", "ing"])
        forms = [inflect(verb, ending) for verb in verbs]
        scores.append(reward(task, separator.join(forms), [rng.choice(verbs)], pipeline=pipeline))
    assert scores == [0.0] * 40


def inflect(verb, ending):
    doubled = verb + verb[-1] if verb in ("put", "sit", "run") else verb.removesuffix("e")
    third = verb + ("es" if verb.endswith(("ch", "sh", "ss")) else "s")
    return {"": verb, "s": third, "ing": doubled + "ing"}[ending]


def test_verbs_disguised_as_nouns_are_not_paid():
    nouns = "drink walk run jump dance look swing throw kick hit play show cut paint cook drive ride turn move rest"
    for joint in (" the ", " a ", " of ", ", the "):
        text = joint.join(nouns.split())
        for verb in nouns.split():
            assert reward("vc", text, [verb]) == 0.0, (text, verb)
            assert reward("ar", text, [verb]) == 0.0, (text, verb)


def test_two_and_three_verbs_are_one_too_many():
    rng = random.Random(4)
    pairs = [rng.sample(COMMON_VERBS, rng.choice([2, 3])) for _ in range(150)]
    separators = [rng.choice([", ", " and ", " / ", " or "]) for _ in pairs]
    completions = [
        answer(separator.join(inflect(verb, rng.choice(["s", "ing"])) for verb in pair))
        for pair, separator in zip(pairs, separators, strict=True)
    ]
    truth = [[pair[0]] for pair in pairs]
    for task in ("vc", "ar"):
        scores = REWARDS[task](completions, task=[task] * len(pairs), verbs=truth)
        assert sum(scores) / len(scores) <= 0.02, [c for c, s in zip(completions, scores, strict=True) if s]


def test_verbs_in_thought_are_not_paid():
    text = "<think>open close take put hold</think> <answer>the door</answer>"
    for task, function in REWARDS.items():
        assert function([text], task=[task], verbs=[["open"]]) == [0.0]


def test_an_overlong_answer_holds_no_verb():
    text = answer("He jumps. " + "The door is red. " * (MAX_ANSWER_CHARS // 16))
    assert vd_reward([text], task=["vd"], verbs=[["jump"]]) == [0.0]


def test_answers_written_by_hand():
    if not ANSWERS.exists():
        pytest.skip(f"{ANSWERS} is not there")
    records = [json.loads(line) for line in ANSWERS.read_text(encoding="utf-8").splitlines()]
    found = load_pipeline().verbs(answer_or_bare_text(record["completion"]) for record in records)
    wrong = []
    for record, lemmas in zip(records, found, strict=True):
        expected = set(record["verbs"]) if record["language"] == "en" else set()
        if set(lemmas) - set(record["optional"]) != expected:
            wrong.append((record["id"], record["completion"], lemmas))
    # Answers in other languages score zero: no English lemma is found in them.
    assert [case for case in wrong if case[0] not in ("a30", "a57")] == []
    assert not any("open" in case[2] for case in wrong)


ODD = ["\x00", "\ud800", "🎬", "９", "\u200b", "\u2028", "’", "[]", "[", "<", "a" * 400, "-" * 300, "\\n", "{}"]


def fuzz_answers(count):
    rng = random.Random(11)
    words = [*COMMON_VERBS, "the", "door", "person", "is", "opening", "to", ",", ".", "\n", "<answer>", *ODD]
    for _ in range(count):
        body = rng.choice([" ", "", "-"]).join(rng.choices(words, k=rng.randrange(0, 12)))
        yield body if rng.random() < 0.3 else answer(body)


def check_bounded(texts):
    for task, function in REWARDS.items():
        for options in ({}, {"verb_match": "any"} if task != "ar" else {}):
            scores = function(texts, task=[task] * len(texts), verbs=[["open", "sit"]] * len(texts), **options)
            assert all(score in (0.0, 1.0) for score in scores)
            assert len(scores) == len(texts)


def test_odd_answers_give_bounded_rewards():
    check_bounded(list(fuzz_answers(1500)))


@pytest.mark.slow
def test_a_hundred_thousand_odd_answers_give_bounded_rewards():
    check_bounded(list(fuzz_answers(100_000)))


def test_cosine_variant_with_the_shipped_vectors():
    near = reward("ar", "smiling", ["laugh"], verb_score="cosine")
    far = reward("ar", "running", ["eat"], verb_score="cosine")
    assert 0.0 <= far < 0.3 < near < 1.0
    assert reward("ar", "opening", ["open"], verb_score="cosine") == 1.0
    assert reward("vc", "opens and closes", ["open"], verb_score="cosine") == 0.0
    assert reward("vd", "A man laughs.", ["smile"], verb_score="cosine") > 0.0
    assert reward("vd", "A man laughs.", ["smile"]) == 0.0


def test_cosine_needs_vectors_and_stays_bounded():
    import spacy

    bare = VerbPipeline(spacy.blank("en"), "blank")
    with pytest.raises(RewardError, match="no word vectors"):
        bare.similarity("open", "close")
    vectors = spacy.blank("en")
    for word, vector in {"open": [3.0, 4.0], "close": [4.0, 3.0], "eat": [-3.0, -4.0]}.items():
        vectors.vocab.set_vector(word, numpy.array(vector, dtype="float32"))
    pipeline = VerbPipeline(vectors, "tiny")
    assert pipeline.similarity("open", "close") == pytest.approx(0.96)
    assert pipeline.similarity("open", "open") == 1.0
    assert pipeline.similarity("open", "eat") == 0.0
    assert pipeline.similarity("open", "unknown") == 0.0
    assert vc_score({"open", "close"}, {"open", "eat"}, similarity=pipeline.similarity) == 0.0
    assert vc_score({"open", "close"}, {"open"}, similarity=pipeline.similarity) == 0.0
    assert ar_score({"open"}, {"close", "eat"}, similarity=pipeline.similarity) == pytest.approx(0.96)
    assert vd_score({"open"}, {"close"}, 5, similarity=pipeline.similarity) == pytest.approx(0.96)
