from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cytoloc.errors import ImageError
from cytoloc.images.scale import Scaling, far_off, resize, scale_field


def test_shrinking_by_a_whole_number_takes_means() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)
    means = image.reshape(4, 16, 4, 16, 4).mean(axis=(2, 4))
    assert np.abs(resize(image, 16, 16) - means).max() <= 0.51
    assert resize(image, 64, 64) is image


@pytest.mark.parametrize(("have", "want"), [(2048, 512), (3072, 512), (1080, 512), (1728, 512), (100, 33), (97, 96)])
def test_the_nearest_pixel_is_that_of_pillow(have: int, want: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, have, have), dtype=np.uint8)
    ours = scale_field(image, Scaling(size=want, resample="nearest")).image
    theirs = [Image.fromarray(plane).resize((want, want), Image.Resampling.NEAREST) for plane in image]
    np.testing.assert_array_equal(ours, theirs)
    if have % want == 0:
        step = have // want
        np.testing.assert_array_equal(ours, image[:, step // 2 :: step, step // 2 :: step])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize(("have", "want"), [(108, 51), (96, 48)])
def test_each_channel_is_scaled_as_if_it_were_alone(have: int, want: int, channels: int, dtype: type) -> None:
    image: NDArray[Any] = np.random.default_rng(0).integers(0, 256, (channels, have, have + 1)).astype(dtype)
    alone = [cv2.resize(plane, (want, want + 1), interpolation=cv2.INTER_AREA) for plane in image]
    ours = resize(image, want + 1, want)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, alone)


def test_nothing_is_enlarged_unless_it_was_asked_for() -> None:
    image = np.zeros((4, 20, 20), np.uint8)
    with pytest.raises(ImageError, match="20 x 20 px and would be enlarged to 32 x 32"):
        scale_field(image, Scaling(size=32))
    assert scale_field(image, Scaling(size=32, enlarge=True)).image.shape == (4, 32, 32)


def test_fields_that_are_not_square_are_refused_cropped_or_padded() -> None:
    image = np.zeros((1, 10, 20), np.uint8)
    image[:, :, 5:15] = 100
    with pytest.raises(ImageError, match="20 x 10 px, not square"):
        scale_field(image, Scaling(size=8))
    assert (scale_field(image, Scaling(size=10, square="crop")).image == 100).all()
    padded = scale_field(image, Scaling(size=20, square="pad")).image[0]
    assert padded[:5].max() == padded[15:].max() == 0
    np.testing.assert_array_equal(padded[5:15], image[0])


@pytest.mark.parametrize(("edge", "pixel_um"), [(1024, 0.16), (1030, 0.16)])
def test_a_pixel_size_is_brought_to_the_target(edge: int, pixel_um: float) -> None:
    image = np.zeros((1, edge, edge), np.uint8)
    scaled = scale_field(image, Scaling(size=512, target_um=0.32), pixel_um=pixel_um)
    assert scaled.image.shape == (1, 512, 512)
    assert scaled.pixel_um == 0.32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_um": 0.32}, "The image has 1024 x 1024 px at .* but the dataset has 512"),
        ({"target_um": 0.32, "square": "pad"}, "The image has 1024 x 1024 px at .* but the dataset has 512"),
        ({"target_um": 1.28, "square": "crop"}, "The image has 256 x 256 px at .* but the dataset has 512"),
        ({"target_um": 0.08, "square": "crop"}, "would be enlarged"),
    ],
)
def test_a_target_that_does_not_fill_the_square_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        scale_field(np.zeros((1, 2048, 2048), np.uint8), Scaling(size=512, **settings), pixel_um=0.16)


def test_a_target_that_does_not_fill_the_square_is_cropped_or_padded_when_asked() -> None:
    image = np.full((1, 2048, 2048), 7, np.uint8)
    cropped = scale_field(image, Scaling(size=512, target_um=0.32, square="crop"), pixel_um=0.16).image
    assert (cropped == 7).all()
    padded = scale_field(image, Scaling(size=512, target_um=1.28, square="pad"), pixel_um=0.16).image
    assert (int((padded == 7).sum()), int(padded.sum())) == (256 * 256, 7 * 256 * 256)


def test_a_target_needs_a_pixel_size() -> None:
    with pytest.raises(ImageError, match="pixel size of the image is unknown"):
        scale_field(np.zeros((1, 8, 8), np.uint8), Scaling(size=8, target_um=0.3))


def test_the_size_of_packed_pixels_follows_from_that_of_the_file() -> None:
    scaled = scale_field(np.zeros((1, 2048, 3000), np.uint8), Scaling(size=512, square="crop"), pixel_um=0.08)
    assert scaled.pixel_um == pytest.approx(0.32)
    assert not far_off(0.32, 512)
    assert far_off(0.08, 512)
    assert far_off(0.65, 512)
