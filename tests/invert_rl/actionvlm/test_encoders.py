"""Official checkpoints of VideoMAEv2 and InternVideo2 as encoders, and frames of other sizes than the pretraining's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import VideoMAEConfig, VideoMAEModel

from data_prep.errors import DataError
from invert_rl.actionvlm.internvideo2 import InternVideo2
from invert_rl.actionvlm.vision import load_video_encoder, set_frame_size

WIDTH, HEADS = 384, 6
"""Of the small models."""


@pytest.fixture(scope="module")
def videomae() -> VideoMAEModel:
    """One layer of the small VideoMAE with random weights, biases included."""
    torch.manual_seed(0)
    config = VideoMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        intermediate_size=96,
        layer_norm_eps=1e-6,
        use_mean_pooling=True,
    )
    model = VideoMAEModel(config).eval()
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.05)
    return model


def as_videomaev2(model: VideoMAEModel) -> dict[str, Tensor]:
    """Its weights as VideoMAEv2's code names them, with a head."""
    own = model.state_dict()
    found = {"head.weight": torch.zeros(3, WIDTH), "fc_norm.weight": torch.ones(WIDTH)}
    found |= {f"patch_embed.proj.{end}": own[f"embeddings.patch_embeddings.projection.{end}"] for end in WEIGHT_BIAS}
    layer = "encoder.layer.0."
    parts = [own[f"{layer}attention.attention.{part}.weight"] for part in ("query", "key", "value")]
    found["blocks.0.attn.qkv.weight"] = torch.cat(parts)
    for bias, part in (("q_bias", "query"), ("v_bias", "value")):
        found[f"blocks.0.attn.{bias}"] = own[f"{layer}attention.attention.{part}.bias"]
    for theirs, ours in (
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        found |= {f"blocks.0.{theirs}.{end}": own[f"{layer}{ours}.{end}"] for end in WEIGHT_BIAS}
    return {name: value.clone() for name, value in found.items()}


WEIGHT_BIAS = ("weight", "bias")


@pytest.mark.parametrize("form", ["pth", "pretraining", "hub"])
def test_videomaev2_is_what_transformers_has_under_other_names(form: str, videomae: VideoMAEModel, tmp_path: Path):
    weights = as_videomaev2(videomae)
    if form == "hub":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "VideoMAEv2_Base", "model_config": {}}))
        save_file({f"model.{name}": value for name, value in weights.items()}, tmp_path / "model.safetensors")
        name = tmp_path
    elif form == "pth":
        name = tmp_path / "vit_s.pth"
        torch.save({"module": weights}, name)
    else:
        name = tmp_path / "pretrained.pth"
        inside = {f"encoder.{key}": value for key, value in weights.items() if not key.startswith(("head", "fc_norm"))}
        torch.save({"model": {**inside, "decoder.blocks.0.norm1.weight": torch.ones(3)}}, name)
    encoder = load_video_encoder(str(name), 224).encoder.eval()
    pixels = torch.randn(1, 16, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(pixels).last_hidden_state, videomae(pixels).last_hidden_state, atol=1e-5, rtol=1e-5
        )


