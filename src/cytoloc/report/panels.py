"""Images of fields for people: composites, panels of channels, scale bars, and maps over the protein."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final, NamedTuple
from unicodedata import east_asian_width

import cv2
import numpy as np

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.channels import ER, HPA_COLORS, MICROTUBULES, NUCLEUS, PROTEIN
from cytoloc.choices import Palette

LEAST_SIDE: Final = 3
"""Minimum number of parts into which the column of the other channels is divided."""


class Color(NamedTuple):
    """The color of a channel in a composite.

    Attributes:
        name: The name of the color.
        rgb: Its factors of red, green and blue.
    """

    name: str
    rgb: tuple[float, float, float]


_HPA: Final = {
    "red": Color("red", (1.0, 0.0, 0.0)),
    "green": Color("green", (0.0, 1.0, 0.0)),
    "blue": Color("blue", (0.0, 0.0, 1.0)),
    "yellow": Color("yellow", (0.5, 0.5, 0.0)),
}
_SAFE: Final = {
    MICROTUBULES: Color("gray", (0.45, 0.45, 0.45)),
    PROTEIN: Color("yellow", (1.0, 0.85, 0.0)),
    NUCLEUS: Color("blue", (0.1, 0.4, 1.0)),
    ER: Color("purple", (0.5, 0.1, 0.45)),
}
"""Colors that people with red-green color blindness distinguish: yellow and blue, gray, and a dark purple."""

_OWN: Final = (
    Color("cyan", (0.0, 0.8, 0.8)),
    Color("magenta", (0.8, 0.0, 0.8)),
    Color("orange", (0.9, 0.45, 0.0)),
    Color("white", (0.6, 0.6, 0.6)),
)
"""Colors of channels that the Human Protein Atlas does not have, in order. They repeat from the fifth channel on."""

_BARS_UM: Final = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Lengths of scale bars, in micrometers."""


def colors_of(channels: Sequence[str], palette: Palette = "hpa") -> list[Color]:
    """Return the color of each channel in a composite.

    Args:
        channels: The names of the channels.
        palette: ``"hpa"``: the colors of the Human Protein Atlas. ``"colorblind"``: colors that people with red-green
            color blindness distinguish.

    Returns:
        The colors. Channels that the Human Protein Atlas does not have are cyan, magenta, orange and white.
    """
    own = cycle(_OWN)
    known = _SAFE if palette == "colorblind" else {name: _HPA[color] for name, color in HPA_COLORS.items()}
    return [known[name] if name in known else next(own) for name in channels]


def is_imaged(plane: UInt8Array) -> bool:
    """Return whether a channel was imaged. A substitute for an absent channel is black everywhere."""
    return bool(plane.any())


def scale_bar(pixel_um: float, size: int) -> tuple[float, str] | None:
    """Return the length of a scale bar of about a fifth of an image, in pixels, and its text.

    Args:
        pixel_um: The size of a pixel, in micrometers; NaN if it is unknown.
        size: Edge length of the image, in pixels.

    Returns:
        The length and the text; None if the size of a pixel is unknown.

    >>> scale_bar(0.2, 512)
    (100.0, '20 µm')
    """
    if not np.isfinite(pixel_um) or pixel_um <= 0:
        return None
    length = min(_BARS_UM, key=lambda each: abs(np.log(each / (pixel_um * size / 5))))
    return length / pixel_um, f"{length:g} µm"


def draw_scale_bar(axes: Any, pixel_um: float, size: int, *, side: int | None = None) -> None:
    """Draw a white scale bar into the lower right corner of an image, if the size of a pixel is known.

    Args:
        axes: The matplotlib axes of the image.
        pixel_um: The size of a pixel, in micrometers; NaN if it is unknown.
        size: Edge length of the image, in pixels.
        side: The right end of the image, in pixels. Default: ``size``.
    """
    from matplotlib.patheffects import withStroke

    bar = scale_bar(pixel_um, size)
    if bar is None:
        return
    right, bottom = (side or size) - 0.04 * size, size - 0.05 * size
    edge = [withStroke(linewidth=2.5, foreground="black")]
    axes.plot([right - bar[0], right], [bottom, bottom], color="white", linewidth=1.8, solid_capstyle="butt",
              path_effects=edge)  # fmt: skip
    axes.text(right - bar[0] / 2, bottom - 0.02 * size, bar[1], color="white", size=6, ha="center", va="bottom",
              path_effects=edge)  # fmt: skip


def overlay(protein: UInt8Array, one_map: Float32Array) -> UInt8Array:
    """Return a map in color over the protein in gray.

    Args:
        protein: uint8 of shape ``(size, size)``.
        one_map: float32 of the same shape, from 0 to 1.

    Returns:
        uint8 of shape ``(size, size, 3)``. High values are yellow, low ones transparent.
    """
    import matplotlib as mpl

    gray = np.repeat(stretch(protein)[..., None], 3, axis=-1).astype(np.float32)
    # Products of maps have few high values, which the square root makes visible.
    shown = np.sqrt(np.clip(one_map, 0, 1))
    color = 255 * mpl.colormaps["inferno"](shown)[..., :3]
    share = 0.75 * shown[..., None]
    return np.asarray((1 - share) * gray * 0.8 + share * color, np.uint8)


