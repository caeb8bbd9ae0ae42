"""The parts of a report page, and how they become one HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import cv2
import numpy as np

from cytoloc._typing import UInt8Array

JPEG_QUALITY: Final = 85


class Bar(NamedTuple):
    """A cell of a table with a bar behind its text.

    Attributes:
        text: The text.
        share: The length of the bar, from 0 to 1.
    """

    text: str
    share: float


Cell = str | int | float | Bar | None
"""A cell of a table. Floats are shown with three digits after the point, None as a dash."""


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: The text.
        is_note: Whether it is shown as a caution.
    """

    text: str
    is_note: bool = False


@dataclass(frozen=True)
class Numbers:
    """Large numbers with a name and a remark each.

    Attributes:
        items: The name, the value and the remark of each number.
    """

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by its columns.

    Attributes:
        headings: The names of the columns.
        rows: The cells of each row.
        caption: What the table shows.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts side by side.

    Attributes:
        charts: The title and the SVG of each chart.
        caption: What the charts show.
        wide: Whether each chart has the whole width.
    """

    charts: Sequence[tuple[str, str]]
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Card:
    """A field with its images.

    Attributes:
        id: The id of the field.
        lines: Facts about the field.
        images: The title and the data URI of each image; the data are empty for a channel that was not imaged.
    """

    id: str
    lines: Sequence[str]
    images: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Cards:
    """Fields with their images.

    Attributes:
        cards: The fields.
        caption: What the fields have in common.
    """

    cards: Sequence[Card]
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Commands, or other text of fixed width.

    Attributes:
        text: The text.
    """

    text: str


Block = Text | Numbers | Table | Charts | Cards | Code


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        key: The name of the section in links.
        title: The heading.
        blocks: The content.
    """

    key: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def jpeg_uri(image: UInt8Array, *, most_px: int) -> str:
    """Return an image as the address of an image in a page, scaled down if it is larger.

    Args:
        image: uint8 of shape ``(size, size, 3)``.
        most_px: Maximum edge length, in pixels.

    Returns:
        The data URI.
    """
    if image.shape[0] > most_px:
        image = np.asarray(cv2.resize(image, (most_px, most_px), interpolation=cv2.INTER_AREA), np.uint8)
    done, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise AssertionError("OpenCV could not encode a JPEG.")
    return f"data:image/jpeg;base64,{base64.b64encode(content.tobytes()).decode()}"


def render(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """Return a report as one HTML page, which works offline.

    Args:
        title: The title.
        sections: The sections, in order. Sections without blocks are left out.
        subtitle: A line below the title.

    Returns:
        The page.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cytoloc.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.tests["bar"] = lambda cell: isinstance(cell, Bar)
    environment.filters["kind"] = lambda block: type(block).__name__
    environment.filters["cell"] = _cell
    shown = [section for section in sections if section.blocks]
    return environment.get_template("report.html").render(title=title, subtitle=subtitle, sections=shown)


def _cell(value: Cell) -> str:
    """Return the text of a cell."""
    if value is None:
        return "-"
    if isinstance(value, Bar):
        return value.text
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value
