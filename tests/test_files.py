from __future__ import annotations

from pathlib import Path

import pytest

from cytoloc.errors import FormatError, OutputExistsError
from cytoloc.files import new_file, new_folder, read_json, write_json


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


def test_json_states_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"value": 1}, kind="cytoloc-thing", version=2)
    assert read_json(path, kind="cytoloc-thing", version=2)["value"] == 1
    with pytest.raises(FormatError, match="not a cytoloc-other"):
        read_json(path, kind="cytoloc-other", version=2)
    with pytest.raises(FormatError, match="version 2; this release reads version 1"):
        read_json(path, kind="cytoloc-thing", version=1)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_what_is_no_json_of_ours_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.json"):
        read_json(path, kind="cytoloc-thing", version=1)
