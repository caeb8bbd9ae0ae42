"""Backbones: timm's networks without their classifier, whatever their kind, as makers of feature maps."""

from __future__ import annotations

import difflib
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn

from cytoloc.errors import RecipeError

STAGES: Final = 3
"""How many stages a multi-stage backbone gives: the last three, at an eighth, a sixteenth and a 32nd of the size."""


def create_backbone(name: str, *, in_channels: int) -> Any:
    """Return timm's network ``name`` without classifier and pooling, at random weights.

    Raises:
        RecipeError: If timm has no such network.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise RecipeError(
            f"There is no backbone {name!r}.",
            way_out=f"Choose a timm name{f', e.g. {near}' if near else ''}.",
        )
    # Only plain vision transformers know this key; with it they take pictures of any multiple of their patch.
    module = timm.models.model_entrypoint(name.partition(".")[0]).__module__
    any_size: dict[str, Any] = {"dynamic_img_size": True} if module == "timm.models.vision_transformer" else {}
    return timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=0, global_pool="", **any_size)


class TokenMap(nn.Module):
    """A vision transformer whose patches' tokens are laid out as the map that they came from."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the feature map; the class token and other prefixes are left out."""
        tokens: Tensor = self.body(pixels)[:, self.body.num_prefix_tokens :]
        height, width = (
            edge // patch for edge, patch in zip(pixels.shape[2:], self.body.patch_embed.patch_size, strict=True)
        )
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


class Stages(nn.Module):
    """A backbone that gives the maps of its last stages, as timm names them, instead of the last map alone."""

    def __init__(self, body: Any, name: str) -> None:
        super().__init__()
        stages = [stage["module"] for stage in getattr(body, "feature_info", [])][-STAGES:]
        if len(stages) < STAGES or isinstance(body, TokenMap):
            raise RecipeError(
                f"The backbone {name} has no {STAGES} stages.",
                way_out="Choose another backbone, or another model.head.",
            )
        self.body = body
        self._maps: dict[str, Tensor] = {}
        self._names = stages
        for stage in stages:
            body.get_submodule(stage).register_forward_hook(self._keeper(stage))

    def _keeper(self, stage: str) -> Any:
        def keep(_module: nn.Module, _given: Any, made: Tensor) -> None:
            self._maps[stage] = made

        return keep

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of the stages, the finest first."""
        self.body(pixels)
        maps = [self._maps[stage] for stage in self._names]
        self._maps.clear()
        return maps


def shaped(body: Any, name: str, *, stages: bool) -> nn.Module:
    """Return ``body`` as a maker of one feature map, or of those of its last stages."""
    is_transformer = hasattr(body, "num_prefix_tokens") and hasattr(body, "patch_embed")
    mapped = TokenMap(body) if is_transformer else body
    return Stages(mapped, name) if stages else mapped


def feature_channels(name: str, *, in_channels: int, size: int, stages: bool) -> list[int]:
    """Return how many channels each feature map of a backbone has, from a picture of ``size`` that costs nothing.

    Raises:
        RecipeError: If the backbone cannot take pictures of that size, or gives no feature map.
    """
    with torch.device("meta"):
        body = shaped(create_backbone(name, in_channels=in_channels), name, stages=stages).eval()
        try:
            with torch.no_grad():
                seen = body(torch.zeros(1, in_channels, size, size))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            raise RecipeError(
                f"The backbone {name} cannot take pictures of {size} px: {str(error).splitlines()[0]}",
                way_out="Change image.size, or choose a convolutional network.",
            ) from error
    maps = seen if stages else [seen]
    if any(one.ndim != 4 for one in maps):
        raise RecipeError(f"The backbone {name} gives no feature map.", way_out="Choose a convolutional network.")
    return [int(one.shape[1]) for one in maps]
