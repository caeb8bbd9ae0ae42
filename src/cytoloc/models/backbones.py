"""Backbones: timm's networks without their classifier, whatever their kind, as makers of feature maps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cytoloc.errors import RecipeError, first_line

STAGES: Final = 3
"""How many stages a multi-stage backbone gives: the last three, at an eighth, a sixteenth and a 32nd of the size."""


def create_backbone(name: str, *, in_channels: int) -> Any:
    """Return timm's network ``name`` without classifier and pooling, at random weights.

    Raises:
        RecipeError: If timm has no such network, or cannot build it without classifier and pooling.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise RecipeError(
            f"There is no backbone {name!r}.", hint=f"Choose a timm name{f', e.g. {near}' if near else ''}."
        )
    # Only plain vision transformers know this key; with it they take images of any multiple of their patch.
    module = timm.models.model_entrypoint(name.partition(".")[0]).__module__
    any_size: dict[str, Any] = {"dynamic_img_size": True} if module == "timm.models.vision_transformer" else {}
    try:
        return timm.create_model(
            name, pretrained=False, in_chans=in_channels, num_classes=0, global_pool="", **any_size
        )
    # A network that does not know these keys, and a tag that has no weights, surface as any of several exceptions.
    except Exception as error:
        raise RecipeError(
            f"The backbone {name} cannot be built: {first_line(error)}", hint="Choose another backbone."
        ) from error


class TokenMap(nn.Module):
    """A vision transformer whose patches' tokens are laid out as the map that they came from."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the feature map; the class token and other prefixes are left out."""
        tokens: Tensor = self.body(pixels)[:, self.body.num_prefix_tokens :]
        patch = self.body.patch_embed.patch_size
        patches = (patch, patch) if isinstance(patch, int) else patch
        height, width = (edge // one for edge, one in zip(pixels.shape[2:], patches, strict=True))
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


class ChannelsFirst(nn.Module):
    """A backbone whose map ``(n, h, w, features)`` is turned to ``(n, features, h, w)``."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the feature map."""
        return channels_first(self.body(pixels))


class Stages(nn.Module):
    """A backbone that gives the maps of its last stages, as timm names them, instead of the last map alone."""

    def __init__(self, body: Any, name: str) -> None:
        super().__init__()
        stages = [stage["module"] for stage in getattr(body, "feature_info", [])][-STAGES:]
        if len(stages) < STAGES or isinstance(body, TokenMap):
            raise RecipeError(
                f"The backbone {name} has no {STAGES} stages.", hint="Choose another backbone, or another model.head."
            )
        self.body = body
        self._turned = has_channels_last(body)
        self._maps: dict[str, Tensor] = {}
        self._names = stages
        self._hooks: list[RemovableHandle] = []
        self.listen()

    def listen(self) -> None:
        """Hook the stages by their names; call this again after a stage was replaced by another module."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = [self.body.get_submodule(name).register_forward_hook(self._keeper(name)) for name in self._names]

    def _keeper(self, stage: str) -> Any:
        def keep(_module: nn.Module, _given: Any, made: Tensor) -> None:
            self._maps[stage] = made

        return keep

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of the stages, the finest first."""
        self.body(pixels)
        maps = [self._maps[stage] for stage in self._names]
        self._maps.clear()
        return [channels_first(one) for one in maps] if self._turned else maps


def has_channels_last(body: Any) -> bool:
    """Return whether timm says that a network's maps are ``(n, h, w, features)``, as Swin's are."""
    return str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")


def channels_first(feature_map: Tensor) -> Tensor:
    """Return ``(n, features, h, w)`` of ``(n, h, w, features)``; other tensors are returned unchanged."""
    return feature_map.permute(0, 3, 1, 2).contiguous() if feature_map.ndim == 4 else feature_map


def shaped(body: Any, name: str, *, stages: bool) -> nn.Module:
    """Return ``body`` as a maker of one feature map, or of those of its last stages."""
    is_transformer = hasattr(body, "num_prefix_tokens") and hasattr(getattr(body, "patch_embed", None), "patch_size")
    if is_transformer:
        body = TokenMap(body)
    if stages:
        return Stages(body, name)
    return ChannelsFirst(body) if has_channels_last(body) else body


def feature_channels(name: str, *, in_channels: int, sizes: Sequence[int], stages: bool) -> list[int]:
    """Return how many channels each feature map of a backbone has, without computing on real images.

    Raises:
        RecipeError: If the backbone cannot take images of one of these sizes, or gives no feature map.
    """
    with torch.device("meta"):
        body = create_backbone(name, in_channels=in_channels)
        maker = shaped(body, name, stages=stages).eval()
        for size in sorted(set(sizes)):
            try:
                with torch.no_grad():
                    seen: Any = maker(torch.zeros(1, in_channels, size, size))
            # A network raises any of several exceptions for a size that it cannot take.
            except Exception as error:
                raise RecipeError(
                    f"The backbone {name} cannot take images of {size} px: {first_line(error)}",
                    hint="Change the sizes under [image], or choose a convolutional network.",
                ) from error
    maps: list[Tensor] = seen if stages else [seen]
    # timm states the number of channels, which tells channels from rows and columns.
    last = {body.num_features, getattr(body, "head_hidden_size", body.num_features)}
    stated = [{stage["num_chs"]} for stage in body.feature_info[-STAGES:]] if stages else [last]
    if any(one.ndim != 4 or one.shape[1] not in channels for one, channels in zip(maps, stated, strict=True)):
        raise RecipeError(
            f"The backbone {name} gives no feature map of {' and '.join(str(min(one)) for one in stated)} channels, but"
            f" {', '.join(str(tuple(one.shape[1:])) for one in maps)}.",
            hint="Choose a convolutional network.",
        )
    return [int(one.shape[1]) for one in maps]
