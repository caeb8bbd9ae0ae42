"""Test-time augmentation: averaging predictions over flips and rotations, which do not change the locations."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from cytoloc.errors import SettingsError
from cytoloc.predict.engines.engine import Engine, Outputs

TTA_VIEWS: Final = {1: (0,), 2: (0, 4), 4: (0, 4, 2, 6), 8: tuple(range(8))}
"""The dihedral views that are used for each number of views: first the identity, then the flip, then rotations."""


def dihedral(fields: Tensor, view: int) -> Tensor:
    """Rotate or flip images in one of eight ways.

    Args:
        fields: Images, shape ``(n, channels, size, size)``.
        view: 0 to 3 for rotations by 0, 90, 180 and 270 degrees; 4 to 7 for the same after a left-right flip.

    Returns:
        The changed images.
    """
    flipped = fields.flip(-1) if view >= 4 else fields
    return torch.rot90(flipped, view % 4, dims=(-2, -1)) if view % 4 else flipped


def dihedral_back(fields: Tensor, view: int) -> Tensor:
    """Undo :func:`dihedral`.

    Args:
        fields: Images or maps that were changed by ``dihedral(…, view)``, shape ``(n, channels, size, size)``.
        view: The view, 0 to 7.

    Returns:
        The original images.
    """
    turned = torch.rot90(fields, -(view % 4), dims=(-2, -1)) if view % 4 else fields
    return turned.flip(-1) if view >= 4 else turned


def check_tta(tta: int) -> int:
    """Return a number of views if it is valid.

    Args:
        tta: Number of views.

    Returns:
        The number.

    Raises:
        SettingsError: If the number is not 1, 2, 4 or 8.
    """
    if type(tta) is not int or tta not in TTA_VIEWS:
        raise SettingsError(f"Invalid number of TTA views: {tta}.", hint="Choose 1, 2, 4 or 8.")
    return tta


def mean_outputs(engine: Engine, fields: Tensor, *, tta: int) -> Outputs:
    """Return the logits of images averaged over several views, as in the silver-medal baseline, and their features.

    Args:
        engine: A network.
        fields: uint8 of shape ``(n, channels, size, size)``.
        tta: Number of views.

    Returns:
        The mean logits, and the features of the images themselves, the first view.
    """
    views = [engine(dihedral(fields, view)) for view in TTA_VIEWS[tta]]
    return Outputs(torch.stack([each.logits for each in views]).mean(dim=0), views[0].features)
