"""The Python example of the README, from image files to evaluated predictions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cytoloc

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
@pytest.mark.usefixtures("short_steps")
def test_the_python_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall("```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert set(re.findall(r"^(?:import|from) (\w+)", example, re.MULTILINE)) == {"cytoloc"}
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    assert len(names["ds"]) == 60
    assert [run.fold for run in names["runs"]] == [0, 1]
    assert sorted(names["oof"].ids) == sorted(names["ds"].ids)
    assert names["result"].decided is not None
    assert isinstance(names["result"], cytoloc.Predictions)
    (printed,) = re.findall(r"^Evaluation\(macro F1 (0\.\d+)", capsys.readouterr().out, re.MULTILINE)
    assert 0 < float(printed) < 1
