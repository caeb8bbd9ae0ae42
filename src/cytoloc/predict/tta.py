"""Test-time augmentation: the flips and quarter turns under which a field of view means the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from cytoloc.errors import SettingsError

TTA_VIEWS: Final = (1, 2, 4, 8)
"""How many views may be averaged."""


def dihedral(fields: Tensor, view: int) -> Tensor:
    """Return ``fields``, ``(n, channels, size, size)``, seen in one of eight ways.

    Views 0 to 3 are quarter turns; 4 to 7 the same after a left-right flip. View 0 changes nothing.
    """
    flipped = fields.flip(-1) if view >= 4 else fields
    return torch.rot90(flipped, view % 4, dims=(-2, -1)) if view % 4 else flipped


def tta_views(tta: int) -> tuple[int, ...]:
    """Return which dihedral views make up a set of 1, 2, 4 or 8: identity, then the flip, then the turns.

    Raises:
        SettingsError: If there is no set of so many.
    """
    if tta not in TTA_VIEWS:
        raise SettingsError(
            f"Invalid number of TTA views: {tta}.", hint=f"Choose one of {', '.join(map(str, TTA_VIEWS))}."
        )
    sets = {1: (0,), 2: (0, 4), 4: (0, 4, 2, 6), 8: tuple(range(8))}
    return sets[tta]


def mean_logits(network: Callable[[Tensor], Tensor], fields: Tensor, *, tta: int) -> Tensor:
    """Return the logits of ``fields`` averaged over views, as the silver-medal baseline does."""
    return torch.stack([network(dihedral(fields, view)) for view in tta_views(tta)]).mean(dim=0)
