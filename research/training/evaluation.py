"""Evaluation of networks and decisions on the study's test set, and by out-of-fold predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from plan import Networks
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cytoloc import open_dataset
from cytoloc.choices import MethodName
from cytoloc.decide import Decision, cross_fit, fit_decision, macro_f1
from cytoloc.decide.metrics import macro_f1_interval, overall, resampled_f1
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_groups, read_labels, truth_of
from cytoloc.prediction_files import read_predictions
from cytoloc.predictions import combine
from cytoloc.recipes.recipe import read_resolved
from cytoloc.training.data import oversampled_rows
from cytoloc.training.schedule import Schedule

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

HPA28 = LabelSet.hpa28()


@dataclass(frozen=True)
class Evaluator:
    """The labels of the study: given labels of training fields, and true labels of the test set."""

    study: Path
    work: Path

    @cached_property
    def given(self) -> dict[str, tuple[int, ...]]:
        """Given labels of the training fields; some are deliberately wrong."""
        dataset = open_dataset(self.study / "train.dataset")
        return {name: tuple(np.flatnonzero(row)) for name, row in zip(dataset.ids, dataset.truth, strict=True)}

    @cached_property
    def test_ids(self) -> list[str]:
        """Ids of the test fields."""
        return list(read_labels(self.study / "truth" / "test.csv", HPA28))

    @cached_property
    def truth(self) -> Bools:
        """True labels of the test fields."""
        return truth_of(
            self.test_ids, read_labels(self.study / "truth" / "test.csv", HPA28), HPA28, where="the test set"
        )

    @cached_property
    def wells(self) -> NDArray[np.int64]:
        """Number of the well of each test field."""
        place = {name: row for row, name in enumerate(self.test_ids)}
        pairs = pl.read_csv(self.study / "truth" / "wells.csv")
        ends = [[place[name] for name in pairs[column]] for column in ("a", "b")]
        graph = coo_array((np.ones(len(pairs)), ends), shape=(len(place), len(place)))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)

    def held_out(self, runs: Sequence[Path], name: str = "predictions") -> tuple[list[str], Floats, Bools]:
        """Return ids, mean probabilities over runs, and given labels of the fields of validation folds."""
        scores = combine([read_predictions(run / f"{name}.parquet") for run in runs])
        ids = list(scores.ids)
        return ids, scores.rows(ids), truth_of(ids, self.given, HPA28, where="the training fields")

    def test(self, runs: Sequence[Path], name: str = "test") -> Floats:
        """Return the mean probabilities of the test fields over runs."""
        return combine([read_predictions(run / f"{name}.parquet") for run in runs]).rows(self.test_ids)

    def groups(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the groups of training fields, such as wells with near-duplicates."""
        return read_groups(self.work / "honest.csv", ids)

    def images(self, run: Path) -> int:
        """Return the number of training images of a network; images with a frozen backbone count as a third."""
        recipe = read_resolved(run / "recipe.toml")
        seen = json.loads((run / "run.json").read_text())["trained_on"]
        times = {HPA28.index(word): count for word, count in recipe.sampling.oversample.get(HPA28.name, {}).items()}
        each = len(oversampled_rows(truth_of(seen, self.given, HPA28, where="the training fields"), times))
        schedule = Schedule.from_recipe(recipe)
        return round(each * sum(schedule.work(epoch) for epoch in range(schedule.total_epochs)))

    def measures(self, decision: Decision, probabilities: Floats) -> dict[str, Any]:
        """Return metrics of the decisions on the test set, with an interval from resampling wells."""
        predicted = decision({"mean": probabilities})
        low, high = macro_f1_interval(predicted, self.truth, groups=self.wells)
        all_of_it = overall(predicted, self.truth, probabilities)
        return {
            "macro_f1": all_of_it["macro_f1"],
            "interval": [low, high],
            "average_precision": all_of_it["mean_average_precision"],
            "roc_auc": all_of_it["macro_roc_auc"],
        }


def chosen(study: Path, work: Path, ways: Sequence[Networks]) -> tuple[Networks, dict[str, float]]:
    """Select the networks with the highest mean average precision on the validation folds that all of them have.

    Returns:
        The selected networks, and the mean average precision of all.
    """
    evaluator, found = Evaluator(study, work), {}
    folds = sorted(set.intersection(*(set(each.folds) for each in ways)))
    for way in ways:
        measured = []
        for run in replace(way, folds=tuple(folds)).runs(work):
            _, scores, truth = evaluator.held_out([run])
            measured.append(overall(scores >= 0.5, truth, scores)["mean_average_precision"])
        found[way.name] = float(np.mean(measured))
        print(f"{way.name}: out-of-fold mAP {found[way.name]:.3f}, mean of folds {', '.join(map(str, folds))}")
    return max(ways, key=lambda way: found[way.name]), found


