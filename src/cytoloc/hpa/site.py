"""A site of the Human Protein Atlas, and many files from it: several at once, the bad ones listed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from cytoloc.errors import FetchError, FormatError, ImageError
from cytoloc.hpa.download import AbsentError, Downloader, Received, SiteBusyError
from cytoloc.hpa.store import Store

BASE: Final = "http://v18.proteinatlas.org"
"""Release 18, from which most participants of the 2018 competition took their images."""

UNLUCKY: Final = 20
"""So many failures in a row mean the site, not the files."""

Advance = Callable[[int, int], None]
BadFile = FetchError | ImageError | FormatError
Item = TypeVar("Item")


class Remote(NamedTuple):
    """A file to be fetched: where it goes in the folder, where it comes from, and the release that names it."""

    file: str
    url: str
    release: str = ""


class Failed(NamedTuple):
    """A file that could not be had, or a gene, and why."""

    file: str
    url: str
    reason: str


@dataclass(frozen=True)
class Site:
    """A site of the Atlas, and how it is asked.

    Attributes:
        base: Its address, such as ``http://v18.proteinatlas.org``.
        moved: Whether images are asked for there too, whatever host the catalog names.
        downloader: Makes what fetches a file.
        jobs: Files at once.
        strict: Stop at the first file that cannot be had.
    """

    base: str
    moved: bool
    downloader: Callable[[], Downloader]
    jobs: int = 4
    strict: bool = False


class Luck:
    """Lists what fails, and stops if all does.

    Args:
        site: Says whether anything may fail.
        failed: Gets what fails.
    """

    def __init__(self, site: Site, failed: list[Failed]) -> None:
        self.strict = site.strict
        self.failed = failed
        self.in_a_row = 0

    def take(self, remote: Remote, error: BadFile | None) -> None:
        """Take note of a file that came (no error) or did not.

        Raises:
            FetchError: If none came for long, or none may fail.
        """
        if error is None:
            self.in_a_row = 0
            return
        self.failed.append(Failed(remote.file, remote.url, error.message))
        self.in_a_row += not isinstance(error, AbsentError)
        if self.strict or isinstance(error, SiteBusyError):
            raise error
        if self.in_a_row >= UNLUCKY:
            raise FetchError(
                f"{self.in_a_row} files in a row could not be had; the last: {error.message}",
                hint="Is the site there, and its address (--base) right? Start again later; it goes on.",
            ) from error


def fetch_all(
    site: Site,
    store: Store,
    files: Sequence[Remote],
    check: Callable[[Path, Remote], None],
    take: Callable[[Remote, BadFile | None], None],
    advance: Callable[[int], None] | None = None,
    write_down: Callable[[Remote, Received], None] | None = None,
) -> None:
    """Fetch files, several at once; ``take`` is told of each, ``write_down`` of those that came."""
    done = 0

    async def run() -> None:
        """Bring all files, several at once."""
        async with site.downloader() as downloader:

            async def fetch(each: Remote) -> None:
                """Bring one file, give it its name, and say what came of it."""
                nonlocal done
                part = store.part(each.file)
                try:
                    received = await downloader.fetch(each.url, part, lambda path: check(path, each))
                except (FetchError, ImageError, FormatError) as error:
                    part.unlink(missing_ok=True)
                    take(each, error)
                else:
                    store.give_name(part, each.file)
                    if write_down:
                        write_down(each, received)
                    take(each, None)
                done += 1
                if advance:
                    advance(done)

            await _each(fetch, files, jobs=site.jobs)

    if files:
        asyncio.run(run())


async def _each(work: Callable[[Item], Awaitable[None]], items: Iterable[Item], *, jobs: int) -> None:
    """Do ``work`` for each item, so many at once; the first error stops all."""
    waiting = iter(items)

    async def one_after_another() -> None:
        for item in waiting:
            await work(item)

    tasks = [asyncio.create_task(one_after_another()) for _ in range(jobs)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
