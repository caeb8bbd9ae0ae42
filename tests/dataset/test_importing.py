"""An import that is killed, resumed, appended to, or met by bad fields."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloc.dataset import importing, workshop, writer
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.importing import Imported, Loaded, import_fields
from cytoloc.dataset.quarantine import QUARANTINE, Rejected, examples, read_quarantine
from cytoloc.dataset.store import open_dataset
from cytoloc.errors import FormatError, ImageError, OutputExistsError, SettingsError, StorageError, TableError

SIZE = 16


class Numbers:
    """Items ``0`` … whose fields are noise; every seventh cannot be read, every fifth holds three fields."""

    def __init__(self, start: int, stop: int, *, stop_at: int | None = None) -> None:
        self.items: Sequence[str] = [f"{number}" for number in range(start, stop)]
        self.folder = Path("numbers")
        self.quick = False
        self.made_by: dict[str, Any] = {"command": "numbers"}
        self.stop_at = stop_at

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        return partial(self.load, item)

    def load(self, item: str) -> list[Loaded]:
        number = int(item)
        if number == self.stop_at:
            raise KeyboardInterrupt
        if number % 7 == 3:
            raise ImageError(f"{item} is seven and a bit")
        pixels = np.random.default_rng(number).integers(0, 256, (3, 4, SIZE, SIZE), dtype=np.uint8)
        if number % 5:
            return [
                (
                    FieldRow(id=item, source="test", original_px=SIZE, original_width_px=SIZE, labels=(number % 28,)),
                    pixels[0],
                )
            ]
        fields: list[Loaded] = [
            (
                FieldRow(id=f"{item}-{scene}", source="test", original_px=SIZE, original_width_px=SIZE, pixel_um=0.1),
                pixels[scene],
            )
            for scene in range(2)
        ]
        return [*fields, Rejected(f"{item}-2", "the third scene is bad")]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SHARD_BYTES", 4 * 4 * SIZE * SIZE)


def run(path: Path, start: int = 0, stop: int = 30, **options: Any) -> Imported:
    return import_fields(Numbers(start, stop), path, size=SIZE, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_good_fields_come_in_order_and_bad_ones_are_listed(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    imported = run(tmp_path / "a.dataset", advance=lambda done, total: told.append((done, total)))
    dataset = imported.dataset
    assert dataset.ids[:6] == ("0-0", "0-1", "1", "2", "4", "5-0")
    assert (len(dataset), imported.added, imported.rejected) == (31, 31, 9)
    assert [each.id for each in read_quarantine(dataset.folder)][:4] == ["0-2", "3", "5-2", "10"]
    assert read_quarantine(dataset.folder)[1].reason == "3 is seven and a bit"
    assert told == [(done, 30) for done in range(1, 31)]
    assert list(dataset.damaged()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dataset"]


def test_an_interrupted_import_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    run(tmp_path / "whole.dataset")
    for stop_at in (1, 9, 22, 29):
        with pytest.raises(KeyboardInterrupt):
            import_fields(Numbers(0, 30, stop_at=stop_at), tmp_path / "a.dataset", size=SIZE)
        assert not (tmp_path / "a.dataset").exists()
    run(tmp_path / "a.dataset")
    assert content(tmp_path / "a.dataset") == content(tmp_path / "whole.dataset")


def test_appending_makes_the_dataset_that_one_import_makes(tmp_path: Path) -> None:
    run(tmp_path / "whole.dataset")
    run(tmp_path / "a.dataset", 0, 12)
    imported = run(tmp_path / "a.dataset", 12, 30, append=True)
    assert (len(imported.dataset), imported.added) == (31, 19)
    parts, whole = content(tmp_path / "a.dataset"), content(tmp_path / "whole.dataset")
    assert parts.pop("dataset.json") != whole.pop("dataset.json")
    assert parts == whole
    assert imported.dataset.header["appended"] == [{"command": "numbers"}]


def test_known_ids_are_refused_or_passed_over(tmp_path: Path) -> None:
    run(tmp_path / "a.dataset", 0, 12)
    before = content(tmp_path / "a.dataset")
    with pytest.raises(TableError, match="a field 11 already"):
        run(tmp_path / "a.dataset", 11, 20, append=True)
    assert content(tmp_path / "a.dataset") == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]
    imported = run(tmp_path / "a.dataset", 11, 20, append=True, skip_known=True)
    assert (imported.known, imported.added, len(imported.dataset)) == (1, 8, 20)


def test_an_append_that_adds_nothing_leaves_the_dataset_as_it_is(tmp_path: Path) -> None:
    run(tmp_path / "a.dataset", 0, 12)
    before = content(tmp_path / "a.dataset")
    # Some of them are rejected, as they were before.
    for start, stop, known, bad in ((6, 10, 4, 0), (0, 12, 12, 4)):
        imported = run(tmp_path / "a.dataset", start, stop, append=True, skip_known=True)
        assert (imported.known, imported.added, imported.rejected) == (known, 0, bad)
        assert content(tmp_path / "a.dataset") == before
        assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


def test_an_append_of_known_fields_records_what_is_rejected_anew(tmp_path: Path) -> None:
    run(tmp_path / "a.dataset", 0, 12)
    source = Numbers(0, 1)
    source.items = ["1", "17"]
    imported = import_fields(source, tmp_path / "a.dataset", size=SIZE, append=True, skip_known=True)
    assert (imported.known, imported.added, imported.rejected) == (1, 0, 1)
    assert read_quarantine(tmp_path / "a.dataset")[-1] == Rejected("17", "17 is seven and a bit")


@pytest.mark.parametrize(("begun", "other"), [(20, 10), (10, 20)])
def test_an_append_goes_on_with_the_dataset_that_it_was_begun_with(tmp_path: Path, begun: int, other: int) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, begun)
    run(tmp_path / "other.dataset", 0, other)
    shutil.copytree(path, tmp_path / "whole.dataset")
    run(tmp_path / "whole.dataset", 25, 40, append=True)
    with pytest.raises(KeyboardInterrupt):
        import_fields(Numbers(25, 40, stop_at=36), path, size=SIZE, append=True)
    path.rename(tmp_path / "first.dataset")
    shutil.copytree(tmp_path / "other.dataset", path)
    with pytest.raises(OutputExistsError, match=r"not the dataset that .*a\.dataset\.part was begun with"):
        run(path, 25, 40, append=True)
    assert content(path) == content(tmp_path / "other.dataset")
    shutil.rmtree(path)
    (tmp_path / "first.dataset").rename(path)
    run(path, 25, 40, append=True)
    assert content(path) == content(tmp_path / "whole.dataset")


def test_an_append_that_had_hardly_begun_takes_the_dataset_that_is_there_now(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 20)
    with pytest.raises(KeyboardInterrupt):
        import_fields(Numbers(25, 40, stop_at=25), path, size=SIZE, append=True)
    run(tmp_path / "whole.dataset", 0, 5)
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "whole.dataset", path)
    for each in (path, tmp_path / "whole.dataset"):
        run(each, 25, 40, append=True)
    assert content(path) == content(tmp_path / "whole.dataset")


def test_a_stopped_append_keeps_what_was_rejected_before_byte_for_byte(tmp_path: Path) -> None:
    source = Numbers(0, 2)
    # The last is rejected, and so is no field of what is added, though its id is in the shard that is written anew.
    source.items = ["1", "2", "1"]
    path = tmp_path / "a.dataset"
    import_fields(source, path, size=SIZE)
    shutil.copytree(path, tmp_path / "whole.dataset")
    run(tmp_path / "whole.dataset", 11, 24, append=True)
    with pytest.raises(KeyboardInterrupt):
        import_fields(Numbers(11, 24, stop_at=19), path, size=SIZE, append=True)
    run(path, 11, 24, append=True)
    assert content(path) == content(tmp_path / "whole.dataset")
    assert read_quarantine(path)[0].id == "1"


def test_an_dataset_that_is_exchanged_while_it_is_added_to_is_not_taken_for_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 20)
    import_fields(Numbers(100, 120), tmp_path / "other.dataset", size=SIZE)

    def exchange(done: int, _total: int) -> None:
        if done == 1:
            path.rename(tmp_path / "first.dataset")
            (tmp_path / "other.dataset").rename(path)

    other = content(tmp_path / "other.dataset")
    with pytest.raises(OutputExistsError, match="not the dataset that"):
        run(path, 25, 40, append=True, advance=exchange)
    assert content(path) == other


def test_shards_that_no_entry_of_the_journal_knows_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    with pytest.raises(KeyboardInterrupt):
        import_fields(Numbers(0, 30, stop_at=29), path, size=SIZE)
    shards = tmp_path / "a.dataset.part" / "dataset" / "images.zarr" / "c"
    shutil.copytree(shards / "0", shards / "99")
    run(path)
    run(tmp_path / "whole.dataset")
    assert content(path) == content(tmp_path / "whole.dataset")


def test_a_whole_shard_that_is_missing_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 20)
    (path / "images.zarr" / "c" / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(FormatError, match=r"damaged: .*c/0/0/0/0 is missing"):
        run(path, 25, 40, append=True)
    assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


@pytest.mark.parametrize("at", [0, 1])
def test_a_full_disk_leaves_whole_shards_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    write, written = writer._write_shard, 0

    def full(*given: Any) -> None:
        nonlocal written
        if written == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        written += 1
        write(*given)

    with monkeypatch.context() as patched:
        patched.setattr(writer, "_write_shard", full)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            run(tmp_path / "a.dataset")
    part = tmp_path / "a.dataset.part"
    assert (f"{part} keeps what is whole" in caught.value.way_out) == part.exists() == (at > 0)
    run(tmp_path / "a.dataset")
    run(tmp_path / "whole.dataset")
    assert content(tmp_path / "a.dataset") == content(tmp_path / "whole.dataset")


def test_an_id_from_within_a_file_is_a_line_of_text(tmp_path: Path) -> None:
    source = Numbers(0, 2)
    source.load = lambda item: [  # type: ignore[method-assign]
        (
            FieldRow(id=f"{item}{end}", source="test", original_px=SIZE, original_width_px=SIZE),
            np.zeros((4, SIZE, SIZE), np.uint8),
        )
        for end in ("", "\u2028", "\udce9")
    ]
    dataset = import_fields(source, tmp_path / "a.dataset", size=SIZE).dataset
    assert dataset.ids == ("0", "1")
    assert [each.id for each in read_quarantine(dataset.folder)] == [r"0\u2028", r"0\udce9", r"1\u2028", r"1\udce9"]


def test_nothing_is_written_any_more_once_an_import_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = writer._write_shard

    def slowly(*given: Any) -> None:
        time.sleep(0.2)
        write(*given)

    def fail(done: int, _total: int) -> None:
        if done == 5:
            raise RuntimeError("no error of ours")

    monkeypatch.setattr(writer, "_write_shard", slowly)
    with pytest.raises(RuntimeError, match="no error of ours"):
        run(tmp_path / "a.dataset", advance=fail)
    left = content(tmp_path / "a.dataset.part")
    assert [name for name in left if "/c/" in name] == ["dataset/images.zarr/c/0/0/0/0"]
    time.sleep(0.5)
    assert content(tmp_path / "a.dataset.part") == left


def test_an_append_of_known_fields_keeps_the_shards_that_were_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 3)
    shutil.copytree(path, tmp_path / "whole.dataset")
    before = content(path)
    source = Numbers(0, 1)
    source.items = ["4", "6", "8", "9", "2"]
    with pytest.raises(TableError, match="a field 2 already"):
        import_fields(source, path, size=SIZE, append=True)
    assert content(path) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dataset", "a.dataset.part", "whole.dataset"]
    for each in (path, tmp_path / "whole.dataset"):
        import_fields(source, each, size=SIZE, append=True, skip_known=True)
    assert content(path) == content(tmp_path / "whole.dataset")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dataset", "whole.dataset"]


def leave_traces(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """Import, and be stopped when all is done but for tidying up."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(workshop, "_empty", stop)
        with pytest.raises(KeyboardInterrupt):
            run(path, **options)
    assert (path.parent / f".{path.name}.done").exists()


