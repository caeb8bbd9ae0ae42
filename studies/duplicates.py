"""How planted copies of real fields are found again, and how long the search for near hashes takes.

    python studies/duplicates.py IMAGES

IMAGES holds fields as the 2018 competition names them. For each kind of copy: the share whose hashes are within the
limits, and the least registered correlation; beside them that of pairs of different fields.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.atlas.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.curation.hamming import DEFAULT_LIMITS, Hashes, near_pairs
from cytoloc.curation.matching import registered_correlation
from cytoloc.labels import CHANNELS
from cytoloc.pictures.hashes import phashes

Image = NDArray[np.uint8]


def each(image: Image, change: Callable[[Image], Image]) -> Image:
    """Return a field with every channel changed."""
    return np.stack([change(plane) for plane in image]).astype(np.uint8)


def jpeg(plane: Image, quality: int) -> Image:
    """Return a plane after JPEG."""
    return cv2.imdecode(cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def cropped(plane: Image, share: float) -> Image:
    """Return a plane without a share of its edge at the right and the bottom, at its old size."""
    edge = len(plane)
    kept = edge - int(edge * share)
    return cv2.resize(plane[:kept, :kept], (edge, edge))


def rescaled(plane: Image, edge: int) -> Image:
    """Return a plane that was once smaller."""
    small = cv2.resize(plane, (edge, edge), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, plane.shape)


KINDS: dict[str, Callable[[Image], Image]] = {
    **{f"JPEG {quality}": lambda plane, q=quality: jpeg(plane, q) for quality in (90, 75, 50)},
    **{f"brightness {gain}": lambda plane, g=gain: np.clip(plane * g, 0, 255) for gain in (0.7, 1.3)},
    **{f"crop {share:.0%}": lambda plane, s=share: cropped(plane, s) for share in (0.02, 0.05, 0.1)},
    **{f"{edge} px and back": lambda plane, e=edge: rescaled(plane, e) for edge in (256, 128)},
}


def main() -> None:
    """Print a line per kind of copy, then the time of a search."""
    folder = Path(sys.argv[1])
    found = find_kaggle_fields(folder)
    fields = [read_kaggle_field(folder, name, found[name]) for name in sorted(found)]
    limits = [DEFAULT_LIMITS.get(role, 64) for role in CHANNELS]
    for kind, change in KINDS.items():
        near, correlations = [], []
        for field in fields:
            copy = each(field, change)
            bits = [(a ^ b).bit_count() for a, b in zip(phashes(field), phashes(copy), strict=True)]
            near.append(all(bit <= limit for bit, limit in zip(bits, limits, strict=True)))
            correlations.append(registered_correlation(field, copy))
        print(f"{kind:<20} within the limits {np.mean(near):.3f}   least correlation {min(correlations):.3f}")
    rng = np.random.default_rng(0)
    others = [
        registered_correlation(*(fields[i] for i in rng.choice(len(fields), 2, replace=False))) for _ in range(300)
    ]
    print(f"300 pairs of different fields: greatest correlation {max(others):.3f}")
    a, b = (Hashes(rng.integers(0, 2**64, (n, 4), dtype=np.uint64), np.ones((n, 4), bool)) for n in (11_702, 74_606))
    b.bits[:2000] = a.bits[:2000]
    started = time.perf_counter()
    pairs = near_pairs(a, b)
    print(f"11,702 x 74,606 random hashes: {time.perf_counter() - started:.2f} s, {len(pairs.a)} of 2000 planted found")


if __name__ == "__main__":
    main()
