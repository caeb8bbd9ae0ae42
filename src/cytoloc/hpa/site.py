"""A site of the Human Protein Atlas: whose addresses are allowed, the pace of requests, retries, downloads."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import cytoloc
from cytoloc.errors import CytolocError, FetchError, FormatError, ImageError, MissingExtraError, installing
from cytoloc.hpa.store import FetchFolder

if TYPE_CHECKING:
    import httpx

RELEASE_18: Final = "http://v18.proteinatlas.org"
"""Release 18, from which most participants of the 2018 competition took their images."""

MAX_FAILURES_IN_A_ROW: Final = 20
"""After this number of failures in a row, the fetch stops: the fault is of the site, not of the files."""

MAX_PAUSE_S: Final = 600.0
"""The longest pause that a fetch waits for; if the site asks for a longer one, the fetch stops."""

_DOMAIN: Final = "proteinatlas.org"
_REQUESTED: Final = "cytoloc_requested"
_RETRIED: Final = frozenset({408, 425, 429, *range(500, 600)})
# Programs disagree on how to read other characters in addresses, so these are refused.
_URL_CHARACTERS: Final = re.compile(r"[!-\[\]-~]+")


class AbsentError(FetchError):
    """A file that the site does not have."""


class AddressError(FetchError):
    """An address that is not valid, or that leads to another host, or from https to http."""


class SiteBusyError(FetchError):
    """A site that asks for a long pause: the whole fetch stops."""


class _RetryError(Exception):
    """An answer that may be better the next time."""


class RemoteFile(NamedTuple):
    """A file to be fetched: its path in the folder, its address, and the release that names it."""

    file: str
    url: str
    release: str = ""


class FailedFile(NamedTuple):
    """A file, or a gene, that could not be fetched, and the reason."""

    file: str
    url: str
    reason: str


class Received(NamedTuple):
    """A file that was received.

    Attributes:
        size_bytes: Its size.
        sha256: Of its bytes, in hexadecimal.
        etag: The site's name of this version of the file; empty if there is none.
    """

    size_bytes: int
    sha256: str
    etag: str


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """How a site is asked.

    Attributes:
        jobs: Number of files that are fetched at once.
        rate_per_s: Maximum number of requests per second.
        timeout_s: How long the site may send nothing.
        attempts: Maximum number of requests for one file.
        contact: E-mail address for the owners of the site, as a part of the User-Agent.
        strict: Stop at the first file that cannot be fetched.
        report: Called with a line for each retry.
        transport: How requests are sent; by default over the network.
        clock: Returns the time in seconds, from any start.
        sleep: Waits for a number of seconds.
    """

    jobs: int = 4
    rate_per_s: float = 10.0
    timeout_s: float = 30.0
    attempts: int = 6
    contact: str = ""
    strict: bool = False
    report: Callable[[str], None] = lambda _line: None
    transport: httpx.AsyncBaseTransport | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class Site:
    """A site that may be slow, busy or wrong.

    Args:
        base: Its address, such as ``http://v18.proteinatlas.org``.
        options: How it is asked.
        moved: Whether images are requested there too, whatever host the catalog names.

    Raises:
        MissingExtraError: If httpx or stamina is not installed.
    """

    def __init__(self, base: str, options: SiteOptions, *, moved: bool = False) -> None:
        self._httpx, self._stamina = require_libraries()
        self.base = base
        self.moved = moved
        self.options = options
        self._next_s = options.clock()

    def fetch_files(
        self,
        folder: FetchFolder,
        files: Sequence[RemoteFile],
        check: Callable[[Path, RemoteFile], None],
        *,
        failed: list[FailedFile],
        received: Callable[[RemoteFile, Received], None] = lambda _file, _received: None,
        advance: Callable[[int], None] = lambda _done: None,
    ) -> None:
        """Fetch files, several at once. Each gets its name in the folder when it is complete and checked.

        Args:
            folder: Where the files go.
            files: The files.
            check: Raises an ImageError or a FormatError if a file is not valid; then it is requested again, unless the
                same bytes came before.
            failed: Gets the files that cannot be fetched.
            received: Called with each file that was fetched.
            advance: Called with the number of files that are done.

        Raises:
            FetchError: If a file fails and ``strict`` is set, if 20 files in a row fail, or if the site asks for a long
                pause.
        """
        done = in_a_row = 0

        async def fetch(client: httpx.AsyncClient, each: RemoteFile) -> None:
            nonlocal done, in_a_row
            part = folder.part(each.file)
            try:
                found = await self._download(client, each.url, part, lambda path: check(path, each))
            except (FetchError, ImageError, FormatError) as error:
                part.unlink(missing_ok=True)
                failed.append(FailedFile(each.file, each.url, error.message))
                in_a_row += not isinstance(error, AbsentError)
                if self.options.strict or isinstance(error, SiteBusyError):
                    raise
                if in_a_row >= MAX_FAILURES_IN_A_ROW:
                    raise FetchError(
                        f"{in_a_row} files in a row could not be fetched; the last: {error.message}",
                        hint="Check that the site is there, and its address (base). Rerun later to resume.",
                    ) from error
            else:
                in_a_row = 0
                folder.give_name(part, each.file)
                received(each, found)
            done += 1
            advance(done)

        if files:
            _run(self._for_each(fetch, files))

    def sizes_of(self, urls: Sequence[str]) -> list[int | None]:
        """Return the size of each file in bytes, as the site states it; None if it does not.

        Raises:
            SiteBusyError: If the site asks for a long pause.
        """
        sizes: dict[str, int | None] = {}

        async def ask(client: httpx.AsyncClient, url: str) -> None:
            sizes[url] = None
            for _ in range(self.options.attempts):
                await self._wait_for_turn()
                try:
                    async with self._request(client, "HEAD", url) as answer:
                        length = answer.headers.get("Content-Length", "")
                except (self._httpx.HTTPError, self._httpx.InvalidURL, AddressError):
                    # The size is for an estimate only; the caller reports that there is none.
                    return
                if answer.status_code not in _RETRIED or not self._pause_if_asked(answer, url):
                    sizes[url] = int(length) if answer.status_code == 200 and length.isdecimal() else None
                    return

        if urls:
            _run(self._for_each(ask, urls))
        return [sizes[url] for url in urls]

    async def _for_each(self, work: Callable[[httpx.AsyncClient, Any], Awaitable[None]], items: Sequence[Any]) -> None:
        """Do ``work`` for each item, several at once; the first error, or Ctrl-C, cancels all."""
        agent = f"cytoloc/{cytoloc.__version__}" + (f" ({self.options.contact})" if self.options.contact else "")
        waiting = iter(items)
        self._turn = asyncio.Lock()

        async def one_after_another() -> None:
            for item in waiting:
                await work(client, item)

        async with self._httpx.AsyncClient(
            headers={"User-Agent": agent, "Accept-Encoding": "identity"},
            timeout=self.options.timeout_s,
            follow_redirects=True,
            event_hooks={"request": [_refuse_other_hosts]},
            transport=self.options.transport,
        ) as client:
            tasks = [asyncio.create_task(one_after_another()) for _ in range(self.options.jobs)]
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _wait_for_turn(self) -> None:
        """Wait until the next request may be sent."""
        async with self._turn:
            while (wait_s := self._next_s - self.options.clock()) > 0:
                await self.options.sleep(wait_s)
            self._next_s = max(self._next_s, self.options.clock()) + 1 / self.options.rate_per_s

    def _request(self, client: httpx.AsyncClient, method: str, url: str) -> AbstractAsyncContextManager[httpx.Response]:
        return client.stream(method, url, extensions={_REQUESTED: url})

    async def _download(
        self, client: httpx.AsyncClient, url: str, path: Path, check: Callable[[Path], None]
    ) -> Received:
        """Download a file, complete and checked."""
        transient = (_RetryError, ImageError, FormatError, self._httpx.TransportError, self._httpx.DecodingError)
        refused: list[str] = []

        def is_transient(error: Exception) -> bool:
            # The same bytes twice are what the site has.
            return isinstance(error, transient) and len(set(refused)) == len(refused)

        def reason_of(error: Exception) -> str:
            if isinstance(error, self._httpx.TimeoutException):
                return "nothing came for longer than the time limit"
            text = error.message if isinstance(error, CytolocError) else str(error)
            return text.rstrip(".") or type(error).__name__

        attempts = self.options.attempts
        retries = self._stamina.retry_context(
            on=is_transient, attempts=attempts, timeout=None, wait_initial=1.0, wait_max=60.0
        )
        try:
            async for attempt in retries:
                with attempt:
                    try:
                        return await self._attempt(client, url, path, check, refused)
                    except Exception as error:
                        if is_transient(error) and attempt.num < attempts:
                            number = f"{attempt.num + 1} of {attempts}"
                            self.options.report(f"{url}: {reason_of(error)}; retrying, attempt {number}.")
                        raise
        except _RetryError as error:
            raise FetchError(f"{url}: {error}.") from error
        except self._httpx.RequestError as error:
            raise FetchError(f"{url}: {reason_of(error)}.") from error
        except self._httpx.InvalidURL as error:
            raise FetchError(f"{url} is not an address: {error}.") from error
        raise AssertionError("an attempt either returns or raises")

    async def _attempt(
        self, client: httpx.AsyncClient, url: str, path: Path, check: Callable[[Path], None], refused: list[str]
    ) -> Received:
        await self._wait_for_turn()
        digest = hashlib.sha256()
        async with self._request(client, "GET", url) as answer:
            status = answer.status_code
            if status in _RETRIED:
                self._pause_if_asked(answer, url)
                raise _RetryError(_status(answer))
            if status != 200:
                raise (AbsentError if status == 404 else FetchError)(f"{url}: {_status(answer)}.")
            with path.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    file.write(chunk)
                    digest.update(chunk)
        try:
            await asyncio.to_thread(check, path)
        except (ImageError, FormatError):
            refused.append(digest.hexdigest())
            raise
        return Received(path.stat().st_size, digest.hexdigest(), answer.headers.get("ETag", ""))

    def _pause_if_asked(self, answer: httpx.Response, url: str) -> bool:
        """Send no request for as long as the site asks to wait; return whether it does."""
        wait_s = retry_after_s(answer.headers.get("Retry-After"))
        if wait_s is None:
            return False
        if wait_s > MAX_PAUSE_S:
            raise SiteBusyError(
                f"{url}: {_status(answer)} and asks to wait {wait_s:.0f} s.",
                hint="Rerun the same command after that; fetched files are not requested again.",
            )
        self._next_s = max(self._next_s, self.options.clock() + wait_s)
        return True


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine; where an event loop is running, as in a notebook, in a thread with a loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool, closing(asyncio.new_event_loop()) as loop:
        task = loop.create_task(work)
        try:
            pool.submit(loop.run_until_complete, task).result()
        except BaseException:
            loop.call_soon_threadsafe(task.cancel)
            pool.shutdown()
            raise


def _status(answer: httpx.Response) -> str:
    return f"the site answers {answer.status_code} {answer.reason_phrase}".rstrip()


def retry_after_s(header: str | None, *, now: datetime | None = None) -> float | None:
    """Return how long a ``Retry-After`` asks to wait, in seconds or as a date; None if it is neither.

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
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def host_of(url: str) -> str | None:
    """Return the host of an http or https address, in lower case; None if it is not one, or names a user too.

    Examples:
        >>> host_of("http://V18.proteinatlas.org:80/images/1.jpg")
        'v18.proteinatlas.org'
        >>> host_of("http://proteinatlas.org:x@127.0.0.1:9/")
        >>> host_of("http://127.0.0.1:99999/")
    """
    try:
        parts = urlsplit(url)
        # Reading the port raises if it is not valid.
        plain = _URL_CHARACTERS.fullmatch(url) and parts.port != 0
    except ValueError:
        return None
    if not plain or parts.scheme.lower() not in ("http", "https") or "@" in parts.netloc:
        return None
    return parts.hostname or None


