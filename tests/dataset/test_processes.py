"""Imports whose fields are loaded in processes: the same dataset as in threads, whatever becomes of the processes."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cytoloc import parallel
from cytoloc.dataset.from_files import FEWEST_FOR_PROCESSES
from cytoloc.dataset.importing import FieldSource, Loaded, import_fields
from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.sources.channels import parse_channels
from cytoloc.dataset.sources.field_files import FieldReader
from cytoloc.dataset.sources.folder import FolderSource
from cytoloc.dataset.sources.hpa import HpaSource
from cytoloc.dataset.sources.kaggle import KaggleSource
from cytoloc.dataset.store import open_dataset
from cytoloc.errors import WorkerError
from cytoloc.images.scale import Scaling
from cytoloc.labels.label_set import LabelSet
from cytoloc.parallel import processes
from cytoloc.simulate.files import simulate_hpa, simulate_kaggle
from cytoloc.simulate.plan import Design, plan_study
from cytoloc.simulate.study import SimulatedSource
from tests.conftest import Cli
from tests.dataset.numbers import Numbers, run, state

THREE = ["protein=*_green.png,nucleus=*_blue.png,mito=*_red.png"]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes() as pool:
        yield pool


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    design = Design(n_fields=6, seed=3, size=64)
    simulate_kaggle(folder / "kaggle", design)
    simulate_hpa(folder / "hpa", design)
    damaged = max((folder / "kaggle").glob("*_blue.png"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    return folder


def kaggle(images: Path) -> FieldSource:
    return KaggleSource(images / "kaggle", labels=images / "kaggle/labels.csv", scaling=Scaling(size=32))


def hpa(images: Path) -> FieldSource:
    return HpaSource(images / "hpa/images", labels=images / "hpa/labels.csv", scaling=Scaling(size=32))


def folder(images: Path) -> FieldSource:
    reader = FieldReader(folder=images / "kaggle", channels=parse_channels(THREE), scaling=Scaling(size=32))
    return FolderSource(reader, label_set=LabelSet.hpa28(), labels=images / "kaggle/labels.csv")


def simulated(_images: Path) -> FieldSource:
    design = Design(n_fields=3, seed=3, size=64)
    return SimulatedSource(design, plan_study(design))


@pytest.mark.parametrize("source_of", [kaggle, hpa, folder, simulated])
def test_every_source_gives_the_same_dataset_in_processes(
    source_of: Callable[[Path], FieldSource], images: Path, tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    size = 64 if source_of is simulated else 32
    threads = import_fields(source_of(images), tmp_path / "threads.dataset", size=size)
    imported = import_fields(source_of(images), tmp_path / "processes.dataset", size=size, pool=pool)
    assert imported.rejected == (source_of in (kaggle, folder))
    assert state(imported.dataset) == state(threads.dataset)
    assert imported.dataset.fields.equals(threads.dataset.fields)


def test_what_loads_an_item_says_nothing_of_the_others(images: Path) -> None:
    for source in (kaggle(images), hpa(images), folder(images)):
        sent = pickle.dumps(source.loader(source.items[0]))
        assert source.items[0].encode() in sent
        assert not any(other.encode() in sent for other in source.items[1:])


class Fragile(Numbers):
    """One item ends the process that loads it, as a lack of memory does; unless that is the first process."""

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        return partial(self.load_or_die, item, os.getpid())

    def load_or_die(self, item: str, first: int) -> list[Loaded]:
        if item == "20" and os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.load(item)


def test_a_process_that_is_killed_stops_the_import_which_then_continues(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="ended from outside"), processes() as pool:
        run(tmp_path / "a.dataset", source=Fragile(0, 30), pool=pool)
    dataset = run(tmp_path / "a.dataset", source=Fragile(0, 30)).dataset
    assert state(dataset) == state(run(tmp_path / "whole.dataset").dataset)


def test_a_bad_field_is_rejected_with_the_reason_that_its_process_gave(
    tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    imported = run(tmp_path / "a.dataset", 0, 12, pool=pool)
    assert imported.rejected == 4
    assert Rejected("3", "3 is seven and a bit") in imported.dataset.quarantine


@pytest.fixture(scope="module")
def many(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of so many fields that the command takes processes."""
    files = tmp_path_factory.mktemp("many")
    good = sorted({path.name.rpartition("_")[0] for path in (images / "hpa/images").glob("*.jpg")})
    rng = np.random.default_rng(0)
    for number in range(3 * FEWEST_FOR_PROCESSES):
        name = good[rng.integers(len(good))]
        for color in ("red", "green", "blue", "yellow"):
            target = files / f"{10000 + number}_7_A1_1_{color}.jpg"
            target.symlink_to(images / f"hpa/images/{name}_{color}.jpg")
    return files


COMMAND = """
import sys
from cytoloc.cli.app import main
from cytoloc.dataset.importing import ImportOptions

# Some 64 fields a segment.
ImportOptions.__init__.__kwdefaults__["segment_bytes"] = 64 * 4 * 32 * 32
if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_says_no_more_than_that_and_continues(
    many: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    (tmp_path / "command.py").write_text(COMMAND)

    def started(out: Path) -> subprocess.Popen[str]:
        words = [tmp_path / "command.py", "import", "hpa", many, "--size", 32, "--out", out]
        # A group of its own, as in a shell: Ctrl-C reaches all its processes.
        return subprocess.Popen(
            [sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    path = tmp_path / "a.dataset"
    with started(path) as process:
        while not (path / "dataset.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, stop)
        said = process.communicate()[1]
    assert process.returncode == (-stop if stop == signal.SIGKILL else 130)
    assert "Traceback" not in said
    assert ("Rerun the same command to continue" in said) == (stop != signal.SIGKILL)
    unfinished = open_dataset(path).manifest.unfinished
    assert unfinished is not None
    assert 0 < unfinished.added < 3 * FEWEST_FOR_PROCESSES
    with started(path) as process:
        process.communicate()
    assert process.returncode == 0
    source = HpaSource(many, labels=None, scaling=Scaling(size=32))
    whole = import_fields(source, tmp_path / "whole.dataset", size=32)
    assert state(open_dataset(path)) == state(whole.dataset)


def test_without_shared_memory_the_command_says_so_and_takes_threads(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def refused(*_given: object, **_more: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", refused)
    said = cli("import", "hpa", many, "--size", 32, "--out", tmp_path / "a.dataset")
    assert "Processes cannot be started: " in said.err
    assert (tmp_path / "a.dataset").exists()
