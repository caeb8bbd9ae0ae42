"""What is done to training images, on whole batches of uint8 pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cytoloc.predict.tta import dihedral
from cytoloc.training.geometry import crops, resampled, rotations, tiled, tilts, zooms
from cytoloc.training.together import ALONE, Share


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Changes a batch at random; the keys are those of :class:`cytoloc.recipe_sections.AugmentSection`.

    What is not asked for draws no random number, so that a recipe without it goes on as if it did not exist. Of several
    processes each draws for the whole batch, and takes its share.
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
    crop_px: int = 0
    """Edge of the squares cut from larger fields; 0 cuts nothing."""

    def __call__(self, fields: Tensor, *, generator: torch.Generator, share: Share = ALONE) -> Tensor:
        """Return uint8 ``(n, channels, size, size)``; ``fields`` are this process's share of the batch."""
        if self.crop_px and self.crop_px < fields.shape[-1]:
            fields = random_crops(fields, size=self.crop_px, generator=generator, share=share)
        fields = random_dihedral(fields, flips=self.flips, turns=self.turns, generator=generator, share=share)
        if self.rotate_degrees or self.warp or self.zoom > 1 or self.zoom_crop != (1.0, 1.0):
            fields = resampled(fields, share.own(self._matrices(share.of * len(fields), generator)))
        if self.lighting:
            fields = random_light(fields, most=self.lighting, chance=self.lighting_p, generator=generator, share=share)
        if self.tiles:
            fields = random_tiles(fields, chance=self.tiles, generator=generator, share=share)
        return fields

    def _matrices(self, count: int, generator: torch.Generator) -> Tensor:
        """Return for each image rotation, tilt and both zooms as one matrix, so that pixels are read only once."""

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
    fields: Tensor, *, flips: bool, turns: bool, generator: torch.Generator, share: Share = ALONE
) -> Tensor:
    """Return ``fields``, ``(n, channels, size, size)``, each flipped and turned at random, all allowed ways alike.

    Args:
        fields: The batch.
        flips: Whether half of the fields are mirrored.
        turns: Whether fields are turned by a multiple of 90 degrees.
        generator: Source of randomness, on the CPU.
        share: Of the batch, that ``fields`` are.
    """
    count = share.of * len(fields)
    flip = torch.randint(0, 2 if flips else 1, (count,), generator=generator)
    turn = torch.randint(0, 4 if turns else 1, (count,), generator=generator)
    view = share.own(4 * flip + turn)
    augmented = torch.empty_like(fields)
    for number in set(view.tolist()):
        chosen = (view == number).to(fields.device)
        augmented[chosen] = dihedral(fields[chosen], number)
    return augmented


def random_crops(fields: Tensor, *, size: int, generator: torch.Generator, share: Share = ALONE) -> Tensor:
    """Return a square of ``size`` pixels of each field, all places alike."""
    room = fields.shape[-1] - size + 1
    tops, lefts = share.own(torch.randint(0, room, (2, share.of * len(fields)), generator=generator), dim=1)
    return crops(fields, tops, lefts, size=size)


def random_tiles(fields: Tensor, *, chance: float, generator: torch.Generator, share: Share = ALONE) -> Tensor:
    """Return ``fields``, each with the given chance cut in 3 x 3 tiles, shuffled, flipped and turned."""
    happens = torch.rand(share.of * len(fields), generator=generator) < chance
    chosen = int(happens.sum())
    orders = torch.rand(chosen, 9, generator=generator).argsort(dim=1)
    views = torch.randint(0, 8, (chosen, 9), generator=generator)
    own = happens.nonzero()[:, 0] - share.rank * len(fields)
    here = (own >= 0) & (own < len(fields))
    places, orders, views = own[here].to(fields.device), orders[here], views[here]
    changed = fields.clone()
    changed[places] = tiled(fields[places], orders, views)
    return changed


def random_light(
    fields: Tensor, *, most: float, chance: float, generator: torch.Generator, share: Share = ALONE
) -> Tensor:
    """Return ``fields`` with brightness and contrast changed, each with the given chance, by up to about ``most``."""
    count = share.of * len(fields)
    change, scale = share.own(torch.rand(2, count, generator=generator), dim=1)
    brighten, sharpen = share.own(torch.rand(2, count, generator=generator), dim=1) < chance
    brightness = torch.where(brighten, 0.5 + most * (change - 0.5), 0.5)
    # Twice the contrast is as likely as half of it.
    contrast = torch.where(sharpen, torch.exp(math.log(1 - most) * (2 * scale - 1)), 1.0)
    return lit(fields, brightness, contrast)


def lit(fields: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Return uint8 images with other brightness and contrast, as fastai changes them: on the pixels' logits.

    Black stays black and white white; between them a pixel of .5 moves to ``brightness``.

    Args:
        fields: uint8 ``(n, channels, h, w)``.
        brightness: For each image, between 0 and 1; .5 changes nothing.
        contrast: For each image, above 0; 1 changes nothing.
    """
    values = torch.arange(256) / 255
    moved = torch.logit(values, eps=1e-7) * contrast[:, None] + torch.logit(brightness)[:, None]
    table = (255 * torch.sigmoid(moved)).round().to(torch.uint8)
    table[:, 0], table[:, 255] = 0, 255
    table = table.to(fields.device)
    return torch.stack([row[field.long()] for row, field in zip(table, fields, strict=True)])


def mixup_share(alpha: float, *, generator: torch.Generator) -> float:
    """Return the share of the first image in a blend (Zhang et al. 2018): beta-distributed, at least a half."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    return max(share, 1 - share)