def test_what_a_done_import_left_is_not_taken_for_another_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dataset"
    leave_traces(path, monkeypatch)
    shutil.rmtree(path)
    run(tmp_path / "other.dataset", 0, 4)
    (tmp_path / "other.dataset").rename(path)
    other = content(path)
    with pytest.raises(OutputExistsError, match="already exists"):
        run(path)
    assert content(path) == other
    assert not (tmp_path / "a.dataset.part").exists()


@pytest.mark.parametrize("gone", ["import.json", "result.json"])
def test_what_does_not_say_that_an_import_is_done_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    path, done = tmp_path / "a.dataset", tmp_path / ".a.dataset.done"
    leave_traces(path, monkeypatch)
    # Of one that was done the plan goes first; one that failed has no result.
    shutil.rmtree(done / "journal")
    (done / gone).unlink()
    (done / "mine").write_text("precious")
    with pytest.raises(OutputExistsError, match="holds mine"):
        run(path)
    (done / "mine").unlink()
    with pytest.raises(OutputExistsError, match="already exists"):
        run(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


def test_an_append_is_done_anew_where_the_former_dataset_was_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, former = tmp_path / "a.dataset", tmp_path / "former.dataset"
    run(path, 0, 12)
    shutil.copytree(path, former)
    leave_traces(path, monkeypatch, start=12, append=True)
    whole = content(path)
    shutil.rmtree(path)
    former.rename(path)
    assert run(path, 12, append=True).added == 19
    assert content(path) == whole
    assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


def test_what_a_done_import_left_does_not_take_another_ones_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dataset"
    leave_traces(path, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        import_fields(Numbers(30, 60, stop_at=50), path, size=SIZE, append=True)
    begun = content(tmp_path / "a.dataset.part")
    assert run(path).added == 31
    assert content(tmp_path / "a.dataset.part") == begun


def test_a_former_dataset_that_came_back_during_the_exchange_is_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 12)
    shutil.copytree(path, tmp_path / "former.dataset")
    rename = Path.rename

    def stop(source: Path, target: Path) -> Path:
        if source.name == "dataset":
            raise KeyboardInterrupt
        return rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            run(path, 12, append=True)
    (tmp_path / "former.dataset").rename(path)
    assert run(path, 12, append=True).added == 19
    assert len(open_dataset(path)) == 31
    assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


@pytest.mark.parametrize("append", [False, True], ids=["new", "append"])
@pytest.mark.parametrize("left", ["part", "done"])
def test_an_dataset_may_be_called_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str, *, append: bool
) -> None:
    path = tmp_path / "x.part"
    if append:
        run(path, 0, 12)
    if left == "done":
        leave_traces(path, monkeypatch, start=12, append=append)
    else:
        with monkeypatch.context() as patched:
            patched.setattr(importing, "retire", lambda *_: None)
            run(path, 12, append=append)
    assert run(path, 12, append=append).added == 19
    assert [each.name for each in tmp_path.iterdir()] == ["x.part"]


