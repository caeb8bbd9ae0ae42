"""Explanations of predictions, as a value and as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, get_args

import numpy as np
import polars as pl

from cytoloc._typing import BoolArray, Float32Array, UInt8Array
from cytoloc.choices import MapMethod, check_type, refuse_unknown
from cytoloc.embed.embeddings import Embeddings, embed_sources
from cytoloc.embed.neighbors import Neighbors, find_neighbors
from cytoloc.errors import ImageError, SettingsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import refuse_repeated

if TYPE_CHECKING:
    from pathlib import Path

    from cytoloc.dataset.store import Dataset
    from cytoloc.predict.model import Model
    from cytoloc.predict.sources import Images, Source

LIKELY: Final = 0.5
"""Probability from which a model without a decision predicts a location."""

NEIGHBORS: Final = 5
"""Number of nearest labeled fields of each field."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Explanations:
    """What the predictions of some fields depend on.

    Attributes:
        ids: The ids of the fields.
        locations: The keys of the explained locations.
        maps: How much each part of an image contributes to each location, float32 of shape
            ``(n, len(locations), height, width)`` from 0 to 1. The maximum of each map is 1, or 0 if nothing
            contributes.
        probabilities: The probability of each location, float32 of shape ``(n, len(locations))``.
        predicted: Whether the model predicts each location, bool of shape ``(n, len(locations))``; see
            :meth:`cytoloc.Model.explain`.
        without_channel: The probability with a channel blanked, minus the probability, float32 of shape
            ``(n, channels, len(locations))``. A negative value means that the channel supports the location.
        channels: The names of the channels of the model.
        images: The images as the model sees them, uint8 of shape ``(n, channels, height, width)``.
        label_set: The label set of the model.
        method: How the maps were computed.
        neighbors: The nearest labeled fields; None if no labeled fields were given.
        rejected: The reason why a field could not be read, by id.
    """

    ids: tuple[str, ...]
    locations: tuple[str, ...]
    maps: Float32Array
    probabilities: Float32Array
    predicted: BoolArray
    without_channel: Float32Array
    channels: tuple[str, ...]
    images: UInt8Array
    label_set: LabelSet
    method: MapMethod
    neighbors: Neighbors | None = None
    rejected: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        fields = f"{len(self)} field{'s' * (len(self) != 1)}"
        return f"Explanations({fields}, {', '.join(self.locations)}, {self.method})"

    def channel_effects(self) -> pl.DataFrame:
        """Return a table with the columns ``id``, ``location``, ``probability``, ``predicted`` and one per channel.

        The column of a channel is the probability with the channel blanked, minus the probability.
        """
        count = len(self.locations)
        return pl.DataFrame(
            {
                "id": np.repeat(np.array(self.ids, dtype=object), count).tolist(),
                "location": list(self.locations) * len(self),
                "probability": self.probabilities.ravel(),
                "predicted": self.predicted.ravel(),
                **{
                    f"without_{name}": self.without_channel[:, number].ravel()
                    for number, name in enumerate(self.channels)
                },
            }
        )


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """How fields are explained.

    Attributes:
        locations: The keys or names of the locations. None: the locations that the model predicts in any of the fields.
        method: ``"layercam"``, ``"gradcam"``, or ``"attention"`` for networks with an attention head.
        tta: Number of test-time augmentation views of maps: 1, 2, 4 or 8. Maps are turned back and averaged.
            Probabilities always have the number of views that the model states, as in predictions.
        absent: The substitute for each channel that the model needs and the images lack; see
            :meth:`cytoloc.Model.predict`.
        batch_size: Number of fields per batch.

    Raises:
        ArgumentTypeError: If a value has the wrong type.
        SettingsError: If ``method``, ``tta`` or ``batch_size`` is invalid.
    """

    locations: Sequence[str] | None = None
    method: MapMethod = "layercam"
    tta: int = 1
    absent: Mapping[str, str] | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_type(self.locations, (list, tuple, type(None)), argument="locations")
        check_type(self.absent, (Mapping, type(None)), argument="absent")
        refuse_unknown(self.method, get_args(MapMethod), argument="method")
        check_type(self.tta, int, argument="tta")
        check_type(self.batch_size, int, argument="batch_size")
        if self.batch_size < 1:
            raise SettingsError(f"`batch_size` is {self.batch_size}, but must be a positive integer.")


