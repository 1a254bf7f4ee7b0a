"""Verbs and masked queries ahead of time: what is written, what is kept, which rows are listed."""

from __future__ import annotations

import json

import pytest

from data_prep.rows import Row
from data_prep.verbs import BATCH, annotate_missing, annotate_verbs, without_verb
from rewards.pipelines import load_pipeline


class FixedPipeline:
    """Masks the words "opens" and "sits"; counts what it was asked."""

    name = "fixed"

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.asked: list[str] = []

    def mask(self, texts: list[str]) -> list[tuple[str, list[str]]]:
        assert len(texts) <= BATCH
        self.asked += texts
        lemmas = {"opens": "open", "sits": "sit"}
        return [
            (
                " ".join("[]" if word in lemmas else word for word in text.split()),
                [lemmas[word] for word in text.split() if word in lemmas],
            )
            for text in texts
        ]


def row(name: str, query: str, **meta: object) -> Row:
    return Row(name, "v.mp4", 10.0, query, ((0.0, 1.0),), meta=dict(meta))


def test_fields_are_added_and_other_meta_kept() -> None:
    (annotated,) = annotate_verbs([row("a", "he opens it", source="f:1")], FixedPipeline())
    assert annotated.meta == {
        "source": "f:1",
        "verbs": ["open"],
        "masked_query": "he [] it",
        "verb_pipeline": "fixed 1",
    }


def test_each_query_is_parsed_once_and_only_by_a_new_pipeline() -> None:
    rows = [row(str(number), f"he opens {number % 700}") for number in range(2000)]
    first = FixedPipeline()
    annotated = annotate_verbs(rows, first)
    assert len(first.asked) == 700 > BATCH
    assert [one.id for one in annotated] == [one.id for one in rows]
    again = FixedPipeline()
    assert annotate_verbs(annotated, again) == annotated and again.asked == []
    newer = FixedPipeline("2")
    assert {one.meta["verb_pipeline"] for one in annotate_verbs(annotated, newer)} == {"fixed 2"}
    assert len(newer.asked) == 700


def test_queries_without_a_verb_are_listed() -> None:
    rows = annotate_verbs([row("a", "a red car"), row("b", "she sits")], FixedPipeline())
    assert [one.id for one in without_verb(rows)] == ["a"]


def test_command_writes_the_reward_librarys_own_annotation(tmp_path, convert, capsys) -> None:
    queries = ["person opens the door.", "a red car."]
    content = {"v_a": {"duration": 9, "timestamps": [[0, 1], [2, 3]], "sentences": queries}}
    annotations = tmp_path / "captions.json"
    annotations.write_text(json.dumps(content))
    done = convert("activitynet-captions", annotations=annotations, split="train", annotate="verbs")
    pipeline = load_pipeline()
    for one, (masked, verbs) in zip(done.rows, pipeline.mask(queries), strict=True):
        assert (one["meta"]["masked_query"], one["meta"]["verbs"]) == (masked, verbs)
        assert one["meta"]["verb_pipeline"] == f"{pipeline.name} {pipeline.version}"
    assert done.rows[0]["meta"]["verbs"] == ["open"]
    assert done.rows[0]["meta"]["masked_query"] == "person [] the door."
    assert done.summary["verb_pipeline"] == {"name": pipeline.name, "version": pipeline.version}
    assert done.summary["rows_without_verb"]["count"] == 1
    listed = done.output.with_suffix(".no_verb.jsonl").read_text().splitlines()
    assert [json.loads(line)["query"] for line in listed] == ["a red car."]
    assert "1 rows have a query without a verb" in capsys.readouterr().out


def test_unknown_annotation_is_a_usage_error(tmp_path, convert) -> None:
    with pytest.raises(SystemExit):
        convert("activitynet-captions", annotations=tmp_path / "a.json", split="train", annotate="nouns")


def test_verbs_of_another_pipeline_are_annotated_anew_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    theirs = {"verbs": ["spin"], "masked_query": "they [] it"}
    rows = [
        row("a", "he opens it", **theirs, verb_pipeline="theirs 3"),
        row("b", "he opens it", **theirs),  # by hand
        row("c", "he opens it"),
        row("d", "he opens it", verbs=["open"], verb_pipeline="fixed 1"),  # half of it
    ]
    with caplog.at_level("WARNING"):
        done = annotate_missing(rows, FixedPipeline())
    assert [one.meta["verbs"] for one in done[:3]] == [["open"], ["spin"], ["open"]]
    assert [one.meta.get("verb_pipeline") for one in done] == ["fixed 1", None, "fixed 1", "fixed 1"]
    assert "masked_query" in done[3].meta
    assert caplog.text.count("1 rows carry the verbs of pipeline theirs 3; they are annotated anew by fixed 1") == 1
    caplog.clear()
    assert annotate_missing(done, FixedPipeline()) == done
    assert not caplog.text
