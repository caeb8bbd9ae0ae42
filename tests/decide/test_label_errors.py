"""Labels that are probably wrong: planted errors are found, by group too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc.errors import ArgumentTypeError
from tests.conftest import Cli

THREE = cl.LabelSet.from_names(["Cytosol", "Nucleoli", "Golgi"], name="three")


Labels = dict[str, tuple[int, ...]]
Planted = dict[str, tuple[int, str]]
"""The location and the problem of each planted error, by id."""


def study(seed: int = 0, count: int = 200) -> tuple[cl.Predictions, Labels, Planted]:
    """Return predictions that know the truth, labels with planted errors, and these errors."""
    rng = np.random.default_rng(seed)
    truth = rng.random((count, 3)) < 0.4
    probabilities = np.clip(np.where(truth, 0.8, 0.2) + rng.normal(0, 0.08, truth.shape), 0.01, 0.99)
    labels = truth.copy()
    planted = {}
    for row in rng.choice(count, 20, replace=False):
        column = int(rng.integers(3))
        labels[row, column] = not labels[row, column]
        planted[f"f{row}"] = (column, "extra" if labels[row, column] else "missing")
    ids = tuple(f"f{row}" for row in range(count))
    listed = {name: tuple(np.flatnonzero(row).tolist()) for name, row in zip(ids, labels, strict=True)}
    return cl.Predictions(ids, probabilities.astype(np.float32), THREE), listed, planted


def test_planted_errors_are_found_and_come_first() -> None:
    predictions, labels, planted = study()
    suspects = cl.find_label_errors(predictions, labels)
    found = {row["id"]: (THREE.keys.index(row["key"]), row["problem"]) for row in suspects.iter_rows(named=True)}
    # An error is found if its probability is beyond the mean of the fields that are labeled rightly: about half are.
    assert found.items() <= planted.items()
    assert len(found) >= 10
    assert suspects["score"].to_list() == sorted(suspects["score"], reverse=True)


def test_suspects_are_beyond_the_means_of_labeled_and_unlabeled_fields() -> None:
    predictions, labels, _ = study(3)
    truth = THREE.to_matrix([labels[name] for name in predictions.ids])
    suspects = cl.find_label_errors(predictions, labels)
    for column, key in enumerate(THREE.keys):
        # Calibration keeps the order of the fields.
        values = predictions.probabilities[:, column]
        of_column = suspects.filter(key=key)
        for problem, have in (("missing", False), ("extra", True)):
            found = of_column.filter(problem=problem)
            rows = [predictions.ids.index(name) for name in found["id"]]
            assert (truth[rows, column] == have).all()
            rest = [row for row in np.flatnonzero(truth[:, column] == have) if row not in rows]
            if have:
                assert values[rows].max() < values[rest].min()
            else:
                assert values[rows].min() > values[rest].max()
            assert found["limit"].n_unique() == 1


def test_the_fields_of_a_group_are_judged_by_their_mean() -> None:
    predictions, labels, planted = study(1)
    name, (column, _) = next(iter(planted.items()))
    others = [
        other for other in labels if other not in planted and (column in labels[other]) == (column in labels[name])
    ]
    groups = {each: number for number, each in enumerate(labels)} | dict.fromkeys([name, *others[:9]], -1)
    table = pl.DataFrame({"id": list(groups), "group": list(groups.values())})
    suspects = cl.find_label_errors(predictions, labels, groups=table)
    assert suspects.filter(id=name, key=THREE.keys[column]).is_empty()
    assert not cl.find_label_errors(predictions, labels).filter(id=name, key=THREE.keys[column]).is_empty()


def test_rare_locations_and_useless_predictions_have_no_suspects() -> None:
    predictions, _, _ = study()
    rare = {name: (0,) if row < 2 else (1,) for row, name in enumerate(predictions.ids)}
    assert "Golgi" not in set(cl.find_label_errors(predictions, rare)["location"])
    flat = cl.Predictions(predictions.ids, np.full_like(predictions.probabilities, 0.5), THREE)
    assert cl.find_label_errors(flat, study()[1]).is_empty()
    with pytest.raises(ArgumentTypeError, match="`predictions` must be Predictions"):
        cl.find_label_errors(np.full((4, 3), 0.5), np.eye(4, 3, dtype=bool))  # type: ignore[arg-type]


def test_the_command_lists_and_writes_suspects(cli: Cli, tmp_path: Path) -> None:
    predictions, labels, _ = study()
    cl.write_predictions(predictions, tmp_path / "oof.parquet")
    labels = {name: found or (0,) for name, found in labels.items()}
    rows = [f"{name},{THREE.format(found)}" for name, found in labels.items()]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    call = ["audit", tmp_path / "labels.csv", "--predictions", tmp_path / "oof.parquet"]
    done = cli(*call, "--write", tmp_path / "suspects.csv")
    assert "are probably wrong" in done.out, done.err
    written = pl.read_csv(tmp_path / "suspects.csv")
    assert written.columns == ["id", "key", "location", "problem", "probability", "limit", "score"]
    assert written.height == cl.find_label_errors(predictions, labels).height
    assert '"problem": "missing"' in cli(*call, "--json").out
    assert cli("audit", tmp_path / "labels.csv").code == 2
    assert cli(*call, "--truth", tmp_path / "labels.csv").code == 2
