"""When the next request may go out: so many a second, and none while the site asks to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


class Pace:
    """Lets requests through one after another, at most so many a second, however many wait.

    Args:
        rate_per_s: Requests a second.
        clock: Seconds from any moment on.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        rate_per_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gap_s = 1 / rate_per_s
        self._clock = clock
        self._sleep = sleep
        self._free = clock()
        self._closed_until = self._free

    async def turn(self) -> None:
        """Wait until the next request may go out."""
        while True:
            at = max(self._clock(), self._free, self._closed_until)
            self._free = at + self._gap_s
            while (wait_s := at - self._clock()) > 0:
                await self._sleep(wait_s)
            # The site may have asked for a pause meanwhile.
            if self._closed_until <= at:
                return

    def pause(self, wait_s: float) -> None:
        """Let no request out for so long, of whichever file."""
        self._closed_until = max(self._closed_until, self._clock() + wait_s)


def retry_after_s(header: str | None, *, now: datetime | None = None) -> float | None:
    """Return for how long a ``Retry-After`` asks to wait, given in seconds or as a date; None if it is neither.

    Examples:
        >>> retry_after_s("120")
        120.0
        >>> retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", now=datetime(2015, 10, 21, 7, 27, 30, tzinfo=UTC))
        30.0
        >>> retry_after_s("soon")
    """
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