def test_what_is_done_is_an_dataset_with_all_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.dataset"
    leave_traces(path, monkeypatch)
    (path / "fields.parquet").unlink()
    with pytest.raises(OutputExistsError, match="already exists"):
        run(path)


@pytest.mark.parametrize("append", [False, True], ids=["new", "append"])
def test_a_done_import_whose_dataset_is_elsewhere_is_done_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, append: bool
) -> None:
    path = tmp_path / "a.dataset"
    if append:
        run(path, 0, 12)
        shutil.copytree(path, tmp_path / "former.dataset")
    with monkeypatch.context() as patched:
        patched.setattr(importing, "retire", lambda *_: None)
        run(path, 12, append=append)
    whole = content(path)
    path.rename(tmp_path / "elsewhere.dataset")
    if append:
        (tmp_path / "former.dataset").rename(path)
    assert run(path, 12, append=append).added == 19
    assert content(path) == whole
    assert list(open_dataset(path).damaged()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.dataset", "elsewhere.dataset"]


def test_a_former_dataset_is_not_removed_for_what_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = tmp_path / "a.dataset", tmp_path / "a.dataset.part" / "replaced"
    run(path, 0, 12)
    former = content(path)
    with monkeypatch.context() as patched:
        patched.setattr(importing, "retire", lambda *_: None)
        run(path, 12, append=True)
    shutil.rmtree(path)
    path.mkdir()
    for _ in range(2):
        with pytest.raises(OutputExistsError, match=r"is what .* was before it was added to"):
            run(path, 12, append=True)
        assert content(kept) == former
        shutil.rmtree(path)
        run(tmp_path / "other.dataset", 0, 4)
        (tmp_path / "other.dataset").rename(path)


def test_an_dataset_that_is_half_written_is_never_given_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, part = tmp_path / "a.dataset", tmp_path / "a.dataset.part"
    run(path, 0, 12)
    shutil.copytree(path, tmp_path / "former.dataset")
    rename = Path.rename

    def stop(source: Path, target: Path) -> Path:
        if source.name == "dataset":
            raise KeyboardInterrupt
        return rename(source, target)

    def stop_writing(*_: object) -> int:
        raise KeyboardInterrupt

    for owner, name, instead in ((Path, "rename", stop), (writer, "_write_table", stop_writing)):
        if name == "_write_table":
            shutil.copytree(tmp_path / "former.dataset", path)
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, instead)
            with pytest.raises(KeyboardInterrupt):
                run(path, 12, append=True)
    shutil.rmtree(path)
    with pytest.raises(FormatError, match="there is no such dataset"):
        run(path, 12, append=True)
    assert content(part / "replaced") == content(tmp_path / "former.dataset")


