"""Aggregating predictions of cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import ndimage

import cytoloc as cl
from cytoloc.cells.aggregation import heterogeneity, wilson
from cytoloc.errors import SettingsError, TableError
from cytoloc.predictions import CELL_COLUMNS
from cytoloc.simulate.field import photograph, true_amounts, true_cells
from cytoloc.simulate.plan import plan_one
from tests.conftest import Cli

LABELS = cl.LabelSet.from_names(["Cytosol", "Nucleoli", "Vesicles"], name="three")
VALUES = np.array([[0.9, 0.1, 0.6], [0.7, 0.2, 0.1], [0.8, 0.9, 0.2], [0.2, 0.6, 0.1]], np.float32)


def predictions() -> cl.Predictions:
    """Return the predictions of four cells: three of field a, one of field b."""
    table = {
        "field": ["a", "a", "a", "b"],
        "cell": [1, 2, 3, 1],
        "x": [1.0, 2, 3, 4],
        "y": [5.0, 6, 7, 8],
        "area": [9] * 4,
    }
    cells = pl.DataFrame(table, schema=pl.Schema(CELL_COLUMNS))
    return cl.Predictions(("a_c1", "a_c2", "a_c3", "b_c1"), VALUES, LABELS, cells=cells)


def described() -> pl.DataFrame:
    """Return the table of the four cells with their metadata."""
    metadata = {
        "id": ["b_c1", "a_c3", "a_c2", "a_c1"],
        "field": ["b", "a", "a", "a"],
        "cell": [1, 3, 2, 1],
        "x": [4.0, 3, 2, 1],
        "y": [8.0, 7, 6, 5],
        "plate": ["p"] * 4,
        "well": ["A1", "B2", "B2", "B2"],
        "antibody": ["HPA1", "HPA2", "HPA2", "HPA2"],
        "gene": ["ENSG1"] * 4,
        "labels": [[0], None, [1, 2], []],
    }
    return pl.DataFrame(metadata)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("mean", [0.8, 0.4, 0.3]), ("max", [0.9, 0.9, 0.6]), ("top", [0.85, 0.55, 0.4])],
)
def test_probabilities_of_cells_become_one(method: str, expected: list[float]) -> None:
    found = cl.aggregate_cells(predictions(), method=method, top=0.6)  # type: ignore[arg-type]
    assert found.predictions.ids == ("a", "b")
    assert found.predictions.probabilities[0] == pytest.approx(expected, abs=1e-6)
    assert found.predictions.probabilities[1] == pytest.approx(VALUES[3], abs=1e-6)
    assert found.predictions.cells is None


def test_shares_intervals_and_variation() -> None:
    found = cl.aggregate_cells(predictions())
    rows = {(row["id"], row["location"]): row for row in found.locations.iter_rows(named=True)}
    assert [rows["a", name]["share"] for name in LABELS.names] == pytest.approx([1, 1 / 3, 1 / 3])
    low, high = rows["a", "Nucleoli"]["share_low"], rows["a", "Nucleoli"]["share_high"]
    # The interval of one of three, from the tables of Wilson's method.
    assert (low, high) == pytest.approx((0.0615, 0.7923), abs=1e-3)
    assert rows["a", "Cytosol"]["spread"] == pytest.approx(np.std([0.9, 0.7, 0.8]), abs=1e-6)
    groups = {row["id"]: row for row in found.groups.iter_rows(named=True)}
    assert (groups["a"]["cells"], groups["a"]["fields"]) == (3, 1)
    assert groups["a"]["entropy"] == pytest.approx(np.log2(3))
    assert groups["a"]["variation"] == pytest.approx(2 / 3)
    assert (groups["b"]["entropy"], groups["b"]["variation"]) == (0, 0)


def test_weights_come_from_a_column_or_a_table() -> None:
    weights = pl.DataFrame({"id": ["b_c1", "a_c3", "a_c2", "a_c1"], "weight": [5.0, 0, 1, 3]})
    found = cl.aggregate_cells(predictions(), method="weighted", weights=weights).predictions
    assert found.probabilities[0] == pytest.approx([0.85, 0.125, 0.475], abs=1e-6)
    assert found.probabilities[1] == pytest.approx(VALUES[3], abs=1e-6)
    assert found.provenance["aggregated"]["weights"] == "a table"
    # x is 1, 2 and 3 for the cells of field a.
    found = cl.aggregate_cells(predictions(), method="weighted", weights="x").predictions
    assert found.probabilities[0] == pytest.approx((VALUES[:3] * [[1], [2], [3]]).sum(axis=0) / 6, abs=1e-6)
    assert found.provenance["aggregated"]["weights"] == "x"
    of_locations = pl.DataFrame(
        {"id": ["a_c1", "a_c2", "a_c3", "b_c1"], **{key: [1.0, 0, 0, 1] for key in LABELS.keys}}
    )
    of_locations = of_locations.with_columns(pl.Series(LABELS.keys[1], [0.0, 0, 2, 1]))
    found = cl.aggregate_cells(predictions(), method="weighted", weights=of_locations).predictions
    assert found.probabilities[0] == pytest.approx([0.9, 0.9, 0.6], abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "error", "match"),
    [
        (None, SettingsError, "weighted and `weights` belong together"),
        ("field", SettingsError, "not a column of numbers"),
        (pl.DataFrame({"id": ["a_c1"], "weight": [1.0]}), TableError, "no valid weight for 3 of 4 cells.* a_c2"),
        (pl.DataFrame({"id": ["a_c1"] * 2, "weight": [1.0, 2]}), TableError, "a_c1"),
        (pl.DataFrame({"id": ["a_c1"], "Cytosol": [1.0]}), TableError, "`weights` has no column"),
        (pl.DataFrame({"id": ["a_c1", "a_c2", "a_c3", "b_c1"], "weight": [1.0, 1, 1, 0]}), TableError, "weight 0"),
    ],
)
def test_bad_weights_are_refused(weights: str | pl.DataFrame | None, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        cl.aggregate_cells(predictions(), method="weighted", weights=weights)


def test_shares_and_entropy_follow_the_cells_that_hold_the_protein() -> None:
    names, values, fields, truths = [], [], [], []
    # Fields with many, some, few and no cells without the protein.
    for number in (98, 127, 66, 26, 44, 5):
        plan = plan_one(number % 28, seed=100 + number, size=192)
        labels, amounts = true_cells(plan)[0], true_amounts(plan)
        places = np.unique(labels[labels > 0])
        bright = np.asarray(ndimage.mean(np.asarray(photograph(plan))[1], labels, places))
        has = amounts[places] >= 0.12
        truths.append((has.mean(), heterogeneity(has[:, None])["entropy"]))
        names += [f"{number}_c{place}" for place in places]
        fields += [str(number)] * len(places)
        # Half of the brightness of the median cell is a probability of one half.
        values += (bright / (bright + 0.35 * np.median(bright))).tolist()
    label_set = cl.LabelSet.from_names(["Protein", "Nothing"], name="protein")
    probabilities = np.array([values, [0.0] * len(values)], np.float32).T
    table = {"field": fields, "cell": range(len(names)), "x": [0.0] * len(names), "y": [0.0] * len(names)}
    cells = pl.DataFrame({**table, "area": [1] * len(names)}, schema=pl.Schema(CELL_COLUMNS))
    found = cl.aggregate_cells(cl.Predictions(tuple(names), probabilities, label_set, cells=cells))
    shares, entropies = np.transpose(truths)
    assert (shares < 1).sum() == 5
    assert np.corrcoef(found.locations["share"].to_numpy()[::2], shares)[0, 1] > 0.9
    assert np.corrcoef(found.groups["entropy"].to_numpy(), entropies)[0, 1] > 0.9


def test_genes_and_wells_need_the_table() -> None:
    genes = cl.aggregate_cells(predictions(), by="gene", cells=described())
    assert genes.predictions.ids == ("ENSG1",)
    assert genes.groups.row(0, named=True)["antibodies"] == 2
    assert genes.predictions.probabilities[0] == pytest.approx(VALUES.mean(axis=0), abs=1e-6)
    wells = cl.aggregate_cells(predictions(), by="well", cells=described())
    assert set(wells.predictions.ids) == {"p_A1", "p_B2"}
    with pytest.raises(SettingsError, match="Aggregation by gene needs `cells`"):
        cl.aggregate_cells(predictions(), by="gene")
    with pytest.raises(TableError, match="The gene of all cells is unknown"):
        cl.aggregate_cells(predictions(), by="gene", cells=described().with_columns(gene=pl.lit(None, pl.String)))
    with pytest.raises(TableError, match="1 of 4 predicted cells are not in `cells`"):
        cl.aggregate_cells(predictions(), by="gene", cells=described()[1:])


def test_decided_locations_count_instead_of_the_threshold() -> None:
    decided = VALUES > 0.15
    given = cl.Predictions(predictions().ids, VALUES, LABELS, decided=decided, cells=predictions().cells)
    shares = cl.aggregate_cells(given).locations.filter(pl.col("id") == "a")["share"].to_list()
    assert shares == pytest.approx([1, 2 / 3, 2 / 3])


def test_few_cells_are_left_out() -> None:
    found = cl.aggregate_cells(predictions(), min_cells=2)
    assert found.predictions.ids == ("a",)
    assert found.left_out == {"b": 1}
    with pytest.raises(TableError, match="None of 2 groups has 9 cells"):
        cl.aggregate_cells(predictions(), min_cells=9)


def test_wilson_and_entropy_of_extremes() -> None:
    low, high = wilson(np.array([0, 50]), 50)
    assert (low[0], high[1]) == pytest.approx((0, 1))
    assert high[0] == pytest.approx(1 - low[1])
    assert heterogeneity(np.zeros((5, 2), bool)) == {"entropy": 0, "variation": 0}


def test_files_keep_the_cells(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    cl.write_predictions(predictions(), path)
    again = cl.read_predictions(path)
    assert again.cells is not None
    assert again.cells.rows() == predictions().to_polars().select(*CELL_COLUMNS).rows()
    assert "4 cells" in repr(again)
    assert again.to_polars().columns[:6] == ["id", "field", "cell", "x", "y", "area"]
    some = again[[2, 0]]
    assert some.cells is not None
    assert some.cells["cell"].to_list() == [3, 1]
    plain = pl.read_parquet(path)
    assert set(CELL_COLUMNS) < set(plain.columns)
    cl.write_predictions(again[:2], tmp_path / "one.parquet")
    cl.write_predictions(again[2:], tmp_path / "two.parquet")
    joined = cl.read_predictions([tmp_path / "one.parquet", tmp_path / "two.parquet"])
    assert joined.cells is not None
    assert joined.cells["x"].to_list() == [1, 2, 3, 4]


def test_tables_of_other_cells_are_refused() -> None:
    with pytest.raises(TableError, match="`cells` must have 4 rows"):
        cl.Predictions(predictions().ids, VALUES, LABELS, cells=predictions().cells[:2])  # type: ignore[index]


def test_anndata_has_a_row_per_cell() -> None:
    pytest.importorskip("anndata")
    made = cl.cell_anndata(predictions(), cells=described())
    assert made.shape == (4, 3)
    assert made.obs["gene"].tolist() == ["ENSG1"] * 4
    assert made.obs["labels"].tolist() == ["", "1 2", "", "0"]
    assert made.obsm["spatial"].tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]
    assert made.var_names.tolist() == list(LABELS.names)
    assert cl.cell_anndata(predictions()).obs["field"].tolist() == ["a", "a", "a", "b"]


def test_decisions_keep_the_cells() -> None:
    many = cl.Predictions(
        tuple(f"c{k}" for k in range(40)),
        np.random.default_rng(0).random((40, 3)).astype(np.float32),
        LABELS,
        cells=pl.DataFrame(
            {"field": ["a"] * 40, "cell": range(40), "x": [0.0] * 40, "y": [0.0] * 40, "area": [1] * 40},
            schema=pl.Schema(CELL_COLUMNS),
        ),
    )
    truth = {
        name: tuple(np.flatnonzero(row).tolist()) for name, row in zip(many.ids, many.probabilities > 0.6, strict=True)
    }
    rule = cl.fit_decision(many, cl.LabelList(truth, LABELS, "truth"), method="grid")
    decided = rule(many)
    assert decided.cells is not None
    assert many.cells is not None
    assert decided.cells.equals(many.cells)


def test_the_command_writes_all_tables(tmp_path: Path, cli: Cli) -> None:
    cl.write_predictions(predictions(), tmp_path / "cells.parquet")
    names = ("--table", tmp_path / "t.csv", "--groups", tmp_path / "g.csv", "--h5ad", tmp_path / "c.h5ad")
    done = cli("aggregate", tmp_path / "cells.parquet", "--out", tmp_path / "f.parquet", *names, "--min-cells", 2)
    assert done.code == 0, done.err
    assert "4 cells aggregated to 1 field by mean." in done.out
    assert "1 field with fewer than 2 cells left out." in done.err
    assert pl.read_csv(tmp_path / "t.csv").height == 3
    assert pl.read_csv(tmp_path / "g.csv")["cells"].to_list() == [3]
    assert json.dumps(cl.read_predictions(tmp_path / "f.parquet").provenance["aggregated"])
    weighted = ("--method", "weighted", "--weights", "area", "--out", tmp_path / "w.parquet")
    done = cli("aggregate", tmp_path / "cells.parquet", *weighted)
    assert done.code == 0, done.err
    pl.DataFrame({"id": predictions().ids, "weight": [1, 0, 0, 1]}).write_csv(tmp_path / "weights.csv")
    done = cli(
        "aggregate",
        tmp_path / "cells.parquet",
        *weighted[:3],
        tmp_path / "weights.csv",
        "--out",
        tmp_path / "v.parquet",
    )
    assert done.code == 0, done.err
    assert cl.read_predictions(tmp_path / "v.parquet").probabilities[0] == pytest.approx(VALUES[0], abs=1e-3)
    wrong = cli(
        "aggregate",
        tmp_path / "cells.parquet",
        "--attention",
        "builtin",
        *weighted[:2],
        "--out",
        tmp_path / "x.parquet",
    )
    assert (wrong.code, "--attention needs --cells" in wrong.err) == (2, True)
    assert cl.read_predictions(tmp_path / "v.parquet").provenance["aggregated"]["weights"].endswith("weights.csv")
    for words, message in (
        (("--attention", "nothing.cytoloc", "--cells", tmp_path), "--weights and --attention need --method weighted"),
        (("--method", "weighted"), "--method weighted needs --weights or --attention"),
    ):
        wrong = cli("aggregate", tmp_path / "cells.parquet", "--out", tmp_path / "x.parquet", *words)
        assert (wrong.code, message in wrong.err) == (2, True)
    wrong = cli("aggregate", tmp_path / "cells.parquet", "--out", tmp_path / "x.parquet", "--by", "gene")
    assert wrong.code == 2
    assert "Aggregation by gene needs --cells." in wrong.err