def explain(
    model: Model,
    images: Images | Sequence[Dataset | str | Path],
    *,
    locations: Sequence[str] | None = None,
    method: MapMethod = "layercam",
    tta: int = 1,
    neighbors: Dataset | Embeddings | None = None,
    channels: Sequence[str] | None = None,
) -> Explanations:
    """Explain predictions: class activation maps, the effect of each channel, and the nearest labeled fields.

    Maps are averaged over the views and over the networks of the model. They are computed by PyTorch, also if the model
    predicts with another engine. The effect of a channel is measured by predicting with the channel blanked.

    Args:
        model: The model.
        images: Images in memory, datasets or paths; see :meth:`cytoloc.Model.predict`.
        locations: The keys or names of the locations to explain. Default: the locations that the model predicts in any
            of the images. A model without a decision predicts the locations with a probability of at least 0.5. If it
            predicts no location in an image, the most probable one counts as predicted.
        method: ``"layercam"``, ``"gradcam"``, or ``"attention"`` for networks with an attention head.
        tta: Number of test-time augmentation views of maps: 1, 2, 4 or 8.
        neighbors: Labeled fields among which the five nearest are found: a dataset, or its features.
        channels: The names of the channels of an array, in order. Default: the channels of the model.

    Returns:
        The explanations.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        TableError: If a location is unknown.
        SettingsError: If the method is unknown, ``tta`` is invalid, the model was published as ONNX, or a
            network has no attention.
        ImageError: If images have another shape or pixel type, are too small, or cannot be read.
        ChannelError: If the images lack a channel.

    Examples:
        >>> model = load("builtin", device="cpu")  # doctest: +SKIP
        >>> model.explain(np.zeros((4, 128, 128), np.uint8), locations=["nucleoli"])  # doctest: +SKIP
        Explanations(1 field, nucleoli, layercam)
    """
    from cytoloc.predict.model import Model
    from cytoloc.predict.sources import sources_of

    check_type(model, Model, argument="model")
    sources = sources_of(images, model.channels if channels is None else channels, given=channels is not None)
    found = explain_sources(
        model, sources, options=ExplainOptions(locations=locations, method=method, tta=tta), neighbors=neighbors
    )
    for reason in found.rejected.values():
        raise ImageError(reason, hint="Remove the file, or use cytoloc.explain_sources, which leaves it out.")
    return found


