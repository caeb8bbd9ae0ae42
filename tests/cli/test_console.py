"""A request to stop is one, whatever a library makes of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cytoloc.cli.console import terminated_as_interrupted
from cytoloc.errors import ImageError
from tests.conftest import Cli


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
def test_an_error_that_a_stop_caused_is_a_stop() -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                raise ImportError("initialization failed") from None
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ImportError, match="no such library"), terminated_as_interrupted():
        raise ImportError("no such library")


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals go to the main thread")
@pytest.mark.parametrize(
    ("command", "source"),
    [("kaggle", "KaggleSource"), ("hpa", "HpaSource"), ("folder", "FolderSource")],
)
def test_an_import_takes_sigterm_for_a_stop_from_the_start(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, source: str
) -> None:
    def look(*_: object, **__: object) -> None:
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        raise ImageError("looked")

    monkeypatch.setattr(f"cytoloc.dataset.from_files.{source}", look)
    channels = ["--channels", "protein=0,nucleus=1,er=2,microtubules=3"] if command == "folder" else []
    said = cli("import", command, tmp_path, "--out", tmp_path / "a.dataset", *channels)
    assert (said.code, "looked" in said.err) == (1, True)


def test_a_stop_after_all_is_done_stops_nothing(
    cli: Cli, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def leaving() -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr("cytoloc.dataset.from_files.processes", leaving)
    monkeypatch.setattr("cytoloc.dataset.from_files.FEWEST_FOR_PROCESSES", 1)
    said = cli("import", "kaggle", images, "--size", 32, "--out", tmp_path / "a.dataset")
    assert (said.code, said.out) == (
        0,
        f"{tmp_path / 'a.dataset'}: 3 fields of 32 px.\nNext: cytoloc info {tmp_path / 'a.dataset'}\n",
    )
