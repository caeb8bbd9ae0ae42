from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cytoloc.channels import CHANNELS
from cytoloc.images.quality import flags_of, measure, swap_score
from tests.conftest import DATA

SIZE = 256


@pytest.fixture(scope="module")
def field() -> NDArray[np.uint8]:
    """Return a field with discs for nuclei and texture for the rest, of which nothing is flagged."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    centers = [(int(a), int(b)) for a in range(32, SIZE, 64) for b in range(32, SIZE, 64)]
    discs = np.max([(np.hypot(y - a, x - b) < 14) * 1.0 for a, b in centers], axis=0)
    texture = [gaussian_filter(rng.random((SIZE, SIZE)), 1.2) for _ in range(4)]
    planes = [(plane - plane.min()) / np.ptp(plane) * 200 for plane in texture]
    planes[2] = discs * (120 + 0.3 * planes[2])
    return np.clip(np.stack(planes) + rng.normal(0, 2, (4, SIZE, SIZE)) + 6, 0, 249).astype(np.uint8)


def with_channel(field: NDArray[np.uint8], role: str, plane: NDArray[np.floating]) -> NDArray[np.uint8]:
    changed = field.copy()
    changed[CHANNELS.index(role)] = np.clip(plane, 0, 255)
    return changed


def test_a_good_field_has_no_flags(field: NDArray[np.uint8]) -> None:
    assert flags_of(field, CHANNELS) == ()


@pytest.mark.parametrize("role", CHANNELS)
@pytest.mark.parametrize("defect", ["empty", "low contrast", "saturated", "blurred"])
def test_each_defect_is_flagged_where_it_is(field: NDArray[np.uint8], role: str, defect: str) -> None:
    rng = np.random.default_rng(1)
    plane = field[CHANNELS.index(role)].astype(float)
    made = {
        "empty": 5 + rng.normal(0, 2, plane.shape),
        "low contrast": gaussian_filter(plane, 1) * 0.08 + 3,
        "saturated": plane * 4,
        "blurred": gaussian_filter(plane, 3) + rng.normal(0, 0.5, plane.shape) if role == "nucleus" else 0,
    }[defect]
    if defect == "blurred" and role != "nucleus":
        made = gaussian_filter(rng.random(plane.shape), 6)
        made = (made - made.min()) / np.ptp(made) * 200
    said = flags_of(with_channel(field, role, np.asarray(made)), CHANNELS)
    assert f"{role} {defect}" in said
    assert all(flag.startswith((role, "nucleus")) for flag in said)


def test_all_black_is_empty_and_flat_does_not_fail() -> None:
    black = np.zeros((4, 64, 64), np.uint8)
    assert set(flags_of(black, CHANNELS)) >= {f"{role} empty" for role in CHANNELS}
    assert flags_of(black + 255, CHANNELS)
    assert measure(black[0]).sharpness == 0


def test_flags_name_the_channels_that_are_there(field: NDArray[np.uint8]) -> None:
    black = np.zeros((2, 64, 64), np.uint8)
    assert flags_of(black, ("protein", "mito")) == ("protein empty", "mito empty")
    swapped = field[[2, 1, 0]]
    assert "nucleus swapped" in flags_of(swapped, ("microtubules", "protein", "nucleus"))
    # No measure says how nuclei differ from what a name of the user's own shows.
    assert flags_of(swapped[[0, 2]], ("mito", "nucleus")) == ()
    assert flags_of(field[:2], ("microtubules", "protein")) == ()


@pytest.mark.parametrize("role", ["microtubules", "er"])
def test_a_swapped_nucleus_is_flagged(field: NDArray[np.uint8], role: str) -> None:
    swapped = field.copy()
    index = CHANNELS.index(role)
    swapped[[2, index]] = swapped[[index, 2]]
    assert "nucleus swapped" in flags_of(swapped, CHANNELS)
    as_it_is = dict(zip(CHANNELS, field, strict=True))
    assert swap_score(as_it_is) < swap_score(dict(zip(CHANNELS, swapped, strict=True)))


@pytest.mark.parametrize("size", [256, 512])
def test_the_limits_hold_for_datasets_of_other_sizes(size: int) -> None:
    folder = DATA / "images" / "kaggle512"
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
    from cytoloc.images.scale import Scaling, scale_field

    found = find_kaggle_fields(folder)
    flags = [
        flags_of(scale_field(read_kaggle_field(folder, name, found[name]), Scaling(size=size)).image, CHANNELS)
        for name in sorted(found)
    ]
    assert sum(map(len, flags)) <= 0.05 * 4 * len(flags)
