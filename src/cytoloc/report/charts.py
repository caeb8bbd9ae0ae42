"""Small charts as SVG, with the colors of the page: curves, heatmaps and plates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final, NamedTuple

import numpy as np

from cytoloc._typing import FloatArray

MOST_POINTS: Final = 80
"""Maximum number of points of a curve. More cannot be seen."""

_LEFT, _BOTTOM, _TOP, _RIGHT = 46, 34, 8, 8


class Curve(NamedTuple):
    """A line of a chart.

    Attributes:
        name: The name in the legend; empty for none.
        x: The horizontal positions.
        y: The vertical positions; NaN for gaps.
        style: ``"line"``, ``"dots"`` (a line with dots), or ``"dashed"``.
        color: The number of the color.
    """

    name: str
    x: FloatArray
    y: FloatArray
    style: str = "line"
    color: int = 0


def curve_chart(
    curves: Sequence[Curve],
    *,
    labels: tuple[str, str],
    x_range: tuple[float, float] = (0, 1),
    y_range: tuple[float, float] = (0, 1),
    size: tuple[int, int] = (230, 190),
) -> str:
    """Return a chart of curves.

    Args:
        curves: The curves.
        labels: The names of the horizontal and the vertical axis.
        x_range: The ends of the horizontal axis.
        y_range: The ends of the vertical axis.
        size: Width and height, in pixels.

    Returns:
        The SVG.
    """
    width, height = size
    (low, high), (floor, top) = x_range, y_range
    across, up = width - _LEFT - _RIGHT, height - _BOTTOM - _TOP

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - low) / ((high - low) or 1), (y - floor) / ((top - floor) or 1)
        return _LEFT + across * share[0], _TOP + up * (1 - min(max(share[1], 0), 1))

    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" class="chart">']
    for share in (0, 0.5, 1):
        x, y = place(low + share * (high - low), floor + share * (top - floor))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3:.1f}" class="end">{floor + share * (top - floor):.3g}</text>')
        parts.append(
            f'<text x="{x:.1f}" y="{height - _BOTTOM + 13}" class="mid">{low + share * (high - low):.3g}</text>'
        )
    parts.append(f'<text x="{_LEFT + across / 2}" y="{height - 5}" class="mid">{escape(labels[0])}</text>')
    middle = _TOP + up / 2
    parts.append(f'<text transform="translate(9 {middle:.0f}) rotate(-90)" class="mid">{escape(labels[1])}</text>')
    for curve in curves:
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in zip(curve.x, curve.y, strict=True):
            if np.isfinite(y):
                runs[-1].append(place(float(x), float(y)))
            elif runs[-1]:
                runs.append([])
        for run in runs:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in run)
            parts.append(f'<polyline class="line c{curve.color} {curve.style}" points="{points}"/>')
            if curve.style == "dots":
                parts += [f'<circle class="dot c{curve.color}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in run]
    named = [curve for curve in curves if curve.name]
    for number, curve in enumerate(named):
        y = _TOP + 12 + 13 * number
        parts.append(f'<text x="{width - _RIGHT - 4}" y="{y}" class="end t{curve.color}">{escape(curve.name)}</text>')
    return "".join([*parts, "</svg>"])


def rounded_up(value: float) -> float:
    """Return a round number above a positive value, for the end of an axis.

    >>> rounded_up(0.36), rounded_up(2.1), rounded_up(70.0)
    (0.4, 2.5, 80.0)
    """
    unit = 10.0 ** np.floor(np.log10(value))
    step = next(step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * unit >= value)
    return float(f"{step * unit:.3g}")


def thinned(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most :data:`MOST_POINTS` points of a curve, with both ends; ``x`` is sorted."""
    if len(x) <= MOST_POINTS:
        return x, y
    places = np.searchsorted(x, np.linspace(x[0], x[-1], MOST_POINTS - 1))
    rows = np.unique([*np.clip(places, 0, len(x) - 1), len(x) - 1])
    return x[rows], y[rows]


