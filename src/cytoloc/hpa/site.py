"""Requests to a site of the Human Protein Atlas: allowed hosts, rate limit, retries and downloads."""

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
"""Release 18, which most participants of the 2018 competition downloaded for additional training data."""

MAX_FAILURES_IN_A_ROW: Final = 20
"""Number of consecutive failures after which a fetch stops, because the site is probably down."""

MAX_PAUSE_S: Final = 600.0
"""Longest pause in seconds. If the site asks for a longer pause, the fetch stops."""

_DOMAIN: Final = "proteinatlas.org"
_REQUESTED: Final = "cytoloc_requested"
_RETRIED: Final = frozenset({408, 425, 429, *range(500, 600)})
# Programs differ in how they parse other characters in URLs, so these are refused.
_URL_CHARACTERS: Final = re.compile(r"[!-\[\]-~]+")


class AbsentError(FetchError):
    """The site does not have a file (404)."""


class AddressError(FetchError):
    """A URL is invalid, or redirects to another host or from https to http."""


class SiteBusyError(FetchError):
    """The site asks for a long pause; the fetch stops."""


class _RetryError(Exception):
    """A response after which the request is repeated."""


class RemoteFile(NamedTuple):
    """A file to fetch: its path in the folder, its URL, and its release."""

    file: str
    url: str
    release: str = ""


class FailedFile(NamedTuple):
    """A file or gene that could not be fetched, and the reason."""

    file: str
    url: str
    reason: str


class Received(NamedTuple):
    """A file that was received.

    Attributes:
        size_bytes: Size in bytes.
        sha256: SHA-256 in hexadecimal.
        etag: ``ETag`` header; empty if the site sent none.
    """

    size_bytes: int
    sha256: str
    etag: str


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """Options for requests to a site.

    Attributes:
        jobs: Number of files that are fetched at the same time.
        rate_per_s: Maximum number of requests per second.
        timeout_s: Seconds without data after which a request fails and is repeated.
        attempts: Maximum number of requests for one file.
        contact: E-mail address for the User-Agent header, so that the owners of the site can contact you.
        strict: Stop at the first file that cannot be fetched.
        report: Called with a line of text for each retry.
        transport: HTTPX transport of requests; None for the network.
        clock: Function that returns the time in seconds.
        sleep: Function that waits for a number of seconds.
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
    """Client of a site.

    Args:
        base: URL of the site, such as ``http://v18.proteinatlas.org``.
        options: Options for requests.
        moved: Request images at ``base`` too, not at the host that the catalog names.

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
        """Fetch files, several at a time. A file gets its final name when it is complete and valid.

        Args:
            folder: Output folder.
            files: Files to fetch.
            check: Function that raises an ImageError or a FormatError if a file is invalid. The file is then requested
                again, unless the site sent the same bytes before.
            failed: List to which failed files are appended.
            received: Called with each file that was fetched.
            advance: Called with the number of completed files.

        Raises:
            FetchError: If a file fails and ``strict`` is set, if 20 files in a row fail, or if the site asks for a
                long pause.
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
                        f"{in_a_row} files in a row could not be fetched. The last error: {error.message}",
                        hint="Check `base`, and that the site is online. Run the fetch again later to resume it.",
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
        """Request the sizes of files in bytes; None if the site does not report a size.

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
                    # The size is used for an estimate only; the caller reports a missing estimate.
                    return
                if answer.status_code not in _RETRIED or not self._pause_if_asked(answer, url):
                    sizes[url] = int(length) if answer.status_code == 200 and length.isdecimal() else None
                    return

        if urls:
            _run(self._for_each(ask, urls))
        return [sizes[url] for url in urls]

    async def _for_each(self, work: Callable[[httpx.AsyncClient, Any], Awaitable[None]], items: Sequence[Any]) -> None:
        """Do ``work`` for each item, several at a time; the first error, or Ctrl-C, cancels all."""
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
        """Wait until the rate limit allows the next request."""
        async with self._turn:
            while (wait_s := self._next_s - self.options.clock()) > 0:
                await self.options.sleep(wait_s)
            self._next_s = max(self._next_s, self.options.clock()) + 1 / self.options.rate_per_s

    def _request(self, client: httpx.AsyncClient, method: str, url: str) -> AbstractAsyncContextManager[httpx.Response]:
        return client.stream(method, url, extensions={_REQUESTED: url})

    async def _download(
        self, client: httpx.AsyncClient, url: str, path: Path, check: Callable[[Path], None]
    ) -> Received:
        """Download a file and check it."""
        transient = (_RetryError, ImageError, FormatError, self._httpx.TransportError, self._httpx.DecodingError)
        refused: list[str] = []

        def is_transient(error: Exception) -> bool:
            # The site does not have other bytes if it sent the same twice.
            return isinstance(error, transient) and len(set(refused)) == len(refused)

        def reason_of(error: Exception) -> str:
            if isinstance(error, self._httpx.TimeoutException):
                return "the site sent no data within the time limit"
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
            raise FetchError(f"{url} is not a valid URL: {error}.") from error
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
        """Delay the next request if the site asks for it; return whether it does."""
        wait_s = retry_after_s(answer.headers.get("Retry-After"))
        if wait_s is None:
            return False
        if wait_s > MAX_PAUSE_S:
            raise SiteBusyError(
                f"{url}: {_status(answer)} and asks to wait {wait_s:.0f} s.",
                hint="Rerun the same command after that time; fetched files are not requested again.",
            )
        self._next_s = max(self._next_s, self.options.clock() + wait_s)
        return True


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine. If an event loop is running, as in a notebook, use another loop in a thread."""
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
    """Return the pause of a ``Retry-After`` header in seconds; None if the header is invalid.

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
    """Return the lower-case host of an http or https URL; None if the URL is invalid or contains a user name.

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
    """Return the reason why a redirect is refused; an empty string if it is allowed.

    Redirects are allowed within a host, whatever the port, and within proteinatlas.org, but not from https to http.
    """
    before, after = host_of(requested), host_of(url)
    if requested[:6].lower() == "https:" != url[:6].lower():
        return "from https to http"
    same = before == after or (is_of_the_atlas(before) and is_of_the_atlas(after))
    return "" if after is not None and same else "to another host"


async def _refuse_other_hosts(request: httpx.Request) -> None:
    """Raise if a request, or a redirected request, is not to an allowed host."""
    requested, url = str(request.extensions[_REQUESTED]), str(request.url)
    if host_of(requested) is None:
        raise AddressError(f"{requested} is not a URL that can be fetched.", hint="Check `base`.")
    fault = redirect_fault(requested, url)
    if fault:
        raise AddressError(
            f"{requested} redirects {fault}: {url[:200]}.", hint="If that site is correct, give it as `base`."
        )


def require_libraries() -> tuple[Any, Any]:
    """Import httpx and stamina.

    Returns:
        The two modules.

    Raises:
        MissingExtraError: If one is not installed.
    """
    try:
        import httpx
        import stamina
        import stamina.instrumentation
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Fetching requires httpx and stamina, but {error.name} is not installed.", hint=installing("fetch")
        ) from error
    # Retries are reported by `SiteOptions.report`, not in the log.
    stamina.instrumentation.set_on_retry_hooks([])
    return httpx, stamina
