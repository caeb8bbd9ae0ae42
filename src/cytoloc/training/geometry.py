"""Images turned, enlarged, tilted and cut in tiles: functions of a batch and of what is done to each image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from cytoloc.predict.tta import dihedral


def crops(fields: Tensor, tops: Tensor, lefts: Tensor, *, size: int) -> Tensor:
    """Return a square of each field, ``(n, channels, size, size)``.

    Args:
        fields: ``(n, channels, h, w)``.
        tops: The first row of each square.
        lefts: Its first column.
        size: Its edge, in pixels.
    """
    corners = zip(tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack(
        [field[:, top : top + size, left : left + size] for field, (top, left) in zip(fields, corners, strict=True)]
    )


def rotations(degrees: Tensor) -> Tensor:
    """Return the matrices ``(n, 3, 3)`` of :func:`resampled` that turn images anticlockwise."""
    angle = degrees * (math.pi / 180)
    matrices = torch.eye(3).repeat(len(degrees), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 0, 1] = -angle.sin()
    matrices[:, 1, 0] = angle.sin()
    return matrices


def zooms(factors: Tensor, centers: Tensor) -> Tensor:
    """Return the matrices ``(n, 3, 3)`` of :func:`resampled` that enlarge images.

    Args:
        factors: Above 1 enlarges; below 1 shows what lies beyond the rim.
        centers: ``(n, 2)`` from -1 to 1: which part of the image stays in sight, from left or top to right or bottom.
    """
    matrices = torch.eye(3).repeat(len(factors), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1 / factors
    matrices[:, :2, 2] = centers * (1 - 1 / factors)[:, None].abs()
    return matrices


def tilts(amounts: Tensor) -> Tensor:
    """Return the matrices ``(n, 3, 3)`` of :func:`resampled` that tilt images.

    Args:
        amounts: ``(n, 2)``, below 1: by which share the right and the lower edge come near, and the others recede.
    """
    matrices = torch.eye(3).repeat(len(amounts), 1, 1)
    matrices[:, 2, :2] = amounts
    return matrices


def resampled(fields: Tensor, matrices: Tensor) -> Tensor:
    """Return uint8 images, each point taken from where its matrix puts it: linear in between, mirrored at the rim.

    Args:
        fields: uint8 ``(n, channels, h, w)``.
        matrices: ``(n, 3, 3)``, from a point of the new image to that of the old one, in homogeneous coordinates that
            go from -1 to 1 (x to the right, y down).
    """
    count, channels, height, width = fields.shape
    plain = torch.eye(3).repeat(count, 1, 1)[:, :2]
    grid = functional.affine_grid(plain, [count, channels, height, width], align_corners=False)
    points = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1) @ matrices.transpose(1, 2)[:, None]
    places = (points[..., :2] / points[..., 2:]).to(fields.device)
    seen = functional.grid_sample(fields.float(), places, padding_mode="reflection", align_corners=False)
    return seen.round_().clamp_(0, 255).to(torch.uint8)


def tiled(fields: Tensor, orders: Tensor, views: Tensor, *, edge: int = 3) -> Tensor:
    """Return images cut in ``edge`` x ``edge`` tiles that change places and are flipped and turned.

    Pixels that fill no tile stay at the right and lower rim.

    Args:
        fields: ``(n, channels, size, size)``.
        orders: ``(n, edge²)``: for each place, row by row, the place that its tile comes from.
        views: ``(n, edge²)``: for each place the dihedral view of its tile.
        edge: Tiles in a row.
    """
    side = fields.shape[-1] // edge
    changed = fields.clone()
    for field, new, order, view in zip(fields, changed, orders.tolist(), views.tolist(), strict=True):
        for place, (source, number) in enumerate(zip(order, view, strict=True)):
            here, there = _tile(place, side, edge), _tile(source, side, edge)
            new[:, here[0], here[1]] = dihedral(field[:, there[0], there[1]], number)
    return changed


def _tile(place: int, side: int, edge: int) -> tuple[slice, slice]:
    row, column = divmod(place, edge)
    return slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)


def resized(fields: Tensor, size: int) -> Tensor:
    """Return uint8 images at a smaller ``size``, each pixel the mean of those that it covers."""
    if fields.shape[-1] == size:
        return fields
    return functional.interpolate(fields.float(), size=(size, size), mode="area").round_().to(torch.uint8)
