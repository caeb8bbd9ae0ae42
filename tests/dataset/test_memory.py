"""What sources keep in memory for millions of names: at most 200 bytes a field."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cytoloc.channels import COLORS
from cytoloc.dataset.importing import FieldSource
from cytoloc.dataset.sources import folder, hpa, kaggle
from cytoloc.dataset.sources.channels import parse_channels
from cytoloc.dataset.sources.field_files import FieldReader
from cytoloc.dataset.sources.folder import FolderSource
from cytoloc.dataset.sources.hpa import HpaSource
from cytoloc.dataset.sources.kaggle import KaggleSource
from cytoloc.images.scale import Scaling
from cytoloc.labels.label_set import LabelSet

FIELDS = 5_500
"""Just after a dictionary has doubled, when it takes the most memory for each of its entries."""

SCALING = Scaling(size=64)


def kaggle_name(number: int) -> str:
    return f"{number:08d}-bbc3-11e8-b2bc-ac1f6b6435d0"


def hpa_name(number: int) -> str:
    return f"{10_000 + number // 6}_{number // 6 % 1000}_A1_{number % 6 + 1}"


def well_name(number: int) -> str:
    return f"plate{number // 3456:03d}/{chr(65 + number // 216 % 16)}{number // 9 % 24 + 1:02d}_{number % 9}"


def source_of(kind: str, labels: Path | None) -> FieldSource:
    label_set = LabelSet.hpa28()
    if kind == "kaggle":
        return KaggleSource(Path(), labels=labels, scaling=SCALING)
    if kind == "hpa":
        return HpaSource(Path(), labels=labels, scaling=SCALING)
    text = {"whole": ["protein=1,nucleus=0"], "wells": ["protein={plate}/{well}_{field}_g.tif"]}[kind]
    reader = FieldReader(folder=Path(), channels=parse_channels(text), scaling=SCALING)
    return FolderSource(reader, label_set=label_set, labels=labels)


NAMES: dict[str, tuple[Callable[[int], str], tuple[str, ...]]] = {
    "kaggle": (kaggle_name, tuple(f"_{color}.png" for color in COLORS)),
    "hpa": (hpa_name, tuple(f"_{color}.jpg" for color in COLORS)),
    "whole": (kaggle_name, (".ome.tif",)),
    "wells": (well_name, ("_g.tif",)),
}


@pytest.mark.parametrize("labeled", [False, True])
@pytest.mark.parametrize("kind", NAMES)
def test_a_field_takes_at_most_200_bytes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, labeled: bool
) -> None:
    name_of, endings = NAMES[kind]

    def files() -> Iterator[str]:
        return (name_of(number) + ending for number in range(FIELDS) for ending in endings)

    @contextmanager
    def scandir(_folder: Path) -> Iterator[Iterator[SimpleNamespace]]:
        yield (SimpleNamespace(name=name) for name in files())

    labels = tmp_path / "labels.csv"
    ids = (name_of(number).replace("/", "_") if kind == "wells" else name_of(number) for number in range(FIELDS))
    labels.write_text("Id,Target\n" + "".join(f"{name},{number % 28}\n" for number, name in enumerate(ids)))
    monkeypatch.setattr(kaggle, "os", SimpleNamespace(scandir=scandir, fspath=os.fspath))
    for module in (folder, hpa):
        monkeypatch.setattr(module, "walk_files", lambda *_given, **_more: files())
    tracemalloc.start()
    try:
        source_of(kind, labels if labeled else None)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        source = source_of(kind, labels if labeled else None)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(source.items) == FIELDS
    assert 60 * FIELDS < grown <= 200 * FIELDS
