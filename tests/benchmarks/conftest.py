"""The benchmarks program, run in this process."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main
from tests.conftest import Cli, runner


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs ``python -m benchmarks`` with arguments."""
    return runner(main, monkeypatch, capsys)
