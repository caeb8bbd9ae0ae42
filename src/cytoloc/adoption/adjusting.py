"""Adjusting a model to the look of other images, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from cytoloc._typing import UInt8Array
from cytoloc.choices import check_type
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import SettingsError
from cytoloc.models.network import Network
from cytoloc.predict.bundle import (
    bundle_path,
    check_bundle_path,
    open_bundle,
    read_bundle,
    write_archive,
)
from cytoloc.predict.bundle_header import CARD, INPUTS, INT8, INT8_REPORT, MOST_ENLARGED_PX, WEIGHTS, Part
from cytoloc.predict.inputs.reference import LEAST_FIELDS, MOST_FIELDS
from cytoloc.predict.model import BATCH_SIZE, Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.planes import find_planes
from cytoloc.predict.references import reference_of
from cytoloc.predict.sources import DatasetSource
from cytoloc.predict.tta import TTA_VIEWS, dihedral

_BATCH_PIXELS: Final = 2**21
"""Pixels of the images that are normalized together while their means and variances are measured."""


def adjust(
    model: str | Path,
    datasets: str | Path | Dataset | Sequence[str | Path | Dataset],
    out: str | Path,
    *,
    share: float = 0.5,
    enlarge: float | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Path:
    """Write a copy of a model whose batch normalization is adjusted to the look of other images.

    Batch normalization scales the features of an image by their mean and variance over the training images. Images of
    another microscope or another stain have other means and variances, so the model often predicts them worse. This
    function measures the means and variances on images that need no labels, and blends them with those of the training
    images (Li et al. 2016, *Revisiting Batch Normalization For Practical Domain Adaptation*). The weights and the
    decision of the model stay the same. If you have labels, evaluate both models on them.

    The networks can also enlarge the images. This can help networks that were trained with random zoom, because many
    cells that they saw in training were enlarged (Touvron et al. 2019, *Fixing the train-test resolution discrepancy*).
    Prediction takes longer by the square of the factor.

    Images like those of the datasets are then no longer marked as unusual. The copy has no int8 networks, because they
    were compared with the model before it was adjusted.

    Args:
        model: A bundle, or the name of a built-in model, such as ``"builtin"``.
        datasets: One or more datasets of typical images; at least 50 fields each. At most 1,200 fields of each are
            used.
        out: The new file, which must end in ``.cytoloc``.
        share: Weight of the new means and variances, above 0 and at most 1. The stored ones have ``1 - share``.
        enlarge: Factor by which the networks enlarge images, 1 to 4. Their edge length is rounded to a multiple of 8
            pixels. Default: the size that the networks use so far.
        progress: Called after each batch with the number of finished batches, and of all batches.

    Returns:
        The path of the new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the share or the factor is out of range, a dataset has too few fields, a network has no batch
            normalization, or the name does not end in ``.cytoloc``.
        OutputExistsError: If ``out`` exists.
        FormatError: If the model is not a bundle, or it is damaged.
        ChannelError: If a dataset lacks a channel of the model.
    """
    check_type(model, (str, Path), argument="model")
    check_type(out, (str, Path), argument="out")
    check_type(share, (int, float), argument="share")
    if not 0 < share <= 1:
        raise SettingsError(f"`share` is {share:g}.", hint="Give a number above 0 and at most 1.")
    if enlarge is not None:
        check_type(enlarge, (int, float), argument="enlarge")
        if not 1 <= enlarge <= 4:
            raise SettingsError(f"`enlarge` is {enlarge:g}.", hint="Give a factor from 1 to 4.")
    out = Path(out)
    check_bundle_path(out)
    opened = _opened(datasets)
    bundle = open_bundle(bundle_path(model))
    info, networks, _ = read_bundle(bundle.path)
    for member, network in zip(bundle.header.members, networks, strict=True):
        if not _normalizing(network):
            raise SettingsError(
                f"The network {member.name} cannot be adjusted, because it has no batch normalization.",
                hint="Fine-tune the model on labeled images instead.",
            )
    enlarged_px = None if enlarge is None else _enlarged_px(info.size, enlarge)
    images = [_typical_images(info, dataset) for dataset in opened]
    parts = {name: part for name, part in bundle.parts.items() if name != INT8_REPORT and not name.endswith(INT8)}
    members = [
        member if enlarged_px is None else member.model_copy(update={"enlarged_px": enlarged_px})
        for member in bundle.header.members
    ]
    for number, (member, network) in enumerate(zip(members, networks, strict=True)):
        network.enlarged_px = member.enlarged_px
        changed = adjust_network(
            network, np.concatenate(images), share=share, progress=_part_of(progress, number, len(networks))
        )
        name = f"members/{number}/{WEIGHTS}"
        parts[name] = safetensors.torch.save({**safetensors.torch.load(parts[name]), **changed})
    what = " and ".join(
        f"{len(fields):,} fields of {Path(str(each.path)).name}" for fields, each in zip(images, opened, strict=True)
    )
    note = f"\n\n## Adjusted\n\nThe batch normalization was adjusted, without labels, to {what} (share {share:g}).\n"
    if members[0].enlarged_px is not None:
        note += f"The network enlarges images to {members[0].enlarged_px} px.\n"
    parts[CARD] = parts[CARD].rstrip() + note.encode("utf-8")
    parts[INPUTS] = reference_of(Model(networks, info, device="cpu"), opened).to_bytes()
    listed = {name: Part.of(content) for name, content in parts.items()}
    write_archive(out, bundle.header.model_copy(update={"members": members, "parts": listed}), parts)
    return out


def _enlarged_px(size: int, factor: float) -> int:
    """Return the edge length of images that are enlarged by a factor: a multiple of 8 pixels, at least ``size``."""
    enlarged_px = max(size, 8 * round(size * factor / 8))
    if enlarged_px > MOST_ENLARGED_PX:
        raise SettingsError(
            f"`enlarge` is {factor:g}, which makes images of {enlarged_px} px.",
            hint=f"Give a factor that makes images of at most {MOST_ENLARGED_PX} px.",
        )
    return enlarged_px


def _opened(datasets: str | Path | Dataset | Sequence[str | Path | Dataset]) -> list[Dataset]:
    """Return opened datasets, or raise if there are none or one has too few fields."""
    check_type(datasets, (str, Path, Dataset, list, tuple), argument="datasets")
    several = [datasets] if isinstance(datasets, str | Path | Dataset) else list(datasets)
    if not several:
        raise SettingsError("`datasets` is empty.", hint="Give a dataset of typical images.")
    opened = [each if isinstance(each, Dataset) else open_dataset(each) for each in several]
    for each in opened:
        if len(each) < LEAST_FIELDS:
            raise SettingsError(
                f"{each.path} has {len(each)} fields, but the model needs {LEAST_FIELDS} to be adjusted.",
                hint="Give a dataset with more fields. They need no labels.",
            )
    return opened


def _typical_images(info: ModelInfo, dataset: Dataset) -> UInt8Array:
    """Return images of a dataset in the channels and the size of a model."""
    planes = find_planes(info.channels, dataset.channels, where=str(dataset.path))
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:MOST_FIELDS])
    batches = DatasetSource(dataset, rows).batches(info.size, BATCH_SIZE, info.resample or "area")
    return np.concatenate([planes.of(batch.images) for batch in batches])


def adjust_network(
    network: Network,
    images: UInt8Array,
    *,
    share: float,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> dict[str, Tensor]:
    """Blend the means and variances in the batch normalization of a network with those of other images.

    Args:
        network: The network, which changes in place.
        images: uint8 of shape ``(n, channels, size, size)``. All flips and rotations of them are used.
        share: Weight of the new means and variances, 0 to 1.
        progress: Called after each batch with the number of finished batches, and of all batches.

    Returns:
        The changed tensors by their names in the network; empty if it has no batch normalization.
    """
    before = {
        name: tensor.clone()
        for name, tensor in network.state_dict().items()
        if name.endswith(("running_mean", "running_var"))
    }
    layers = _normalizing(network)
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # The mean over all batches, each of which counts the same.
        layer.train()
    pixels = len(images) * (network.enlarged_px or images.shape[-1]) ** 2
    # Every batch has at least two images, because the variance of one vector of features is zero.
    batches = torch.from_numpy(images).tensor_split(max(1, min(round(pixels / _BATCH_PIXELS), len(images) // 2)))
    with torch.no_grad():
        for number, batch in enumerate(batches):
            for view in TTA_VIEWS[8]:
                network(dihedral(batch, view).contiguous())
            progress(number + 1, len(batches))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
    after = network.state_dict()
    return {name: after[name].lerp_(old, 1 - share) for name, old in before.items()}


def _normalizing(network: Network) -> list[nn.BatchNorm1d | nn.BatchNorm2d]:
    """Return the layers of batch normalization."""
    return [each for each in network.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]


def _part_of(progress: Callable[[int, int], None], number: int, count: int) -> Callable[[int, int], None]:
    """Return a function that reports the progress of one of several networks as the progress of all."""
    return lambda done, batches: progress(number * batches + done, count * batches)
