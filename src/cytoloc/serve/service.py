"""The work of the service, apart from HTTP: from uploaded files to answers."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np
from cachetools import LRUCache

from cytoloc._typing import UInt8Array
from cytoloc.errors import CytolocError, ImageError, SettingsError, UnknownIdError
from cytoloc.explain.maps import explain
from cytoloc.predict.model import Model
from cytoloc.predict.planes import find_planes
from cytoloc.predictions import Predictions
from cytoloc.serve.answers import FieldAnswer, PredictAnswer, RejectedAnswer, location_answers
from cytoloc.serve.batching import Batcher
from cytoloc.serve.downloads import map_pixels
from cytoloc.serve.examples import read_example
from cytoloc.serve.gallery import Gallery
from cytoloc.serve.guards import ServiceMetrics
from cytoloc.serve.jobs import JobQueue
from cytoloc.serve.reading import ReaderPool, ReadField, ReadingRules, RejectedField, UploadedField
from cytoloc.serve.settings import ServeSettings
from cytoloc.serve.uploads import Upload, numbered

_OVERHEAD_BYTES: Final = 20_000


@dataclass(frozen=True, eq=False)
class KeptResult:
    """A field of an earlier request.

    Attributes:
        token: The name of the result in addresses. It cannot be guessed.
        field: The images.
        predictions: The predictions of this field.
        absent: The substitutes for channels that were not imaged.
        maps: The maps that were computed, by the key of the location: uint8 of shape ``(size, size)``.
    """

    token: str
    field: ReadField
    predictions: Predictions
    absent: dict[str, str]
    maps: dict[str, UInt8Array] = dataclasses.field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Memory that the result needs, in bytes, with a map for every fourth location."""
        size = self.field.image.shape[-1]
        maps = size * size * len(self.predictions.label_set) // 4
        return int(self.field.image.nbytes + self.field.shown.nbytes + maps + _OVERHEAD_BYTES)


class ResultStore:
    """The results of the last requests.

    Args:
        kept_mb: Memory for the results, in megabytes.
    """

    def __init__(self, kept_mb: int) -> None:
        self._kept: LRUCache[str, KeptResult] = LRUCache(kept_mb * 1e6, getsizeof=lambda result: result.n_bytes)

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, field: ReadField, predictions: Predictions, absent: dict[str, str]) -> KeptResult:
        """Keep a result, and return it with its token."""
        result = KeptResult(secrets.token_urlsafe(16), field, predictions, absent)
        if result.n_bytes <= self._kept.maxsize:
            self._kept[result.token] = result
        return result

    def get(self, token: str) -> KeptResult:
        """Return a result.

        Raises:
            UnknownIdError: If there is none, or it was forgotten.
        """
        result = self._kept.get(token)
        if result is None:
            raise UnknownIdError(
                "The service does not know this result.", hint="It keeps the last results only. Send the images again."
            )
        return result


