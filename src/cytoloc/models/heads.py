"""Heads: from a feature map ``(n, features, h, w)`` to logits ``(n, classes)``."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    """The silver-medal baseline's head, fastai's: average and maximum pooling side by side, 512 units, dropout."""

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
        logits: Tensor = self.layers(_average_and_max(feature_map))
        return logits


class AttentionHead(nn.Module):
    """For each class its own pooling: where to look is learned per class (third place of 2018, at 1024 px).

    A location that fills a few pixels of a large image, such as a centrosome, vanishes in an average over all of it.
    The weights over places start even, so an untrained head pools like :class:`PlainHead`.
    """

    def __init__(self, features: int, classes: int, *, dropout: float, prior: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.places = nn.Conv2d(features, classes, kernel_size=1)
        self.last = _last_layer(features, classes, prior)
        nn.init.zeros_(self.places.weight)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return logits."""
        share = self.attention(feature_map).flatten(2)
        # One image of features per class would be many times the map; weighing what the class makes of each place
        # is the same, since both are linear.
        evidence = nn.functional.conv2d(self.dropout(feature_map), self.last.weight[:, :, None, None]).flatten(2)
        logits: Tensor = (share * evidence).sum(dim=2) + self.last.bias
        return logits

    def attention(self, feature_map: Tensor) -> Tensor:
        """Return how much each class looks at each place, ``(n, classes, h, w)``; sums to 1 over places."""
        places: Tensor = self.places(feature_map)
        return places.flatten(2).softmax(dim=2).reshape(places.shape)


class MultiStageHead(nn.Module):
    """Pools the maps of several stages, average and maximum each: fine structure from the early, shape from the late.

    Takes a sequence of maps instead of one.
    """

    def __init__(
        self, features: Sequence[int], classes: int, *, dropout: float, prior: float, units: int = 512
    ) -> None:
        super().__init__()
        # A batch norm per stage: their values differ by orders of magnitude.
        self.norms = nn.ModuleList(nn.BatchNorm1d(2 * count) for count in features)
        self.layers = nn.Sequential(
            nn.Dropout(dropout / 2),
            nn.Linear(2 * sum(features), units),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(units),
            nn.Dropout(dropout),
            _last_layer(units, classes, prior),
        )

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Return logits."""
        pooled = [norm(_average_and_max(one)) for norm, one in zip(self.norms, feature_maps, strict=True)]
        logits: Tensor = self.layers(cat(pooled, dim=1))
        return logits


class AntibodyHead(nn.Module):
    """A second head for training alone: which antibody stained the field, as cosines to a direction for each.

    Fields of one antibody show the same protein, so a network that recognizes them has learned what tells proteins
    apart (first place of 2018). See :func:`cytoloc.models.losses.arcface_loss`.
    """

    def __init__(self, features: int, antibodies: int, *, units: int = 512) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, units), nn.BatchNorm1d(units))
        self.directions = nn.Parameter(nn.init.xavier_uniform_(nn.Linear(units, antibodies, bias=False).weight.data))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the cosine between each field and each antibody, ``(n, antibodies)``."""
        embedded = nn.functional.normalize(self.embed(feature_map.mean(dim=(2, 3))))
        cosines: Tensor = nn.functional.linear(embedded, nn.functional.normalize(self.directions))
        return cosines


def _average_and_max(feature_map: Tensor) -> Tensor:
    return cat([feature_map.mean(dim=(2, 3)), feature_map.amax(dim=(2, 3))], dim=1)


def _last_layer(features: int, classes: int, prior: float) -> nn.Linear:
    """Return a linear layer whose bias makes ``prior`` the first probability of every class (Lin et al. 2017)."""
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))
    return layer
