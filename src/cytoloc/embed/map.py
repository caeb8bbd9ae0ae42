"""A map of features in two dimensions, as an interactive page and as a figure."""

from __future__ import annotations

import base64
import html
import json
import warnings
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from cytoloc._typing import Float32Array
from cytoloc.choices import check_type
from cytoloc.dataset.store import Dataset
from cytoloc.embed.embeddings import Embeddings
from cytoloc.errors import MissingExtraError, SettingsError, TableError, installing
from cytoloc.files import new_file

THUMBNAIL_PX: Final = 64
MOST_THUMBNAILS: Final = 3000
"""Number of fields with a thumbnail. More would make the page too large."""

COLORS: Final = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000",
    "#7f7f7f", "#8c564b", "#17becf", "#9467bd",
)  # fmt: skip
"""Colors that people with color blindness can distinguish (Okabe and Ito 2008), and a few more."""

OTHER: Final = "other"


def map_positions(embeddings: Embeddings, *, seed: int = 0) -> Float32Array:
    """Return a position in two dimensions for each field, by UMAP with cosine distance.

    Args:
        embeddings: The features, of at least four fields.
        seed: Random seed. Equal seeds give equal maps on one machine.

    Returns:
        float32 of shape ``(n, 2)``.

    Raises:
        TableError: If there are fewer than four fields.
        MissingExtraError: If umap-learn is not installed.
    """
    check_type(embeddings, Embeddings, argument="embeddings")
    if len(embeddings) < 4:
        raise TableError(f"A map needs at least 4 fields, not {len(embeddings)}.")
    with warnings.catch_warnings():
        # UMAP says that it has no TensorFlow, and that a seed makes it use one thread.
        warnings.simplefilter("ignore")
        try:
            import umap
        except ImportError as error:
            raise MissingExtraError("The library umap-learn is not installed.", hint=installing("embed")) from error
        mapper = umap.UMAP(metric="cosine", n_neighbors=min(15, len(embeddings) - 1), random_state=seed, init="pca")
        return np.asarray(mapper.fit_transform(embeddings.features), np.float32)


def color_groups(dataset: Dataset, ids: Sequence[str], *, by: str) -> list[str]:
    """Return the group of each field by which a map is colored.

    Args:
        dataset: The dataset of the fields.
        ids: The ids of the fields.
        by: ``"location"``, or a column of the table of fields, such as ``"gene"`` or ``"plate"``.

    Returns:
        A name for each field. Only the most frequent names have a color of their own.

    Raises:
        SettingsError: If the dataset has no such column.
    """
    table = dataset.fields
    row_of = {name: row for row, name in enumerate(dataset.ids)}
    rows = [row_of[name] for name in ids]
    if by == "location":
        names = dataset.label_set.names
        truth = dataset.truth
        values = [", ".join(names[int(i)] for i in np.flatnonzero(truth[row])) or "none" for row in rows]
    elif by in table.columns:
        column = table[by].to_list()
        values = ["" if column[row] is None else str(column[row]) for row in rows]
    else:
        raise SettingsError(
            f"The dataset has no column {by!r} to color by.",
            hint=f"Choose location, or one of {', '.join(table.columns[:12])}.",
        )
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    frequent = sorted(counts, key=lambda value: (-counts[value], value))[: len(COLORS) - 1]
    return [value if value in frequent else OTHER for value in values]


def write_map(
    positions: Float32Array,
    ids: Sequence[str],
    path: str | Path,
    *,
    groups: Sequence[str] | None = None,
    dataset: Dataset | None = None,
    title: str = "Map of features",
) -> Path:
    """Write a map to a new file: an interactive page (``.html``) or a figure (``.png``).

    The page works without internet access. A thumbnail of the field under the pointer is shown, if a dataset is given.

    Args:
        positions: The position of each field, shape ``(n, 2)``.
        ids: The ids of the fields.
        path: The new file.
        groups: The group of each field, which gives its color.
        dataset: The dataset of the fields, for thumbnails.
        title: The title.

    Returns:
        The path.

    Raises:
        SettingsError: If the name has another ending.
        OutputExistsError: If the file exists.
    """
    check_type(positions, np.ndarray, argument="positions")
    check_type(path, (str, Path), argument="path")
    path = Path(path)
    if path.suffix not in (".html", ".png"):
        raise SettingsError(f"{path} is not a valid name for a map.", hint="Choose a name that ends in .html or .png.")
    named = list(groups) if groups is not None else [""] * len(ids)
    legend = sorted(set(named) - {OTHER}) + [OTHER] * (OTHER in named)
    colors = {name: COLORS[number % len(COLORS)] for number, name in enumerate(legend)}
    colors[OTHER] = "#c8c8c8"
    with new_file(path) as temporary:
        if path.suffix == ".png":
            from matplotlib.figure import Figure

            figure = Figure(figsize=(9, 6), layout="constrained")
            axes = figure.add_subplot()
            for name in legend:
                x, y = positions[np.array([group == name for group in named])].T
                axes.scatter(x, y, s=12, color=colors[name], label=name or None, linewidths=0)
            axes.set(title=title, xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
            if any(legend):
                axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
            figure.savefig(temporary, dpi=150)
        else:
            thumbnails: dict[str, str] = {}
            if dataset is not None:
                for name in ids[:MOST_THUMBNAILS]:
                    image = dataset[dataset.row(name)]
                    # Red, green and blue are the first channels. OpenCV wants blue first.
                    colors_of = [image[min(channel, len(image) - 1)] for channel in (2, 1, 0)]
                    small = [
                        cv2.resize(each, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
                        for each in colors_of
                    ]
                    done, content = cv2.imencode(".jpg", np.stack(small, axis=-1), [cv2.IMWRITE_JPEG_QUALITY, 80])
                    if done:
                        thumbnails[name] = base64.b64encode(content.tobytes()).decode()
            page = _page(positions, ids, named, colors, legend, thumbnails, title=title)
            temporary.write_text(page, encoding="utf-8")
    return path


def _page(
    positions: Float32Array,
    ids: Sequence[str],
    groups: Sequence[str],
    colors: dict[str, str],
    legend: Sequence[str],
    thumbnails: dict[str, str],
    *,
    title: str,
) -> str:
    """Return the page."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    scaled = (positions - low) / np.maximum(high - low, 1e-9)
    points: list[dict[str, Any]] = [
        {"id": name, "x": round(float(x), 4), "y": round(float(1 - y), 4), "g": group, "t": thumbnails.get(name, "")}
        for name, (x, y), group in zip(ids, scaled, groups, strict=True)
    ]
    facts = json.dumps({"points": points, "colors": colors, "legend": [name for name in legend if name]})
    template = files("cytoloc.embed").joinpath("map.html").read_text(encoding="utf-8")
    return template.replace("TITLE", html.escape(title)).replace("FACTS", facts.replace("<", "\\u003c"))
