"""What a model knows of its training images, and the comparison of new images with it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, permutations
from typing import Any, Final, NamedTuple

import numpy as np

from cytoloc._typing import Float32Array, IntArray, UInt8Array
from cytoloc.predict.inputs.detectors import Distance, KindClassifier
from cytoloc.predict.inputs.nonsense import EXCHANGED, NONSENSE, exposure
from cytoloc.predict.inputs.statistics import PER_CHANNEL, field_statistics, permuted_statistics

UNLIKE: Final = "the image looks unlike the training images"
"""The finding for an image of no known kind of nonsense, whose statistics are unusual."""

UNLIKE_FEATURES: Final = "the features of the network are unlike those of the training images"
"""The finding for an image with unusual features."""

FOLDS: Final = 5
"""Number of parts for setting limits. Values of each part come from a fit on the other parts."""

USUAL: Final = {"statistics": 0.985, "kinds": 0.98, "features": 0.995}
"""Share of good fields below each limit."""

LEAST_FIELDS: Final = 50
"""Number of fields below which no reference is made."""

MOST_FIELDS: Final = 1200
"""Largest number of fields of a dataset from which a reference is made."""

MOST_EXPOSURES: Final = 1600
"""Largest number of good fields with another exposure."""

OF_EACH_KIND: Final = 300
"""Largest number of examples of each kind of nonsense."""

MOST_SCALE: Final = 1.6
"""Ratio of pixel sizes from which a field has another scale."""


class Examples(NamedTuple):
    """Good fields of one origin, such as a dataset.

    Attributes:
        fields: uint8 of shape ``(n, channels, size, size)``.
        features: Features of the networks, shape ``(n, features)``.
    """

    fields: UInt8Array
    features: Float32Array


class _Vectors(NamedTuple):
    """Vectors, and the part for cross-fitting that each belongs to."""

    values: Float32Array
    part: IntArray

    def without(self, part: int) -> Float32Array:
        return np.asarray(self.values[self.part != part], np.float32)


@dataclass(frozen=True)
class InputReference:
    """The images that a model knows.

    Attributes:
        channels: The names of the channels, in order.
        pixel_um: Median size of a pixel at the size of the model, in micrometers. None: unknown.
        kinds: The findings of the classifier, in the order of its classes after the first.
        statistics: The distance of image statistics.
        classifier: The classifier of image statistics.
        features: The distance of the networks' features.
        marked: The share of good fields of each group that were marked in cross-fitting.
    """

    channels: tuple[str, ...]
    pixel_um: float | None
    kinds: tuple[str, ...]
    statistics: Distance
    classifier: KindClassifier
    features: Distance
    marked: tuple[float, ...] = ()

    def findings(
        self, statistics: Float32Array, features: Float32Array, *, pixel_um: Float32Array | None = None
    ) -> list[str]:
        """Return what is unusual in each field; an empty text for a usual field.

        Args:
            statistics: The statistics of the fields, in the size and channel order of the model; see
                :func:`cytoloc.predict.inputs.statistics.field_statistics`.
            features: The features of the networks, shape ``(n, features)``.
            pixel_um: The size of a pixel of each field, in micrometers; NaN where it is unknown.

        Returns:
            A text for each field.
        """
        classes = self.classifier(statistics)
        is_nonsense = 1 - classes[:, 0] > self.classifier.limit
        is_far = self.statistics(statistics) > self.statistics.limit
        has_odd_features = self.features(features) > self.features.limit
        found = []
        for i, each in enumerate(statistics):
            size = np.nan if pixel_um is None else float(pixel_um[i])
            ratio = 1.0 if self.pixel_um is None or np.isnan(size) else size / self.pixel_um
            # A standard deviation below 1 of 255, and more than 30 % of white pixels, need no comparison.
            of_channels = each[: PER_CHANNEL * len(self.channels)].reshape(-1, PER_CHANNEL)
            plain = [
                f"{name} is {'blank' if values[1] < 0 else 'saturated'}"
                for name, values in zip(self.channels, of_channels, strict=True)
                if values[1] < 0 or values[8] > 0.3
            ]
            if not 1 / MOST_SCALE <= ratio <= MOST_SCALE:
                found.append(f"a pixel is {size:.3g} µm, but {self.pixel_um:.3g} µm in the training images")
            elif not (is_nonsense[i] or is_far[i] or has_odd_features[i]):
                found.append("")
            elif plain:
                found.append(plain[0])
            elif is_nonsense[i]:
                found.append(self.kinds[int(classes[i, 1:].argmax())])
            else:
                found.append(UNLIKE if is_far[i] else UNLIKE_FEATURES)
        return found

    def to_bytes(self) -> bytes:
        """Return the reference as the content of a NumPy ``.npz`` file."""
        facts = {name: getattr(self, name) for name in ("channels", "pixel_um", "kinds", "marked")}
        arrays: dict[str, Any] = {"facts": np.frombuffer(json.dumps(facts).encode("utf-8"), np.uint8)}
        for name in ("statistics", "classifier", "features"):
            part = getattr(self, name)
            arrays |= {f"{name}.{each.name}": np.asarray(getattr(part, each.name), np.float32) for each in fields(part)}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> InputReference:
        """Return the reference that :meth:`to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())

            def part(name: str, kind: type[Any]) -> Any:
                values = {each.name: arrays[f"{name}.{each.name}"] for each in fields(kind)}
                return kind(**{key: value if value.ndim else float(value) for key, value in values.items()})

            return cls(
                tuple(facts["channels"]),
                facts["pixel_um"],
                tuple(facts["kinds"]),
                part("statistics", Distance),
                part("classifier", KindClassifier),
                part("features", Distance),
                tuple(facts["marked"]),
            )


def fit_reference(
    groups: Sequence[Examples], *, channels: tuple[str, ...], pixel_um: float | None = None, seed: int = 0
) -> InputReference:
    """Learn which images are usual for a model.

    A distance of image statistics, a classifier of kinds of nonsense that are made from the good fields, and a distance
    of features are fitted. Their limits are set by cross-fitting, so that a stated share of the good fields of every
    group is below each limit.

    Args:
        groups: Good fields of each origin. Every group has at least :data:`LEAST_FIELDS` fields.
        channels: The names of the channels, in order.
        pixel_um: Median size of a pixel, in micrometers.
        seed: Random seed.

    Returns:
        The reference.
    """
    rng = np.random.default_rng(seed)
    largest = max(len(group.fields) for group in groups)
    plain: list[_Vectors] = []
    exposed: list[_Vectors] = []
    nonsense: dict[str, list[_Vectors]] = {name: [] for name in NONSENSE if len(channels) > 1 or "copies" not in name}
    for group in groups:
        count = len(group.fields)
        part = np.arange(count) % FOLDS
        plain.append(_Vectors(field_statistics(group.fields), part))
        chosen = rng.integers(0, count, min(MOST_EXPOSURES // len(groups), 4 * count))
        changed = np.stack([exposure(group.fields[i], rng) for i in chosen])
        exposed.append(_Vectors(field_statistics(changed), part[chosen]))
        for name in nonsense:
            chosen = rng.integers(0, count, min(OF_EACH_KIND // len(groups), 2 * count))
            made = np.stack([NONSENSE[name](group.fields[i], rng) for i in chosen])
            nonsense[name].append(_Vectors(field_statistics(made), part[chosen]))
    # A small group counts as much as a quarter of the largest.
    repeats = [max(1, round(largest / (4 * len(group.fields)))) for group in groups]

    def fit_statistics(part: int) -> tuple[Distance, KindClassifier]:
        """Return the detectors that are fitted to all parts but one."""
        again = [one.without(part) for one, times in zip(plain, repeats, strict=True) for _ in range(times)]
        good = np.concatenate([*again, *(one.without(part) for one in exposed)])
        kinds = [np.concatenate([one.without(part) for one in each]) for each in nonsense.values()]
        if len(channels) > 1:
            kinds.append(_exchanged(good, len(channels), seed=seed))
        return Distance.fit(good), KindClassifier.fit(good, kinds)

    far: list[list[Float32Array]] = [[] for _ in groups]
    likely: list[list[Float32Array]] = [[] for _ in groups]
    odd: list[list[Float32Array]] = [[] for _ in groups]
    for left_out in range(FOLDS):
        distance, classifier = fit_statistics(left_out)
        of_features = _fit_features(groups, repeats, without=left_out)
        for i, (one, group) in enumerate(zip(plain, groups, strict=True)):
            held_out = one.part == left_out
            far[i].append(distance(one.values[held_out]))
            likely[i].append(1 - classifier(one.values[held_out])[:, 0])
            odd[i].append(of_features(group.features[held_out]))
    limits = [
        _limit(far, USUAL["statistics"]),
        max(0.5, _limit(likely, USUAL["kinds"])),
        _limit(odd, USUAL["features"]),
    ]
    marked = [
        float(np.any([np.concatenate(one) > limit for one, limit in zip(of_group, limits, strict=True)], axis=0).mean())
        for of_group in zip(far, likely, odd, strict=True)
    ]
    distance, classifier = fit_statistics(-1)
    return InputReference(
        channels,
        pixel_um,
        (*nonsense, *([EXCHANGED] if len(channels) > 1 else [])),
        replace(distance, limit=limits[0]),
        replace(classifier, limit=limits[1]),
        replace(_fit_features(groups, repeats, without=-1), limit=limits[2]),
        tuple(marked),
    )


def _limit(values: Sequence[Sequence[Float32Array]], share: float) -> float:
    """Return the limit below which the given share of every group lies."""
    return max(float(np.quantile(np.concatenate(each), share)) for each in values)


def _fit_features(groups: Sequence[Examples], repeats: Sequence[int], *, without: int) -> Distance:
    """Return the distance of features, fitted to all parts but one."""
    kept = [group.features[np.arange(len(group.features)) % FOLDS != without] for group in groups]
    return Distance.fit(np.concatenate([one for one, times in zip(kept, repeats, strict=True) for _ in range(times)]))


def _exchanged(good: Float32Array, channels: int, *, seed: int) -> Float32Array:
    """Return the statistics of fields whose channels are exchanged, some of each order."""
    rng = np.random.default_rng(seed)
    usual = list(range(channels))
    # Two channels in each other's place is the usual mistake.
    exchanges = []
    for i, j in combinations(range(channels), 2):
        order = usual.copy()
        order[i], order[j] = j, i
        exchanges.append(tuple(order))
    every = [order for order in permutations(range(channels)) if list(order) != usual] if channels <= 5 else []
    orders = [*every, *3 * exchanges]
    orders = [orders[i] for i in rng.permutation(len(orders))[:48]]
    share = max(1, min(len(good) // 4, 8 * OF_EACH_KIND // len(orders)))
    return np.concatenate([permuted_statistics(good[rng.integers(0, len(good), share)], order) for order in orders])
