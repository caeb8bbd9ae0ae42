from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cytoloc.errors import FormatError, OutputExistsError, SettingsError, StorageError
from cytoloc.files import sha256_of
from cytoloc.hpa.store import FetchedFile, FetchFolder

BASE = "http://a.example"


def fetched_file(store: FetchFolder, file: str, content: bytes = b"image") -> FetchedFile:
    (store.folder / file).parent.mkdir(parents=True, exist_ok=True)
    (store.folder / file).write_bytes(content)
    return FetchedFile(
        file, f"{BASE}/{file}", "18", sha256_of(store.folder / file), len(content), "CC", "2026", '"a,b"'
    )


def test_a_manifest_gets_rows_and_its_last_ones_count(tmp_path: Path) -> None:
    with FetchFolder(tmp_path / "v18", base=BASE).opened() as store:
        one, two = fetched_file(store, "images/1/b.jpg"), fetched_file(store, "images/1/a.jpg")
        for _ in range(2):
            with store.log() as add:
                add(one._replace(sha256="old"))
                add(one)
                add(two)
        assert store.manifest() == {one.file: one, two.file: two}
        store.write_manifest(store.manifest().values())
        lines = (store.folder / "manifest.csv").read_text().splitlines()
        assert [line.partition(",")[0] for line in lines] == ["file", two.file, one.file]
        assert store.manifest() == {two.file: two, one.file: one}


def test_a_row_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    with FetchFolder(tmp_path / "v18", base=BASE).opened() as store:
        one, two = fetched_file(store, "images/1/a.jpg"), fetched_file(store, "images/1/b.jpg")
        store.write_manifest([one, two])
        path = store.folder / "manifest.csv"
        path.write_bytes(path.read_bytes()[:-9])
        assert store.manifest() == {one.file: one}
        with store.log() as add:
            add(two)
        assert store.manifest() == {one.file: one, two.file: two}


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    with FetchFolder(tmp_path / "v18", base=BASE).opened() as store:
        path = store.folder / "manifest.csv"
        path.write_text("a,b\n1,2\n")
        with pytest.raises(FormatError, match="has the columns a, b"):
            store.manifest()
        path.write_text(",".join(FetchedFile._fields) + "\nx,y\n")
        with pytest.raises(FormatError, match="line 2, is damaged"):
            store.manifest()
        path.write_bytes(",".join(FetchedFile._fields).encode() + b"\nx,\xff\n")
        with pytest.raises(FormatError, match="line 2, is damaged"):
            store.manifest()
        store.write_manifest([fetched_file(store, "images/1/a.jpg")] * 3)
        header, first, *rest = path.read_text().splitlines(keepends=True)
        path.write_text("".join([header, '"' + first, *rest]))
        with pytest.raises(FormatError, match="is damaged") as caught:
            store.manifest()
        assert "Remove that line" in caught.value.hint


def test_files_are_looked_at(tmp_path: Path) -> None:
    with FetchFolder(tmp_path / "v18", base=BASE).opened() as store:
        row = fetched_file(store, "images/1/a.jpg")
        assert store.is_here(row, verify=True)
        (store.folder / row.file).write_bytes(b"IMAGE")
        assert store.is_here(row, verify=False)
        assert not store.is_here(row, verify=True)
        (store.folder / row.file).write_bytes(b"imag")
        assert not store.is_here(row, verify=False)
        (store.folder / row.file).unlink()
        assert not store.is_here(row, verify=False)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "labels.csv").write_text("precious")
    (tmp_path / "yours" / "catalog").mkdir(parents=True)
    (tmp_path / "yours" / "catalog" / "list.xml").write_text("precious")
    for name in ("mine", "yours"):
        with (
            pytest.raises(OutputExistsError, match="not the folder of an earlier fetch"),
            FetchFolder(tmp_path / name, base=BASE).opened(),
        ):
            pass
    (tmp_path / "file").write_text("precious")
    with pytest.raises(StorageError), FetchFolder(tmp_path / "file", base=BASE).opened():
        pass
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_belongs_to_one_site_and_to_one_process(tmp_path: Path) -> None:
    with FetchFolder(tmp_path / "v18", base=BASE).opened() as store:
        fetched_file(store, "images/1/a.jpg")
    with (
        pytest.raises(SettingsError, match=r"fetched from http://a\.example, not from http://b\.example"),
        FetchFolder(tmp_path / "v18", base="http://b.example").opened(),
    ):
        pass
    code = (
        "import sys, pathlib\nfrom cytoloc.hpa.store import FetchFolder\n"
        f"with FetchFolder(pathlib.Path(sys.argv[1]), base={BASE!r}).opened(): pass"
    )
    with FetchFolder(tmp_path / "v18", base=BASE).opened():
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path / "v18")], capture_output=True, text=True)
    assert "another process is fetching into it" in other.stderr
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "v18")]).returncode == 0


def bases(folder: Path) -> str:
    return str(json.loads((folder / "catalog" / "fetch.json").read_text())["base"])


def test_a_folder_into_which_nothing_came_belongs_to_nobody(tmp_path: Path) -> None:
    out = tmp_path / "v18"
    for base in (BASE, "http://b.example", BASE):
        with FetchFolder(out, base=base).opened() as store:
            # Tables are written before images come, and parts are no files yet.
            store.write_table("labels.csv", ("Id", "Target"), [])
            store.write_manifest([])
            store.part("images/1/a.jpg").write_bytes(b"half")
        assert bases(out) == base


@pytest.mark.parametrize("what", ["image", "gene", "table", "row"])
def test_a_folder_into_which_anything_came_belongs_to_its_site(tmp_path: Path, what: str) -> None:
    out = tmp_path / "v18"
    files = {"image": "images/1/a.jpg", "gene": "catalog/E.xml", "table": "catalog/table.tsv.zip"}
    with FetchFolder(out, base=BASE).opened() as store:
        row = fetched_file(store, files.get(what, "images/1/a.jpg"))
        if what == "row":
            store.write_manifest([row])
            (out / row.file).unlink()
    with (
        pytest.raises(SettingsError, match=r"fetched from http://a\.example, not from http://b\.example"),
        FetchFolder(out, base="http://b.example").opened(),
    ):
        pass
    assert bases(out) == BASE


def test_a_folder_is_not_taken_from_a_process_that_fetches_into_it(tmp_path: Path) -> None:
    with FetchFolder(tmp_path / "v18", base=BASE).opened():
        with (
            pytest.raises(StorageError, match="another process is fetching into it"),
            FetchFolder(tmp_path / "v18", base="http://b.example").opened(),
        ):
            pass
        assert bases(tmp_path / "v18") == BASE


@pytest.mark.parametrize("left", ["", ".lock", ".fetch.json.new", "..fetch.json.new.abc/.fetch.json.new"])
def test_what_a_kill_left_at_the_very_beginning_is_taken_up(tmp_path: Path, left: str) -> None:
    path = tmp_path / "v18" / "catalog" / left
    path.parent.mkdir(parents=True)
    if left:
        path.write_text("{")
    with FetchFolder(tmp_path / "v18", base=BASE).opened() as store:
        assert sorted(each.name for each in store.catalog.iterdir()) == [".lock", "fetch.json"]
