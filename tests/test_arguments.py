# mypy: disable-error-code="arg-type, call-overload, index"
"""Arguments of the wrong type: every public function names the argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cytoloc as cl
from cytoloc.dataset.store import Dataset
from cytoloc.errors import ArgumentTypeError, SettingsError

PIXELS = np.zeros((2, 1, 64, 64), np.uint8)

CALLS: dict[str, tuple[str, Callable[[Dataset, Path], Any]]] = {
    "import_kaggle folder": ("`folder` must be str or Path", lambda ds, d: cl.import_kaggle(5, out=d / "a")),
    "import_kaggle size": ("`size` must be int", lambda ds, d: cl.import_kaggle(d, out=d / "a", size="96")),
    "import_hpa label_set": ("`label_set` must be", lambda ds, d: cl.import_hpa(d, out=d / "a", label_set=5)),
    "import_folder options": (
        "`options` must be FolderOptions",
        lambda ds, d: cl.import_folder(d, out=d / "a", channels=["protein=0"], options=cl.ImportOptions()),
    ),
    "ImportOptions": ("`limit` must be int or None", lambda ds, d: cl.ImportOptions(limit="3")),
    "ImportOptions flag": ("`enlarge` must be bool", lambda ds, d: cl.ImportOptions(enlarge="yes")),
    "FolderOptions": ("`target_um` must be", lambda ds, d: cl.FolderOptions(target_um="big")),
    "dataset_from_arrays": (
        "`label_set` must be",
        lambda ds, d: cl.dataset_from_arrays(PIXELS, out=d / "a", channels=["protein"], label_set=["x", "y"]),
    ),
    "dataset_from_arrays channels": (
        "`channels` must be list or tuple",
        lambda ds, d: cl.dataset_from_arrays(PIXELS, out=d / "a", channels="protein"),
    ),
    "dataset index": ("not float", lambda ds, d: ds[1.0]),
    "dataset indices": ("not tuple", lambda ds, d: ds[:2, :2]),
    "make_folds k": ("`k` must be int", lambda ds, d: cl.make_folds(ds, k="2")),
    "make_folds seed": ("`seed` must be int", lambda ds, d: cl.make_folds(ds, seed=True)),
    "make_folds pairs": ("`pairs` must be", lambda ds, d: cl.make_folds(ds, pairs=5)),
    "make_folds without": ("`without` must be", lambda ds, d: cl.make_folds(ds, without="blurred")),
    "make_folds": ("`fields` must be", lambda ds, d: cl.make_folds(5)),
    "find_duplicates": ("`datasets` must be", lambda ds, d: cl.find_duplicates(5)),
    "find_duplicates limits": ("`limits` must be Mapping", lambda ds, d: cl.find_duplicates(ds, limits=14)),
    "write_folds": ("`folds` must be DataFrame", lambda ds, d: cl.write_folds(5, d / "a.csv")),
    "read_folds": ("`path` must be", lambda ds, d: cl.read_folds(5)),
    "check_folds": ("`folds` must be", lambda ds, d: cl.check_folds(5, ds)),
    "read_decision": ("`path` must be", lambda ds, d: cl.read_decision(5)),
    "conversion": ("`source` must be", lambda ds, d: cl.conversion(5, "hpa19")),
    "simulate_kaggle": ("`design` must be Design", lambda ds, d: cl.simulate_kaggle(d / "a", 60)),
    "Design": ("`n_fields` must be int", lambda ds, d: cl.simulate_dataset(d / "a", cl.Design(n_fields="x"))),
    "FieldDataset": ("`dataset` must be Dataset", lambda ds, d: cl.torch.FieldDataset("a.dataset")),
    "fit_decision": ("`predictions` must be", lambda ds, d: cl.fit_decision(3, 4)),
    "evaluate": ("`predictions` must be", lambda ds, d: cl.evaluate(3, ds)),
    "load": ("`path` must be", lambda ds, d: cl.load(3)),
    "open_dataset": ("`path` must be", lambda ds, d: cl.open_dataset(None)),
    "read_predictions": ("`path` must be", lambda ds, d: cl.read_predictions(3)),
    "describe": ("`path` must be", lambda ds, d: cl.describe(3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_wrong_types_name_the_argument(name: str, study: Dataset, tmp_path: Path) -> None:
    message, call = CALLS[name]
    with pytest.raises(ArgumentTypeError, match=message) as caught:
        call(study, tmp_path)
    assert isinstance(caught.value, TypeError)
    assert not list(tmp_path.iterdir())


FUNCTIONS = [name for name in cl.__all__ if inspect.isfunction(getattr(cl, name))]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if inspect.signature(getattr(cl, name)).parameters])
def test_every_public_function_refuses_what_it_cannot_take(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function, nothing = getattr(cl, name), object()
    parameters = inspect.signature(function).parameters.values()
    given = [each for each in parameters if each.default is each.empty or each.name in {"data", "path", "predictions"}]
    positional = [nothing for each in given if each.kind is not each.KEYWORD_ONLY]
    named = {each.name: nothing for each in given if each.kind is each.KEYWORD_ONLY}
    with pytest.raises(ArgumentTypeError, match="must be") as caught:
        function(*positional, **named)
    assert any(each.name in caught.value.message.lower() for each in parameters)
    assert not list(tmp_path.iterdir())


def test_arrays_without_ids_are_not_matched_with_predictions(study: Dataset) -> None:
    values = np.full((len(study), 28), 0.5, np.float32)
    found = cl.Predictions(study.ids[::-1], values, study.label_set, decided=values > 0.4)
    with pytest.raises(ArgumentTypeError, match="`labels` is an array without ids, but the predictions have ids"):
        cl.evaluate(found, study.truth)
    with pytest.raises(ArgumentTypeError, match="`labels` is an array without ids"):
        cl.fit_decision(found, study.truth, method="grid")
    assert cl.evaluate(found, study).fields == len(study)


def test_names_of_label_sets_are_taken() -> None:
    assert cl.conversion("hpa28", "hpa19").target.name == "hpa19"
    truth = np.eye(28, dtype=bool)
    assert cl.evaluate(truth, truth, label_set="hpa28").label_set.name == "hpa28"
    with pytest.raises(SettingsError, match="`size` is 10"):
        cl.import_kaggle(".", out="x", size=10)
