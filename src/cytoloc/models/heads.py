"""Heads: from a feature map ``(n, features, h, w)`` to logits ``(n, classes)``."""

from __future__ import annotations

import math

from torch import Tensor, cat, nn


class PlainHead(nn.Module):
    """Average pooling and one linear layer."""

    def __init__(self, features: int, classes: int, *, dropout: float, prior: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(dropout), _last_layer(features, classes, prior))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.layers(feature_map.mean(dim=(2, 3)))
        return logits


class AverageMaxHead(nn.Module):
    """The starting system's head, fastai's: average and maximum pooling side by side, 512 units, dropout."""

    def __init__(self, features: int, classes: int, *, dropout: float, prior: float, units: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(2 * features),
            nn.Dropout(dropout / 2),
            nn.Linear(2 * features, units),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(units),
            nn.Dropout(dropout),
            _last_layer(units, classes, prior),
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return logits."""
        pooled = cat([feature_map.mean(dim=(2, 3)), feature_map.amax(dim=(2, 3))], dim=1)
        logits: Tensor = self.layers(pooled)
        return logits


def _last_layer(features: int, classes: int, prior: float) -> nn.Linear:
    """Return a linear layer whose bias makes ``prior`` the first probability of every class (Lin et al. 2017)."""
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))
    return layer
