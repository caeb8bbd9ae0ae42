"""Figures as PNG, SVG or PDF files: training curves, F1 per class, contact sheets, duplicates and folds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from cytoloc._typing import Float32Array, IntArray, UInt8Array
from cytoloc.channels import PROTEIN
from cytoloc.choices import Palette, check_type, near, refuse_unknown
from cytoloc.dataset.store import Dataset
from cytoloc.decide.evaluation import Evaluation
from cytoloc.errors import SettingsError, TableError, UnknownIdError
from cytoloc.files import disk_errors, new_files
from cytoloc.images.hashes import turned
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions, decided_locations
from cytoloc.report.panels import (
    colors_of,
    composite,
    draw_scale_bar,
    is_imaged,
    legend,
    panel,
    shortened,
    side_centers,
    stretch,
)

RIGHT, MISSED, WRONG = "#1a7f37", "#9a6700", "#cf222e"
COLUMNS: Final = 3

FIELDS_SHOWN: Final = 12
"""Default number of fields on a contact sheet."""

LIKELIEST: Final = 3
"""Number of locations that are shown of predictions without a decision."""


def training_curve(logs: Mapping[str, str | Path], path: str | Path) -> None:
    """Draw loss and macro F1 over epochs, one line per run.

    Args:
        logs: The ``log.csv`` of each run, by the name of the run.
        path: The ``.png``, ``.svg`` or ``.pdf`` file. An existing file is replaced.

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
    scores.set_ylim(0, 1.05 * max(scores.get_ylim()[1], 0.1))
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
        path: The ``.png``, ``.svg`` or ``.pdf`` file. An existing file is replaced.

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


@dataclass(frozen=True, kw_only=True)
class SheetOptions:
    """How a contact sheet is drawn.

    Attributes:
        large: Whether each field is a row with all channels at full size, for publications.
        palette: The colors of the composite: ``"hpa"``, or ``"colorblind"`` for people with red-green color blindness.
        most: Maximum number of fields, evenly spaced in the dataset, if no ids are given.

    Raises:
        ArgumentTypeError: If a value has the wrong type.
        SettingsError: If ``palette`` is unknown or ``most`` is not positive.
    """

    large: bool = False
    palette: Palette = "hpa"
    most: int = FIELDS_SHOWN

    def __post_init__(self) -> None:
        check_type(self.large, bool, argument="large")
        refuse_unknown(self.palette, get_args(Palette), argument="palette")
        check_type(self.most, int, argument="most")
        if self.most < 1:
            raise SettingsError(f"`most` is {self.most}, but must be a positive integer.")


@dataclass(frozen=True, kw_only=True)
class SheetField:
    """A field of a contact sheet.

    Attributes:
        name: The id of the field.
        image: uint8 of shape ``(channels, size, size)``.
        truth: The true locations; None if unknown.
        predicted: The predicted locations; None if there is no decision.
        probabilities: The probability of each location; None if unknown.
        pixel_um: The size of a pixel, in micrometers; NaN if unknown.
    """

    name: str
    image: UInt8Array
    truth: tuple[int, ...] | None = None
    predicted: tuple[int, ...] | None = None
    probabilities: Float32Array | None = None
    pixel_um: float = float("nan")

    def captions(self, label_set: LabelSet) -> list[tuple[str, str]]:
        """Return the lines below the field, each with its color."""

        def named(place: int) -> str:
            value = "" if self.probabilities is None else f" {self.probabilities[place]:.2f}"
            return label_set[place].name + value

        true, called = self.truth, self.predicted
        if called is None and self.probabilities is not None:
            lines = [(f"labeled {label_set[place].name}", "black") for place in true or ()]
            return lines + [(named(int(place)), "0.35") for place in np.argsort(-self.probabilities)[:LIKELIEST]]
        if true is None:
            return [(named(place), "black") for place in called or ()] or [
                ("unlabeled" if called is None else "no location", "gray")
            ]
        if called is None:
            return [(named(place), "black") for place in true] or [("no location", "gray")]
        found = [(f"✓ {named(place)}", RIGHT) for place in true if place in called]
        found += [(f"○ {named(place)}", MISSED) for place in true if place not in called]
        return found + [(f"✗ {named(place)}", WRONG) for place in called if place not in true]


