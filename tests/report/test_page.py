from __future__ import annotations

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc as cl
from cytoloc.errors import ArgumentTypeError, LabelSetError, OutputExistsError, SettingsError, TableError
from cytoloc.report.charts import Curve, curve_chart, plate_chart, thinned
from cytoloc.report.field_cards import expected_errors, log_losses
from tests.conftest import Cli
from tests.report.test_study import make_run

THREE = cl.LabelSet.from_names(["Nuclear rim", "Cytosol <b>", "Spots"], name="three")
RNG = np.random.default_rng(0)
TRUTH = RNG.random((120, 3)) < 0.4
TRUTH[~TRUTH.any(axis=1), 0] = True
VALUES = np.clip(0.5 + 0.3 * (2 * TRUTH - 1) + RNG.normal(0, 0.12, TRUTH.shape), 0.01, 0.99).astype(np.float32)
IDS = tuple(f"f{number}" for number in range(120))
FOUND = cl.Predictions(IDS, VALUES, THREE, {"model": "made <i>up</i>"})


@pytest.fixture
def labels(tmp_path: Path) -> cl.LabelList:
    rows = [f"{name},{' '.join(THREE.keys_of(np.flatnonzero(row)))}" for name, row in zip(IDS, TRUTH, strict=True)]
    path = tmp_path / "labels.csv"
    path.write_text("Id,Target\n" + "\n".join(rows) + "\n")
    return cl.read_label_list(path, THREE)


def write(given: object, out: Path, **options: object) -> str:
    """Return the page of a report."""
    return cl.write_report(given, out, options=cl.ReportOptions(**options)).read_text()  # type: ignore[arg-type]


def has_no_other_addresses(page: str) -> bool:
    """Return whether a page loads nothing from elsewhere."""
    return not re.search(
        r"https?://|//[a-z]|@import|url\(", page.split("<main>")[0] + re.sub(r'src="data:[^"]*"', "", page)
    )


def test_a_page_has_the_metrics_of_labeled_predictions(labels: cl.LabelList, tmp_path: Path) -> None:
    page = write(FOUND, tmp_path / "r.html", labels=labels, title="My <study>")
    decided = cl.cross_fit(FOUND, labels, method="grid")
    evaluation = cl.evaluate(decided, labels)
    for value in (evaluation.macro_f1, evaluation.chance, evaluation.interval[0], evaluation.overall["micro_f1"]):
        assert f"{value:.3f}" in page
    for title in ("Summary", "Locations", "Curves", "Confusion and co-occurrence", "Fields to look at", "Settings"):
        assert title in page
    assert "cross-fitted" in page
    assert "What was found" not in page
    assert "Cytosol <b>" not in page
    assert "Cytosol &lt;b&gt;" in page
    assert "My &lt;study&gt;" in page
    assert "made &lt;i&gt;up&lt;/i&gt;" in page
    assert has_no_other_addresses(page)
    limits = cl.fit_decision(FOUND, labels, method="grid")
    assert limits.intervals is not None
    assert f"{limits.intervals[1, 0]:.3f}\u00a0to\u00a0{limits.intervals[1, 1]:.3f}" in page


def test_fields_without_labels_are_counted(labels: cl.LabelList, tmp_path: Path) -> None:
    more = cl.Predictions((*IDS, "x", "y"), np.concatenate([VALUES, VALUES[:2]]), THREE)
    page = write(more, tmp_path / "r.html", labels=labels)
    assert "2 predicted fields have no label" in page


