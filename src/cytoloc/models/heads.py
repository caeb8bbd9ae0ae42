"""Heads: from feature maps of shape ``(n, features, h, w)`` to logits of shape ``(n, classes)``."""

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
        """Return the logits."""
        logits: Tensor = self.layers(feature_map.mean(dim=(2, 3)))
        return logits


class AverageMaxHead(nn.Module):
    """The head of the silver-medal baseline (from fastai): average and maximum pooling, 512 units, dropout."""

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
        """Return the logits."""
        logits: Tensor = self.layers(_average_and_max(feature_map))
        return logits


class AttentionHead(nn.Module):
    """Attention pooling for each class, as in the third place of 2018 at 1024 px.

    A location that fills a few pixels of a large image, such as a centrosome, is lost in average pooling. Attention is
    uniform at the start of training, so an untrained head pools like :class:`PlainHead`.
    """

    def __init__(self, features: int, classes: int, *, dropout: float, prior: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.places = nn.Conv2d(features, classes, kernel_size=1)
        self.last = _last_layer(features, classes, prior)
        nn.init.zeros_(self.places.weight)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the logits."""
        share = self.attention(feature_map).flatten(2)
        # Weighting the logit of each place equals computing the logit of weighted features, because both are linear.
        # It avoids a feature map for every class.
        evidence = nn.functional.conv2d(self.dropout(feature_map), self.last.weight[:, :, None, None]).flatten(2)
        logits: Tensor = (share * evidence).sum(dim=2) + self.last.bias
        return logits

    def attention(self, feature_map: Tensor) -> Tensor:
        """Return the attention of each class, shape ``(n, classes, h, w)``, which sums to 1 over positions."""
        places: Tensor = self.places(feature_map)
        return places.flatten(2).softmax(dim=2).reshape(places.shape)


class MultiStageHead(nn.Module):
    """Average and maximum pooling of the feature maps of several stages, which combines fine and coarse features.

    The input is a sequence of maps instead of a single map.
    """

    def __init__(
        self, features: Sequence[int], classes: int, *, dropout: float, prior: float, units: int = 512
    ) -> None:
        super().__init__()
        # One batch normalization per stage, because values differ by orders of magnitude between stages.
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
        """Return the logits."""
        pooled = [norm(_average_and_max(one)) for norm, one in zip(self.norms, feature_maps, strict=True)]
        logits: Tensor = self.layers(cat(pooled, dim=1))
        return logits


class AntibodyHead(nn.Module):
    """A second head that recognizes the antibody of a field during training, as cosines to learned directions.

    Fields of one antibody show the same protein, so a network that recognizes antibodies learns features that
    distinguish proteins (first place of 2018). See :func:`cytoloc.models.losses.arcface_loss`.
    """

    def __init__(self, features: int, antibodies: int, *, units: int = 512) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, units), nn.BatchNorm1d(units))
        self.directions = nn.Parameter(nn.init.xavier_uniform_(nn.Linear(units, antibodies, bias=False).weight.data))

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the cosine between each field and each antibody, shape ``(n, antibodies)``."""
        embedded = nn.functional.normalize(self.embed(feature_map.mean(dim=(2, 3))))
        cosines: Tensor = nn.functional.linear(embedded, nn.functional.normalize(self.directions))
        return cosines


def _average_and_max(feature_map: Tensor) -> Tensor:
    return cat([feature_map.mean(dim=(2, 3)), feature_map.amax(dim=(2, 3))], dim=1)


def _last_layer(features: int, classes: int, prior: float) -> nn.Linear:
    """Return a linear layer whose bias gives every class the initial probability ``prior`` (Lin et al. 2017)."""
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))
    return layer