def panel(image: UInt8Array, channels: Sequence[str], palette: Palette = "hpa") -> UInt8Array:
    """Return a field as one image: composite and protein at full size, the other channels smaller in a column.

    Each of the other channels has a third of the size, or less if there are more than three. White gaps separate them.
    If the protein is the only channel, only the protein is shown.

    Args:
        image: uint8 of shape ``(channels, size, size)``.
        channels: The names of the channels.
        palette: The colors of the composite; see :func:`colors_of`.

    Returns:
        uint8 of shape ``(size, width, 3)``.
    """
    size = image.shape[1]
    gap = max(1, size // 50)
    protein = np.repeat(stretch(image[channels.index(PROTEIN)])[..., None], 3, axis=-1)
    others = [number for number, channel in enumerate(channels) if channel != PROTEIN]
    if not others:
        return protein
    parts = max(len(others), LEAST_SIDE)
    edges = [round((size + gap) * part / parts) for part in range(parts + 1)]
    small = edges[1] - gap
    shown = np.full((size, 2 * (size + gap) + small, 3), 255, np.uint8)
    shown[:, :size] = composite(image, channels, palette)
    shown[:, size + gap : 2 * size + gap] = protein
    for number, low, high in zip(others, edges[:-1], edges[1:], strict=False):
        edge = (small, high - gap - low)
        plane = cv2.resize(stretch(image[number]), edge, interpolation=cv2.INTER_AREA)
        shown[low : high - gap, -small:] = plane[..., None]
    return shown


def side_centers(size: int, count: int) -> list[tuple[float, float]]:
    """Return the centers of the smaller images in a panel.

    Args:
        size: Edge length of the field, in pixels.
        count: Number of channels besides the protein.

    Returns:
        The horizontal and vertical position of each, in pixels.
    """
    if not count:
        return []
    gap, parts = max(1, size // 50), max(count, LEAST_SIDE)
    edges = [round((size + gap) * part / parts) for part in range(parts + 1)]
    across = 2 * (size + gap) + (edges[1] - gap) / 2
    return [(across, (edges[part] + edges[part + 1] - gap) / 2) for part in range(count)]


def legend(channels: Sequence[str], palette: Palette = "hpa") -> str:
    """Return a legend of a panel, with the colors of the composite.

    >>> legend(["protein", "nucleus"])
    'left: composite (protein green, nucleus blue); middle: protein; right: nucleus'
    """
    others = ", ".join(channel for channel in channels if channel != PROTEIN)
    if not others:
        return PROTEIN
    pairs = zip(channels, colors_of(channels, palette), strict=True)
    colored = ", ".join(f"{name} {color.name}" for name, color in pairs)
    return f"left: composite ({colored}); middle: {PROTEIN}; right: {others}"


def composite(image: UInt8Array, channels: Sequence[str], palette: Palette = "hpa") -> UInt8Array:
    """Return the color composite of a field.

    In the palette ``"hpa"``, microtubules are red, the protein green, the nucleus blue, and the endoplasmic reticulum
    yellow at half strength, as on the Human Protein Atlas site. Other channels are cyan, magenta, orange and white.

    Args:
        image: uint8 of shape ``(channels, size, size)``.
        channels: The names of the channels.
        palette: The colors; see :func:`colors_of`.

    Returns:
        uint8 of shape ``(size, size, 3)``.
    """
    mixed = np.zeros((*image.shape[1:], 3), np.float32)
    for plane, color in zip(image, colors_of(channels, palette), strict=True):
        mixed = np.maximum(mixed, stretch(plane).astype(np.float32)[..., None] * np.array(color.rgb, np.float32))
    return np.asarray(mixed, np.uint8)


def stretch(plane: UInt8Array) -> UInt8Array:
    """Return an image scaled so that its 99.8th percentile is white; for display only."""
    white = max(float(np.percentile(plane, 99.8)), 16.0)
    return np.asarray(np.clip(plane * (255 / white), 0, 255), np.uint8)


def shortened(name: str, most: int) -> str:
    """Return a name without its middle if it is longer than ``most`` letters; wide letters count twice.

    >>> shortened("2024-03-01_plate-7_well-C03_field-2", 16)
    '2024-03…_field-2'
    """
    wide = [2 if east_asian_width(letter) in "FW" else 1 for letter in name]
    if sum(wide) <= most:
        return name
    half = (most - 1) // 2
    ahead = next(i for i in range(len(name)) if sum(wide[: i + 1]) > half)
    behind = next(i for i in range(len(name)) if sum(wide[i:]) <= most - 1 - half)
    return f"{name[:ahead]}…{name[behind:]}"
