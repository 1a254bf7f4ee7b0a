"""Text encoders and descriptions: tiny CLIP and BERT checkpoints, JSON files, and a tiny video LLM that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertModel, CLIPConfig, CLIPModel
from transformers import BertTokenizerFast as Tokenizer

from data_prep.errors import DataError
from invert_rl.cli import main
from invert_rl.models import CheckpointError
from invert_rl.tal.annotations import plain_name
from invert_rl.toy.tiny_model import save_tiny_checkpoint
from invert_rl.wtal.describe import describe, fill, read_prompts
from invert_rl.wtal.descriptions import (
    Descriptions,
    from_class_names,
    read_descriptions,
    write_descriptions,
)
from invert_rl.wtal.text import HASHED_WIDTH, encode_texts

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "bows", "jumps", "high"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of a tiny random BERT and a tiny random CLIP with one vocabulary."""
    folders = {}
    torch.manual_seed(0)
    text = {**SMALL, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    clip = CLIPConfig(
        text_config={**text, "eos_token_id": 3, "pad_token_id": 0},
        vision_config={**SMALL, "image_size": 8, "patch_size": 4},
        projection_dim=6,
    )
    models = {"bert": BertModel(BertConfig(**text)), "clip": CLIPModel(clip)}
    for name, model in models.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        Tokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
        model.save_pretrained(folder)
        folders[name] = str(folder)
    return folders


def test_hashed_words_need_no_weights_and_no_order() -> None:
    first, second, third = encode_texts(["a person bows", "Bows, a person!", "a person jumps"])
    assert first.shape == (HASHED_WIDTH,)
    assert torch.allclose(first, second)
    assert first @ third > 0.4  # two of three words
    assert abs(encode_texts(["bows"])[0] @ encode_texts(["jumps"])[0]) < 0.4
    assert torch.allclose(torch.linalg.norm(encode_texts(["jumps", "high"]), dim=1), torch.ones(2))


def test_sentence_encoder_is_the_mean_of_its_states(encoders: dict[str, str]) -> None:
    texts = ["a person bows", "jumps"]
    found = encode_texts(texts, encoders["bert"])
    tokenizer, model = AutoTokenizer.from_pretrained(encoders["bert"]), BertModel.from_pretrained(encoders["bert"])
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            states = model.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert torch.allclose(vector, F.normalize(states.mean(dim=0), dim=0), atol=1e-5)  # padding does not count


def test_clip_gives_its_projected_text_features(encoders: dict[str, str]) -> None:
    found = encode_texts(["a person bows", "jumps high"], encoders["clip"])
    assert found.shape == (2, 6)
    assert torch.allclose(torch.linalg.norm(found, dim=1), torch.ones(2), atol=1e-5)
    assert not torch.allclose(found[0], found[1])
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        encode_texts(["a"], "./nowhere/at/all")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BaseballPitch", "baseball pitch"),
        ("CleanAndJerk", "clean and jerk"),
        ("baseball_pitch", "baseball pitch"),
        ("Putting on makeup", "putting on makeup"),
        ("BMX", "bmx"),
        ("BMXRide", "bmx ride"),
    ],
)
def test_class_names_as_words(name: str, words: str) -> None:
    assert plain_name(name) == words
    assert from_class_names([name]).classes[name] == {"key": words, "complete": words}


def test_files_are_read_in_both_forms_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    texts = {"bow": {"key": "bends", "complete": "bends and rises"}}
    path.write_text(json.dumps(texts))
    assert read_descriptions(path, ["bow"]).classes == texts
    videos = {"v1": {"key": "a low bow", "complete": "a man bows low"}}
    write_descriptions(path, Descriptions(texts, videos))
    found = read_descriptions(path)
    assert (found.classes, found.videos, found.source) == (texts, videos, str(path))
    with pytest.raises(DataError, match="no description of 'jump' .*describe-actions --output"):
        read_descriptions(path, ["bow", "jump"])
    path.write_text(json.dumps({"bow": {"key": "bends"}}))
    with pytest.raises(DataError, match="classes 'bow': 'complete' must be a text"):
        read_descriptions(path)
    path.write_text(json.dumps({"bow": {"key": "!?", "complete": "x"}}))
    with pytest.raises(DataError, match="'key' must be a text with at least one word"):
        read_descriptions(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="expected an object"):
        read_descriptions(path)


def test_texts_of_videos_come_before_those_of_classes() -> None:
    classes = {name: {"key": f"key {name}", "complete": f"all {name}"} for name in ("bow", "jump")}
    found = Descriptions(classes, {"v1": {"key": "key v1", "complete": "all v1"}})
    assert found.key_texts(["bow", "jump"], {"v1": ["bow"], "v2": ["bow", "jump"]}) == [["key v1"], ["key jump"]]
    assert found.complete_text("v1", ["bow"]) == "all v1"
    assert found.complete_text("v2", ["bow", "jump"]) == "all bow. all jump"


