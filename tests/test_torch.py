"""Fields as an ordinary torch dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cytoloc.dataset.store import Dataset
from cytoloc.errors import SettingsError
from cytoloc.torch import FieldDataset


def test_items_are_images_with_labels(study: Dataset) -> None:
    fields = FieldDataset(study)
    assert len(fields) == len(study)
    image, labels = fields[3]
    assert (image.dtype, image.shape, labels.dtype) == (torch.uint8, (4, 64, 64), torch.float32)
    np.testing.assert_array_equal(image.numpy(), study[3])
    np.testing.assert_array_equal(labels.numpy(), study.truth[3])
    some = FieldDataset(study, [5, -1, 5], transform=lambda one: one.float() / 255)
    assert [len(some), some[0][0].dtype, len([some[place] for place in range(3)])] == [3, torch.float32, 3]
    np.testing.assert_allclose(some[-2][0].numpy() * 255, study[-1], atol=1e-4)
    several = some.__getitems__([2, 0])
    assert torch.equal(several[0][0], several[1][0])


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_out_of_range_is_an_index_error(index: int, study: Dataset) -> None:
    fields = FieldDataset(study, [5, 1, 2])
    with pytest.raises(IndexError, match=f"The index {index} is out of range for 3 fields"):
        _ = fields[index]
    with pytest.raises(IndexError, match="`rows` contains 40"):
        FieldDataset(study, [0, 40])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loader_shuffles_all_fields(workers: int, study: Dataset) -> None:
    context = "spawn" if workers else None
    loader = DataLoader(
        FieldDataset(study), batch_size=7, shuffle=True, num_workers=workers, multiprocessing_context=context
    )
    batches = list(loader)
    assert [len(images) for images, _ in batches] == [7, 7, 7, 7, 7, 5]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    rows = [next(row for row in range(len(study)) if np.array_equal(study[row], image)) for image in images.numpy()]
    assert sorted(rows) == list(range(len(study))) != rows
    np.testing.assert_array_equal(labels.numpy(), study.truth[rows])


def test_a_forked_process_is_refused(study: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = FieldDataset(study)
    monkeypatch.setattr("cytoloc.torch.os.getpid", lambda: -1)
    with pytest.raises(SettingsError, match="forked process") as caught:
        _ = fields[0]
    assert 'multiprocessing_context="spawn"' in caught.value.hint
