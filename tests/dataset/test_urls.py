from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import FormatError, StorageError
from cytoloc.predict.sources import open_source
from tests.conftest import Cli
from tests.dataset.numbers import run


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves files and, as object stores do, ranges of bytes of them."""

    protocol_version = "HTTP/1.1"
    sent: ClassVar[list[tuple[str, int]]] = []
    broken = 0
    whole_files = False

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if self.broken:
            self.send_error(self.broken)
            return
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        wanted, size = self.headers.get("Range"), len(content)
        if wanted and not self.whole_files:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, size - int(last))
            stop = size if not first or not last else min(int(last) + 1, size)
            content = content[start:stop]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.sent.append((self.path, len(content)))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def address(study: Dataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(study.folder.parent)
    monkeypatch.setattr(Ranges, "sent", [])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{study.folder.name}"
        server.shutdown()
        thread.join()


def test_a_dataset_at_a_url_reads_as_on_the_disk(study: Dataset, address: str) -> None:
    remote = open_dataset(address)
    assert remote.fields.equals(study.fields)
    assert remote.fingerprint == study.fingerprint
    rows = [7, 1, 30, 1]
    np.testing.assert_array_equal(remote.read(rows), study.read(rows))


def test_segments_and_quarantine_at_a_url(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = run(tmp_path / "numbers.dataset").dataset
    monkeypatch.chdir(tmp_path)
    there = open_dataset(f"{address.rpartition('/')[0]}/numbers.dataset")
    assert (there.fingerprint, there.quarantine) == (here.fingerprint, here.quarantine)
    assert len(there.manifest.segments) == 4
    np.testing.assert_array_equal(there.read([30, 0, 12, 0]), here.read([30, 0, 12, 0]))


def test_a_field_costs_a_range_of_bytes_not_a_shard(study: Dataset, address: str) -> None:
    remote = open_dataset(address + "/")
    Ranges.sent.clear()
    remote.read([3])
    shard = next((study.folder / "segments" / "0001" / "images.zarr" / "c").rglob("0/0/0/0")).stat().st_size
    assert sum(size for _, size in Ranges.sent) < shard / 4


def test_what_is_not_there_is_said(address: str) -> None:
    with pytest.raises(FormatError, match=r"is not a dataset, because it has no dataset\.json"):
        open_dataset(address + "-not")
    with pytest.raises(StorageError, match="cannot be read"):
        open_dataset("nonsense://somewhere/a.dataset")
    with pytest.raises(FormatError, match="not on this machine"):
        _ = open_dataset(address).folder


def test_a_network_that_fails_is_not_called_damage(study: Dataset, address: str) -> None:
    remote = open_dataset(address)
    Ranges.broken = 403
    try:
        with pytest.raises(StorageError, match="cannot be read: PERMISSION_DENIED"):
            remote.read([3])
    finally:
        Ranges.broken = 0
    assert remote.read([3]).shape == (1, 4, study.size, study.size)


def test_a_server_of_whole_files_is_not_called_damage(
    study: Dataset, address: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranges, "whole_files", True)
    with pytest.raises(StorageError, match="sends whole files") as caught:
        open_dataset(address).read([3])
    assert "range requests" in caught.value.hint
    assert "sends whole files" in cli("info", address, "--check").err


def test_another_table_at_a_url_is_damage(
    study: Dataset, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / study.folder.name
    shutil.copytree(study.folder, copy)
    table = copy / "segments" / "0001" / "fields.parquet"
    table.write_bytes(table.read_bytes()[:-9] + b"x" + table.read_bytes()[-8:])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match="not the file that was written"):
        open_dataset(address)


def test_commands_take_urls(study: Dataset, address: str, cli: Cli, tmp_path: Path) -> None:
    said = cli("info", address)
    assert said.code == 0, said.err
    assert f"{len(study)} fields" in said.out
    assert cli("folds", address, "-k", 2, "--out", tmp_path / "folds.csv").code == 0
    assert [batch.images.shape for batch in open_source(address).batches(study.size, len(study))] == [
        (len(study), 4, study.size, study.size)
    ]
    assert cli("show", address, "--out", tmp_path / "sheet.png").code == 0
