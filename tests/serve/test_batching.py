"""Batches that are computed at the same time, and a stop in the middle of them."""

from __future__ import annotations

import asyncio
from threading import Barrier, Event
from typing import Any, cast

import numpy as np
import pytest

from cytoloc.errors import BusyError
from cytoloc.predict.model import Model
from cytoloc.predict.sources import ArraySource
from cytoloc.serve.batching import AT_ONCE, Batcher

SIZE = 8


class SlowModel:
    """A model whose batches begin only together, and end when they are let go. The first call, a warm-up, is quick."""

    channels = ("protein",)
    size = SIZE

    def __init__(self) -> None:
        self.together, self.go = Barrier(AT_ONCE + 1), Event()

    def predict_sources(self, sources: list[Any], **_options: Any) -> Any:
        if not isinstance(sources[0], ArraySource):
            self.together.wait(60)
            self.go.wait(60)
        return np.zeros(len(sources[0].ids))


@pytest.mark.parametrize("is_stopped", [False, True])
def test_two_batches_are_computed_at_once_and_every_field_is_answered(*, is_stopped: bool) -> None:
    async def serve() -> list[Any]:
        model = SlowModel()
        batcher = Batcher(cast("Model", model), batch_size=1, max_waiting=AT_ONCE)
        await batcher.start()
        image = np.zeros((1, SIZE, SIZE), np.uint8)

        def field(*, is_patient: bool = False) -> asyncio.Task[Any]:
            return asyncio.create_task(batcher.predict(image, channels=("protein",), absent={}, is_patient=is_patient))

        fields = [field() for _ in range(AT_ONCE)]
        await asyncio.to_thread(model.together.wait, 60)
        if is_stopped:  # with a field that waits, and one that waits until it may wait
            fields += [field(), field(is_patient=True)]
            await asyncio.sleep(0)
            assert batcher.waiting == 1
            stopping = asyncio.create_task(batcher.stop())
            await asyncio.sleep(0)
            fields.append(field())
        model.go.set()
        found = await asyncio.wait_for(asyncio.gather(*fields, return_exceptions=True), 60)
        await (stopping if is_stopped else batcher.stop())
        return found

    found = asyncio.run(serve())
    assert len(found) == (AT_ONCE + 3 if is_stopped else AT_ONCE)
    assert all(isinstance(each, BusyError) == is_stopped for each in found)
