"""Losses as pure functions of logits (floats) and targets (0 or 1), both ``(n, classes)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

F1_EPSILON: Final = 1e-6

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits and targets, both ``(n, classes)``, to one number."""


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (Lin et al. 2017) without class weights: summed over classes, mean over fields.

    Each class costs ``(1 - p)^gamma · -log p``, where p is the probability given to what is true.
    A focusing exponent ``gamma`` of 0 gives binary cross-entropy.
    """
    log_p = functional.logsigmoid(torch.where(targets > 0.5, logits, -logits))
    # 1 - p as the exponential of a log-sigmoid: exact where p is near 1.
    log_rest = functional.logsigmoid(torch.where(targets > 0.5, -logits, logits))
    return (-(gamma * log_rest).exp() * log_p).sum(dim=1).mean()


def soft_f1_loss(logits: Tensor, targets: Tensor, *, epsilon: float = F1_EPSILON) -> Tensor:
    """Return 1 - the mean over fields of the soft F1 over classes.

    Soft precision and recall take the sigmoid for the prediction: ``sum(p t) / sum(p)`` and ``sum(p t) / sum(t)``.
    ``epsilon`` is added to each denominator.
    """
    p = torch.sigmoid(logits)
    hits = (p * targets).sum(dim=1)
    precision = hits / (p.sum(dim=1) + epsilon)
    recall = hits / (targets.sum(dim=1) + epsilon)
    f1 = 2 * precision * recall / (precision + recall + epsilon)
    return 1 - f1.mean()


def symmetric_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return the focal loss with equal weights of positives and negatives: half the sum of the means of both kinds.

    A field has few positives among many classes, so a plain sum is mostly about negatives. A kind that does not occur
    in the batch adds nothing. ``gamma`` is the focusing exponent.
    """
    positive = (targets > 0.5).to(logits.dtype)
    signed = torch.where(targets > 0.5, logits, -logits)
    cells = -(gamma * functional.logsigmoid(-signed)).exp() * functional.logsigmoid(signed)
    kinds = [(cells * kind).sum() / kind.sum().clamp(min=1) for kind in (positive, 1 - positive)]
    return (kinds[0] + kinds[1]) / 2


def cross_entropy_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return binary cross-entropy, summed over classes, mean over fields."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()


def hard_cross_entropy_loss(logits: Tensor, targets: Tensor, *, hardest: int = 100) -> Tensor:
    """Return the mean binary cross-entropy of the ``hardest`` pairs of field and class in the batch.

    One loss term of the first place of 2018 used hard examples only, chosen per class. Smaller batches count whole.
    """
    cells = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten()
    return cells.topk(min(hardest, len(cells))).values.mean()


def asymmetric_loss(
    logits: Tensor, targets: Tensor, *, gamma_positive: float = 0.0, gamma_negative: float = 4.0, margin: float = 0.05
) -> Tensor:
    """Return the asymmetric loss (Ridnik et al. 2021), summed over classes, mean over fields.

    Negatives are focused harder than positives, and those below the probability ``margin`` cost nothing at all: a
    mislabeled negative is met less often.

    Args:
        logits: Float ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        gamma_positive: Focusing exponent of positives.
        gamma_negative: Focusing exponent of negatives; 0, or at least 1.
        margin: Taken from the probability of a negative, which is 0 at least.
    """
    of_positives = (gamma_positive * functional.logsigmoid(-logits)).exp() * functional.logsigmoid(logits)
    if margin:
        p = (torch.sigmoid(logits) - margin).clamp(min=0)
        of_negatives = p**gamma_negative * torch.log1p(-p)
    else:
        of_negatives = (gamma_negative * functional.logsigmoid(logits)).exp() * functional.logsigmoid(-logits)
    return -torch.where(targets > 0.5, of_positives, of_negatives).sum(dim=1).mean()


def macro_f1_loss(logits: Tensor, targets: Tensor, *, epsilon: float = F1_EPSILON) -> Tensor:
    """Return the mean over classes of 1 - soft F1 over the batch; of a class without positives, cross-entropy.

    A class that is absent from the batch has F1 0 whatever is predicted, and so nothing to learn from it (eleventh
    place of 2018).
    ``epsilon`` is added to the denominator of F1.
    """
    p = torch.sigmoid(logits)
    f1 = 2 * (p * targets).sum(dim=0) / ((p + targets).sum(dim=0) + epsilon)
    absent = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=0)
    return torch.where(targets.sum(dim=0) > 0, 1 - f1, absent).mean()


def lovasz_hinge_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Lovász hinge (Berman et al. 2018) of each class over the batch, mean over classes.

    It is the convex extension of the Jaccard loss to real-valued errors ``1 - logit · (2 target - 1)``.
    """
    errors, order = (1 - logits * (2 * targets - 1)).sort(dim=0, descending=True, stable=True)
    truth = targets.gather(0, order)
    # The Jaccard loss when the k fields of the greatest errors are wrong, for each k; then what the k-th adds.
    positives = truth.sum(dim=0, keepdim=True)
    kept = positives - truth.cumsum(dim=0)
    union = positives + (1 - truth).cumsum(dim=0)
    jaccard = 1 - kept / union
    steps = torch.cat([jaccard[:1], jaccard.diff(dim=0)])
    return (functional.relu(errors) * steps).sum(dim=0).mean()


def symmetric_lovasz_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of the Lovász hinges of the classes and of their complements (first place of 2018)."""
    return (lovasz_hinge_loss(logits, targets) + lovasz_hinge_loss(-logits, 1 - targets)) / 2


def arcface_loss(cosines: Tensor, antibodies: Tensor, *, scale: float = 30.0, margin: float = 0.5) -> Tensor:
    """Return the ArcFace loss (Deng et al. 2019), mean over the fields whose antibody is known; 0 if there are none.

    Cross-entropy over ``scale x cosine``, where the angle to the true direction is first widened by ``margin``. Beyond
    pi, where a wider angle would mean more alike, the cosine falls on along a straight line.

    Args:
        cosines: Float ``(n, antibodies)``, as :class:`cytoloc.models.heads.AntibodyHead` gives them.
        antibodies: The number of the true one for each field, -1 where it is not known.
        scale: Sharpness.
        margin: In radians, between 0 and pi.
    """
    # Unknown antibodies are ignored by their number, not left out by a mask: a GPU would have to report their count.
    true = antibodies.clamp(min=0)[:, None]
    # Short of 1, where the slope of the sine is infinite.
    cosine = cosines.gather(1, true).clamp(-1 + 1e-6, 1 - 1e-6)
    wider = cosine * math.cos(margin) - (1 - cosine**2).sqrt() * math.sin(margin)
    wider = torch.where(cosine > math.cos(math.pi - margin), wider, cosine - margin * math.sin(math.pi - margin))
    scaled = scale * cosines.scatter(1, true, wider)
    total = functional.cross_entropy(scaled, antibodies.clamp(min=-1), ignore_index=-1, reduction="sum")
    return total / (antibodies >= 0).sum().clamp(min=1)


def weighted_sum(terms: Sequence[tuple[float, Loss]]) -> Loss:
    """Return the loss that adds up others, each times its weight.

    Raises:
        ValueError: If there are none.
    """
    if not terms:
        raise ValueError("a loss needs at least one term")

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        total = terms[0][0] * terms[0][1](logits, targets)
        for weight, term in terms[1:]:
            total = total + weight * term(logits, targets)
        return total

    return loss
