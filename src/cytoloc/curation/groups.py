"""Which fields must not be separated: those of a well, of an antibody, and near-duplicates of each other."""

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

KEYS: Final[dict[GroupBy, tuple[str, ...]]] = {"well": ("plate", "well"), "antibody": ("antibody",), "field": ("id",)}
"""Columns of a dataset's table in which fields that belong together agree."""

_Key = tuple[str | None, ...]


def groups_of_fields(
    fields: pl.DataFrame, *, group_by: GroupBy = "well", pairs: Sequence[tuple[str, str]] = ()
) -> IntArray:
    """Return a group number per field, 0 … in order of first appearance.

    Pairs tie fields directly or through other fields. A pair may name a field of another source, which is not in the
    table: fields that are paired with it, or with other such fields of its well, belong to one group.

    Args:
        fields: With the columns ``id``, ``antibody``, ``plate`` and ``well``.
        group_by: What must not be separated; a field of which it is not known is a group of its own.
        pairs: Near-duplicate fields, by id.

    Raises:
        TableError: If there are pairs, and none of them names a field of the table.
    """
    names: list[str] = fields["id"].to_list()
    node: dict[str, int] = {name: row for row, name in enumerate(names)}
    if pairs and not any(a in node or b in node for a, b in pairs):
        raise TableError(
            f"None of {len(pairs)} pairs names one of these {len(names)} fields; the first is {pairs[0][0]},"
            f" {pairs[0][1]}.",
            hint="Are they pairs of another set of fields?",
        )
    keys: list[_Key | None] = [
        tuple(row) if known else None
        for row, known in zip(fields.select(KEYS[group_by]).iter_rows(), group_known(fields, group_by), strict=True)
    ]
    for name in (name for pair in pairs for name in pair):
        if name not in node:
            node[name] = len(keys)
            # An id may say to which well or antibody the field belongs.
            parts = None if group_by == "field" else parse_hpa_id(name)
            if parts and group_by == "antibody":
                keys.append((parts.antibody,) if parts.antibody else None)
            else:
                keys.append((parts.plate, parts.well) if parts and parts.plate else None)
    links = [(node[a], node[b]) for a, b in pairs]
    first: dict[_Key, int] = {}
    links += [(row, first.setdefault(key, row)) for row, key in enumerate(keys) if key is not None]
    return components(links, len(keys))[: len(names)]


def group_known(fields: pl.DataFrame, group_by: GroupBy) -> BoolArray:
    """Return for which rows of a table of fields it is known what must not be separated.

    A well is identified by plate and well, without the antibody, which many files do not name.
    """
    known = fields.select(pl.all_horizontal(pl.col(KEYS[group_by]).is_not_null())).to_series()
    return np.asarray(known.to_numpy(), np.bool_)


def components(links: Sequence[tuple[int, int]], nodes: int) -> IntArray:
    """Return the number of the connected component of each node, 0 … in order of first appearance.

    Args:
        links: Pairs of nodes that are in one component.
        nodes: The number of nodes.

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
