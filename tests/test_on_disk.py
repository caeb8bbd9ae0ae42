"""What lies on the disk answers as what lies in memory would."""

from __future__ import annotations

import sqlite3
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoloc.dataset.kaggle import COLOURS, KaggleSource
from cytoloc.errors import ImageError, StorageError
from cytoloc.on_disk import DiskList, DiskMap, DiskSet, gathered
from cytoloc.pictures.scale import Scaling

NAMES = st.lists(st.text(st.characters(exclude_categories=()), max_size=5), max_size=12)


@given(NAMES)
def test_a_list_is_a_list(names: list[str]) -> None:
    kept = DiskList(names)
    assert list(kept) == names
    assert len(kept) == len(names)
    assert kept[1:-1] == names[1:-1]
    assert [kept[index] for index in range(-len(names), len(names))] == [*names, *names]
    with pytest.raises(IndexError):
        kept[len(names)]


@given(NAMES, NAMES)
def test_a_set_has_each_name_once_in_the_order_in_which_they_came(names: list[str], more: list[str]) -> None:
    kept = DiskSet(names)
    for name in more:
        kept.add(name)
    assert list(kept) == list(dict.fromkeys([*names, *more]))
    assert len(kept) == len({*names, *more})
    assert all(name in kept for name in more)
    assert "no such name" not in kept
    assert object() not in kept


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=()), max_size=3), st.integers()), max_size=12))
def test_a_map_is_a_dictionary(entries: list[tuple[str, int]]) -> None:
    kept = DiskMap(entries)
    assert dict(kept) == dict(entries)
    assert list(kept) == list(dict(entries))
    assert len(kept) == len(dict(entries))
    assert bool(kept) == bool(entries)
    with pytest.raises(KeyError, match="no such name"):
        kept["no such name"]


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=()), max_size=2), st.integers()), max_size=12))
def test_names_are_gathered_as_python_sorts_them(pairs: list[tuple[str, int]]) -> None:
    assert list(gathered(pairs)) == [
        (name, [value for each, value in pairs if each == name]) for name in sorted({name for name, _ in pairs})
    ]


def test_names_that_begin_alike_are_found_behind_a_bar_only() -> None:
    names = ("scan", "scan_s1", "scan_", "scan`", "scan-1", "scanned", "sca", "Scan_s1", "scan_\U0010ffff")
    assert list(DiskMap((name, 0) for name in names).beginning("scan")) == [
        "scan",
        "scan_",
        "scan_s1",
        "scan_\U0010ffff",
    ]


def test_what_gives_the_names_may_fail() -> None:
    for error in (ImageError("the last"), OSError(28, "the last"), sqlite3.OperationalError("the last")):
        with pytest.raises(type(error)) as caught:
            DiskList(name if name else _refuse(error) for name in ("a", ""))
        assert caught.value is error


def _refuse(error: Exception) -> str:
    raise error


def test_a_wrong_question_is_no_full_disk() -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        DiskSet().ask("SELECT nonsense FROM entries")


def test_a_full_disk_is_named() -> None:
    kept = DiskSet()
    kept.ask("PRAGMA max_page_count = 8")
    with pytest.raises(StorageError, match=r"folder for temporary files .* full") as caught:
        kept.update(f"{number:0100}" for number in range(1000))
    assert "SQLITE_TMPDIR" in caught.value.way_out


def test_many_threads_may_ask_at_once() -> None:
    names = [f"{number}" for number in range(500)]
    kept = DiskMap((name, [name]) for name in names)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: kept[name], names * 4)) == [[name] for name in names] * 4
        assert list(pool.map(lambda _: list(kept), range(8))) == [names] * 8


def test_a_connection_is_used_by_one_thread_at_a_time() -> None:
    kept = DiskMap([("a", 1)])
    for ask in (lambda: kept["a"], lambda: list(kept), lambda: kept.add_rows("DELETE FROM entries", [()])):
        with ThreadPoolExecutor(1) as pool:
            with kept._lock:
                asked = pool.submit(ask)
                with pytest.raises(TimeoutError):
                    asked.result(timeout=0.1)
            asked.result()


def test_names_of_an_import_are_not_held_in_memory(tmp_path: Path) -> None:
    # Python itself keeps up to 2,000 tuples that were freed.
    held(tmp_path / "first", 2500)
    # As one string a name they would take 85 bytes each, in a dictionary twice that.
    assert held(tmp_path / "many", 2000) - held(tmp_path / "few", 200) < 85 * 1800 / 10


def held(folder: Path, fields: int) -> int:
    """Return how many bytes of Python's memory a folder of the competition takes that is about to be imported."""
    names = [f"{field:08d}-bba5-11e8-b2ba-ac1f6b6435d0" for field in range(fields)]
    folder.mkdir()
    for name in names:
        for colour in COLOURS:
            (folder / f"{name}_{colour}.png").touch()
    labels = folder / "labels.csv"
    labels.write_text("Id,Target\n" + "".join(f"{name},1\n" for name in names))
    tracemalloc.start()
    try:
        source = KaggleSource(folder, labels=labels, scaling=Scaling(size=64))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(source.items) == names
    return used
