"""Imports whose fields are loaded in processes: the same bytes as in threads, whatever becomes of the processes."""

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
from cytoloc.cli.importing import WORTH_PROCESSES
from cytoloc.dataset.channels import parse_channels
from cytoloc.dataset.folder import FolderSource
from cytoloc.dataset.hpa import HpaSource
from cytoloc.dataset.importing import FieldSource, Loaded, import_fields
from cytoloc.dataset.kaggle import KaggleSource
from cytoloc.dataset.quarantine import Rejected, read_quarantine
from cytoloc.dataset.writer import fields_per_shard
from cytoloc.errors import WorkerError
from cytoloc.parallel import processes
from cytoloc.pictures.scale import Scaling
from cytoloc.simulate.files import draw_hpa, draw_kaggle
from cytoloc.simulate.plan import Design, plan_study
from cytoloc.simulate.study import SimulatedSource
from tests.conftest import Cli
from tests.dataset.test_importing import SIZE, Numbers, content

FOUR = [
    f"{role}=*_{colour}.png" for role, colour in (("microtubules", "red"), ("protein", "green"), ("nucleus", "blue"))
]

EDGE_PX = 128


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes() as pool:
        yield pool


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    design = Design(n_fields=6, seed=3, size=64)
    draw_kaggle(folder / "kaggle", design)
    draw_hpa(folder / "hpa", design)
    damaged = max((folder / "kaggle").glob("*_blue.png"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    return folder


def kaggle(pictures: Path) -> FieldSource:
    return KaggleSource(pictures / "kaggle", labels=pictures / "kaggle/labels.csv", scaling=Scaling(size=32))


def hpa(pictures: Path) -> FieldSource:
    return HpaSource(pictures / "hpa/images", labels=pictures / "hpa/labels.csv", scaling=Scaling(size=32))


def folder(pictures: Path) -> FieldSource:
    channels = parse_channels(FOUR, ["er=microtubules"])
    return FolderSource(pictures / "kaggle", channels, labels=pictures / "kaggle/labels.csv", scaling=Scaling(size=32))


def simulated(_pictures: Path) -> FieldSource:
    design = Design(n_fields=3, seed=3, size=64)
    return SimulatedSource(design, plan_study(design))


@pytest.mark.parametrize("source_of", [kaggle, hpa, folder, simulated])
def test_every_source_gives_the_same_bytes_in_processes(
    source_of: Callable[[Path], FieldSource], pictures: Path, tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    size = 64 if source_of is simulated else 32
    import_fields(source_of(pictures), tmp_path / "threads.dataset", size=size)
    imported = import_fields(source_of(pictures), tmp_path / "processes.dataset", size=size, pool=pool)
    assert imported.rejected == (source_of in (kaggle, folder))
    assert content(tmp_path / "processes.dataset") == content(tmp_path / "threads.dataset")


def test_what_loads_an_item_says_nothing_of_the_others(pictures: Path) -> None:
    for source in (kaggle(pictures), hpa(pictures), folder(pictures)):
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


def test_a_process_that_is_killed_stops_the_import_which_then_goes_on(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="ended from outside"), processes() as pool:
        import_fields(Fragile(0, 30), tmp_path / "a.dataset", size=SIZE, pool=pool)
    assert not (tmp_path / "a.dataset").exists()
    import_fields(Fragile(0, 30), tmp_path / "a.dataset", size=SIZE)
    import_fields(Numbers(0, 30), tmp_path / "whole.dataset", size=SIZE)
    assert content(tmp_path / "a.dataset") == content(tmp_path / "whole.dataset")


def test_a_bad_field_is_rejected_with_the_reason_that_its_process_gave(
    tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    imported = import_fields(Numbers(0, 12), tmp_path / "a.dataset", size=SIZE, pool=pool)
    assert imported.rejected == 4
    assert Rejected("3", "3 is seven and a bit") in read_quarantine(imported.path)


@pytest.fixture(scope="module")
def many(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of so many fields that the command takes processes, and writes several shards."""
    files = tmp_path_factory.mktemp("many")
    good = sorted({path.name.rpartition("_")[0] for path in (pictures / "hpa/images").glob("*.jpg")})
    rng = np.random.default_rng(0)
    for number in range(max(WORTH_PROCESSES, 3 * fields_per_shard(EDGE_PX))):
        name = good[rng.integers(len(good))]
        for colour in ("red", "green", "blue", "yellow"):
            target = files / f"{10000 + number}_7_A1_1_{colour}.jpg"
            target.symlink_to(pictures / f"hpa/images/{name}_{colour}.jpg")
    return files


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_stopped_says_no_more_than_that_and_goes_on(
    many: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    def started(out: Path) -> subprocess.Popen[str]:
        words = ["import", "hpa", many, "--size", EDGE_PX, "--enlarge", "--out", out]
        call = [sys.executable, "-m", "cytoloc", *map(str, words)]
        # A group of its own, as in a shell: Ctrl-C reaches all its processes.
        return subprocess.Popen(call, stderr=subprocess.PIPE, text=True, start_new_session=True)

    with started(tmp_path / "a.dataset") as process:
        journal = tmp_path / "a.dataset.part/journal"
        while not (journal.exists() and any(journal.iterdir())):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, stop)
        said = process.communicate()[1]
    assert process.returncode == (-stop if stop == signal.SIGKILL else 130)
    assert "Traceback" not in said
    assert ("the same command goes on" in said) == (stop != signal.SIGKILL)
    assert not (tmp_path / "a.dataset").exists()
    with started(tmp_path / "a.dataset") as process:
        process.communicate()
    assert process.returncode == 0
    source = HpaSource(many, labels=None, scaling=Scaling(size=EDGE_PX, enlarge=True))
    import_fields(source, tmp_path / "whole.dataset", size=EDGE_PX)
    assert content(tmp_path / "a.dataset") == content(tmp_path / "whole.dataset")


def test_a_lent_pool_reads_from_where_the_import_was_called(
    pictures: Path, tmp_path: Path, pool: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, place in enumerate(("one", "other")):
        (tmp_path / place / "p").mkdir(parents=True)
        name = sorted({path.name.rpartition("_")[0] for path in (pictures / "kaggle").glob("*_red.png")})[number]
        for file in (pictures / "kaggle").glob(f"{name}_*.png"):
            colour = file.name.rpartition("_")[2]
            (tmp_path / place / "p" / f"a_{colour}").write_bytes(file.read_bytes())
    seen = []
    for place in ("one", "other"):
        monkeypatch.chdir(tmp_path / place)
        source = KaggleSource(Path("p"), labels=None, scaling=Scaling(size=32))
        imported = import_fields(source, tmp_path / f"{place}.dataset", size=32, pool=pool)
        seen.append(imported.dataset.fields["sha256"].to_list())
    assert seen[0] != seen[1]


def test_without_shared_memory_the_command_says_so_and_takes_threads(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def refused(*_given: object, **_more: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", refused)
    said = cli("import", "hpa", many, "--size", 32, "--out", tmp_path / "a.dataset")
    assert "Processes cannot be started here" in said.err
    assert (tmp_path / "a.dataset").exists()
