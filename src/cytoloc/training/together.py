"""Several processes that learn one batch together: what is whose, and what they tell each other.

Each has its share of every batch, in order. What is random about the images is drawn for the whole batch, and losses
are taken of the whole batch, so that a run does not depend on how many processes learn it; what does depend on it is
written in docs/training.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which share of a batch is this process's own.

    Attributes:
        rank: Its number, from 0.
        of: How many processes there are.
    """

    rank: int = 0
    of: int = 1

    def own(self, whole: Tensor, *, dim: int = 0) -> Tensor:
        """Return the share of what belongs to a whole batch, along a dimension that ``of`` divides."""
        size = whole.shape[dim] // self.of
        return whole.narrow(dim, self.rank * size, size)

    def own_rows(self, rows: list[int]) -> list[int]:
        """Return the share of the rows of a batch; where they cannot be shared evenly, the last row more than once.

        >>> [Share(rank, 3).own_rows([5, 6, 7, 8]) for rank in range(3)]
        [[5, 6], [7, 8], [8, 8]]
        """
        size = -(-len(rows) // self.of)
        even = rows + rows[-1:] * (size * self.of - len(rows))
        return even[self.rank * size : (self.rank + 1) * size]

    def gathered(self, own: Tensor) -> Tensor:
        """Return what all processes have, one after the other; without gradient.

        Args:
            own: Of the same shape everywhere.
        """
        if self.of == 1:
            return own
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(self.of)]
        torch.distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    def whole(self, own: Tensor) -> Tensor:
        """Return what all processes have, one after the other; a loss of it is that of the whole batch.

        Its gradient reaches the own part ``of`` times as strong: the mean over processes, which comes next, is then the
        sum of what the parts contribute, and that is the gradient of one process with the whole batch.

        Args:
            own: Float, of the same shape everywhere.
        """
        if self.of == 1:
            return own
        together: Tensor = _Whole.apply(own, self)
        return together


ALONE: Final = Share()
"""The share of a process that learns alone: everything."""


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, own: Tensor, share: Share) -> Tensor:
        context.share = share
        return share.gathered(own)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        share: Share = context.share
        return share.of * share.own(gradient), None


def told(own: Any) -> list[Any]:
    """Return what all processes say, in their order: any value that can be pickled."""
    if not torch.distributed.is_initialized():
        return [own]
    said: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(said, own)
    return said
