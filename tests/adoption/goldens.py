"""Weights and images that anyone can make again: both are drawn from names and numbers."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return the weights of a tensor, drawn from its name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    value = torch.from_numpy(np.asarray(values, np.float32))
    last = name.rpartition(".")[2]
    if last == "running_var":
        return 1 + 0.1 * value.abs()
    if last in ("running_mean", "bias"):
        return 0.1 * value
    if last in ("cls_token", "pos_embed", "position_embeddings"):
        return 0.5 * value
    return 1 + 0.1 * value if len(shape) == 1 else value * 1.5 / math.sqrt(math.prod(shape[1:]))


def drawn_state(wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for the tensors of a network; counters stay as they are."""
    return {
        name: drawn(name, tuple(value.shape)) if value.is_floating_point() else value for name, value in wanted.items()
    }


def waves(count: int, channels: int, size: int) -> NDArray[np.uint8]:
    """Return images of waves, uint8 of shape ``(count, channels, size, size)``."""
    y, x = np.mgrid[:size, :size]
    angle = [
        [2 * np.pi * ((n + 2) * x / size + (c + 1) * y / size) + n + c for c in range(channels)] for n in range(count)
    ]
    return np.round(127.5 + 127.5 * np.sin(np.array(angle))).astype(np.uint8)
