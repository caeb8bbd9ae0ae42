from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from cytoloc.models.losses import F1_EPSILON, focal_loss, soft_f1_loss, weighted_sum

STARTING_SYSTEM = weighted_sum([(0.5, focal_loss), (0.5, soft_f1_loss)])
LOGITS = [[2.0, -1.0, 0.5], [-3.0, 0.0, 1.5]]
TARGETS = [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def focal_by_hand(gamma: float) -> float:
    total = 0.0
    for row, targets in zip(LOGITS, TARGETS, strict=True):
        for logit, target in zip(row, targets, strict=True):
            p = sigmoid(logit) if target else 1 - sigmoid(logit)
            total += (1 - p) ** gamma * -math.log(p)
    return total / len(LOGITS)


def f1_by_hand() -> float:
    total = 0.0
    for row, targets in zip(LOGITS, TARGETS, strict=True):
        p = [sigmoid(logit) for logit in row]
        hits = sum(a * b for a, b in zip(p, targets, strict=True))
        precision = hits / (sum(p) + F1_EPSILON)
        recall = hits / (sum(targets) + F1_EPSILON)
        total += 2 * precision * recall / (precision + recall + F1_EPSILON)
    return 1 - total / len(LOGITS)


def test_losses_are_the_starting_systems_on_fixed_numbers() -> None:
    logits, targets = torch.tensor(LOGITS), torch.tensor(TARGETS)
    assert focal_loss(logits, targets).item() == pytest.approx(focal_by_hand(2), rel=1e-5)
    assert soft_f1_loss(logits, targets).item() == pytest.approx(f1_by_hand(), rel=1e-5)
    both = 0.5 * focal_by_hand(2) + 0.5 * f1_by_hand()
    assert STARTING_SYSTEM(logits, targets).item() == pytest.approx(both, rel=1e-5)


def test_without_focusing_it_is_cross_entropy() -> None:
    logits, targets = torch.tensor(LOGITS), torch.tensor(TARGETS)
    expected = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()
    assert focal_loss(logits, targets, gamma=0).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_logits_stay_finite(sign: float) -> None:
    logits = torch.full((2, 28), sign * 80.0, requires_grad=True)
    loss = STARTING_SYSTEM(logits, torch.zeros(2, 28))
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = (torch.rand(3, 5, generator=generator) < 0.4).double()
    assert torch.autograd.gradcheck(lambda values: STARTING_SYSTEM(values, targets), logits)
