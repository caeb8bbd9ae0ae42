"""The dataset that the page shows: predictions, filters, neighbors and labels that users save."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from cytoloc._typing import BoolArray, Float32Array, IntArray, UInt8Array
from cytoloc.choices import refuse_unknown
from cytoloc.dataset.store import Dataset
from cytoloc.embed.embeddings import Embeddings
from cytoloc.embed.neighbors import find_neighbors
from cytoloc.embed.novelty import comparable, farthest_first
from cytoloc.errors import FormatError, LabelSetError, SettingsError, StorageError, TableError, first_line
from cytoloc.files import existing, replace_file
from cytoloc.labels.lists import read_csv, require_columns
from cytoloc.predict.model import Model
from cytoloc.predict.planes import find_planes
from cytoloc.predict.sources import DatasetSource
from cytoloc.predictions import Predictions, rows_of
from cytoloc.serve.batching import Batcher
from cytoloc.serve.guards import LOG

Show = Literal["all", "predicted", "labeled", "unlabeled", "corrected", "different", "caution"]
"""Which fields the gallery shows. ``different`` are labeled fields whose labels the prediction does not confirm."""

Sort = Literal["id", "probability", "uncertainty", "novelty", "well"]
"""The order of the gallery. ``uncertainty`` is the sum of the entropies of all probabilities. ``novelty`` is the
distance of features from those of all labeled fields, and from fields that are more novel."""

METADATA: Final = ("plate", "well", "field", "antibody", "gene", "cell_line")

_SLICE: Final = 64
"""Number of fields that are predicted at a time, so that requests need not wait for the whole dataset."""


class GalleryFilter(BaseModel):
    """Which fields the gallery shows, in which order; the parameters of an address."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    show: Show = Field("all", description="The kind of fields.")
    location: str = Field("", max_length=200, description="Key of a location.")
    min_probability: float = Field(0.0, ge=0, le=1, description="Smallest probability of the location.")
    plate: str = Field("", max_length=200, description="Plate.")
    well: str = Field("", max_length=200, description="Well.")
    text: str = Field("", max_length=200, description="A part of the id.")
    sort: Sort = Field(
        "id",
        description="The order. Probabilities are those of the location, or the largest ones of each field. Fields of"
        " high novelty should be labeled first. The first request for novelty computes all features.",
    )
    descending: bool = Field(default=False, description="Whether the largest value comes first.")
    offset: int = Field(0, ge=0, le=100_000_000, description="Number of fields before the first one.")
    limit: int = Field(48, ge=1, le=200, description="Maximum number of fields.")


