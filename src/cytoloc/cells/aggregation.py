"""Predictions of cells, aggregated to fields, wells, antibodies and genes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, Float32Array, FloatArray, IntArray
from cytoloc.choices import check_type, refuse_unknown
from cytoloc.dataset.store import Dataset
from cytoloc.errors import MissingExtraError, SettingsError, TableError, installing
from cytoloc.labels.lists import refuse_repeated
from cytoloc.predictions import Predictions, decided_locations, text_categories

if TYPE_CHECKING:
    import anndata

Level = Literal["field", "well", "antibody", "gene"]
"""What cells are aggregated to."""

Pooling = Literal["mean", "max", "top", "weighted"]
"""How the probabilities of cells become one: their mean, their maximum, the mean of the highest ones, or a weighted
mean."""

LEVELS: Final[dict[Level, tuple[str, ...]]] = {
    "field": ("field",),
    "well": ("plate", "well"),
    "antibody": ("antibody",),
    "gene": ("gene",),
}
"""The columns that are equal for all cells of a group."""

_Z: Final = 1.959964
"""Normal quantile of a 95 % interval."""


@dataclass(frozen=True, repr=False)
class Aggregated:
    """Predictions of cells, aggregated to groups.

    Attributes:
        level: What the groups are: ``"field"``, ``"well"``, ``"antibody"`` or ``"gene"``.
        predictions: A row per group with the aggregated probabilities. They can be decided and evaluated.
        groups: A row per group, with its ``id`` and the numbers of ``cells``, ``fields`` and, for genes,
            ``antibodies``. ``entropy`` is the Shannon entropy of the sets of locations of its cells in bits. It is 0 if
            all cells have the same set. ``variation`` is the share of cells without the most frequent set.
        locations: A row per group and location, with ``id``, ``location``, ``go_id`` and the aggregated
            ``probability``. ``share`` is the share of cells with the location. ``share_low`` and ``share_high`` are its
            95 % Wilson interval. ``spread`` is the standard deviation of the probability between cells.
        left_out: The groups with too few cells, and their number of cells.
    """

    level: Level
    predictions: Predictions
    groups: pl.DataFrame
    locations: pl.DataFrame
    left_out: dict[str, int]

    def __repr__(self) -> str:
        cells = int(self.groups["cells"].sum())
        return f"Aggregated({cells} cells of {self.groups.height} groups by {self.level})"


def aggregate_cells(
    predictions: Predictions,
    *,
    by: Level = "field",
    method: Pooling = "mean",
    top: float = 0.25,
    weights: str | pl.DataFrame | None = None,
    threshold: float | None = None,
    min_cells: int = 1,
    cells: Dataset | pl.DataFrame | None = None,
) -> Aggregated:
    """Aggregate predictions of cells to fields, wells, antibodies or genes.

    Args:
        predictions: Predictions of cells.
        by: What cells are aggregated to. All but ``"field"`` need ``cells``.
        method: ``"mean"``; ``"max"``, the highest probability of any cell; ``"top"``, the mean of the cells with the
            highest probability; or ``"weighted"``, the mean that is weighted by ``weights``.
        top: For ``"top"``, the share of cells, at least one cell.
        weights: For ``"weighted"``, the weight of each cell: a numeric column of ``cells`` or of the predictions, such
            as ``"area"``; or a table with the column ``id``. The table has either a column ``weight``, or a column for
            each location, named by its key, as :func:`cytoloc.attention_weights` returns it.
        threshold: The probability from which a cell has a location. Default: the decision or the thresholds that the
            predictions state; 0.5 if they state none.
        min_cells: Groups with fewer cells are left out.
        cells: The dataset of cells or its table, for wells, antibodies and genes; and for predictions that do not say
            to which field a cell belongs.

    Returns:
        The aggregated predictions and tables.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If a value is out of range, ``cells`` is needed, or ``weights`` is missing or not needed.
        TableError: If cells are missing in ``cells``, a weight is missing or negative, a group is unknown for all
            cells, or no group has enough cells.

    Examples:
        >>> from cytoloc.labels.label_set import LabelSet
        >>> table = pl.DataFrame({"field": ["a"] * 2, "cell": [1, 2], "x": [0.0, 9.0], "y": [0.0, 9.0], "area": [5, 6]})
        >>> found = Predictions(
        ...     ("a_c1", "a_c2"),
        ...     np.array([[0.9, 0.2], [0.7, 0.8]], np.float32),
        ...     LabelSet.from_names(["Cytosol", "Nucleoli"], name="two"),
        ...     cells=table.cast({"x": pl.Float32, "y": pl.Float32}),
        ... )
        >>> aggregate_cells(found).locations.select("location", "share").rows()
        [('Cytosol', 1.0), ('Nucleoli', 0.5)]
    """
    check_type(predictions, Predictions, argument="predictions")
    refuse_unknown(by, get_args(Level), argument="by")
    refuse_unknown(method, get_args(Pooling), argument="method")
    for name, value in (("top", top), ("threshold", threshold)):
        check_type(value, (int, float, type(None)) if name == "threshold" else (int, float), argument=name)
        if value is not None and not 0 < value <= 1:
            raise SettingsError(f"`{name}` is {value}.", hint="Give a value above 0 and at most 1.")
    check_type(weights, (str, pl.DataFrame, type(None)), argument="weights")
    if (weights is not None) != (method == "weighted"):
        raise SettingsError(
            "The method weighted and `weights` belong together.", hint="Give both, or choose another method."
        )
    check_type(min_cells, int, argument="min_cells")
    check_type(cells, (Dataset, pl.DataFrame, type(None)), argument="cells")
    described = _described(predictions, cells, by)
    weight = None if weights is None else _weights(weights, described, predictions)
    groups, left_out = _groups(described, by, min_cells)
    decided = decided_locations(predictions) if threshold is None else None
    has = predictions.probabilities >= (0.5 if threshold is None else threshold) if decided is None else decided
    pooled = np.stack(
        [
            _pooled(predictions.probabilities[rows].astype(np.float64), method, top, weight, rows)
            for rows in groups.values()
        ]
    ).astype(np.float32)
    used = sum(map(len, groups.values())) + sum(left_out.values())
    facts: dict[str, Any] = {"by": by, "method": method, "top": top if method == "top" else None, "cells": used}
    if weights is not None:
        facts["weights"] = weights if isinstance(weights, str) else "a table"
    # What holds for cells does not hold for groups of cells.
    of_cells = {"thresholds", "knowledge", "fields_trained_on", "fields_maybe_trained_on"}
    made = {name: value for name, value in predictions.provenance.items() if name not in of_cells}
    made["aggregated"] = {**facts, "cells_without_group": len(predictions) - used}
    of_groups, of_locations = _tables(groups, predictions, described, pooled, has, by=by)
    found = Predictions(tuple(groups), pooled, predictions.label_set, made)
    return Aggregated(by, found, of_groups, of_locations, left_out)


def _groups(described: pl.DataFrame, by: Level, min_cells: int) -> tuple[dict[str, IntArray], dict[str, int]]:
    """Return the rows of each group with enough cells, and the number of cells of the other groups."""
    key = described.select(pl.concat_str(LEVELS[by], separator="_").alias("group"))["group"]
    if key.null_count() == len(key):
        raise TableError(
            f"The {by} of all cells is unknown.", hint="Aggregate by field, or import fields with metadata."
        )
    places = pl.DataFrame({"group": key, "row": np.arange(len(key))}).drop_nulls("group")
    found = {str(group): some["row"].to_numpy() for (group,), some in places.group_by("group", maintain_order=True)}
    left_out = {group: len(rows) for group, rows in found.items() if len(rows) < min_cells}
    if len(left_out) == len(found):
        raise TableError(f"None of {len(left_out)} groups has {min_cells} cells.", hint="Give a smaller `min_cells`.")
    return {group: rows for group, rows in found.items() if group not in left_out}, left_out


def _weights(weights: str | pl.DataFrame, described: pl.DataFrame, predictions: Predictions) -> FloatArray:
    """Return the weight of each cell, shape ``(cells, 1)`` or ``(cells, locations)``."""
    ids = pl.DataFrame({"id": list(predictions.ids)})
    if isinstance(weights, str):
        if weights not in described.columns or not described[weights].dtype.is_numeric():
            numeric = [each for each in described.columns if described[each].dtype.is_numeric()]
            raise SettingsError(
                f"`weights` is {weights}, which is not a column of numbers.", hint=f"Choose {', '.join(numeric)}."
            )
        table, names = ids.with_columns(described[weights].alias("weight")), ["weight"]
    else:
        table = weights.rename({"Id": "id"}) if "Id" in weights.columns else weights
        names = ["weight"] if "weight" in table.columns else list(predictions.label_set.keys)
        lacking = [name for name in ("id", *names) if name not in table.columns]
        if lacking:
            raise TableError(
                f"`weights` has no column {lacking[0]}.", hint="Give the columns id and weight, or one per location."
            )
        refuse_repeated(table["id"].to_list(), where="`weights`")
        table = ids.join(table.cast({"id": pl.String}), on="id", how="left", maintain_order="left")
    values = table.select(pl.col(names).cast(pl.Float64, strict=False)).to_numpy()
    bad = ~(np.isfinite(values) & (values >= 0)).all(axis=1)
    if bad.any():
        raise TableError(
            f"`weights` has no valid weight for {int(bad.sum())} of {len(bad)} cells, such as"
            f" {predictions.ids[int(bad.argmax())]}.",
            hint="Give each cell a weight of 0 or more.",
        )
    return np.asarray(values, np.float64)


def _tables(
    groups: Mapping[str, IntArray],
    predictions: Predictions,
    described: pl.DataFrame,
    pooled: Float32Array,
    has: BoolArray,
    *,
    by: Level,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the tables :attr:`Aggregated.groups` and :attr:`Aggregated.locations`."""
    locations = predictions.label_set
    counted: list[dict[str, Any]] = []
    tables = []
    for (group, rows), probability in zip(groups.items(), pooled, strict=True):
        own = described[rows.tolist()]
        antibodies = {"antibodies": own["antibody"].n_unique()} if by == "gene" else {}
        counts = {"cells": len(rows), "fields": own["field"].n_unique(), **antibodies}
        counted.append({"id": group, **counts, **heterogeneity(has[rows])})
        low, high = wilson(has[rows].sum(axis=0), len(rows))
        columns = {
            "id": [group] * len(locations),
            "location": list(locations.names),
            "go_id": [each.go_id for each in locations],
            "probability": probability,
            "share": has[rows].mean(axis=0),
            "share_low": low,
            "share_high": high,
            "spread": predictions.probabilities[rows].astype(np.float64).std(axis=0),
        }
        tables.append(pl.DataFrame(columns, schema_overrides={"go_id": pl.String}))
    return pl.DataFrame(counted), pl.concat(tables)


