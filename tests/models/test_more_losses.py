"""Each loss beside a definition of its own, in NumPy and loops, on fixed numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cytoloc.models.losses import (
    F1_EPSILON,
    Loss,
    arcface_loss,
    asymmetric_loss,
    cross_entropy_loss,
    focal_loss,
    generalized_cross_entropy_loss,
    hard_cross_entropy_loss,
    lovasz_hinge_loss,
    macro_f1_loss,
    soft_f1_loss,
    symmetric_focal_loss,
    symmetric_lovasz_loss,
    weighted_sum,
)

Values = NDArray[np.float64]
LOGITS = np.array([[2.0, -1.1, 0.5, -0.3], [-3.0, 0.0, 1.5, -2.0], [0.7, 0.2, -0.4, 0.1]])
# The last class is absent from the batch.
TRUTH = np.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0]])


def probabilities(logits: Values) -> Values:
    return np.asarray(1 / (1 + np.exp(-logits)))


def entropies(logits: Values, truth: Values) -> Values:
    p = probabilities(logits)
    return np.asarray(-np.where(truth == 1, np.log(p), np.log(1 - p)))


def symmetric_focal(logits: Values, truth: Values) -> float:
    p = probabilities(logits)
    cells = np.where(truth == 1, 1 - p, p) ** 2 * entropies(logits, truth)
    return float(cells[truth == 1].mean() + cells[truth == 0].mean()) / 2


def generalized(logits: Values, truth: Values) -> float:
    p = probabilities(logits)
    return float(((1 - np.where(truth == 1, p, 1 - p) ** 0.7) / 0.7).sum(axis=1).mean())


def hardest_three(logits: Values, truth: Values) -> float:
    return float(np.sort(entropies(logits, truth).ravel())[-3:].mean())


def asymmetric(logits: Values, truth: Values) -> float:
    p = probabilities(logits)
    total = 0.0
    cells = [(row, column) for row in range(len(logits)) for column in range(logits.shape[1])]
    for row, column in cells:
        if truth[row, column]:
            total -= (1 - p[row, column]) * math.log(p[row, column])
        else:
            shifted = max(float(p[row, column]) - 0.05, 0.0)
            total -= shifted**4 * math.log(1 - shifted)
    return total / len(logits)


def macro_f1(logits: Values, truth: Values) -> float:
    losses = []
    p_of, cells_of = probabilities(logits), entropies(logits, truth)
    for number in range(logits.shape[1]):
        p, t, cells = p_of[:, number], truth[:, number], cells_of[:, number]
        f1 = 2 * (p * t).sum() / (p.sum() + t.sum() + F1_EPSILON)
        losses.append(1 - f1 if t.any() else cells.mean())
    return float(np.mean(losses))


def jaccard_loss(wrong: list[int], truth: Values) -> float:
    """Return 1 - the Jaccard index of the truth and a prediction that is wrong for these fields."""
    predicted = truth.copy()
    predicted[wrong] = 1 - predicted[wrong]
    union = np.maximum(predicted, truth).sum()
    return float(1 - (predicted * truth).sum() / union) if union else 0.0


def lovasz(logits: Values, truth: Values) -> float:
    total: float = 0.0
    for number in range(logits.shape[1]):
        column, t = logits[:, number], truth[:, number]
        errors = 1 - column * (2 * t - 1)
        order = [int(one) for one in np.argsort(-errors, kind="stable")]
        for k, field in enumerate(order):
            # What the set function grows by when this field is wrong too.
            total += max(float(errors[field]), 0.0) * (jaccard_loss(order[: k + 1], t) - jaccard_loss(order[:k], t))
    return float(total / logits.shape[1])


def symmetric_lovasz(logits: Values, truth: Values) -> float:
    return (lovasz(logits, truth) + lovasz(-logits, 1 - truth)) / 2


def cross_entropy(logits: Values, truth: Values) -> float:
    return float(entropies(logits, truth).sum(axis=1).mean())


CASES: dict[str, tuple[Loss, Callable[[Values, Values], float]]] = {
    "symmetric focal": (symmetric_focal_loss, symmetric_focal),
    "cross-entropy": (cross_entropy_loss, cross_entropy),
    "hardest": (partial(hard_cross_entropy_loss, hardest=3), hardest_three),
    "asymmetric": (partial(asymmetric_loss, gamma_positive=1.0), asymmetric),
    "macro F1": (macro_f1_loss, macro_f1),
    "Lovász": (lovasz_hinge_loss, lovasz),
    "symmetric Lovász": (symmetric_lovasz_loss, symmetric_lovasz),
    "generalized cross-entropy": (generalized_cross_entropy_loss, generalized),
}


def test_a_wrong_label_pulls_less_with_the_generalized_cross_entropy() -> None:
    wrong = {}
    for name, loss in (("plain", cross_entropy_loss), ("generalized", generalized_cross_entropy_loss)):
        logits = torch.tensor([[-6.0, 0.0]], requires_grad=True)
        loss(logits, torch.ones_like(logits)).backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        wrong[name] = (logits.grad[0, 0] / logits.grad[0, 1]).item()
    assert wrong["plain"] > 1.9
    assert wrong["generalized"] < 0.05
    almost_zero = partial(generalized_cross_entropy_loss, exponent=1e-6)
    assert almost_zero(torch.tensor(LOGITS), torch.tensor(TRUTH)).item() == pytest.approx(
        cross_entropy_loss(torch.tensor(LOGITS), torch.tensor(TRUTH)).item(), rel=1e-5
    )


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_an_independent_definition(name: str) -> None:
    loss, expected = CASES[name]
    assert loss(torch.tensor(LOGITS), torch.tensor(TRUTH)).item() == pytest.approx(expected(LOGITS, TRUTH), rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: CASES[name][0](values, torch.tensor(TRUTH)), logits)


@pytest.mark.parametrize("name", [*CASES, "asymmetric without shift"])
@pytest.mark.parametrize("size", [80.0, -80.0, 1e4])
def test_extreme_logits_stay_finite(name: str, size: float) -> None:
    loss = CASES[name][0] if name in CASES else partial(asymmetric_loss, gamma_positive=1.0, margin=0.0)
    logits = torch.full((3, 4), size, requires_grad=True)
    value = loss(logits, torch.tensor(TRUTH, dtype=torch.float32))
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", CASES)
def test_right_is_better_than_wrong_and_the_order_of_fields_and_classes_does_not_matter(name: str) -> None:
    loss, (logits, truth) = CASES[name][0], (torch.tensor(LOGITS), torch.tensor(TRUTH))
    assert loss(5 * (2 * truth - 1), truth) < loss(logits, truth) < loss(-5 * (2 * truth - 1), truth)
    rows, columns = [2, 0, 1], [3, 1, 0, 2]
    assert torch.isclose(loss(logits[rows][:, columns], truth[rows][:, columns]), loss(logits, truth))


def test_asymmetric_without_focus_and_shift_is_cross_entropy() -> None:
    logits, truth = torch.tensor(LOGITS), torch.tensor(TRUTH)
    plain = asymmetric_loss(logits, truth, gamma_positive=0, gamma_negative=0, margin=0)
    assert torch.isclose(plain, cross_entropy_loss(logits, truth))


def test_a_batch_smaller_than_the_hardest_counts_whole() -> None:
    logits, truth = torch.tensor(LOGITS), torch.tensor(TRUTH)
    assert hard_cross_entropy_loss(logits, truth).item() == pytest.approx(entropies(LOGITS, TRUTH).mean())


def test_a_sum_of_losses_is_weighted() -> None:
    logits, truth = torch.tensor(LOGITS), torch.tensor(TRUTH)
    both = weighted_sum([(0.3, focal_loss), (2.0, soft_f1_loss)])(logits, truth)
    assert both.item() == pytest.approx(0.3 * focal_loss(logits, truth).item() + 2 * soft_f1_loss(logits, truth).item())
    with pytest.raises(ValueError, match="at least one"):
        weighted_sum([])


def arcface(cosines: Values, antibodies: list[int]) -> float:
    losses = []
    for row, true in zip(cosines, antibodies, strict=True):
        if true < 0:
            continue
        angle = math.acos(row[true])
        wider = math.cos(angle + 0.5) if angle + 0.5 < math.pi else row[true] - 0.5 * math.sin(math.pi - 0.5)
        logits = 30 * np.where(np.arange(len(row)) == true, wider, row)
        losses.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[true])
    return float(np.mean(losses))


def test_arcface_widens_the_true_angle() -> None:
    cosines = np.array([[0.9, 0.1, -0.2], [0.3, 0.8, 0.1], [0.2, -0.4, -0.95], [0.5, 0.5, 0.5]])
    antibodies = [0, 0, 2, -1]
    given = torch.tensor(cosines, requires_grad=True)
    numbers = torch.tensor(antibodies)
    assert arcface_loss(given, numbers).item() == pytest.approx(arcface(cosines, antibodies), rel=1e-9)
    assert torch.autograd.gradcheck(lambda values: arcface_loss(values, numbers, scale=3.0), given)
    without = arcface_loss(given, numbers, margin=0.0, scale=1.0)
    assert torch.isclose(without, torch.nn.functional.cross_entropy(given[:3], numbers[:3]), atol=1e-5)


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_arcface_is_finite_at_the_ends_and_without_known_antibodies(cosine: float) -> None:
    for numbers in (torch.tensor([0, 1]), torch.tensor([-1, -1])):
        cosines = torch.full((2, 3), cosine, requires_grad=True)
        loss = arcface_loss(cosines, numbers)
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)
        assert cosines.grad is not None
        assert torch.isfinite(cosines.grad).all()
    assert loss.item() == 0
