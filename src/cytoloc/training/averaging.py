"""Averages of weights over steps and epochs."""

from __future__ import annotations

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

State = dict[str, Tensor]


def blended(average: State | None, weights: State, *, share: float) -> State:
    """Return ``average`` moved by ``share`` towards ``weights``; a copy of these if there is no average yet.

    The tensors of ``average`` are changed themselves, all at once, which takes half as long as one after the other.
    Whole numbers, such as the batch norms' counts of batches, are taken from ``weights``.
    """
    if average is None:
        return {name: value.detach().clone() for name, value in weights.items()}
    # An average that comes from a checkpoint may lie elsewhere.
    moved = {name: average[name].to(value.device) for name, value in weights.items()}
    floats = [name for name, value in weights.items() if value.is_floating_point()]
    move = get_ema_multi_avg_fn(1 - share)  # type: ignore[no-untyped-call]  # torch gives it no types
    move([moved[name] for name in floats], [weights[name] for name in floats], None)
    return {name: moved[name] if value.is_floating_point() else value.clone() for name, value in weights.items()}


def ema_share(decay: float, step: int) -> float:
    """Return how far a moving average moves at a step (from 1): ``1 - decay``, and further at first.

    A young average with a high decay would for long be mostly the first weights; so decay starts at 2/11 and rises.

    >>> [round(ema_share(0.999, step), 3) for step in (1, 100, 100_000)]
    [0.818, 0.082, 0.001]
    """
    return 1 - min(decay, (1 + step) / (10 + step))
