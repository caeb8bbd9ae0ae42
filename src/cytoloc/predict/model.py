"""Trained models: one or more networks whose probabilities are averaged."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.choices import Resample, refuse_unknown
from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.store import Dataset
from cytoloc.decide.decision import Decision
from cytoloc.errors import ArgumentTypeError, ImageError, ModelCaution, SettingsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import refuse_repeated
from cytoloc.models.devices import Precision, autocast, find_device
from cytoloc.models.network import Network, field_logits
from cytoloc.predict.planes import find_planes
from cytoloc.predict.sources import ArraySource, DatasetSource, Source, open_source
from cytoloc.predict.tta import check_tta, mean_logits
from cytoloc.predictions import Predictions

BATCH_SIZE: Final = 16
"""Default number of fields per batch."""

RESAMPLING_MATTERS_PX: Final = 256
"""Edge length from which predictions depend on how images are scaled down; see ``research/resampling.md``."""

UNKNOWN_RESAMPLING: Final = (
    "The images were scaled down by area means, but it is unknown how the training images of the model were scaled. If"
    " they were 512 px files of the 2018 Kaggle competition, give `resample='nearest'`."
)
"""The caution if the training images may have been scaled in another way."""

Images = NDArray[Any] | torch.Tensor | Dataset | str | Path
"""Inputs of a model: images in memory, a dataset, or a path."""


@dataclass(frozen=True)
class ModelInfo:
    """The properties of a model.

    Attributes:
        size: Edge length of the images that the networks need, in pixels.
        channels: The names of the channels that the networks need, in order.
        label_set: The locations that the model predicts.
        tta: The default number of test-time augmentation views.
        provenance: How the model was made. JSON values only.
        trained_on: Ids of the fields that any of the networks was trained on.
        caution: A caution that is shown with every prediction; may be empty.
        resample: How the images that the networks were trained on were scaled down; None if it is unknown.
    """

    size: int
    channels: tuple[str, ...]
    label_set: LabelSet
    tta: int = 1
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trained_on: frozenset[str] = frozenset()
    caution: str = ""
    resample: Resample | None = None


class Model:
    """A trained model. Load one with :func:`cytoloc.load`.

    Args:
        networks: Networks of the same image size, whose probabilities are averaged.
        info: The properties of the model.
        decision: Calibrates the mean probabilities and decides on locations. None: probabilities only.
        device: The device to compute on; see :func:`cytoloc.models.devices.find_device`.
        precision: Floating-point precision.

    Raises:
        LabelSetError: If the decision has another label set.
        SettingsError: If the device is not available, or does not support the precision.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        info: ModelInfo,
        *,
        decision: Decision | None = None,
        device: str | torch.device | None = None,
        precision: Precision = "float32",
    ) -> None:
        if decision is not None:
            info.label_set.refuse_other(decision.label_set, what="the decision", than="the model")
        self.info = info
        self.decision = decision
        self.device = find_device(device)
        self.precision: Precision = precision
        autocast(self.device, precision)  # raises if the device does not support the precision
        self.networks = [network.to(self.device).eval() for network in networks]

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
    def label_set(self) -> LabelSet:
        """The locations that the model predicts."""
        return self.info.label_set

    def predict(
        self,
        images: Images | Sequence[Dataset | str | Path],
        *,
        channels: Sequence[str] | None = None,
        absent: Mapping[str, str] | None = None,
        tta: int | None = None,
        batch_size: int = BATCH_SIZE,
        precision: Precision | None = None,
        resample: Resample | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Predictions:
        """Predict the probability of each location for every image, and the locations if the model has a decision.

        Args:
            images: An array or tensor of shape ``(n, channels, h, w)`` or ``(channels, h, w)``, of uint8, uint16 or
                float; a dataset; the path of a dataset or of a folder of image files of the 2018 Kaggle competition; or
                a list of datasets or paths. uint16 and float images are scaled to 8 bits by their percentiles. Larger
                images are scaled down.
            channels: The names of the channels of an array, in order. Default: the channels of the model.
            absent: The substitute for each channel that the model needs and the images lack: ``"zero"`` for a black
                image, or the name of another channel.
            tta: Number of test-time augmentation views: 1, 2, 4 or 8. Default: the number that the model states.
            batch_size: Number of images per batch.
            precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``. Default: the precision of the model.
            resample: How larger images are scaled down: by ``"area"`` means, or by the ``"nearest"`` pixel. Default: as
                the images that the model was trained on; by area if that is unknown.
            progress: A function that is called after each batch with the number of finished images and of all images.

        Returns:
            The predictions. Their attribute ``rejected`` lists fields of a folder that could not be read.

        Raises:
            ArgumentTypeError: If ``images`` has another type.
            ImageError: If images have another shape or pixel type, are too small, or none could be read.
            ChannelError: If the images lack a channel and no substitute is given.
            SettingsError: If ``tta``, ``batch_size`` or ``precision`` is invalid.

        Warns:
            ModelCaution: If the authors of the model give a caution, or if images are scaled down for a model of 256 px
                or more, and it is unknown how its training images were.

        Examples:
            >>> model = load("builtin", device="cpu")  # doctest: +SKIP
            >>> model.predict(np.zeros((4, 128, 128), np.uint8), tta=1)  # doctest: +SKIP
            Predictions(1 field, 28 locations of hpa28, decided)
        """
        found = self.predict_sources(
            self._sources(images, channels),
            absent=absent,
            tta=tta,
            batch_size=batch_size,
            precision=precision,
            resample=resample,
            progress=progress,
        )
        if found.caution:
            warnings.warn(found.caution, ModelCaution, stacklevel=2)
        return found

    def _sources(self, images: Images | Sequence[Dataset | str | Path], channels: Sequence[str] | None) -> list[Source]:
        """Return the inputs as sources of batches."""
        if isinstance(images, torch.Tensor):
            on_cpu = images.detach().cpu()
            images = (on_cpu.float() if on_cpu.dtype == torch.bfloat16 else on_cpu).numpy()
        if isinstance(images, np.ndarray):
            return [ArraySource(images, channels=self.channels if channels is None else tuple(channels))]
        if channels is not None:
            raise SettingsError(
                "`channels` names the channels of an array, but a dataset or folder states its own channels.",
                hint="Remove `channels`.",
            )
        several = [images] if isinstance(images, Dataset | str | Path) else images
        if not isinstance(several, list | tuple) or not all(isinstance(one, Dataset | str | Path) for one in several):
            raise ArgumentTypeError(
                "`images` must be a NumPy array, a torch tensor, a dataset, a path, or a list of datasets or paths, not"
                f" {type(images).__name__}.",
                hint="Stack several images into one array: numpy.stack(images).",
            )
        return [DatasetSource(one) if isinstance(one, Dataset) else open_source(one) for one in several]

    def predict_sources(
        self,
        sources: Sequence[Source],
        *,
        absent: Mapping[str, str] | None = None,
        tta: int | None = None,
        batch_size: int = BATCH_SIZE,
        precision: Precision | None = None,
        resample: Resample | None = None,
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
            resample: How larger images are scaled down; see :meth:`predict`.
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
        if type(batch_size) is not int or batch_size < 1:
            raise SettingsError(
                f"`batch_size` is {batch_size!r}, but must be a positive integer.", hint="Choose for example 16."
            )
        if resample is not None:
            refuse_unknown(resample, get_args(Resample), argument="resample")
        used = resample or self.info.resample or "area"
        tta = check_tta(self.info.tta if tta is None else tta)
        total = sum(len(source.ids) for source in sources)
        refuse_repeated(
            [name for source in sources for name in source.ids],
            where="the fields to predict",
            hint="Give each field once. Two inputs may have a field with the same id.",
        )
        planes = [find_planes(self.channels, each.channels, absent=absent, where=each.name) for each in sources]
        parts = [np.empty((0, len(self.label_set)), np.float32)]
        ids: list[str] = []
        bad: list[Rejected] = []
        scaled = False
        for source, of_source in zip(sources, planes, strict=True):
            for batch in source.batches(self.size, batch_size, used):
                scaled |= batch.scaled
                if batch.ids:
                    parts.append(self.probabilities(of_source.of(batch.images), tta=tta, precision=precision))
                ids += batch.ids
                bad += batch.rejected
                if bad and strict:
                    raise ImageError(bad[0].reason, hint="Fix or remove the file, or do not use `strict`.")
                if progress:
                    progress(len(ids) + len(bad), total)
        if bad and not ids:
            raise ImageError(
                f"None of {len(bad)} fields could be read. The first reason: {bad[0].reason}", hint="Check the files."
            )
        probabilities = np.concatenate(parts)
        cautions = (self.info.caution, self._resampling_caution(sources, scaled=scaled and resample is None))
        caution = " ".join(each for each in cautions if each)
        provenance = {
            **self.info.provenance,
            "tta": tta,
            "source": ", ".join(source.name for source in sources),
            "fields_trained_on": len(self.info.trained_on.intersection(ids)),
            **({"absent": dict(absent)} if absent else {}),
            **({"resample": used} if scaled else {}),
            **({"caution": caution} if caution else {}),
        }
        decided = self.decision.decided(probabilities) if self.decision else None
        rejected = {each.id: each.reason for each in bad}
        return Predictions(tuple(ids), probabilities, self.label_set, provenance, decided, rejected)

    def _resampling_caution(self, sources: Sequence[Source], *, scaled: bool) -> str:
        """Return a caution if images may have been scaled down in another way than the training images."""
        if self.size < RESAMPLING_MATTERS_PX:
            return ""
        if self.info.resample is None:
            return UNKNOWN_RESAMPLING if scaled else ""
        others = [each for each in sources if isinstance(each, DatasetSource) and each.dataset.size == self.size]
        for source in others:
            other = source.dataset.resample
            if other not in (None, self.info.resample):
                return (
                    f"The images of {source.name} were scaled down by {other}, but the training images of the model by"
                    f" {self.info.resample}. Import them again with `resample='{self.info.resample}'`."
                )
        return ""

    def probabilities(
        self, fields: UInt8Array, *, tta: int | None = None, precision: Precision | None = None
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
        shape = (len(self.channels), self.size, self.size)
        if fields.dtype != np.uint8 or fields.ndim != 4 or fields.shape[1:] != shape:
            raise ImageError(
                f"`fields` must be uint8 of shape (n, {len(self.channels)}, {self.size}, {self.size}), not"
                f" {fields.dtype} of shape {fields.shape}."
            )
        views = check_tta(self.info.tta if tta is None else tta)
        pixels = torch.from_numpy(np.ascontiguousarray(fields)).to(self.device)
        with torch.inference_mode(), autocast(self.device, precision or self.precision):
            each = [
                torch.sigmoid(mean_logits(partial(field_logits, network), pixels, tta=views))
                for network in self.networks
            ]
        mean = torch.stack(each).mean(dim=0).cpu().numpy()
        if self.decision is not None:
            mean = self.decision.probabilities({self.decision.members[0]: mean})
        return np.asarray(mean, np.float32)
