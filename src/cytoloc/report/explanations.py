"""A folder of explanations: a panel for each field, tables, and optionally the maps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from cytoloc._typing import BoolArray, UInt8Array
from cytoloc.channels import PROTEIN
from cytoloc.choices import Palette, check_type, refuse_unknown
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ImageError
from cytoloc.files import disk_errors, new_folder
from cytoloc.report.panels import colors_of, composite, draw_scale_bar, is_imaged, overlay, shortened, stretch

if TYPE_CHECKING:
    from cytoloc.embed.embeddings import Embeddings
    from cytoloc.embed.neighbors import Neighbors
    from cytoloc.explain.maps import ExplainOptions, Explanations
    from cytoloc.predict.model import Model
    from cytoloc.predict.sources import Source

MapFormat = Literal["npy", "tiff", "zarr"]
"""The format of a file of maps."""

_Cell = tuple[str, UInt8Array | None, str]
"""An image of a panel: its title, its pixels (None: not imaged), and the text below."""

AT_ONCE: Final = 32
"""Number of fields whose maps are in memory at the same time."""

PER_ROW: Final = 5
"""Maximum number of images in a row of a panel."""


def write_explanations(
    model: Model,
    sources: Sequence[Source],
    *,
    out: str | Path,
    options: ExplainOptions | None = None,
    neighbors: Dataset | Embeddings | None = None,
    maps: MapFormat | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Explain the predictions of fields, and write the explanations to a new folder.

    The folder has ``panels/ID.png``, ``channel_effects.csv`` and ``channel_effects.parquet``, with labeled fields
    ``neighbors.csv``, and with ``maps`` a file of maps for each field. The axes of a file of maps are the locations, in
    the order of the rows of the field in ``channel_effects.csv``, then height and width.

    Args:
        model: The model.
        sources: The sources of the fields; see :func:`cytoloc.open_sources`.
        out: The new folder.
        options: How fields are explained. Without ``locations``, the predicted locations of each field are shown.
        neighbors: Labeled fields among which the nearest are found: a dataset, which is also shown, or its features.
        maps: ``"npy"``, ``"tiff"`` or ``"zarr"`` to write the maps too, as float16.
        progress: A function that is called with the number of finished fields and of all fields.

    Returns:
        The table of ``channel_effects.csv``; see :meth:`cytoloc.Explanations.channel_effects`.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError, TableError, ChannelError: For the reasons of :func:`cytoloc.explain_sources`.
        ImageError: If no field could be read.
        OutputExistsError: If the folder exists.
    """
    from cytoloc.embed.embeddings import embed_sources
    from cytoloc.explain.maps import ExplainOptions, explain_sources
    from cytoloc.predict.model import Model
    from cytoloc.predict.sources import DatasetSource

    check_type(model, Model, argument="model")
    check_type(sources, (list, tuple), argument="sources")
    check_type(out, (str, Path), argument="out")
    if maps is not None:
        refuse_unknown(maps, get_args(MapFormat), argument="maps")
    options = options or ExplainOptions()
    labeled = neighbors if isinstance(neighbors, Dataset) else None
    reference = embed_sources(model, [DatasetSource(labeled)]) if labeled else neighbors
    tables: list[pl.DataFrame] = []
    nearest: list[Neighbors] = []
    rejected: dict[str, str] = {}
    names: set[str] = set()
    done, total = 0, sum(len(source.ids) for source in sources)
    with new_folder(Path(out)) as folder:
        (folder / "panels").mkdir()
        for source in sources:
            pixel_um: dict[str, float] = {}
            if isinstance(source, DatasetSource):
                sizes = source.dataset.pixel_sizes(model.size).tolist()
                pixel_um = dict(zip(source.dataset.ids, sizes, strict=True))
            for start in range(0, len(source.ids), AT_ONCE):
                part = source.part(start, start + AT_ONCE)
                try:
                    found = explain_sources(model, [part], options=options, neighbors=reference)
                except ImageError as error:
                    if len(part.ids) == total:
                        raise
                    rejected |= dict.fromkeys(part.ids, error.message)
                    continue
                rejected |= found.rejected
                table = found.channel_effects()
                shown = table["predicted"].to_numpy() if options.locations is None else np.ones(table.height, np.bool_)
                tables.append(table.filter(shown))
                if found.neighbors is not None:
                    nearest.append(found.neighbors)
                files = [file_name(name, names) for name in found.ids]
                _write_panels(folder, found, shown, files, labeled=labeled, pixel_um=pixel_um, maps=maps)
                done += len(part.ids)
                if progress:
                    progress(done, total)
        if not tables:
            reason = next(iter(rejected.values()), "There are none.")
            raise ImageError(
                f"None of {total} fields could be read. The first reason: {reason}", hint="Check the images."
            )
        effects = pl.concat(tables)
        with disk_errors(Path(out)):
            _write_tables(folder, effects, nearest, rejected, labeled=labeled)
    return effects


