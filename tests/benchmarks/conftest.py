"""The benchmarks program, run in this process."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from benchmarks.__main__ import main
from tests.conftest import Cli, runner


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs ``python -m benchmarks`` with arguments.

    What a benchmark measures in a process of its own is measured here, since a process takes seconds to start.
    """

    def here(work: Callable[..., Any], *given: Any) -> Any:
        return pickle.loads(pickle.dumps(partial(work, *given)))()

    class Here(ThreadPoolExecutor):
        def __init__(self, workers: int, *, mp_context: Any, initializer: Callable[..., Any], initargs: Any) -> None:
            super().__init__(workers, initializer=initializer, initargs=pickle.loads(pickle.dumps(initargs)))

    for name in ("dataset", "decide", "duplicates", "train"):
        monkeypatch.setattr(f"benchmarks.{name}.in_separate_process", here)
    monkeypatch.setattr("benchmarks.train.ProcessPoolExecutor", Here)
    monkeypatch.setattr("benchmarks.train.end_with_parent", lambda: None)
    return runner(main, monkeypatch, capsys)


@pytest.fixture
def measured_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a benchmark measure once. Its second call returns the results of the first."""

    def keep(name: str) -> None:
        module = importlib.import_module(f"benchmarks.{name}")
        results: list[Any] = []
        measure = getattr(module, f"bench_{name}")

        def once(*given: Any, **named: Any) -> Any:
            if not results:
                results.append(measure(*given, **named))
            return results[0]

        monkeypatch.setattr(module, f"bench_{name}", once)

    return keep
