"""The builder of multiple-choice questions: what each question must be, against rules written down here again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.rows import read_rows
from invert_rl.cli import main
from invert_rl.llavaction.questions.mqa import LETTERS, QuestionBuilder, check_question
from invert_rl.llavaction.questions.priors import prior_segments
from invert_rl.llavaction.questions.specialist import RandomClasses, TextSimilarity
from invert_rl.llavaction.segments import ClassMap, Segment, read_segments
from tests.invert_rl.llavaction.kitchen import NOUNS, VERBS, make_segments, write_csv, write_names, write_scores

EPIC = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "epic100"


def build(tmp_path: Path, csv: Path, specialist: object, *options: str, name: str = "mqa") -> tuple[list, dict]:
    output = tmp_path / f"{name}.jsonl"
    code = main(
        ["build-mqa", "--annotations", str(csv), "--specialist", str(specialist), "--output", str(output)] + [*options]
    )
    assert code == 0
    return read_rows(output), json.loads(output.with_suffix(".summary.json").read_text())


Kitchen = tuple[Path, list[Segment], np.ndarray, list[str], Path]


@pytest.fixture(scope="module")
def large_kitchen(tmp_path_factory) -> Kitchen:
    return make_kitchen(tmp_path_factory.mktemp("large"), 10_000)


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory) -> Kitchen:
    return make_kitchen(tmp_path_factory.mktemp("kitchen"), 2000)


def make_kitchen(folder: Path, count: int) -> Kitchen:
    """A csv, its segments, their scores, the scores' classes, and the file of scores."""
    segments = make_segments(count)
    path, scores, keys = write_scores(folder / "scores.npz", segments)
    return write_csv(folder / "kitchen.csv", segments), segments, scores, keys, path


@pytest.mark.parametrize(
    ("size", "kind", "mode"),
    [
        ("kitchen", "npz", "benchmark"),
        pytest.param("large_kitchen", "npz", "benchmark", marks=pytest.mark.slow),
        pytest.param("large_kitchen", "random", "train", marks=pytest.mark.slow),
    ],
)
def test_invariants_of_thousands_of_questions(request, tmp_path, size, mode, kind):
    csv, segments, _, _, path = request.getfixturevalue(size)
    rows, summary = build(tmp_path, csv, path if kind == "npz" else "random", "--mode", mode)
    assert len(rows) == summary["questions"] == summary["rows"] == len(segments)
    spoken = {}
    for segment in segments:
        spoken.setdefault(f"{segment.verb}:{segment.noun}", set()).add(segment.narration)
    by_id = {segment.id: segment for segment in segments}
    for row in rows:
        segment, options, classes = by_id[row.id], row.meta["options"], row.meta["option_classes"]
        key = f"{segment.verb}:{segment.noun}"
        assert len(options) == len(set(options)) == len(set(classes)) == 5
        assert classes.count(key) == options.count(segment.narration) == 1
        place = LETTERS.index(row.meta["answer"])
        assert (options[place], classes[place]) == (segment.narration, key)
        assert all(text in spoken[name] for text, name in zip(options, classes, strict=True))
        check_question(row)
    letters = Counter(row.meta["answer"] for row in rows)
    assert set(letters) == set("ABCDE")
    assert max(letters.values()) - min(letters.values()) < 5 * np.sqrt(2 * len(rows) * 0.2)


def test_the_benchmark_has_the_hardest_classes_and_training_draws_from_twice_as_many(kitchen, tmp_path):
    """Against the ranking made here from the scores; classes whose text is taken make way for the next."""
    csv, segments, scores, keys, path = kitchen
    hard, _ = build(tmp_path, csv, path, "--style", "narration")
    train, _ = build(tmp_path, csv, path, "--mode", "train", name="train")
    sampled = Counter()
    for segment, row_scores, question, taught in zip(segments, scores, hard, train, strict=True):
        truth = f"{segment.verb}:{segment.noun}"
        ranked = [keys[column] for column in np.argsort(-row_scores)]
        others = [key for key in ranked if key != truth]
        # "take" is said of two verbs: such a pair of the same noun may have to give way
        clash = [key for key in others if key.split(":")[0] in ("0", "1")]
        chosen = set(question.meta["option_classes"]) - {truth}
        if not set(others[:4]) & set(clash):
            assert chosen == set(others[:4])
        assert chosen <= set(others[: 4 + len(clash)])
        drawn = set(taught.meta["option_classes"]) - {truth}
        if not set(others[:10]) & set(clash):
            assert drawn <= set(others[:10])
        sampled.update(others.index(key) for key in drawn if key in others[:10])
    assert set(sampled) == set(range(10))
    counts = np.array([sampled[rank] for rank in range(10)])
    assert (abs(counts / counts.sum() - 0.1) < 0.01).all()


