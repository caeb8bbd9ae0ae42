"""Votes of the nearest labeled fields, as predictions that a decision can combine with those of models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, IntArray
from cytoloc.choices import check_type
from cytoloc.dataset.labeled import LabelSource, known_labels, open_labels
from cytoloc.embed.embeddings import Embeddings
from cytoloc.embed.neighbors import nearest_rows
from cytoloc.errors import FormatError, SettingsError, TableError, first_line
from cytoloc.files import FileFormat, check_format, new_file
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import group_numbers
from cytoloc.predictions import Predictions

NEIGHBORS_FORMAT: Final = FileFormat("cytoloc-neighbors", 1, "file of labeled neighbors of `cytoloc decide fit`")

MEMBER: Final = "neighbors"
"""The name of the votes among the members of a decision."""

DEFAULT_K: Final = 10


@dataclass(frozen=True, repr=False, eq=False)
class LabeledNeighbors:
    """Labeled fields and their features, which vote on the locations of other fields.

    Attributes:
        embeddings: The features of the labeled fields.
        truth: Their labels, bool of shape ``(n, locations)``.
        label_set: The locations.
        k: The number of neighbors that vote.

    Raises:
        SettingsError: If ``k`` is not from 1 to the number of fields.
        TableError: If the model of the features was trained on some of the fields.
    """

    embeddings: Embeddings
    truth: BoolArray
    label_set: LabelSet
    k: int = DEFAULT_K

    def __post_init__(self) -> None:
        if type(self.k) is not int or not 1 <= self.k <= len(self.embeddings):
            raise SettingsError(
                f"`k` is {self.k!r}, but must be from 1 to {len(self.embeddings)}, the number of labeled fields."
            )
        seen = self.embeddings.provenance.get("fields_trained_on", 0)
        if seen:
            raise TableError(
                f"The model of the features was trained on {seen} of these fields, so the votes would be biased.",
                hint="Compute the features with a model that was not trained on these fields, such as builtin.",
            )

    def __repr__(self) -> str:
        return f"LabeledNeighbors({len(self.embeddings)} labeled fields of {self.label_set.name}, k={self.k})"

    def __call__(self, embeddings: Embeddings) -> Predictions:
        """Return the votes on other fields.

        Args:
            embeddings: The features of the fields. A field with the id of a labeled field does not vote on itself.

        Returns:
            The share of the votes for each location; see :func:`cytoloc.neighbor_votes`.

        Raises:
            SettingsError: If the features are of another model.
            TableError: If the features have another width, or a field has too few neighbors.
        """
        ids = np.unique(np.array((*self.embeddings.ids, *embeddings.ids)), return_inverse=True)[1]
        return self._votes(embeddings, ids[: len(self.embeddings)], ids[len(self.embeddings) :])

    def out_of_fold(self, groups: IntArray) -> Predictions:
        """Return the votes on the labeled fields themselves. Fields of one group do not vote on each other.

        Args:
            groups: The group of each labeled field, shape ``(n,)``.

        Returns:
            The share of the votes for each location.

        Raises:
            TableError: If a field has too few neighbors in other groups.
        """
        return self._votes(self.embeddings, groups, groups)

    def _votes(self, embeddings: Embeddings, groups: IntArray, own_groups: IntArray) -> Predictions:
        """Return the votes of labeled fields in ``groups`` on fields in ``own_groups``, of other groups only."""
        mine, theirs = self.embeddings.features, embeddings.features
        if mine.shape[1] != theirs.shape[1]:
            raise TableError(
                f"The features have the width {theirs.shape[1]}, but those of the labeled fields {mine.shape[1]}.",
                hint="Compute both with one model.",
            )
        if embeddings.model != self.embeddings.model:
            raise SettingsError(
                "The features are of another model than those of the labeled fields.",
                hint="Compute both with one model.",
            )
        others = len(groups) - np.bincount(groups, minlength=int(own_groups.max()) + 1)[own_groups]
        if (others < self.k).any():
            few = int(others.argmin())
            raise TableError(
                f"{embeddings.ids[few]} has {others[few]} labeled fields in other groups, but `k` is {self.k}.",
                hint="Give a smaller `k`, or more labeled fields.",
            )
        nearest, likeness = nearest_rows(theirs, mine, self.k, groups=(groups, own_groups))
        weights = likeness.clip(min=0)
        votes = np.einsum("nk,nkl->nl", weights, self.truth[nearest])
        shares = (votes + self.truth.mean(axis=0)) / (weights.sum(axis=1, keepdims=True) + 1)
        provenance = {
            "method": "neighbors",
            "k": self.k,
            "labeled_fields": len(self.embeddings),
            "model": embeddings.model,
        }
        return Predictions(embeddings.ids, shares.astype(np.float32), self.label_set, provenance)


def labeled_neighbors(embeddings: Embeddings, labels: LabelSource, *, k: int = DEFAULT_K) -> LabeledNeighbors:
    """Return the labeled fields that vote on the locations of other fields.

    Args:
        embeddings: The features of the fields. Fields without labels are left out.
        labels: The labels: a dataset, a label list, or the path of either.
        k: The number of neighbors that vote.

    Returns:
        The labeled fields. Call the result with the features of other fields to get votes.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If ``k`` is not from 1 to the number of labeled fields.
        TableError: If no field is labeled, or the model of the features was trained on some of the fields.
    """
    check_type(embeddings, Embeddings, argument="embeddings")
    source = open_labels(labels)
    known = known_labels(source)
    rows = [row for row, name in enumerate(embeddings.ids) if name in known]
    if not rows:
        raise TableError("None of the fields with features is labeled.", hint="Give the labels of these fields.")
    ids = tuple(embeddings.ids[row] for row in rows)
    truth = source.label_set.to_matrix([known[name] for name in ids])
    some = Embeddings(ids, embeddings.features[rows], embeddings.model, embeddings.provenance)
    return LabeledNeighbors(some, truth, source.label_set, k)


def neighbor_votes(
    embeddings: Embeddings,
    labels: LabelSource,
    *,
    groups: pl.DataFrame | None = None,
    reference: Embeddings | None = None,
    k: int = DEFAULT_K,
) -> Predictions:
    """Return the votes of the nearest labeled fields, as predictions.

    The ``k`` labeled fields with the highest cosine similarity vote for their locations. The similarity is the weight
    of a vote. The frequency of the location among all labeled fields counts as one more vote with the weight 1, so
    that no share is 0 or 1. Give the result to :func:`cytoloc.fit_decision` as a member.

    Args:
        embeddings: The features of the fields.
        labels: The labels of the fields that vote.
        groups: Without ``reference``, a table with the columns ``id`` and ``group``, such as folds. The fields vote on
            each other, but never on fields of their group.
        reference: The features of the labeled fields, to vote on other fields. Default: ``embeddings``.
        k: The number of neighbors that vote.

    Returns:
        The share of the votes for each location. Without ``reference``, only of labeled fields.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If neither or both of ``groups`` and ``reference`` are given, ``k`` is out of range, or the
            features are of different models.
        TableError: If ``groups`` lacks a column or a field, features differ in width, no field is labeled, or a field
            has too few neighbors in other groups.

    Examples:
        >>> votes = neighbor_votes(features, dataset, groups=folds)  # doctest: +SKIP
        >>> rule = fit_decision({"model": out_of_fold, "neighbors": votes}, dataset, groups=folds)  # doctest: +SKIP
        >>> new_votes = neighbor_votes(new, dataset, reference=features)  # doctest: +SKIP
        >>> rule({"model": predictions, "neighbors": new_votes})  # doctest: +SKIP
    """
    check_type(embeddings, Embeddings, argument="embeddings")
    source = open_labels(labels)
    check_type(groups, (pl.DataFrame, type(None)), argument="groups")
    check_type(reference, (Embeddings, type(None)), argument="reference")
    if (groups is None) == (reference is None):
        raise SettingsError(
            "Give either `groups` or `reference`.",
            hint="With `groups`, labeled fields vote on each other; with `reference`, on other fields.",
        )
    known = labeled_neighbors(embeddings if reference is None else reference, source, k=k)
    if groups is None:
        return known(embeddings)
    return known.out_of_fold(group_numbers(groups, known.embeddings.ids, where="`groups`"))


def write_neighbors(neighbors: LabeledNeighbors, path: Path) -> None:
    """Write labeled fields that vote to a new Parquet file, with 16 bits per feature.

    Args:
        neighbors: The labeled fields.
        path: The file.

    Raises:
        OutputExistsError: If the file exists.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = neighbors.embeddings
    flat = pa.array(known.features.astype(np.float16).ravel())
    columns = [
        pa.array(known.ids, pa.string()),
        pa.array([np.flatnonzero(row).tolist() for row in neighbors.truth], pa.list_(pa.int32())),
        pa.FixedSizeListArray.from_arrays(flat, known.features.shape[1]),
    ]
    header = {
        **NEIGHBORS_FORMAT.header,
        "model": known.model,
        "k": neighbors.k,
        "label_set": neighbors.label_set.to_json(),
        "provenance": known.provenance,
    }
    table = pa.table(columns, names=["id", "labels", "features"])
    with new_file(path) as temporary:
        pq.write_table(table.replace_schema_metadata({"cytoloc": json.dumps(header)}), temporary)


def read_neighbors(path: Path) -> LabeledNeighbors:
    """Read labeled fields that :func:`write_neighbors` wrote.

    Args:
        path: The file.

    Returns:
        The labeled fields.

    Raises:
        FormatError: If the file is not such a file of this version, or is damaged.
        TableError: If the file does not exist.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise TableError(f"The file {path} does not exist.", hint="Keep it beside the decision.")
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {}).get(b"cytoloc", b"{}"))
    except (pa.ArrowInvalid, ValueError) as error:
        raise FormatError(
            f"{path} cannot be read as Parquet: {first_line(error)}.", hint="Fit the decision again."
        ) from error
    check_format(header if isinstance(header, dict) else {}, NEIGHBORS_FORMAT, where=path)
    features = table["features"].combine_chunks().flatten().to_numpy().astype(np.float32).reshape(len(table), -1)
    label_set = LabelSet.from_json(header["label_set"])
    ids = tuple(table["id"].to_pylist())
    embeddings = Embeddings(ids, features, header["model"], header["provenance"])
    return LabeledNeighbors(embeddings, label_set.to_matrix(table["labels"].to_pylist()), label_set, header["k"])
