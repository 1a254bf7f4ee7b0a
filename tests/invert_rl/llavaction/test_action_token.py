"""The action token: where it stands, what it sees, what sees it, and what it adds to the loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from data_prep.errors import DataError
from invert_rl.llavaction.action_token import (
    ACTION_TOKEN,
    ACTION_TOKENS,
    action_place,
    embedding_row,
    find_action_token,
)
from invert_rl.llavaction.config import LLaVActionConfig
from invert_rl.llavaction.encode import ClipEncoder
from invert_rl.llavaction.model import (
    WEIGHTS,
    ActionHeads,
    action_settings,
    load_action_model,
    load_action_processor,
    load_action_weights,
)
from tests.invert_rl.llavaction.conftest import CLASSES, make_clip

TEXTS = ("What is done?\nA. open the box\nB. sit down", "Which of these is it? A. jump up")


def states(model, batch) -> tuple[torch.Tensor, ...]:
    """States of all layers at the action token, each (batch, width)."""
    inputs = {name: value for name, value in batch.items() if not name.endswith("_labels")}
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    places = find_action_token(batch["input_ids"], model.config.action_token["token_id"])
    return tuple(layer[torch.arange(len(places)), places] for layer in hidden)


def test_it_comes_right_after_the_visual_tokens(checkpoint, load):
    model, encoder = load(checkpoint)
    item = encoder(TEXTS[0], make_clip(), "A. open the box")
    place = item.ids.index(encoder.token_id)
    before = item.ids[:place]
    visual = [at for at, token in enumerate(item.ids) if token in encoder.placeholders]
    between = encoder.tokenizer.decode(before[visual[-1] + 1 :])
    assert between.replace("<|vision_end|>", "") == ""
    assert encoder.tokenizer.decode(item.ids[place + 1 :]).strip().startswith(TEXTS[0])
    plain = encoder(TEXTS[0], make_clip(), "A. open the box").ids
    assert [token for token in plain if token != encoder.token_id] == item.ids[:place] + item.ids[place + 1 :]
    assert len(item.ids) == len(item.kinds)


def test_no_other_id_of_the_tokenizer_changes(checkpoint):
    processor = load_action_processor(checkpoint)
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(checkpoint)
    vocabulary = processor.tokenizer.get_vocab()
    assert vocabulary == plain.get_vocab() | {ACTION_TOKEN: len(plain)}
    text = "Which of these is it? <|im_end|><|im_start|>A. 3.50"
    assert processor.tokenizer(text)["input_ids"] == plain(text)["input_ids"]


def test_it_cannot_see_the_instruction(checkpoint, load):
    """Its state is the same in every layer whatever follows it, and another under another clip."""
    model, encoder = load(checkpoint)
    items = [encoder(text, make_clip(seed), "B. sit down") for text in TEXTS for seed in (0, 1)]
    first, other_clip, other_text, _ = (states(model, encoder.batch([item])) for item in items)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first, other_text, strict=True))
    assert (first[0] == other_clip[0]).all()  # its own embedding
    assert (first[-1] - other_clip[-1]).abs().max() > 1e-3


def test_the_instruction_and_the_answer_see_it_and_nothing_before_does(checkpoint, load):
    model, encoder = load(checkpoint)
    batch = encoder.batch([encoder(TEXTS[0], make_clip(), "B. sit down")], labels=False)
    place = int(find_action_token(batch["input_ids"], encoder.token_id))
    with torch.no_grad():
        before = model(**batch).logits[0]
        embedding_row(model, encoder.token_id).mul_(-3.0)
        after = model(**batch).logits[0]
    # tied weights: the logit of the token itself is compared nowhere
    others = [token for token in range(before.shape[-1]) if token != encoder.token_id]
    change = (before - after)[:, others].abs().amax(dim=1)
    assert (change[:place] == 0).all()
    assert (change[place:] > 1e-4).all()


def test_the_answer_alone_reaches_its_embedding(checkpoint, load):
    model, encoder = load(checkpoint)
    batch = encoder.batch([encoder(TEXTS[0], make_clip(), "B. sit down")])
    model.config.action_token["weights"] = (0.0, 0.0, 0.0)
    head = model.get_output_embeddings().weight
    before = embedding_row(model, encoder.token_id).detach().clone()
    model(**batch)["loss"].backward()
    gradient = model.get_input_embeddings().weight.grad[encoder.token_id]
    assert gradient.abs().max() > 0
    # and not only through tied output weights: a step along it changes the answer's loss
    with torch.no_grad():
        first = model(**batch)["loss"]
        model.get_input_embeddings().weight[encoder.token_id] = before + 5 * torch.randn_like(before)
        assert model(**batch)["loss"] != first
    assert head is not None


@pytest.mark.parametrize("side", ["left", "right"])
def test_its_place_and_state_under_padding(checkpoint, load, side):
    model, encoder = load(checkpoint)
    items = [encoder(text, make_clip(seed), "B. sit down", (1, 2, 3)) for seed, text in enumerate(TEXTS)]
    alone = [states(model, encoder.batch([item])) for item in items]
    batch = encoder.batch(items, side=side)
    assert (batch["attention_mask"] == 0).any()
    places = find_action_token(batch["input_ids"], encoder.token_id)
    for row, item in enumerate(items):
        shift = batch["input_ids"].shape[1] - len(item.ids) if side == "left" else 0
        assert places[row] == shift + item.ids.index(encoder.token_id)
    together = states(model, batch)
    for row, own in enumerate(alone):
        for a, b in zip(own, together, strict=True):
            assert torch.allclose(a[0], b[row], atol=2e-5)


def test_a_cut_prompt_is_refused(load, tiny_qwen2_5):
    model, encoder = load(tiny_qwen2_5)
    batch = encoder.batch([encoder(TEXTS[0], make_clip(), "B. sit down")])
    place = int(find_action_token(batch["input_ids"], encoder.token_id))
    with pytest.raises(ValueError, match="holds the action token 0 times, not once; was the prompt cut off"):
        find_action_token(batch["input_ids"][:, :place], encoder.token_id)
    with pytest.raises(ValueError, match="2 times"):
        find_action_token(torch.cat([batch["input_ids"]] * 2, dim=1), encoder.token_id)
    length = batch["input_ids"].shape[1]
    _, limited = load(tiny_qwen2_5, max_length=length)
    limited(TEXTS[0], make_clip(), "B. sit down")
    _, limited = load(tiny_qwen2_5, max_length=length - 1)
    with pytest.raises(DataError, match=f"have {length} tokens, more than max_length {length - 1}"):
        limited(TEXTS[0], make_clip(), "B. sit down")
    with pytest.raises(ValueError, match="no visual token"):
        action_place([5, 6, 7], {1}, {2})


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_losses_are_those_of_a_full_forward(checkpoint, load, side):
    model, encoder = load(checkpoint)
    labels = [(1, 2, 3), (-1, -1, -1), (4, 6, -1)]
    texts = (*TEXTS, TEXTS[0])
    answers = ("B. sit down", "A. jump up and down", "A")
    items = [encoder(t, make_clip(n), a, c) for n, (t, a, c) in enumerate(zip(texts, answers, labels, strict=True))]
    batch = encoder.batch(items, side=side)
    found = model(**batch)
    inputs = {name: value for name, value in batch.items() if not name.endswith("_labels")}
    with torch.no_grad():
        full = model(**inputs, output_hidden_states=True)
        answer = functional.cross_entropy(
            full.logits[:, :-1].flatten(0, 1), batch["answer_labels"][:, 1:].flatten(), ignore_index=-100
        )
        places = find_action_token(batch["input_ids"], encoder.token_id)
        state = full.hidden_states[-1][torch.arange(3), places]
        assert torch.allclose(model.get_output_embeddings()(full.hidden_states[-1]), full.logits, atol=1e-5)
        expected = {}
        for name, column in (("verb", 0), ("noun", 1), ("action", 2)):
            used = [row for row in range(3) if labels[row][column] >= 0]
            logits = getattr(model.action_heads, name)(state[used])
            expected[name] = functional.cross_entropy(logits, torch.tensor([labels[row][column] for row in used]))
    assert found["answer_loss"].item() == pytest.approx(answer.item(), rel=1e-5)
    for name, value in expected.items():
        assert found[f"{name}_loss"].item() == pytest.approx(value.item(), rel=1e-4)
    total = answer + sum(w * v for w, v in zip((0.025, 0.025, 0.005), expected.values(), strict=True))
    assert found["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    taught = batch["answer_labels"][0]
    assert encoder.tokenizer.decode(taught[taught != -100]) == "B. sit down<|im_end|>"


def test_three_tokens_have_a_head_each(checkpoint, tmp_path):
    """Table 10: the verb's, the noun's and the action's token stand behind each other, each with its head."""
    processor = load_action_processor(checkpoint, tokens=3)
    model = load_action_model(checkpoint, processor, CLASSES, seed=4, tokens=3).eval()
    encoder = ClipEncoder(processor, model.config)
    item = encoder(TEXTS[0], make_clip(), "B. sit down", (1, 2, 3))
    ids = [processor.tokenizer.convert_tokens_to_ids(name) for name in ACTION_TOKENS]
    place = item.ids.index(ids[0])
    assert item.ids[place : place + 3] == encoder.token_ids == ids and set(ids) <= set(encoder.never_answered())
    assert len(item.ids) == len(item.kinds)
    single = ClipEncoder(load_action_processor(checkpoint), model.config.__class__.from_pretrained(checkpoint))
    assert [token for token in item.ids if token not in ids[1:]] == single(TEXTS[0], make_clip(), "B. sit down").ids
    other = encoder(TEXTS[1], make_clip(1), "A", (4, 5, 6))
    for side in ("left", "right"):
        batch = encoder.batch([item, other], side=side)
        found = model(**batch)
        inputs = {name: value for name, value in batch.items() if not name.endswith("_labels")}
        with torch.no_grad():
            last = model(**inputs, output_hidden_states=True).hidden_states[-1]
        for column, name in enumerate(("verb", "noun", "action")):
            state = last[torch.arange(2), find_action_token(batch["input_ids"], ids[column])]
            loss = functional.cross_entropy(getattr(model.action_heads, name)(state), batch["class_labels"][:, column])
            assert found[f"{name}_loss"].item() == pytest.approx(loss.item(), rel=1e-4), name
    found["loss"].backward()
    gradient = model.get_input_embeddings().weight.grad
    assert all(gradient[token].abs().sum() > 0 for token in ids)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_action_model(str(tmp_path), load_action_processor(str(tmp_path)), CLASSES, seed=99).eval()
    assert again.config.action_token == model.config.action_token and len(action_settings(again.config).ids) == 3
    for token in ids:
        assert torch.equal(embedding_row(again, token), embedding_row(model, token))
    assert again(**batch)["loss"].item() == pytest.approx(model(**batch)["loss"].item(), rel=1e-5)


