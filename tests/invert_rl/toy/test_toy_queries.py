"""The toy world's queries: one known verb each, masked alike, from a small vocabulary."""

from __future__ import annotations

import re

import numpy as np
import pytest

from invert_rl.toy.queries import COLOURS, MASK, OBJECTS, VERBS, all_bodies, make_query, plain_sentence
from invert_rl.toy.scene import ABILITIES
from rewards.errors import RewardError
from rewards.verbs import load_pipeline


def forms_of(lemma: str) -> set[str]:
    verb = VERBS[lemma]
    return {verb.present, verb.past, verb.participle}


def every_body() -> list[tuple[str, str, str]]:
    return [
        (lemma, text, masked)
        for lemma in VERBS
        for noun in OBJECTS
        for colour in COLOURS
        for text, masked in all_bodies(lemma, noun, colour)
    ]


def test_every_query_has_exactly_one_form_of_its_own_verb_and_none_of_another():
    all_forms = {form: lemma for lemma in VERBS for form in {*forms_of(lemma), lemma}}
    for lemma, text, masked in every_body():
        found = [all_forms[word] for word in text.split() if word in all_forms]
        assert found == [lemma], text
        assert not set(masked.split()) & set(all_forms), masked


def test_the_mask_stands_where_the_verb_was():
    for lemma, text, masked in every_body():
        before, after = masked.split(MASK)
        assert text.startswith(before) and text.endswith(after)
        assert text[len(before) : len(text) - len(after)] in forms_of(lemma)


def test_vocabulary_is_small_and_every_ability_names_a_known_verb_and_object():
    words = {word for _, text, _ in every_body() for word in text.split()} | set(VERBS)
    assert len(words) < 150
    assert set(ABILITIES) == set(OBJECTS)
    assert {verb for verbs in ABILITIES.values() for verb in verbs} <= set(VERBS)


def test_articles_fit():
    assert not [text for _, text, _ in every_body() if re.search(r"\ba [aeiou]", text)]


def test_queries_vary_in_tense_case_and_period():
    rng = np.random.default_rng(0)
    texts = [make_query("open", "box", "red", rng).text for _ in range(300)]
    for form in forms_of("open"):
        assert any(form in text for text in texts)
    assert 0.4 < np.mean([text[0].isupper() for text in texts]) < 0.6
    assert 0.4 < np.mean([text.endswith(".") for text in texts]) < 0.6
    assert plain_sentence("open", "box") == "the person opens the box"


def test_the_verb_pipeline_finds_the_same_verbs_and_masks():
    try:
        pipeline = load_pipeline()
    except RewardError as error:
        pytest.skip(f"no verb pipeline: {error}")
    rng = np.random.default_rng(0)
    bodies = every_body()
    sample = [bodies[index] for index in rng.choice(len(bodies), size=600, replace=False)]
    texts = [text[0].upper() + text[1:] + "." if index % 2 else text for index, (_, text, _) in enumerate(sample)]
    expected = [
        masked[0].upper() + masked[1:] + "." if index % 2 else masked for index, (_, _, masked) in enumerate(sample)
    ]
    wrong = [
        (text, masked, lemmas)
        for (lemma, _, _), text, want, (masked, lemmas) in zip(
            sample, texts, expected, pipeline.mask(texts), strict=True
        )
        if lemmas != [lemma] or masked != want
    ]
    assert not wrong, f"{len(wrong)} of {len(sample)}, such as {wrong[:5]}"