class Gallery:
    """A dataset with predictions.

    Args:
        dataset: The dataset.
        model: The model.
        predictions: Predictions of the dataset by the model. Default: they are computed while the service runs.
        embeddings: Features of the dataset by the model. Default: they are computed when neighbors are asked for.
        corrections: CSV file for labels that users save.

    Raises:
        LabelSetError: If the predictions have another label set.
        TableError: If the predictions or the saved labels lack a field of the dataset, or are invalid.
        ChannelError: If the dataset lacks a channel of the model.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: Model,
        *,
        predictions: Predictions | None = None,
        embeddings: Embeddings | None = None,
        corrections: Path | None = None,
    ) -> None:
        self.dataset = dataset
        self.model = model
        self.planes = find_planes(model.channels, dataset.channels, where=str(dataset.path))
        self.pixel_um = dataset.pixel_sizes(dataset.size)
        count, many = len(dataset), len(model.label_set)
        self.probabilities: Float32Array = np.full((count, many), np.nan, np.float32)
        self.decided: BoolArray | None = None if model.decision is None else np.zeros((count, many), np.bool_)
        self.cautions = [""] * count
        self.provenance: dict[str, object] = {}
        self.done = 0
        self.error = ""
        if predictions is not None:
            model.label_set.refuse_other(predictions.label_set, what="`predictions`", than="the model")
            predictions.rows(dataset.ids, where="`predictions`")  # raises if a field is missing
            self._store(np.arange(count), predictions[list(dataset.ids)])
            self.done = count
        if embeddings is not None:
            if embeddings.model != model.fingerprint:
                raise SettingsError(
                    "`embeddings` has the features of another model.", hint="Run `cytoloc embed` with this model."
                )
            order = rows_of(dataset.ids, embeddings.ids, where="`embeddings`")
            embeddings = Embeddings(dataset.ids, embeddings.features[order], embeddings.model)
        self.embeddings = embeddings
        self._embedding = asyncio.Lock()
        self._novel: tuple[bytes, IntArray] | None = None
        self.labels: BoolArray | None = None
        self.labeled = np.zeros(count, np.bool_)
        if dataset.label_set.keys == model.label_set.keys:
            self.labels, self.labeled = dataset.truth, dataset.labeled
        self.corrections = Corrections(corrections, dataset, model)

    def _store(self, rows: IntArray, found: Predictions) -> None:
        """Store the predictions of some rows."""
        self.probabilities[rows] = found.probabilities
        decided = found.decided
        if decided is None:  # a predictions file keeps probabilities only
            decided = self.model.decide(found.probabilities, found.cautions)
        if decided is not None:
            if self.decided is None:
                self.decided = np.zeros_like(self.probabilities, np.bool_)
            self.decided[rows] = decided
        for row, text in zip(rows.tolist(), found.cautions, strict=False):
            self.cautions[row] = text
        self.provenance = found.provenance

    async def predict(self, batcher: Batcher) -> None:
        """Predict all fields, in slices, so that requests need not wait for the whole dataset."""
        while self.done < len(self.dataset):
            rows = np.arange(self.done, min(self.done + _SLICE, len(self.dataset)))
            try:
                found = await batcher.in_thread(self.model.predict_sources, [DatasetSource(self.dataset, rows)])
            except Exception as error:  # noqa: BLE001  see below
                # Broad on purpose: whatever a library raises, it is logged, and the page shows it.
                LOG.exception("The dataset could not be predicted.")
                self.error = f"The dataset could not be predicted: {first_line(error)}."
                return
            self._store(rows, found)
            self.done += len(rows)

    def predictions(self) -> Predictions:
        """Return the predictions of all fields that are predicted."""
        every = np.arange(self.done)
        return Predictions(
            tuple(self.dataset.ids[: self.done]),
            self.probabilities[every],
            self.model.label_set,
            dict(self.provenance),
            None if self.decided is None else self.decided[every],
            {},
            tuple(self.cautions[: self.done]),
        )

    def predictions_of(self, row: int) -> Predictions | None:
        """Return the predictions of one field; None if it is not predicted yet."""
        if row >= self.done:
            return None
        return Predictions(
            (self.dataset.ids[row],),
            self.probabilities[row : row + 1],
            self.model.label_set,
            dict(self.provenance),
            None if self.decided is None else self.decided[row : row + 1],
            {},
            (self.cautions[row],),
        )

    @property
    def uncertainty(self) -> Float32Array:
        """The sum of the entropies of the probabilities of each field, in bits; NaN for fields without predictions."""
        p = np.clip(self.probabilities, 1e-6, 1 - 1e-6)
        return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum(axis=1), np.float32)

    def find(self, wanted: GalleryFilter) -> IntArray:
        """Return the rows of fields, in order.

        Args:
            wanted: Which fields, in which order.

        Returns:
            The rows, shape ``(n,)``.

        Raises:
            SettingsError: If a word of the filter is unknown.
        """
        kept = np.ones(len(self.dataset), np.bool_)
        column = self._column(wanted.location) if wanted.location else None
        strongest = np.nan_to_num(self.probabilities.max(axis=1) if column is None else self.probabilities[:, column])
        if wanted.show == "predicted":
            kept &= self._found(column)
        elif wanted.show in ("labeled", "unlabeled"):
            kept &= self.labeled == (wanted.show == "labeled")
            if column is not None and self.labels is not None and wanted.show == "labeled":
                kept &= self.labels[:, column]
        elif wanted.show == "corrected":
            kept &= np.isin(np.arange(len(kept)), list(self.corrections.rows))
        elif wanted.show == "different":
            kept &= self._different(column)
        elif wanted.show == "caution":
            kept &= np.array([bool(text) for text in self.cautions], np.bool_)
        if wanted.min_probability > 0:
            kept &= strongest >= wanted.min_probability
        for name in ("plate", "well"):
            if value := getattr(wanted, name):
                kept &= (self.dataset.fields[name].fill_null("") == value).to_numpy()
        if wanted.text:
            kept &= self.dataset.fields["id"].str.contains(wanted.text, literal=True).to_numpy()
        rows = np.flatnonzero(kept)
        keys: IntArray | Float32Array
        if wanted.sort == "probability":
            keys = strongest[rows]
        elif wanted.sort == "uncertainty":
            keys = np.nan_to_num(self.uncertainty[rows], nan=-1.0)
        elif wanted.sort == "novelty":
            keys = self._novelty()[rows]
        elif wanted.sort == "well":
            keys = _ranks(self.dataset.fields.select(pl.concat_str(["plate", "well"], ignore_nulls=True)).to_series())[
                rows
            ]
        else:
            keys = _ranks(self.dataset.fields["id"])[rows]
        order = np.argsort(-keys if wanted.descending else keys, kind="stable")
        return np.asarray(rows[order], np.int64)

    def _found(self, column: int | None) -> BoolArray:
        """Return which fields are predicted to have a location, or any."""
        decided = self.probabilities >= 0.5 if self.decided is None else self.decided
        return np.asarray(decided.any(axis=1) if column is None else decided[:, column], np.bool_)

    def _different(self, column: int | None) -> BoolArray:
        """Return which labeled fields have predicted locations other than their labels."""
        if self.labels is None:
            return np.zeros(len(self.dataset), np.bool_)
        decided = self.probabilities >= 0.5 if self.decided is None else self.decided
        differs = decided != self.labels
        is_predicted = np.arange(len(self.dataset)) < self.done
        wrong = differs.any(axis=1) if column is None else differs[:, column]
        return np.asarray(self.labeled & is_predicted & wrong, np.bool_)

    def _column(self, key: str) -> int:
        refuse_unknown(key, self.model.label_set.keys, argument="location")
        return self.model.label_set.keys.index(key)

    def image(self, row: int) -> UInt8Array:
        """Return the image of a field, uint8 of shape ``(channels, size, size)``.

        Raises:
            StorageError: If the dataset cannot be read any more.
        """
        try:
            return self.dataset[row]
        except (FormatError, OSError, ValueError) as error:
            raise StorageError(
                "The dataset cannot be read any more.", hint="Check that it was not moved or removed, and start again."
            ) from error

    async def neighbors(self, row: int, batcher: Batcher, *, k: int) -> list[tuple[int, float]]:
        """Return the rows of the fields whose features are most alike, and their cosine distances.

        Args:
            row: The row of the field.
            batcher: Computes the features of the dataset if there are none.
            k: Number of neighbors.

        Returns:
            Pairs of a row and a distance, the nearest first.
        """
        features = await self.features(batcher)
        one = Embeddings((self.dataset.ids[row],), features.features[row : row + 1], features.model)
        found = await asyncio.to_thread(find_neighbors, one, features, k=min(k, len(features) - 1))
        return list(zip(found.rows[0].tolist(), found.distances[0].tolist(), strict=True))

    async def features(self, batcher: Batcher) -> Embeddings:
        """Return the features of all fields. They are computed, in slices, if there are none yet."""
        async with self._embedding:
            if self.embeddings is None:
                self.embeddings = await self._embed(batcher)
        return self.embeddings

    def _novelty(self) -> IntArray:
        """Return a number for each field that is larger the sooner it should be labeled; 0 for labeled fields.

        The features must have been computed. The numbers are kept until labels are saved or removed.
        """
        if self.embeddings is None:
            raise SettingsError("The features of the dataset are not computed yet.", hint="Ask for neighbors first.")
        labeled = self.labeled.copy()
        labeled[list(self.corrections.rows)] = True
        if self._novel is None or self._novel[0] != labeled.tobytes():
            order = farthest_first(comparable(self.embeddings.features), labeled)
            numbers = np.zeros(len(labeled), np.int64)
            numbers[order] = np.arange(len(order), 0, -1)
            self._novel = labeled.tobytes(), numbers
        return self._novel[1]

    async def _embed(self, batcher: Batcher) -> Embeddings:
        """Compute the features of all fields, in slices."""
        parts = []
        for start in range(0, len(self.dataset), _SLICE):
            some = np.arange(start, min(start + _SLICE, len(self.dataset)))
            resample = self.model.resample or self.model.info.resample or "area"
            batches = DatasetSource(self.dataset, some).batches(self.model.size, _SLICE, resample)
            batch = await asyncio.to_thread(next, batches)
            parts.append(await batcher.in_thread(self.model.features, self.planes.of(batch.images)))
        return Embeddings(tuple(self.dataset.ids), np.concatenate(parts), self.model.fingerprint)

    def metadata(self, row: int) -> dict[str, str]:
        """Return the plate, well and other values of a field that are known."""
        values = self.dataset.fields.row(row, named=True)
        return {name: str(values[name]) for name in METADATA if values[name]}

    def label_keys(self, row: int) -> list[str] | None:
        """Return the keys of the labeled locations of a field; None if it is unlabeled."""
        if self.labels is None or not self.labeled[row]:
            return None
        return [self.model.label_set.keys[place] for place in np.flatnonzero(self.labels[row])]


class Corrections:
    """Labels that users save: a CSV file with the columns ``Id``, ``Target`` and ``saved_at``.

    The file is valid as labels of ``cytoloc import`` and ``cytoloc train``.

    Args:
        path: The file, which is read if it exists. None: labels cannot be saved.
        dataset: The dataset.
        model: The model, whose label set is used.

    Raises:
        TableError: If the file is invalid.
    """

    def __init__(self, path: Path | None, dataset: Dataset, model: Model) -> None:
        self.path = path
        self._dataset = dataset
        self._label_set = model.label_set
        self.rows: dict[int, tuple[tuple[int, ...], str]] = {}
        if path is not None and path.exists():
            table = read_csv(existing(path))
            require_columns(table, ("Id", "Target"), path)
            more = sorted(set(table.columns) - {"Id", "Target", "saved_at"})
            if more:
                raise TableError(
                    f"{path} has the column {more[0]}, which would be lost when labels are saved.",
                    hint="Give a new file as `corrections`.",
                )
            times = table["saved_at"].to_list() if "saved_at" in table.columns else [""] * len(table)
            for name, text, time in zip(table["Id"], table["Target"], times, strict=True):
                self.rows[dataset.row(name)] = (self._label_set.parse(text or "", where=f"{path}, {name}"), time or "")

    def keys(self, row: int) -> list[str] | None:
        """Return the keys of the locations that were saved for a field; None if none were."""
        saved = self.rows.get(row)
        return None if saved is None else [self._label_set.keys[place] for place in saved[0]]

    def save(self, row: int, keys: Iterable[str]) -> None:
        """Save the locations of a field. The file is replaced as a whole.

        Args:
            row: The row of the field.
            keys: The keys of the locations.

        Raises:
            SettingsError: If the service has no file for labels.
            LabelSetError: If a key is unknown.
        """
        unknown = sorted(set(keys) - set(self._label_set.keys))
        if unknown:
            raise LabelSetError(
                f"The label set {self._label_set.name} has no location with the key {unknown[0][:80]!r}."
            )
        places = tuple(sorted({self._label_set.keys.index(key) for key in keys}))
        self._write({**self.rows, row: (places, datetime.now(UTC).isoformat(timespec="seconds"))})

    def remove(self, row: int) -> None:
        """Remove the locations that were saved for a field."""
        self._write({other: saved for other, saved in self.rows.items() if other != row})

    def _write(self, rows: dict[int, tuple[tuple[int, ...], str]]) -> None:
        """Write the file, and keep its content if that succeeded."""
        if self.path is None:
            raise SettingsError(
                "The service has no file for labels.", hint="Start it with `corrections`, the path of a CSV file."
            )
        table = pl.DataFrame(
            {
                "Id": [self._dataset.ids[row] for row in rows],
                "Target": [self._label_set.format(places) for places, _ in rows.values()],
                "saved_at": [time for _, time in rows.values()],
            },
            schema={"Id": pl.String, "Target": pl.String, "saved_at": pl.String},
        )
        replace_file(self.path, table.write_csv().encode())
        self.rows = rows


def _ranks(values: pl.Series) -> IntArray:
    """Return the rank of each text."""
    return np.asarray(values.fill_null("").rank("dense").to_numpy(), np.int64)
