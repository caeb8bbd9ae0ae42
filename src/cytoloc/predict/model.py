"""Trained models: one or more networks whose probabilities are averaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import numpy as np
import torch

from cytoloc._typing import BoolArray, Float32Array, UInt8Array
from cytoloc.choices import Resample, refuse_unknown
from cytoloc.dataset.store import Dataset
from cytoloc.decide.decision import Decision
from cytoloc.errors import ImageError, ModelCaution, SettingsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import refuse_repeated
from cytoloc.models.devices import find_device
from cytoloc.models.network import Network
from cytoloc.parallel import one_ahead
from cytoloc.predict.engines.choosing import EngineSet
from cytoloc.predict.engines.engine import Engine, ModelPrecision
from cytoloc.predict.inputs.statistics import field_statistics
from cytoloc.predict.model_info import ModelInfo, PredictedBatch, Unusual, fingerprint_of
from cytoloc.predict.planes import PlaneMap, find_planes
from cytoloc.predict.resampling import resampling_caution
from cytoloc.predict.sources import FieldBatch, Images, Source, cells_in, refuse_other_cells, sources_of, training_facts
from cytoloc.predict.tta import check_tta, mean_outputs
from cytoloc.predictions import Predictions, training_caution

if TYPE_CHECKING:
    from cytoloc.embed.embeddings import Embeddings
    from cytoloc.explain.maps import Explanations

BATCH_SIZE: Final = 16
"""Default number of fields per batch."""


class _Prepared(NamedTuple):
    """A batch of fields in the channels of the model, with their statistics."""

    batch: FieldBatch
    images: UInt8Array
    statistics: Float32Array | None


class Model:
    """A trained model. Load one with :func:`cytoloc.load`.

    Args:
        networks: Networks of the same image size, whose probabilities are averaged.
        info: The properties of the model.
        decision: Calibrates the mean probabilities and decides on locations. None: probabilities only.
        device: The device to compute on; see :func:`cytoloc.models.devices.find_device`.
        precision: Floating-point precision, or ``"int8"``; see :func:`cytoloc.load`.
        engine: The library that computes the networks; see :func:`cytoloc.load`.
        unusual: What to do with fields whose images are unusual; see :func:`cytoloc.load`.

    Attributes:
        resample: How larger images are scaled down; see :func:`cytoloc.load`. None: as the training images.

    Raises:
        LabelSetError: If the decision has another label set.
        SettingsError: If the device is not available or does not support the precision, or the engine does not support
            either.
        MissingExtraError: If the library of the engine is not installed.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        info: ModelInfo,
        *,
        decision: Decision | None = None,
        device: str | torch.device | None = None,
        precision: ModelPrecision = "float32",
        engine: str = "auto",
        unusual: Unusual = "mark",
    ) -> None:
        if decision is not None:
            info.label_set.refuse_other(decision.label_set, what="the decision", than="the model")
        refuse_unknown(unusual, get_args(Unusual), argument="unusual")
        self.info = info
        self.decision = decision
        self.unusual = unusual
        self.resample: Resample | None = None
        self.device = find_device("cpu" if device is None and precision == "int8" else device)
        self.precision: ModelPrecision = precision
        self.networks = [network.to(self.device).eval() for network in networks]
        self.engine_choice = engine
        self._engines = EngineSet(
            self.networks, engine, device=self.device, precision=precision, size=info.size, int8=info.int8
        )

    def __repr__(self) -> str:
        networks = f"{len(self.networks)} network{'s' * (len(self.networks) != 1)}"
        decided = ", with a decision" if self.decision else ""
        return (
            f"Model({networks}, {', '.join(self.channels)} at {self.size} px, {self.label_set.name}{decided},"
            f" on {self.device})"
        )

    @property
    def size(self) -> int:
        """Edge length of the images that the networks need, in pixels."""
        return self.info.size

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels that the networks need, in order."""
        return self.info.channels

    @property
    def engine(self) -> str:
        """The library that computed the last predictions, and its precision if it is not float32."""
        return self._engines.used

    @property
    def label_set(self) -> LabelSet:
        """The locations that the model predicts."""
        return self.info.label_set

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides on predictions: the networks, the channels, the size and the decision."""
        return fingerprint_of(self.networks, self.info, self.decision.fingerprint if self.decision else "")

    def without_decision(self) -> Model:
        """Return the model without its decision: it predicts probabilities as the networks give them, and no locations.

        Fit a decision of your own to them, alone or with other models.
        """
        bare = copy(self)
        provenance = {name: value for name, value in self.info.provenance.items() if name != "calibrated_by"}
        bare.info, bare.decision = replace(self.info, provenance=provenance), None
        bare.__dict__.pop("fingerprint", None)
        return bare

    def predict(
        self,
        images: Images | Sequence[Dataset | str | Path],
        *,
        channels: Sequence[str] | None = None,
        absent: Mapping[str, str] | None = None,
        tta: int | None = None,
        batch_size: int = BATCH_SIZE,
        precision: ModelPrecision | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Predict the probability of each location for every image, and the locations if the model has a decision.

        Args:
            images: An array or tensor of shape ``(n, channels, h, w)`` or ``(channels, h, w)``, of uint8, uint16 or
                float. Or a dataset, the path of a dataset or of a folder of image files of the 2018 Kaggle competition,
                or a list of datasets or paths. uint16 and float images are scaled to 8 bits by their percentiles.
                Larger images are scaled down.
            channels: The names of the channels of an array, in order. Default: the channels of the model.
            absent: The substitute for each channel that the model needs and the images lack: ``"zero"`` for a black
                image, or the name of another channel.
            tta: Number of test-time augmentation views: 1, 2, 4 or 8. Default: the number that the model states.
            batch_size: Number of images per batch.
            precision: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"int8"``. Default: the precision of the model.
            progress: A function that is called after each batch with the number of finished images and of all images.

        Returns:
            The predictions. Their attribute ``rejected`` lists fields of a folder that could not be read.

        Raises:
            ArgumentTypeError: If ``images`` has another type.
            ImageError: If images have another shape or pixel type, are too small, or none could be read.
            ChannelError: If the images lack a channel and no substitute is given.
            SettingsError: If ``tta``, ``batch_size`` or ``precision`` is invalid.

        Warns:
            ModelCaution: If the authors of the model give a caution, images are unusual, or images are scaled down for
                a model of 256 px or more and it is unknown how its training images were.
            EngineWarning: If an engine is skipped.

        Examples:
            >>> model = load("builtin", device="cpu")  # doctest: +SKIP
            >>> model.predict(np.zeros((4, 128, 128), np.uint8), tta=1)  # doctest: +SKIP
            Predictions(1 field, 28 locations of hpa28, decided)
        """
        found = self.predict_sources(
            sources_of(images, self.channels if channels is None else channels, given=channels is not None),
            absent=absent,
            tta=tta,
            batch_size=batch_size,
            precision=precision,
            progress=progress,
        )
        if found.caution:
            warnings.warn(found.caution, ModelCaution, stacklevel=2)
        seen = training_caution(found)
        if seen and found.provenance.get("fields_maybe_trained_on"):
            warnings.warn(seen, ModelCaution, stacklevel=2)
        if found.n_cautions:
            first = next(text for text in found.cautions if text)
            warnings.warn(
                f"The images of {found.n_cautions} of {len(found)} fields are unusual, for example: {first}. `cautions`"
                " has a text for each field.",
                ModelCaution,
                stacklevel=2,
            )
        return found

    def embed(
        self,
        images: Images | Sequence[Dataset | str | Path],
        *,
        channels: Sequence[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Float32Array:
        """Compute the features of every image: the mean of the last feature map of each network, side by side.

        Args:
            images: Images in memory, datasets or paths; see :meth:`predict`.
            channels: The names of the channels of an array, in order. Default: the channels of the model.
            batch_size: Number of images per batch.

        Returns:
            float32 of shape ``(n, features)``. :func:`cytoloc.embed_sources` also returns the ids.

        Raises:
            ArgumentTypeError, ImageError, ChannelError: For the reasons of :meth:`predict`.
        """
        found = []
        for source in sources_of(images, self.channels if channels is None else channels, given=channels is not None):
            refuse_other_cells(source, self.info.cells, size=self.size)
            planes = find_planes(self.channels, source.channels, where=source.name)
            for batch in source.batches(self.size, batch_size, self.resample or self.info.resample or "area"):
                if batch.rejected:
                    raise ImageError(
                        batch.rejected[0].reason,
                        hint="Remove the file, or use cytoloc.embed_sources, which leaves it out.",
                    )
                found.append(self.features(planes.of(batch.images)))
        return np.concatenate(found)

    def explain(
        self,
        images: Images | Sequence[Dataset | str | Path],
        *,
        locations: Sequence[str] | None = None,
        method: Literal["layercam", "gradcam", "attention"] = "layercam",
        tta: int = 1,
        neighbors: Dataset | Embeddings | None = None,
        channels: Sequence[str] | None = None,
    ) -> Explanations:
        """Explain predictions: class activation maps, the effect of each channel, and the nearest labeled fields.

        Args:
            images: Images in memory, datasets or paths; see :meth:`predict`.
            locations: The keys or names of the locations. Default: those that the model predicts in any of the images.
                A model without a decision predicts the locations with a probability of at least 0.5. If it predicts no
                location in an image, the most probable one counts as predicted.
            method: ``"layercam"``, ``"gradcam"``, or ``"attention"`` for networks with an attention head.
            tta: Number of test-time augmentation views of maps: 1, 2, 4 or 8. Probabilities always have the number of
                views that the model states, as in predictions.
            neighbors: Labeled fields among which the five nearest are found: a dataset, or its features.
            channels: The names of the channels of an array, in order. Default: the channels of the model.

        Returns:
            The explanations.

        Raises:
            ArgumentTypeError, ImageError, ChannelError: For the reasons of :meth:`predict`.
            TableError: If a location is unknown.
            SettingsError: If the method is unknown, ``tta`` is invalid, the model was published as ONNX, or a network
                has no attention head.
        """
        from cytoloc.explain.maps import explain

        return explain(
            self, images, locations=locations, method=method, tta=tta, neighbors=neighbors, channels=channels
        )

    def predict_sources(
        self,
        sources: Sequence[Source],
        *,
        absent: Mapping[str, str] | None = None,
        tta: int | None = None,
        batch_size: int = BATCH_SIZE,
        precision: ModelPrecision | None = None,
        strict: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Predict all fields of some sources.

        Args:
            sources: The sources of the fields.
            absent: Substitutes for missing channels; see :meth:`predict`.
            tta: Number of test-time augmentation views; see :meth:`predict`.
            batch_size: Number of images per batch.
            precision: Floating-point precision; see :meth:`predict`.
            strict: Whether to stop at the first field that cannot be read.
            progress: A function that is called after each batch with the number of finished fields and of all fields.

        Returns:
            The predictions.

        Raises:
            ImageError: If no field could be read, or with ``strict`` if a field could not be read.
            TableError: If two sources have a field with the same id.
            ChannelError: If a source lacks a channel and no substitute is given.
            SettingsError: If ``tta``, ``batch_size`` or ``precision`` is invalid.
        """
        total = sum(len(source.ids) for source in sources)
        parts: list[PredictedBatch] = []
        done = 0
        for part in self.predict_batches(
            sources, absent=absent, tta=tta, batch_size=batch_size, precision=precision, strict=strict
        ):
            parts.append(part)
            done += len(part.ids) + len(part.rejected)
            if progress:
                progress(done, total)
        bad = [each for part in parts for each in part.rejected]
        if bad and not any(part.ids for part in parts):
            raise ImageError(
                f"None of {len(bad)} fields could be read. The first reason: {bad[0].reason}", hint="Check the files."
            )
        ids = [name for part in parts for name in part.ids]
        scaled = any(part.scaled for part in parts)
        made = self.joined(parts, self.provenance(sources, ids, absent=absent, tta=tta, scaled=scaled))
        return replace(made, cells=cells_in(sources, made.ids))

    def joined(self, parts: Sequence[PredictedBatch], provenance: dict[str, Any]) -> Predictions:
        """Return the predictions of several batches as one value, with the locations if the model has a decision.

        Args:
            parts: The predictions of each batch.
            provenance: How the predictions were made.

        Returns:
            The predictions.
        """
        empty = np.empty((0, len(self.label_set)), np.float32)
        probabilities = np.concatenate([empty, *(part.probabilities for part in parts)])
        cautions = tuple(text for part in parts for text in part.cautions)
        return Predictions(
            tuple(name for part in parts for name in part.ids),
            probabilities,
            self.label_set,
            provenance,
            self.decide(probabilities, cautions),
            {each.id: each.reason for part in parts for each in part.rejected},
            cautions,
        )

    def provenance(
        self,
        sources: Sequence[Source],
        ids: Sequence[str],
        *,
        absent: Mapping[str, str] | None = None,
        tta: int | None = None,
        scaled: bool = False,
    ) -> dict[str, Any]:
        """Return how predictions of some fields were made.

        Args:
            sources: The sources of the fields.
            ids: The ids of the fields.
            absent: Substitutes for missing channels.
            tta: Number of test-time augmentation views. Default: the number that the model states.
            scaled: Whether images were scaled down.

        Returns:
            The facts, as JSON values.
        """
        limits = [] if self.decision is None else self.decision.thresholds.tolist()
        thresholds = dict(zip(self.label_set.keys, limits, strict=False))
        resampling = resampling_caution(self.info, sources, scaled=scaled and self.resample is None)
        caution = " ".join(each for each in (self.info.caution, resampling) if each)
        return {
            **self.info.provenance,
            "tta": self.info.tta if tta is None else tta,
            "engine": self._engines.used,
            "source": ", ".join(source.name for source in sources),
            **training_facts(self.info, sources, ids),
            **({"absent": dict(absent)} if absent else {}),
            **({"resample": self.resample or self.info.resample or "area"} if scaled else {}),
            **({"caution": caution} if caution else {}),
            **({"knowledge": dict(self.info.knowledge)} if self.info.knowledge else {}),
            **({"thresholds": thresholds} if thresholds else {}),
        }

    def decide(self, probabilities: Float32Array, cautions: Sequence[str]) -> BoolArray | None:
        """Return the locations of fields by the decision of the model.

        Args:
            probabilities: The calibrated probabilities, shape ``(n, locations)``.
            cautions: What is unusual in each field. Such a field gets no location, unless ``unusual`` is ``"decide"``.

        Returns:
            bool of shape ``(n, locations)``. None if the model has no decision.
        """
        if self.decision is None:
            return None
        decided = self.decision.decide_calibrated(probabilities)
        if self.unusual != "decide" and cautions:
            decided[np.array([bool(text) for text in cautions], np.bool_)] = False
        return decided

    def predict_batches(
        self,
        sources: Sequence[Source],
        *,
        absent: Mapping[str, str] | None = None,
        tta: int | None = None,
        batch_size: int = BATCH_SIZE,
        precision: ModelPrecision | None = None,
        strict: bool = False,
    ) -> Iterator[PredictedBatch]:
        """Predict all fields of some sources, batch by batch. The next batch is read while the networks compute.

        Args:
            sources: The sources of the fields.
            absent: Substitutes for missing channels; see :meth:`predict`.
            tta: Number of test-time augmentation views; see :meth:`predict`.
            batch_size: Number of images per batch.
            precision: Floating-point precision; see :meth:`predict`.
            strict: Whether to stop at the first field that cannot be read.

        Yields:
            The predictions of each batch.

        Raises:
            ImageError: With ``strict`` if a field could not be read; if an image is unusual and ``unusual`` is
                ``"refuse"``.
            TableError: If two sources have a field with the same id.
            ChannelError: If a source lacks a channel and no substitute is given.
            SettingsError: If ``tta``, ``batch_size`` or ``precision`` is invalid.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise SettingsError(
                f"`batch_size` is {batch_size!r}, but must be a positive integer.", hint="Choose for example 16."
            )
        tta = check_tta(self.info.tta if tta is None else tta)
        refuse_repeated(
            [name for source in sources for name in source.ids],
            where="the fields to predict",
            hint="Give each field once. Two inputs may have a field with the same id.",
        )
        for each in sources:
            refuse_other_cells(each, self.info.cells, size=self.size)
        planes = [find_planes(self.channels, each.channels, absent=absent, where=each.name) for each in sources]
        engines = self._engines.of(sum(len(source.ids) for source in sources) * tta, precision)
        for source, of_source in zip(sources, planes, strict=True):
            missing = [name for name in self.channels if name not in source.channels]
            for prepared in one_ahead(self._prepared(source, of_source, batch_size)):
                batch = prepared.batch
                if batch.rejected and strict:
                    raise ImageError(batch.rejected[0].reason, hint="Fix or remove the file, or do not use `strict`.")
                probabilities, features = self._compute(prepared.images, engines, tta)
                cautions = self._cautions(prepared, features, missing=missing)
                if self.unusual == "refuse" and any(cautions):
                    row = next(row for row, text in enumerate(cautions) if text)
                    raise ImageError(
                        f"The field {batch.ids[row]} is unusual: {cautions[row]}.",
                        hint="Check the images and channels. To predict it anyway, use unusual='mark'.",
                    )
                yield PredictedBatch(batch.ids, probabilities, cautions, batch.rejected, batch.scaled)

    def _prepared(self, source: Source, planes: PlaneMap, batch_size: int) -> Iterator[_Prepared]:
        """Yield the batches of a source in the channels of the model."""
        for batch in source.batches(self.size, batch_size, self.resample or self.info.resample or "area"):
            images = planes.of(batch.images)
            yield _Prepared(batch, images, field_statistics(images) if self.info.inputs else None)

    def _cautions(self, prepared: _Prepared, features: Float32Array, *, missing: Sequence[str]) -> tuple[str, ...]:
        """Return what is unusual in each field of a batch; no texts if inputs are not checked."""
        if self.info.inputs is None or prepared.statistics is None or not len(features):
            return ()
        if missing:
            return (f"{' and '.join(missing)} not imaged",) * len(features)
        return tuple(self.info.inputs.findings(prepared.statistics, features, pixel_um=prepared.batch.pixel_um))

    def probabilities(
        self, fields: UInt8Array, *, tta: int | None = None, precision: ModelPrecision | None = None
    ) -> Float32Array:
        """Return the probability of each location for images of the right size and channels.

        The logits of each network are averaged over the test-time augmentation views. Then the probabilities of the
        networks are averaged. If the model has a decision, the mean probabilities are calibrated.

        Args:
            fields: uint8 of shape ``(n, channels, size, size)``, in the size and channel order of the model.
            tta: Number of test-time augmentation views: 1, 2, 4 or 8.
            precision: Floating-point precision. Default: the precision of the model.

        Returns:
            float32 of shape ``(n, locations)``.

        Raises:
            ImageError: If the fields have another shape or type.
            SettingsError: If ``tta`` or ``precision`` is invalid.
        """
        views = check_tta(self.info.tta if tta is None else tta)
        return self._compute(fields, self._engines.of(len(fields) * views, precision), views)[0]

    def _compute(self, fields: UInt8Array, engines: Sequence[Engine], views: int) -> tuple[Float32Array, Float32Array]:
        """Return the probability of each location, and the features of all networks side by side."""
        shape = (len(self.channels), self.size, self.size)
        if fields.dtype != np.uint8 or fields.ndim != 4 or fields.shape[1:] != shape:
            raise ImageError(
                f"`fields` must be uint8 of shape (n, {len(self.channels)}, {self.size}, {self.size}), not"
                f" {fields.dtype} of shape {fields.shape}."
            )
        if not len(fields):
            return np.empty((0, len(self.label_set)), np.float32), np.empty((0, 0), np.float32)
        pixels = torch.from_numpy(np.ascontiguousarray(fields)).to(self.device)
        outputs = [mean_outputs(engine, pixels, tta=views) for engine in engines]
        mean = torch.stack([each.logits.sigmoid() for each in outputs]).mean(dim=0).cpu().numpy()
        features = torch.cat([each.features for each in outputs], dim=1).cpu().numpy()
        if self.decision is not None:
            mean = self.decision.probabilities({self.decision.members[0]: mean})
        return np.asarray(mean, np.float32), features

    def features(self, fields: UInt8Array) -> Float32Array:
        """Return the features of images, the mean of the last feature map of each network, side by side.

        Args:
            fields: uint8 of shape ``(n, channels, size, size)``, in the size and channel order of the model.

        Returns:
            float32 of shape ``(n, features)``.

        Raises:
            ImageError: If the fields have another shape or type.
        """
        return self._compute(fields, self._engines.of(len(fields), None), 1)[1]
