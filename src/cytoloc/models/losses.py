"""Losses: functions of logits (floats) and targets (0 or 1), both of shape ``(n, classes)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

F1_EPSILON: Final = 1e-6

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function from logits and targets, both of shape ``(n, classes)``, to a scalar."""


def focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (Lin et al. 2017) without class weights, summed over classes and averaged over fields.

    The loss of each class is ``-(1 - p)^gamma log p``, where p is the probability of the true value.

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        gamma: Focusing exponent; 0 gives binary cross-entropy.

    Returns:
        A scalar.
    """
    log_p = functional.logsigmoid(torch.where(targets > 0.5, logits, -logits))
    # 1 - p is computed as the exponential of a log-sigmoid, which is exact for p near 1.
    log_rest = functional.logsigmoid(torch.where(targets > 0.5, -logits, logits))
    return (-(gamma * log_rest).exp() * log_p).sum(dim=1).mean()


def soft_f1_loss(logits: Tensor, targets: Tensor, *, epsilon: float = F1_EPSILON) -> Tensor:
    """Return 1 - the soft F1 over classes, averaged over fields.

    Soft precision is ``sum(p t) / sum(p)`` and soft recall is ``sum(p t) / sum(t)``, with sigmoid probabilities p.

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        epsilon: Added to each denominator.

    Returns:
        A scalar.
    """
    p = torch.sigmoid(logits)
    hits = (p * targets).sum(dim=1)
    precision = hits / (p.sum(dim=1) + epsilon)
    recall = hits / (targets.sum(dim=1) + epsilon)
    f1 = 2 * precision * recall / (precision + recall + epsilon)
    return 1 - f1.mean()


def symmetric_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Return the focal loss with equal weights of positives and negatives: half the sum of both means.

    A field has few positives among many classes, so negatives dominate a plain sum. A kind that does not occur in the
    batch adds nothing.

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        gamma: Focusing exponent.

    Returns:
        A scalar.
    """
    positive = (targets > 0.5).to(logits.dtype)
    signed = torch.where(targets > 0.5, logits, -logits)
    cells = -(gamma * functional.logsigmoid(-signed)).exp() * functional.logsigmoid(signed)
    kinds = [(cells * kind).sum() / kind.sum().clamp(min=1) for kind in (positive, 1 - positive)]
    return (kinds[0] + kinds[1]) / 2


def cross_entropy_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross-entropy, summed over classes and averaged over fields."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1).mean()


def generalized_cross_entropy_loss(logits: Tensor, targets: Tensor, *, exponent: float = 0.7) -> Tensor:
    """Return the generalized cross-entropy (Zhang and Sabuncu 2018), summed over classes and averaged over fields.

    The loss of each class is ``(1 - p^exponent) / exponent``, where p is the probability of the true value. It is
    bounded, so a wrong label that the network does not believe has a small gradient. The limit for an exponent of 0 is
    the cross-entropy; with 1 it is the absolute error.

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        exponent: Above 0 and at most 1. Larger values trust labels less, and learn more slowly.

    Returns:
        A scalar.
    """
    log_p = functional.logsigmoid(torch.where(targets > 0.5, logits, -logits))
    return (-torch.expm1(exponent * log_p) / exponent).sum(dim=1).mean()


def hard_cross_entropy_loss(logits: Tensor, targets: Tensor, *, hardest: int = 100) -> Tensor:
    """Return the mean binary cross-entropy of the hardest pairs of a field and a class in the batch.

    In the first place of 2018, one term of the loss used hard examples only, chosen per class.

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        hardest: Number of pairs. Batches with fewer pairs are used completely.

    Returns:
        A scalar.
    """
    cells = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten()
    return cells.topk(min(hardest, len(cells))).values.mean()


def asymmetric_loss(
    logits: Tensor, targets: Tensor, *, gamma_positive: float = 0.0, gamma_negative: float = 4.0, margin: float = 0.05
) -> Tensor:
    """Return the asymmetric loss (Ridnik et al. 2021), summed over classes and averaged over fields.

    Negatives are focused harder than positives, and negatives with a probability below ``margin`` have no loss. This
    reduces the effect of mislabeled negatives.

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        gamma_positive: Focusing exponent of positives.
        gamma_negative: Focusing exponent of negatives; 0, or at least 1.
        margin: Subtracted from the probabilities of negatives.

    Returns:
        A scalar.
    """
    of_positives = (gamma_positive * functional.logsigmoid(-logits)).exp() * functional.logsigmoid(logits)
    if margin:
        p = (torch.sigmoid(logits) - margin).clamp(min=0)
        of_negatives = p**gamma_negative * torch.log1p(-p)
    else:
        of_negatives = (gamma_negative * functional.logsigmoid(logits)).exp() * functional.logsigmoid(-logits)
    return -torch.where(targets > 0.5, of_positives, of_negatives).sum(dim=1).mean()


