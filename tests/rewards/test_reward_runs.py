"""What a collapsed policy writes costs no more than a sentence, and texts are read as words."""

import random
import time

import pytest

from rewards.pipelines import MAX_WORDS, load_pipeline
from rewards.plain_text import LONGEST_WORD, plain_text

RUNS = {
    "exclamation": "!",
    "apostrophe": "'",
    "emoji": "🎬",
    "zero width": "\u200b",
    "surrogate": "\ud800",
    "letter": "a",
    "letters": "aB",
    "digit": "9",
    "possessive": "'s",
    "interrobang": "!?",
    "spaced": "! ",
    "words": "a ",
    "hyphens": "a-",
    "combining": "\u0301",
    "ideographs": "打开",
    "address": "http://a.",
    "family": "👩\u200d👩\u200d👧",
    "sentence": "open!",
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_one_character_is_short_for_the_tokenizer(name):
    """The tokenizer's time grows with the square of what stands without white space: none of it is long."""
    text = plain_text((RUNS[name] * 5000)[:5000])
    assert max(map(len, text.split()), default=0) <= LONGEST_WORD
    assert sum(not character.isalnum() and character != " " for character in text) <= 1 or text.count(" ") > MAX_WORDS


def test_runs_of_all_kinds_end():
    """In half a second; read as they are, one run of 5,000 apostrophes alone takes several."""
    rng = random.Random(2)
    texts = [(body * 5000)[:5000] for body in RUNS.values()]
    texts += ["".join(rng.choices("!?.,'’s🎬\u200b-é ", k=5000)) for _ in range(46)]
    start = time.process_time()
    found = load_pipeline().verbs(texts)
    assert time.process_time() - start < 20
    assert len(found) == 64
    assert not any("open" in verbs for verbs in found)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("He opens it!!!!!!!! Then he sits...", "He opens it! Then he sits..."),
        ("o\u200bpens", "opens"),
        ("He opens 🎬🎬 it 🔥", "He opens it"),
        ("He opens, closes; \n\t takes", "He opens, closes; takes"),
        ("OpenCloseTake", "Open Close Take"),
        ("THE MAN OPENS IT", "the man opens it"),
        ('{"verb": "open"}', "verb : open"),
        ("café – it’s", "café – it’s"),
        ("opens/closes/takes/puts/throws/runs", "opens / closes / takes / puts / throws / runs"),
        ("a" * 50, "a" * LONGEST_WORD),
        ("", ""),
    ],
)
def test_plain_text(text, plain):
    assert plain_text(text) == plain


def test_a_text_of_too_many_words_holds_no_verb():
    pipeline = load_pipeline()
    sentence = "He opens the door. "
    assert pipeline.verbs([sentence * (MAX_WORDS // 4)]) == [["open"]]
    assert pipeline.verbs([sentence * (MAX_WORDS // 4 + 1)]) == [[]]


def test_an_emoji_is_no_verb():
    assert load_pipeline().verbs(["🔥", "He 🔥 the door", "打开", "--", "12"]) == [[]] * 5
