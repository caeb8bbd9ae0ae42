"""Where networks with attention pooling look, in an image and among the cells of a field."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.special import logsumexp

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.choices import check_type
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ImageError
from cytoloc.models import subcell
from cytoloc.models.network import attention_scores
from cytoloc.predict.model import Model


def attention_maps(model: Model, images: UInt8Array) -> Float32Array:
    """Return where a SubCell model looks in images of cells.

    Args:
        model: The model.
        images: uint8 of shape ``(n, channels, size, size)``, in the size and channel order of the model.

    Returns:
        The weight of each patch of 16 px in each of the two attention heads, float32 of shape ``(n, 2, size / 16,
        size / 16)``. The weights of a head sum to less than 1, because the class token has a weight too.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        ImageError: If the images have another shape or type.
        WeightsError: If the model is not SubCell.

    Examples:
        >>> attention_maps(model, cells[:8]).shape  # doctest: +SKIP
        (8, 2, 40, 40)
    """
    check_type(model, Model, argument="model")
    check_type(images, np.ndarray, argument="images")
    shape = (len(model.channels), model.size, model.size)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        raise ImageError(
            f"`images` must be uint8 of shape (n, {', '.join(map(str, shape))}), not {images.dtype} of shape"
            f" {images.shape}.",
            hint="Read them from a dataset of cells in this size.",
        )
    maps = [subcell.attention_maps(network, images) for network in model.networks]
    return np.concatenate(maps, axis=1)


def attention_weights(model: Model, cells: Dataset, *, batch_size: int = 16) -> pl.DataFrame:
    """Return how much attention each cell gets for each location.

    An attention head gives each position of an image a weight, and the weights add up to 1 (softmax). Here they add up
    to 1 over the positions of all cells. The weight of a cell is the sum of the weights of its positions.

    Args:
        model: A model whose networks have attention heads, such as one that was trained with ``model.head =
            "attention"``.
        cells: The dataset of cells.
        batch_size: Number of cells per batch.

    Returns:
        A table with the column ``id`` and a column for each location, by its key: weights from 0, of which the largest
        of each location is 1. :func:`cytoloc.aggregate_cells` takes it as ``weights``.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If a network has no attention head.
        ChannelError: If the dataset lacks a channel.

    Examples:
        >>> weights = attention_weights(model, cells)  # doctest: +SKIP
        >>> aggregate_cells(predictions, method="weighted", weights=weights)  # doctest: +SKIP
    """
    from cytoloc.predict.planes import find_planes
    from cytoloc.predict.sources import DatasetSource

    check_type(model, Model, argument="model")
    check_type(cells, Dataset, argument="cells")
    check_type(batch_size, int, argument="batch_size")
    source = DatasetSource(cells)
    planes = find_planes(model.channels, source.channels, where=source.name)
    ids: list[str] = []
    scores: list[list[Float32Array]] = [[] for _ in model.networks]
    for batch in source.batches(model.size, batch_size, model.resample or model.info.resample or "area"):
        ids += batch.ids
        images = planes.of(batch.images)
        for network, found in zip(model.networks, scores, strict=True):
            found.append(attention_scores(network, images))
    # The softmax over all positions of all cells, averaged over the networks.
    logs = np.stack([np.concatenate(found).astype(np.float64) for found in scores])
    together = logsumexp(logs - logsumexp(logs, axis=1, keepdims=True), axis=0)
    weights = np.exp(together - together.max(axis=0))
    return pl.DataFrame({"id": ids, **dict(zip(model.label_set.keys, weights.T, strict=True))})
