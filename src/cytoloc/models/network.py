"""Networks: from raw pixels through normalization, backbone (feature map) and head to one logit per location."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.choices import BackboneVariant, HeadName, NewPlanes
from cytoloc.errors import SettingsError, WeightsError
from cytoloc.models.backbones import create_backbone, feature_channels, shaped
from cytoloc.models.heads import AttentionHead, AverageMaxHead, MultiStageHead, PlainHead
from cytoloc.models.morphem import ONE_CHANNEL, ChannelBag
from cytoloc.models.variants import varied
from cytoloc.models.weights import initial_weights

HEADS: Final = {"plain": PlainHead, "average-max": AverageMaxHead, "attention": AttentionHead}
"""Heads for the last feature map. ``multi-stage`` takes the feature maps of several stages."""

FLAT: Final = 1.0
"""Minimum standard deviation (of 255) of a channel that is normalized by itself, so that a black image stays black."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The specification of a network, without its weights.

    Attributes:
        backbone: The timm name.
        head: The kind of head.
        dropout: Dropout of the head.
        prior: Initial mean probability of every location.
        locations: Number of locations.
        channels: The names of the channels, in the order of the input planes.
        mean: Mean of each channel, after division by 255.
        std: Standard deviation of each channel, after division by 255.
        each: Whether each image is normalized by its own mean and standard deviation instead.
        size: Edge length of training images, in pixels.
        other_sizes: Edge lengths of other images that the network must accept.
        units: Number of hidden units of an ``average-max`` or ``multi-stage`` head.
        variant: The change to the backbone; see :func:`cytoloc.models.variants.varied`.
        enlarged_px: Edge length that images are enlarged to before the backbone, in pixels. None: not enlarged.
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
    units: int = 512
    variant: BackboneVariant = "plain"
    enlarged_px: int | None = None


class Normalize(nn.Module):
    """Normalize uint8 pixels to floats by a given mean and standard deviation per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return normalized pixels, float32 of the shape of ``pixels``, which are uint8 ``(n, channels, h, w)``."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


class NormalizeEach(Normalize):
    """Normalize each image by its own mean and standard deviation, which removes exposure (third place of 2018)."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return normalized pixels, float32 of the shape of ``pixels``, which are uint8 ``(n, channels, h, w)``."""
        values = pixels.to(self.mean.dtype)
        spread, mean = torch.std_mean(values, dim=(2, 3), keepdim=True, correction=0)
        return (values - mean) / spread.clamp(min=FLAT)