def systems_table(
    study: Path, work: Path, starting: Sequence[Networks], ours: Sequence[Networks]
) -> list[dict[str, Any]]:
    """Print and return the cross-validated and test metrics of each system."""
    evaluator, rows, decided = Evaluator(study, work), [], []
    for group, method in [*((each, "grid") for each in starting), *((each, "auto") for each in ours)]:
        runs = group.runs(work)
        ids, scores, truth = evaluator.held_out(runs)
        groups = evaluator.groups(ids)
        decision = fit_decision({"mean": scores}, truth, method=method, groups=groups, intervals=False)
        unseen = cross_fit({"mean": scores}, truth, method=method, groups=groups)
        # The silver-medal baseline evaluates thresholds on the fields that they were fitted to.
        believed = decision({"mean": scores}) if method == "grid" else unseen
        test = evaluator.measures(decision, evaluator.test(runs))
        decided.append(decision({"mean": evaluator.test(runs)}))
        rows.append(
            {
                "system": group.name,
                "networks": len(runs),
                "images": sum(evaluator.images(run) for run in runs),
                "seconds": sum(float(pl.read_csv(run / "log.csv")["seconds"].sum()) for run in runs),
                "held_out_fields": len(ids),
                "cv": macro_f1(believed, truth),
                "cv_interval": macro_f1_interval(believed, truth, groups=groups),
                "cv_cross_fitted": macro_f1(unseen, truth),
                "test": test,
                "gap": macro_f1(believed, truth) - test["macro_f1"],
            }
        )
    columns = ["system", "CV macro F1", "test macro F1", "CV - test", "test mAP", "test AUC", "images"]
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        test, believed = row["test"], _with_interval({"macro_f1": row["cv"], "interval": row["cv_interval"]})
        more = f"{test['average_precision']:.3f} | {test['roc_auc']:.3f}"
        more += f" | {row['images']}"
        print(f"| {row['system']} | {believed} | {_with_interval(test)} | {row['gap']:+.3f} | {more} |")
    samples = [resampled_f1(each, evaluator.truth, groups=evaluator.wells).mean(axis=1) for each in decided]
    for row, sample in zip(rows[len(starting) :], samples[len(starting) :], strict=True):
        row["ahead"] = {}
        for other, its in zip(rows[: len(starting)], samples[: len(starting)], strict=True):
            low, high = np.quantile(sample - its, [0.025, 0.975])
            more = row["test"]["macro_f1"] - other["test"]["macro_f1"]
            row["ahead"][other["system"]] = [more, float(low), float(high)]
            print(f"{row['system']} - {other['system']}: {more:+.3f} ({low:+.3f} to {high:+.3f})")
    return rows


def decisions_table(study: Path, work: Path, strong: Networks) -> dict[str, Any]:
    """Print and return test metrics of other decision methods, and of single networks."""
    evaluator, rows = Evaluator(study, work), {}
    ids, scores, truth = evaluator.held_out(strong.runs(work))
    methods: tuple[MethodName, ...] = (
        "auto",
        "grid",
        "fixed",
        "global",
        "ratio",
        "shrunk",
        "exact",
        "expected",
        "stack",
    )
    fitted = {
        method: fit_decision({"mean": scores}, truth, method=method, groups=evaluator.groups(ids), intervals=False)
        for method in methods
    }
    probabilities = evaluator.test(strong.runs(work))
    for method in methods:
        rows[f"decision: {method}"] = evaluator.measures(fitted[method], probabilities)
    single = [evaluator.measures(fitted["auto"], evaluator.test([run])) for run in strong.runs(work)]
    rows["one network alone, the mean of each"] = _mean(single)
    print("\n| the same networks | test macro F1 | test mAP |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {_with_interval(row)} | {row['average_precision']:.3f} |")
    return rows


def changes_table(study: Path, work: Path, base: Networks, changes: Mapping[str, Networks]) -> dict[str, Any]:
    """Print and return the effect of single changes of the recipe on networks of one fold, ± standard deviation."""
    evaluator, rows = Evaluator(study, work), {}
    reference = _of_seeds(evaluator, base)
    rows["as it is"] = reference
    rows["the last weights, not their moving average"] = _of_seeds(evaluator, base, "-last")
    rows["one view in place of eight"] = _of_seeds(evaluator, base, "-1view")
    rows |= {name: _of_seeds(evaluator, group) for name, group in changes.items()}
    print("\n| change | seeds | test macro F1 | difference | test mAP | difference |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        cells = []
        for key in ("macro_f1", "average_precision"):
            values, others = np.array(row[key]), np.array(reference[key])[: len(row[key])]
            apart = values - others
            spread = f" ± {apart.std(ddof=1):.3f}" if len(apart) > 1 else ""
            cells += [f"{values.mean():.3f}", "" if row is reference else f"{apart.mean():+.3f}{spread}"]
        print(f"| {name} | {len(row['macro_f1'])} | {' | '.join(cells)} |")
    return rows


def _of_seeds(evaluator: Evaluator, group: Networks, way: str = "") -> dict[str, list[float]]:
    """Return metrics of one network per seed, with expected-F1 thresholds fitted on its validation fold.

    Args:
        evaluator: Labels of the study.
        group: Networks.
        way: Suffix of the predictions, as written by ``run.py``.
    """
    found = []
    for seed in group.seeds:
        runs = group.runs(evaluator.work, seeds=(seed,))
        ids, scores, truth = evaluator.held_out(runs, f"predictions{way}")
        decision = fit_decision(
            {"mean": scores}, truth, method="expected", groups=evaluator.groups(ids), intervals=False
        )
        held_out = overall(scores >= 0.5, truth, scores)["mean_average_precision"]
        found.append(
            {**evaluator.measures(decision, evaluator.test(runs, f"test{way}")), "held_out_average_precision": held_out}
        )
    wanted = ("macro_f1", "average_precision", "roc_auc", "held_out_average_precision")
    return {key: [float(row[key]) for row in found] for key in wanted}


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("macro_f1", "average_precision", "roc_auc")}
    return {**means, "interval": [float(np.mean([row["interval"][end] for row in rows])) for end in (0, 1)]}


def _with_interval(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['macro_f1']:.3f} ({low:.3f} to {high:.3f})"
