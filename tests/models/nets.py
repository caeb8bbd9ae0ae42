"""Networks that tests of models share."""

from __future__ import annotations

from typing import Any

from cytoloc.channels import CHANNELS
from cytoloc.choices import HeadName
from cytoloc.models.network import ModelSpec


def spec_of(backbone: str, head: HeadName = "plain", **changes: Any) -> ModelSpec:
    """Return the description of a small network; by default of four channels and 28 locations."""
    channels = changes.pop("channels", CHANNELS)
    count = len(channels)
    usual: dict[str, Any] = {
        "dropout": 0.5,
        "prior": 0.05,
        "locations": 28,
        "mean": (0.1,) * count,
        "std": (0.2,) * count,
        "each": False,
        "size": 64,
    }
    return ModelSpec(backbone=backbone, head=head, channels=tuple(channels), **{**usual, **changes})
