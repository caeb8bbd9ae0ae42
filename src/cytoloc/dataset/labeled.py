"""Sources of labels: a dataset, or a label list in a CSV file."""

from __future__ import annotations

from pathlib import Path

from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ArgumentTypeError, TableError
from cytoloc.labels.label_list import LabelList, read_label_list
from cytoloc.labels.label_set import LabelSet, as_label_set

LabelSource = Dataset | LabelList | str | Path
"""Types that functions accept as labels: a dataset, a label list, or the path of either."""


def open_labels(
    source: LabelSource, *, label_set: LabelSet | str | None = None, argument: str = "labels"
) -> Dataset | LabelList:
    """Return a dataset or label list, opened if it is given as a path.

    Args:
        source: A dataset, a label list, or the path or URL of either.
        label_set: The label set of a CSV file; by default hpa28. A dataset states its own label set, which must match.
        argument: The name of the argument, for error messages.

    Returns:
        The dataset or label list.

    Raises:
        ArgumentTypeError: If ``source`` has another type.
        LabelSetError: If the label set of the source is not ``label_set``.
        TableError: If the file is not a label list.
        FormatError: If the folder is not a dataset.
    """
    chosen = None if label_set is None else as_label_set(label_set)
    if isinstance(source, str | Path):
        if Path(source).is_file():
            return read_label_list(source, chosen or LabelSet.hpa28())
        source = open_dataset(source)
    if not isinstance(source, Dataset | LabelList):
        raise ArgumentTypeError(
            f"`{argument}` must be a dataset, a label list or a path, not {type(source).__name__}.",
            hint="Open it with cytoloc.open_dataset(…) or cytoloc.read_label_list(…).",
        )
    if chosen is not None:
        chosen.refuse_other(source.label_set, what=str(source.path), than="`label_set`")
    return source


def known_labels(source: Dataset | LabelList) -> dict[str, tuple[int, ...]]:
    """Return the labels of the labeled fields.

    Args:
        source: A dataset or a label list.

    Returns:
        Indices of locations, by id.

    Raises:
        TableError: If no field is labeled.
    """
    if isinstance(source, LabelList):
        return dict(source.labels)
    rows = zip(source.ids, source.fields["labels"].to_list(), strict=True)
    labels = {name: tuple(indices) for name, indices in rows if indices is not None}
    if not labels:
        raise TableError(
            f"{source.path} contains no labeled fields.", hint="Give a label list, a CSV file with columns Id,Target."
        )
    return labels