class Service:
    """A model, and what the service keeps in memory.

    Args:
        model: The model.
        name: The name of the model.
        settings: The limits.
        gallery: The dataset that the page shows; None for none.
    """

    def __init__(self, model: Model, *, name: str, settings: ServeSettings, gallery: Gallery | None) -> None:
        self.model = model
        self.name = name
        self.settings = settings
        self.gallery = gallery
        self.metrics = ServiceMetrics()
        self._folder = _new_folder()
        self.results = ResultStore(settings.kept_mb)
        self.rules = ReadingRules(
            model.size, model.resample or model.info.resample or "area", settings.max_megapixels * 1_000_000
        )
        self.readers = ReaderPool(self.rules, settings)
        self.batcher = Batcher(model, batch_size=settings.batch_size, max_waiting=settings.max_waiting)
        self.jobs = JobQueue(self._predict_one, max_waiting=settings.max_waiting, at_once=settings.batch_size)
        self._gallery_task: asyncio.Task[None] | None = None

    @property
    def uploads(self) -> Path:
        """The folder of all uploads. It is made again if the system removed it, because it was not used for days."""
        if not Path(self._folder.name).exists():
            self._folder.cleanup()
            self._folder = _new_folder()
        return Path(self._folder.name)

    async def start(self) -> None:
        """Choose the engine of the model, and start to work."""
        await self.batcher.start()
        self.jobs.start()
        if self.gallery:
            self._gallery_task = asyncio.create_task(self.gallery.predict(self.batcher))

    async def stop(self) -> None:
        """Finish batch jobs, and stop."""
        await self.jobs.finish()
        if self._gallery_task:
            self._gallery_task.cancel()
        await self.batcher.stop()
        await asyncio.to_thread(self.readers.close)
        self._folder.cleanup()

    async def answer(self, upload: Upload) -> PredictAnswer:
        """Predict the fields of a request.

        Args:
            upload: The files.

        Returns:
            The predictions, with addresses of images and maps.

        Raises:
            ImageError: If no field can be read.
            ChannelError: If a channel is missing and has no substitute.
            BusyError: If too many fields wait.
        """
        self.refuse_missing(upload)
        results: list[KeptResult] = []
        rejected: list[RejectedAnswer] = []
        errors: list[CytolocError] = []
        found = await asyncio.gather(
            *(self._read_and_predict(field, upload) for field in upload.fields), return_exceptions=True
        )
        for field, each in zip(upload.fields, found, strict=True):
            if isinstance(each, ImageError) and len(upload.fields) > 1:
                errors.append(each)
                rejected.append(RejectedAnswer.of(field.name, each))
            elif isinstance(each, BaseException):
                raise each
            else:
                results += each[0]
                rejected += each[1]
        if errors and not results:
            raise errors[0]
        return self.answer_of(results, rejected)

    def refuse_missing(self, upload: Upload) -> None:
        """Raise :class:`~cytoloc.errors.ChannelError` if a channel is missing, before images are read."""
        for field in upload.fields[:1]:  # all fields of a request have the same channels
            find_planes(self.model.channels, tuple(field.files), absent=upload.absent, where="the image")

    async def example(self, example: str) -> PredictAnswer:
        """Predict an example; see :func:`cytoloc.serve.examples.read_example`."""
        field = await asyncio.to_thread(read_example, example, self.model.channels, self.rules)
        return self.answer_of([await self._predict(field, {}, None)], [])

    async def _read_and_predict(
        self, field: UploadedField, upload: Upload
    ) -> tuple[list[KeptResult], list[RejectedAnswer]]:
        """Read the fields in uploaded files, and predict them."""
        found = await self.readers.read(field)
        rejected = [RejectedAnswer.of(*each) for each in found if isinstance(each, RejectedField)]
        good = [each for each in found if isinstance(each, ReadField)]
        results = await asyncio.gather(
            *(self._predict(each, upload.absent, upload.tta, is_patient=len(good) > 1) for each in good)
        )
        return list(results), rejected

    async def _predict(
        self, field: ReadField, absent: Mapping[str, str], tta: int | None, *, is_patient: bool = False
    ) -> KeptResult:
        """Predict one field, and keep its images for the page."""
        found = await self.batcher.predict(
            field.image, channels=field.channels, absent=absent, tta=tta, pixel_um=field.pixel_um, is_patient=is_patient
        )
        self.metrics.fields.inc()
        return self.results.keep(field, found, dict(absent))

    async def _predict_one(self, upload: Upload, number: int) -> tuple[list[Predictions], list[RejectedAnswer]]:
        """Predict the fields in one file of a batch job."""
        name = upload.fields[number].name
        try:
            found = await self.readers.read(upload.fields[number])
        except ImageError as error:
            return [], [RejectedAnswer.of(name, error)]
        parts = []
        for each in found:
            if isinstance(each, ReadField):
                predictions = await self.batcher.predict(
                    each.image,
                    channels=each.channels,
                    absent=upload.absent,
                    tta=upload.tta,
                    pixel_um=each.pixel_um,
                    is_patient=True,
                )
                self.metrics.fields.inc()
                parts.append(named(predictions, each.name))
        return parts, [RejectedAnswer.of(*each) for each in found if isinstance(each, RejectedField)]

    def answer_of(self, results: list[KeptResult], rejected: list[RejectedAnswer]) -> PredictAnswer:
        """Return the answer for some results."""
        fields = []
        for result in results:
            address, field, found = f"/v1/results/{result.token}", result.field, result.predictions

            def map_of(key: str, address: str = address) -> str:
                return f"{address}/map?location={quote(key)}"

            fields.append(
                FieldAnswer(
                    id=field.name,
                    locations=location_answers(found, 0, map_of=map_of),
                    caution=found.cautions[0] if found.cautions else "",
                    flags=list(field.flags),
                    channels={name: f"{address}/channel?name={quote(name)}" for name in field.channels},
                    original_px=field.original_px,
                    pixel_um=field.shown_um,
                )
            )
        return PredictAnswer(
            model=self.name,
            fields=fields,
            rejected=rejected,
            caution=results[0].predictions.caution if results else "",
            engine=self.model.engine,
        )

    def gallery_answer(self, row: int) -> FieldAnswer:
        """Return the answer for a field of the dataset."""
        gallery = self.shown()
        name = gallery.dataset.ids[row]
        found, of_field = gallery.predictions_of(row), f"id={quote(name, safe='')}"
        values = gallery.dataset.fields.row(row, named=True)
        edge, pixel_um = values.get("original_px"), float(gallery.pixel_um[row])
        return FieldAnswer(
            id=name,
            locations=location_answers(found, 0, map_of=lambda key: f"/v1/dataset/map?{of_field}&location={quote(key)}")
            if found
            else [],
            caution=gallery.cautions[row],
            flags=list(values.get("flags") or ()),
            channels={each: f"/v1/dataset/channel?{of_field}&name={quote(each)}" for each in gallery.dataset.channels},
            original_px=(edge, values.get("original_width_px") or edge) if edge else None,
            pixel_um=None if math.isnan(pixel_um) else pixel_um,
            labels=gallery.label_keys(row),
            corrected=gallery.corrections.keys(row),
            metadata=gallery.metadata(row),
        )

    def shown(self) -> Gallery:
        """Return the dataset that the page shows.

        Raises:
            SettingsError: If there is none.
        """
        if self.gallery is None:
            raise SettingsError("The service shows no dataset.", hint="Start it with `dataset`.")
        return self.gallery

    async def result_map(self, token: str, location: str) -> UInt8Array:
        """Return the class activation map of a location for an earlier result, uint8 of shape ``(size, size)``."""
        result = self.results.get(token)
        if location not in result.maps:
            planes = find_planes(self.model.channels, result.field.channels, absent=result.absent, where="the image")
            result.maps[location] = await self._map(planes.of(result.field.image[None]), location)
        return result.maps[location]

    async def gallery_map(self, row: int, location: str) -> UInt8Array:
        """Return the class activation map of a location for a field of the dataset."""
        gallery = self.shown()
        source = (await asyncio.to_thread(gallery.image, row))[None]
        return await self._map(gallery.planes.of(source), location)

    async def _map(self, images: UInt8Array, location: str) -> UInt8Array:
        """Return the map of a location for an image in the channels of the model."""
        found = await self.batcher.in_thread(explain, self.model, images, locations=[location])
        return map_pixels(found.maps[0, 0])


def _new_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for uploads."""
    return tempfile.TemporaryDirectory(prefix="cytoloc-upload-", ignore_cleanup_errors=True)


def named(predictions: Predictions, name: str) -> Predictions:
    """Return the predictions of one field with another id."""
    return Predictions(
        (name,),
        predictions.probabilities,
        predictions.label_set,
        predictions.provenance,
        predictions.decided,
        {},
        predictions.cautions,
    )


def joined(parts: list[Predictions]) -> Predictions:
    """Return the predictions of the fields of a batch job. Ids that occur twice get a number."""
    first = parts[0]
    return Predictions(
        tuple(numbered([part.ids[0] for part in parts])),
        np.concatenate([part.probabilities for part in parts]),
        first.label_set,
        first.provenance,
        None if first.decided is None else np.concatenate([part.decided for part in parts if part.decided is not None]),
        {},
        tuple(part.cautions[0] for part in parts) if first.cautions else (),
    )