def test_the_summary_counts_recall_by_hand(kitchen, tmp_path):
    csv, segments, scores, keys, path = kitchen
    _, summary = build(tmp_path, csv, path)
    ranks = []
    for segment, row in zip(segments, scores, strict=True):
        own = row[keys.index(f"{segment.verb}:{segment.noun}")]
        ranks.append(int((row > own).sum()))
    for k in (1, 5, 10, 20):
        assert summary["specialist_recall"][f"top_{k}"] == pytest.approx(np.mean(np.array(ranks) < k), abs=1e-6)
    _, random = build(tmp_path, write_csv(tmp_path / "few.csv", segments[:100]), "random", name="random")
    assert random["specialist_recall"] is None


def test_a_question_depends_on_seed_and_row_alone(kitchen, tmp_path):
    csv, segments, _, _, path = kitchen
    few = write_csv(tmp_path / "few.csv", segments[:40])
    # the same classes and pools in both, so that only which rows are asked differs
    alone, _ = build(tmp_path, few, path, "--classes-from", str(csv), name="alone")
    whole, _ = build(tmp_path, csv, path, name="whole")
    assert [row.meta["options"] for row in alone] == [row.meta["options"] for row in whole[:40]]
    other, _ = build(tmp_path, few, path, "--classes-from", str(csv), "--seed", "1", name="other")
    assert [row.meta["answer"] for row in other] != [row.meta["answer"] for row in alone]


