"""Augmentation of training images, on whole batches of uint8 images."""

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
    """Random changes of a batch; for the attributes see :class:`cytoloc.recipes.sections.AugmentSection`.

    Disabled augmentations consume no random numbers. Each of several processes draws random numbers for the whole batch
    and uses its part of them.
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
    gamma: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    optics_p: float = 0.5
    tiles: float = 0.0
    mixup: float = 0.0
    """Alpha of mixup. The training step applies mixup, because losses are blended too."""
    crop_px: int = 0
    """Edge length of random crops from larger fields, in pixels; 0: no crops."""

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """Return the augmentation of a recipe."""
        return cls(**recipe.augment.model_dump(), crop_px=recipe.image.size if recipe.image.field_size else 0)

    def __call__(self, images: Tensor, *, generator: torch.Generator, processes: Processes = SINGLE) -> Tensor:
        """Augment a batch.

        Args:
            images: This process's part of the batch, uint8 of shape ``(n, channels, size, size)``.
            generator: Random generator on the CPU.
            processes: The processes that share the batch.

        Returns:
            The changed images, uint8.
        """
        if self.crop_px and self.crop_px < images.shape[-1]:
            images = random_crops(images, size=self.crop_px, generator=generator, processes=processes)
        images = random_dihedral(images, flips=self.flips, turns=self.turns, generator=generator, processes=processes)
        if self.rotate_degrees or self.warp or self.zoom > 1 or self.zoom_crop != (1.0, 1.0):
            images = resampled(images, processes.shard(self._matrices(processes.world_size * len(images), generator)))
        if self.lighting:
            images = random_light(
                images, most=self.lighting, p=self.lighting_p, generator=generator, processes=processes
            )
        if self.gamma or self.blur or self.noise:
            images = self._optics(images, generator, processes)
        if self.tiles:
            images = random_tiles(images, p=self.tiles, generator=generator, processes=processes)
        return images

    def _matrices(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the rotation, warp and both zooms of each image as one matrix, so that pixels are resampled once."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=generator)

        def happens() -> Tensor:
            return (torch.rand(count, generator=generator) < self.affine_p).float()

        turn = rotations(happens() * uniform(-self.rotate_degrees, self.rotate_degrees))
        tilt = tilts(happens()[:, None] * uniform(-self.warp / 2, self.warp / 2, 2))
        near = zooms(1 + happens() * uniform(0.0, self.zoom - 1), uniform(-1.0, 1.0, 2))
        crop = zooms(uniform(*self.zoom_crop), uniform(-1.0, 1.0, 2))
        return turn @ tilt @ near @ crop

    def _optics(self, images: Tensor, generator: torch.Generator, processes: Processes) -> Tensor:
        """Return images with a random gamma, blur and noise in each channel, as other stains and microscopes give."""
        shape = (3, processes.world_size * len(images), images.shape[1])
        drawn = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < self.optics_p)
        bent, wide, rough = processes.shard(drawn, dim=1)
        # A value that is not drawn is zero, and changes nothing; gammas are as often below 1 as above.
        signs = 2 * processes.shard(torch.randint(0, 2, shape[1:], generator=generator)) - 1
        if self.gamma:
            images = gamma_changed(images, torch.exp(self.gamma * bent * signs))
        if self.blur:
            images = blurred(images, self.blur * wide)
        if self.noise:
            seeds = processes.shard(torch.randint(2**31, (shape[1],), generator=generator))
            images = noisy(images, self.noise * rough, seeds=seeds)
        return images


def random_dihedral(
    images: Tensor, *, flips: bool, turns: bool, generator: torch.Generator, processes: Processes = SINGLE
) -> Tensor:
    """Return images, each randomly mirrored (``flips``) and rotated by a multiple of 90 degrees (``turns``)."""
    count = processes.world_size * len(images)
    flip = torch.randint(0, 2 if flips else 1, (count,), generator=generator)
    turn = torch.randint(0, 4 if turns else 1, (count,), generator=generator)
    view = processes.shard(4 * flip + turn)
    augmented = torch.empty_like(images)
    for number in set(view.tolist()):
        # Indices instead of a mask, because a mask would make the GPU wait to report the number of images.
        chosen = (view == number).nonzero()[:, 0].to(images.device, non_blocking=True)
        augmented[chosen] = dihedral(images[chosen], number)
    return augmented


def random_crops(images: Tensor, *, size: int, generator: torch.Generator, processes: Processes = SINGLE) -> Tensor:
    """Return a random crop of ``size`` pixels from each image; all positions are equally likely."""
    positions = images.shape[-1] - size + 1
    drawn = torch.randint(0, positions, (2, processes.world_size * len(images)), generator=generator)
    tops, lefts = processes.shard(drawn, dim=1)
    return crops(images, tops, lefts, size=size)


def random_tiles(images: Tensor, *, p: float, generator: torch.Generator, processes: Processes = SINGLE) -> Tensor:
    """Return images, each with probability ``p`` divided into 3 x 3 tiles that are shuffled, flipped and rotated."""
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
    """Return images with random changes of brightness and contrast.

    Args:
        images: uint8 of shape ``(n, channels, h, w)``.
        most: Maximum relative change.
        p: Probability of a change of brightness, and of a change of contrast.
        generator: Random generator on the CPU.
        processes: The processes that share the batch.

    Returns:
        The changed images, uint8.
    """
    count = processes.world_size * len(images)
    change, scale = processes.shard(torch.rand(2, count, generator=generator), dim=1)
    brighten, sharpen = processes.shard(torch.rand(2, count, generator=generator), dim=1) < p
    brightness = torch.where(brighten, 0.5 + most * (change - 0.5), 0.5)
    # Twice the contrast is as likely as half the contrast.
    contrast = torch.where(sharpen, torch.exp(math.log(1 - most) * (2 * scale - 1)), 1.0)
    return lit(images, brightness, contrast)


def mixup_weight(alpha: float, *, generator: torch.Generator) -> float:
    """Return the weight of the first image in a mixup blend (Zhang et al. 2018): beta-distributed, at least 0.5."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    weight = float(np.random.default_rng(seed).beta(alpha, alpha))
    return max(weight, 1 - weight)