def test_an_exchanged_dataset_that_was_moved_away_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.dataset"
    run(path, 0, 12)
    with monkeypatch.context() as patched:
        patched.setattr(importing, "retire", lambda *_: None)
        run(path, 12, append=True)
    path.rename(tmp_path / "elsewhere.dataset")
    with pytest.raises(FormatError, match="there is no such dataset"):
        run(path, 12, append=True)
    assert (tmp_path / "a.dataset.part" / "replaced" / "dataset.json").exists()
    with pytest.raises(OutputExistsError, match="with other settings") as caught:
        run(path)
    assert "a.dataset.part/replaced: it is the dataset that was added to" in caught.value.way_out


def test_an_dataset_with_fewer_rows_than_fields_is_not_finished(tmp_path: Path) -> None:
    with (
        writer.DatasetWriter(tmp_path, size=SIZE, path=tmp_path) as dataset,
        pytest.raises(RuntimeError, match="1 fields"),
    ):
        dataset.finish([], count=1, header={})


@pytest.mark.parametrize("step", range(1, 5))
def test_stopped_while_it_clears_away_an_append_of_nothing_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    run(tmp_path / "a.dataset", 0, 12)
    before, removed, leaving = content(tmp_path / "a.dataset"), 0, tmp_path / ".a.dataset.done"

    def stopping(remove: Callable[..., None]) -> Callable[..., None]:
        def removing(*given: Any, **named: Any) -> None:
            nonlocal removed
            remove(*given, **named)
            removed += leaving in (Path(given[0]), Path(given[0]).parent)
            if removed == step:
                raise KeyboardInterrupt

        return removing

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stopping(shutil.rmtree))
        patched.setattr(Path, "unlink", stopping(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a.dataset", 6, 10, append=True, skip_known=True)
    run(tmp_path / "a.dataset", 6, 10, append=True, skip_known=True)
    assert content(tmp_path / "a.dataset") == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


def test_a_name_that_is_not_utf_8_is_refused_before_anything_is_begun(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"udce9\.dataset is not UTF-8"):
        run(tmp_path / "caf\udce9.dataset")
    assert not list(tmp_path.iterdir())


def test_an_id_that_repeats_in_an_import_is_put_into_quarantine(tmp_path: Path) -> None:
    source = Numbers(0, 2)
    source.items = ["1", "2", "1"]
    dataset = import_fields(source, tmp_path / "a.dataset", size=SIZE).dataset
    assert dataset.ids == ("1", "2")
    assert read_quarantine(dataset.folder) == [Rejected("1", "an earlier field of this import has the same id")]


def test_what_an_append_brings_in_leaves_the_quarantine(tmp_path: Path) -> None:
    run(tmp_path / "a.dataset", 0, 12)
    assert [each.id for each in read_quarantine(tmp_path / "a.dataset")] == ["0-2", "3", "5-2", "10", "10-2"][:4]
    mended = Numbers(0, 1)
    mended.items = ["3", "10"]
    mended.load = lambda item: [  # type: ignore[method-assign]
        (
            FieldRow(id=item, source="test", original_px=SIZE, original_width_px=SIZE),
            np.zeros((4, SIZE, SIZE), np.uint8),
        )
        if item == "3"
        else Rejected(item, "still bad")
    ]
    dataset = import_fields(mended, tmp_path / "a.dataset", size=SIZE, append=True).dataset
    assert dataset.ids[-1] == "3"
    assert read_quarantine(dataset.folder)[-1] == Rejected("10", "still bad")
    assert [each.id for each in read_quarantine(dataset.folder)] == ["0-2", "5-2", "10"]


def test_reasons_are_shown_once_each() -> None:
    quarantine = [Rejected(f"f{number}", f"dir/f{number}_red.png is empty (0 bytes).") for number in range(9)]
    odd = Rejected("g", "g lacks its file.")
    assert examples([*quarantine, odd]) == [quarantine[0], odd]


def test_strict_stops_at_the_first_bad_field(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="0-2: the third scene is bad"):
        run(tmp_path / "a.dataset", strict=True)
    assert not (tmp_path / "a.dataset").exists()


def test_an_import_without_a_good_field_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none of 1 fields could be imported\.\n  3: 3 is seven"):
        run(tmp_path / "a.dataset", 3, 4)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_and_another_started_import_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dataset").write_text("precious")
    with pytest.raises(OutputExistsError, match="already exists"):
        run(tmp_path / "a.dataset")
    assert (tmp_path / "a.dataset").read_text() == "precious"
    with pytest.raises(KeyboardInterrupt):
        import_fields(Numbers(0, 30, stop_at=20), tmp_path / "b.dataset", size=SIZE)
    with pytest.raises(OutputExistsError, match="with other settings or other files"):
        run(tmp_path / "b.dataset", 0, 29)
    assert len(run(tmp_path / "b.dataset").dataset) == 31


def test_two_processes_do_not_import_to_one_place(tmp_path: Path) -> None:
    def meddle(_done: int, _total: int) -> None:
        with pytest.raises(StorageError, match="another process is importing"):
            run(tmp_path / "a.dataset")

    assert len(run(tmp_path / "a.dataset", advance=meddle).dataset) == 31


CHILD = """
import os, signal, sys
from contextlib import nullcontext
from pathlib import Path
from cytoloc.dataset import writer
from cytoloc.dataset.importing import import_fields
from cytoloc.errors import TableError
from cytoloc.parallel import processes
from tests.dataset.test_importing import Numbers, SIZE

path, append = Path(sys.argv[1]), sys.argv[2] == "append"
start, stop, dies_at = map(int, sys.argv[3:6])
writer.SHARD_BYTES = 4 * 4 * SIZE * SIZE
changes = 0

def dying(change):
    def once(*words, **options):
        global changes
        changes += 1
        if changes == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*words, **options)
    return once

for owner, name in ((Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "mkdir"), (os, "rmdir"), (os, "link"),
                    (os, "fsync"), (writer.DatasetWriter, "put"), (writer.DatasetWriter, "finish")):
    setattr(owner, name, dying(getattr(owner, name)))

def told(done, total):
    print(done, flush=True)

refused = 0
with processes() if sys.argv[6] == "processes" else nullcontext() as pool:
    try:
        import_fields(Numbers(start, stop), path, size=SIZE, append=append, pool=pool, advance=told)
    except TableError:
        refused = 3
print("changes", changes)
sys.exit(refused)
"""


def child(
    path: Path, *, start: int, append: bool, stop: int = 30, dies_at: int = 0, workers: str = "threads"
) -> subprocess.Popen[str]:
    words = [path, "append" if append else "new", start, stop, dies_at, workers]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def begin_with_a_repeated_id(path: Path) -> None:
    """Make a dataset whose quarantine has an id that a field of its last shard has too."""
    source = Numbers(0, 10)
    source.items = [*source.items, source.items[-1]]
    import_fields(source, path, size=SIZE)


def finished(process: subprocess.Popen[str]) -> Iterator[str]:
    with process:
        assert process.stdout is not None
        yield from process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("append", [False, True], ids=["new", "append"])
def test_killed_at_any_change_of_the_disk_it_ends_byte_for_byte_the_same(tmp_path: Path, *, append: bool) -> None:
    def begin(path: Path) -> None:
        if append:
            begin_with_a_repeated_id(path)

    begin(tmp_path / "whole.dataset")
    whole = child(tmp_path / "whole.dataset", start=10, append=append)
    last = list(finished(whole))[-1]
    changes = int(last.removeprefix("changes"))
    assert changes > 30
    path = tmp_path / "killed.dataset"
    begin(path)
    # Ever later, so that each attempt gets a little further than the one before.
    kills = 0
    for dies_at in [*range(1, 12), *range(12, changes, 4)]:
        process = child(path, start=10, append=append, dies_at=dies_at)
        list(finished(process))
        if process.returncode >= 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 12
    if process.returncode < 0:
        list(finished(child(path, start=10, append=append)))
    assert content(path) == content(tmp_path / "whole.dataset")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["killed.dataset", "whole.dataset"]


@pytest.mark.slow
def test_killed_while_an_append_that_cannot_be_is_cleared_away_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.dataset"
    begin_with_a_repeated_id(path)
    before = content(path)
    whole = child(path, start=9, append=True)
    changes = int(list(finished(whole))[-1].removeprefix("changes"))
    assert whole.returncode == 3
    for dies_at in range(1, changes, 2):
        process = child(path, start=9, append=True, dies_at=dies_at)
        list(finished(process))
        assert process.returncode == -signal.SIGKILL
        again = child(path, start=9, append=True)
        list(finished(again))
        assert again.returncode == 3
        assert content(path) == before
        assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["threads", "processes"])
def test_killed_at_twenty_random_moments_it_ends_byte_for_byte_the_same(tmp_path: Path, workers: str) -> None:
    whole = run(tmp_path / "whole.dataset", 0, 300).dataset.folder
    path = tmp_path / "killed.dataset"
    rng = np.random.default_rng(0)
    kills = 0
    for _attempt in range(100):
        process = child(path, start=0, stop=300, append=False, workers=workers)
        patience = int(rng.integers(2, 20))
        for line in finished(process):
            patience -= 1
            # It goes on with its work while it is being killed.
            if patience == 0 and not line.startswith("changes"):
                process.kill()
        kills += process.returncode != 0
        if process.returncode == 0:
            break
    assert kills >= 20
    assert process.returncode == 0
    assert content(path) == content(whole)
    assert QUARANTINE in content(path)


@pytest.mark.slow
@pytest.mark.parametrize("append", [False, True], ids=["new", "append"])
def test_killed_while_it_tidies_up_the_dataset_is_whole_and_nothing_is_left(tmp_path: Path, *, append: bool) -> None:
    """Each of the last changes in turn, from an import that had come that far undisturbed."""

    def begin(path: Path) -> None:
        if append:
            begin_with_a_repeated_id(path)

    begin(tmp_path / "whole.dataset")
    changes = int(
        list(finished(child(tmp_path / "whole.dataset", start=10, append=append)))[-1].removeprefix("changes")
    )
    whole = content(tmp_path / "whole.dataset")
    # All but the last, which takes the lock away.
    for dies_at in range(changes - 11, changes):
        path = tmp_path / f"{dies_at}" / "killed.dataset"
        path.parent.mkdir()
        begin(path)
        process = child(path, start=10, append=append, dies_at=dies_at)
        list(finished(process))
        assert process.returncode == -signal.SIGKILL
        again = child(path, start=10, append=append)
        list(finished(again))
        # At the very end nothing says any more that the dataset is this import's: it, or its ids, are there already.
        assert again.returncode == 0 or dies_at >= changes - 2
        assert content(path) == whole
        assert [each.name for each in path.parent.iterdir()] == ["killed.dataset"]


def test_an_import_from_another_folder_is_another_import(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_fields(Numbers(0, 30, stop_at=20), tmp_path / "a.dataset", size=SIZE)
    elsewhere = Numbers(0, 30)
    elsewhere.folder = tmp_path / "elsewhere"
    with pytest.raises(OutputExistsError, match="with other settings or other files"):
        import_fields(elsewhere, tmp_path / "a.dataset", size=SIZE)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("a.dataset.part", name) for name in ("precious", "result.json", "dataset/precious", "journal/precious")]
    + [(".a.dataset.done", name) for name in ("precious", "dataset/precious", "replaced/precious")],
)
def test_a_folder_that_is_no_imports_is_left_alone(tmp_path: Path, folder: str, name: str) -> None:
    file = tmp_path / folder / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(OutputExistsError, match=f"in the way: it is no import's, and holds {name.partition('/')[0]}"):
        run(tmp_path / "a.dataset")
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [file]


