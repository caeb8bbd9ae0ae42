"""Evaluate the search for near-duplicates on modified copies of real fields, and of simulated fields.

    python research/duplicates.py IMAGES [--simulated 200]

IMAGES contains fields with the file names of the 2018 competition. For each kind of copy, `find_duplicates` searches
all originals and all copies. Recall is the share of copies with the verdict "copy", and precision the share of correct
pairs among pairs with this verdict. Simulated fields come from wells with two or more fields, which could be mistaken
for copies. The last line is the highest correlation of pairs that are not copies.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.channels import CHANNELS
from cytoloc.curation.duplicates import find_duplicates
from cytoloc.curation.registration import registered_correlation
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import write_dataset
from cytoloc.images.hashes import TRANSFORMS, turned
from cytoloc.labels.label_set import LabelSet
from cytoloc.simulate.plan import Design
from cytoloc.simulate.study import simulate_dataset

Image = NDArray[np.uint8]
Change = Callable[[Image], Image]


def jpeg(image: Image, quality: int) -> Image:
    """Return a field compressed as JPEG, channel by channel."""
    return each(
        image,
        lambda plane: cv2.imdecode(
            cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE
        ),
    )


def brightness(image: Image, gain: float) -> Image:
    """Return a field with its brightness multiplied."""
    return np.clip(image * gain, 0, 255).astype(np.uint8)


def cropped(image: Image, share: float) -> Image:
    """Return a field cropped at the right and the bottom, and resized to its original size."""
    kept = image.shape[1] - int(image.shape[1] * share)
    return each(image, lambda plane: cv2.resize(plane[:kept, :kept], plane.shape))


def rescaled(image: Image, factor: int) -> Image:
    """Return a field that was made smaller and enlarged again."""
    edge = image.shape[1] // factor

    def plane_of(plane: Image) -> Image:
        return cv2.resize(cv2.resize(plane, (edge, edge), interpolation=cv2.INTER_AREA), plane.shape)

    return each(image, plane_of)


def each(image: Image, change: Change) -> Image:
    """Apply a change to each channel of a field."""
    return np.stack([change(plane) for plane in image]).astype(np.uint8)


def turned_jpeg(image: Image, transform: str) -> Image:
    """Return a field that was rotated or mirrored, dimmed and compressed."""
    return jpeg(brightness(np.ascontiguousarray(turned(image, transform)), 0.7), 75)


KINDS: dict[str, Sequence[Change]] = {
    **{f"JPEG {quality}": [partial(jpeg, quality=quality)] for quality in (90, 75, 50)},
    **{f"brightness x{gain}": [partial(brightness, gain=gain)] for gain in (0.7, 1.3)},
    **{f"shrunk to 1/{factor} and back": [partial(rescaled, factor=factor)] for factor in (2, 4)},
    "turned or mirrored (7 ways)": [partial(turned, transform=way) for way in TRANSFORMS[1:]],
    "turned, x0.7, JPEG 75": [partial(turned_jpeg, transform=way) for way in TRANSFORMS[1:]],
    **{f"{share:.0%} of two edges cropped": [partial(cropped, share=share)] for share in (0.02, 0.05, 0.1)},
}


def copies_of(dataset: Dataset, changes: Sequence[Change]) -> Iterator[tuple[FieldRow, Image]]:
    """Yield a copy of each field, with the changes in rotation."""
    for row, name in enumerate(dataset.ids):
        changed = np.ascontiguousarray(changes[row % len(changes)](dataset[row]))
        yield (
            FieldRow(id=f"copy-{name}", source="copy", original_px=dataset.size, original_width_px=dataset.size),
            changed,
        )


def evaluate(originals: Dataset, folder: Path) -> None:
    """Print recall and precision for each kind of copy."""
    for number, (kind, changes) in enumerate(KINDS.items()):
        path = folder / f"{number}.dataset"
        copies = write_dataset(
            path,
            copies_of(originals, changes),
            size=originals.size,
            channels=originals.channels,
            label_set=originals.label_set,
            made_by={"command": "study"},
        )
        found = find_duplicates([originals, copies])
        right = [a.removeprefix("copy-") == b.removeprefix("copy-") for a, b in found.select("a", "b").iter_rows()]
        marked = found.with_columns(right=np.array(right, bool))
        as_copy = marked.filter(marked["verdict"] == "copy")
        doubtful = marked.filter(marked["verdict"] == "doubtful")
        hits = int(as_copy["right"].sum())
        precision = hits / as_copy.height if as_copy.height else 1.0
        print(
            f"{kind:<28} recall {hits / len(originals):.3f}   precision {precision:.3f}"
            f"   doubtful: {int(doubtful['right'].sum())} correct, {int((~doubtful['right']).sum())} wrong"
            f"   candidates from hashes: {found.height}",
            flush=True,
        )


def different(dataset: Dataset, pairs: Sequence[tuple[int, int]]) -> None:
    """Print the highest correlation of pairs of different fields."""
    greatest = max(registered_correlation(dataset[one], dataset[other]) for one, other in pairs)
    print(f"{len(pairs)} pairs of different fields: highest correlation {greatest:.3f}\n", flush=True)


def main() -> None:
    """Evaluate real fields, then simulated fields."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of {Id}_{red,green,blue,yellow}.png")
    parser.add_argument("--simulated", type=int, default=200, help="number of simulated fields (default: 200)")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        found = find_kaggle_fields(given.images)
        fields = (
            (
                FieldRow(id=name, source="kaggle", original_px=512, original_width_px=512),
                read_kaggle_field(given.images, name, found[name]),
            )
            for name in sorted(found)
        )
        real = write_dataset(
            Path(place) / "real.dataset",
            fields,
            size=512,
            channels=CHANNELS,
            label_set=LabelSet.hpa28(),
            made_by={"command": "study"},
        )
        print(f"{len(real)} real fields of {real.size} px")
        evaluate(real, Path(place))
        everyone = list(combinations(range(len(real)), 2))
        different(real, [everyone[i] for i in rng.choice(len(everyone), 500, replace=False)])
        drawn = simulate_dataset(Path(place) / "drawn.dataset", Design(n_fields=given.simulated, seed=0, size=256))
        print(f"{len(drawn)} simulated fields of {drawn.size} px")
        (Path(place) / "of-drawn").mkdir()
        evaluate(drawn, Path(place) / "of-drawn")
        wells = drawn.fields.with_row_index("row").group_by("antibody", "plate", "well").agg("row")["row"]
        different(drawn, [pair for rows in wells for pair in combinations(rows.to_list(), 2)])


if __name__ == "__main__":
    main()