def crops(images: Tensor, tops: Tensor, lefts: Tensor, *, size: int) -> Tensor:
    """Return a crop of each image, given its first row and column.

    Args:
        images: Shape ``(n, channels, h, w)``.
        tops: First row of each crop, shape ``(n,)``.
        lefts: First column of each crop, shape ``(n,)``.
        size: Edge length of the crops, in pixels.

    Returns:
        Shape ``(n, channels, size, size)``.
    """
    corners = zip(tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack(
        [image[:, top : top + size, left : left + size] for image, (top, left) in zip(images, corners, strict=True)]
    )


def rotations(degrees: Tensor) -> Tensor:
    """Return matrices for :func:`resampled` that rotate images counterclockwise, shape ``(n, 3, 3)``."""
    angle = degrees * (math.pi / 180)
    matrices = torch.eye(3).repeat(len(degrees), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 0, 1] = -angle.sin()
    matrices[:, 1, 0] = angle.sin()
    return matrices


def zooms(factors: Tensor, centers: Tensor) -> Tensor:
    """Return matrices for :func:`resampled` that magnify images.

    Args:
        factors: Magnification of each image, shape ``(n,)``. Below 1, areas beyond the border become visible.
        centers: The part of each image that stays visible, shape ``(n, 2)``: from -1 (left or top) to 1 (right or
            bottom).

    Returns:
        Shape ``(n, 3, 3)``.
    """
    matrices = torch.eye(3).repeat(len(factors), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1 / factors
    matrices[:, :2, 2] = centers * (1 - 1 / factors)[:, None].abs()
    return matrices


def tilts(amounts: Tensor) -> Tensor:
    """Return matrices for :func:`resampled` that apply a perspective warp.

    Args:
        amounts: The shares by which the right and the lower edge are enlarged, below 1, shape ``(n, 2)``. The opposite
            edges shrink.

    Returns:
        Shape ``(n, 3, 3)``.
    """
    matrices = torch.eye(3).repeat(len(amounts), 1, 1)
    matrices[:, 2, :2] = amounts
    return matrices


def resampled(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample images bilinearly with a projective transform; borders are filled by reflection.

    Args:
        images: uint8 of shape ``(n, channels, h, w)``.
        matrices: For each image the transform from a point in the new image to a point in the old image, shape
            ``(n, 3, 3)``, in homogeneous coordinates from -1 to 1 (x to the right, y down).

    Returns:
        The new images, uint8.
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
    """Divide images into tiles that change places and are flipped and rotated.

    Pixels at the right and lower border that fill no tile are not changed.

    Args:
        images: Shape ``(n, channels, size, size)``.
        orders: For each place, row by row, the place that its tile comes from, shape ``(n, edge²)``.
        views: For each place, the dihedral view of its tile, shape ``(n, edge²)``.
        edge: Number of tiles per row.

    Returns:
        The new images.
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
    """Change the brightness and contrast of images as fastai does, on the logits of the pixels.

    Black and white do not change. A pixel of 0.5 becomes ``brightness``.

    Args:
        images: uint8 of shape ``(n, channels, h, w)``.
        brightness: For each image a value between 0 and 1; 0.5 changes nothing.
        contrast: For each image a value above 0; 1 changes nothing.

    Returns:
        The new images, uint8.
    """
    values = torch.arange(256) / 255
    moved = torch.logit(values, eps=1e-7) * contrast[:, None] + torch.logit(brightness)[:, None]
    table = (255 * torch.sigmoid(moved)).round().to(torch.uint8)
    table[:, 0], table[:, 255] = 0, 255
    table = table.to(images.device, non_blocking=True)
    return torch.stack([row[image.long()] for row, image in zip(table, images, strict=True)])


def gamma_changed(images: Tensor, gamma: Tensor) -> Tensor:
    """Return images whose channels are raised to a power, between black and white.

    Args:
        images: uint8 of shape ``(n, channels, h, w)``.
        gamma: The exponent of each channel, above 0, shape ``(n, channels)``. Below 1, dark pixels become brighter.

    Returns:
        The new images, uint8.
    """
    table = (255 * (torch.arange(256) / 255) ** gamma[..., None]).round().to(torch.uint8)
    table = table.to(images.device, non_blocking=True)
    return table.gather(2, images.flatten(2).long()).view_as(images)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Return images with a Gaussian blur; borders are filled by reflection.

    Args:
        images: uint8 of shape ``(n, channels, h, w)``.
        sigma: Standard deviation for each channel in pixels, shape ``(n, channels)``; 0 changes nothing.

    Returns:
        The new images, uint8.
    """
    reach = min(math.ceil(3 * float(sigma.max())), min(images.shape[-2:]) - 1)
    if reach == 0:
        return images
    distance = torch.arange(-reach, reach + 1)
    relative = distance / sigma.reshape(-1, 1).clamp_min(1e-3)
    # Each channel is blurred in the same way whatever the others in the batch are.
    weights = torch.where(relative.abs() <= 3, torch.exp(-0.5 * relative**2), 0)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(images.device, non_blocking=True)[:, None]
    with torch.autocast(images.device.type, enabled=False):
        planes = functional.pad(images.float().flatten(0, 1)[None], [reach] * 4, mode="reflect")
        planes = functional.conv2d(planes, weights[..., None], groups=len(weights))
        planes = functional.conv2d(planes, weights[:, :, None], groups=len(weights))
        return planes.view(images.shape).round_().clamp_(0, 255).to(torch.uint8)


def noisy(images: Tensor, sigma: Tensor, *, seeds: Tensor) -> Tensor:
    """Return images with independent Gaussian noise in each pixel.

    Args:
        images: uint8 of shape ``(n, channels, h, w)``.
        sigma: Standard deviation for each channel in gray levels, shape ``(n, channels)``; 0 changes nothing.
        seeds: Random seed of each image, shape ``(n,)``.

    Returns:
        The new images, uint8.
    """
    generator = torch.Generator(images.device)
    noise = torch.stack(
        [
            torch.randn(images.shape[1:], generator=generator.manual_seed(seed), device=images.device)
            for seed in seeds.tolist()
        ]
    )
    noise *= sigma[..., None, None].to(images.device, non_blocking=True)
    return noise.add_(images).round_().clamp_(0, 255).to(torch.uint8)


def area_resized(images: Tensor, size: int) -> Tensor:
    """Return images scaled down by averaging areas; uint8 images stay uint8."""
    if images.shape[-1] == size:
        return images
    smaller = functional.interpolate(images.float(), size=(size, size), mode="area")
    return smaller.round_().to(torch.uint8) if images.dtype == torch.uint8 else smaller