def _described(predictions: Predictions, cells: Dataset | pl.DataFrame | None, by: Level) -> pl.DataFrame:
    """Return the metadata of each predicted cell, in order."""
    if cells is None:
        if predictions.cells is None:
            raise SettingsError(
                "The predictions do not say to which field a cell belongs.", hint="Give `cells`, the dataset of cells."
            )
        if by != "field":
            raise SettingsError(f"Aggregation by {by} needs `cells`.", hint="Give the dataset of cells.")
        return predictions.cells
    table = cells.fields if isinstance(cells, Dataset) else cells
    wanted = {"id", "field", "antibody" if by == "gene" else "field", *LEVELS[by]}
    lacking = wanted - set(table.columns)
    if lacking or "cell" not in table.columns:
        raise TableError(
            f"`cells` has no column {min(lacking | ({'cell'} - set(table.columns)))}.",
            hint="Give a dataset of cells, as `cytoloc segment` writes it.",
        )
    refuse_repeated(table["id"].to_list(), where="`cells`")
    order = pl.DataFrame({"id": list(predictions.ids)})
    described = order.join(table, on="id", how="left", maintain_order="left")
    missing = described["cell"].null_count()
    if missing:
        raise TableError(
            f"{missing} of {len(predictions)} predicted cells are not in `cells`.",
            hint="Give the dataset of cells that was predicted.",
        )
    return described


