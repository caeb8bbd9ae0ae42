from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoloc.errors import ImageError
from cytoloc.images.depth import Bounds, DepthRule, Histogram, to_8_bit


@given(arrays(np.uint16, st.tuples(st.integers(1, 30), st.integers(1, 30))), st.sampled_from([0.001, 1, 50, 99.999]))
def test_percentiles_of_16_bit_planes_are_those_of_numpy(plane: np.ndarray, percent: float) -> None:
    rule = DepthRule(low=percent, high=100, floor=0)
    assert rule.bounds(plane).black == pytest.approx(np.percentile(plane, percent), abs=1e-6)
    assert rule.bounds(plane).white == plane.max()


def test_white_of_16_bit_pixels_is_not_below_the_floor() -> None:
    dim = np.linspace(100, 600, 10_000).astype(np.uint16).reshape(100, 100)
    assert DepthRule().bounds(dim).white == 10_000
    assert DepthRule(floor=500).bounds(dim).white == pytest.approx(600, abs=1)
    assert DepthRule().bounds(dim.astype(np.float32) / 600).white == pytest.approx(1, abs=1e-3)


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
    bounds = histogram.bounds(DepthRule(low=1, high=99))
    assert bounds is not None
    np.testing.assert_allclose(bounds.bounds, np.percentile(planes, [1, 99]), rtol=0.0005, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_joint_bounds_that_would_be_coarser_than_grays_are_refused(dtype: type) -> None:
    histogram = Histogram()
    histogram.add(np.arange(40_000, 40_100, dtype=dtype)[None])
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
