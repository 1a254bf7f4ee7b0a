"""The sources of the verb pipeline: verb table, caption grammar, treebank labels, and a tiny training run."""

import json
import re
from pathlib import Path

import pytest

from rewards.errors import RewardError
from rewards.training.captions import VERB_CLASSES, caption_sentences, caption_verbs, read_grammar, read_words
from rewards.training.lexicon import FORMS, lemma_table, read_verbs
from rewards.training.treebank import label, treebank_sentences

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


def test_every_symbol_class_and_verb_of_the_grammar_exists():
    grammar, words, verbs = read_grammar(), read_words(), read_verbs()
    for symbol, expansions in grammar.items():
        assert all(option.weight >= 0 for option in expansions), symbol
        for item in (item for option in expansions for item in option.items):
            if item.startswith("{"):
                assert item[1:-1].split(":")[0] in words, (symbol, item)
            elif item.startswith("V:"):
                _, lemma, form = item.split(":")
                assert lemma in verbs and form in FORMS, (symbol, item)
            elif item != "_":
                assert "/" in item or item in grammar, (symbol, item)
    for name in VERB_CLASSES:
        for entry in words[name]:
            assert entry.split("_")[0] in verbs, (name, entry)


def test_sentences_are_reproducible_and_their_verbs_are_forms_of_known_verbs():
    first = list(caption_sentences(400, seed=1))
    assert first == list(caption_sentences(400, seed=1))
    assert first != list(caption_sentences(400, seed=2))
    table = lemma_table()
    verbs = [word.lower() for words in first for word, tag in words if tag.startswith("VERB")]
    unknown = [word for word in verbs if word not in table]
    assert len(verbs) > 400
    assert len(unknown) < 0.03 * len(verbs), unknown  # the misspelled ones


def normalise(sentence):
    return re.sub(r"[^a-z]+", " ", sentence.lower()).strip()


def test_no_gold_sentence_of_more_than_a_few_words_is_generated():
    path = DATA / "verbs" / "gold_dev.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    gold = {normalise(json.loads(line)["sentence"]) for line in path.read_text(encoding="utf-8").splitlines()}
    generated = {normalise(" ".join(word for word, _ in words)) for words in caption_sentences(20_000, seed=0)}
    # The grammar knows no sentence; it may by chance hit one such as "person is smiling".
    assert not {sentence for sentence in gold & generated if len(sentence.split()) > 4}


@pytest.mark.parametrize(
    ("form", "lemma"),
    [
        ("sneezing", "sneeze"),
        ("drumming", "drum"),
        ("saw", "see"),
        ("laying", "lay"),
        ("lying", "lie"),
        ("lit", "light"),
        ("undressing", "undress"),
        ("awakening", "awaken"),
        ("vlogs", "vlog"),
        ("leaves", "leave"),
        ("ground", "grind"),
        ("opend", "open"),
        ("puting", "put"),
        ("siting", "sit"),
        ("trun", "turn"),
        ("hoping", "hope"),
        ("hopping", "hop"),
    ],
)
def test_lemmas(form, lemma):
    assert lemma_table(caption_verbs())[form] == lemma


def test_labels_of_the_treebank():
    assert label("open", "VERB", "VBZ", "root") == "VERB.z"
    assert label("open", "VERB", "VB", "xcomp") == label("open", "VERB", "VBP", "root") == "VERB.b"
    assert label("run", "VERB", "VBG", "amod") == "ADJ"
    assert label("include", "VERB", "VBG", "case") == "ADP"
    assert label("see", "VERB", "VBN", "acl:relcl") == "VERB.n"
    assert label("be", "VERB", "VBZ", "root") == "AUX"
    assert label("door", "NOUN", "NN", "obj") == "NOUN"


CONLLU = """# text = He opens doors.
1\tHe\the\tPRON\tPRP\t_\t2\tnsubj\t_\t_
2\topens\topen\tVERB\tVBZ\t_\t0\troot\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
3\tdoors\tdoor\tNOUN\tNNS\t_\t2\tobj\t_\tSpaceAfter=No
4\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_

# text = Go
1\tGo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
"""


def test_treebank_files_are_read_sentence_by_sentence(tmp_path):
    (tmp_path / "x-train.conllu").write_text(CONLLU, encoding="utf-8")
    assert list(treebank_sentences(tmp_path, "train")) == [
        [("He", "PRON"), ("opens", "VERB.z"), ("doors", "NOUN"), (".", "PUNCT")],
        [("Go", "VERB.b")],
    ]
    with pytest.raises(RewardError, match=r"expected one file \*-dev\.conllu"):
        list(treebank_sentences(tmp_path, "dev"))


def test_training_writes_a_pipeline_that_loads_and_learns(tmp_path):
    from rewards.pipelines import load_pipeline
    from rewards.train_verbs import main

    (tmp_path / "x-train.conllu").write_text(CONLLU * 30, encoding="utf-8")
    output = tmp_path / "pipeline"
    arguments = ["--treebank", str(tmp_path), "--output", str(output), "--captions", "1500", "--epochs", "2"]
    assert main(arguments) == 0
    pipeline = load_pipeline(str(output))
    assert pipeline.version == "1.0.0"
    assert pipeline.verbs(["person puts the box down.", "the door"]) == [["put"], []]


@pytest.mark.slow
def test_the_command_gives_the_shipped_scores_again(tmp_path):
    from rewards.pipelines import load_pipeline
    from rewards.score import read_gold, score_verbs
    from rewards.train_verbs import main

    if not (DATA / "treebank").is_dir():
        pytest.skip(f"{DATA / 'treebank'} is not there")
    assert main(["--treebank", str(DATA / "treebank"), "--output", str(tmp_path / "again")]) == 0
    gold = read_gold(DATA / "verbs" / "gold_dev.jsonl")
    shipped, again = (score_verbs(gold, load_pipeline(name)) for name in (None, str(tmp_path / "again")))
    assert again.exact == pytest.approx(shipped.exact, abs=0.0101)
    assert again.f1 == pytest.approx(shipped.f1, abs=0.0101)
