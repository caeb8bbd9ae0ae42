"""The demo stops where one of its commands does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli


def test_a_demo_whose_command_was_interrupted_stops_there(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_words: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cytoloc.simulate.files.simulate_kaggle", interrupted)

    outcome = cli("demo", "--out", tmp_path / "demo")

    assert outcome.code == 130
    assert "cytoloc simulate" in outcome.out
    assert "cytoloc import" not in outcome.out


def test_a_demo_continues_a_simulation_that_was_stopped_in_the_middle(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, words = tmp_path / "demo", ("demo", "--fields", 30, "--out", tmp_path / "demo")

    def stop(*_words: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr("cytoloc.simulate.files.write_labels", stop)
        assert cli(*words).code == 130
    assert len(list((out / "train").glob("*.png"))) == 120
    monkeypatch.setattr("cytoloc.dataset.from_files.run_import", stop)
    again = cli(*words)
    assert again.code == 130
    assert "done already" not in again.out
    assert (out / "train" / "labels.csv").exists()
    assert (out / "test" / "labels.csv").exists()
    assert cli(*words).out.count("done already") == 2
