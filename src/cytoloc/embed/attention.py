"""Where networks with attention pooling look."""

from __future__ import annotations

import numpy as np

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.choices import check_type
from cytoloc.errors import ImageError
from cytoloc.models import subcell
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
