"""``invert-rl score-verbs``: the figures by hand, the printed forms, and errors that name file and line."""

import argparse
import json

import pytest

from rewards.errors import RewardError
from rewards.pipelines import load_pipeline
from rewards.score import GoldSentence, add_arguments, read_gold, run, score_verbs


class FixedVerbs:
    """A stand-in pipeline that answers from a table."""

    name = "fixed"

    def __init__(self, table):
        self.table = table

    def verbs(self, texts):
        return [self.table[text] for text in texts]


def gold(sentence, verbs, optional=()):
    return GoldSentence(sentence, frozenset(verbs), frozenset(optional))


def test_figures_by_hand():
    items = [gold("a", ["open"]), gold("b", ["sit", "read"]), gold("c", [], ["get"]), gold("d", ["run"])]
    pipeline = FixedVerbs({"a": ["open"], "b": ["sit", "see"], "c": ["get"], "d": ["run", "jump", "hop"]})
    scores = score_verbs(items, pipeline)
    # hits: open, sit, run; extra: see, jump, hop; missing: read; get is optional
    assert scores.exact == 0.5
    assert scores.precision == pytest.approx(3 / 6)
    assert scores.recall == pytest.approx(3 / 4)
    assert scores.f1 == pytest.approx(6 / 10)
    assert [(m.sentence, m.extra, m.missing) for m in scores.worst] == [
        ("b", ["see"], ["read"]),
        ("d", ["hop", "jump"], []),
    ]


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_command_prints_text_and_json(tmp_path, capsys):
    path = tmp_path / "gold.jsonl"
    lines = [
        {"sentence": "person opens the door.", "verbs": ["open"]},
        {"sentence": "person closes the door.", "verbs": ["slam"]},
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    assert run(arguments(path, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["pipeline"] == load_pipeline().name
    assert (report["exact"], report["precision"], report["recall"], report["f1"]) == (0.5, 0.5, 0.5, 0.5)
    assert report["worst"] == [{"sentence": "person closes the door.", "extra": ["close"], "missing": ["slam"]}]
    assert run(arguments(path)) == 0
    text = capsys.readouterr().out
    assert "exact      0.5000" in text
    assert "+close -slam" in text


@pytest.mark.parametrize("line", ["{", "[]", '{"sentence": "x"}', '{"sentence": 3, "verbs": []}'])
def test_bad_lines_name_file_and_line(tmp_path, line):
    path = tmp_path / "gold.jsonl"
    path.write_text('{"sentence": "x", "verbs": []}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(RewardError, match=r"gold\.jsonl:2"):
        read_gold(path)


def test_missing_and_empty_files_are_errors(tmp_path):
    with pytest.raises(RewardError, match="cannot be read"):
        read_gold(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(RewardError, match="no sentences"):
        read_gold(tmp_path / "empty.jsonl")
