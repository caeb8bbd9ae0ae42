from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from cytoloc.hpa.pace import Pace, retry_after_s
from tests.hpa.test_download import FakeTime


def test_requests_go_out_at_the_rate_however_many_wait() -> None:
    time = FakeTime()
    pace = Pace(4, clock=time.clock, sleep=time.sleep)
    out: list[float] = []

    async def one() -> None:
        for _ in range(5):
            await pace.turn()
            out.append(time.now)

    async def run() -> None:
        await asyncio.gather(one(), one())

    asyncio.run(run())
    assert len(out) == 10
    assert max(out) - 100 == pytest.approx(9 / 4)


def test_no_request_goes_out_in_a_pause_even_if_it_was_waiting() -> None:
    time = FakeTime()
    pace = Pace(1, clock=time.clock, sleep=time.sleep)
    out: list[float] = []

    async def one() -> None:
        await pace.turn()
        out.append(time.now)
        await pace.turn()
        out.append(time.now)

    async def run() -> None:
        await pace.turn()
        waiting = asyncio.create_task(one())
        await asyncio.sleep(0)
        pace.pause(50)
        await waiting

    asyncio.run(run())
    assert out[0] >= 150
    assert out[1] - out[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("0", 0.0),
        (" 12 ", 12.0),
        ("Wed, 25 Nov 2026 10:00:30 GMT", 30.0),
        ("Wed, 25 Nov 2026 11:01:00 +0100", 60.0),
        ("Wed, 25 Nov 2026 09:00:00 GMT", 0.0),
        ("-5", None),
        ("1e9", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, now=datetime(2026, 11, 25, 10, 0, 0, tzinfo=UTC)) == wait_s
