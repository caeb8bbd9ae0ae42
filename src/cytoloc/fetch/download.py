"""One file from a site: whole and checked, or not there; gone on with where it was cut off.

A file is written to a part, beside which a note keeps what the site said of it. The part is asked for from its end on,
under the condition that the file is still the same (``If-Range``); a site that cannot do so sends it whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import cytoloc
from cytoloc.errors import CytolocError, FetchError, FormatError, ImageError, MissingExtraError, installing
from cytoloc.fetch.address import gives_up_encryption, host_of, may_lead_to
from cytoloc.fetch.pace import Pace, retry_after_s
from cytoloc.files import sha256_of

if TYPE_CHECKING:
    import httpx

LONGEST_PAUSE_S: Final = 600.0
"""The longest pause that is waited for; a site that asks for more is left alone until the next start."""

LARGEST_BYTES: Final = 256 << 20
"""More is neither a picture nor the XML of a gene."""

SLOWEST: Final = 20
"""A file must come within so many time limits, however steadily it trickles; then the rest is asked for."""

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


class _SameAgainError(Exception):
    """What came before and was refused came once more: the site means it."""

    def __init__(self, reason: CytolocError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Note(NamedTuple):
    """What the site said of a part.

    Attributes:
        url: Where it came from.
        etag: Of the whole file; empty if it has none.
        modified: When the file was last changed; empty if that is not said.
        total: Bytes of the whole file; -1 if that is not said.
    """

    url: str
    etag: str = ""
    modified: str = ""
    total: int = -1

    @property
    def condition(self) -> str:
        """What makes sure that the rest is of the same file; empty if nothing does."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


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
        self.longest_s = SLOWEST * timeout_s
        agent = f"cytoloc/{cytoloc.__version__}" + (f" ({contact})" if contact else "")
        # Compressed answers have neither a length nor ranges that mean the file's.
        headers = {"User-Agent": agent, "Accept-Encoding": "identity"}
        self._client: httpx.AsyncClient = self._httpx.AsyncClient(
            headers=headers, timeout=timeout_s, follow_redirects=True, event_hooks={"request": [_refuse_other_hosts]}
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def fetch(self, url: str, part: Path, check: Callable[[Path], None]) -> Received:
        """Bring the file at ``url`` to ``part``, whole and checked.

        Args:
            url: Its address.
            part: Where it goes; what is there of it already is gone on with.
            check: Raises an :class:`~cytoloc.errors.ImageError` or a :class:`~cytoloc.errors.FormatError` if what came
                is not what it should be; then it is fetched anew, unless the very same came before.

        Raises:
            FetchError: If the site refuses, or the last attempt failed too.
            ImageError, FormatError: If what came last is not what it should be.
        """
        again = (_AgainError, ImageError, FormatError, self._httpx.TransportError, self._httpx.DecodingError)
        refused: set[str] = set()
        retrying = self._stamina.retry_context(
            on=lambda error: isinstance(error, again),
            attempts=self.attempts,
            timeout=None,
            wait_initial=1.0,
            wait_max=60.0,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    try:
                        return await self._attempt(url, part, check, refused)
                    except again as error:
                        if attempt.num < self.attempts:
                            why = self._reason(error)
                            self.say(f"{url}: {why}; asked for again, {attempt.num + 1} of {self.attempts} times.")
                        raise
        except _SameAgainError as error:
            raise error.reason from error
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
                async with self._ask("HEAD", url, {}) as answer:
                    length = answer.headers.get("Content-Length", "")
            except (self._httpx.HTTPError, self._httpx.InvalidURL, AddressError):
                # A guess of the size that fails is a guess that is not made: the caller says so.
                return None
            if answer.status_code not in _TRY_AGAIN or not self._pause_as_asked(answer, url):
                return int(length) if answer.status_code == 200 and length.isdecimal() else None
        return None

    def _ask(self, method: str, url: str, headers: dict[str, str]) -> AbstractAsyncContextManager[httpx.Response]:
        """Return an answer to be; what was asked for stays with it through all redirects."""
        return self._client.stream(method, url, headers=headers, extensions={_ASKED: url})

    async def _attempt(self, url: str, part: Path, check: Callable[[Path], None], refused: set[str]) -> Received:
        note, have = _begun(part, url)
        if not (have and have == note.total):
            headers = {"Range": f"bytes={have}-", "If-Range": note.condition} if have else {}
            await self.pace.turn()
            try:
                async with asyncio.timeout(self.longest_s), self._ask("GET", url, headers) as answer:
                    self._judge(answer, url, part)
                    note = await _write(answer, url, part, have=have, before=note)
            except TimeoutError as error:
                raise _AgainError(f"not all of it came within {self.longest_s:.0f} s") from error
        size = part.stat().st_size
        if note.total not in (-1, size):
            if size > note.total:
                _forget(part)
            raise _AgainError(f"{size} bytes came, {note.total} were announced")
        sha256 = await asyncio.to_thread(sha256_of, part)
        try:
            await asyncio.to_thread(check, part)
        except (ImageError, FormatError) as error:
            _forget(part)
            if sha256 in refused:
                raise _SameAgainError(error) from error
            refused.add(sha256)
            raise
        return Received(size, sha256, note.etag)

    def _judge(self, answer: httpx.Response, url: str, part: Path) -> None:
        """Raise unless the answer has the file, or the rest of it, in it."""
        status = answer.status_code
        if status in (200, 206):
            return
        said = _said(answer)
        if status == 416:
            _forget(part)
            raise _AgainError(said)
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
                way_out="Start again after that; it goes on from where it was.",
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
        raise AddressError(f"{asked} is not an address that files are fetched from.", way_out="Check --base.")
    if not may_lead_to(asked, url):
        where = "from https to http" if gives_up_encryption(asked, url) else "to another host"
        raise AddressError(
            f"{asked} leads {where}: {url[:200]}.",
            way_out="If that is where the files are, give it as --base.",
        )


def forget(part: Path) -> None:
    """Remove the note of a part that has its final name."""
    _note_of(part).unlink(missing_ok=True)


async def _write(answer: httpx.Response, url: str, part: Path, *, have: int, before: _Note) -> _Note:
    """Write what comes to the part, behind what is there if it is the rest of that; return what the site says of it."""
    packed = answer.headers.get("Content-Encoding", "identity") != "identity"
    length = answer.headers.get("Content-Length", "")
    note = _Note(
        url,
        answer.headers.get("ETag", ""),
        answer.headers.get("Last-Modified", ""),
        int(length) if length.isdecimal() and not packed else -1,
    )
    if answer.status_code == 206:
        rest, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if (
            not have
            or rest.partition("-")[0] != str(have)
            or (note.etag, note.modified) != (before.etag, before.modified)
        ):
            _forget(part)
            raise _AgainError("the file was changed while it was fetched")
        note = note._replace(total=int(total) if total.isdecimal() else before.total)
    else:
        _forget(part)
        have = 0
    if note.total > LARGEST_BYTES:
        raise FetchError(f"{url} has {note.total} bytes; neither a picture nor the XML of a gene is so large.")
    if note.condition and not packed:
        _note_of(part).write_text(json.dumps(note._asdict()), encoding="utf-8")
    with part.open("ab") as file:
        async for chunk in answer.aiter_bytes():
            file.write(chunk)
            have += len(chunk)
            if have > LARGEST_BYTES:
                _forget(part)
                raise FetchError(f"{url} does not end; neither a picture nor the XML of a gene is so large.")
    return note


def _begun(part: Path, url: str) -> tuple[_Note, int]:
    """Return what is known of a part and how many bytes are there; what cannot be gone on with is removed."""
    note = _Note(url)
    if part.exists() and _note_of(part).exists():
        try:
            note = _Note(**json.loads(_note_of(part).read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            # A note that a kill cut off says nothing.
            note = _Note(url)
        have = part.stat().st_size
        if note.url == url and note.condition and (note.total == -1 or have <= note.total):
            return note, have
    _forget(part)
    return _Note(url), 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _note_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.note")


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
            f"Fetching needs httpx and stamina; {error.name} is missing.", way_out=installing("fetch")
        ) from error
    # It would write a line to the log for every retry; ours are counted and told at the end.
    stamina.instrumentation.set_on_retry_hooks([])
    return httpx, stamina
