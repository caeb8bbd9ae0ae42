"""Datasets as layers of napari: a stack of fields per channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from cytoloc._typing import UInt8Array
from cytoloc.channels import HPA_COLORS
from cytoloc.dataset.store import Dataset, open_dataset

LayerData = tuple[Any, dict[str, Any], str]
"""The pixels, the settings and the kind of a layer."""

OTHER_COLORS: Final = ("cyan", "magenta", "bop orange", "gray")


class ChannelStack:
    """One channel of all fields of a dataset, read when it is shown.

    Args:
        dataset: The dataset.
        channel: The position of the channel.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, dataset: Dataset, channel: int) -> None:
        self._dataset = dataset
        self._channel = channel
        self.shape = (len(dataset), dataset.size, dataset.size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> UInt8Array:
        """Return fields, or parts of them, indexed as an array of shape ``(n, size, size)``."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        rows = np.arange(len(self))[first]
        planes = self._dataset.read(np.atleast_1d(rows))[:, self._channel]
        if np.ndim(rows) == 0:
            return np.asarray(planes[0][tuple(rest)], np.uint8)
        return np.asarray(planes[(slice(None), *rest)], np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:  # noqa: FBT001  NumPy calls it so
        """Return all fields."""
        return np.array(self[:], dtype, copy=copy)


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """Return the function that reads a dataset, or None if a path is not a dataset.

    Args:
        path: A folder, or a list of folders.

    Returns:
        :func:`read_layers`, or None.
    """
    paths = [path] if isinstance(path, str) else list(path)
    return read_layers if paths and all((Path(one) / "dataset.json").is_file() for one in paths) else None


def read_layers(path: str | Sequence[str]) -> list[LayerData]:
    """Return the layers of datasets: for each channel an image layer with one slice per field.

    Args:
        path: A folder, or a list of folders.

    Returns:
        The pixels, the settings and the kind of each layer. The metadata of a layer has the ``ids`` of the fields and
        the name of the ``channel``.

    Raises:
        FormatError: If a folder is not a dataset, or is damaged.
    """
    layers: list[LayerData] = []
    for one in [path] if isinstance(path, str) else path:
        dataset = open_dataset(one)
        others = iter(OTHER_COLORS * len(dataset.channels))
        scale = pixel_um(dataset)
        for number, channel in enumerate(dataset.channels):
            settings = {
                "name": f"{Path(one).stem}: {channel}",
                "colormap": HPA_COLORS.get(channel) or next(others),
                "blending": "additive",
                "contrast_limits": (0, 255),
                "rgb": False,
                "metadata": {"channel": channel, "ids": list(dataset.ids), "dataset": str(one)},
            }
            if scale is not None:
                settings |= {"scale": (1, scale, scale), "units": ("pixel", "um", "um")}
            layers.append((ChannelStack(dataset, number), settings, "image"))
    return layers


def pixel_um(dataset: Dataset) -> float | None:
    """Return the pixel size of a dataset in micrometers, if it is known and all fields have the same."""
    sizes = dataset.pixel_sizes(dataset.size)
    return float(sizes[0]) if len(sizes) and np.allclose(sizes, sizes[0]) else None
