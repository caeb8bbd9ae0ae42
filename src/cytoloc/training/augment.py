"""Augmentation of training images: functions of whole batches of uint8 images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cytoloc.predict.tta import dihedral
from cytoloc.recipes.recipe import Recipe
from cytoloc.training.distributed import SINGLE, Processes


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Changes a batch at random; the fields are those of :class:`cytoloc.recipes.sections.AugmentSection`.

    Disabled augmentations consume no random numbers, so a recipe without them trains as if they did not exist. Each of
    several processes draws random numbers for the whole batch, and uses its shard of them.
    """

    flips: bool = True
    turns: bool = True
    affine_p: float = 0.75
    rotate_degrees: float = 0.0
    zoom: float = 1.0
    warp: float = 0.0
    zoom_crop: tuple[float, float] = (1.0, 1.0)
    lighting: float = 0.0
    lighting_p: float = 0.75
    tiles: float = 0.0
    mixup: float = 0.0
    """Alpha of mixup, which a training step applies, since losses are blended too."""
    crop_px: int = 0
    """Edge of the squares cut from larger fields; 0 cuts nothing."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """Return the augmentation of a recipe."""
        return cls(**recipe.augment.model_dump(), crop_px=recipe.image.size if recipe.image.field_size else 0)

    def __call__(self, images: Tensor, *, generator: torch.Generator, processes: Processes = SINGLE) -> Tensor:
        """Return uint8 ``(n, channels, size, size)``; ``images`` are this process's shard of the batch."""
        if self.crop_px and self.crop_px < images.shape[-1]:
            images = random_crops(images, size=self.crop_px, generator=generator, processes=processes)
        images = random_dihedral(images, flips=self.flips, turns=self.turns, generator=generator, processes=processes)
        if self.rotate_degrees or self.warp or self.zoom > 1 or self.zoom_crop != (1.0, 1.0):
            images = resampled(images, processes.shard(self._matrices(processes.world_size * len(images), generator)))
        if self.lighting:
            images = random_light(
                images, most=self.lighting, p=self.lighting_p, generator=generator, processes=processes
            )
        if self.tiles:
            images = random_tiles(images, p=self.tiles, generator=generator, processes=processes)
        return images

    def _matrices(self, count: int, generator: torch.Generator) -> Tensor:
        """Return rotation, tilt and both zooms of each image as one matrix, so that pixels are read only once."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator)

        def happens() -> Tensor:
            return (torch.rand(count, generator=generator) < self.affine_p).float()

        turn = rotations(happens() * uniform(-self.rotate_degrees, self.rotate_degrees))
        tilt = tilts(happens()[:, None] * uniform(-self.warp / 2, self.warp / 2, 2))
        near = zooms(1 + happens() * uniform(0.0, self.zoom - 1), uniform(-1.0, 1.0, 2))
        crop = zooms(uniform(*self.zoom_crop), uniform(-1.0, 1.0, 2))
        return turn @ tilt @ near @ crop


def random_dihedral(
    images: Tensor, *, flips: bool, turns: bool, generator: torch.Generator, processes: Processes = SINGLE
) -> Tensor:
    """Return images, each mirrored (``flips``) and turned by a multiple of 90 degrees (``turns``) at random."""
    count = processes.world_size * len(images)
    flip = torch.randint(0, 2 if flips else 1, (count,), generator=generator)
    turn = torch.randint(0, 4 if turns else 1, (count,), generator=generator)
    view = processes.shard(4 * flip + turn)
    augmented = torch.empty_like(images)
    for number in set(view.tolist()):
        # Indices, not a mask: the GPU would have to report to the host how many images a mask selects.
        chosen = (view == number).nonzero()[:, 0].to(images.device, non_blocking=True)
        augmented[chosen] = dihedral(images[chosen], number)
    return augmented


def random_crops(images: Tensor, *, size: int, generator: torch.Generator, processes: Processes = SINGLE) -> Tensor:
    """Return a square of ``size`` pixels of each image; all positions are equally likely."""
    positions = images.shape[-1] - size + 1
    drawn = torch.randint(0, positions, (2, processes.world_size * len(images)), generator=generator)
    tops, lefts = processes.shard(drawn, dim=1)
    return crops(images, tops, lefts, size=size)


def random_tiles(images: Tensor, *, p: float, generator: torch.Generator, processes: Processes = SINGLE) -> Tensor:
    """Return images, each with probability ``p`` cut in 3 x 3 tiles, which are shuffled, flipped and turned."""
    happens = torch.rand(processes.world_size * len(images), generator=generator) < p
    chosen = int(happens.sum())
    orders = torch.rand(chosen, 9, generator=generator).argsort(dim=1)
    views = torch.randint(0, 8, (chosen, 9), generator=generator)
    local = happens.nonzero()[:, 0] - processes.rank * len(images)
    here = (local >= 0) & (local < len(images))
    rows = local[here].to(images.device, non_blocking=True)
    changed = images.clone()
    changed[rows] = tiled(images[rows], orders[here], views[here])
    return changed


def random_light(
    images: Tensor, *, most: float, p: float, generator: torch.Generator, processes: Processes = SINGLE
) -> Tensor:
    """Return images with brightness and contrast changed, each with probability ``p``, by up to about ``most``."""
    count = processes.world_size * len(images)
    change, scale = processes.shard(torch.rand(2, count, generator=generator), dim=1)
    brighten, sharpen = processes.shard(torch.rand(2, count, generator=generator), dim=1) < p
    brightness = torch.where(brighten, 0.5 + most * (change - 0.5), 0.5)
    # Twice the contrast is as likely as half of it.
    contrast = torch.where(sharpen, torch.exp(math.log(1 - most) * (2 * scale - 1)), 1.0)
    return lit(images, brightness, contrast)


def mixup_weight(alpha: float, *, generator: torch.Generator) -> float:
    """Return the weight of the first image in a blend (Zhang et al. 2018): beta-distributed, at least 0.5."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    weight = float(np.random.default_rng(seed).beta(alpha, alpha))
    return max(weight, 1 - weight)