def _pooled(values: FloatArray, method: Pooling, top: float, weights: FloatArray | None, rows: IntArray) -> FloatArray:
    """Return one probability per location for the probabilities of a group, shape ``(cells, locations)``."""
    if method == "max":
        return np.asarray(values.max(axis=0), np.float64)
    if method == "top":
        count = max(1, round(top * len(values)))
        return np.asarray(np.sort(values, axis=0)[-count:].mean(axis=0), np.float64)
    if weights is None:
        return np.asarray(values.mean(axis=0), np.float64)
    own = np.broadcast_to(weights[rows], values.shape)
    total = own.sum(axis=0)
    if not total.all():
        raise TableError("All cells of a group have the weight 0.", hint="Give some cells of each group a weight.")
    return np.asarray((own * values).sum(axis=0) / total, np.float64)


def wilson(positive: Any, count: int) -> tuple[FloatArray, FloatArray]:
    """Return the 95 % interval of a share by Wilson's method.

    Args:
        positive: The number of positives, an array.
        count: The number of all.

    Returns:
        The lower and upper ends.

    Examples:
        >>> [round(float(end[0]), 3) for end in wilson(np.array([0]), 10)]
        [0.0, 0.278]
    """
    share = np.asarray(positive, np.float64) / count
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)


def heterogeneity(has: BoolArray) -> dict[str, float]:
    """Return how much cells differ in their sets of locations.

    The Human Protein Atlas annotates single-cell variation by eye, in intensity or in location. This is the variation
    in location.

    Args:
        has: Which cells have which location, shape ``(cells, locations)``.

    Returns:
        ``entropy``, the Shannon entropy of the sets in bits; and ``variation``, the share of cells that do not have the
        most frequent set.

    Examples:
        >>> heterogeneity(np.array([[True, False], [True, False], [False, True], [True, True]]))
        {'entropy': 1.5, 'variation': 0.5}
    """
    _, counts = np.unique(has, axis=0, return_counts=True)
    shares = counts / counts.sum()
    return {"entropy": float(-(shares * np.log2(shares)).sum()) + 0.0, "variation": float(1 - shares.max())}


