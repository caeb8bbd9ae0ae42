"""Test-time augmentation: predictions are averaged over flips and quarter turns, which do not change the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from cytoloc.errors import SettingsError

TTA_VIEWS: Final = {1: (0,), 2: (0, 4), 4: (0, 4, 2, 6), 8: tuple(range(8))}
"""The dihedral views of each number of views: the identity, then the flip, then the turns."""


def dihedral(fields: Tensor, view: int) -> Tensor:
    """Return ``fields``, ``(n, channels, size, size)``, turned or flipped in one of eight ways.

    Views 0 to 3 are quarter turns. Views 4 to 7 are the same after a left-right flip. View 0 changes nothing.
    """
    flipped = fields.flip(-1) if view >= 4 else fields
    return torch.rot90(flipped, view % 4, dims=(-2, -1)) if view % 4 else flipped


def check_tta(tta: int) -> int:
    """Return a number of views if it is valid.

    Raises:
        SettingsError: If it is not 1, 2, 4 or 8.
    """
    if type(tta) is not int or tta not in TTA_VIEWS:
        raise SettingsError(f"Invalid number of TTA views: {tta}.", hint="Choose 1, 2, 4 or 8.")
    return tta


def mean_logits(network: Callable[[Tensor], Tensor], fields: Tensor, *, tta: int) -> Tensor:
    """Return the logits of ``fields`` averaged over ``tta`` views, as the silver-medal baseline does."""
    return torch.stack([network(dihedral(fields, view)) for view in TTA_VIEWS[tta]]).mean(dim=0)
