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