def contact_sheet(
    dataset: Dataset,
    out: str | Path = "contact-sheet.png",
    *,
    ids: Sequence[str] | None = None,
    predictions: Predictions | Mapping[str, tuple[int, ...]] | None = None,
    options: SheetOptions | None = None,
) -> list[str]:
    """Draw a contact sheet of fields, with the locations that are correct, missed and wrong.

    A scale bar is drawn where the size of a pixel is known. A channel that was not imaged is marked.

    Args:
        dataset: The dataset.
        out: The ``.png``, ``.svg`` or ``.pdf`` file. An existing file is replaced.
        ids: The ids of the fields. Default: twelve fields, evenly spaced in the dataset.
        predictions: Predictions, or indices of locations by id. Only their fields are drawn. Predictions without a
            decision are drawn with their most probable locations.
        options: How the sheet is drawn.

    Returns:
        The ids of the fields that were drawn.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        UnknownIdError: If the dataset or the predictions lack a field.
        LabelSetError: If the predictions have another label set.
        SettingsError: If the name of the file has another ending.
        TableError: If the predictions contain none of the fields.
    """
    check_type(dataset, Dataset, argument="dataset")
    check_type(out, (str, Path), argument="out")
    check_type(options, (SheetOptions, type(None)), argument="options")
    options = options or SheetOptions()
    called: Mapping[str, tuple[int, ...]] | None = None
    values: dict[str, Float32Array] = {}
    if isinstance(predictions, Predictions):
        dataset.label_set.refuse_other(predictions.label_set, what="`predictions`", than=str(dataset.path))
        values = dict(zip(predictions.ids, predictions.probabilities, strict=True))
        decided = decided_locations(predictions)
        if decided is not None:
            called = {
                name: tuple(np.flatnonzero(row).tolist()) for name, row in zip(predictions.ids, decided, strict=True)
            }
    else:
        called = predictions
    predicted = called if called is not None else values or None
    known = [name for name in dataset.ids if predicted is None or name in predicted]
    if ids is None:
        # Adjacent fields are often from the same well, and look alike.
        step = max(1.0, len(known) / options.most)
        ids = [known[int(place * step)] for place in range(min(options.most, len(known)))]
    if not ids:
        raise TableError(f"{dataset.path} has none of the predicted fields.", hint="Give predictions of this dataset.")
    rows = [dataset.row(name) for name in ids]
    for name in ids:
        if predicted is not None and name not in predicted:
            raise UnknownIdError(f"The predictions have no field {name!r}.", hint=near(name, list(predicted)[:1000]))
    labels = dataset.fields["labels"].to_list()
    sizes = dataset.pixel_sizes(dataset.size)
    fields = [
        SheetField(
            name=name,
            image=image,
            truth=None if labels[row] is None else tuple(labels[row]),
            predicted=None if called is None else called[name],
            probabilities=values.get(name),
            pixel_um=float(sizes[row]),
        )
        for name, row, image in zip(ids, rows, dataset.read(rows), strict=True)
    ]
    left_out = len(known) - len(set(ids))
    draw_sheet(
        fields, Path(out), channels=dataset.channels, label_set=dataset.label_set, options=options, left_out=left_out
    )
    return list(ids)