def test_a_model_of_one_token_can_be_given_the_others(tiny_qwen2_5, tmp_path):
    load_action_model(tiny_qwen2_5, load_action_processor(tiny_qwen2_5), CLASSES, seed=4).save_pretrained(tmp_path)
    load_action_processor(tiny_qwen2_5).save_pretrained(tmp_path)
    processor = load_action_processor(str(tmp_path), tokens=3)
    model = load_action_model(str(tmp_path), processor, CLASSES, seed=5, tokens=3)
    kept = load_action_model(str(tmp_path), load_action_processor(str(tmp_path)), CLASSES)
    ids = action_settings(model.config).ids
    assert torch.equal(embedding_row(model, ids[0]), embedding_row(kept, ids[0]))
    assert len(set(ids)) == 3 and not torch.equal(embedding_row(model, ids[1]), embedding_row(model, ids[2]))


def test_options_of_the_token_without_it_are_refused():
    for option in ({"action_tokens": 3}, {"action_layer": "first"}):
        with pytest.raises(DataError, match="no effect with --action_token false"):
            LLaVActionConfig(output_dir="x", action_token=False, use_cpu=True, **option)
    with pytest.raises(DataError, match="must be 1 or 3"):
        LLaVActionConfig(output_dir="x", action_tokens=2, use_cpu=True)


