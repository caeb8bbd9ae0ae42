"""How a network is composed: raw pixels → normalisation → backbone (feature map) → head (28 logits)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from cytoloc.errors import RecipeError
from cytoloc.labels import CHANNELS, N_LOCATIONS
from cytoloc.models.heads import AverageMaxHead, PlainHead
from cytoloc.models.weights import initial_weights

HeadName = Literal["plain", "average-max"]


class Normalise(nn.Module):
    """Turns uint8 pixels into floats of mean 0 and spread 1 per channel, at the network's door."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 of the same shape as ``pixels``, uint8 ``(n, 4, h, w)``."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


class Network(nn.Module):
    """From uint8 fields ``(n, 4, h, w)`` to logits ``(n, 28)``."""

    def __init__(self, normalise: Normalise, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.normalise = normalise
        self.backbone = backbone
        self.head = head

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of each field."""
        features = self.backbone(self.normalise(pixels).contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(features)
        return logits


def build_network(
    backbone: str,
    *,
    weights: str,
    head: HeadName,
    dropout: float,
    prior: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Network:
    """Return a network, its backbone with the weights asked for and its head at random.

    Args:
        backbone: A timm name.
        weights: ``package:NAME``, ``timm``, ``file:PATH`` or ``none``; see :mod:`cytoloc.models.weights`.
        head: Which head.
        dropout: Of the head.
        prior: Probability that the untrained head gives every location on average.
        mean: Of each channel, after division by 255.
        std: Spread of each channel, likewise.

    Raises:
        RecipeError: If timm has no such backbone.
        WeightsError: If the weights cannot be had.
    """
    if not timm.is_model(backbone):
        near = ", ".join(difflib.get_close_matches(backbone, timm.list_models(), n=3))
        raise RecipeError(
            f"There is no backbone {backbone!r}.",
            way_out=f"Choose a timm name{f', e.g. {near}' if near else ''}.",
        )
    body: Any = timm.create_model(backbone, pretrained=False, in_chans=len(CHANNELS), num_classes=0, global_pool="")
    state = initial_weights(backbone, weights, in_channels=len(CHANNELS))
    if state is not None:
        body.load_state_dict(state)
    features = _features_of(body, backbone)
    kind = PlainHead if head == "plain" else AverageMaxHead
    top = kind(features, N_LOCATIONS, dropout=dropout, prior=prior)
    network = Network(Normalise(mean, std), body, top)
    return network.to(memory_format=torch.channels_last)


def _features_of(body: nn.Module, backbone: str) -> int:
    """Return how many channels the backbone's feature map has, by looking at one."""
    try:
        with torch.inference_mode():
            feature_map = body.eval()(torch.zeros(1, len(CHANNELS), 64, 64))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RecipeError(
            f"The backbone {backbone} does not take pictures of any size: {str(error).splitlines()[0]}",
            way_out="Choose a convolutional network.",
        ) from error
    finally:
        body.train()
    if feature_map.ndim != 4:
        raise RecipeError(f"The backbone {backbone} gives no feature map.", way_out="Choose a convolutional network.")
    return int(feature_map.shape[1])
