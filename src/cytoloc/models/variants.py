"""Changes to timm backbones that published networks have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cytoloc.choices import BackboneVariant
from cytoloc.errors import RecipeError
from cytoloc.models.dino4cells import with_dino_positions


class Cbam(nn.Module):
    """Attention over channels, then over places (CBAM, Woo et al. 2018), as the first place of 2021 uses it.

    Args:
        features: Number of channels of the feature map.
        reduction: Ratio of the channels to the hidden units.
    """

    def __init__(self, features: int, reduction: int = 32) -> None:
        super().__init__()
        self.channels = nn.Sequential(
            nn.Conv2d(features, features // reduction, 1), nn.ReLU(), nn.Conv2d(features // reduction, features, 1)
        )
        self.places = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the weighted feature map."""
        average, maximum = feature_map.mean(dim=(2, 3), keepdim=True), feature_map.amax(dim=(2, 3), keepdim=True)
        weighted = feature_map * (self.channels(average) + self.channels(maximum)).sigmoid()
        pooled = torch.cat([weighted.mean(dim=1, keepdim=True), weighted.amax(dim=1, keepdim=True)], dim=1)
        attended: Tensor = weighted * self.places(pooled).sigmoid()
        return attended


class AttendedBackbone(nn.Module):
    """A backbone whose feature map is weighted by :class:`Cbam`."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.attention = Cbam(body.num_features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the weighted feature map."""
        attended: Tensor = self.attention(self.body(pixels))
        return attended


def varied(body: Any, name: str, variant: BackboneVariant, *, stages: bool) -> Any:
    """Return a backbone with the changes of a variant.

    Args:
        body: The timm network without classifier and pooling.
        name: Its timm name.
        variant: ``plain`` changes nothing. ``second-pool`` halves the feature map of a DenseNet once more after its
            first layers. ``cbam`` is for ``inception_v3``: no pooling in its first layers, and attention at the end.
            ``dino`` is for vision transformers: positions are interpolated as DINO does. ``channel-bag`` is too: the
            network sees each channel by itself.
        stages: Whether a head uses the feature maps of several stages.

    Returns:
        The backbone.

    Raises:
        RecipeError: If the variant does not exist for the backbone or the head.
    """
    if variant == "plain":
        return body
    fits = {"second-pool": "densenet", "cbam": "inception_v3", "dino": "vit_", "channel-bag": "vit_"}[variant]
    if not name.startswith(fits) or (variant in ("cbam", "channel-bag") and stages):
        raise RecipeError(
            f"The variant {variant} does not exist for the backbone {name}{' with a multi-stage head' * stages}.",
            hint="Set model.variant to plain.",
        )
    if variant == "second-pool":
        body.features.pool0 = nn.Sequential(body.features.pool0, nn.MaxPool2d(2))
        return body
    if variant in ("dino", "channel-bag"):
        return with_dino_positions(body)
    body.Pool1, body.Pool2 = nn.Identity(), nn.Identity()
    return AttendedBackbone(body)