def draw_sheet(
    fields: Sequence[SheetField],
    path: Path,
    *,
    channels: Sequence[str],
    label_set: LabelSet,
    options: SheetOptions | None = None,
    left_out: int = 0,
) -> None:
    """Draw fields in a grid, or one per row, with their locations below.

    Args:
        fields: The fields.
        path: The ``.png``, ``.svg`` or ``.pdf`` file. An existing file is replaced.
        channels: The names of the channels.
        label_set: The label set of the locations.
        options: How the sheet is drawn.
        left_out: The number of fields that are not drawn, which the sheet states.
    """
    options = options or SheetOptions()
    captions = [field.captions(label_set) for field in fields]
    lines = 1 + max(len(each) for each in captions)
    others = [number for number, name in enumerate(channels) if name != PROTEIN]
    order = [channels.index(PROTEIN), *others]
    across = len(channels) + (len(channels) > 1)
    columns, rows = (1, len(fields)) if options.large else (min(COLUMNS, len(fields)), -(-len(fields) // COLUMNS))
    # A panel of the protein alone is a square; other panels are more than twice as wide as high.
    wide, high = (2.8, 2.8) if len(channels) == 1 else (2.3 * across, 2.3) if options.large else (4.2, 1.85)
    shown = {text[0] for each in captions for text, _ in each}
    marks = [mark for mark in (("✓ correct", RIGHT), ("○ missed", MISSED), ("✗ wrong", WRONG)) if mark[0][0] in shown]
    heading = 0.3 + 0.2 * bool(marks) + 0.2 * (options.large and len(channels) > 1)
    inches = high + 0.15 * lines
    figure = Figure(figsize=(wide * columns, inches * rows + heading))
    height, width = figure.get_figheight(), figure.get_figwidth()
    grid = figure.subplots(rows, columns * across if options.large else columns, squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - heading / height, bottom=0.0, wspace=0.03, hspace=0.0)
    for axes in grid.flat:
        axes.axis("off")
        axes.set_anchor("N")
    for number, field in enumerate(fields):
        size = field.image.shape[1]
        if options.large:
            row = list(grid[number])
            if len(channels) > 1:
                row[0].imshow(composite(field.image, channels, options.palette), interpolation="antialiased")
            for channel, axes in zip(order, row[across - len(channels) :], strict=True):
                axes.imshow(stretch(field.image[channel]), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
                if not is_imaged(field.image[channel]):
                    axes.text(size / 2, size / 2, "not imaged", color="0.8", size=9, ha="center", va="center")
            first = row[0]
        else:
            first = grid.flat[number]
            shown_panel = panel(field.image, channels, options.palette)
            first.imshow(shown_panel, interpolation="antialiased")
            for (x, y), channel in zip(side_centers(size, len(others)), others, strict=True):
                if not is_imaged(field.image[channel]):
                    first.text(x, y, "not\nimaged", color="0.8", size=5, ha="center", va="center")
        draw_scale_bar(first, field.pixel_um, size)
        name = shortened(field.name, round(72 * (wide if not options.large else 4.2) / 4.2))
        for line, (text, color) in enumerate([(name, "gray"), *captions[number]]):
            first.annotate(
                text,
                (0, 0),
                (1, -3 - 10 * line),
                "axes fraction",
                "offset points",
                va="top",
                color=color,
                size=8 if line else 6,
            )
    legend_text = PROTEIN if len(channels) == 1 else legend(channels, options.palette)
    note = f"   ({len(fields)} of {len(fields) + left_out:,} fields are shown)" if left_out > 0 else ""
    if options.large and len(channels) > 1:
        legend_text = f"composite of {len(channels)} channels"
        place = 0.01
        for name, shade in zip(channels, colors_of(channels, options.palette), strict=True):
            figure.text(place, 1 - 0.28 / height, "■", color=shade.rgb, va="top", size=9)
            figure.text(place + 0.14 / width, 1 - 0.28 / height, name, color="gray", va="top", size=8)
            place += (0.35 + 0.075 * len(name)) / width
        for channel, axes in zip(order, grid[0][1:], strict=True):
            axes.set_title(channels[channel], size=8, color="0.3", pad=3)
    figure.text(0.01, 1 - 0.08 / height, legend_text + note, color="gray", va="top", size=8)
    for number, (text, color) in enumerate(marks):
        down = 0.28 + 0.2 * (options.large and len(channels) > 1)
        figure.text(0.01 + 0.8 * number / width, 1 - down / height, text, color=color, va="top", size=8)
    _save_figure(figure, path, dpi=200 if options.large else 120)


def duplicates_sheet(pairs: pl.DataFrame, datasets: Sequence[Dataset], path: str | Path) -> None:
    """Draw pairs of near-duplicate fields side by side. The first field is rotated and mirrored like the second.

    Args:
        pairs: Rows of the table of :func:`cytoloc.curation.duplicates.find_duplicates`.
        datasets: The datasets that were searched.
        path: The ``.png``, ``.svg`` or ``.pdf`` file. An existing file is replaced.

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
        path: The ``.png``, ``.svg`` or ``.pdf`` file. An existing file is replaced.

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
    """Write a PNG, SVG or PDF file atomically, replacing an existing one."""
    path = Path(path)
    with disk_errors(path), new_files(images=[path]) as temporary, warnings.catch_warnings():
        # A letter that is in no installed font is drawn as an empty rectangle.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(temporary[path], dpi=dpi, format=path.suffix.lower().removeprefix("."))