class Network(nn.Module):
    """A network from uint8 fields of shape ``(n, channels, h, w)`` to logits of shape ``(n, locations)``.

    Attributes:
        enlarged_px: Edge length that images are enlarged to before the backbone, in pixels. None: not enlarged.
    """

    def __init__(self, normalize: Normalize, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.enlarged_px: int | None = None
        self.normalize = normalize
        self.backbone = backbone
        self.head = head

    def features(self, pixels: Tensor) -> Tensor | list[Tensor]:
        """Return the feature map of each field; for a multi-stage head, a list of maps, the coarsest last."""
        seen = self.normalize(pixels)
        if self.enlarged_px is not None:
            edges = (self.enlarged_px, self.enlarged_px)
            seen = nn.functional.interpolate(seen, size=edges, mode="bilinear", align_corners=False)
        features: Tensor | list[Tensor] = self.backbone(seen.contiguous(memory_format=torch.channels_last))
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of fields."""
        logits: Tensor = self.head(self.features(pixels))
        return logits


def features_and_logits(
    network: Network, pixels: Tensor, *, see: Callable[[Network, Tensor], Tensor | list[Tensor]] = Network.features
) -> tuple[Tensor | list[Tensor], Tensor]:
    """Return the feature maps and logits of fields, as float32.

    In mixed precision, only the backbone computes with 16 bits. Sums over maps and the inputs of losses are float32.

    Args:
        network: The network.
        pixels: uint8 of shape ``(n, channels, h, w)``.
        see: The function that computes feature maps, such as a compiled one.

    Returns:
        The feature map (or the maps of several stages), and the logits of shape ``(n, locations)``.
    """
    features = see(network, pixels)
    with torch.autocast(pixels.device.type, enabled=False):
        features = [one.float() for one in features] if isinstance(features, list) else features.float()
        return features, network.head(features)


def field_logits(network: Network, pixels: Tensor) -> Tensor:
    """Return the logits of fields as float32; see :func:`features_and_logits`."""
    return features_and_logits(network, pixels)[1]


def attention_scores(network: Network, images: UInt8Array) -> Float32Array:
    """Return the attention that the head of a network gives to images as a whole.

    Args:
        network: The network.
        images: uint8 of shape ``(n, channels, size, size)``.

    Returns:
        The logarithm of the summed exponentials of the scores of all places, float32 of shape ``(n, locations)``.

    Raises:
        SettingsError: If the network has no attention head.
    """
    if not isinstance(network.head, AttentionHead):
        raise SettingsError(
            "The model has no attention head, so it does not weight cells.",
            hint="Weight cells by a column, or choose another method.",
        )
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(next(network.parameters()).device)
    with torch.inference_mode():
        maps = network.features(pixels)
        scores = network.head.places(maps[-1] if isinstance(maps, list) else maps).float()
    return np.asarray(scores.flatten(2).logsumexp(dim=2).cpu().numpy(), np.float32)


def build_network(spec: ModelSpec, *, weights: str = "none", new_planes: NewPlanes = "red") -> Network:
    """Build a network, with the given weights of the backbone and random weights of the head.

    Args:
        spec: The specification.
        weights: ``package:NAME``, ``timm``, ``file:PATH``, ``adopt:NAME:PATH`` or ``none``; see
            :mod:`cytoloc.models.weights`.
        new_planes: Initial weights of additional input planes; see
            :func:`cytoloc.models.weights.adapt_first_convolution`.

    Returns:
        The network.

    Raises:
        RecipeError: If timm has no such backbone, or the backbone does not accept images of these sizes.
        WeightsError: If the weights are not available, or expect another normalization.
    """
    stages, is_bag = spec.head == "multi-stage", spec.variant == "channel-bag"
    channels = ONE_CHANNEL if is_bag else spec.channels
    sizes = (spec.size, *spec.other_sizes)
    features = feature_channels(spec.backbone, in_channels=len(channels), sizes=sizes, stages=stages)
    if is_bag:
        features = [len(spec.channels) * count for count in features]
    body = create_backbone(spec.backbone, in_channels=len(channels))
    # The normalization and the variant that published weights expect.
    for source, title, variant in (("dino4cells", "DINO4Cells", "dino"), ("morphem", "MorphEm", "channel-bag")):
        if weights.startswith(f"adopt:{source}:") and not (spec.each and spec.variant == variant):
            what = "positions of DINO" if variant == "dino" else "a backbone that sees each channel separately"
            raise WeightsError(
                f"The weights of {title} expect images that are normalized one by one, and {what}.",
                hint=f"Set image.normalize=field and model.variant={variant}.",
            )
    state = initial_weights(spec.backbone, weights, channels=channels, new_planes=new_planes)
    if state is not None:
        body.load_state_dict(state)
    top: nn.Module
    if stages:
        top = MultiStageHead(features, spec.locations, dropout=spec.dropout, prior=spec.prior, units=spec.units)
    elif spec.head == "average-max":
        top = AverageMaxHead(features[-1], spec.locations, dropout=spec.dropout, prior=spec.prior, units=spec.units)
    else:
        top = HEADS[spec.head](features[-1], spec.locations, dropout=spec.dropout, prior=spec.prior)
    body = varied(body, spec.backbone, spec.variant, stages=stages)
    normalize = NormalizeEach(spec.mean, spec.std) if spec.each else Normalize(spec.mean, spec.std)
    backbone = shaped(body, spec.backbone, stages=stages)
    network = Network(normalize, ChannelBag(backbone) if is_bag else backbone, top)
    network.enlarged_px = spec.enlarged_px
    return network.to(memory_format=torch.channels_last)
