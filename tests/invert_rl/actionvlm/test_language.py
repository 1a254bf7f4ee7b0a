"""The language model over frames and special tokens, against sequences put together by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from data_prep.errors import DataError
from invert_rl.actionvlm.language import LanguageModel
from invert_rl.actionvlm.llm import add_lora, language_width, load_language_model, tiny_language_model
from invert_rl.actionvlm.prompt import Prompt, build_prompt
from tests.invert_rl.actionvlm.conftest import CLASSES, TEXTS

SHORT = Prompt([11, 12, 13], [14, 15])
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
END = 2


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))


def by_hand(branch: LanguageModel, video: torch.Tensor, answer: list[int] = ()) -> torch.Tensor:
    """Hidden states of one video without padding, its tokens laid out one by one."""
    llm, special = branch.llm, branch.special
    embed = llm.get_input_embeddings()
    rows = [embed(torch.tensor(branch.prompt.before))]
    if branch.layout == "interleaved":
        for frame in video:
            rows += [frame[None], special]
    else:
        rows += [video, *(token.expand(len(video), -1) for token in special)]
    rows += [embed(torch.tensor([*branch.prompt.after, *answer], dtype=torch.long))]
    return llm.model(inputs_embeds=torch.cat(rows)[None]).last_hidden_state[0]


@pytest.mark.parametrize("layout", ["interleaved", "blocks"])
def test_each_token_is_read_at_its_place_whatever_is_padded(tiny, frames, layout):
    branch = LanguageModel(tiny[0], SHORT, END, layout)
    with torch.no_grad():
        got = branch(frames, MASK)
        for video, length in enumerate((5, 3)):
            hidden = by_hand(branch, frames[video, :length])[3:-2]
            kinds = (
                hidden.view(length, 4, -1) if layout == "interleaved" else hidden.view(4, length, -1).transpose(0, 1)
            )
            for place, found in ((1, got.classify), (2, got.localize), (3, got.advantage)):
                torch.testing.assert_close(found[video, :length], kinds[:, place], atol=1e-5, rtol=1e-4)
    assert got.text_loss is None


def test_shared_and_missing_special_tokens(tiny, frames):
    with torch.no_grad():
        shared = LanguageModel(tiny[0], SHORT, END, tokens="shared")
        got = shared(frames, MASK)
        hidden = by_hand(shared, frames[0])[3:-2].view(5, 3, -1)
        assert torch.equal(got.classify, got.localize)
        torch.testing.assert_close(got.classify[0], hidden[:, 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got.advantage[0], hidden[:, 2], atol=1e-5, rtol=1e-4)
        plain = LanguageModel(tiny[0], SHORT, END, tokens="vision")
        got = plain(frames, MASK)
        hidden = by_hand(plain, frames[0])[3:-2].view(5, 2, -1)
        torch.testing.assert_close(got.localize[0], hidden[:, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got.advantage[0], hidden[:, 1], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="layout"):
        LanguageModel(tiny[0], SHORT, END, layout="spiral")


def test_descriptions_reach_the_special_tokens_only_where_they_stand_before_the_frames(tiny, frames):
    llm, tokenizer = tiny
    changed = {**TEXTS, "clap": "swings the arm"}
    for position, reaches in (("before", True), ("after", False)):
        found = []
        for texts in (TEXTS, changed):
            prompt = build_prompt(tokenizer, CLASSES, texts, position)
            branch = LanguageModel(llm, prompt, END)
            torch.nn.init.ones_(branch.special)
            with torch.no_grad():
                found.append(branch(frames, MASK).classify[0])
        same = torch.allclose(found[0], found[1], atol=1e-6)
        assert same != reaches, position


def test_the_text_loss_is_that_of_the_language_model_itself(tiny, frames):
    """`transformers` computes it from labels that leave the prompt out; videos are weighed by their tokens."""
    llm, _ = tiny
    branch = LanguageModel(llm, SHORT, END)
    answers = [[20, 21, 22, 23], [24]]
    with torch.no_grad():
        got = branch(frames, MASK, answers).text_loss
        total = 0.0
        for video, length in enumerate((5, 3)):
            answer = [*answers[video], END]
            hidden = by_hand(branch, frames[video, :length], answer)
            labels = torch.full((1, len(hidden)), -100)
            labels[0, -len(answer) :] = torch.tensor(answer)
            logits = llm.lm_head(hidden)[None]
            total += llm.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1]) * len(answer)
    assert float(got) == pytest.approx(float(total) / 7, rel=1e-5)


def test_answers_do_not_change_the_features(tiny, frames):
    branch = LanguageModel(tiny[0], SHORT, END)
    with torch.no_grad():
        torch.testing.assert_close(branch(frames, MASK, [[20, 21], [22]]).classify, branch(frames, MASK).classify)


def test_generation_is_greedy_and_stops_at_the_end(tiny, frames):
    llm, _ = tiny
    branch = LanguageModel(llm, SHORT, END)
    (ids,) = branch.generate(frames[:1], MASK[:1], 4)
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(4):
            expected.append(int(llm.lm_head(by_hand(branch, frames[0], expected)[-1]).argmax()))
    assert ids == (expected[: expected.index(END)] if END in expected else expected)
    branch.end_token = expected[2]
    assert branch.generate(frames[:1], MASK[:1], 4)[0] == expected[: expected.index(expected[2])]


def test_lora_trains_adapters_on_all_linear_layers_but_the_output():
    llm, _ = tiny_language_model(["a text"], seed=0, width=32)
    add_lora(llm, rank=4, alpha=8, dropout=0.0)
    trained = {name for name, value in llm.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    linear = {name.split(".lora_")[0].split(".")[-1] for name in trained}
    assert linear == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert llm.model.layers[0].self_attn.q_proj.scaling["default"] == 2.0


def test_a_model_in_bfloat16_has_adapters_in_float32(frames):
    llm, _ = tiny_language_model(["a text"], seed=0, width=32)
    add_lora(llm.bfloat16(), rank=4, alpha=8, dropout=0.0)
    assert {value.dtype for value in llm.parameters() if value.requires_grad} == {torch.float32}
    branch = LanguageModel(llm, SHORT, END)
    found = branch(frames, MASK, [[20], [21]])
    assert found.classify.dtype == torch.float32
    (found.classify.sum() + found.text_loss).backward()
    assert all(value.grad is not None for value in llm.parameters() if value.requires_grad)
    assert llm.lm_head.weight.dtype == torch.bfloat16


def test_a_vision_language_model_gives_its_language_part(tiny, tmp_path):
    llm, tokenizer = tiny
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "image_size": [28, 28],
            "patch_size": [14, 14],
        },
        text_config=llm.config.to_dict(),
        image_token_id=5,
    )
    torch.manual_seed(1)
    whole = InternVLForConditionalGeneration(config)
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    part, found_tokenizer = load_language_model(str(tmp_path))
    assert found_tokenizer.get_vocab() == tokenizer.get_vocab()
    assert not any("vision" in name for name, _ in part.named_parameters())
    assert language_width(str(tmp_path)) == 32
    inputs = torch.randn(1, 4, 32)
    with torch.no_grad():
        expected = whole.model.language_model(inputs_embeds=inputs).last_hidden_state
        torch.testing.assert_close(part.get_decoder()(inputs_embeds=inputs).last_hidden_state, expected)
        torch.testing.assert_close(part(inputs_embeds=inputs).logits, whole.lm_head(expected))


def test_a_plain_language_model_is_loaded_by_its_folder(tiny, tmp_path):
    llm, tokenizer = tiny
    llm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_language_model(str(tmp_path))
    assert torch.equal(loaded.lm_head.weight, llm.lm_head.weight)
    with pytest.raises(DataError, match="nowhere"):
        load_language_model(str(tmp_path / "nowhere"))
