"""Figures as PNG files: training curves, F1 per class, contact sheets, duplicates and folds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from cytoloc._typing import IntArray, UInt8Array
from cytoloc.choices import check_type, near
from cytoloc.dataset.store import Dataset
from cytoloc.decide.evaluation import Evaluation
from cytoloc.errors import SettingsError, TableError, UnknownIdError
from cytoloc.files import disk_errors, new_files
from cytoloc.images.hashes import turned
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions
from cytoloc.report.panels import composite, legend, panel, shortened

RIGHT, MISSED, WRONG = "#1a7f37", "#9a6700", "#cf222e"
COLUMNS: Final = 3

FIELDS_SHOWN: Final = 12
"""Default number of fields on a contact sheet."""


def training_curve(logs: Mapping[str, str | Path], path: str | Path) -> None:
    """Draw loss and macro F1 over epochs, one line per run.

    Args:
        logs: The ``log.csv`` of each run, by the name of the run.
        path: The PNG file. An existing file is replaced.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
    """
    check_type(logs, Mapping, argument="logs")
    check_type(path, (str, Path), argument="path")
    figure = Figure(figsize=(9, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for number, (name, log) in enumerate(logs.items()):
        table = pl.read_csv(log, glob=False)
        color = f"C{number}"
        losses.plot(table["epoch"], table["train_loss"], color=color, linestyle=":")
        losses.plot(table["epoch"], table["val_loss"], color=color)
        scores.plot(table["epoch"], table["val_macro_f1"], color=color, label=name)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss: validation (solid) and training (dotted)")
    scores.set(xlabel="epoch", ylabel="macro F1, threshold 0.5", title="Validation fold, before thresholds are fitted")
    scores.set_ylim(bottom=0)
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    # The legend is below the axes, where it covers no line.
    figure.legend(*scores.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    _save_figure(figure, path, dpi=150)


def score_plot(evaluation: Evaluation, path: str | Path) -> None:
    """Draw the F1 of each class with its interval and chance level, ordered by frequency.

    Args:
        evaluation: The evaluation.
        path: The PNG file. An existing file is replaced.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
    """
    check_type(evaluation, Evaluation, argument="evaluation")
    check_type(path, (str, Path), argument="path")
    classes = evaluation.classes
    rows = classes.filter((pl.col("positives") > 0) | (pl.col("predicted") > 0)).sort("positives")
    height = 1.4 + 0.24 * max(rows.height, 1)
    figure = Figure(figsize=(7.5, height), layout="constrained")
    axes = figure.subplots()
    places = np.arange(rows.height)
    values = rows["f1"].fill_null(0.0).to_numpy()
    ends = np.stack(
        [np.maximum(values - rows["f1_low"].to_numpy(), 0), np.maximum(rows["f1_high"].to_numpy() - values, 0)]
    )
    axes.barh(places, values, height=0.62, color="C0", label="F1")
    axes.errorbar(values, places, xerr=ends, fmt="none", ecolor="0.25", elinewidth=1, label="95 % interval")
    axes.scatter(rows["chance_f1"], places, marker="|", s=70, color=WRONG, label="chance", zorder=3)
    names = [f"{name}  ({count})" for name, count in rows.select("location", "positives").iter_rows()]
    axes.set_yticks(places, names, size=8)
    axes.axvline(evaluation.macro_f1, color="gray", linestyle=":", linewidth=1, label="macro F1")
    low, high = evaluation.interval_by_group or evaluation.interval
    over = f"over {classes.height} locations, {evaluation.fields} fields"
    title = f"macro F1 {evaluation.macro_f1:.3f} ({low:.3f} to {high:.3f}) {over}"
    absent = classes.height - rows.height
    below = f"F1; {absent} more classes have no fields and are not predicted, and count as 0" if absent else "F1"
    axes.set(xlim=(0, 1), ylim=(-0.6, rows.height - 0.4), xlabel=below, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    _save_figure(figure, path, dpi=150)


def contact_sheet(
    dataset: Dataset,
    out: str | Path = "contact-sheet.png",
    *,
    ids: Sequence[str] | None = None,
    predictions: Predictions | Mapping[str, tuple[int, ...]] | None = None,
) -> list[str]:
    """Draw a contact sheet of fields, with the locations that are correct, missed and wrong.

    Args:
        dataset: The dataset.
        out: The PNG file. An existing file is replaced.
        ids: The ids of the fields. Default: twelve fields, evenly spaced in the dataset.
        predictions: Predictions with decided locations, or indices of locations by id. Only their fields are drawn.

    Returns:
        The ids of the fields that were drawn.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        UnknownIdError: If the dataset or the predictions lack a field.
        LabelSetError: If the predictions have another label set.
        SettingsError: If the predictions have no decided locations.
        TableError: If the predictions contain none of the fields.
    """
    check_type(dataset, Dataset, argument="dataset")
    check_type(out, (str, Path), argument="out")
    called: Mapping[str, tuple[int, ...]] | None
    if not isinstance(predictions, Predictions):
        called = predictions
    else:
        dataset.label_set.refuse_other(predictions.label_set, what="`predictions`", than=str(dataset.path))
        indices = {place.key: number for number, place in enumerate(dataset.label_set)}
        found = zip(predictions.ids, predictions.locations, strict=True)
        called = {name: tuple(indices[place.key] for place in places) for name, places in found}
    if ids is None:
        known = [name for name in dataset.ids if called is None or name in called]
        # Adjacent fields are often from the same well, and look alike.
        step = max(1.0, len(known) / FIELDS_SHOWN)
        ids = [known[int(place * step)] for place in range(min(FIELDS_SHOWN, len(known)))]
    if not ids:
        raise TableError(f"{dataset.path} has none of the predicted fields.", hint="Give predictions of this dataset.")
    rows = [dataset.row(name) for name in ids]
    for name in ids:
        if called is not None and name not in called:
            raise UnknownIdError(f"The predictions have no field {name!r}.", hint=near(name, list(called)[:1000]))
    labels = dataset.fields["labels"].to_list()
    field_grid(
        dataset.read(rows),
        ids,
        [None if labels[row] is None else tuple(labels[row]) for row in rows],
        None if called is None else [called[name] for name in ids],
        Path(out),
        channels=dataset.channels,
        label_set=dataset.label_set,
    )
    return list(ids)


def field_grid(
    images: UInt8Array,
    names: Sequence[str],
    truth: Sequence[tuple[int, ...] | None],
    predicted: Sequence[tuple[int, ...]] | None,
    path: Path,
    *,
    channels: Sequence[str],
    label_set: LabelSet,
) -> None:
    """Draw fields in a grid: composite, protein, the other channels smaller, and the locations below.

    Args:
        images: uint8 of shape ``(n, channels, size, size)``.
        names: The ids of the fields.
        truth: The true locations of each field; None if unknown.
        predicted: The predicted locations of each field. None: only the true locations are shown.
        path: The PNG file. An existing file is replaced.
        channels: The names of the channels.
        label_set: The label set of the locations.
    """
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + max(max(1, len({*(t or ()), *p})) for t, p in zip(truth, predicted or [()] * len(truth), strict=True))
    # A panel of the protein alone is a square; other panels are more than twice as wide as high.
    across, down = (2.8, 2.8) if len(channels) == 1 else (4.2, 1.85)
    inches = down + 0.15 * lines
    heading = 0.3 if predicted is None else 0.5
    figure = Figure(figsize=(across * columns, inches * rows + heading))
    top = 1 - heading / figure.get_figheight()
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, top=top, bottom=0.0, wspace=0.03, hspace=0.0)
    for axes in grid.flat:
        axes.axis("off")
        axes.set_anchor("N")
    for number, (image, axes) in enumerate(zip(images, grid.flat, strict=False)):
        axes.imshow(panel(image, channels), interpolation="antialiased")
        name = shortened(names[number], round(72 * across / 4.2))
        true, called = truth[number], None if predicted is None else predicted[number]
        if true is None:
            captions = [(label_set[i].name, "black") for i in called or ()] or [("unlabeled", "gray")]
        elif called is None:
            captions = [(label_set[i].name, "black") for i in true]
        else:
            captions = [(f"✓ {label_set[i].name}", RIGHT) for i in true if i in called]
            captions += [(f"○ {label_set[i].name}", MISSED) for i in true if i not in called]
            captions += [(f"✗ {label_set[i].name}", WRONG) for i in called if i not in true]
        for line, (text, color) in enumerate([(name, "gray"), *captions]):
            axes.annotate(
                text,
                (0, 0),
                (1, -3 - 10 * line),
                "axes fraction",
                "offset points",
                va="top",
                color=color,
                size=8 if line else 6,
            )
    height, width = figure.get_figheight(), figure.get_figwidth()
    figure.text(0.01, 1 - 0.08 / height, legend(channels), color="gray", va="top", size=8)
    marks = (("✓ correct", RIGHT), ("○ missed", MISSED), ("✗ wrong", WRONG))
    for place, (text, color) in enumerate(marks if predicted is not None else ()):
        figure.text(0.01 + 0.8 * place / width, 1 - 0.28 / height, text, color=color, va="top", size=8)
    _save_figure(figure, path, dpi=120)


def duplicates_sheet(pairs: pl.DataFrame, datasets: Sequence[Dataset], path: str | Path) -> None:
    """Draw pairs of near-duplicate fields side by side. The first field is rotated and mirrored like the second.

    Args:
        pairs: Rows of the table of :func:`cytoloc.curation.duplicates.find_duplicates`.
        datasets: The datasets that were searched.
        path: The PNG file. An existing file is replaced.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
    """
    check_type(pairs, pl.DataFrame, argument="pairs")
    check_type(datasets, (list, tuple), argument="datasets")
    check_type(path, (str, Path), argument="path")
    opened = {str(dataset.path): dataset for dataset in datasets}
    columns = min(2, pairs.height)
    rows = -(-pairs.height // columns)
    figure = Figure(figsize=(5.2 * columns, 2.95 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for pair, axes in zip(pairs.iter_rows(named=True), grid.flat, strict=False):
        one, other = opened[pair["dataset_a"]], opened[pair["dataset_b"]]
        left = composite(turned(one[pair["a"]], pair["transform"]), one.channels)
        size = len(left)
        shown = np.full((size, 2 * size + max(1, size // 50), 3), 255, np.uint8)
        shown[:, :size], shown[:, -size:] = left, composite(other[pair["b"]], other.channels)
        axes.imshow(shown, interpolation="antialiased")
        axes.set_title(f"correlation {pair['correlation']:.2f}, {pair['transform']}", size=8)
        for place, text in ((0.0, pair["a"]), (0.51, pair["b"])):
            axes.text(place, -0.02, text, color="gray", va="top", size=5.5, transform=axes.transAxes)
    _save_figure(figure, path, dpi=120)


def fold_sheet(fields: IntArray, sizes: IntArray, label_set: LabelSet, path: str | Path) -> None:
    """Draw the number of fields per location and fold, colored by the difference from the fold's share.

    Differences below one field have no color.

    Args:
        fields: Number of fields, shape ``(locations, folds)``. Locations without fields are left out.
        sizes: Total number of fields per fold, shape ``(folds,)``. A fold with a fifth of all fields should have a
            fifth of the fields of each location.
        label_set: The locations.
        path: The PNG file. An existing file is replaced.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If ``fields`` has another shape.
    """
    check_type(fields, np.ndarray, argument="fields")
    check_type(sizes, np.ndarray, argument="sizes")
    check_type(label_set, LabelSet, argument="label_set")
    check_type(path, (str, Path), argument="path")
    if fields.shape != (len(label_set), len(sizes)):
        raise SettingsError(
            f"`fields` has the shape {fields.shape}, but {(len(label_set), len(sizes))} is needed.",
            hint="Give one row per location and one column per fold.",
        )
    rows = np.flatnonzero(fields.sum(axis=1))
    rows = rows[np.argsort(-fields[rows].sum(axis=1), kind="stable")]
    counts = fields[rows]
    share = counts.sum(axis=1, keepdims=True) * sizes / sizes.sum()
    figure = Figure(figsize=(4.5 + 0.7 * counts.shape[1], 1.6 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    # Folds of whole fields differ by up to one field.
    apart = np.where(np.abs(counts - share) < 1, 0, counts / share - 1)
    drawn = axes.imshow(100 * apart, cmap="RdBu", vmin=-25, vmax=25, aspect="auto")
    for (row, fold), count in np.ndenumerate(counts):
        far = abs(apart[row, fold]) > 0.18
        axes.text(fold, row, f"{count:,}", ha="center", va="center", size=7, color="white" if far else "black")
    axes.set_xticks(range(counts.shape[1]), [f"fold {fold}" for fold in range(counts.shape[1])])
    axes.set_yticks(range(len(rows)), [label_set.names[row] for row in rows])
    axes.tick_params(length=0, labelsize=8)
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=axes, extend="both", shrink=0.6, label="% more or fewer than the fold's share")
    bar.outline.set_visible(False)
    _save_figure(figure, path, dpi=150)


def _save_figure(figure: Figure, path: str | Path, *, dpi: int) -> None:
    """Write a PNG file atomically, replacing an existing one."""
    path = Path(path)
    with disk_errors(path), new_files(images=[path]) as temporary, warnings.catch_warnings():
        # A letter that is in no installed font is drawn as an empty rectangle.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary[path], dpi=dpi, format="png")
