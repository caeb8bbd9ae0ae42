"""Votes of the nearest labeled fields."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc.embed.embeddings import join_embeddings
from cytoloc.errors import SettingsError, TableError
from tests.conftest import Cli

TWO = cl.LabelSet.from_names(["Cytosol", "Nucleoli"], name="two")


def features_of(values: np.ndarray, *, first: int = 0, model: str = "m") -> cl.Embeddings:
    return cl.Embeddings(tuple(f"f{first + row}" for row in range(len(values))), values.astype(np.float32), model)


def labels_of(truth: np.ndarray) -> cl.LabelList:
    return cl.LabelList({f"f{row}": tuple(np.flatnonzero(has).tolist()) for row, has in enumerate(truth)}, TWO, "truth")


def case(n: int = 40) -> tuple[cl.Embeddings, cl.LabelList, pl.DataFrame, np.ndarray]:
    """Return features near one of two directions, their labels, and groups of two fields."""
    rng = np.random.default_rng(0)
    truth = np.eye(2, dtype=bool)[rng.integers(0, 2, n)]
    values = truth @ np.eye(2, 6) + 0.3 * rng.standard_normal((n, 6))
    groups = pl.DataFrame({"id": [f"f{row}" for row in range(n)], "group": [row // 2 for row in range(n)]})
    return features_of(values), labels_of(truth), groups, truth


def test_votes_are_weighted_by_cosine_similarity() -> None:
    reference = features_of(np.array([[1, 0], [0.6, 0.8], [0, 1.0]]))
    labels = labels_of(np.array([[True, False], [True, True], [False, True]]))
    found = cl.neighbor_votes(features_of(np.array([[2.0, 0]]), first=9), labels, reference=reference, k=2)
    # The votes weigh 1 and 0.6, and the frequency, 2/3, weighs 1.
    assert found.probabilities[0] == pytest.approx([(1.6 + 2 / 3) / 2.6, (0.6 + 2 / 3) / 2.6])
    assert found.ids == ("f9",)


def test_a_field_and_its_group_never_vote_on_it() -> None:
    features, labels, groups, truth = case()
    votes = cl.neighbor_votes(features, labels, groups=groups, k=5)
    for row in (0, 1, 17):
        others = [other for other in range(40) if other // 2 != row // 2]
        alone = cl.Embeddings(("new",), features.features[[row]], "m")
        reference = cl.Embeddings(tuple(f"f{other}" for other in others), features.features[others], "m")
        expected = cl.neighbor_votes(alone, labels, reference=reference, k=5).probabilities[0]
        # The frequencies of all fields and of the others differ slightly.
        assert votes.probabilities[row] == pytest.approx(expected, abs=0.02)
    assert ((votes.probabilities > 0.5) == truth).mean() > 0.9
    # A wrong label of a field changes votes on others, but none in its group, except for the frequencies.
    other = {**labels.labels, "f0": (1 - labels.labels["f0"][0],)}
    again = cl.neighbor_votes(features, cl.LabelList(other, TWO, "truth"), groups=groups, k=5)
    changed = np.abs(again.probabilities - votes.probabilities).max(axis=1)
    assert changed[:2].max() < 0.02
    assert changed[2:].max() > 0.1


def test_votes_of_random_features_know_nothing() -> None:
    rng = np.random.default_rng(1)
    truth = np.eye(2, dtype=bool)[rng.integers(0, 2, 400)]
    groups = pl.DataFrame({"id": [f"f{row}" for row in range(400)], "group": range(400)})
    votes = cl.neighbor_votes(features_of(rng.standard_normal((400, 8))), labels_of(truth), groups=groups)
    assert abs(((votes.probabilities > 0.5) == truth).mean() - 0.5) < 0.1


def test_bad_input_is_refused() -> None:
    features, labels, groups, _ = case()
    new = features_of(np.ones((3, 6)), first=90)
    with pytest.raises(SettingsError, match="either `groups` or `reference`"):
        cl.neighbor_votes(features, labels)
    with pytest.raises(SettingsError, match="another model"):
        cl.neighbor_votes(replace(new, model="other"), labels, reference=features)
    with pytest.raises(TableError, match="width 5, but those of the labeled fields 6"):
        cl.neighbor_votes(features_of(np.ones((3, 5)), first=90), labels, reference=features)
    with pytest.raises(SettingsError, match="`k` is 41, but must be from 1 to 40"):
        cl.neighbor_votes(features, labels, groups=groups, k=41)
    with pytest.raises(TableError, match="has 38 labeled fields in other groups, but `k` is 39"):
        cl.neighbor_votes(features, labels, groups=groups, k=39)
    with pytest.raises(TableError, match="group"):
        cl.neighbor_votes(features, labels, groups=groups.rename({"group": "fold"}))
    with pytest.raises(TableError, match="no group for 39"):
        cl.neighbor_votes(features, labels, groups=groups[:1])
    with pytest.raises(TableError, match="None of the fields with features is labeled"):
        cl.neighbor_votes(new, labels, groups=groups)
    with pytest.raises(TableError, match="trained on 7 of these fields"):
        cl.neighbor_votes(replace(features, provenance={"fields_trained_on": 7}), labels, groups=groups)
    with pytest.raises(TableError, match="6 features, others 5"):
        join_embeddings([features, features_of(np.ones((3, 5)), first=90)])
    with pytest.raises(SettingsError, match="different models"):
        join_embeddings([features, replace(new, model="other")])


def test_the_commands_fit_and_apply_votes(tmp_path: Path, cli: Cli) -> None:
    features, labels, groups, truth = case(60)
    rng = np.random.default_rng(2)
    some = cl.Embeddings(features.ids[:57], features.features[:57], "m")
    cl.write_embeddings(some, tmp_path / "features.parquet")
    cl.write_predictions(
        cl.Predictions(features.ids, rng.random((60, 2)).astype(np.float32), TWO), tmp_path / "p.parquet"
    )
    groups.rename({"id": "Id"}).write_csv(tmp_path / "folds.csv")
    names = [" ".join(TWO.names[i] for i in labels.labels[name]) for name in features.ids]
    pl.DataFrame({"Id": features.ids, "Target": names}).write_csv(tmp_path / "labels.csv")
    fit = ("decide", "fit", tmp_path / "p.parquet", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "d.json")
    wrong = cli(*fit, "-k", 5)
    assert (wrong.code, "The option -k needs --neighbors" in wrong.err) == (2, True)
    wrong = cli(*fit, "--neighbors", tmp_path / "features.parquet")
    assert (wrong.code, "--neighbors needs --folds" in wrong.err) == (2, True)
    done = cli(
        *fit,
        "--neighbors",
        tmp_path / "features.parquet",
        "--folds",
        tmp_path / "folds.csv",
        "--method",
        "stack",
        "-k",
        5,
    )
    assert done.code == 0, done.err
    assert "3 fields without features: decided without votes." in done.err
    rule = cl.read_decision(tmp_path / "d.json")
    assert rule.members == ("mean", "neighbors")
    # The predictions are random, so only the votes can be right.
    assert rule.fitted_on["macro_f1_cross_fitted"] > 0.85
    new = features_of(truth[:20] @ np.eye(2, 6) + 0.3 * rng.standard_normal((20, 6)), first=100)
    cl.write_embeddings(new, tmp_path / "new.parquet")
    cl.write_predictions(cl.Predictions(new.ids, rng.random((20, 2)).astype(np.float32), TWO), tmp_path / "q.parquet")
    apply = ("decide", "apply", tmp_path / "q.parquet", "--decision", tmp_path / "d.json", "--out")
    wrong = cli(*apply, tmp_path / "w.csv")
    assert (wrong.code, "needs the votes of neighbors" in wrong.err) == (2, True)
    done = cli(*apply, tmp_path / "l.csv", "--neighbors", tmp_path / "new.parquet")
    assert done.code == 0, done.err
    found = pl.read_csv(tmp_path / "l.csv")["Predicted"].to_list()
    right = [TWO.keys[int(np.flatnonzero(row)[0])] in name.split() for row, name in zip(truth[:20], found, strict=True)]
    assert np.mean(right) > 0.85
    assert "without features" not in done.err
    cl.write_embeddings(cl.Embeddings(new.ids[:5], new.features[:5], "m"), tmp_path / "few.parquet")
    done = cli(*apply, tmp_path / "few.csv", "--neighbors", tmp_path / "few.parquet")
    assert (done.code, "15 fields without features: decided without votes." in done.err) == (0, True)
    assert cli(*apply, tmp_path / "m.csv", "--without", "neighbors").code == 0
    wrong = cli(*apply, tmp_path / "w.csv", "--neighbors", tmp_path / "features.parquet")
    assert (wrong.code, "None of the 20 fields has features" in wrong.err) == (1, True)
    (tmp_path / "d.neighbors.parquet").write_bytes(b"PAR1")
    wrong = cli(*apply, tmp_path / "w.csv", "--neighbors", tmp_path / "new.parquet")
    assert (wrong.code, "cannot be read as Parquet" in wrong.err) == (1, True)
    (tmp_path / "d.neighbors.parquet").unlink()
    wrong = cli(*apply, tmp_path / "w.csv", "--neighbors", tmp_path / "new.parquet")
    assert (wrong.code, "does not exist.\n  Keep it beside the decision." in wrong.err) == (1, True)
    assert not (tmp_path / "w.csv").exists()
