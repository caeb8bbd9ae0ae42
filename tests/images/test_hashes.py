from __future__ import annotations

from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.dataset.store import Dataset
from cytoloc.images.hashes import TRANSFORMS, field_hashes, phashes, phashes_turned, turned
from cytoloc.predict.tta import dihedral


def reference(plane: np.ndarray) -> int:
    return int(str(imagehash.phash(Image.fromarray(plane))), 16)


def test_real_channels_hash_as_imagehash_hashes_them(real_fields: Path) -> None:
    found = find_kaggle_fields(real_fields)
    planes = np.concatenate([read_kaggle_field(real_fields, name, found[name]) for name in sorted(found)])
    differ = [(ours ^ reference(plane)).bit_count() for ours, plane in zip(phashes(planes), planes, strict=True)]
    assert np.mean(np.array(differ) <= 2) >= 0.99


def test_simulated_channels_hash_as_imagehash_hashes_them(study: Dataset) -> None:
    planes = study.read(range(40)).reshape(-1, study.size, study.size)
    differ = np.array([(o ^ reference(p)).bit_count() for o, p in zip(phashes(planes), planes, strict=True)])
    assert np.median(differ) == 0
    assert np.mean(differ <= 2) >= 0.99


def test_turned_hashes_are_those_of_the_turned_image(study: Dataset) -> None:
    for image in study.read([0, 7, 21]):
        for number, transform in enumerate(TRANSFORMS):
            again = phashes(np.ascontiguousarray(turned(image, transform)))
            ahead = [hashes[number] for hashes in phashes_turned(image)]
            # Rounding to whole grays is not symmetrical.
            assert max((a ^ b).bit_count() for a, b in zip(again, ahead, strict=True)) <= 4


def test_transforms_are_the_views_of_prediction(study: Dataset) -> None:
    import torch

    image = study[3]
    for number, transform in enumerate(TRANSFORMS):
        seen = dihedral(torch.from_numpy(image)[None], number)[0].numpy()
        np.testing.assert_array_equal(turned(image, transform), seen)


def test_channels_that_say_nothing_have_no_hash() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
    image[1] = 7
    hashes = field_hashes(image, ("mito", "protein", "nucleus"))
    assert list(hashes) == ["mito", "protein", "nucleus"]
    assert hashes["protein"] is None
    assert hashes["nucleus"] == reference(image[2])


@pytest.mark.parametrize("size", [16, 32, 48, 64, 512, 1000])
def test_images_of_any_size_hash(size: int) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (8, 8), np.uint8)
    plane = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
    assert (phashes(plane[None])[0] ^ reference(plane)).bit_count() <= 4