def file_name(name: str, used: set[str]) -> str:
    """Return a name of a file for a field, which no other field has, and add it to the used ones.

    >>> file_name("plate/A 01", set()), file_name("a", {"a"})
    ('plate_A_01', 'a-2')
    """
    plain = re.sub(r"[^\w.-]", "_", name)[:120].lstrip(".") or "field"
    chosen, number = plain, 2
    while chosen.casefold() in used:
        chosen, number = f"{plain}-{number}", number + 1
    used.add(chosen.casefold())
    return chosen


def explanation_figure(
    found: Explanations,
    row: int,
    places: Sequence[int],
    *,
    labeled: Dataset | None = None,
    pixel_um: float = float("nan"),
    palette: Palette = "hpa",
) -> Figure:
    """Draw the explanation of one field: its channels, a map for each location, and the nearest labeled fields.

    Args:
        found: The explanations.
        row: The row of the field.
        places: The positions of the locations to show, in ``found.locations``.
        labeled: The dataset of the nearest labeled fields.
        pixel_um: The size of a pixel, in micrometers; NaN if it is unknown.
        palette: The colors of composites.

    Returns:
        The figure.
    """
    parts = _parts(found, row, places, labeled=labeled, palette=palette)
    rows = [
        (heading if start == 0 else "", cells[start : start + PER_ROW])
        for heading, cells in parts
        for start in range(0, len(cells), PER_ROW)
    ]
    columns = max(len(cells) for _, cells in rows)
    below_lines = [max(cell[2].count("\n") + bool(cell[2]) for cell in cells) for _, cells in rows]
    heights = [
        2.0 + 0.42 + 0.14 * lines + 0.26 * bool(heading) for (heading, _), lines in zip(rows, below_lines, strict=True)
    ]
    total = sum(heights) + 0.35
    figure = Figure(figsize=(2.08 * columns + 0.1, total))
    figure.text(
        0.06 / figure.get_figwidth(),
        1 - 0.08 / total,
        shortened(found.ids[row], 30 * columns),
        va="top",
        size=10,
        weight="bold",
    )
    top = total - 0.35
    for (heading, cells), height in zip(rows, heights, strict=True):
        under = top - 0.26 * bool(heading)
        if heading:
            figure.text(0.06 / figure.get_figwidth(), (top - 0.17) / total, heading, va="top", size=9, color="0.3")
        for number, (title, shown, below) in enumerate(cells):
            left = (0.06 + 2.08 * number) / figure.get_figwidth()
            axes = figure.add_axes((left, (under - 0.4 - 2.0) / total, 2.0 / figure.get_figwidth(), 2.0 / total))
            axes.axis("off")
            if shown is None:
                axes.set_facecolor("0.93")
                axes.axis("on")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                axes.text(0.5, 0.5, "not imaged", ha="center", va="center", color="0.4", transform=axes.transAxes)
            else:
                axes.imshow(shown, interpolation="antialiased")
                if cells[0] is parts[0][1][0] and number == 0:
                    draw_scale_bar(axes, pixel_um, len(shown))
            axes.set_title(title, size=7, loc="left", pad=3)
            axes.text(0, -0.02, below, size=6.5, va="top", color="0.25", transform=axes.transAxes)
        top -= height
    return figure