def crops(images: Tensor, tops: Tensor, lefts: Tensor, *, size: int) -> Tensor:
    """Return a square of each image, ``(n, channels, size, size)``, from its first row and column on."""
    corners = zip(tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack(
        [image[:, top : top + size, left : left + size] for image, (top, left) in zip(images, corners, strict=True)]
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
        factors: Above 1 enlarges; below 1 shows what lies beyond the border.
        centers: ``(n, 2)`` from -1 to 1: which part of the image stays visible, from left or top to right or bottom.
    """
    matrices = torch.eye(3).repeat(len(factors), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1 / factors
    matrices[:, :2, 2] = centers * (1 - 1 / factors)[:, None].abs()
    return matrices


def tilts(amounts: Tensor) -> Tensor:
    """Return the matrices ``(n, 3, 3)`` of :func:`resampled` that tilt images.

    ``amounts``, ``(n, 2)`` below 1, say by which share the right and the lower edge are enlarged; the others shrink.
    """
    matrices = torch.eye(3).repeat(len(amounts), 1, 1)
    matrices[:, 2, :2] = amounts
    return matrices


def resampled(images: Tensor, matrices: Tensor) -> Tensor:
    """Return uint8 images whose points are read where a matrix maps them: bilinear, mirrored at the border.

    Args:
        images: uint8 ``(n, channels, h, w)``.
        matrices: ``(n, 3, 3)``, from a point of the new image to one of the old image, in homogeneous coordinates that
            go from -1 to 1 (x to the right, y down).
    """
    count, channels, height, width = images.shape
    # In half precision, positions would be rounded to whole pixels.
    with torch.autocast(images.device.type, enabled=False):
        matrices = matrices.to(images.device, non_blocking=True)
        plain = torch.eye(3, device=images.device).repeat(count, 1, 1)[:, :2]
        grid = functional.affine_grid(plain, [count, channels, height, width], align_corners=False)
        points = torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1) @ matrices.transpose(1, 2)[:, None]
        positions = points[..., :2] / points[..., 2:]
        seen = functional.grid_sample(images.float(), positions, padding_mode="reflection", align_corners=False)
        return seen.round_().clamp_(0, 255).to(torch.uint8)


def tiled(images: Tensor, orders: Tensor, views: Tensor, *, edge: int = 3) -> Tensor:
    """Return images cut in ``edge`` x ``edge`` tiles that change places and are flipped and turned.

    Pixels that fill no tile stay at the right and lower border.

    Args:
        images: ``(n, channels, size, size)``.
        orders: ``(n, edge²)``: for each place, row by row, the place that its tile comes from.
        views: ``(n, edge²)``: for each place the dihedral view of its tile.
        edge: Tiles in a row.
    """
    side = images.shape[-1] // edge

    def tile(place: int) -> tuple[slice, slice, slice]:
        row, column = divmod(place, edge)
        return slice(None), slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)

    changed = images.clone()
    for image, new, order, view in zip(images, changed, orders.tolist(), views.tolist(), strict=True):
        for place, (source, number) in enumerate(zip(order, view, strict=True)):
            new[tile(place)] = dihedral(image[tile(source)], number)
    return changed


def lit(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Return uint8 images with other brightness and contrast, changed as in fastai: on the logits of the pixels.

    Black stays black and white stays white; a pixel of 0.5 becomes ``brightness``.

    Args:
        images: uint8 ``(n, channels, h, w)``.
        brightness: For each image, between 0 and 1; 0.5 changes nothing.
        contrast: For each image, above 0; 1 changes nothing.
    """
    values = torch.arange(256) / 255
    moved = torch.logit(values, eps=1e-7) * contrast[:, None] + torch.logit(brightness)[:, None]
    table = (255 * torch.sigmoid(moved)).round().to(torch.uint8)
    table[:, 0], table[:, 255] = 0, 255
    table = table.to(images.device, non_blocking=True)
    return torch.stack([row[image.long()] for row, image in zip(table, images, strict=True)])


def area_resized(images: Tensor, size: int) -> Tensor:
    """Return images at a smaller ``size``, each pixel the mean of those that it covers; uint8 stays uint8."""
    if images.shape[-1] == size:
        return images
    smaller = functional.interpolate(images.float(), size=(size, size), mode="area")
    return smaller.round_().to(torch.uint8) if images.dtype == torch.uint8 else smaller
