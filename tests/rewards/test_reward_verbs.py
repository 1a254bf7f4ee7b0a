"""Verb rewards: the three equations, None for other tasks, and answers that try to be paid for lists."""

import json
import random
from pathlib import Path

import numpy
import pytest

from rewards.answers import answer_or_bare_text
from rewards.errors import RewardError
from rewards.ignored_verbs import ASPECTUAL_VERBS
from rewards.pipelines import VerbPipeline, load_pipeline
from rewards.verbs import (
    EXTRA_VERBS,
    FREE_VERBS,
    MAX_ANSWER_CHARS,
    MAX_AR_WORDS,
    ar_reward,
    ar_score,
    vc_reward,
    vc_score,
    vd_reward,
    vd_score,
    verb_settings,
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
    many = {"jump", *(f"verb{i}" for i in range(EXTRA_VERBS + FREE_VERBS))}
    assert vd_score({"jump", *(f"verb{i}" for i in range(FREE_VERBS))}, {"jump"}, words=100) == 1
    assert vd_score(many, {"jump"}, words=100) == 0.5
    assert vd_score(many, many, words=100) == 1
    assert vd_score(many, {"jump", "verb0"}, words=100) == pytest.approx(5 / 9)
    assert vd_score(many, {"jump", "other"}, words=100, verb_match="any") == 0.5
    assert vd_score(many, {"jump"}, words=100, guard="none") == 1
    assert vd_score({"jump", "run", "sit"}, {"jump"}, words=5) == 0
    assert vd_score({"jump", "run", "sit"}, {"jump"}, words=5, guard="none") == 1
    assert vd_score({"jump"}, {"jump"}, words=1) == 1


def test_examples_of_the_paper():
    assert reward("vc", "Person [closes] the door", ["close"]) == 1.0
    assert reward("vc", "Person opens the door", ["close"]) == 0.0
    assert reward("ar", "walk", ["walk", "laugh"]) == 1.0
    assert reward("vd", "A person jumps and laughs", ["jump"]) == 1.0
    assert reward("vd", "A person jumps, laughs and then sits down", ["jump"]) == pytest.approx(5 / 6)


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
    with pytest.raises(RewardError, match="verb_guard 'strict' is unknown; use 'default' or 'none'"):
        vd_reward([], task=[], verbs=[], verb_guard="strict")
    for verbs, message in {
        "starts": "'starts' is not .* its base form is 'start'",
        "aspectual,quux": "'quux' is not the base form",
        "": "'' is not the base form",
        "none,start": "'none' is not the base form",
    }.items():
        with pytest.raises(RewardError, match=message):
            vc_reward([], task=[], verbs=[], ignore_verbs=verbs)


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


def test_ignored_verbs_need_not_be_matched():
    def both(task, text, verbs):
        return reward(task, text, verbs), reward(task, text, verbs, ignore_verbs="aspectual")

    assert both("vd", "A person plays on a phone.", ["begin", "play"]) == (0.0, 1.0)
    assert both("vd", "A man sits and begins to play on a phone.", ["play"]) == (pytest.approx(5 / 6), 1.0)
    assert both("vc", "person starts to close the door", ["close"]) == (0.0, 1.0)
    assert both("vc", "person closes the door", ["start", "close"]) == (0.0, 1.0)
    assert both("vc", "person opens the door", ["start", "close"]) == (0.0, 0.0)
    assert both("vc", "person starts", ["start", "close"]) == (0.0, 0.0)
    assert both("ar", "starts", ["start", "close"]) == (1.0, 0.0)
    assert both("ar", "starting to close", ["close"]) == (0.0, 1.0)
    # A query of nothing but such verbs has no other verb to match, so that none is ignored, in the answer neither.
    assert both("vd", "A woman is shown.", ["show"]) == (1.0, 1.0)
    assert both("vd", "A woman sits.", ["show"]) == (0.0, 0.0)
    assert both("vc", "A woman starts, stops and sees", ["see"]) == (0.0, 0.0)
    assert reward("vd", "He opens it.", ["go", "open"], ignore_verbs=["go", "start"]) == 1.0
    assert reward("vd", "He opens it.", ["go", "open"], ignore_verbs="aspectual,go") == 1.0


def test_settings_are_the_same_however_they_are_written():
    assert verb_settings() == {"verb_guard": "default", "ignore_verbs": "none"}
    assert verb_settings("none", "aspectual")["ignore_verbs"] == "aspectual"
    assert verb_settings(ignore_verbs="start, begin") == verb_settings(ignore_verbs=["begin", "start"])
    assert verb_settings(ignore_verbs=[]) == verb_settings()
    assert verb_settings(ignore_verbs=sorted(ASPECTUAL_VERBS)) == verb_settings(ignore_verbs="aspectual")


def test_without_the_guard_descriptions_are_the_equation_of_the_paper():
    common = " ".join(f"The person {inflect(verb, 's')} something." for verb in COMMON_VERBS)
    for verb in ("open", "take", "walk"):
        assert reward("vd", common, [verb], verb_guard="none") == 1.0
        assert reward("vd", common, [verb]) <= 5 / (5 + len(COMMON_VERBS) - 4)
    assert reward("vd", "opens, closes, takes", ["take"], verb_guard="none") == 1.0
    assert reward("vd", "opens, closes, takes", ["take"]) == 0.0


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ("drinking water", "drink"),
        ("close door", "close"),
        ("The verb is: close", "close"),
        ("The verb is close.", "close"),
        ("**Verb:** closing", "close"),
        ("The verb is to close", "close"),
        ('{"verb": "close"}', "close"),
        ("The action is drinking water", "drink"),
        ("The single verb that describes the event is 'pouring'.", "pour"),
        ("The event can be described as: running", "run"),
        ("A person is sitting.", "sit"),
    ],
)
def test_the_verb_of_an_answer_in_words_is_found(text, verb):
    assert reward("ar", text, [verb]) == 1.0
    assert reward("ar", text, ["other"]) == 0.0


@pytest.mark.parametrize("text", ["The verb is: open or close", "open, close", "The verb", "verb:", "a drink"])
def test_a_lead_in_is_no_verb_and_hides_no_list(text):
    assert reward("ar", text, ["open"]) == 0.0


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
            assert all(0.0 <= score <= 1.0 for score in scores)
            assert task == "vd" or all(score in (0.0, 1.0) for score in scores)
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
