"""Backbones: timm networks without classifier, which return feature maps."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import timm
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cytoloc.errors import RecipeError, first_line

STAGES: Final = 3
"""Number of stages of a multi-stage backbone: the last three, at 1/8, 1/16 and 1/32 of the image size."""


def create_backbone(name: str, *, in_channels: int) -> Any:
    """Return a timm network without classifier and pooling, with random weights.

    Args:
        name: The timm name.
        in_channels: Number of input channels.

    Returns:
        The network.

    Raises:
        RecipeError: If timm has no such network, or cannot build it without classifier and pooling.
    """
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise RecipeError(
            f"There is no backbone {name!r}.",
            hint=f"Choose a timm name{f' such as {near}' if near else ''}.",
        )
    # Only plain vision transformers have this argument; with it they accept any multiple of their patch size.
    module = timm.models.model_entrypoint(name.partition(".")[0]).__module__
    any_size: dict[str, Any] = {"dynamic_img_size": True} if module == "timm.models.vision_transformer" else {}
    try:
        return timm.create_model(
            name, pretrained=False, in_chans=in_channels, num_classes=0, global_pool="", **any_size
        )
    # An unsupported argument, or a tag without weights, raises different exceptions.
    except Exception as error:
        raise RecipeError(
            f"The backbone {name} cannot be built: {first_line(error)}.", hint="Choose another backbone."
        ) from error


class TokenMap(nn.Module):
    """A vision transformer whose tokens are arranged as a feature map."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the feature map, without class token and other prefix tokens."""
        tokens: Tensor = self.body(pixels)[:, self.body.num_prefix_tokens :]
        patch = self.body.patch_embed.patch_size
        patches = (patch, patch) if isinstance(patch, int) else patch
        height, width = (int(edge) // one for edge, one in zip(pixels.shape[2:], patches, strict=True))
        return torch.unflatten(tokens.transpose(1, 2), 2, (height, width))

    def fix_size(self, height: int, width: int) -> None:
        """Interpolate the positions for one size of images, in pixels, if timm does this in a way that ONNX lacks."""
        # DINO4Cells interpolates its positions in another way, which ONNX has.
        if "_pos_embed" not in vars(self.body) and hasattr(self.body, "set_input_size"):
            self.body.set_input_size(img_size=(height, width))


class ChannelsFirst(nn.Module):
    """A backbone whose feature map of shape ``(n, h, w, features)`` is permuted to ``(n, features, h, w)``."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the feature map."""
        return channels_first(self.body(pixels))


class Stages(nn.Module):
    """A backbone that returns the feature maps of its last stages, in timm's definition."""

    def __init__(self, body: Any, name: str) -> None:
        super().__init__()
        stages = [stage["module"] for stage in getattr(body, "feature_info", [])][-STAGES:]
        if len(stages) < STAGES or isinstance(body, TokenMap):
            raise RecipeError(
                f"The backbone {name} does not have {STAGES} stages.",
                hint="Choose another backbone, or another model.head.",
            )
        self.body = body
        self._turned = has_channels_last(body)
        self._maps: dict[str, Tensor] = {}
        self._names = stages
        self._hooks: list[RemovableHandle] = []
        self.listen()

    def listen(self) -> None:
        """Register hooks on the stages. Call this again after a stage was replaced by another module."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = [
            # A copy of the network copies a partial function of a method, but not a closure.
            self.body.get_submodule(name).register_forward_hook(partial(self._keep, name))
            for name in self._names
        ]

    def _keep(self, stage: str, _module: nn.Module, _given: Any, made: Tensor) -> None:
        self._maps[stage] = made

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the feature maps of the stages, the finest first."""
        self.body(pixels)
        maps = [self._maps[stage] for stage in self._names]
        self._maps.clear()
        return [channels_first(one) for one in maps] if self._turned else maps


def has_channels_last(body: Any) -> bool:
    """Return whether feature maps have the shape ``(n, h, w, features)`` according to timm, as for Swin."""
    return str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")


def channels_first(feature_map: Tensor) -> Tensor:
    """Return ``(n, features, h, w)`` for ``(n, h, w, features)``; tensors with other dimensions are not changed."""
    return feature_map.permute(0, 3, 1, 2).contiguous() if feature_map.ndim == 4 else feature_map


def shaped(body: Any, name: str, *, stages: bool) -> nn.Module:
    """Return a backbone as a module with one feature map, or with the maps of its last stages."""
    is_transformer = hasattr(body, "num_prefix_tokens") and hasattr(getattr(body, "patch_embed", None), "patch_size")
    if is_transformer:
        body = TokenMap(body)
    if stages:
        return Stages(body, name)
    return ChannelsFirst(body) if has_channels_last(body) else body


def feature_channels(name: str, *, in_channels: int, sizes: Sequence[int], stages: bool) -> list[int]:
    """Return the number of channels of each feature map, without computing on real images.

    Args:
        name: The timm name.
        in_channels: Number of input channels.
        sizes: Edge lengths of images that the backbone must accept, in pixels.
        stages: Whether the maps of several stages are used.

    Returns:
        One number per feature map.

    Raises:
        RecipeError: If the backbone does not accept one of the sizes, or returns no feature map.
    """
    with torch.device("meta"):
        body = create_backbone(name, in_channels=in_channels)
        maker = shaped(body, name, stages=stages).eval()
        for size in sorted(set(sizes)):
            try:
                with torch.no_grad():
                    seen: Any = maker(torch.zeros(1, in_channels, size, size))
            # Networks raise different exceptions for an unsupported size.
            except Exception as error:
                raise RecipeError(
                    f"The backbone {name} does not accept images of {size} px: {first_line(error)}.",
                    hint="Change the sizes under [image], or choose a convolutional network.",
                ) from error
    maps: list[Tensor] = seen if stages else [seen]
    # timm states the number of channels, which distinguishes channels from rows and columns.
    last = {body.num_features, getattr(body, "head_hidden_size", body.num_features)}
    stated = [{stage["num_chs"]} for stage in body.feature_info[-STAGES:]] if stages else [last]
    if any(one.ndim != 4 or one.shape[1] not in channels for one, channels in zip(maps, stated, strict=True)):
        raise RecipeError(
            f"The backbone {name} returns no feature map of {' and '.join(str(min(one)) for one in stated)} channels,"
            f" but {', '.join(str(tuple(one.shape[1:])) for one in maps)}.",
            hint="Choose a convolutional network.",
        )
    return [int(one.shape[1]) for one in maps]
