"""Batches of fields from several requests, which two threads compute."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import numpy as np

from cytoloc._typing import UInt8Array
from cytoloc.choices import Resample
from cytoloc.errors import BusyError
from cytoloc.predict.planes import find_planes
from cytoloc.predict.sources import ArraySource, FieldBatch
from cytoloc.predict.tta import check_tta

if TYPE_CHECKING:
    from cytoloc.predict.model import Model
    from cytoloc.predictions import Predictions

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")

WARM_FIELDS: Final = 32
"""Number of fields that are predicted at the start, so that the engine is chosen before the first request."""

AT_ONCE: Final = 2
"""Number of batches that are computed at the same time, so that no core waits for the end of a batch."""

_PAUSE_S: Final = 0.02


class UploadedSource:
    """Fields of several requests, as a source of a model."""

    name = "the request"

    def __init__(self, jobs: tuple[_Waiting, ...]) -> None:
        self._jobs = jobs
        self.channels = jobs[0].channels
        self.ids = tuple(str(number) for number in range(len(jobs)))

    def part(self, start: int, stop: int) -> UploadedSource:
        """Return the source of the fields from one position to another."""
        return UploadedSource(self._jobs[start:stop])

    def batches(self, size: int, length: int, resample: Resample = "area") -> Iterator[FieldBatch]:  # noqa: ARG002
        """Yield the fields, which have the right size already."""
        for start in range(0, len(self._jobs), length):
            some = self._jobs[start : start + length]
            pixel_um = np.array([np.nan if job.pixel_um is None else job.pixel_um for job in some], np.float32)
            images = np.stack([job.image for job in some])
            yield FieldBatch(self.ids[start : start + length], images, pixel_um=pixel_um)


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A field that waits for the model, and the future of its predictions."""

    image: UInt8Array
    channels: tuple[str, ...]
    absent: tuple[tuple[str, str], ...]
    tta: int | None
    pixel_um: float | None
    answer: asyncio.Future[Predictions]

    @property
    def kind(self) -> tuple[object, ...]:
        """What fields of one batch have in common."""
        return self.channels, self.absent, self.tta


class Batcher:
    """Predicts the fields of several requests together.

    Args:
        model: The model.
        batch_size: Maximum number of fields per batch.
        max_waiting: Maximum number of fields that wait.
    """

    def __init__(self, model: Model, *, batch_size: int, max_waiting: int) -> None:
        self.model = model
        self._batch_size = batch_size
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="model")
        self._tasks: list[asyncio.Task[None]] = []
        self.batches = 0
        self.fields = 0

    @property
    def waiting(self) -> int:
        """Number of fields that wait."""
        return len(self._waiting)

    async def start(self) -> None:
        """Choose the engine, and start to compute batches."""
        shape = (WARM_FIELDS, len(self.model.channels), self.model.size, self.model.size)
        blank = ArraySource(np.zeros(shape, np.uint8), channels=self.model.channels)
        await self.in_thread(self.model.predict_sources, [blank], tta=1, batch_size=self._batch_size)
        self._tasks = [asyncio.create_task(self._run()) for _ in range(AT_ONCE)]

    async def stop(self) -> None:
        """Stop computing. The server calls this after all requests were answered, and all batch jobs are finished."""
        for task in self._tasks:
            task.cancel()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def in_thread(
        self, function: Callable[Arguments, Value], *arguments: Arguments.args, **options: Arguments.kwargs
    ) -> Value:
        """Call a function of the model in one of its threads.

        Args:
            function: The function.
            arguments: Its arguments.
            options: Its keyword arguments.

        Returns:
            Its value.
        """
        call = partial(function, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def predict(
        self,
        image: UInt8Array,
        *,
        channels: tuple[str, ...],
        absent: Mapping[str, str],
        tta: int | None = None,
        pixel_um: float | None = None,
        is_patient: bool = False,
    ) -> Predictions:
        """Predict one field.

        Args:
            image: uint8 of shape ``(channels, size, size)``, in the size of the model.
            channels: The channels of the image, in order.
            absent: The substitute for each channel that the model needs and the image lacks.
            tta: Number of test-time augmentation views. Default: the number that the model states.
            pixel_um: Pixel size in micrometers; None if it is unknown.
            is_patient: Whether to wait until fewer fields wait, instead of raising.

        Returns:
            The predictions of the field.

        Raises:
            ChannelError: If a channel is missing and has no substitute.
            SettingsError: If ``tta`` is invalid.
            BusyError: If too many fields wait.
        """
        find_planes(self.model.channels, channels, absent=absent, where="the image")
        if tta is not None:
            check_tta(tta)
        while is_patient and len(self._waiting) >= max(1, self._max_waiting // 2):
            await asyncio.sleep(_PAUSE_S)
        if len(self._waiting) >= self._max_waiting:
            raise BusyError(f"{len(self._waiting)} fields wait for the model.", hint="Try again in a few seconds.")
        answer: asyncio.Future[Predictions] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(image, channels, tuple(sorted(absent.items())), tta, pixel_um, answer))
        self._arrived.set()
        return await answer

    async def _run(self) -> None:
        """Predict what waits, until the service stops. Requests that arrive meanwhile form the next batch."""
        while True:
            await self._arrived.wait()
            jobs = self._next()
            if not jobs:
                self._arrived.clear()
                continue
            self.batches += 1
            self.fields += len(jobs)
            try:
                found: Predictions = await self.in_thread(
                    self.model.predict_sources,
                    [UploadedSource(jobs)],
                    absent=dict(jobs[0].absent),
                    tta=jobs[0].tta,
                    batch_size=self._batch_size,
                )
            except Exception as error:  # noqa: BLE001  see below
                # Broad on purpose: whatever a library raises, each request gets it, and the next batch is computed.
                for job in jobs:
                    if not job.answer.done():
                        job.answer.set_exception(error)
                continue
            for row, job in enumerate(jobs):
                if not job.answer.done():  # the client can have gone
                    job.answer.set_result(found[row : row + 1])

    def _next(self) -> tuple[_Waiting, ...]:
        """Take the fields of the next batch: the first one, and those that can be predicted together with it."""
        while self._waiting and self._waiting[0].answer.done():
            self._waiting.popleft()
        if not self._waiting:
            return ()
        kind = self._waiting[0].kind
        jobs = [job for job in self._waiting if job.kind == kind and not job.answer.done()][: self._batch_size]
        taken = {id(job) for job in jobs}
        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        return tuple(jobs)
