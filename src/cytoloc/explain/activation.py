"""Class activation maps of one network, and the attention of its head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import get_ident
from typing import Any, Final

import torch
from torch import Tensor, nn

from cytoloc.choices import MapMethod
from cytoloc.errors import SettingsError
from cytoloc.models.backbones import TokenMap, channels_first, has_channels_last
from cytoloc.models.heads import AttentionHead
from cytoloc.models.network import Network

EARLIER_STAGES: Final = 3
"""Number of stages before the last feature map that Layer-CAM uses, at 1/16, 1/8 and 1/4 of the image size."""


def class_maps(network: Network, pixels: Tensor, places: Sequence[int], *, method: MapMethod) -> Tensor:
    """Return how much each part of an image contributes to each location.

    ``gradcam`` weights the last feature map by its mean gradients (Selvaraju et al. 2017). ``layercam`` weights each
    position of a feature map by its own positive gradients (Jiang et al. 2021). The maps of the last four stages are
    multiplied, so a position counts if all stages agree. ``research/maps.py`` measures that this shows structures best.
    ``attention`` is the attention of the head to each position.

    Args:
        network: The network, in evaluation mode.
        pixels: uint8 of shape ``(n, channels, size, size)``.
        places: The indices of the locations.
        method: The kind of map. ``attention`` needs a network with an attention head.

    Returns:
        float32 of shape ``(n, len(places), size, size)``. The maximum of each map is 1, or 0 if nothing contributes.

    Raises:
        SettingsError: If ``method`` is ``"attention"`` and the network has no attention head.
    """
    if method == "attention":
        with torch.inference_mode():
            maps = network.features(pixels)
            if not isinstance(network.head, AttentionHead) or not isinstance(maps, Tensor):
                raise SettingsError("The network has no attention head.", hint="Choose `method='layercam'`.")
            return _resized(network.head.attention(maps.float())[:, list(places)], pixels.shape[-1])
    with torch.enable_grad(), _stage_outputs(network, count=EARLIER_STAGES * (method == "layercam")) as earlier:
        maps = network.features(pixels)
        activations = [*earlier, maps[-1] if isinstance(maps, list) else maps]
        for each in activations:
            if not each.requires_grad:  # the weights of the network are frozen
                each.requires_grad_()
        logits = network.head(maps)
        # The output of the earlier stages of some backbones has the channels last.
        is_turned = has_channels_last(_timm_body(network))
        found = []
        for place in places:
            gradients = torch.autograd.grad(logits[:, place].sum(), activations, retain_graph=True)
            combined = torch.ones((), device=logits.device)
            for number, (activation, gradient) in enumerate(zip(activations, gradients, strict=True)):
                value, slope = activation.detach().float(), gradient.float()
                if is_turned and number < len(earlier):
                    value, slope = channels_first(value), channels_first(slope)
                slope = slope.mean(dim=(2, 3), keepdim=True) if method == "gradcam" else slope.relu()
                one = (slope * value).sum(dim=1, keepdim=True).relu()
                combined = combined * _resized(one, pixels.shape[-1])[:, 0]
            found.append(combined)
    return _resized(torch.stack(found, dim=1), pixels.shape[-1])


def _resized(maps: Tensor, size: int) -> Tensor:
    """Return maps at the size of the image, each divided by its maximum."""
    large = nn.functional.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)
    most = large.amax(dim=(2, 3), keepdim=True)
    return torch.where(most > 0, large / most.clamp(min=torch.finfo(torch.float32).tiny), 0)


def _timm_body(network: Network) -> Any:
    """Return the timm network inside a backbone."""
    body: Any = network.backbone
    while hasattr(body, "body"):
        body = body.body
    return body


@contextmanager
def _stage_outputs(network: Network, *, count: int) -> Iterator[list[Tensor]]:
    """Provide the list of the feature maps of earlier stages. It is filled when the network computes.

    A vision transformer has no stages: its last feature map has the finest resolution that it has.
    """
    outputs: list[Tensor] = []
    has_stages = not any(isinstance(each, TokenMap) for each in network.backbone.modules())
    body = _timm_body(network)
    stages = [each["module"] for each in getattr(body, "feature_info", [])] if has_stages and count else []

    this_thread = get_ident()

    def keep(kept: list[Tensor], _module: nn.Module, _given: Any, made: Tensor) -> None:
        if get_ident() != this_thread:
            return  # another thread computes with the same network at the same time, as in the service
        kept.append(made if made.requires_grad else made.requires_grad_())

    hooks = [body.get_submodule(name).register_forward_hook(partial(keep, outputs)) for name in stages[-1 - count : -1]]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
