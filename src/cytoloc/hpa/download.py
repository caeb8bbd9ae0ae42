"""One file from a site: whole and checked, or not there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import cytoloc
from cytoloc.errors import CytolocError, FetchError, FormatError, ImageError, MissingExtraError, installing
from cytoloc.hpa.address import gives_up_encryption, host_of, may_lead_to
from cytoloc.hpa.pace import Pace, retry_after_s

if TYPE_CHECKING:
    import httpx

LONGEST_PAUSE_S: Final = 600.0
"""The longest pause that is waited for; a site that asks for more is left alone until the next start."""

_ASKED: Final = "cytoloc_asked"
_TRY_AGAIN: Final = frozenset({408, 425, 429, *range(500, 600)})


class Received(NamedTuple):
    """What came.

    Attributes:
        size_bytes: Of the file.
        sha256: Of its bytes, in hexadecimal.
        etag: What the site calls this state of the file; empty if it says nothing.
    """

    size_bytes: int
    sha256: str
    etag: str


class _AgainError(Exception):
    """An answer that may be better the next time."""


class Downloader:
    """Fetches files from a site that may be slow, busy or wrong.

    Args:
        pace: When requests may go out.
        timeout_s: How long the site may say nothing.
        attempts: How often a file is asked for.
        contact: Where the site's keepers can reach whoever fetches; part of the User-Agent.
        say: Told why a file is asked for again.
    """

    def __init__(
        self,
        pace: Pace,
        *,
        timeout_s: float = 30.0,
        attempts: int = 6,
        contact: str = "",
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._httpx, self._stamina = require_libraries()
        self.pace = pace
        self.attempts = attempts
        self.say = say
        agent = f"cytoloc/{cytoloc.__version__}" + (f" ({contact})" if contact else "")
        self._client: httpx.AsyncClient = self._httpx.AsyncClient(
            headers={"User-Agent": agent, "Accept-Encoding": "identity"},
            timeout=timeout_s,
            follow_redirects=True,
            event_hooks={"request": [_refuse_other_hosts]},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def fetch(self, url: str, path: Path, check: Callable[[Path], None]) -> Received:
        """Bring the file at ``url`` to ``path``, whole and checked.

        Args:
            url: Its address.
            path: Where it goes; a file that is there is written over.
            check: Raises an :class:`~cytoloc.errors.ImageError` or a :class:`~cytoloc.errors.FormatError` if what came
                is not what it should be; then it is fetched again, unless the very same came before.

        Raises:
            FetchError: If the site refuses, or the last attempt failed too.
            ImageError, FormatError: If what came last is not what it should be.
        """
        failures = (_AgainError, ImageError, FormatError, self._httpx.TransportError, self._httpx.DecodingError)
        refused: list[str] = []

        def again(error: Exception) -> bool:
            """Return whether an attempt may be repeated: the same bytes twice are what the site has."""
            return isinstance(error, failures) and len(set(refused)) == len(refused)

        retrying = self._stamina.retry_context(
            on=again, attempts=self.attempts, timeout=None, wait_initial=1.0, wait_max=60.0
        )
        try:
            async for attempt in retrying:
                with attempt:
                    try:
                        return await self._attempt(url, path, check, refused)
                    except Exception as error:
                        if again(error) and attempt.num < self.attempts:
                            why = self._reason(error)
                            self.say(f"{url}: {why}; asked for again, {attempt.num + 1} of {self.attempts} times.")
                        raise
        except _AgainError as error:
            raise FetchError(f"{url}: {error}.") from error
        except self._httpx.RequestError as error:
            raise FetchError(f"{url}: {self._reason(error)}.") from error
        except self._httpx.InvalidURL as error:
            raise FetchError(f"{url} is not an address: {error}.") from error
        raise AssertionError("an attempt either returns or raises")

    def _reason(self, error: Exception) -> str:
        """Return why an attempt failed, on a line, without what to do about it: that is being done."""
        if isinstance(error, self._httpx.TimeoutException):
            return "nothing came for longer than the time limit"
        said = error.message if isinstance(error, CytolocError) else str(error)
        return said.rstrip(".") or type(error).__name__

    async def size_bytes(self, url: str) -> int | None:
        """Return how large the site says that a file is; None if it does not say.

        Raises:
            SiteBusyError: If the site asks to be left alone for long.
        """
        for _ in range(self.attempts):
            await self.pace.turn()
            try:
                async with self._ask("HEAD", url) as answer:
                    length = answer.headers.get("Content-Length", "")
            except (self._httpx.HTTPError, self._httpx.InvalidURL, AddressError):
                # The size is for an estimate alone; the caller says if there is none.
                return None
            if answer.status_code not in _TRY_AGAIN or not self._pause_as_asked(answer, url):
                return int(length) if answer.status_code == 200 and length.isdecimal() else None
        return None

    def _ask(self, method: str, url: str) -> AbstractAsyncContextManager[httpx.Response]:
        """Return an answer to be; what was asked for stays with it through all redirects."""
        return self._client.stream(method, url, extensions={_ASKED: url})

    async def _attempt(self, url: str, path: Path, check: Callable[[Path], None], refused: list[str]) -> Received:
        await self.pace.turn()
        digest = hashlib.sha256()
        async with self._ask("GET", url) as answer:
            self._judge(answer, url)
            with path.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)
                    digest.update(chunk)
        try:
            await asyncio.to_thread(check, path)
        except (ImageError, FormatError):
            path.unlink()
            refused.append(digest.hexdigest())
            raise
        return Received(path.stat().st_size, digest.hexdigest(), answer.headers.get("ETag", ""))

    def _judge(self, answer: httpx.Response, url: str) -> None:
        """Raise unless the answer has the file in it."""
        status = answer.status_code
        if status == 200:
            return
        said = _said(answer)
        if status == 404:
            raise AbsentError(f"{url}: {said}.")
        if status not in _TRY_AGAIN:
            raise FetchError(f"{url}: {said}.")
        self._pause_as_asked(answer, url)
        raise _AgainError(said)

    def _pause_as_asked(self, answer: httpx.Response, url: str) -> bool:
        """Let no request out for as long as the site asks to wait; return whether it does."""
        wait_s = retry_after_s(answer.headers.get("Retry-After"))
        if wait_s is None:
            return False
        if wait_s > LONGEST_PAUSE_S:
            raise SiteBusyError(
                f"{url}: {_said(answer)} and asks to wait {wait_s:.0f} s.",
                hint="Run the same command again after that; files that are here are not fetched again.",
            )
        self.pace.pause(wait_s)
        return True


class AbsentError(FetchError):
    """A file that the site does not have."""


class AddressError(FetchError):
    """An address that is none, or that leads to a host which was not asked for, or from https to http."""


class SiteBusyError(FetchError):
    """A site that asks to be left alone for long: everything stops, not this file alone."""


def _said(answer: httpx.Response) -> str:
    return f"the site answers {answer.status_code} {answer.reason_phrase}".rstrip()


async def _refuse_other_hosts(request: httpx.Request) -> None:
    """Raise unless a request, the first or one that a redirect leads to, is to a host that may have the file."""
    asked, url = str(request.extensions[_ASKED]), str(request.url)
    if host_of(asked) is None:
        raise AddressError(f"{asked} is not an address that files are fetched from.", hint="Check --base.")
    if not may_lead_to(asked, url):
        where = "from https to http" if gives_up_encryption(asked, url) else "to another host"
        raise AddressError(
            f"{asked} leads {where}: {url[:200]}.",
            hint="If that is where the files are, give it as --base.",
        )


def require_libraries() -> tuple[Any, Any]:
    """Return httpx and stamina.

    Raises:
        MissingExtraError: If one is not installed.
    """
    try:
        import httpx
        import stamina
        import stamina.instrumentation
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Fetching needs httpx and stamina; {error.name} is missing.", hint=installing("fetch")
        ) from error
    # It would write a line to the log for every retry; ours are counted and told at the end.
    stamina.instrumentation.set_on_retry_hooks([])
    return httpx, stamina
