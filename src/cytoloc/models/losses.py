"""Losses as pure functions of logits and targets, both ``(n, classes)``."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

F1_EPSILON: Final = 1e-6


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (Lin et al. 2017) without class weights: summed over classes, mean over fields.

    Each class costs ``(1 - p)^gamma · -log p``, where p is the probability given to what is true.

    Args:
        logits: Float ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        gamma: Focusing exponent; 0 gives binary cross-entropy.
    """
    log_p = functional.logsigmoid(torch.where(targets > 0.5, logits, -logits))
    # 1 - p as the exponential of a log-sigmoid: exact where p is near 1.
    log_rest = functional.logsigmoid(torch.where(targets > 0.5, -logits, logits))
    return (-(gamma * log_rest).exp() * log_p).sum(dim=1).mean()


def soft_f1_loss(logits: Tensor, targets: Tensor, *, epsilon: float = F1_EPSILON) -> Tensor:
    """Return 1 - the mean over fields of the soft F1 over classes.

    Soft precision and recall take the sigmoid for the prediction: ``sum(p t) / sum(p)`` and ``sum(p t) / sum(t)``.

    Args:
        logits: Float ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        epsilon: Added to each denominator.
    """
    p = torch.sigmoid(logits)
    hits = (p * targets).sum(dim=1)
    precision = hits / (p.sum(dim=1) + epsilon)
    recall = hits / (targets.sum(dim=1) + epsilon)
    f1 = 2 * precision * recall / (precision + recall + epsilon)
    return 1 - f1.mean()


def focal_f1_loss(logits: Tensor, targets: Tensor, *, focal: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Return the starting system's loss: ``focal`` x focal loss + (1 - ``focal``) x soft F1 loss."""
    return focal * focal_loss(logits, targets, gamma=gamma) + (1 - focal) * soft_f1_loss(logits, targets)
