"""Benchmark of near-duplicates: perceptual hashes and their search, compared with the ImageHash library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.rounds import Way, in_separate_process, in_turns, peak_mb
from cytoloc.channels import CHANNELS
from cytoloc.curation.hamming import DEFAULT_LIMITS, Hashes, near_pairs
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.errors import MissingExtraError
from cytoloc.images.hashes import phashes

TEST_FIELDS: Final = 11_702
EXTERNAL_FIELDS: Final = 74_606
"""Fields of the 2018 competition's test set, and of the external list that was searched for copies of them."""

PLANTED: Final = 2_000
"""Copies among the random hashes, each channel off by as many bits as the limits allow, or fewer."""

PEER_FIELDS: Final = 150
"""The loop over ImageHash objects compares so many fields with each other; the whole would take hours."""

CLOSE_BITS: Final = 2

PEER: Final = "ImageHash"
OURS: Final = "cytoloc"


@dataclass(frozen=True)
class DuplicatesBench:
    """Results of the benchmark.

    Attributes:
        fields: Number of hashed fields.
        channels: Number of their channels that are not empty.
        close: Share of channels whose hash is within 2 bits of ImageHash's.
        hashing: Hashing of four channels per field, in fields per second.
        searching: Comparison of pairs of fields in three channels, in pairs per second.
        search_s: Time of all pairs of the 2018 competition in seconds, from the median rate.
        found: Share of the simulated copies that were found.
        search_mb: Peak memory of a process that only searches, in megabytes.
    """

    fields: int
    channels: int
    close: float
    search_s: float
    found: float
    search_mb: float
    hashing: list[Way] = field(default_factory=list)
    searching: list[Way] = field(default_factory=list)


def bench_duplicates(
    images: Path,
    *,
    rounds: int = 5,
    advance: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> DuplicatesBench:
    """Compare hashing and the search for near-duplicates with ImageHash.

    The search compares random hashes, as many as the 2018 competition has fields.

    Args:
        images: Folder of ``{Id}_{red,green,blue,yellow}.png``.
        rounds: Number of rounds.
        advance: Called with a description and (done, total).

    Returns:
        The results.

    Raises:
        ImageError: If ``images`` contains no fields.
        MissingExtraError: If ImageHash or faiss is not installed.
    """
    library = _imagehash()
    found = find_kaggle_fields(images)
    fields = [read_kaggle_field(images, name, found[name]) for name in sorted(found)]
    theirs = [[library.phash(Image.fromarray(plane)) for plane in image] for image in fields]
    hashing = in_turns(
        {
            PEER: lambda: len([library.phash(Image.fromarray(plane)) for image in fields for plane in image]) // 4,
            OURS: lambda: len([phashes(image) for image in fields]),
        },
        against=PEER,
        rounds=rounds,
        advance=partial(advance, "hashing"),
    )
    test, external = competition_hashes()
    objects = [[library.hex_to_hash(f"{int(number):016x}") for number in row] for row in test.bits[:PEER_FIELDS, :3]]
    searching = in_turns(
        {PEER: lambda: _loop(objects), OURS: lambda: _search(test, external)},
        against=PEER,
        rounds=rounds,
        advance=partial(advance, "searching"),
    )
    near = near_pairs(test, external)
    planted = int(np.isin(np.arange(PLANTED), near.a[near.a == near.b]).sum())
    memory = in_separate_process(_search_and_weigh)
    bits = [
        (ours ^ int(str(other), 16)).bit_count()
        for image, row in zip(fields, theirs, strict=True)
        for plane, ours, other in zip(image, phashes(image), row, strict=True)
        if plane.min() < plane.max()
    ]
    return DuplicatesBench(
        fields=len(fields),
        channels=len(bits),
        close=float(np.mean(np.array(bits) <= CLOSE_BITS)),
        search_s=TEST_FIELDS * EXTERNAL_FIELDS / searching[1].rate,
        found=planted / PLANTED,
        search_mb=memory,
        hashing=hashing,
        searching=searching,
    )


def competition_hashes(seed: int = 0) -> tuple[Hashes, Hashes]:
    """Return random hashes of test and external fields; their first :data:`PLANTED` fields are copies."""
    rng = np.random.default_rng(seed)
    test, external = (
        Hashes(
            rng.integers(0, 2**64, (count, len(CHANNELS)), np.uint64), np.ones((count, len(CHANNELS)), bool), CHANNELS
        )
        for count in (TEST_FIELDS, EXTERNAL_FIELDS)
    )
    for channel, role in enumerate(CHANNELS):
        limit = DEFAULT_LIMITS.get(role, 0)
        external.bits[:PLANTED, channel] = test.bits[:PLANTED, channel] ^ _flips(rng, limit)
    return test, external


def _flips(rng: np.random.Generator, limit: int) -> NDArray[np.uint64]:
    """Return integers with 0 to ``limit`` set bits."""
    order = rng.random((PLANTED, 64)).argsort(axis=1)
    chosen = order < rng.integers(0, limit + 1, PLANTED)[:, None]
    return np.packbits(chosen, axis=1).view(">u8").ravel().astype(np.uint64)


def _loop(objects: list[list[Any]]) -> int:
    """Compare ImageHash objects in a loop; return the number of pairs of fields."""
    limits = list(DEFAULT_LIMITS.values())
    near = 0
    for one in objects:
        for other in objects:
            near += all(a - b <= limit for a, b, limit in zip(one, other, limits, strict=True))
    return len(objects) ** 2


def _search(test: Hashes, external: Hashes) -> int:
    near_pairs(test, external)
    return len(test.bits) * len(external.bits)


def _search_and_weigh() -> float:
    _search(*competition_hashes())
    return peak_mb()


def _imagehash() -> Any:
    try:
        import imagehash
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "The benchmark duplicates needs ImageHash, which is not installed.", hint="Run `pip install ImageHash`."
        ) from error
    return imagehash
