"""Fields as an ordinary torch dataset, for training loops other than ours."""

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
    """Fields of a dataset with their labels, as pairs of an image and a row of labels.

    An image is uint8 ``(channels, size, size)``, labels are float32 ``(locations,)``, 0 or 1; all 0 where the labels of
    a field are unknown. :meth:`__getitems__`, which a ``DataLoader`` calls, reads a whole batch at once, in threads.

    A ``DataLoader`` with ``num_workers`` needs ``multiprocessing_context="spawn"`` or ``"forkserver"``, since
    tensorstore, which reads the images, does not work in a forked process.

    Args:
        dataset: The dataset.
        rows: The rows to read, in order; by default all.
        transform: Called with each image; its result replaces the image.

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
            raise IndexError(f"rows has {outside[0]}; {dataset.path} has {len(dataset)} fields")
        self.labels = torch.from_numpy(dataset.truth[self.rows].astype(np.float32))
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        """Return the image and the labels of a field; negative indices count from the end."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, Tensor]]:
        """Return images and labels of several fields, which are read at once.

        Raises:
            IndexError: If an index is out of range.
            SettingsError: In a forked process.
        """
        outside = [index for index in indices if not -len(self) <= index < len(self)]
        if outside:
            raise IndexError(f"index {outside[0]} is out of range: there are {len(self)} fields")
        if os.getpid() != self._process:
            raise SettingsError(
                "FieldDataset cannot read images in a forked process.",
                hint='Give the DataLoader multiprocessing_context="spawn".',
            )
        images = torch.from_numpy(self.dataset.read(self.rows[indices]))
        return [
            (image if self.transform is None else self.transform(image), self.labels[index])
            for image, index in zip(images, indices, strict=True)
        ]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())
