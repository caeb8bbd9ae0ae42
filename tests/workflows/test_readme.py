"""The Python example of the README, from image files to evaluated predictions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cytoloc

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    unseen = cytoloc.cross_fit(names["oof"], names["ds"], method="auto", groups=names["folds"])
    measured = cytoloc.evaluate(unseen, names["ds"])
    assert 0 < measured.macro_f1 < 1
    assert repr(measured).startswith("Evaluation(macro F1 0.")
