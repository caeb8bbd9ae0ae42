"""What tests share: images made by script, a simulated study, the command line, and real material if it is there."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from cytoloc.cli.app import main
from cytoloc.dataset.store import Dataset
from cytoloc.decide.cross_fitting import assign_parts
from cytoloc.simulate.files import write_kaggle_field
from cytoloc.simulate.plan import Design
from cytoloc.simulate.study import simulate_dataset

DATA = Path(os.environ.get("CYTOLOC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

# What collection imports is kept to the end. Without this, the garbage collector visits all of it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# No test is a matter of time: machines are busy with other things too.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs ``cytoloc`` with arguments, in this process."""
    return runner(main, monkeypatch, capsys)


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten two steps that have tests of their own: cross-fits have three parts, and no network is converted."""
    defaults = assign_parts.__kwdefaults__
    assert defaults
    monkeypatch.setitem(defaults, "n_parts", 3)
    monkeypatch.setattr("cytoloc.predict.engines.choosing.WORTH_CONVERTING", sys.maxsize)


def runner(program: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs the ``main`` of a program with arguments, in this process."""

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            program()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset of 40 simulated fields at 64 px."""
    return simulate_dataset(tmp_path_factory.mktemp("study") / "study.dataset", Design(n_fields=40, seed=3, size=64))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of three fields, 48 px, with ``labels.csv`` in the competition's form."""
    return images_of(tmp_path / "images")


def images_of(folder: Path) -> Path:
    """Make a folder of three fields, 48 px, with ``labels.csv`` in the competition's form, and return it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        write_kaggle_field(folder, name, random_field(rng, 48))
    (folder / "labels.csv").write_text("Id,Target\nb,16 0\na,25\nc,7\n")
    return folder


def random_field(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Return noise, uint8 ``(4, size, size)``."""
    return rng.integers(0, 256, (4, size, size), dtype=np.uint8)


@pytest.fixture(scope="session")
def real_fields() -> Path:
    """Return the folder of the 74 real fields, or skip."""
    folder = DATA / "images" / "kaggle512"
    if not folder.is_dir():
        pytest.skip(f"real fields are not at {folder}; set CYTOLOC_TEST_DATA")
    return folder
