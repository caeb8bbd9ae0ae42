"""How a network is composed: raw pixels → normalization → backbone (feature map) → head (a logit per location)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from cytoloc.choices import HeadName, NewPlanes
from cytoloc.models.backbones import create_backbone, feature_channels, shaped
from cytoloc.models.heads import AttentionHead, AverageMaxHead, MultiStageHead, PlainHead
from cytoloc.models.weights import initial_weights

HEADS: Final = {"plain": PlainHead, "average-max": AverageMaxHead, "attention": AttentionHead}
"""Heads that take the last feature map; ``multi-stage`` takes those of several stages."""

FLAT: Final = 1.0
"""Gray values (of 255) that count as the least spread of a channel of one image, so that a black one stays black."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What a network is, apart from its weights.

    Attributes:
        backbone: A timm name.
        head: Which head.
        dropout: Of the head.
        prior: Probability that the untrained head gives every location on average.
        locations: Number of locations.
        channels: Names of the channels that it sees, in the order of its input planes.
        mean: Mean of each channel, after division by 255.
        std: Standard deviation of each channel, likewise.
        each: Whether each image is normalized by its own mean and standard deviation instead.
        size: Edge of the images that it sees in training, in pixels.
        other_sizes: Edges of other images that it sees as well.
    """

    backbone: str
    head: HeadName
    dropout: float
    prior: float
    locations: int
    channels: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    each: bool
    size: int
    other_sizes: tuple[int, ...] = ()


class Normalize(nn.Module):
    """Turns uint8 pixels into floats of mean 0 and spread 1 per channel, at the network's door."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 of the same shape as ``pixels``, uint8 ``(n, channels, h, w)``."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


class NormalizeEach(Normalize):
    """Does so by each image's own mean and spread, so that its exposure does not matter (third place of 2018)."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return float32 of the same shape as ``pixels``, uint8 ``(n, channels, h, w)``."""
        values = pixels.to(self.mean.dtype)
        spread, mean = torch.std_mean(values, dim=(2, 3), keepdim=True, correction=0)
        return (values - mean) / spread.clamp(min=FLAT)


class Network(nn.Module):
    """From uint8 fields ``(n, channels, h, w)`` to logits ``(n, locations)``."""

    def __init__(self, normalize: Normalize, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.backbone = backbone
        self.head = head

    def features(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Return the feature map of each field; with a multi-stage head a list of maps, the last one last."""
        features: Tensor | list[Tensor] = self.backbone(
            self.normalize(pixels).contiguous(memory_format=torch.channels_last)
        )
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of each field."""
        logits: Tensor = self.head(self.features(pixels))
        return logits


def features_and_logits(
    network: Network, pixels: Tensor, *, see: Callable[[Network, Tensor], Tensor | list[Tensor]] = Network.features
) -> tuple[Tensor | list[Tensor], Tensor]:
    """Return the feature map of each field, or maps of several stages, and its logits; both float32.

    In mixed precision the backbone alone computes with half as many bits: sums over whole maps, and what the losses
    take, keep all of theirs.
    """
    features = see(network, pixels)
    with torch.autocast(pixels.device.type, enabled=False):
        features = [one.float() for one in features] if isinstance(features, list) else features.float()
        return features, network.head(features)


def field_logits(network: Network, pixels: Tensor) -> Tensor:
    """Return the logits of fields, float32; see :func:`features_and_logits`."""
    return features_and_logits(network, pixels)[1]


def build_network(spec: ModelSpec, *, weights: str = "none", new_planes: NewPlanes = "red") -> Network:
    """Return a network, its backbone with the weights asked for and its head at random.

    Args:
        spec: What the network is.
        weights: ``package:NAME``, ``timm``, ``file:PATH`` or ``none``; see :mod:`cytoloc.models.weights`.
        new_planes: How the input planes of channels that no weights are known for begin.

    Raises:
        RecipeError: If timm has no such backbone, or it cannot take images of these sizes.
        WeightsError: If the weights cannot be had.
    """
    channels, stages = len(spec.channels), spec.head == "multi-stage"
    features = feature_channels(
        spec.backbone, in_channels=channels, sizes=(spec.size, *spec.other_sizes), stages=stages
    )
    body = create_backbone(spec.backbone, in_channels=channels)
    state = initial_weights(spec.backbone, weights, channels=spec.channels, new_planes=new_planes)
    if state is not None:
        body.load_state_dict(state)
    top: nn.Module
    if stages:
        top = MultiStageHead(features, spec.locations, dropout=spec.dropout, prior=spec.prior)
    else:
        top = HEADS[spec.head](features[-1], spec.locations, dropout=spec.dropout, prior=spec.prior)
    normalize = NormalizeEach(spec.mean, spec.std) if spec.each else Normalize(spec.mean, spec.std)
    network = Network(normalize, shaped(body, spec.backbone, stages=stages), top)
    return network.to(memory_format=torch.channels_last)
