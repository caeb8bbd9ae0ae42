"""Imports that are killed, resumed or appended to, bad fields, a full disk, and what an import keeps in memory."""

from __future__ import annotations

import errno
import gc
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloc import files
from cytoloc.dataset import importing, writer
from cytoloc.dataset.importing import Loaded, import_fields
from cytoloc.dataset.manifest import is_complete, read_manifest
from cytoloc.dataset.quarantine import Rejected, examples
from cytoloc.dataset.store import open_dataset
from cytoloc.errors import (
    ChannelError,
    FormatError,
    ImageError,
    LabelSetError,
    OutputExistsError,
    SettingsError,
    StorageError,
    TableError,
)
from cytoloc.labels.label_set import LabelSet
from tests.dataset.numbers import CHANNELS, FIELD_BYTES, SHARD_BYTES, SIZE, Numbers, row, run, state


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", SHARD_BYTES)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def named(*items: str) -> Numbers:
    source = Numbers(0, 1)
    source.items = items
    return source


def test_good_fields_come_in_order_and_bad_ones_are_listed(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    imported = run(tmp_path / "a.dataset", progress=lambda done, total: told.append((done, total)))
    dataset = imported.dataset
    assert dataset.ids[:6] == ("0-0", "0-1", "1", "2", "4", "5-0")
    assert (len(dataset), imported.added, imported.rejected) == (31, 31, 9)
    assert imported.column("id").to_list() == list(dataset.ids)
    assert [each.id for each in dataset.quarantine][:4] == ["0-2", "3", "5-2", "10"]
    assert dataset.quarantine[1] in imported.examples
    assert dataset.quarantine[1].reason == "3 is seven and a bit"
    assert (dataset.channels, dataset.label_set) == (CHANNELS, LabelSet.hpa19())
    assert told == [(done, 30) for done in range(1, 31)]
    assert list(dataset.damaged()) == []
    assert sorted(each.name for each in dataset.folder.iterdir()) == ["dataset.json", "quarantine.csv", "segments"]
    record = dataset.manifest.imports[0]
    assert (record.finished, record.items, record.done, record.added, record.rejected) == (True, 30, 30, 31, 9)


@pytest.mark.parametrize("stop_at", [1, 9, 22, 29])
def test_an_interrupted_import_opens_and_continues_after_the_last_commit(tmp_path: Path, stop_at: int) -> None:
    whole, path = run(tmp_path / "whole.dataset").dataset, tmp_path / "a.dataset"
    with pytest.raises(KeyboardInterrupt):
        run(path, source=Numbers(0, 30, stop_at=stop_at))
    assert path.exists() == (stop_at > 1)
    before: dict[str, bytes] = {}
    if stop_at > 1:
        half = open_dataset(path)
        unfinished = half.manifest.unfinished
        assert unfinished is not None
        assert half.ids == whole.ids[: len(half)]
        assert unfinished.added == len(half) > 0
        before = {name: each for name, each in content(path).items() if name.startswith("segments/")}
    seen: list[int] = []
    dataset = run(path, progress=lambda done, _total: seen.append(done)).dataset
    assert seen[0] > stop_at - 10
    assert state(dataset) == state(whole)
    assert content(path).items() >= before.items()


def test_segments_are_committed_by_size_or_time(tmp_path: Path) -> None:
    ticks = iter(range(1000))
    by_time = run(tmp_path / "t.dataset", segment_bytes=2**30, segment_s=10, clock=lambda: next(ticks)).dataset
    by_size = run(tmp_path / "s.dataset").dataset
    at_once = run(tmp_path / "o.dataset", segment_bytes=2**30).dataset
    assert [len(each.manifest.segments) for each in (by_time, by_size, at_once)] == [3, 4, 1]
    assert [each.fields * FIELD_BYTES >= 9 * FIELD_BYTES for each in by_size.manifest.segments[:-1]] == [True] * 3
    assert state(by_time) == state(by_size) == state(at_once)


def test_a_segment_may_hold_rejections_only(tmp_path: Path) -> None:
    dataset = run(tmp_path / "a.dataset", source=named("3", "17", "1"), segment_s=0).dataset
    assert [(each.fields, each.rejected) for each in dataset.manifest.segments] == [(0, 1), (0, 1), (1, 0)]
    assert not (dataset.folder / "segments" / "0001" / "images.zarr").exists()
    assert dataset.ids == ("1",)
    assert [each.id for each in dataset.quarantine] == ["3", "17"]


def test_appending_makes_the_dataset_that_one_import_makes(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.dataset").dataset
    run(tmp_path / "a.dataset", 0, 12)
    imported = run(tmp_path / "a.dataset", 12, 30, append=True)
    assert (len(imported.dataset), imported.added) == (31, 19)
    assert state(imported.dataset) == state(whole)
    assert [each.settings for each in imported.dataset.manifest.imports] == [{"command": "numbers"}] * 2


def test_known_ids_are_refused_or_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 12)
    before = content(path)
    with pytest.raises(TableError, match="a field with the id 11 already"):
        run(path, 11, 20, append=True)
    assert content(path) == before
    imported = run(path, 11, 20, append=True, skip_known=True)
    assert (imported.known, imported.added, len(imported.dataset)) == (1, 8, 20)


def test_an_append_that_changes_nothing_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 12)
    before = content(path)
    for start, stop, known, bad in ((6, 10, 4, 0), (0, 12, 12, 4)):
        imported = run(path, start, stop, append=True, skip_known=True)
        assert (imported.known, imported.added, imported.rejected) == (known, 0, bad)
        assert content(path) == before
    with pytest.raises(ImageError, match="none of 1 fields could be imported"):
        run(path, 17, 18, append=True, segment_s=0)
    assert content(path) == before