def test_a_planted_wrong_label_is_suspicious(labels: cl.LabelList, tmp_path: Path) -> None:
    truth = TRUTH.copy()
    row = int(np.argmax(np.where(TRUTH[:, 2], VALUES[:, 2], 0)))
    truth[row, 2] = False
    listed = {name: np.flatnonzero(each).tolist() for name, each in zip(IDS, truth, strict=True)}
    rows = [f"{name},{' '.join(THREE.keys_of(places))}" for name, places in listed.items() if places]
    (tmp_path / "wrong.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    page = write(FOUND, tmp_path / "r.html", labels=cl.read_label_list(tmp_path / "wrong.csv", THREE))
    assert "not labeled, but probable" in page
    assert log_losses(VALUES, truth).argmax() == row
    np.testing.assert_allclose(expected_errors(np.array([[0.5, 0.9]], np.float32)), [0.6], atol=1e-6)


def test_the_decision_of_the_model_is_kept(tmp_path: Path) -> None:
    decided = cl.Predictions(IDS, VALUES, THREE, decided=VALUES > 0.9)
    count = int((VALUES[:, 0] > 0.9).sum())
    assert f"{count}  ({100 * count / 120:.1f} %)" in write(decided, tmp_path / "a.html")
    keys = THREE.keys
    limits = cl.Predictions(IDS, VALUES, THREE, {"thresholds": dict.fromkeys(keys, 0.9)}, cautions=("odd",) * 120)
    page = write(limits, tmp_path / "b.html")
    assert "above the thresholds of the model" in page
    assert "0  (0.0 %)" in page
    assert "120 of 120 fields are unusual" in page
    assert "without a decision" in write(FOUND, tmp_path / "c.html")


def test_wells_and_plates_without_labels(study: cl.Dataset, tmp_path: Path) -> None:
    values = RNG.random((40, 28)).astype(np.float32)
    found = cl.Predictions(study.ids, values, study.label_set, rejected={"bad": "bad.png is damaged."})
    page = write(found, tmp_path / "r.html", dataset=study, n_fields=3)
    assert "Fields per location in each well" in page
    assert page.count('class="chart plate"') == 4 * study.fields["plate"].n_unique()
    wells = study.fields["well"].n_unique()
    assert page.count('<circle class="well"') == 4 * len(study.fields.select("plate", "well").unique())
    assert wells > 1
    assert page.count("data:image/jpeg") == 3 * 5
    assert "microtubules red, protein green" in page
    assert "bad.png is damaged." in page
    assert study.fingerprint in page
    assert has_no_other_addresses(page)


def test_a_dataset_without_wells_says_so(tmp_path: Path) -> None:
    images = RNG.integers(0, 255, (3, 2, 64, 64), dtype=np.uint8)
    made = cl.dataset_from_arrays(
        images, out=tmp_path / "made.dataset", channels=["protein", "nucleus"], ids=["a", "b", "c"], label_set=THREE
    )
    found = cl.Predictions(("a", "b", "c"), VALUES[:3], THREE)
    page = write(found, tmp_path / "r.html", dataset=made.path)
    assert "states no wells" in page
    assert "not imaged" not in page.split("<main>")[1]


def test_runs_have_training_curves_and_a_table_of_models(tmp_path: Path) -> None:
    truth = RNG.random((150, 28)) < 0.15
    truth[~truth.any(axis=1), 0] = True
    values = np.where(truth, 0.6, 0.3) + RNG.normal(0, 0.1, truth.shape)
    for fold in range(3):
        folder = make_run(tmp_path / "runs", "small", fold, np.clip(values, 0, 1))
        rows = [f"{epoch},{1 / epoch},{1.2 / epoch},{0.1 * epoch}" for epoch in (1, 2, 3)]
        (folder / "log.csv").write_text("epoch,train_loss,val_loss,val_macro_f1\n" + "\n".join(rows) + "\n")
    text = [f"f{row},{' '.join(map(str, np.flatnonzero(each)))}" for row, each in enumerate(truth)]
    (tmp_path / "labels.csv").write_text("Id,Target\n" + "\n".join(text) + "\n")
    folds = pl.DataFrame(
        {"id": [f"f{n}" for n in range(150)], "group": range(150), "fold": [n % 3 for n in range(150)]}
    )
    cl.write_folds(folds, tmp_path / "folds.csv")
    page = write(
        str(tmp_path / "runs"), tmp_path / "r.html", labels=tmp_path / "labels.csv", folds=tmp_path / "folds.csv"
    )
    assert "Models" in page
    assert "resamples of the 150 groups" in page
    assert page.count("small-fold") >= 6
    assert "cytoloc train" in page
    with pytest.raises(TableError, match=r"cannot be opened"):
        write(str(tmp_path / "runs"), tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_maps_and_neighbors_of_the_shown_fields(tmp_path: Path) -> None:
    made = cl.simulate_dataset(tmp_path / "made.dataset", cl.Design(n_fields=8, seed=4, size=128))
    model = cl.load("builtin", device="cpu", engine="torch")
    model.info = replace(model.info, tta=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.predict(made, tta=1)
    page = write(found, tmp_path / "r.html", dataset=made, labels=made, model=model, reference=made, n_fields=1)
    assert "map of " in page
    assert "near: " in page
    assert "trained on simulated cells only" in page
    assert model.fingerprint in page


def test_bad_inputs(labels: cl.LabelList, study: cl.Dataset, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    others = cl.Predictions(("p", "q"), VALUES[:2], THREE)
    with pytest.raises(TableError, match="None of the 2 predicted fields, such as p, has a label in "):
        write(others, out, labels=labels)
    with pytest.raises(TableError, match="has none of the 2 predicted fields, such as p"):
        write(others, out, dataset=study)
    with pytest.raises(LabelSetError):
        write(others, out, labels=study)
    (tmp_path / "empty.csv").write_text("Id,0,1\n")
    with pytest.raises(TableError):
        write(str(tmp_path / "empty.csv"), out)
    with pytest.raises(SettingsError, match=r"pdf is not a valid name for a report"):
        write(FOUND, tmp_path / "r.pdf")
    with pytest.raises(SettingsError, match="no predictions"):
        write([], out)
    with pytest.raises(SettingsError, match="unknown value 'gird'"):
        cl.ReportOptions(decision="gird")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="Maps need the images"):
        cl.ReportOptions(model=object())  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="need a model"):
        cl.ReportOptions(reference=study)
    with pytest.raises(ArgumentTypeError, match="`predictions` must be"):
        write(5, out)
    assert not out.exists()
    out.write_text("")
    with pytest.raises(OutputExistsError):
        write(FOUND, out)


def test_the_command(labels: cl.LabelList, tmp_path: Path, cli: Cli) -> None:
    cl.write_predictions(FOUND, tmp_path / "p.parquet")
    cl.write_duplicates(
        pl.DataFrame(
            {"a": ["f1", "f3"], "b": ["f2", "f4"], "correlation": [0.9, 0.4], "verdict": ["copy", "different"]}
        ),
        tmp_path / "pairs.csv",
    )
    done = cli("report", tmp_path / "p.parquet", "--pairs", tmp_path / "pairs.csv", "--out", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert "MB. Open it in a browser." in done.out
    page = (tmp_path / "r.html").read_text()
    assert "2 fields have or may have a near-duplicate" in page
    assert "cytoloc report " in page
    for words, message in (
        ((), "There is no output."),
        (("--table", "--ids", "x"), "are for a page"),
        (("--out", tmp_path / "r.pdf"), "not the name of a page"),
        (("--out", tmp_path / "n.html", "--json"), "are for tables"),
        (("--out", tmp_path / "n.html", "--model", "builtin"), "--model needs the images"),
        (("--out", tmp_path / "n.html", "--reference", "x"), "--reference needs a model"),
        (("--table", "--dataset", "x"), "are for a page"),
    ):
        wrong = cli("report", tmp_path / "p.parquet", *words)
        assert (wrong.code, message in wrong.err) == (2, True), wrong.err


def test_arrays_need_ids(labels: cl.LabelList, tmp_path: Path, cli: Cli) -> None:
    np.savez(tmp_path / "p.npz", probabilities=VALUES)
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    (tmp_path / "set.csv").write_text("key,name\n" + "\n".join(f"{each.key},{each.name}" for each in THREE))
    more = ("--ids", tmp_path / "ids.txt", "--label-set", tmp_path / "set.csv")
    done = cli("report", tmp_path / "p.npz", "--labels", labels.path, *more, "--out", tmp_path / "r.html")
    assert done.code == 0, done.err
    assert "120 fields" in (tmp_path / "r.html").read_text()
    wrong = cli("report", tmp_path / "p.npz", "--out", tmp_path / "n.html")
    assert wrong.code != 0
    assert "--ids" in wrong.err


def test_charts() -> None:
    x = np.linspace(0, 1, 1000)
    few, _ = thinned(x, x)
    assert len(few) <= 81
    assert (few[0], few[-1]) == (0, 1)
    gap = curve_chart([Curve("a<b", np.arange(4.0), np.array([0, 1, np.nan, 1]))], labels=("x", "y"), x_range=(0, 3))
    assert gap.count("<polyline") == 2
    assert "a&lt;b" in gap
    assert plate_chart({(0, 0): 0.5}, {(0, 0): "A01"}).count("<circle") == 96
    assert plate_chart({(8, 0): 0.5}, {(8, 0): "I01"}).count("<circle") == 384
