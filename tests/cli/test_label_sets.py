"""Every command on tables of a label set that does not come with cytoloc, of six locations and of three."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc import read_predictions
from cytoloc.decide import read_decision
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels, write_locations
from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from tests.conftest import Cli
from tests.decide.cases import study_of

NAMES = ["Nuclear rim", "Cytoplasm", "Spots", "Membrane", "Golgi apparatus", "Nothing"]


@pytest.fixture(params=[6, 3])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> LabelSet:
    """Write ``own.csv``, two members' predictions, labels by name, and groups of 90 fields; return the label set."""
    count: int = request.param
    label_set = LabelSet.from_names(NAMES[:count], name="own")
    (tmp_path / "own.csv").write_text("name\n" + "\n".join(label_set.names) + "\n")
    members, truth = study_of(0, 90)
    truth = truth[:, :count]
    truth[~truth.any(axis=1), 0] = True
    ids = tuple(f"1_{number // 3}_A{number % 7}_{number}" for number in range(90))
    for name in ("m0", "m1"):
        write_predictions(
            Predictions(ids, members[name][:, :count].astype(np.float32), label_set), tmp_path / f"{name}.parquet"
        )
    cells = ["; ".join(label_set.names[i] for i in row.nonzero()[0]) for row in truth]
    pl.DataFrame({"id": ids, "Locations": cells}).write_csv(tmp_path / "labels.csv")
    write_locations(ids, truth, tmp_path / "right.csv", label_set)
    return label_set


def test_scores_become_decisions_and_metrics(cli: Cli, tmp_path: Path, own: LabelSet) -> None:
    labels, count = tmp_path / "labels.csv", len(own)
    call = [
        "decide",
        "fit",
        tmp_path / "m0.parquet",
        tmp_path / "m1.parquet",
        "--members",
        "--labels",
        labels,
    ]
    said = cli(*call, "--method", "expected", "--out", tmp_path / "d.json", "--held-out", tmp_path / "h.csv")
    assert said.code == 0, said.err
    assert f"macro F1 over {count} locations" in said.out
    decision = read_decision(tmp_path / "d.json")
    assert (decision.label_set, decision.rules.max_locations) == (own, min(5, count))
    members = [tmp_path / "m0.parquet", tmp_path / "m1.parquet", "--members"]
    said = cli(
        "decide", "apply", *members, "--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv",
        "--probabilities", tmp_path / "p.parquet", "--leak", labels,
    )  # fmt: skip
    assert said.code == 0, said.err
    assert read_predictions(tmp_path / "p.parquet").label_set == own
    assert read_labels(tmp_path / "s.csv", own, column="Predicted") == read_labels(labels, own)
    call = ["evaluate", tmp_path / "h.csv", "--labels", labels, "--predictions", tmp_path / "m0.parquet"]
    said = cli(*call, "--table", tmp_path / "t.csv", "--plot", tmp_path / "t.png")
    assert said.code == 0, said.err
    assert f"macro F1 over {count} locations" in said.out
    assert "Nuclear rim" in said.out
    table = pl.read_csv(tmp_path / "t.csv").rows(named=True)
    assert [(row["key"], row["location"]) for row in table] == [each[:2] for each in own]
    call = ["evaluate", tmp_path / "right.csv", "--labels", labels, "--label-set", tmp_path / "own.csv"]
    facts = json.loads(cli(*call, "--json").out)
    assert (facts["macro_f1"], facts["locations"], facts["label_set"]) == (1.0, count, "own")


def test_members_become_an_ensemble(cli: Cli, tmp_path: Path, own: LabelSet) -> None:
    call = ["ensemble", tmp_path / "m0.parquet", tmp_path / "m1.parquet", "--labels", tmp_path / "labels.csv"]
    said = cli(*call, "--method", "stack", "--out", tmp_path / "e.parquet")
    assert said.code == 0, said.err
    assert read_predictions(tmp_path / "e.parquet").label_set == own


