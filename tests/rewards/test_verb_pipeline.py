"""The shipped verb pipeline: its score, its files, its masks, and errors for pipelines that cannot work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rewards.errors import RewardError
from rewards.pipelines import PIPELINE_DIR, load_pipeline
from rewards.score import describe_pipeline, read_gold, score_verbs

GOLD = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "verbs" / "gold_dev.jsonl"


def test_importing_the_library_imports_neither_torch_nor_spacy():
    code = "import sys, rewards, rewards.score; print([m for m in ('torch', 'spacy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_score_on_gold_sentences():
    if not GOLD.exists():
        pytest.skip(f"{GOLD} is not there")
    scores = score_verbs(read_gold(GOLD), load_pipeline())
    assert scores.sentences == 200
    assert scores.exact >= 0.90
    assert scores.f1 >= 0.95


@pytest.mark.parametrize(
    ("sentence", "verbs"),
    [
        ("person puts the box down.", ["put"]),
        ("A drummer was drumming on a drum.", ["drum"]),
        ("She sneezes and then she is sneezing again.", ["sneeze"]),
        ("Woman in red holding a camera", ["hold"]),
        ("A view of a boat ride on a lake", []),
        ("He takes a drink.", ["take"]),
        ("The dish washing soap is in the living room.", []),
        ("two men are seen fighting", ["see", "fight"]),
        ("a guy vlogged about his lunch", ["vlog"]),
        ("opening door", ["open"]),
        ("Washing dishes.", ["wash"]),
        ("living room", []),
        ("A person jumped up and down.", ["jump"]),
        ("She pours a drink and downs it.", ["pour", "down"]),
        ("open/close", ["open", "close"]),
        ("", []),
        ("   ", []),
        ("...", []),
    ],
)
def test_sentences_of_the_kind(sentence, verbs):
    assert load_pipeline().verbs([sentence]) == [verbs]


TOY_VERBS = {
    "open": "opens opened opened opening",
    "close": "closes closed closed closing",
    "jump": "jumps jumped jumped jumping",
    "walk": "walks walked walked walking",
    "run": "runs ran run running",
    "sit": "sits sat sat sitting",
    "stand": "stands stood stood standing",
    "wave": "waves waved waved waving",
    "push": "pushes pushed pushed pushing",
    "pull": "pulls pulled pulled pulling",
    "throw": "throws threw thrown throwing",
    "catch": "catches caught caught catching",
    "pick": "picks picked picked picking",
    "put": "puts put put putting",
    "turn": "turns turned turned turning",
    "spin": "spins spun spun spinning",
    "bounce": "bounces bounced bounced bouncing",
    "fall": "falls fell fallen falling",
    "climb": "climbs climbed climbed climbing",
    "enter": "enters entered entered entering",
    "leave": "leaves left left leaving",
    "grow": "grows grew grown growing",
    "shrink": "shrinks shrank shrunk shrinking",
    "appear": "appears appeared appeared appearing",
    "disappear": "disappears disappeared disappeared disappearing",
    "lift": "lifts lifted lifted lifting",
    "drop": "drops dropped dropped dropping",
    "hide": "hides hid hidden hiding",
    "clap": "claps clapped clapped clapping",
    "kick": "kicks kicked kicked kicking",
}


def test_tenses_of_simple_actions_in_sentences():
    pipeline = load_pipeline()
    for verb, forms in TOY_VERBS.items():
        third, past, participle, gerund = forms.split()
        sentences = [
            f"A person {third} near the door.",
            f"The person {past} near the door.",
            f"The person has {participle} near the door.",
            f"The person is {gerund} near the door.",
            f"person {gerund}",
            f"They {verb} again.",
        ]
        assert pipeline.verbs(sentences) == [[verb]] * len(sentences), verb


def test_single_words_are_read_as_verbs():
    pipeline = load_pipeline()
    for verb, forms in TOY_VERBS.items():
        words = [verb, *forms.split()]
        answers = [*words, *(word.upper() for word in words), *(word.capitalize() + "." for word in words)]
        assert pipeline.verbs(answers) == [[verb]] * len(answers), verb


def test_mask_puts_brackets_in_place_of_verbs():
    pipeline = load_pipeline()
    assert pipeline.mask(["Person closed the door", "A  person walks away and laughs.", "A red door."]) == [
        ("Person [] the door", ["close"]),
        ("A person [] away and [].", ["walk", "laugh"]),
        ("A red door.", []),
    ]


def test_one_batch_gives_the_same_as_one_text_at_a_time():
    pipeline = load_pipeline()
    texts = ["person puts a cup on the table.", "", "jump", "A man is seen running while a dog barks."] * 20
    assert pipeline.verbs(texts) == [pipeline.verbs([text])[0] for text in texts]


def test_a_pipeline_is_loaded_once():
    assert load_pipeline() is load_pipeline() is load_pipeline(None) is load_pipeline(str(PIPELINE_DIR))


def test_unknown_and_unusable_pipelines_are_errors(tmp_path):
    import spacy

    with pytest.raises(RewardError, match="no_such_pipeline.*install"):
        load_pipeline("no_such_pipeline")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(RewardError, match="finds no verb"):
        load_pipeline(str(tmp_path / "blank"))


def test_shipped_files_are_small_licensed_and_without_pickles():
    files = [path for path in PIPELINE_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    names = {path.name for path in files}
    assert {"LICENSE", "SOURCES.md", "meta.json"} <= names
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".bin.gz")]
    for path in files:
        # A pickle of protocol 2 and later starts with byte 0x80, a version, and ends with a full stop.
        content = path.read_bytes()
        assert not (content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05" and content[-1:] == b"."), path


def test_description_names_pipeline_licence_and_score():
    description = describe_pipeline()
    assert description["name"] == load_pipeline().name
    assert "CC BY-SA 4.0" in description["license"]
    assert description["score"]["exact"] >= 0.90
    assert description["score"]["f1"] >= 0.95
    meta = json.loads((PIPELINE_DIR / "meta.json").read_text(encoding="utf-8"))
    assert meta["version"] == description["version"]
