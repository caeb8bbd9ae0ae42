from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from cytoloc.dataset.store import Dataset
from cytoloc.decide import cross_fit
from cytoloc.decide.cross_fitting import assign_parts
from cytoloc.decide.inputs import row_keys, stack_members
from cytoloc.decide.metrics import macro_f1, macro_f1_interval
from cytoloc.decide.thresholds import BASELINE_GRID
from cytoloc.files import write_json
from cytoloc.labels.label_set import LabelSet
from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from cytoloc.recipes.recipe import load_recipe, to_toml
from cytoloc.report.runs import finished_runs
from cytoloc.report.study import MIN_POSITIVES, compare_runs, study_tables
from cytoloc.runs import RUN_FORMAT
from tests.conftest import Cli
from tests.decide.cases import study_of

FIELDS = 150
FOLDS = 3

Values = NDArray[np.floating]
Made = tuple[Path, dict[str, Values], NDArray[np.bool_]]


def ids_of(fold: int, *, fields: int = FIELDS, folds: int = FOLDS) -> list[str]:
    return [f"f{number}" for number in range(fields) if number % folds == fold]


def make_run(
    out: Path,
    name: str,
    fold: int,
    probabilities: Values,
    *,
    dataset: object = "none.dataset",
    ids: list[str] | None = None,
    finished: bool = True,
    fingerprint: str = "f",
    settings: tuple[str, ...] = (),
    label_set: LabelSet | None = None,
) -> Path:
    """Write the folder of a run as far as a report looks into it."""
    folder = out / f"{name}-fold{fold}"
    folder.mkdir(parents=True)
    ids = ids_of(fold) if ids is None else ids
    recipe = load_recipe("quick", overrides=[f"name={name}", "schedule.accumulate=2", *settings])
    (folder / "recipe.toml").write_text(to_toml(recipe))
    header = {
        "fold": fold,
        "dataset": {"path": str(dataset), "fingerprint": fingerprint},
        "label_set": LabelSet.hpa28().to_json(),
        "held_out": ids,
        "trained_on": [],
    }
    write_json(folder / "run.json", header, RUN_FORMAT)
    if finished and ids:
        rows = [int(each[1:]) for each in ids]
        values = probabilities[rows].astype(np.float32)
        write_predictions(
            Predictions(tuple(ids), values, label_set or LabelSet.hpa28()), folder / "predictions.parquet"
        )
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Return a folder of runs of three models on three folds, their probabilities, and the truth in labels.csv."""
    members, truth = study_of(4, FIELDS, members=3)
    # As predictions files hold them.
    names = {
        name: each.astype(np.float32) for name, each in zip(("first", "second", "third"), members.values(), strict=True)
    }
    for name, values in names.items():
        for fold in range(FOLDS):
            make_run(tmp_path / "runs", name, fold, values)
    rows = [f"f{number},{LabelSet.hpa28().format(np.flatnonzero(row))}" for number, row in enumerate(truth)]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    return tmp_path, names, truth


def cross_fitted_f1(members: dict[str, Values], truth: NDArray[np.bool_]) -> float:
    """Return the cross-fitted macro F1 of the silver-medal baseline, written out; only the parts are cytoloc's.

    Per class the first best F1 on the grid; then the most probable location for a blank field, and five at most.
    """
    predicted = np.zeros_like(truth)
    mean = np.mean([values.astype(float) for values in members.values()], axis=0)
    parts = assign_parts(row_keys(stack_members(members)), None)
    for part in range(5):
        rows, rest = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        above = mean[rest] > BASELINE_GRID[:, None, None]
        f1 = 2 * (above & truth[rest]).sum(axis=1) / (above.sum(axis=1) + truth[rest].sum(axis=0)).clip(min=1)
        met = truth[rest].any(axis=0)
        cuts = np.where(met, BASELINE_GRID[f1.argmax(axis=0)], 1)
        for row in rows:
            chosen = np.flatnonzero(mean[row] > cuts).tolist() or [int(np.argmax(np.where(met, mean[row], 0)))]
            chosen.sort(key=lambda label: cuts[label] - mean[row, label])
            predicted[row, chosen[:5]] = True
    return float(f1_score(truth, predicted, average="macro", zero_division=0))


def as_json(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def test_metrics_of_a_model_are_those_of_its_cross_fitted_decisions(made: Made, cli: Cli) -> None:
    folder, members, truth = made
    tables = as_json(cli("report", folder / "runs", "--table", "--labels", folder / "labels.csv", "--json"))
    assert [row["model"] for row in tables["models"]] == list(members)
    for row, (name, values) in zip(tables["models"], members.items(), strict=True):
        metrics = row["metrics"]
        assert metrics["cv"] == pytest.approx(cross_fitted_f1({name: values}, truth), abs=1e-12)
        assert metrics["low"] < metrics["cv"] < metrics["high"]
        assert metrics["fields"] == FIELDS
        common = np.flatnonzero(truth.sum(axis=0) >= MIN_POSITIVES)
        assert 5 < len(common) < 28
        assert metrics["classes"] == len(common)
        for key, metric in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
            assert metrics[key] == pytest.approx(np.mean([metric(truth[:, i], values[:, i]) for i in common]))
    first = tables["models"][0]
    assert (first["network"], first["image"], first["batch"]) == ("tf_efficientnet_lite0", 256, 16)
    assert (first["loss"], first["folds"]) == ("0.5 focal + 0.5 soft F1", [0, 1, 2])


def test_an_ensemble_is_the_mean_of_its_members(made: Made, cli: Cli) -> None:
    folder, members, truth = made
    call = ["report", folder / "runs", "--table", "--labels", folder / "labels.csv", "--json"]
    (row,) = as_json(cli(*call))["ensembles"]
    assert row["members"] == list(members)
    assert row["metrics"]["cv"] == pytest.approx(cross_fitted_f1(members, truth), abs=1e-12)
    chosen = as_json(cli(*call, "--ensemble", "third+first", "--ensemble", "first+second"))["ensembles"]
    assert [row["members"] for row in chosen] == [["third", "first"], ["first", "second"]]
    two = {name: members[name] for name in ("third", "first")}
    assert chosen[0]["metrics"]["cv"] == pytest.approx(cross_fitted_f1(two, truth), abs=1e-12)
    for words, said in (
        ("first+fourth", "'fourth', which is not a finished model"),
        ("first", "needs at least two different models"),
        ("first+first", "needs at least two different models"),
    ):
        refused = cli(*call, "--ensemble", words)
        assert (refused.code, said in refused.err) == (2, True)


def test_the_order_of_runs_does_not_matter(made: Made) -> None:
    folder, _, truth = made
    runs, _ = finished_runs([folder / "runs"])

    def truth_of(ids: Any) -> NDArray[np.bool_]:
        return truth[[int(each[1:]) for each in ids]]

    there, back = study_tables(runs, truth_of), study_tables(runs[::-1], truth_of)
    assert {row.model: row for row in there.models} == {row.model: row for row in back.models}
    assert [row.model for row in back.models] == ["third", "second", "first"]


def test_groups_are_kept_together_and_drawn_together(made: Made) -> None:
    folder, _, truth = made
    runs, _ = finished_runs([folder / "runs" / f"first-fold{fold}" for fold in range(FOLDS)])
    seen: list[Any] = []

    def truth_of(ids: Any) -> NDArray[np.bool_]:
        return truth[[int(each[1:]) for each in ids]]

    def groups_of(ids: Any) -> NDArray[np.int64]:
        seen.append(ids)
        return np.array([int(each[1:]) // 30 for each in ids], np.int64)

    alone, grouped = study_tables(runs, truth_of), study_tables(runs, truth_of, groups_of=groups_of)
    assert (alone.grouped, grouped.grouped) == (False, True)
    assert len(seen) == 1
    assert alone.models[0].metrics.cv != grouped.models[0].metrics.cv
    ids = runs[0].predictions.ids + runs[1].predictions.ids + runs[2].predictions.ids
    values = np.concatenate([run.predictions.probabilities for run in runs])
    predicted = cross_fit(values, truth_of(ids), method="grid", groups=groups_of(ids))
    metrics = grouped.models[0].metrics
    assert metrics.cv == macro_f1(predicted, truth_of(ids))
    assert (metrics.low, metrics.high) == macro_f1_interval(predicted, truth_of(ids), groups=groups_of(ids))


def test_models_that_cannot_be_evaluated_together_have_a_note(tmp_path: Path) -> None:
    members, truth = study_of(5, FIELDS, members=1)
    values = members["m0"]

    def truth_of(ids: Any) -> NDArray[np.bool_]:
        return truth[[int(each[1:]) for each in ids]]

    for fold in range(FOLDS):
        make_run(tmp_path, "whole", fold, values)
        make_run(tmp_path, "dealt", fold, values, ids=[f"f{number}" for number in range(50 * fold, 50 * fold + 50)])
        make_run(tmp_path, "mixed", fold, values, settings=("schedule.epochs=3",) if fold else ())
        make_run(tmp_path, "moved", fold, values, fingerprint=str(fold))
    make_run(tmp_path, "part", 0, values)
    make_run(tmp_path, "twice", 0, values)
    make_run(tmp_path, "twice", 1, values, ids=ids_of(0))
    make_run(tmp_path, "best", 0, values, settings=('select.checkpoint="best"',))
    runs, _ = finished_runs([tmp_path])
    pairs = [("whole", other) for other in ("dealt", "part", "mixed")] + [("part", "best")]
    tables = study_tables(runs, truth_of, ensembles=pairs)
    notes = {row.model: row.metrics.note for row in tables.models}
    assert notes == {
        "best": "checkpoints were chosen on the validation folds",
        "dealt": "",
        "mixed": "folds were trained with different recipes",
        "moved": "folds have different datasets",
        "part": "",
        "twice": "folds share fields",
        "whole": "",
    }
    assert {row.model for row in tables.models if row.metrics.cv is None} == {"mixed", "moved", "twice"}
    assert [row.metrics.note for row in tables.ensembles] == [
        "dealt has other folds than whole",
        "part has predictions of other fields than whole",
        "mixed: folds were trained with different recipes",
        "checkpoints were chosen on the validation folds",
    ]
    assert [row.metrics.cv is None for row in tables.ensembles] == [True, True, True, False]


def test_models_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    members, truth = study_of(6, FIELDS, members=2)
    for folder, values in zip(("a", "b"), members.values(), strict=True):
        make_run(tmp_path / folder, "same", 0, values)
    runs, _ = finished_runs([tmp_path / "a", tmp_path / "b"])
    tables = study_tables(runs, lambda ids: truth[[int(each[1:]) for each in ids]])
    assert [row.model for row in tables.models] == [f"{tmp_path}/a/same", f"{tmp_path}/b/same"]
    assert len(tables.ensembles) == 1


def test_folds_named_in_different_ways_are_of_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members, truth = study_of(6, FIELDS, members=1)
    for fold in range(FOLDS):
        make_run(tmp_path / "runs", "one", fold, *members.values())
    monkeypatch.chdir(tmp_path)
    runs, _ = finished_runs([Path("runs/one-fold0"), tmp_path / "runs" / "one-fold1", Path("runs/one-fold2")])
    tables = study_tables(runs, lambda ids: truth[[int(each[1:]) for each in ids]])
    assert [row.model for row in tables.models] == ["one"]
    # Links in one folder are of one model too, wherever they lead.
    (tmp_path / "links").mkdir()
    for fold in range(FOLDS):
        (tmp_path / str(fold)).mkdir()
        (tmp_path / "runs" / f"one-fold{fold}").rename(tmp_path / str(fold) / f"one-fold{fold}")
        (tmp_path / "links" / f"one-fold{fold}").symlink_to(tmp_path / str(fold) / f"one-fold{fold}")
    linked = study_tables(finished_runs([tmp_path / "links"])[0], lambda ids: truth[[int(each[1:]) for each in ids]])
    assert [row.folds for row in linked.models] == [row.folds for row in tables.models]


def test_unfinished_runs_are_left_out_with_the_reason(made: Made, cli: Cli) -> None:
    folder, members, _ = made
    make_run(folder / "runs", "late", 0, members["first"], finished=False)
    call = ["report", folder / "runs", "--table", "--labels", folder / "labels.csv"]
    said = cli(*call, "--json")
    assert "late-fold0: not finished" in said.err
    tables = as_json(said)
    assert [Path(row["run"]).name for row in tables["left_out"]] == ["late-fold0"]
    assert len(tables["models"]) == 3
    compared = compare_runs(str(folder / "runs"), labels=folder / "labels.csv")
    assert [row.model for row in compared.models] == [row["model"] for row in tables["models"]]
    rows = [*tables["models"], *tables["ensembles"]]
    assert compared.to_pandas()["cv"].tolist() == [row["metrics"]["cv"] for row in rows]
    assert [run.folder.name for run in compared.left_out] == ["late-fold0"]
    refused = cli("report", folder / "runs" / "late-fold0", "--table")
    assert (refused.code, "None of the runs is finished" in refused.err) == (1, True)


def test_formats_say_the_same(made: Made, cli: Cli) -> None:
    folder, _, _ = made
    call = ["report", folder / "runs", "--table", "--labels", folder / "labels.csv"]
    tables = as_json(cli(*call, "--json"))
    rows = [*tables["models"], *tables["ensembles"]]
    cells = [f"{row['metrics']['cv']:.3f}" for row in rows]
    text, marked = cli(*call).out, cli(*call, "--format", "markdown").out
    for cell in cells:
        assert f" {cell} " in text
        assert f"| {cell} |" in marked
    assert "| first + second + third |" in marked
    assert "with cross-fitted decisions" in " ".join(text.split())
    table = list(csv.DictReader(io.StringIO(cli(*call, "--format", "csv").out)))
    assert [row["kind"] for row in table] == ["model"] * 3 + ["ensemble"]
    assert [float(row["cv"]) for row in table] == [row["metrics"]["cv"] for row in rows]
    assert (table[0]["folds"], table[3]["name"], table[3]["image"]) == ("0 1 2", "first+second+third", "")
    out = folder / "table.md"
    said = cli(*call, "--format", "markdown", "--out", out)
    assert "3 models, 1 ensemble, from 9 runs" in said.out
    assert out.read_text() == marked
    again = cli(*call, "--out", out)
    assert (again.code, "already" in again.err) == (1, True)


def test_labels_come_from_the_dataset_that_a_run_names(study: Dataset, tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    values = np.clip(0.6 * study.truth + rng.random((len(study), 28)) / 2, 0, 1)
    rows = {name: row for row, name in enumerate(study.ids)}
    for dataset, mark in ((study.path, study.fingerprint), (study.path, "other"), (tmp_path / "gone", "f")):
        out = tmp_path / str(mark)[:6]
        folder = make_run(out, "first", 0, values, dataset=dataset, fingerprint=mark, ids=[])
        header = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(header | {"held_out": list(rows)}))
        write_predictions(
            Predictions(tuple(rows), values.astype(np.float32), LabelSet.hpa28()), folder / "predictions.parquet"
        )
    tables = as_json(cli("report", tmp_path / study.fingerprint[:6], "--table", "--json"))
    assert tables["models"][0]["metrics"]["cv"] > 0.2
    changed = cli("report", tmp_path / "other", "--table")
    assert (changed.code, "was changed after" in changed.err, "--labels" in changed.err) == (1, True, True)
    gone = cli("report", tmp_path / "f", "--table")
    assert (gone.code, "cannot be opened" in gone.err, "--labels" in gone.err) == (1, True, True)


def test_calls_that_cannot_be_are_refused(made: Made, cli: Cli) -> None:
    folder, _, _ = made
    run = folder / "runs" / "first-fold0"
    for call, code, said in (
        ([run], 2, "add --table"),
        ([folder, "--table"], 1, "contains no run"),
        ([run, folder / "runs", "--table"], 2, "is given twice"),
        ([folder / "runs", "--table", "--decision", "nonsense"], 2, "nonsense"),
    ):
        refused = cli("report", *call)
        assert (refused.code, said in refused.err) == (code, True), refused
    write_predictions(Predictions(("f1",), np.zeros((1, 28), np.float32), LabelSet.hpa28()), folder / "s.parquet")
    (folder / "s.parquet").replace(run / "predictions.parquet")
    damaged = cli("report", run, "--table")
    assert (damaged.code, "does not have the fields of the validation fold" in damaged.err) == (1, True)


def test_models_of_own_locations_are_reported(tmp_path: Path, cli: Cli) -> None:
    own = LabelSet.from_names(["Nuclear rim", "Cytoplasm", "Spots", "Membrane"], name="own")
    members, truth = study_of(4, FIELDS, members=1)
    for fold in range(FOLDS):
        make_run(tmp_path / "runs", "first", fold, members["m0"][:, :4], label_set=own)
    rows = [f"f{number},{own.format(np.flatnonzero(row)) or 'spots'}" for number, row in enumerate(truth[:, :4])]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    call = ["report", tmp_path / "runs", "--table", "--labels", tmp_path / "labels.csv"]
    tables = as_json(cli(*call, "--json"))
    assert (tables["label_set"], tables["locations"]) == ("own", 4)
    assert "CV: macro F1 over 4 locations" in " ".join(cli(*call).out.split())
    make_run(tmp_path / "runs", "second", 0, members["m0"])
    refused = cli(*call)
    assert (refused.code, "hpa28 (version 1, 28 locations)" in refused.err) == (1, True)
