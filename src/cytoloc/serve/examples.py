"""Simulated fields that the page offers to click at once."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cytoloc._typing import UInt8Array
from cytoloc.channels import CHANNELS
from cytoloc.errors import UnknownIdError
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.labels.label_set import LabelSet
from cytoloc.serve.reading import ReadField, ReadingRules
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.plan import plan_one

LOCATIONS: Final = (2, 7, 23, 21, 14, 0)
"""The location of each example, an index in ``hpa28``."""

SIMULATED_PX: Final = 512

SEED: Final = 2018


def list_examples(channels: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the id and the title of each example; none if the model needs other channels than are simulated.

    Args:
        channels: The channels of the model.
    """
    if not set(channels) <= set(CHANNELS):
        return []
    names = LabelSet.hpa28().names
    return [{"id": str(place), "title": f"{names[place]} (simulated)"} for place in LOCATIONS]


def read_example(example: str, channels: tuple[str, ...], rules: ReadingRules) -> ReadField:
    """Return an example.

    Args:
        example: Its id.
        channels: The channels of the model.
        rules: The size of images for the model.

    Returns:
        The field.

    Raises:
        UnknownIdError: If there is no such example.
    """
    if example not in {each["id"] for each in list_examples(channels)}:
        raise UnknownIdError("The service has no such example.")
    image = _drawn(int(example))
    some = image[[CHANNELS.index(name) for name in channels]]
    return ReadField(
        name=f"simulated field: {LabelSet.hpa28().names[int(example)]}",
        channels=channels,
        image=scale_field(some, Scaling(size=rules.size, resample=rules.resample)).image,
        shown=some,
        original_px=(SIMULATED_PX, SIMULATED_PX),
        pixel_um=None,
        shown_um=None,
        flags=(),
    )


@lru_cache(maxsize=len(LOCATIONS))
def _drawn(place: int) -> UInt8Array:
    """Return a simulated field, uint8 of shape ``(4, SIMULATED_PX, SIMULATED_PX)``."""
    return draw_field(plan_one(place, seed=SEED, size=SIMULATED_PX), size=SIMULATED_PX)
