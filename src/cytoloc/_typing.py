"""Types that several modules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]

Progress = Callable[[int, int], None]
"""A function that is called with the number of finished units and their total."""

LabelIndices = Mapping[str, tuple[int, ...]]
"""Indices of locations, by the id of the field."""
