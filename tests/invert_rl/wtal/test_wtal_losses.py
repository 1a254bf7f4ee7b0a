"""DELU's losses: numbers by hand or by plain loops over Python floats, for batches of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from invert_rl.wtal import losses as terms

B, T, C, E = 5, 9, 3, 4


@pytest.fixture
def cas() -> Tensor:
    """Class activation sequence (5, 9, 3 + 1)."""
    return torch.randn(B, T, C + 1, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def attention() -> Tensor:
    """Attention (5, 9)."""
    return torch.rand(B, T, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    """Labels (5, 3), at least one a video."""
    return torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]], dtype=torch.float)


def test_suppression_by_hand() -> None:
    cas = torch.tensor([[[3.0, 1.0, -1.0], [0.0, 4.0, 2.0]]])
    found = terms.suppress_background(cas, torch.tensor([[0.5, 0.0]]))
    assert found.tolist() == [[[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]]


def test_mil_by_hand() -> None:
    """T = 4, ratio 2: the two largest of each class are pooled: (2.5, 1) and background 0."""
    cas = torch.tensor([[[3.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    labels = torch.tensor([[1.0, 0.0]])
    norm = math.log(math.exp(2.5) + math.exp(1.0) + 1)
    without = terms.mil_loss(cas, labels, False, 2)
    assert without.item() == pytest.approx(-(2.5 - norm) / 1.0001, rel=1e-5)
    with_background = terms.mil_loss(cas, labels, True, 2)
    assert with_background.item() == pytest.approx(-((2.5 - norm) + (0 - norm)) / 2.0001, rel=1e-5)


@pytest.mark.parametrize(("rows", "ratio", "expected"), [(320, 7, 45), (320, 9, 35), (5, 7, 1), (60, 5, 12)])
def test_at_least_one_snippet_is_pooled(rows: int, ratio: float, expected: int) -> None:
    assert terms.top_k(rows, ratio) == expected


def test_evidential_by_hand() -> None:
    """One snippet is picked, logits (ln 3, 0): alpha (4, 2), S 6, u 1/3, g (1 - 1/3) * 1 on the label."""
    suppressed = torch.tensor([[[9.0, 9.0, 9.0], [math.log(3.0), 0.0, 5.0], [7.0, 7.0, 7.0]]])
    attention = torch.tensor([[0.1, 0.9, 0.5]])
    found = terms.evidential_loss(suppressed, attention, torch.tensor([[1.0, 0.0]]), 9)
    assert found.item() == pytest.approx(2 / 3 * math.log(6 / 4), rel=1e-5)
    both = terms.evidential_loss(suppressed, attention, torch.tensor([[1.0, 1.0]]), 9)
    # 1 / alpha is (1/4, 1/2): shares 1/3 and 2/3, times 2 labels times 2/3
    by_hand = 4 / 3 * (1 / 3 * math.log(6 / 4) + 2 / 3 * math.log(6 / 2))
    assert both.item() == pytest.approx(by_hand, rel=1e-5)


def test_evidence_is_cut_and_uncertainty_held_fixed() -> None:
    assert terms.dirichlet(torch.tensor([50.0])).item() == pytest.approx(math.exp(10) + 1, rel=1e-6)
    suppressed = torch.zeros(1, 1, 3, requires_grad=True)
    terms.evidential_loss(suppressed, torch.ones(1, 1), torch.tensor([[1.0, 0.0]]), 9).backward()
    # alpha (2, 2), S 4, 1 - u = 1/2 as a constant: d/dx (log S - log a0) / 2 with da/dx = 1
    assert suppressed.grad is not None
    assert suppressed.grad[0, 0, 0].item() == pytest.approx(0.5 * (1 / 4 - 1 / 2), rel=1e-5)


def test_evidential_of_a_batch_by_loops(cas: Tensor, attention: Tensor, labels: Tensor) -> None:
    suppressed = terms.suppress_background(cas, attention)
    values = []
    for sample in range(B):
        order = sorted(range(T), key=lambda t: -attention[sample, t].item())[:3]
        alpha = [
            math.exp(sum(suppressed[sample, t, c].item() for t in order) / 3) + 1
            for c in range(C)
        ]  # fmt: skip
        strength, there = sum(alpha), [c for c in range(C) if labels[sample, c] > 0]
        share = sum(1 / alpha[c] for c in there)
        values.append(
            sum(
                (1 - C / strength) * len(there) * (1 / alpha[c] / share) * math.log(strength / alpha[c])
                for c in there
            )
        )  # fmt: skip
    found = terms.evidential_loss(suppressed, attention, labels, 3)
    assert found.item() == pytest.approx(np.mean(values), rel=1e-5)


def test_curve_turns_around_in_the_course_of_training() -> None:
    start, middle, end = (terms.uncertainty_curve(4, progress, 0.7) for progress in (0.0, 0.5, 1.0))
    by_hand = [1 + 0.7 * math.tanh(theta) for theta in (-0.75, -0.25, 0.25, 0.75)]
    assert start.tolist() == pytest.approx(by_hand, rel=1e-6)
    assert middle.tolist() == [1.0] * 4
    assert end.tolist() == pytest.approx(by_hand[::-1], rel=1e-6)


def test_curve_by_rank_and_as_released() -> None:
    """Uncertainties 0.3, 0.1, 0.2: sorted places are 1, 2, 0."""
    uncertainty, curve = torch.tensor([[0.3, 0.1, 0.2]]), torch.tensor([10.0, 20.0, 30.0])
    assert terms.curve_of_snippets(uncertainty, curve, "rank").tolist() == [[30.0, 10.0, 20.0]]
    assert terms.curve_of_snippets(uncertainty, curve, "released").tolist() == [[20.0, 30.0, 10.0]]
    with pytest.raises(ValueError, match="uct_mode must be one of"):
        terms.curve_of_snippets(uncertainty, curve, "sorted")


@pytest.mark.parametrize("mode", terms.UNCERTAINTY_MODES)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_uncertainty_guided_by_loops(cas: Tensor, attention: Tensor, mode: str, batch: int) -> None:
    cas, attention = cas[:batch], attention[:batch]
    other = attention.flip(1)
    suppressed = terms.suppress_background(cas, attention)
    total = 0.0
    for sample in range(batch):
        uncertainty = [C / sum(math.exp(v) + 1 for v in suppressed[sample, t].tolist()) for t in range(T)]
        order = sorted(range(T), key=lambda t: uncertainty[t])
        for t in range(T):
            place = order[t] if mode == "released" else order.index(t)
            theta = 2 * (place + 0.5) / T - 1
            weight = 1 + 0.7 * math.tanh(theta * (1 - 2 * 0.2))
            scores = np.exp(cas[sample, t].double().numpy())
            background = scores[-1] / scores.sum()
            errors = [abs(1 - a[sample, t].item() - background) for a in (attention, other, attention)]
            total += weight * sum(errors) / 3
    found = terms.uncertainty_guided_loss(cas, suppressed, (attention, other, attention), 0.2, 0.7, mode)
    assert found.item() == pytest.approx(total / (batch * T), rel=1e-5)


def test_contrastive_by_loops(cas: Tensor, attention: Tensor, labels: Tensor) -> None:
    embedding = torch.randn(B, T, E, generator=torch.Generator().manual_seed(2))
    suppressed = terms.suppress_background(cas, attention)
    x, s = embedding.double().numpy(), suppressed.double().numpy()

    def parts(sample: int, label: int) -> tuple[np.ndarray, np.ndarray]:
        weight = np.exp(s[sample, :, label]) / np.exp(s[sample, :, label]).sum()
        return x[sample].T @ weight, x[sample].T @ ((1 - weight) / (T - 1))

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    total = count = 0.0
    for first, second in ((0, 1), (2, 3)):
        for label in range(C):
            if labels[first, label] and labels[second, label]:
                (high, low), (high2, low2) = parts(first, label), parts(second, label)
                near = distance(high, high2)
                total += 0.5 * max(0, near - distance(high, low2) + 0.5)
                total += 0.5 * max(0, near - distance(high2, low) + 0.5)
                count += 1
    assert count == 2
    found = terms.contrastive_loss(embedding, suppressed, labels, torch.tensor([[0, 1], [2, 3]]))
    assert found.item() == pytest.approx(total / count, rel=1e-4)


def test_without_pairs_or_shared_classes_contrast_is_zero(cas: Tensor, labels: Tensor) -> None:
    embedding = torch.randn(B, T, E, requires_grad=True)
    none = terms.contrastive_loss(embedding, cas, labels, torch.zeros(0, 2, dtype=torch.long))
    none.backward()
    assert none.item() == 0
    assert terms.contrastive_loss(embedding, cas, labels, torch.tensor([[0, 2]])).item() == 0


def test_mutual_and_distillation_hold_the_teacher_fixed() -> None:
    first, second = torch.tensor([[0.2, 0.4]], requires_grad=True), torch.tensor([[0.6, 0.4]], requires_grad=True)
    loss = terms.mutual_loss(first, second)
    assert loss.item() == pytest.approx(0.5 * 0.08 + 0.5 * 0.08)
    loss.backward()
    assert first.grad is not None and second.grad is not None
    assert first.grad.tolist() == [[pytest.approx(-0.2), 0.0]]  # of 0.5 * (a - b)² / 2 elements, one direction only
    assert second.grad.tolist() == [[pytest.approx(0.2), 0.0]]
    student, teacher = torch.tensor([[0.5]], requires_grad=True), torch.tensor([[0.1]], requires_grad=True)
    loss = terms.distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0.16)
    assert teacher.grad is None


def test_guide_errors_by_hand() -> None:
    cas = torch.tensor([[[0.0, math.log(3.0)]]])  # background has 3/4
    found = terms.guide_errors(cas, (torch.tensor([[0.25]]), torch.tensor([[1.0]])))
    assert found.tolist() == [[pytest.approx((0.0 + 0.75) / 2, abs=1e-6)]]


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_batch_is_the_mean_of_its_videos(cas: Tensor, attention: Tensor, labels: Tensor, batch: int) -> None:
    """No loss but that of pairs lets one video see another."""

    def all_terms(rows: slice) -> list[float]:
        s, a, y = cas[rows], attention[rows], labels[rows]
        suppressed = terms.suppress_background(s, a)
        values = [terms.mil_loss(s, y, True, 4), terms.evidential_loss(suppressed, a, y, 4)]
        values += [terms.uncertainty_guided_loss(s, suppressed, (a,), 0.1, 0.7, mode) for mode in ("rank", "released")]
        return [value.item() for value in values]

    singles = [all_terms(slice(index, index + 1)) for index in range(batch)]
    assert all_terms(slice(0, batch)) == pytest.approx(np.mean(singles, axis=0).tolist(), rel=1e-5)