def is_of_the_atlas(host: str | None) -> bool:
    """Return whether a host belongs to the Human Protein Atlas."""
    return host is not None and (host == _DOMAIN or host.endswith(f".{_DOMAIN}"))


def redirect_fault(requested: str, url: str) -> str:
    """Return why an address may not redirect to another; empty if it may.

    It may redirect to the same host, whatever the port, and within the Atlas, but never from https to http.
    """
    before, after = host_of(requested), host_of(url)
    if requested[:6].lower() == "https:" != url[:6].lower():
        return "from https to http"
    same = before == after or (is_of_the_atlas(before) and is_of_the_atlas(after))
    return "" if after is not None and same else "to another host"


async def _refuse_other_hosts(request: httpx.Request) -> None:
    """Raise unless a request, also one after a redirect, is to an allowed host."""
    requested, url = str(request.extensions[_REQUESTED]), str(request.url)
    if host_of(requested) is None:
        raise AddressError(f"{requested} is not an address that files are fetched from.", hint="Check base.")
    fault = redirect_fault(requested, url)
    if fault:
        raise AddressError(f"{requested} leads {fault}: {url[:200]}.", hint="If the files are there, give it as base.")


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
    # Retries are reported by the option report, not in the log.
    stamina.instrumentation.set_on_retry_hooks([])
    return httpx, stamina
