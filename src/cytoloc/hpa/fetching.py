"""The images of a plan: brought here, checked and written down; what is here is not asked for again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cytoloc.errors import ImageError
from cytoloc.hpa.download import Received
from cytoloc.hpa.plan import Plan
from cytoloc.hpa.site import Advance, Failed, Luck, Remote, Site, fetch_all
from cytoloc.hpa.store import MANIFEST, Came, Store
from cytoloc.images.codecs import read_jpeg

LICENSES: Final = {"15": "CC BY-NC-ND 4.0", "18": "CC BY-SA 3.0"}
"""Of the releases whose license was looked up; the page /about/license of each says its own."""


@dataclass
class Fetched:
    """What a fetch did.

    Attributes:
        came: Files that came now.
        known: Files that were here before.
        size_bytes: Of what came now.
        failed: What could not be had, and why.
        changed: Files that were here and are no longer what came; they were removed and asked for anew.
    """

    came: int = 0
    known: int = 0
    size_bytes: int = 0
    failed: list[Failed] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def fetch_images(
    site: Site,
    store: Store,
    plan: Plan,
    *,
    advance: Advance,
    license_name: str | None = None,
    verify: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Fetched:
    """Bring the images of a plan, but for those that are here; return what came and what did not.

    Args:
        site: Where they come from.
        store: Where they go.
        plan: What is wanted.
        advance: Told how many are done, and of how many.
        license_name: For the manifest; by default that of each image's release.
        verify: Read the files that are here and compare their hashes.
        now: The time, for the manifest.

    Raises:
        FetchError: If nothing comes for long, the site asks to be left alone, or a file fails and none may.
    """
    manifest = store.manifest()
    fetched = Fetched(failed=list(plan.failed))
    missing = _missing(store, plan, manifest, fetched, verify=verify)
    luck = Luck(site, fetched.failed)
    with store.log(MANIFEST, Came._fields) as add:

        def write_down(remote: Remote, received: Received) -> None:
            """Add a row to the manifest."""
            time = now().isoformat(timespec="seconds")
            size, sha256, etag = received
            right = license_name or license_of(remote.release)
            row = Came(remote.file, remote.url, remote.release, sha256, size, right, time, etag)
            add(row)
            manifest[row.file] = row
            fetched.came += 1
            fetched.size_bytes += size

        def tell(done: int) -> None:
            advance(fetched.known + done, len(plan.images))

        try:
            fetch_all(site, store, missing, _check_image, luck.take, tell, write_down)
        finally:
            store.write_failed(fetched.failed)
    store.write_manifest(row for row in manifest.values() if (store.folder / row.file).exists())
    return fetched


def license_of(release: str) -> str:
    """Return the license of a release, or where to look for it.

    Examples:
        >>> license_of("18.1")
        'CC BY-SA 3.0'
        >>> license_of("25.0")
        'see /about/license of release 25.0'
    """
    return LICENSES.get(release.partition(".")[0], f"see /about/license of release {release or 'that is not said'}")


def _missing(store: Store, plan: Plan, manifest: dict[str, Came], fetched: Fetched, *, verify: bool) -> list[Remote]:
    """Return the images that have to come, and count the others; remove those that are no longer what came."""
    missing = []
    for each in plan.images:
        row = manifest.get(each.file)
        if row is not None and store.is_here(row, verify=verify):
            fetched.known += 1
            continue
        missing.append(each)
        if row is not None and (store.folder / each.file).exists():
            fetched.changed.append(each.file)
            (store.folder / each.file).unlink()
    return missing


def _check_image(path: Path, _: Remote) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` unless a file is a JPEG that decodes to its end."""
    with path.open("rb") as file:
        head = file.read(256).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        raise ImageError("a web page came instead of an image.")
    try:
        read_jpeg(path)
    except ImageError as error:
        raise ImageError(error.message.replace(str(path), "what came")) from error
