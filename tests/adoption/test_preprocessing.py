"""Scaling of full-resolution fields, compared with the way of the authors of the DenseNet121."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cytoloc.images.scale import Scaling, scale_field
from tests.conftest import DATA


def resized(plane: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def published(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a plane as the authors prepare it: at 1536 px, through JPEG, at 1024 px."""
    encoded = cv2.imencode(".jpg", resized(plane, 1536), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    return resized(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8), 1024)


@pytest.mark.parametrize("start", ["000a6c98", "f0ac7116"])
def test_our_scaling_is_near_that_of_the_authors(start: str) -> None:
    files = sorted((DATA / "images" / "fullres").glob(f"{start}*.png"))
    if len(files) != 4:
        pytest.skip("fields in full resolution are not there; set CYTOLOC_TEST_DATA")
    field = np.stack([np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), np.uint8) for file in files])
    theirs = np.stack([published(plane) for plane in field]).astype(float)
    ours = scale_field(field, Scaling(size=1024)).image
    enlarged = np.stack([resized(plane, 1024) for plane in scale_field(field, Scaling(size=512)).image])
    near, far = (np.sqrt(np.square(each - theirs).mean(axis=(1, 2))) for each in (ours, enlarged))
    assert near.max() < 5
    assert (near < 0.65 * far).all()
