"""DELU's network, the interface to its branches, and class vectors in the last layer's place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from invert_rl.wtal.delu import CrossAttention, Delu, DeluConfig, DeluWeights
from invert_rl.wtal.localizer import Activations, Localizer
from invert_rl.wtal.matching import SemanticMatching
from invert_rl.wtal.model import SemanticLocalizer
from tests.invert_rl.wtal import small


def test_released_sizes() -> None:
    delu = Delu(DeluConfig(20))
    assert delu.classifier.weight.shape == (21, 2048, 1)
    assert delu.fusion[0].weight.shape == (2048, 2048, 1)
    assert delu.hidden[1].weight.shape == (2048, 2048, 3)
    assert delu.attention.rgb.attention[0].weight.shape == (512, 1024, 3)


def test_shapes_and_what_follows_from_what() -> None:
    torch.manual_seed(0)
    delu = Delu(small.CONFIG).eval()
    found = delu(small.batch()["features"])
    assert found.cas.shape == (4, small.ROWS, small.CLASSES + 1)
    assert found.embedding.shape == (4, small.ROWS, small.RGB + small.FLOW)
    assert torch.allclose(found.attention, sum(found.stream_attention) / 2)
    assert found.attention.min() > 0
    assert found.attention.max() < 1
    by_hand = found.hidden @ delu.classifier.weight[:, :, 0].T + delu.classifier.bias
    assert torch.allclose(found.cas, by_hand, atol=1e-5)
    vectors = torch.randn(small.CLASSES + 1, small.WIDTH)
    assert torch.allclose(delu(small.batch()["features"], vectors).cas, found.hidden @ vectors.T, atol=1e-4)


def test_a_stream_is_gated_by_the_other_and_by_its_own_mean() -> None:
    """With all convolutions the identity at the middle snippet: gate = sigmoid(leaky(f) * leaky(mean v))."""
    attention = CrossAttention(1, 1, 2, 0.0)
    for layer in (attention.local[0], attention.whole[0]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        layer.weight.data[0, 0, 1] = 1.0
    own, other = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, -1.0, 0.0]]])
    _, gated = attention(own, other)
    gate = torch.sigmoid(torch.tensor([1.0, -0.2, 0.0]) * 2.0)
    assert torch.allclose(gated[0, 0], gate * own[0, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_any_batch_size_and_no_video_sees_another(size: int) -> None:
    torch.manual_seed(0)
    delu = Delu(small.CONFIG).eval()
    batch = small.batch(size)
    whole = delu(batch["features"])
    for index in range(size):
        alone = delu(batch["features"][index : index + 1])
        assert torch.allclose(alone.cas[0], whole.cas[index], atol=1e-5)
        assert torch.allclose(alone.attention[0], whole.attention[index], atol=1e-6)
    losses = delu.losses(whole, batch["labels"], batch["pairs"], 0.3)
    assert len(losses) == 8
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())


def test_pooling_averages_over_time() -> None:
    torch.manual_seed(0)
    config = DeluConfig(small.CLASSES, small.RGB, small.FLOW, 8, small.WIDTH)
    plain, pooled = Delu(config).eval(), Delu(DeluConfig(**{**vars(config), "pool": 3})).eval()
    pooled.load_state_dict(plain.state_dict())
    features = small.batch()["features"]
    first, second = plain(features), pooled(features)
    middle = (first.cas[:, :-2] + first.cas[:, 1:-1] + first.cas[:, 2:]) / 3
    assert torch.allclose(second.cas[:, 1:-1], middle, atol=1e-5)
    assert torch.allclose(second.attention[:, 0], first.attention[:, :2].sum(dim=1) / 3, atol=1e-6)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="uct_mode"):
        DeluWeights(uct_mode="sorted")
    with pytest.raises(ValueError, match="odd number"):
        DeluConfig(3, pool=4)
    with pytest.raises(ValueError, match="have 7 channels, but RGB and flow 6 \\+ 4"):
        Delu(small.CONFIG)(torch.zeros(1, 5, 7))


class Plain(Localizer):
    """Another base: one stream, an attention and a linear layer."""

    width = small.WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(small.RGB + small.FLOW, self.width)
        self.attention = nn.Linear(self.width, 1)
        self.scores = nn.Linear(self.width, small.CLASSES + 1)

    def forward(self, features: Tensor, class_vectors: Tensor | None = None) -> Activations:
        hidden = self.hidden(features)
        cas = self.scores(hidden) if class_vectors is None else hidden @ class_vectors.T
        attention = self.attention(hidden).sigmoid()[..., 0]
        return Activations(cas, attention, (attention,), hidden, hidden)

    def losses(self, found: Activations, labels: Tensor, pairs: Tensor, progress: Tensor | float) -> dict[str, Tensor]:
        target = labels / labels.sum(dim=1, keepdim=True)
        return {"classes": -(target * found.cas[..., :-1].mean(dim=1).log_softmax(dim=-1)).sum(dim=1).mean()}


def test_another_base_takes_delus_place() -> None:
    full = small.model()
    other = SemanticLocalizer(Plain(), full.matching, full.reconstruction)
    batch = small.batch()
    losses = {name for phase in other.phases for name in other(**batch, phase=phase)}
    assert losses == {
        *("loss", "reconstruction", "hard", "easy", "from_localizer"),
        *("classes", "alignment", "from_reconstruction"),
    }


def test_class_vectors_come_from_texts_prompts_and_background() -> None:
    torch.manual_seed(0)
    matching = SemanticMatching(torch.randn(3, 5), 16, prompts=2, heads=2, dropout=0.0)
    vectors = matching.class_vectors()
    assert vectors.shape == (4, 16)
    assert vectors.std().item() == pytest.approx((2 / 16) ** 0.5, rel=0.3)  # as a classifier's weights start
    assert "texts" not in dict(matching.named_parameters())
    matching.class_vectors()[0, 0].backward()
    assert matching.prompts.grad is not None
    assert matching.prompts.grad[0].abs().sum() > 0
    assert matching.prompts.grad[1:].abs().sum() == 0  # prompts are a class's own
    changed = SemanticMatching(torch.randn(3, 5), 16, prompts=2, heads=2, dropout=0.0)
    changed.load_state_dict({**matching.state_dict(), "texts": matching.texts.roll(1, 0)})
    difference = (changed.class_vectors() - vectors).abs().sum(dim=1)
    assert (difference[:3] > 1e-3).all() and difference[3] == 0


def test_alignment_by_hand() -> None:
    """Foreground (3, 4)/... of attention (1, 0): cosines 0.6 and 0.8 with the axes, temperature 0.1."""
    matching = SemanticMatching(torch.randn(2, 5), 2, prompts=1, heads=1)
    hidden = torch.tensor([[[3.0, 4.0], [9.0, -9.0]]])
    found = Activations(torch.zeros(1, 2, 3), torch.tensor([[0.5, 0.0]]), (), hidden, hidden)
    vectors = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]])
    loss = matching.alignment_loss(found, vectors, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(-torch.tensor([6.0, 8.0]).log_softmax(0)[0].item(), rel=1e-5)
