"""Datasets of other channels, made of simulated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cytoloc.dataset.store import Dataset


class Picked(Dataset):
    """Some channels of a dataset, under names that may be others.

    Args:
        dataset: Where the pixels come from.
        channels: The name of each channel here, and there.
    """

    def __init__(self, dataset: Dataset, channels: Mapping[str, str]) -> None:
        hashes = [pl.col(f"phash_{there}").alias(f"phash_{here}") for here, there in channels.items()]
        fields = dataset.fields.select(~pl.selectors.starts_with("phash_")).hstack(dataset.fields.select(hashes))
        super().__init__(dataset.path, replace(dataset.manifest, channels=tuple(channels)), fields, None)
        self._dataset = dataset
        self._planes = [dataset.channels.index(there) for there in channels.values()]

    def read(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return the channels of the fields in ``rows``."""
        return self._dataset.read(rows)[:, self._planes]
