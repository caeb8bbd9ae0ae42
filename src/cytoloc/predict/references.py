"""The reference of a model: which images it knows, from datasets of good images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cytoloc.dataset.store import Dataset
from cytoloc.predict.inputs.reference import MOST_FIELDS, Examples, InputReference, fit_reference
from cytoloc.predict.model import BATCH_SIZE, Model
from cytoloc.predict.planes import find_planes
from cytoloc.predict.sources import DatasetSource


def reference_of(model: Model, datasets: Sequence[Dataset], *, seed: int = 0) -> InputReference:
    """Learn which images a model knows.

    Args:
        model: The model, whose features are compared.
        datasets: Datasets of good images. At most 1,200 fields of each are used.
        seed: Random seed.

    Returns:
        The reference.

    Raises:
        ChannelError: If a dataset lacks a channel of the model.
        ImageError: If the images of a dataset are smaller than the model needs.
    """
    rng = np.random.default_rng(seed)
    groups, sizes = [], []
    for dataset in datasets:
        planes = find_planes(model.channels, dataset.channels, where=str(dataset.path))
        rows = np.sort(rng.permutation(len(dataset))[:MOST_FIELDS])
        batches = DatasetSource(dataset, rows).batches(model.size, BATCH_SIZE, model.info.resample or "area")
        fields = np.concatenate([planes.of(batch.images) for batch in batches])
        starts = range(0, len(fields), BATCH_SIZE)
        features = [model.features(fields[start : start + BATCH_SIZE]) for start in starts]
        groups.append(Examples(fields, np.concatenate(features)))
        sizes.append(dataset.pixel_sizes(model.size)[rows])
    known = np.concatenate(sizes)
    known = known[~np.isnan(known)]
    pixel_um = float(np.median(known)) if len(known) else None
    return fit_reference(groups, channels=model.channels, pixel_um=pixel_um, seed=seed)
