from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from cytoloc.errors import FormatError, OutputExistsError, SettingsError, StorageError
from cytoloc.files import (
    FREE_SPACE,
    FileFormat,
    check_outputs,
    disk_errors,
    locked,
    new_file,
    new_files,
    new_folder,
    read_json,
    replace_file,
    write_json,
)


def test_a_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    with new_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_when_writing_fails(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(interruption), new_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise interruption
    with pytest.raises(interruption), new_folder(tmp_path / "folder") as folder:
        (folder / "half").write_text("half")
        raise interruption
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputExistsError, match="already exists"), new_file(path):
        pytest.fail("the block must not run")
    assert path.read_text() == "old"


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with pytest.raises(OutputExistsError), new_file(path) as temporary:
        temporary.write_text("mine")
        path.write_text("theirs")
    assert path.read_text() == "theirs"


def test_several_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    one, two = tmp_path / "deep" / "a.txt", tmp_path / "b.txt"
    with new_files(one, two) as temporary:
        for path in temporary.values():
            path.write_text(path.name)
        assert not one.exists()
    assert (one.read_text(), two.read_text()) == ("a.txt", "b.txt")
    three, four = tmp_path / "c.txt", tmp_path / "d.txt"
    with pytest.raises(KeyboardInterrupt), new_files(three, four) as temporary:
        temporary[three].write_text("whole")
        raise KeyboardInterrupt
    with pytest.raises(OutputExistsError), new_files(three, four) as temporary:
        for path in temporary.values():
            path.write_text("whole")
        four.write_text("somebody else's")
    assert (three.exists(), four.read_text()) == (False, "somebody else's")
    # The second is not there to get its name: the first loses it again.
    with pytest.raises(FileNotFoundError), new_files(three, tmp_path / "e.txt") as temporary:
        temporary[three].write_text("whole")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.txt", "d.txt", "deep"]


def test_what_cannot_be_written_is_said_by_the_name_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(StorageError) as said, new_files(path) as temporary, new_file(temporary[path]):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(said.value).startswith(f"{path} cannot be written: No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_of_an_output_is_named(tmp_path: Path) -> None:
    kept = tmp_path / "dataset.json"
    for ending in ("", f" Everything that {kept} lists is kept: rerun the same command to continue."):
        for error in (OSError(errno.ENOSPC, "No space left on device"), StorageError("full", hint=FREE_SPACE)):
            with pytest.raises(StorageError) as said, disk_errors(tmp_path / "a.dataset", kept=kept):
                raise error
            assert said.value.hint == FREE_SPACE + ending
        kept.touch()
    with pytest.raises(StorageError) as said, disk_errors(tmp_path / "a.dataset", kept=kept):
        raise StorageError("busy", hint="Wait.")
    assert said.value.hint == "Wait."


def test_a_lock_is_held_by_one_and_gone_afterwards(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.touch()
    with locked(lock, busy="busy"):
        with pytest.raises(StorageError, match="busy"), locked(lock, busy="busy"):
            pytest.fail("the block must not run")
        assert lock.exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="inside"), locked(lock, busy="busy"):
        raise ValueError("inside")
    with locked(lock, busy="busy"):
        pass


def test_a_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_whoever_writes(tmp_path: Path) -> None:
    # In a process of its own: the limit cannot be taken back.
    code = f"""
import resource, signal
import polars as pl
from pathlib import Path
from cytoloc.errors import StorageError
from cytoloc.files import new_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with new_file(Path({str(tmp_path / "t.csv")!r})) as temporary:
        pl.DataFrame({{"a": range(100_000)}}).write_csv(temporary)
except StorageError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert f"{tmp_path / 't.csv'} cannot be written: File too large" in said
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "old.png").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path)
    check_outputs(tmp_path / "new" / "a.csv", tmp_path / "b.csv", images=[tmp_path / "old.png"])
    with pytest.raises(OutputExistsError):
        check_outputs(tmp_path / "b.csv", tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be written, because a parent folder is a file"):
        check_outputs(tmp_path / "b.csv", tmp_path / "file" / "x.csv")
    for same in (tmp_path / "b.csv", tmp_path / "link" / "b.csv"):
        with pytest.raises(SettingsError, match="for two outputs"):
            check_outputs(tmp_path / "b.csv", same)
    (tmp_path / "folder.png").mkdir()
    for name in ("/", ".", "a.jpg", "folder.png"):
        with pytest.raises(SettingsError, match="not the name of a PNG"):
            check_outputs(tmp_path / "b.csv", images=[tmp_path / name])


def test_images_are_drawn_anew_with_the_files_beside_them(tmp_path: Path) -> None:
    image, table = tmp_path / "p.png", tmp_path / "t.csv"
    image.write_text("old")
    with pytest.raises(ValueError, match="stop"), new_files(table, images=[image]) as temporary:
        temporary[image].write_text("new")
        raise ValueError("stop")
    assert (image.read_text(), table.exists()) == ("old", False)
    with new_files(table, images=[image]) as temporary:
        temporary[table].write_text("new")
    assert (image.read_text(), table.read_text()) == ("old", "new")
    table.unlink()
    with new_files(table, images=[image]) as temporary:
        for path in temporary.values():
            path.write_text("new")
    assert (image.read_text(), table.read_text()) == ("new", "new")


def test_json_states_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"value": 1}, FileFormat("cytoloc-thing", 2))
    assert read_json(path, FileFormat("cytoloc-thing", 2))["value"] == 1
    with pytest.raises(FormatError, match="not a cytoloc-other"):
        read_json(path, FileFormat("cytoloc-other", 2))
    with pytest.raises(FormatError, match="of version 2, but this release reads version 1"):
        read_json(path, FileFormat("cytoloc-thing", 1))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_what_is_no_json_of_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.json"):
        read_json(path, FileFormat("cytoloc-thing", 1))
