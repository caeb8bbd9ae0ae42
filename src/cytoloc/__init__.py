"""cytoloc: where in the cell is the protein?

The names below are the public ones. They are looked up when they are first used, so that ``import cytoloc``
costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cytoloc.channels import CHANNELS as CHANNELS
    from cytoloc.dataset.store import Dataset as Dataset
    from cytoloc.dataset.store import open_dataset as open_dataset
    from cytoloc.errors import CytolocError as CytolocError
    from cytoloc.labels import LabelSet as LabelSet
    from cytoloc.labels import Location as Location
    from cytoloc.predict.loading import load as load
    from cytoloc.prediction_files import read_predictions as read_predictions
    from cytoloc.predictions import Predictions as Predictions

__version__ = "0.1.0"

_HOMES: Final = {
    "Dataset": "cytoloc.dataset.store",
    "open_dataset": "cytoloc.dataset.store",
    "CytolocError": "cytoloc.errors",
    "CHANNELS": "cytoloc.channels",
    "LabelSet": "cytoloc.labels",
    "Location": "cytoloc.labels",
    "load": "cytoloc.predict.loading",
    "Predictions": "cytoloc.predictions",
    "read_predictions": "cytoloc.prediction_files",
}

__all__ = [
    *_HOMES,
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cytoloc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