def test_other_forms_are_not_appended(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    with pytest.raises(FormatError, match=r"The dataset .* does not exist"):
        run(path, append=True)
    run(path, 0, 12)
    before = content(path)
    with pytest.raises(OutputExistsError, match="Append with size 16"):
        import_fields(Numbers(12, 30), path, size=32, options=importing.ImportOptions(append=True))
    other = Numbers(12, 30)
    other.channels = ("protein", "nucleus", "actin")
    with pytest.raises(ChannelError, match="has the channels protein, nucleus, mito, not protein, nucleus, actin"):
        run(path, source=other, append=True)
    other = Numbers(12, 30)
    other.label_set = LabelSet.hpa28()
    with pytest.raises(LabelSetError, match=r"label sets differ: hpa28 .* in the import"):
        run(path, source=other, append=True)
    assert content(path) == before


def test_what_a_later_import_adds_or_rejects_again_replaces_the_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    first = run(path, source=named("0", "3", "10", "1", "1")).dataset
    repeated = Rejected("1", "an earlier field of this import has the same id")
    assert [each.id for each in first.quarantine] == ["0-2", "3", "10", "1"]
    assert first.quarantine[-1] == repeated
    fixed = named("3", "10", "8")
    fixed.load = lambda item: [  # type: ignore[method-assign]
        Rejected(item, "still bad") if item == "10" else (row(item), np.zeros((3, SIZE, SIZE), np.uint8))
    ]
    dataset = run(path, source=fixed, append=True).dataset
    assert dataset.ids[-2:] == ("3", "8")
    assert dataset.quarantine == (first.quarantine[0], repeated, Rejected("10", "still bad"))
    listed = (path / "quarantine.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in listed] == ["id", "0-2", "1", "10"]
    run(path, source=named("19"), append=True)
    assert len((path / "quarantine.csv").read_text().splitlines()) == 4


def test_an_id_that_repeats_is_rejected_after_resuming_too(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    source = named("1", "2", "4", "1", "6")
    source.stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        run(path, source=source, segment_s=0)
    assert open_dataset(path).ids == ("1", "2")
    source.stop_at = None
    dataset = run(path, source=source).dataset
    assert dataset.ids == ("1", "2", "4", "6")
    assert dataset.quarantine == (Rejected("1", "an earlier field of this import has the same id"),)


def test_a_dataset_without_fields_yet_opens(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    with pytest.raises(KeyboardInterrupt):
        run(path, source=Numbers(3, 5, stop_at=4), segment_s=0)
    dataset = open_dataset(path)
    assert (len(dataset), dataset.ids, dataset.truth.shape) == (0, (), (0, 19))
    assert dataset.read([]).shape == (0, 3, SIZE, SIZE)
    assert [each.id for each in dataset.quarantine] == ["3"]
    with pytest.raises(IndexError):
        dataset.read([0])


def test_the_quarantine_goes_when_everything_came_in(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, source=named("1", "3"))
    fixed = named("3")
    fixed.load = lambda item: [(row(item), np.zeros((3, SIZE, SIZE), np.uint8))]  # type: ignore[method-assign]
    assert run(path, source=fixed, append=True).dataset.quarantine == ()
    assert not (path / "quarantine.csv").exists()


def test_names_that_are_no_line_of_text_are_rejected(tmp_path: Path) -> None:
    source = named("1", "caf\udce9")
    image = np.zeros((3, SIZE, SIZE), np.uint8)
    source.load = lambda item: [  # type: ignore[method-assign]
        (row(f"{item}{end}"), image) for end in ("", "\u2028", "\udce9")
    ]
    dataset = run(tmp_path / "a.dataset", source=source).dataset
    assert dataset.ids == ("1",)
    assert [each.id for each in dataset.quarantine] == [r"1\u2028", r"1\udce9", r"caf\udce9"]


def test_strict_stops_at_the_first_bad_field_and_continues_once_it_is_fixed(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    with pytest.raises(ImageError, match="3: 3 is seven and a bit"):
        run(path, source=named("1", "2", "3", "4"), strict=True, segment_bytes=FIELD_BYTES)
    assert open_dataset(path).ids == ("1", "2")
    fixed = named("1", "2", "3", "4")
    fixed.load = lambda item: [(row(item), np.zeros((3, SIZE, SIZE), np.uint8))]  # type: ignore[method-assign]
    assert run(path, source=fixed, strict=True).dataset.ids == ("1", "2", "3", "4")


@pytest.mark.parametrize("segment_s", [0, 300])
def test_an_import_without_a_good_field_leaves_nothing(tmp_path: Path, segment_s: float) -> None:
    with pytest.raises(ImageError, match=r"none of 1 fields could be imported\.\n  3: 3 is seven"):
        run(tmp_path / "a.dataset", 3, 4, segment_s=segment_s)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder" / "segments").mkdir(parents=True)
    run(tmp_path / "done.dataset")
    before = content(tmp_path)
    for name in ("file", "folder", "done.dataset"):
        with pytest.raises(OutputExistsError, match="already exists"):
            run(tmp_path / name)
    assert content(tmp_path) == before
    assert (tmp_path / "folder" / "segments").is_dir()
    with pytest.raises(SettingsError, match="is not a valid name"):
        run(tmp_path / "caf\udce9.dataset")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="is not a valid name"):
        run(Path())


def test_an_unfinished_import_with_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    with pytest.raises(KeyboardInterrupt):
        run(path, source=Numbers(0, 30, stop_at=20))
    assert not is_complete(path)
    elsewhere = Numbers(0, 30)
    elsewhere.folder = tmp_path / "elsewhere"
    for other in (Numbers(0, 29), elsewhere):
        for append in (False, True):
            with pytest.raises(OutputExistsError, match=r"unfinished import \(numbers\) with other settings"):
                run(path, source=other, append=append)
    assert len(run(path, append=True).dataset) == 31
    assert is_complete(path)


def test_an_unfinished_import_can_be_discarded(tmp_path: Path) -> None:
    new, added = tmp_path / "new.dataset", tmp_path / "added.dataset"
    run(added, 0, 12)
    finished = state(open_dataset(added))
    for path, start in ((new, 0), (added, 12)):
        with pytest.raises(KeyboardInterrupt):
            run(path, source=Numbers(start, 30, stop_at=28), append=start > 0)
        assert len(open_dataset(path)) > 10
    assert run(new, 0, 12, discard_unfinished=True).added == 12
    assert state(open_dataset(new)) == finished
    # What a finished import added stays.
    assert run(added, 12, 14, append=True, discard_unfinished=True).added == 2
    assert state(open_dataset(added)) == state(run(tmp_path / "whole.dataset", 0, 14).dataset)


def test_nothing_is_discarded_for_an_import_that_is_refused(tmp_path: Path) -> None:
    new, added = tmp_path / "new.dataset", tmp_path / "added.dataset"
    run(added, 0, 12)
    for path, start in ((new, 0), (added, 12)):
        with pytest.raises(KeyboardInterrupt):
            run(path, source=Numbers(start, 30, stop_at=28), append=start > 0)
    before = content(new), content(added)
    other = Numbers(12, 14)
    other.label_set = LabelSet.hpa28()
    with pytest.raises(LabelSetError):
        run(added, source=other, append=True, discard_unfinished=True)
    with pytest.raises(OutputExistsError, match="already exists"):
        run(added, 12, 14, discard_unfinished=True)
    with pytest.raises(FormatError, match="no finished import to append to"):
        run(new, 12, 14, append=True, discard_unfinished=True)
    assert (content(new), content(added)) == before


def test_files_of_others_in_a_dataset_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 12)
    (path / "segments" / ".DS_Store").write_bytes(b"finder")
    assert len(run(path, 12, 30, append=True).dataset) == 31
    assert (path / "segments" / ".DS_Store").read_bytes() == b"finder"


def test_a_dataset_behind_a_link_is_added_to_where_it_is(tmp_path: Path) -> None:
    run(tmp_path / "disk" / "a.dataset", 0, 12)
    (tmp_path / "a.dataset").symlink_to(tmp_path / "disk" / "a.dataset")
    assert len(run(tmp_path / "a.dataset", 12, 30, append=True).dataset) == 31
    assert (tmp_path / "a.dataset").is_symlink()


def test_a_damaged_dataset_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 12)
    table = path / "segments" / "0001" / "fields.parquet"
    table.write_bytes(table.read_bytes()[:-9] + b"x" + table.read_bytes()[-8:])
    before = content(path)
    with pytest.raises(FormatError, match=r"0001/fields\.parquet is not the file that was written"):
        run(path, 12, 30, append=True)
    assert content(path) == before


def test_reasons_are_shown_once_each() -> None:
    quarantine = [Rejected(f"f{number}", f"dir/f{number}_red.png is empty (0 bytes).") for number in range(9)]
    odd = Rejected("g", "g lacks its file.")
    assert examples([*quarantine, odd]) == [quarantine[0], odd]


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    code = f"from pathlib import Path; from tests.dataset.numbers import run; run(Path({str(path)!r}))"

    def meddle(done: int, _total: int) -> None:
        if done == 1:
            with pytest.raises(StorageError, match="another process is importing to this dataset"):
                run(path)
        elif done == 2:
            second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert "StorageError" in second.stderr
            assert "another process is importing to this dataset" in second.stderr

    assert len(run(path, progress=meddle).dataset) == 31


@pytest.mark.parametrize("append", [False, True], ids=["new", "append"])
@pytest.mark.parametrize("at", range(0, 15, 2))
def test_a_full_disk_loses_nothing_that_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, *, append: bool
) -> None:
    path, write, written = tmp_path / "a.dataset", files.write_synced, 0
    if append:
        run(path, 0, 12)
    fields = len(open_dataset(path)) if append else 0

    def full(*given: Any) -> None:
        nonlocal written
        written += 1
        if written > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*given)

    with monkeypatch.context() as patched:
        for module in (writer, files):
            patched.setattr(module, "write_synced", full)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            run(path, 12, 40, append=append)
    assert ("lists is kept: rerun the same command" in caught.value.hint) == path.exists()
    if path.exists():
        half = open_dataset(path)
        assert len(half) == read_manifest(path).fields >= fields
        assert list(half.damaged()) == []
        assert {each.name for each in (path / "segments").iterdir()} == {each.name for each in half.manifest.segments}
    dataset = run(path, 12, 40, append=append).dataset
    run(tmp_path / "whole.dataset", 0 if append else 12, 40)
    assert state(dataset) == state(open_dataset(tmp_path / "whole.dataset"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are not forked here")
@pytest.mark.parametrize(("start", "how"), [(0, "new"), (0, "once"), (4, "append")])
def test_killed_at_any_change_of_the_disk_it_opens_and_ends_the_same(tmp_path: Path, start: int, how: str) -> None:
    call = [sys.executable, "-m", "tests.dataset.numbers", tmp_path, start, how]
    done = subprocess.run([*map(str, call)], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    seen = json.loads(done.stdout)
    assert seen["codes"] == [-9] * seen["changes"]
    # With "once" everything is in one segment, so there is one commit.
    assert len(set(seen["fields"])) >= (2 if how == "once" else 3)
    assert sorted(seen["fields"]) == seen["fields"]
    # After the last commit only the lock is removed; the dataset is finished, and imported to no more.
    assert seen["same"] == [True] * (seen["changes"] - 1) + ["refused"]
    assert seen["left"][:-1] == [["dataset.json", "quarantine.csv", "segments"]] * (seen["changes"] - 1)


class Many(Numbers):
    """Fields that all show the same."""

    image = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), dtype=np.uint8)

    def __init__(self, fields: int) -> None:
        super().__init__(0, 0)
        self.items = [f"{number:08d}-bbc3-11e8-b2bc-ac1f6b6435d0" for number in range(fields)]

    def load(self, item: str) -> list[Loaded]:
        return [(row(item), self.image)]


@pytest.mark.slow
def test_memory_grows_by_ids_only(tmp_path: Path) -> None:
    def held(fields: int) -> int:
        """Return the bytes that a source and an import of it hold after the last item."""
        last = 0

        def measure(done: int, total: int) -> None:
            nonlocal last
            if done == total:
                gc.collect()
                last = tracemalloc.get_traced_memory()[0] - before

        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        # As many fields are waiting for the next commit in both imports.
        run(tmp_path / f"{fields}.dataset", source=Many(fields), progress=measure, segment_bytes=500 * FIELD_BYTES)
        return last

    tracemalloc.start()
    try:
        held(600)
        grown = held(3100) - held(1100)
        assert 85 * 2000 < grown < 200 * 2000
    finally:
        tracemalloc.stop()


def test_an_error_that_is_not_cytolocs_comes_through(tmp_path: Path) -> None:
    def fail(_done: int, _total: int) -> None:
        raise RuntimeError("no error of ours")

    with pytest.raises(RuntimeError, match="no error of ours"):
        run(tmp_path / "a.dataset", progress=fail)
    assert list(tmp_path.iterdir()) == []
