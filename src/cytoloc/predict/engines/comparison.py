"""The int8 networks of a bundle: made from some fields of a dataset, and compared with float32 on other fields."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from cytoloc._typing import BoolArray
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.decide.metrics import macro_f1
from cytoloc.errors import ExportError, SettingsError
from cytoloc.predict.engines.int8 import Int8Graph, quantize
from cytoloc.predict.model import BATCH_SIZE, Model
from cytoloc.predict.planes import find_planes
from cytoloc.predict.sources import DatasetSource
from cytoloc.predictions import Predictions

LEAST_FIELDS: Final = 40
"""Smallest number of fields of a dataset for calibration and comparison."""

CALIBRATION_FIELDS: Final = 300
"""Largest number of fields for calibration."""

COMPARED_FIELDS: Final = 1000
"""Largest number of fields for the comparison."""

MOST_CHANGED: Final = 0.02
"""Largest share of decisions, one per field and location, that int8 may change."""

MOST_LOST_F1: Final = 0.005
"""Largest loss of macro F1."""


@dataclass(frozen=True)
class Int8Report:
    """How far int8 networks agree with float32 networks, for one view of fields that did not calibrate them.

    Attributes:
        dataset: The name of the dataset.
        calibration_fields: Number of fields that calibrated the networks.
        compared_fields: Number of other fields, on which the networks were compared.
        changed_decisions: Share of decisions, one per field and location, that differ.
        spearman: Spearman correlation of the probabilities of all fields and locations.
        macro_f1_float32: Macro F1 of float32 networks. None if no compared field is labeled.
        macro_f1_int8: Macro F1 of int8 networks.
    """

    dataset: str
    calibration_fields: int
    compared_fields: int
    changed_decisions: float
    spearman: float
    macro_f1_float32: float | None = None
    macro_f1_int8: float | None = None

    def __str__(self) -> str:
        text = f"{self.changed_decisions:.2%} of decisions changed, Spearman correlation {self.spearman:.4f}"
        if self.macro_f1_float32 is None or self.macro_f1_int8 is None:
            return text
        return f"{text}, macro F1 {self.macro_f1_int8:.4f} instead of {self.macro_f1_float32:.4f}"

    @property
    def acceptable(self) -> bool:
        """Whether int8 changes few decisions, and loses little macro F1."""
        lost = (self.macro_f1_float32 or 0) - (self.macro_f1_int8 or 0)
        return self.changed_decisions <= MOST_CHANGED and lost <= MOST_LOST_F1

    def to_bytes(self) -> bytes:
        """Return the content of ``int8.json``."""
        return json.dumps(asdict(self), indent=1).encode("utf-8")


def quantize_model(
    model: Model, dataset: str | Path | Dataset, *, seed: int = 0
) -> tuple[tuple[Int8Graph, ...], Int8Report]:
    """Quantize the networks of a model, and compare the result with the model.

    Args:
        model: The model, on the CPU.
        dataset: Fields like those that will be predicted. Up to 300 of them, and at most half, calibrate the networks.
            Up to 1,000 others are compared.
        seed: Random seed of the choice of fields.

    Returns:
        The quantized networks, and the report of the comparison.

    Raises:
        ExportError: If a network cannot be quantized. Or if int8 changes whether a location is predicted for more than
            2 % of the pairs of field and location, or loses more than 0.005 macro F1.
        SettingsError: If the dataset has fewer than 40 fields.
        MissingExtraError: If a library is not installed.
        ChannelError: If the dataset lacks a channel of the model.
        ImageError: If the images of the dataset are smaller than the model needs.
    """
    # Imported late, because it takes long and few need it.
    from scipy.stats import spearmanr

    dataset = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    if len(dataset) < LEAST_FIELDS:
        raise SettingsError(
            f"{dataset.path} has {len(dataset)} fields, but `int8` needs {LEAST_FIELDS}.",
            hint="Give a dataset with more fields.",
        )
    order = np.random.default_rng(seed).permutation(len(dataset))
    calibrating = min(CALIBRATION_FIELDS, len(dataset) // 2)
    others = np.sort(order[calibrating : calibrating + COMPARED_FIELDS])
    planes = find_planes(model.channels, dataset.channels, where=str(dataset.path))
    batches = DatasetSource(dataset, np.sort(order[:calibrating])).batches(
        model.size, BATCH_SIZE, model.info.resample or "area"
    )
    fields = np.concatenate([planes.of(batch.images) for batch in batches])
    graphs = tuple(quantize(network, fields) for network in model.networks)
    int8 = Model(
        model.networks,
        replace(model.info, int8=graphs),
        decision=model.decision,
        device="cpu",
        precision="int8",
        unusual="decide",
    )
    source = DatasetSource(dataset, others)
    exact, rounded = model.predict_sources([source], tta=1), int8.predict_sources([source], tta=1)
    before, after = _decisions(exact), _decisions(rounded)
    rows = np.array([dataset.ids.index(name) for name in exact.ids])
    known = dataset.labeled[rows]
    comparable = known.any() and dataset.label_set == exact.label_set
    truth = dataset.truth[rows][known] if comparable else None
    report = Int8Report(
        dataset=Path(dataset.path).name,
        calibration_fields=calibrating,
        compared_fields=len(rows),
        changed_decisions=float((before != after).mean()),
        spearman=float(spearmanr(exact.probabilities.ravel(), rounded.probabilities.ravel()).statistic),
        macro_f1_float32=None if truth is None else macro_f1(before[known], truth),
        macro_f1_int8=None if truth is None else macro_f1(after[known], truth),
    )
    if not report.acceptable:
        raise ExportError(
            f"The int8 networks differ too much from the float32 networks: {report}. At most {MOST_CHANGED:.0%} of"
            f" decisions may change, and macro F1 may fall by {MOST_LOST_F1}.",
            hint="Write the bundle without int8 networks, or calibrate them with other fields.",
        )
    return graphs, report


def _decisions(found: Predictions) -> BoolArray:
    """Return the decisions; without a decision of the model, probabilities of at least 0.5."""
    return found.probabilities >= 0.5 if found.decided is None else found.decided