def test_json_predictions_by_row_and_by_id(tmp_path):
    segments = make_segments(60)
    csv = write_csv(tmp_path / "few.csv", segments)
    _, scores, keys = write_scores(tmp_path / "scores.npz", segments)
    ranked = [[keys[column] for column in np.argsort(-row)] for row in scores]
    by_row = {
        str(place): {"target": f"{s.verb}:{s.noun}", "predictions": ranked[place]} for place, s in enumerate(segments)
    }
    by_id = {s.id: dict(zip(keys, row.tolist(), strict=True)) for s, row in zip(segments, scores, strict=True)}
    results = [build(tmp_path, csv, tmp_path / "scores.npz", name="npz")[0]]
    for name, content in (("by_row", by_row), ("by_id", by_id)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        results.append(build(tmp_path, csv, tmp_path / f"{name}.json", name=name)[0])
    assert results[0] == results[1] == results[2]


def test_verb_and_noun_scores_are_multiplied(tmp_path):
    segments = make_segments(60)
    csv = write_csv(tmp_path / "few.csv", segments)
    rng = np.random.default_rng(2)
    verbs, nouns = rng.dirichlet(np.ones(6), 60), rng.dirichlet(np.ones(7), 60)
    np.savez(tmp_path / "factored.npz", verb_scores=verbs, noun_scores=nouns)
    actions = sorted({s.action for s in segments})
    np.savez(
        tmp_path / "product.npz",
        scores=np.array([[v[a] * n[b] for a, b in actions] for v, n in zip(verbs, nouns, strict=True)]),
        classes=np.array([f"{a}:{b}" for a, b in actions]),
    )
    assert (
        build(tmp_path, csv, tmp_path / "factored.npz", name="f")[0]
        == build(tmp_path, csv, tmp_path / "product.npz", name="p")[0]
    )
    np.savez(tmp_path / "logits.npz", verb_scores=verbs - 1, noun_scores=nouns)
    with pytest.raises(DataError, match="take their softmax"):
        build_in_process(segments, tmp_path / "logits.npz")


def build_in_process(segments: list[Segment], path: Path) -> None:
    from invert_rl.llavaction.questions.specialist import read_specialist

    read_specialist(str(path), segments, ClassMap(segments), 0)


def test_rows_without_a_usable_prediction_are_rejected_and_named(tmp_path):
    segments = make_segments(30)
    csv = write_csv(tmp_path / "few.csv", segments)
    path, scores, keys = write_scores(tmp_path / "scores.npz", segments)
    scores[3, 2] = np.nan
    np.savez(path, ids=np.array([s.id for s in segments[:-1]]), scores=scores[:-1], classes=np.array(keys))
    rows, summary = build(tmp_path, csv, path)
    assert len(rows) == 28
    assert summary["rejected_rows"] == [
        {"id": segments[3].id, "reason": "a score is not a finite number"},
        {"id": segments[29].id, "reason": "the specialist has no prediction"},
    ]


BAD_FILES = {
    "of other rows": ({"0": {"target": "5:5", "predictions": ["1:1"]}}, "its target is 5:5"),
    "too many rows": ({"99": {"predictions": []}}, "the annotations end at row 29"),
    "no class": ({"0": {"predictions": ["take plate"]}}, "'take plate' is not an action"),
    "a list": ({"0": ["1:1"]}, "expected an object with 'predictions'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_prediction_file_that_does_not_fit_is_refused(tmp_path, capsys, case):
    content, message = BAD_FILES[case]
    segments = make_segments(30)
    segments[0] = Segment("x", "P00_000", 0.0, 0.1, "cut cup", 3, 4)
    csv = write_csv(tmp_path / "few.csv", segments)
    (tmp_path / "p.json").write_text(json.dumps(content))
    arguments = [
        "--annotations",
        str(csv),
        "--specialist",
        str(tmp_path / "p.json"),
        "--output",
        str(tmp_path / "o.jsonl"),
    ]
    assert main(["build-mqa", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.jsonl").exists()


def test_labels_read_as_words_and_similar_ones_are_hard(tmp_path):
    segments = make_segments(400)
    csv = write_csv(tmp_path / "k.csv", segments)
    names = ["--verb-classes", str(write_names(tmp_path / "v.csv", VERBS))]
    names += ["--noun-classes", str(write_names(tmp_path / "n.csv", NOUNS))]
    rows, summary = build(tmp_path, csv, "text-similarity", "--style", "label", *names)
    assert "not a model" in summary["specialist"]
    assert summary["specialist_recall"] is None
    texts = {text for row in rows for text in row.meta["options"]}
    assert "put down hot tap" in texts
    assert "take cutting board" in texts
    shares_word = [
        bool(set(option.split()) & set(row.query.split()))
        for row in rows
        for option in row.meta["options"]
        if option != row.query
    ]
    random, _ = build(tmp_path, csv, "random", "--style", "label", *names, name="random")
    shared = [len(set(o.split()) & set(row.query.split())) > 0 for row in random for o in row.meta["options"]]
    assert np.mean(shares_word) > np.mean(shared) + 0.1


def test_random_over_narrations_prefers_frequent_classes():
    segments = [Segment(f"a{n}", "v", n, n + 1, f"take thing {n}", 0, 0) for n in range(90)]
    segments += [Segment(f"b{n}", "v", n, n + 1, f"put thing {n}", 1, n) for n in range(10)]
    classes = ClassMap(segments)
    for by, low, high in (("classes", 0.05, 0.15), ("narrations", 0.84, 0.94)):
        first = [RandomClasses(classes, 0, by).ranked(place, segments[95])[0] == (0, 0) for place in range(600)]
        assert low < np.mean(first) < high


def test_texts_that_are_the_same_never_meet():
    """Three of five classes say the same: only three different texts are left."""
    segments = [
        Segment(f"s{n}", "v", n, n + 1, text, n, 0) for n, text in enumerate(("Cut it.", "cut  it", "CUT IT", "a", "b"))
    ]
    classes = ClassMap(segments, dict(enumerate("vwxyz")), {0: "n"})
    builder = QuestionBuilder(classes, RandomClasses(classes, 0), count=3)
    for question in builder.questions(segments):
        assert len({text.casefold().strip(" .").replace("  ", " ") for text in question.options}) == 3
    assert builder.summary.same_text > 0
    five = QuestionBuilder(classes, RandomClasses(classes, 0), count=5)
    assert five.questions(segments) == []
    assert {entry["reason"] for entry in five.summary.rejected} == {"fewer distinct options than asked for"}


def test_priors_are_the_two_actions_right_before():
    def at(name: str, start: float, end: float, video: str = "v") -> Segment:
        return Segment(name, video, start, end, name, 0, 0)

    segments = [at("a", 0, 1), at("b", 2, 4), at("c", 6.9, 8), at("d", 7.5, 9), at("e", 12.1, 13), at("f", 13, 14)]
    segments += [at("x", 0, 1, "w"), at("y", 1, 2, "w"), at("late", 0.5, 20, "w")]
    found = {name: [prior.id for prior in priors] for name, priors in prior_segments(segments).items()}
    # e starts 3.1 s after d ends; late started before y, which ended before it
    assert found == {"c": ["a", "b"], "d": ["b", "c"]}


def test_offsets_are_differences_of_starts(tmp_path):
    segments = make_segments(200)
    rows, summary = build(tmp_path, write_csv(tmp_path / "k.csv", segments), "random")
    by_id = {segment.id: segment for segment in segments}
    with_priors = [row for row in rows if "priors" in row.meta]
    assert 10 < len(with_priors) == summary["rows_with_prior_actions"] < 160
    for row in with_priors:
        for prior in row.meta["priors"]:
            assert prior["offset"] == pytest.approx(row.windows[0][0] - by_id[prior["id"]].start, abs=0.006)
            assert prior["narration"] == by_id[prior["id"]].narration


def test_segments_are_cut_where_their_video_ends(tmp_path):
    segments = make_segments(20)
    lengths = {segment.video: 1000.0 for segment in segments} | {segments[9].video: segments[9].end - 0.2}
    (tmp_path / "d.csv").write_text("video_id,duration\n" + "".join(f"{v},{d}\n" for v, d in lengths.items()))
    csv = write_csv(tmp_path / "k.csv", segments)
    rows, summary = build(tmp_path, csv, "random", "--durations", str(tmp_path / "d.csv"))
    assert len(rows) == 20
    assert summary["clipped_to_the_video"] == 1
    assert rows[9].windows[0][1] == pytest.approx(segments[9].end - 0.2)


@pytest.mark.slow
@pytest.mark.skipif(not EPIC.is_dir(), reason="the official EPIC-KITCHENS-100 files are not there")
def test_the_official_validation_set_gives_all_its_questions(tmp_path):
    """9,668 rows (paper, E.3) and 3,806 actions in train and validation, the field's number."""
    names = ["--verb-classes", str(EPIC / "EPIC_100_verb_classes.csv")]
    names += ["--noun-classes", str(EPIC / "EPIC_100_noun_classes.csv")]
    durations = ["--durations", str(EPIC / "EPIC_100_video_info.csv")]
    rows, summary = build(tmp_path, EPIC / "EPIC_100_validation.csv.gz", "text-similarity", *names, *durations)
    assert len(rows) == 9668
    assert (summary["classes"]["verbs"], summary["classes"]["nouns"]) == (97, 300)
    assert summary["clipped_to_the_video"] == 1
    both = [*read_segments(EPIC / "c2_training.csv.gz"), *read_segments(EPIC / "EPIC_100_validation.csv.gz")]
    assert len(ClassMap(both).actions) == 3806


def test_similarity_ranks_the_true_class_first():
    segments = make_segments(200)
    classes = ClassMap(segments, dict(enumerate(VERBS)), dict(enumerate(NOUNS)))
    specialist = TextSimilarity(classes)
    assert all(specialist.ranked(0, segment)[0] == segment.action for segment in segments)
