"""Batches that are computed at the same time."""

from __future__ import annotations

import asyncio
from threading import Barrier, Event
from typing import Any, cast

import numpy as np

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


def test_two_batches_are_computed_at_once() -> None:
    async def serve() -> list[Any]:
        model = SlowModel()
        batcher = Batcher(cast("Model", model), batch_size=1, max_waiting=9)
        await batcher.start()
        image = np.zeros((1, SIZE, SIZE), np.uint8)
        fields = [asyncio.create_task(batcher.predict(image, channels=("protein",), absent={})) for _ in range(AT_ONCE)]
        await asyncio.to_thread(model.together.wait, 60)
        model.go.set()
        found = await asyncio.wait_for(asyncio.gather(*fields), 60)
        await batcher.stop()
        return found

    assert [len(each) for each in asyncio.run(serve())] == [1] * AT_ONCE