def test_lists_are_split_audited_and_leaked(cli: Cli, tmp_path: Path, own: LabelSet) -> None:
    labels, label_set = tmp_path / "labels.csv", ["--label-set", tmp_path / "own.csv"]
    call = ["folds", labels, "-k", 3, *label_set]
    said = cli(*call, "--out", tmp_path / "folds.csv", "--sheet", tmp_path / "f.png")
    assert said.code == 0, said.err
    facts = json.loads(cli("folds", labels, "--check", tmp_path / "folds.csv", *label_set, "--json").out)
    assert [(row["key"], row["location"]) for row in facts["classes"]] == [each[:2] for each in own]
    said = cli("audit", labels, "--truth", tmp_path / "labels.csv", *label_set)
    assert said.code == 0, said.err
    assert "90 pairs compared: the locations are equal in 90" in said.out
    assert "Nuclear rim" in said.out
    (tmp_path / "pairs.csv").write_text("a,b,d_actin\n1_0_A0_0,t,3\n")
    said = cli("leak", tmp_path / "pairs.csv", "--labels", labels, *label_set, "--out", tmp_path / "leak.csv")
    assert said.code == 0, said.err
    (row,) = pl.read_csv(tmp_path / "leak.csv").rows(named=True)
    assert own.parse(row["Target"], where="") == read_labels(labels, own)["1_0_A0_0"]
    assert row["d_actin"] == 3


def test_other_label_sets_are_refused(cli: Cli, tmp_path: Path, own: LabelSet) -> None:
    fit = ["--labels", tmp_path / "labels.csv", "--out", tmp_path / "d.json"]
    assert cli("decide", "fit", tmp_path / "m0.parquet", *fit, "--method", "grid").code == 0
    other = LabelSet.hpa19()
    ids = read_predictions(tmp_path / "m0.parquet").ids
    write_predictions(Predictions(ids, np.full((len(ids), 19), 0.4, np.float32), other), tmp_path / "x.parquet")
    apply = ["--decision", tmp_path / "d.json", "--out", tmp_path / "s.csv"]
    both = [tmp_path / "m0.parquet", tmp_path / "x.parquet"]
    score = ["evaluate", tmp_path / "right.csv", "--labels", tmp_path / "labels.csv", "--predictions"]
    for call in (
        ["decide", "apply", both[1], *apply],
        ["decide", "apply", *both, *apply],
        ["decide", "fit", *both, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "e.json"],
        ["ensemble", *both, "--out", tmp_path / "e.parquet"],
        [*score, both[0], "--predictions", both[1]],
        [*score, both[0], "--label-set", "hpa19"],
    ):
        refused = cli(*call)
        assert refused.code == 1, call
        assert "The label sets differ" in refused.err
        assert "cytoloc labels convert" in refused.err
    more = ["--max-locations", len(own) + 1]
    refused = cli("decide", "fit", tmp_path / "m0.parquet", *fit[:3], tmp_path / "y.json", *more)
    assert (refused.code, f"--max-locations is {len(own) + 1}, but there are {len(own)} locations" in refused.err) == (
        2,
        True,
    )
    (tmp_path / "typo.csv").write_text((tmp_path / "labels.csv").read_text().replace("Nuclear rim", "Nuclear rims"))
    call = ["decide", "fit", both[0], "--labels", tmp_path / "typo.csv", "--out", tmp_path / "z.json"]
    refused = cli(*call)
    assert refused.code == 1
    assert "Nuclear rim" in refused.err.partition("Did you mean")[2]


def test_files_without_a_label_set_need_one(cli: Cli, tmp_path: Path, own: LabelSet) -> None:
    predictions = read_predictions(tmp_path / "m0.parquet")
    np.save(tmp_path / "m.npy", predictions.probabilities)
    (tmp_path / "ids.txt").write_text("\n".join(predictions.ids))
    call = [
        "decide",
        "fit",
        tmp_path / "m.npy",
        "--method",
        "grid",
        "--ids",
        tmp_path / "ids.txt",
        "--labels",
        tmp_path / "labels.csv",
    ]
    refused = cli(*call, "--out", tmp_path / "d.json")
    assert (refused.code, "--label-set" in refused.err) == (1, True)
    assert cli(*call, "--out", tmp_path / "d.json", "--label-set", tmp_path / "own.csv").code == 0
    assert read_decision(tmp_path / "d.json").label_set == own