def explain_sources(
    model: Model,
    sources: Sequence[Source],
    *,
    options: ExplainOptions | None = None,
    neighbors: Dataset | Embeddings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explanations:
    """Explain the predictions of all fields of some sources; see :meth:`cytoloc.Model.explain`.

    Args:
        model: The model.
        sources: The sources of the fields; see :func:`cytoloc.open_sources`.
        options: How fields are explained.
        neighbors: Labeled fields among which the nearest are found.
        progress: A function that is called after each batch with the number of finished fields and of all fields.

    Returns:
        The explanations. Fields that cannot be read are left out, and listed in ``rejected``.

    Raises:
        ArgumentTypeError, SettingsError, ChannelError: For the reasons of :meth:`cytoloc.Model.explain`.
        ImageError: If no field could be read.
    """
    from cytoloc.dataset.store import Dataset
    from cytoloc.predict.model import Model
    from cytoloc.predict.planes import find_planes
    from cytoloc.predict.sources import DatasetSource, refuse_other_cells

    check_type(model, Model, argument="model")
    check_type(sources, (list, tuple), argument="sources")
    check_type(neighbors, (Dataset, Embeddings, type(None)), argument="neighbors")
    options = options or ExplainOptions()
    check_type(options, ExplainOptions, argument="options")
    _check_networks(model, options)
    reference = embed_sources(model, [DatasetSource(neighbors)]) if isinstance(neighbors, Dataset) else neighbors
    ids: list[str] = []
    batches: list[UInt8Array] = []
    rejected: dict[str, str] = {}
    for source in sources:
        refuse_other_cells(source, model.info.cells, size=model.size)
        planes = find_planes(model.channels, source.channels, absent=options.absent, where=source.name)
        for batch in source.batches(model.size, options.batch_size, model.resample or model.info.resample or "area"):
            ids += batch.ids
            batches += [planes.of(batch.images)] if batch.ids else []
            rejected |= {each.id: each.reason for each in batch.rejected}
    if not ids:
        reason = next(iter(rejected.values()), "There are none.")
        raise ImageError(f"No field could be read. The first reason: {reason}", hint="Check the files.")
    refuse_repeated(ids, where="the fields to explain")
    probabilities = np.concatenate([model.probabilities(each) for each in batches])
    predicted = probabilities >= LIKELY if model.decision is None else model.decision.decide_calibrated(probabilities)
    nowhere = ~predicted.any(axis=1)
    predicted[nowhere, probabilities[nowhere].argmax(axis=1)] = True
    chosen = _chosen(model.label_set, options.locations, predicted)
    maps: list[Float32Array] = []
    effects: list[Float32Array] = []
    done = 0
    for images in batches:
        shown, blanked = _maps_and_blanked(model, images, chosen, options=options)
        maps.append(shown)
        effects.append(blanked[..., chosen] - probabilities[done : done + len(images), None][..., chosen])
        done += len(images)
        if progress:
            progress(done, len(ids))
    nearest = None
    if reference is not None:
        features = np.concatenate([model.features(each) for each in batches])
        own = bool(set(ids) & set(reference.ids))
        nearest = find_neighbors(
            Embeddings(tuple(ids), features, model.fingerprint), reference, k=min(NEIGHBORS, len(reference) - own)
        )
    return Explanations(
        ids=tuple(ids),
        locations=tuple(model.label_set.keys[place] for place in chosen),
        maps=np.concatenate(maps),
        probabilities=probabilities[:, chosen],
        predicted=predicted[:, chosen],
        without_channel=np.concatenate(effects),
        channels=model.channels,
        images=np.concatenate(batches),
        label_set=model.label_set,
        method=options.method,
        neighbors=nearest,
        rejected=rejected,
    )


def _check_networks(model: Model, options: ExplainOptions) -> None:
    """Raise unless all networks of a model have the maps that are asked for."""
    from cytoloc.models.graphs import is_graph
    from cytoloc.models.heads import AttentionHead
    from cytoloc.predict.tta import check_tta

    check_tta(options.tta)
    if any(is_graph(network) for network in model.networks):
        raise SettingsError(
            "The model was published as an ONNX graph, which has no gradients to compute maps from.",
            hint="Explain with a model whose networks are PyTorch networks.",
        )
    if options.method == "attention" and not all(isinstance(each.head, AttentionHead) for each in model.networks):
        raise SettingsError(
            "The networks of the model have no attention head, so there is no attention to show.",
            hint="Choose `method='layercam'`.",
        )


def _chosen(label_set: LabelSet, locations: Sequence[str] | None, predicted: BoolArray) -> list[int]:
    """Return the indices of the locations to explain."""
    if locations is None:
        return [int(place) for place in np.flatnonzero(predicted.any(axis=0))]
    if not locations:
        raise SettingsError("`locations` is empty.", hint="Name at least one location, or leave it out.")
    return list(dict.fromkeys(label_set.index(word, where="`locations`") for word in locations))


def _maps_and_blanked(
    model: Model, images: UInt8Array, chosen: Sequence[int], *, options: ExplainOptions
) -> tuple[Float32Array, Float32Array]:
    """Return the maps of a batch, and its probabilities with each channel blanked.

    Maps are averaged over views and networks. Shapes are ``(n, len(chosen), size, size)`` and
    ``(n, channels, locations)``.
    """
    import torch

    from cytoloc.explain.activation import class_maps
    from cytoloc.predict.tta import TTA_VIEWS, dihedral, dihedral_back

    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(model.device)
    views = TTA_VIEWS[options.tta]
    total = torch.zeros(len(images), len(chosen), *images.shape[2:])
    for network in model.networks:
        for view in views:
            turned = class_maps(network, dihedral(pixels, view), chosen, method=options.method)
            total += dihedral_back(turned, view).cpu()
    mean = total.numpy()
    most = mean.max(axis=(2, 3), keepdims=True)
    maps = np.divide(mean, most, out=np.zeros_like(mean), where=most > 0)
    blanked = []
    for channel in range(images.shape[1]):
        changed = images.copy()
        changed[:, channel] = 0
        blanked.append(model.probabilities(changed))
    return np.asarray(maps, np.float32), np.stack(blanked, axis=1)
