"""Datasets as PyTorch datasets, for your own training loops."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from cytoloc.choices import check_type
from cytoloc.dataset.store import Dataset
from cytoloc.errors import SettingsError


class FieldDataset(TorchDataset[tuple[Any, Tensor]]):
    """A PyTorch dataset of images and labels.

    Each item is a pair of an image, uint8 of shape ``(channels, size, size)``, and labels, float32 of shape
    ``(locations,)`` with values 0 and 1. Unlabeled fields have labels of 0 only. A ``DataLoader`` reads each batch at
    once, in threads.

    A ``DataLoader`` with ``num_workers`` needs ``multiprocessing_context="spawn"`` or ``"forkserver"``, because
    tensorstore, which reads the images, does not work in a forked process.

    Args:
        dataset: The dataset.
        rows: The rows of the dataset to use, in this order. Default: all rows.
        transform: A function that is applied to each image.

    Raises:
        IndexError: If a row is not in the dataset.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from torch.utils.data import DataLoader
        >>> import cytoloc as cl
        >>> with TemporaryDirectory() as folder:
        ...     dataset = cl.simulate_dataset(Path(folder) / "a.dataset", cl.Design(n_fields=4, seed=1, size=64))
        ...     images, labels = next(iter(DataLoader(FieldDataset(dataset, [3, 1, 2]), batch_size=2)))
        >>> images.shape, labels.shape
        (torch.Size([2, 4, 64, 64]), torch.Size([2, 28]))
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        *,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        check_type(dataset, Dataset, argument="dataset")
        self.dataset = dataset
        self.transform = transform
        self.rows = np.arange(len(dataset)) if rows is None else np.asarray(rows, np.int64)
        outside = self.rows[(self.rows < -len(dataset)) | (self.rows >= len(dataset))]
        if outside.size:
            raise IndexError(f"`rows` contains {outside[0]}, but {dataset.path} has {len(dataset)} fields.")
        self.labels = torch.from_numpy(dataset.truth[self.rows].astype(np.float32))
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        """Return the image and the labels of one item; negative indices count from the end."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, Tensor]]:
        """Return the images and labels of several items, read at once.

        Args:
            indices: The positions of the items.

        Returns:
            One pair of image and labels per index.

        Raises:
            IndexError: If an index is out of range.
            SettingsError: If called in a forked process.
        """
        outside = [index for index in indices if not -len(self) <= index < len(self)]
        if outside:
            raise IndexError(f"The index {outside[0]} is out of range for {len(self)} fields.")
        if os.getpid() != self._process:
            raise SettingsError(
                "FieldDataset cannot read images in a forked process.",
                hint='Create the DataLoader with multiprocessing_context="spawn".',
            )
        images = torch.from_numpy(self.dataset.read(self.rows[indices]))
        return [
            (image if self.transform is None else self.transform(image), self.labels[index])
            for image, index in zip(images, indices, strict=True)
        ]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())
