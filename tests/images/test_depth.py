from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoloc.errors import ImageError
from cytoloc.images.depth import Bounds, DepthRule, Histogram, all_to_8_bit, to_8_bit
from cytoloc.images.quality import flags_of


@given(arrays(np.uint16, st.tuples(st.integers(1, 30), st.integers(1, 30))), st.sampled_from([0.001, 1, 50, 99.999]))
def test_percentiles_of_16_bit_planes_are_those_of_numpy(plane: np.ndarray, percent: float) -> None:
    rule = DepthRule(low=percent, high=100, floor=0)
    assert rule.bounds(plane).black == pytest.approx(np.percentile(plane, percent), abs=1e-6)
    assert rule.bounds(plane).white == plane.max()


TYPES = (np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64)


@pytest.mark.parametrize("dtype", TYPES)
def test_white_is_at_least_the_floor_above_black_in_any_type(dtype: type) -> None:
    dim = np.linspace(100, 600, 10_000).astype(np.uint16).reshape(100, 100)
    assert DepthRule().bounds(dim.astype(dtype)) == pytest.approx((100, 10_100), abs=1)
    assert DepthRule(floor=500).bounds(dim.astype(dtype)).white == pytest.approx(600, abs=1)
    bright = (dim.astype(np.uint32) * 50).astype(np.uint16)
    if dtype is not np.int16:
        assert DepthRule().bounds(bright.astype(dtype)) == DepthRule().bounds(bright)


def test_floats_from_0_to_1_have_a_floor_and_others_a_known_flaw() -> None:
    dim = np.linspace(100, 600, 10_000).reshape(100, 100)
    unit = DepthRule().bounds((dim / 65_535).astype(np.float32))
    assert np.array(unit) * 65_535 == pytest.approx([100, 10_100], abs=1)
    assert DepthRule().bounds((dim * 1.7).astype(np.float32)).white == pytest.approx(1020, abs=1)
    eight = all_to_8_bit([dim + 0.3, dim / 1000, np.rint(dim)], DepthRule(), called=("a", "b", "c"))
    assert eight.flags(("a", "b", "c")) == ("a unknown range",)


@pytest.mark.parametrize("offset", [100, 32_768])
@pytest.mark.parametrize(
    "convert",
    [
        *(lambda plane, dtype=dtype: np.rint(plane).astype(dtype) for dtype in TYPES[2:]),
        lambda plane: np.rint(plane).astype(np.uint16),
        lambda plane: np.rint(plane - 40_000).astype(np.int16),
        lambda plane: (plane / 65_535).astype(np.float32),
        lambda plane: (plane * 2.3 - 70).astype(np.float32),
        lambda plane: np.rint(plane * 60_000).astype(np.uint32),
    ],
)
def test_noise_of_a_camera_is_empty_in_any_type(convert: Callable[[np.ndarray], np.ndarray], offset: int) -> None:
    noise = np.random.default_rng(0).normal(offset, 3, (256, 256))
    image = all_to_8_bit([convert(noise)], DepthRule(), called=("protein",)).image
    assert int(image.max()) - int(image.min()) < 64
    assert "protein empty" in flags_of(image, ("protein",))
    stretched = all_to_8_bit([convert(noise)], DepthRule(floor=0), called=("protein",)).image
    assert "protein empty" in flags_of(stretched, ("protein",))


def test_black_is_0_white_is_255_and_what_lies_outside_is_clipped() -> None:
    plane = np.array([[0, 100, 600, 1100, 5000]])
    for dtype in (np.uint16, np.int32, np.float32):
        assert to_8_bit(plane.astype(dtype), Bounds(100, 1100)).tolist() == [[0, 0, 128, 255, 255]]
    assert to_8_bit(plane.astype(np.float32), Bounds(100, 100)).max() == 0


def test_joint_bounds_of_16_bit_planes_are_those_of_all_pixels_together() -> None:
    rng = np.random.default_rng(0)
    planes = [rng.integers(low, low + 30_000, (50, 50), dtype=np.uint16) for low in (0, 20_000)]
    histogram = Histogram()
    for plane in planes:
        histogram.add(plane)
    rule = DepthRule(low=1, high=99)
    joint = histogram.bounds(rule)
    assert joint is not None
    assert joint.bounds == pytest.approx(np.percentile(np.stack(planes), [1, 99]))


@pytest.mark.parametrize("offset", [0.0, -0.5, -3.0])
def test_joint_bounds_of_floats_are_right_to_less_than_a_gray(offset: float) -> None:
    planes = np.random.default_rng(0).random((3, 60, 60)) + offset
    histogram = Histogram()
    for plane in planes:
        histogram.add(plane)
    bounds = histogram.bounds(DepthRule(low=1, high=99, floor=0))
    assert bounds is not None
    np.testing.assert_allclose(bounds.bounds, np.percentile(planes, [1, 99]), rtol=0.0005, atol=1e-5)


def test_joint_bounds_that_would_be_coarser_than_grays_are_refused() -> None:
    histogram = Histogram()
    histogram.add(np.arange(40_000.5, 40_100, dtype=np.float32)[None])
    with pytest.raises(ImageError, match="too close together"):
        histogram.bounds(DepthRule())


def test_planes_of_two_types_have_no_joint_bounds() -> None:
    histogram = Histogram()
    assert histogram.bounds(DepthRule()) is None
    histogram.add(np.zeros((2, 2), np.uint16))
    with pytest.raises(ImageError, match="The image has float32 pixels, but earlier files have uint16 pixels"):
        histogram.add(np.zeros((2, 2), np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(bad: float) -> None:
    plane = np.ones((3, 3), np.float32)
    plane[1, 1] = bad
    with pytest.raises(ImageError, match="The image has NaN or infinite values in 1 of 9 pixels"):
        DepthRule().bounds(plane)