def test_folders_that_are_no_imports_are_not_exchanged(tmp_path: Path) -> None:
    for name in ("dataset", "replaced"):
        (tmp_path / "a.dataset.part" / name).mkdir(parents=True)
    with pytest.raises(FormatError, match="there is no such dataset"):
        run(tmp_path / "a.dataset", append=True)
    assert not (tmp_path / "a.dataset").exists()


def test_an_dataset_behind_a_link_is_added_to_where_it_is(tmp_path: Path) -> None:
    run(tmp_path / "disk" / "a.dataset", 0, 12)
    (tmp_path / "a.dataset").symlink_to(tmp_path / "disk" / "a.dataset")
    assert len(run(tmp_path / "a.dataset", 12, 30, append=True).dataset) == 31
    assert (tmp_path / "a.dataset").is_symlink()
    assert [each.name for each in (tmp_path / "disk").iterdir()] == ["a.dataset"]


def test_a_wrong_append_does_not_stand_in_the_way_of_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such dataset"):
        run(tmp_path / "a.dataset", append=True)
    run(tmp_path / "a.dataset", 0, 12)
    with pytest.raises(OutputExistsError, match="Append with --size 16"):
        import_fields(Numbers(12, 30), tmp_path / "a.dataset", size=32, append=True)
    assert len(run(tmp_path / "a.dataset", 12, 30, append=True).dataset) == 31


def test_an_append_that_adds_nothing_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path / "a.dataset", 0, 12)
    before = content(tmp_path / "a.dataset")
    with pytest.raises(ImageError, match="none of 1 fields could be imported"):
        run(tmp_path / "a.dataset", 17, 18, append=True)
    assert content(tmp_path / "a.dataset") == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.dataset"]


def test_names_that_are_not_utf_8_are_listed(tmp_path: Path) -> None:
    source = Numbers(0, 3)
    source.items = ["1", "caf\udce9", "2"]
    dataset = import_fields(source, tmp_path / "a.dataset", size=SIZE).dataset
    assert dataset.ids == ("1", "2")
    assert read_quarantine(dataset.folder) == [
        Rejected("caf\\udce9", "the name caf\\udce9 is not UTF-8, or holds a line's end. Rename the files.")
    ]


def test_an_dataset_needs_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="not a name"):
        run(Path())