def test_without_any_class_the_heads_have_zero_gradients():
    heads = ActionHeads(8, CLASSES)
    losses = heads.losses([torch.randn(3, 8)] * 3, torch.full((3, 3), -1))
    sum(losses).backward()
    assert [loss.item() for loss in losses] == [0.0, 0.0, 0.0]
    assert all((weight.grad == 0).all() for weight in heads.parameters())
    assert [tuple(weight.shape) for weight in heads.parameters()] == [(number, 8) for number in CLASSES]
    assert WEIGHTS == (0.025, 0.025, 0.005)


def test_its_embedding_has_the_size_of_a_unit_vector(load, tiny_qwen2_5):
    rows = []
    for seed in range(30):
        processor = load_action_processor(tiny_qwen2_5)
        model = load_action_model(tiny_qwen2_5, processor, CLASSES, seed=seed)
        rows.append(embedding_row(model, processor.tokenizer.convert_tokens_to_ids(ACTION_TOKEN)).detach())
    assert torch.stack(rows).std().item() == pytest.approx(64**-0.5, rel=0.06)
    assert not torch.equal(rows[0], rows[1])


def test_saved_models_are_plain_checkpoints_and_load_back(checkpoint, load, tmp_path):
    model, encoder = load(checkpoint)
    with torch.no_grad():
        model.action_heads.verb.weight.normal_()
    model.save_pretrained(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    batch = encoder.batch([encoder(TEXTS[0], make_clip())], labels=False)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    again = load_action_model(str(tmp_path), load_action_processor(str(tmp_path)), CLASSES, seed=99).eval()
    assert torch.equal(again.action_heads.verb.weight, model.action_heads.verb.weight)
    other = load_action_model(checkpoint, load_action_processor(checkpoint), CLASSES, seed=5).eval()
    load_action_weights(other, tmp_path)
    with torch.no_grad():
        logits = model(**batch).logits
        for loaded in (again, other):
            assert torch.equal(loaded(**batch).logits, logits)
        if model.config.model_type != "qwen2_5_vl":  # whose positions plain transformers counts otherwise
            assert torch.equal(plain(**batch).logits, logits)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_generation_with_a_cache_is_generation_without(checkpoint, load):
    model, encoder = load(checkpoint)
    batch = encoder.batch([encoder(text, make_clip(seed)) for seed, text in enumerate(TEXTS)], labels=False)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": encoder.tokenizer.pad_token_id}
    assert torch.equal(
        model.generate(**batch, **settings, use_cache=True), model.generate(**batch, **settings, use_cache=False)
    )