def _parts(
    found: Explanations, row: int, places: Sequence[int], *, labeled: Dataset | None, palette: Palette
) -> list[tuple[str, list[_Cell]]]:
    """Return the images of a panel in three parts with a heading each: channels, maps, and nearest labeled fields."""
    image, channels, label_set = found.images[row], found.channels, found.label_set
    colors = colors_of(channels, palette)
    named = [f"{name} {color.name}" for name, color in zip(channels, colors, strict=True)]
    each = 2 if len(named) <= 4 else 3
    key = ",\n".join(", ".join(named[start : start + each]) for start in range(0, len(named), each))
    first: list[_Cell] = []
    if len(channels) > 1:
        first.append((f"composite\n{key}", composite(image, channels, palette), ""))
    for number in sorted(range(len(channels)), key=lambda each: channels[each] != PROTEIN):
        plane = np.repeat(stretch(image[number])[..., None], 3, axis=-1)
        first.append((channels[number], plane if is_imaged(image[number]) else None, ""))
    second: list[_Cell] = []
    for place in places:
        location = label_set[label_set.index(found.locations[place])]
        effects = zip(channels, found.without_channel[row, :, place], strict=True)
        below = "\n".join(f"without {name} {effect:+.2f}" for name, effect in effects)
        mark = "" if found.predicted[row, place] else " (not predicted)"
        title = f"{location.name}\n{found.probabilities[row, place]:.2f}{mark}"
        second.append((title, overlay(image[channels.index(PROTEIN)], found.maps[row, place]), below))
    third: list[_Cell] = []
    if found.neighbors is not None and labeled is not None:
        for at, distance in zip(found.neighbors.rows[row], found.neighbors.distances[row], strict=True):
            name = found.neighbors.reference_ids[at]
            labels = labeled.labels[labeled.row(name)]
            text = (
                "\n".join(each.name for each in labels) if labels else ("none" if labels is not None else "unlabeled")
            )
            title = f"{shortened(name, 26)}\ndistance {distance:.2f}"
            third.append((title, composite(labeled[name], labeled.channels, palette), text))
    return [
        ("", first),
        ("Maps: what contributes to each location", second),
        ("Nearest labeled fields", third),
    ]


def _write_tables(
    folder: Path,
    effects: pl.DataFrame,
    nearest: Sequence[Neighbors],
    rejected: Mapping[str, str],
    *,
    labeled: Dataset | None,
) -> None:
    """Write the tables of explanations. Neighbors have the names of their locations if the dataset is given."""
    effects.write_csv(folder / "channel_effects.csv", float_precision=4)
    effects.write_parquet(folder / "channel_effects.parquet")
    if nearest:
        table = pl.concat([each.to_polars() for each in nearest])
        if labeled is not None:
            known = labeled.labels
            labels = [known[labeled.row(name)] for name in table["neighbor"].to_list()]
            texts = [None if own is None else "; ".join(each.name for each in own) for own in labels]
            table = table.with_columns(pl.Series("locations", texts, pl.String))
        table.write_csv(folder / "neighbors.csv", float_precision=4)
    if rejected:
        failed = pl.DataFrame({"id": list(rejected), "reason": list(rejected.values())})
        failed.write_csv(folder / "failed.csv")


def _write_panels(
    folder: Path,
    found: Explanations,
    shown: BoolArray,
    files: Sequence[str],
    *,
    labeled: Dataset | None,
    pixel_um: Mapping[str, float],
    maps: MapFormat | None,
) -> None:
    """Draw the panel of each field, and write its maps in a format if one is given.

    Maps are float16 of shape ``(locations, height, width)``.
    """
    for row, (name, file) in enumerate(zip(found.ids, files, strict=True)):
        places = np.flatnonzero(shown.reshape(len(found), -1)[row]).tolist()
        figure = explanation_figure(found, row, places, labeled=labeled, pixel_um=pixel_um.get(name, np.nan))
        figure.savefig(folder / "panels" / f"{file}.png", dpi=110)
        if maps is None:
            continue
        (folder / "maps").mkdir(exist_ok=True)
        path = folder / "maps" / f"{file}.{maps}"
        values = found.maps[row, places].astype(np.float16)
        if maps == "npy":
            np.save(path, values)
        elif maps == "tiff":
            import tifffile

            tifffile.imwrite(path, values, photometric="minisblack", compression="zlib")
        else:
            import tensorstore

            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
            store = tensorstore.open(spec, create=True, dtype=tensorstore.float16, shape=values.shape).result()
            store.write(values).result()