def internvideo2_weights(steps: int, layers: int, apart: bool = False) -> dict[str, Tensor]:
    """Random weights by the names of InternVideo2's code."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    weights = {
        "patch_embed.proj.weight": draw(WIDTH, 3, 1, 14, 14),
        "patch_embed.proj.bias": draw(WIDTH),
        "cls_token": draw(1, 1, WIDTH),
        "clip_projector.norm1_q.weight": draw(WIDTH),
        "head.weight": draw(2, 3),
    }
    if apart:
        weights |= {"pos_embed_spatial": draw(1, 256, WIDTH), "pos_embed_temporal": draw(1, steps, WIDTH)}
        weights["pos_embed_cls"] = draw(1, 1, WIDTH)
    else:
        weights["pos_embed"] = draw(1, 1 + 256 * steps, WIDTH)
    for layer in range(layers):
        block = f"blocks.{layer}."
        for name in ("norm1.weight", "norm2.weight", "attn.q_norm.weight", "attn.k_norm.weight"):
            weights[block + name] = 1 + draw(WIDTH)
        weights[f"{block}ls1.gamma"], weights[f"{block}ls2.gamma"] = draw(WIDTH), draw(WIDTH)
        weights[f"{block}attn.qkv.weight"] = draw(3 * WIDTH, WIDTH)
        for name, (out, into) in {"attn.proj": (WIDTH, WIDTH), "mlp.fc1": (80, WIDTH), "mlp.fc2": (WIDTH, 80)}.items():
            weights[f"{block}{name}.weight"], weights[f"{block}{name}.bias"] = draw(out, into), draw(out)
    return weights


def transcript(weights: dict[str, Tensor], pixels: Tensor, layers: int) -> Tensor:
    """The forward pass of InternVideo2's code in plain tensors, of frames ``(N, T, 3, 224, 224)``."""

    def rms(x: Tensor, name: str) -> Tensor:
        return weights[name] * x / (x.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    kernel = weights["patch_embed.proj.weight"]
    windows = pixels.unfold(3, 14, 14).unfold(4, 14, 14)  # (N, T, 3, 16, 16, 14, 14)
    patches = torch.einsum("ntchwij,dcij->nthwd", windows, kernel[:, :, 0]) + weights["patch_embed.proj.bias"]
    x = torch.cat([weights["cls_token"].expand(len(pixels), -1, -1), patches.flatten(1, 3)], dim=1)
    x = x + weights["pos_embed"]
    for layer in range(layers):
        block = f"blocks.{layer}."
        q, k, v = (rms(x, f"{block}norm1.weight") @ weights[f"{block}attn.qkv.weight"].T).split(WIDTH, dim=-1)
        q, k = rms(q, f"{block}attn.q_norm.weight"), rms(k, f"{block}attn.k_norm.weight")
        heads = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = q[..., part] @ k[..., part].transpose(1, 2) * (WIDTH // HEADS) ** -0.5
            heads.append(scores.softmax(dim=-1) @ v[..., part])
        joined = torch.cat(heads, dim=-1) @ weights[f"{block}attn.proj.weight"].T + weights[f"{block}attn.proj.bias"]
        x = x + weights[f"{block}ls1.gamma"] * joined
        hidden = rms(x, f"{block}norm2.weight") @ weights[f"{block}mlp.fc1.weight"].T + weights[f"{block}mlp.fc1.bias"]
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        x = x + weights[f"{block}ls2.gamma"] * (
            hidden @ weights[f"{block}mlp.fc2.weight"].T + weights[f"{block}mlp.fc2.bias"]
        )
    return x[:, 1:]


def test_internvideo2_is_a_transcript_of_its_code(tmp_path: Path):
    weights = internvideo2_weights(steps=2, layers=2)
    torch.save({"module": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "iv2.pth")
    encoder = load_video_encoder(str(tmp_path / "iv2.pth"), 224).eval()
    assert isinstance(encoder.encoder, InternVideo2) and encoder.width == WIDTH
    frames = torch.randint(0, 256, (1, 4, 3, 224, 224), dtype=torch.uint8)  # two chunks
    with torch.no_grad():
        pixels = (frames[0] / 255 - encoder.mean) / encoder.deviation
        expected = transcript(weights, pixels.unflatten(0, (2, 2)), 2)
        got = encoder.encoder(pixels.unflatten(0, (2, 2))).last_hidden_state
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)
        of_frames = encoder(frames, torch.ones(1, 4, dtype=torch.bool))
        torch.testing.assert_close(of_frames[0], expected.unflatten(1, (2, 256)).mean(dim=2).flatten(0, 1))


def test_places_of_space_and_time_apart_are_summed(tmp_path: Path):
    weights = internvideo2_weights(steps=3, layers=1, apart=True)
    save_file(weights, tmp_path / "iv2.safetensors")
    places = load_video_encoder(str(tmp_path / "iv2.safetensors"), 224).encoder.places[0]
    assert torch.equal(places[0], weights["pos_embed_cls"][0, 0])
    for step, patch in ((0, 0), (1, 7), (2, 255)):
        expected = weights["pos_embed_spatial"][0, patch] + weights["pos_embed_temporal"][0, step]
        torch.testing.assert_close(places[1 + 256 * step + patch], expected)


def test_places_keep_their_meaning_at_another_size():
    """A table that grows along rows and columns does so at the new patches' middles; sines counted anew do not."""

    def tiny(size: int) -> VideoMAEModel:
        sizes = {"hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        return VideoMAEModel(VideoMAEConfig(**sizes, image_size=size, num_frames=4))

    model = tiny(224)
    step, row, column = torch.meshgrid(torch.arange(2.0), torch.arange(14.0), torch.arange(14.0), indexing="ij")
    table = torch.stack([step, row, column], dim=-1).flatten(0, 2)[None]
    model.embeddings.position_embeddings = F.pad(table, (0, 21))
    set_frame_size(model, 112)
    found = model.embeddings.position_embeddings[0, :, :3].unflatten(0, (2, 7, 7))
    middles = torch.arange(7) * 2 + 0.5
    inside = slice(1, 6)  # bicubic borders are not straight
    assert torch.equal(found[..., 0].round(), torch.arange(2.0)[:, None, None].expand(2, 7, 7))
    torch.testing.assert_close(found[0, inside, 3, 1], middles[inside], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1, 3, inside, 2], middles[inside], atol=1e-4, rtol=0)
    model(torch.randn(1, 4, 3, 112, 112))  # takes frames of the new size
    # patch (0, 6, 6) of seven a side is the last four of fourteen; sines counted anew put it elsewhere
    true = tiny(224).embeddings.position_embeddings[0].unflatten(0, (2, 14, 14))[0, 12:, 12:].mean(dim=(0, 1))
    mended, place = tiny(224), 6 * 7 + 6
    set_frame_size(mended, 112)
    found, anew = (one.embeddings.position_embeddings[0, place] for one in (mended, tiny(112)))
    assert (found - true).norm() < 0.3 * (anew - true).norm()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"blocks.0.attn.rel_pos": torch.zeros(3)}, "has an unknown weight blocks.0.attn.rel_pos"),
        ({"patch_embed.proj.weight": torch.zeros(100, 3, 2, 16, 16)}, "100 channels; known are 384"),
        ({"blocks.0.mlp.fc2.bias": torch.zeros(3)}, "blocks.0.output|output.dense.bias"),
        ({"blocks.0.mlp.fc2.bias": None}, "output.dense.bias"),
        ({"patch_embed.proj.weight": None}, "lacks patch_embed.proj.weight"),
    ],
)
def test_what_does_not_fit_is_named(change: dict, why: str, videomae: VideoMAEModel, tmp_path: Path):
    weights = {k: v for k, v in {**as_videomaev2(videomae), **change}.items() if v is not None}
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(DataError, match=why):
        load_video_encoder(str(tmp_path / "w.pth"), 224)


def test_files_that_are_no_checkpoints_and_sizes_that_do_not_fit(videomae: VideoMAEModel, tmp_path: Path):
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad\.pth.*cannot be read"):
        load_video_encoder(str(tmp_path / "bad.pth"), 224)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="expected tensors by name"):
        load_video_encoder(str(tmp_path / "list.pth"), 224)
    torch.save(internvideo2_weights(1, 1), tmp_path / "iv2.pth")
    with pytest.raises(DataError, match="patches of 14 pixels; take 154"):
        load_video_encoder(str(tmp_path / "iv2.pth"), 160)