def cell_anndata(predictions: Predictions, *, cells: Dataset | pl.DataFrame | None = None) -> anndata.AnnData:
    """Return an AnnData object with one observation per cell, which scanpy and squidpy open.

    Args:
        predictions: Predictions of cells.
        cells: The dataset of cells or its table, whose columns become ``obs``. Default: the columns in the predictions.

    Returns:
        The object: ``X`` has the probabilities, ``var`` the locations with their Gene Ontology terms, ``obs`` the
        metadata, and ``obsm["spatial"]`` the positions in pixels.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If ``cells`` is needed.
        TableError: If cells are missing in ``cells``.
        MissingExtraError: If anndata is not installed.
    """
    check_type(predictions, Predictions, argument="predictions")
    check_type(cells, (Dataset, pl.DataFrame, type(None)), argument="cells")
    described = _described(predictions, cells, "field")
    try:
        import anndata
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("The library anndata is not installed.", hint=installing("embed")) from error
    observed = pd.DataFrame(index=pd.Index(list(predictions.ids), dtype=object))
    for column in described.columns:
        values = described[column]
        if column == "id" or values.is_null().all():
            continue
        if isinstance(values.dtype, pl.List):
            values = pl.Series([" ".join(map(str, each or ())) for each in values.to_list()])
        is_text = values.dtype == pl.String
        observed[column] = (
            pd.Series(text_categories(values.fill_null("").to_list()), index=observed.index)
            if is_text
            else values.to_numpy()
        )
    locations = predictions.label_set
    variables = pd.DataFrame(
        {"key": list(locations.keys), "go_id": [each.go_id or "" for each in locations]},
        index=pd.Index(list(locations.names), dtype=object),
    ).astype(object)
    made = anndata.AnnData(
        predictions.probabilities, observed, variables, uns={"cytoloc": json.dumps(predictions.provenance)}
    )
    made.obsm["spatial"] = described.select("x", "y").to_numpy()
    return made