def heatmap(values: FloatArray, rows: Sequence[str], columns: Sequence[str], *, texts: Sequence[Sequence[str]]) -> str:
    """Return a heatmap with the names of its rows and columns.

    Args:
        values: Shares from 0 to 1, shape ``(rows, columns)``, which become the strength of the color; NaN for none.
        rows: The names of the rows.
        columns: The names of the columns.
        texts: What is shown when the pointer is over a cell.

    Returns:
        The SVG.
    """
    step, left, top = 17, 165, 130
    width, height = left + step * len(columns) + 60, top + step * len(rows) + 4
    parts = [f'<svg viewBox="0 0 {width} {height}" style="width:{width}px" role="img" class="chart fixed">']
    for number, name in enumerate(columns):
        x = left + step * (number + 0.7)
        parts.append(f'<text transform="translate({x:.1f} {top - 5}) rotate(-50)">{escape(name)}</text>')
    for row, name in enumerate(rows):
        y = top + step * row
        parts.append(f'<text x="{left - 5}" y="{y + 12}" class="end">{escape(name)}</text>')
        for column in range(len(columns)):
            value = values[row, column]
            shade = 0.0 if not np.isfinite(value) else float(np.clip(value, 0, 1))
            parts.append(
                f'<rect class="heat" x="{left + step * column}" y="{y}" width="{step - 1}" height="{step - 1}"'
                f' style="fill-opacity:{shade:.2f}"><title>{escape(texts[row][column])}</title></rect>'
            )
    return "".join([*parts, "</svg>"])


def plate_chart(values: Mapping[tuple[int, int], float], texts: Mapping[tuple[int, int], str]) -> str:
    """Return a plate with a colored circle for each well.

    Args:
        values: The value of each well from 0 to 1, by its row and column, counted from 0.
        texts: What is shown when the pointer is over a well.

    Returns:
        The SVG, in the layout of a plate of 96, 384 or 1536 wells.
    """
    most = max((row, column) for row, column in values) if values else (0, 0)
    columns_used = max((column for _, column in values), default=0)
    rows, columns = next(
        (size for size in ((8, 12), (16, 24), (32, 48)) if most[0] < size[0] and columns_used < size[1]),
        (most[0] + 1, columns_used + 1),
    )
    step = 360 / (columns + 1)
    height = step * (rows + 1) + 2
    small = max(5.0, min(9.0, step * 0.5))
    parts = [f'<svg viewBox="0 0 362 {height:.0f}" role="img" class="chart plate">']
    for column in range(0, columns, 1 if columns <= 12 else 2):
        x = step * (column + 1.5)
        parts.append(
            f'<text x="{x:.1f}" y="{step * 0.7:.1f}" class="mid" style="font-size:{small:.1f}px">{column + 1}</text>'
        )
    for row in range(rows):
        y = step * (row + 1.5)
        style = f'style="font-size:{small:.1f}px"'
        parts.append(f'<text x="{step * 0.5:.1f}" y="{y + 3:.1f}" class="mid" {style}>{row_name(row)}</text>')
        for column in range(columns):
            x = step * (column + 1.5)
            value = values.get((row, column))
            if value is None:
                parts.append(f'<circle class="none" cx="{x:.1f}" cy="{y:.1f}" r="{step * 0.4:.1f}"/>')
                continue
            parts.append(
                f'<circle class="well" cx="{x:.1f}" cy="{y:.1f}" r="{step * 0.42:.1f}"'
                f' style="fill-opacity:{min(max(value, 0), 1):.2f}">'
                f"<title>{escape(texts[row, column])}</title></circle>"
            )
    return "".join([*parts, "</svg>"])


def row_name(row: int) -> str:
    """Return the letters of a row of a plate.

    >>> row_name(0), row_name(31)
    ('A', 'AF')
    """
    return chr(65 + row) if row < 26 else f"{chr(64 + row // 26)}{chr(65 + row % 26)}"
