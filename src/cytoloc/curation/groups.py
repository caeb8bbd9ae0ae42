"""Groups of fields that folds keep together: fields of a well or an antibody, and near-duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cytoloc._typing import BoolArray, IntArray
from cytoloc.choices import GroupBy
from cytoloc.errors import TableError
from cytoloc.labels.hpa_names import parse_hpa_id
from cytoloc.labels.ids import alike_note, doubles_note, warn_ids

KEYS: Final[dict[GroupBy, tuple[str, ...]]] = {"well": ("plate", "well"), "antibody": ("antibody",), "field": ("id",)}
"""Columns of the table of a dataset that are equal for all fields of a group."""

_Key = tuple[str | None, ...]


def groups_of_fields(
    fields: pl.DataFrame, *, group_by: GroupBy = "well", pairs: Sequence[tuple[str, str]] = ()
) -> IntArray:
    """Return the group of each field.

    Pairs connect fields directly or through other fields. A pair can contain a field of another source that is not in
    the table. All fields that are paired with this field, or with other such fields of its well, are in one group.

    Args:
        fields: A table with the columns ``id``, ``antibody``, ``plate`` and ``well``. Rows of a dataset of cells also
            have ``cell`` and ``field``; cells of a field are always in one group.
        group_by: What folds keep together. A field with an unknown well or antibody is a group of its own.
        pairs: Near-duplicates, as pairs of ids.

    Returns:
        Group numbers from 0, in order of first appearance, shape ``(n,)``.

    Raises:
        TableError: If there are pairs, and none contains a field of the table.

    Warns:
        IdWarning: If ids look like other ids, but have another spelling.
    """
    names: list[str] = fields["id"].to_list()
    warn_ids(doubles_note(names, where="the fields"))
    node: dict[str, int] = {name: row for row, name in enumerate(names)}
    if pairs and not any(a in node or b in node for a, b in pairs):
        raise TableError(
            f"None of {len(pairs)} pairs contains one of these {len(names)} fields; the first pair is {pairs[0][0]},"
            f" {pairs[0][1]}.{alike_note((name for pair in pairs for name in pair), names)}",
            hint="Give pairs of these fields.",
        )
    if looks := alike_note(dict.fromkeys(name for pair in pairs for name in pair), names):
        warn_ids(f"Some ids in the pairs are not fields of the dataset.{looks}")
    keys: list[_Key | None] = [
        tuple(row) if known else None
        for row, known in zip(fields.select(KEYS[group_by]).iter_rows(), group_known(fields, group_by), strict=True)
    ]
    for name in (name for pair in pairs for name in pair):
        if name not in node:
            node[name] = len(keys)
            # The id may contain the well or antibody of the field.
            parts = None if group_by == "field" else parse_hpa_id(name)
            if parts and group_by == "antibody":
                keys.append((parts.antibody,) if parts.antibody else None)
            else:
                keys.append((parts.plate, parts.well) if parts and parts.plate else None)
    links = [(node[a], node[b]) for a, b in pairs]
    first: dict[_Key, int] = {}
    links += [(row, first.setdefault(key, row)) for row, key in enumerate(keys) if key is not None]
    if "cell" in fields.columns:
        # The rows are cells. Cells of a field always stay together.
        seen: dict[str, int] = {}
        links += [(row, seen.setdefault(name, row)) for row, name in enumerate(fields["field"].to_list())]
    return components(links, len(keys))[: len(names)]


def group_known(fields: pl.DataFrame, group_by: GroupBy) -> BoolArray:
    """Return for which fields the well or antibody is known.

    A well is identified by plate and well, because many files do not state the antibody.

    Args:
        fields: A table of fields.
        group_by: What folds keep together.

    Returns:
        bool of shape ``(n,)``.
    """
    known = fields.select(pl.all_horizontal(pl.col(KEYS[group_by]).is_not_null())).to_series()
    return np.asarray(known.to_numpy(), np.bool_)


def components(links: Sequence[tuple[int, int]], nodes: int) -> IntArray:
    """Return the connected component of each node of a graph.

    Args:
        links: The edges of the graph, as pairs of nodes.
        nodes: The number of nodes.

    Returns:
        Component numbers from 0, in order of first appearance, shape ``(nodes,)``.

    Examples:
        >>> components([(0, 2)], 4).tolist()
        [0, 1, 0, 2]
    """
    if not nodes:
        return np.empty(0, np.int64)
    one, other = np.array(links, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (one, other)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1]
    _, first_row, inverse = np.unique(component, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first_row))
    return np.asarray(rank[inverse], np.int64)
