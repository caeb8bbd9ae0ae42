from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cytoloc.channels import CHANNELS
from cytoloc.dataset.sources.kaggle import read_kaggle_field
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ArgumentTypeError, CytolocError, ImageError
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import Network, build_network
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.sources import DatasetSource, KaggleFolderSource
from tests.models.nets import spec_of


def model_of(network: Network) -> Model:
    return Model([network], ModelInfo(size=48, channels=CHANNELS, label_set=LabelSet.hpa28()), device="cpu")


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build_network(spec_of("resnet18", dropout=0.0, mean=(0.08,) * 4, std=(0.1,) * 4, size=48))


def test_fields_of_a_folder_come_in_order_and_bad_ones_are_rejected(images: Path) -> None:
    (images / "b_red.png").write_bytes(b"")
    (images / "c_yellow.png").unlink()
    batches = list(KaggleFolderSource(images).batches(48, 2))
    assert [batch.ids for batch in batches] == [("a",), ()]
    assert [[each.id for each in batch.rejected] for batch in batches] == [["b"], ["c"]]
    assert "b_red.png is empty" in batches[0].rejected[0].reason
    assert "c_yellow.png" in batches[1].rejected[0].reason
    np.testing.assert_array_equal(batches[0].images, [read_kaggle_field(images, "a")])


def test_a_folder_has_the_channels_that_there_are_files_of(images: Path) -> None:
    for file in (*images.glob("*_red.png"), *images.glob("*_yellow.png"), images / "c_blue.png"):
        file.unlink()
    source = KaggleFolderSource(images)
    assert source.channels == ("protein", "nucleus")
    (batch,) = source.batches(48, 8)
    np.testing.assert_array_equal(batch.images[1], read_kaggle_field(images, "b", channels=("protein", "nucleus")))
    assert [(each.id, "c_blue.png" in each.reason) for each in batch.rejected] == [("c", True)]


def test_fields_that_are_too_small_are_rejected(images: Path) -> None:
    (batch,) = KaggleFolderSource(images).batches(64, 8)
    assert batch.images.shape == (0, 4, 64, 64)
    assert "enlarging adds no detail" in batch.rejected[0].reason


def test_scores_are_of_the_fields_that_could_be_read(images: Path, network: Network) -> None:
    model = model_of(network)
    whole = model.predict(images)
    assert (whole.ids, whole.rejected) == (("a", "b", "c"), {})
    (images / "b_red.png").write_bytes(b"")
    calls: list[tuple[int, int]] = []
    some = model.predict(images, progress=lambda done, total: calls.append((done, total)))
    assert some.ids == ("a", "c")
    assert list(some.rejected) == ["b"]
    assert "b_red.png is empty" in some.rejected["b"]
    assert calls[-1] == (3, 3)
    np.testing.assert_allclose(some.probabilities, whole.probabilities[[0, 2]], atol=1e-6)
    for name in "ac":
        (images / f"{name}_red.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"None of 3 fields could be read.*a_red\.png is empty"):
        model.predict(images)


def test_rows_of_an_dataset_are_resized(study: Dataset) -> None:
    rows = np.array([5, 2, 9])
    batches = list(DatasetSource(study, rows).batches(32, 2))
    assert [batch.ids for batch in batches] == [(study.ids[5], study.ids[2]), (study.ids[9],)]
    # Area means of blocks of two by two.
    blocks = study.read(rows).reshape(3, 4, 32, 2, 32, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(np.concatenate([batch.images for batch in batches]), blocks, atol=0.51)


def test_images_of_all_kinds_are_predicted_alike(images: Path, study: Dataset, network: Network) -> None:
    model = model_of(network)
    array = study.read(range(5))
    wanted = model.predict(array, batch_size=2)
    assert repr(wanted) == "Predictions(5 fields, 28 locations of hpa28)"
    for other in (torch.from_numpy(array), torch.from_numpy(array).float()):
        assert model.predict(other).probabilities.shape == (5, 28)
    np.testing.assert_allclose(model.predict(torch.from_numpy(array)).probabilities, wanted.probabilities, atol=1e-5)
    both = model.predict([study, images])
    assert both.ids == (*study.ids, "a", "b", "c")
    np.testing.assert_allclose(both.probabilities[:5], wanted.probabilities, atol=1e-5)
    half = model.predict(array, precision="bfloat16")
    np.testing.assert_allclose(half.probabilities, wanted.probabilities, atol=0.05)
    assert not np.array_equal(half.probabilities, wanted.probabilities)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"batch_size": 2.0}, "`batch_size` is 2.0"),
        ({"tta": 3}, "Invalid number of TTA views: 3"),
        ({"tta": True}, "Invalid number of TTA views: True"),
        ({"precision": "float8"}, "`precision` has the unknown value 'float8'"),
        ({"absent": {"golgi": "zero"}}, "has no channel golgi"),
        ({"channels": ["protein"]}, "must have the shape"),
    ],
)
def test_arguments_that_are_not_valid_are_refused(network: Network, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CytolocError, match=message):
        model_of(network).predict(np.zeros((1, 4, 48, 48), np.uint8), **arguments)


def test_a_model_says_what_it_is(network: Network) -> None:
    assert repr(model_of(network)) == ("Model(1 network, microtubules, protein, nucleus, er at 48 px, hpa28, on cpu)")
    with pytest.raises(ArgumentTypeError, match="or a list of datasets or paths, not set"):
        model_of(network).predict({1})  # type: ignore[arg-type]