def macro_f1_loss(logits: Tensor, targets: Tensor, *, epsilon: float = F1_EPSILON) -> Tensor:
    """Return 1 - soft F1 over the batch, averaged over classes; cross-entropy for classes without positives.

    A class without positives in the batch has F1 0 for all predictions, so F1 has no gradient (eleventh place of 2018).

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.
        epsilon: Added to the denominator of F1.

    Returns:
        A scalar.
    """
    p = torch.sigmoid(logits)
    f1 = 2 * (p * targets).sum(dim=0) / ((p + targets).sum(dim=0) + epsilon)
    absent = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=0)
    return torch.where(targets.sum(dim=0) > 0, 1 - f1, absent).mean()


def lovasz_hinge_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Lovász hinge loss (Berman et al. 2018) of each class over the batch, averaged over classes.

    It is the convex extension of the Jaccard loss to real-valued errors ``1 - logit (2 target - 1)``.

    Args:
        logits: Float of shape ``(n, classes)``.
        targets: 0 or 1, of the same shape.

    Returns:
        A scalar.
    """
    errors, order = (1 - logits * (2 * targets - 1)).sort(dim=0, descending=True, stable=True)
    truth = targets.gather(0, order)
    # The Jaccard loss if the k fields with the largest errors are wrong, for each k; then its increase at each k.
    positives = truth.sum(dim=0, keepdim=True)
    kept = positives - truth.cumsum(dim=0)
    union = positives + (1 - truth).cumsum(dim=0)
    jaccard = 1 - kept / union
    steps = torch.cat([jaccard[:1], jaccard.diff(dim=0)])
    return (functional.relu(errors) * steps).sum(dim=0).mean()


def symmetric_lovasz_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of the Lovász hinge losses of the classes and of their complements (first place of 2018)."""
    return (lovasz_hinge_loss(logits, targets) + lovasz_hinge_loss(-logits, 1 - targets)) / 2


def arcface_loss(cosines: Tensor, antibodies: Tensor, *, scale: float = 30.0, margin: float = 0.5) -> Tensor:
    """Return the ArcFace loss (Deng et al. 2019), averaged over the fields with a known antibody; 0 if there are none.

    It is the cross-entropy over ``scale x cosine``, where ``margin`` is added to the angle to the true direction. If
    the angle would exceed pi, the cosine is continued linearly, so that it keeps decreasing.

    Args:
        cosines: Float of shape ``(n, antibodies)``, from :class:`cytoloc.models.heads.AntibodyHead`.
        antibodies: The number of the true antibody of each field, -1 if unknown, shape ``(n,)``.
        scale: The scale of the cosines.
        margin: The angular margin in radians, between 0 and pi.

    Returns:
        A scalar.
    """
    # Unknown antibodies are ignored by their number instead of a mask, because a mask would make the GPU wait.
    true = antibodies.clamp(min=0)[:, None]
    # Clamped below 1, where the slope of the sine is infinite.
    cosine = cosines.gather(1, true).clamp(-1 + 1e-6, 1 - 1e-6)
    wider = cosine * math.cos(margin) - (1 - cosine**2).sqrt() * math.sin(margin)
    wider = torch.where(cosine > math.cos(math.pi - margin), wider, cosine - margin * math.sin(math.pi - margin))
    scaled = scale * cosines.scatter(1, true, wider)
    total = functional.cross_entropy(scaled, antibodies.clamp(min=-1), ignore_index=-1, reduction="sum")
    return total / (antibodies >= 0).sum().clamp(min=1)


def weighted_sum(terms: Sequence[tuple[float, Loss]]) -> Loss:
    """Return a loss that is the weighted sum of other losses.

    Args:
        terms: The weight and the function of each loss.

    Returns:
        The loss.

    Raises:
        ValueError: If there are no terms.
    """
    if not terms:
        raise ValueError("`terms` is empty, but a loss needs at least one term.")

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        total = terms[0][0] * terms[0][1](logits, targets)
        for weight, term in terms[1:]:
            total = total + weight * term(logits, targets)
        return total

    return loss