def test_prompts_are_files_that_name_action_and_list(tmp_path: Path) -> None:
    prompts = read_prompts({})
    filled = fill(prompts["key"], "golf swing", ["GolfSwing", "LongJump"])
    assert '"golf swing"' in filled and "golf swing, long jump" in filled
    assert "golf swing" in fill(prompts["complete"], "golf swing", ["GolfSwing"])
    path = tmp_path / "key.txt"
    path.write_text("What is the moment of {action}?")
    with pytest.raises(DataError, match=r"key.txt: the key prompt must hold \{actions\}"):
        read_prompts({"key": path})


def test_nothing_is_asked_twice_and_edits_stay(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(prompt: str, clip: object) -> str:
        asked.append(prompt)
        return f' "answer {len(asked)}"\n'

    prompts, path = {"key": "K {action} of {actions}", "complete": "C {action}"}, tmp_path / "d.json"
    describe(["LongJump"], prompts, answer, path, Descriptions({}))
    assert asked == ["K long jump of long jump", "C long jump"]
    edited = json.loads(path.read_text())
    assert edited == {"classes": {"LongJump": {"key": "answer 1", "complete": "answer 2"}}}
    edited["classes"]["LongJump"]["key"] = "edited"
    path.write_text(json.dumps(edited))
    describe(["LongJump", "bow"], prompts, answer, path, read_descriptions(path))
    assert asked[2:] == ["K bow of long jump, bow", "C bow"]
    assert json.loads(path.read_text())["classes"]["LongJump"]["key"] == "edited"
    with pytest.raises(DataError, match="class 'wave': the model's key description has no word"):
        describe(["wave"], prompts, lambda prompt, clip: " ...", path, Descriptions({}))


def test_an_answer_is_kept_before_the_next_is_asked(tmp_path: Path) -> None:
    def answer(prompt: str, clip: object) -> str:
        if "jump" in prompt:
            raise KeyboardInterrupt
        return "bends"

    path = tmp_path / "d.json"
    with pytest.raises(KeyboardInterrupt):
        describe(["bow", "jump"], {"key": "{action}", "complete": "{action}"}, answer, path, Descriptions({}))
    assert list(read_descriptions(path).classes) == ["bow"]


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_a_video_llm_describes_classes_and_videos(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The command with a tiny random model, whose answers are words without sense, and one video that is damaged."""
    from invert_rl.toy.make import make_world

    model = save_tiny_checkpoint(tmp_path / "model", kind, seed=1, hidden=32, layers=1, vision_blocks=1)
    tokenizer = AutoTokenizer.from_pretrained(model)
    wordless = [token for token in range(len(tokenizer)) if not tokenizer.decode([token]).strip().isalpha()]
    wordless += tokenizer.all_special_ids  # an untrained model writes nothing else
    (Path(model) / "generation_config.json").write_text(json.dumps({"suppress_tokens": wordless}))
    world = tmp_path / "world"
    make_world(world, seed=3, n_train=1, n_validation=1, n_test=1)
    clip = next(path for path in sorted((world / "videos").rglob("*")) if path.is_file())
    (clip.parent / f"damaged{clip.suffix}").write_bytes(b"no video")
    entries = [{"segment": [0.0, 1.0], "label": "bow"}]
    database = {name: {"subset": "train", "duration": 4.0, "annotations": entries} for name in (clip.stem, "damaged")}
    annotations, output = tmp_path / "a.json", tmp_path / "d.json"
    annotations.write_text(json.dumps({"database": database}))
    arguments = ["describe-actions", "--annotations", str(annotations), "--output", str(output), "--device", "cpu"]
    assert main([*arguments, "--json"]) == 1
    assert "pass --model, or --from" in capsys.readouterr().err
    arguments += ["--model", str(model), "--max-new-tokens", "6", "--videos", str(clip.parent), "--ending", clip.suffix]
    assert main([*arguments, "--frames", "4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] == {"classes": 1, "videos": 1}
    assert list(said["left_out"]) == ["damaged"]
    found = read_descriptions(output, ["bow"])
    assert set(found.videos) == {clip.stem}
    before = output.read_text()
    assert main([*arguments, "--subset", "other"]) == 0  # everything is there: no model is loaded
    assert output.read_text() == before


def test_own_descriptions_need_no_model(tmp_path: Path) -> None:
    own, output = tmp_path / "own.json", tmp_path / "d.json"
    own.write_text(json.dumps({"bow": {"key": "bends", "complete": "bends and rises"}}))
    assert main(["describe-actions", "--classes", "bow", "--from", str(own), "--output", str(output)]) == 0
    assert read_descriptions(output, ["bow"]).classes["bow"]["key"] == "bends"
    assert main(["describe-actions", "--classes", "bow", "jump", "--from", str(own), "--output", str(output)]) == 1


def test_hashed_vectors_do_not_depend_on_the_process() -> None:
    """Python's own hash does."""
    assert np.allclose(
        encode_texts(["jump"])[0, :2].numpy(), [encode_texts(["jump"])[0, 0], encode_texts(["JUMP"])[0, 1]]
    )
