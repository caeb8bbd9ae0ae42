"""The commands, one by one and as a chain."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score

from cytoloc import dataset_from_arrays, open_dataset, read_predictions
from cytoloc.cli.demo import RESULTS, steps
from cytoloc.dataset.store import Dataset
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from cytoloc.prediction_files import write_predictions
from cytoloc.predictions import Predictions
from cytoloc.recipes.recipe import recipe_names
from tests.conftest import Cli


def test_help_names_every_command_and_each_has_an_example(cli: Cli) -> None:
    top = cli("--help")
    assert top.code == 0
    commands = [
        "demo", "simulate", "info", "show", "folds", "recipes", "train", "predict", "ensemble", "evaluate",
        "import kaggle", "decide fit", "decide apply",
    ]  # fmt: skip
    # In the order in which the data pass through them.
    places = [top.out.index(f" {command} ") for command in ("import", "folds", "train", "predict", "decide", "report")]
    assert places == sorted(places)
    for command in commands:
        assert command.split()[0] in top.out
        said = cli(*command.split(), "--help")
        assert said.code == 0
        assert re.search(rf"Example:\s+cytoloc\s+{command}", said.out), command


def test_version_and_no_command(cli: Cli) -> None:
    assert cli("--version").out == "cytoloc 0.1.0\n"
    assert "Usage" in cli().out + cli().err


def test_info_says_what_an_dataset_holds(cli: Cli, study: Dataset) -> None:
    said = cli("info", study.path, "--check")
    assert said.code == 0
    assert "40 fields of 64 px, 40 labeled" in said.out
    assert "every pixel checked" in said.out
    facts = json.loads(cli("info", study.path, "--json").out)
    assert facts["fingerprint"] == study.fingerprint
    assert sum(row["fields"] for row in facts["locations"]) == study.truth.sum()
    assert facts["wells"] == study.fields.select("plate", "well").n_unique()


def test_info_says_by_what_an_dataset_was_added_to(cli: Cli, images: Path, tmp_path: Path) -> None:
    for name, more in (("a", []), ("b", ["--append"]), ("c", ["--append", "--square", "crop"])):
        folder = tmp_path / name
        folder.mkdir()
        for file in images.glob(f"{name}_*.png"):
            file.rename(folder / file.name)
        out = tmp_path / "x.dataset"
        said = cli("import", "kaggle", folder, "--labels", images / "labels.csv", "--out", out, "--size", 32, *more)
        assert said.code == 0
    told = cli("info", out).out
    assert "3 fields of 32 px, 3 labeled" in told
    assert "segments     3\n" in told
    assert "originals    3 of 48 px\n" in told
    assert re.findall(r"made by +command import kaggle", told) == ["made by      command import kaggle"]
    first, second = re.findall(r"added by     (command import kaggle.*)", told)
    assert ("crop" in first, "crop" in second) == (False, True)


def test_info_says_which_bounds_all_fields_share(cli: Cli, tmp_path: Path) -> None:
    for number, edges in enumerate(((40, 40), (40, 48))):
        (tmp_path / "p").mkdir(exist_ok=True)
        deep = np.arange(2 * 40 * edges[1], dtype=np.uint16).reshape(2, 40, edges[1]) * 7
        tifffile.imwrite(tmp_path / "p" / f"{number}.ome.tif", deep, metadata={"axes": "CYX"})
    call = ["import", "folder", tmp_path / "p", "--channels", "nucleus=0,protein=1"]
    call += ["--depth", "import", "--square", "crop", "--floor", "100"]
    assert cli(*call, "--size", "32", "--out", tmp_path / "a.dataset").code == 0
    told = cli("info", tmp_path / "a.dataset").out
    assert re.search(r"depth jointly protein black [\d.]+, depth jointly protein white [\d.]+", told)
    assert "originals    1 of 40 px, 1 of 48 x 40 px\n" in told
    assert "channels     protein, nucleus\n" in told
    assert "source       folder; wells unknown\n" in told


def test_show_draws_a_sheet(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    assert cli("show", study.path, "--out", out).code == 0
    with Image.open(out) as image:
        assert image.width > 1000
        assert np.asarray(image.convert("RGB")).std() > 20
    assert cli("show", study.path, study.ids[3], "--out", out).code == 0
    for name in ("sheet.xyz", "folder.png"):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        refused = cli("show", study.path, "--out", tmp_path / name)
        assert (refused.code, "not the name of a PNG" in refused.err) == (2, True)
    close = study.ids[3][:-1] + "?"
    missing = cli("show", study.path, close, "--out", out)
    assert missing.code == 1
    assert f"{study.path} has no field '{close}'" in missing.err
    assert f"Did you mean {study.ids[3][:-1]}" in missing.err
    predicted = tmp_path / "predicted.csv"
    predicted.write_text(f"Id,Predicted\n{study.ids[0]},0\n")
    missing = cli("show", study.path, study.ids[1], "--predictions", predicted, "--out", out)
    assert f"The predictions have no field '{study.ids[1]}'" in missing.err


def test_show_takes_predictions_as_they_are_written(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    values = np.full((3, 28), 0.3, np.float32)
    found = Predictions(study.ids[:3], values, study.label_set, {"thresholds": {"0": 0.2}})
    write_predictions(found, tmp_path / "p.parquet")
    found.to_polars().rename({"id": "Id"}).write_csv(tmp_path / "p.csv")
    for name in ("p.parquet", "p.csv"):
        done = cli("show", study.path, "--predictions", tmp_path / name, "--out", tmp_path / "sheet.svg")
        assert (done.code, done.out) == (0, f"{tmp_path / 'sheet.svg'}: 3 fields.\n"), done.err
    large = cli("show", study.path, "--large", "--fields", 2, "--palette", "colorblind", "--out", tmp_path / "l.pdf")
    assert (large.code, large.out) == (0, f"{tmp_path / 'l.pdf'}: 2 fields.\n"), large.err
    other = Predictions(("x",), values[:1], study.label_set)
    write_predictions(other, tmp_path / "other.parquet")
    refused = cli("show", study.path, "--predictions", tmp_path / "other.parquet", "--out", tmp_path / "o.png")
    assert (refused.code, "has none of the predicted fields" in refused.err) == (1, True)


@pytest.mark.slow
def test_several_recipes_train_in_one_call(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    folds, runs = tmp_path / "folds.csv", tmp_path / "runs"
    assert cli("folds", study.path, "-k", 2, "--out", folds).code == 0
    values = ("image.size=64", "model.backbone=test_resnet", "model.weights=none", "schedule.epochs=1")
    settings = [word for value in values for word in ("--set", value)]
    call = ("train", "quick", "resnet18-128", study.path, "--folds", folds, "--out", runs, *settings)
    assert cli(*call).code == 0
    names = [f"{recipe}-fold{fold}" for recipe in ("quick", "resnet18-128") for fold in (0, 1)]
    curves = ["quick-curve.png", "resnet18-128-curve.png"]
    assert sorted(path.name for path in runs.iterdir()) == sorted(names + curves)
    twice = cli("train", "quick", "quick", study.path, "--folds", folds, "--out", tmp_path / "b", *settings)
    assert twice.code == 2
    assert "--recipe contains two recipes with the same name: quick, quick" in twice.err
    # The second cannot start, so the first does not either.
    common = 'extends = "quick"\nname = "{}"\n[image]\nsize = {}\n[model]\nbackbone = "{}"\nweights = "{}"\n'
    good = tmp_path / "good.toml"
    good.write_text(common.format("good", 64, "test_resnet", "none"))
    for name, size, backbone, weights, message in (
        ("size", 96, "test_resnet", "none", "needs images of 96 px"),
        ("net", 64, "inception_v3", "none", "does not accept images of 64 px"),
        ("weights", 64, "test_resnet", "file:missing.pt", "The weights file missing.pt does not exist"),
    ):
        bad = tmp_path / f"{name}.toml"
        bad.write_text(common.format(name, size, backbone, weights))
        wrong = cli("train", good, bad, study.path, "--folds", folds, "--out", tmp_path / "b")
        assert (wrong.code, message in wrong.err) == (1, True), wrong.err
        assert not (tmp_path / "b").exists()
    # What the second starts from may be the first.
    after = tmp_path / "after.toml"
    after.write_text(common.format("after", 64, "test_resnet", f"run:{tmp_path}/c/good-fold{{fold}}"))
    short = ("--set", "schedule.epochs=1", "--set", "select.tta=1")
    call = ("train", good, after, study.path, "--folds", folds, "--fold", "0", "--out", tmp_path / "c", *short)
    assert cli(*call).code == 0
    assert json.loads((tmp_path / "c" / "after-fold0" / "run.json").read_text())["started_from"]["name"] == "good-fold0"


def test_recipes_are_listed_and_shown(cli: Cli) -> None:
    listed = cli("recipes").out
    first = [line.split()[0] for line in listed.splitlines() if line]
    assert sorted(name for name in first if name not in {"recipe", "Macro"}) == recipe_names()
    assert re.search(
        r"^resnet34-512 .* 512 +64 +0\.5 focal \+ 0\.5 soft F1 +0\.581 +0\.517 +0\.502$", listed, re.MULTILINE
    )
    assert 'backbone = "tf_efficientnet_lite0"' in cli("recipes", "quick").out


def test_score_is_scikit_learns(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((50, 28)) < 0.15
    truth[:, 0] |= ~truth.any(axis=1)
    predicted = truth ^ (rng.random((50, 28)) < 0.05)
    for name, column, matrix in (("truth.csv", "Target", truth), ("predicted.csv", "Predicted", predicted)):
        cells = [" ".join(str(i) for i in row.nonzero()[0]) for row in matrix]
        pl.DataFrame({"Id": [f"f{i}" for i in range(50)], column: cells}).write_csv(tmp_path / name)
    args = ("evaluate", tmp_path / "predicted.csv", "--labels", tmp_path / "truth.csv")
    summary = json.loads(cli(*args, "--json", "--table", tmp_path / "classes.csv").out)
    assert summary["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0), abs=1e-12)
    assert pl.read_csv(tmp_path / "classes.csv")["positives"].to_list() == truth.sum(axis=0).tolist()
    said = cli(*args)
    assert f"macro F1 over 28 locations of hpa28  {summary['macro_f1']:.3f}" in said.out
    assert "Nucleoplasm" in said.out


def test_score_of_fields_that_all_have_one_location(cli: Cli, tmp_path: Path) -> None:
    ids = [f"f{i}" for i in range(6)]
    pl.DataFrame({"Id": ids, "Target": ["25"] * 6, "Predicted": ["25"] * 6}).write_csv(tmp_path / "all.csv")
    pl.DataFrame({"Id": ids, **{str(i): [0.5] * 6 for i in range(28)}}).write_csv(tmp_path / "predictions.csv")
    said = cli(
        "evaluate",
        tmp_path / "all.csv",
        "--labels",
        tmp_path / "all.csv",
        "--predictions",
        tmp_path / "predictions.csv",
    )
    assert said.code == 0
    assert "macro ROC AUC - (chance 0.5)" in said.out


def test_a_submission_keeps_the_order_asked_for(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ids = [f"f{i}" for i in range(30)]
    values = rng.random((30, 28), dtype=np.float32)
    pl.DataFrame({"Id": ids, **{str(i): values[:, i] for i in range(28)}}).write_csv(tmp_path / "predictions.csv")
    pl.DataFrame({"Id": ids, "Target": [str(i % 28) for i in range(30)]}).write_csv(tmp_path / "labels.csv")
    order = [ids[i] for i in rng.permutation(30)[:20]]
    pl.DataFrame({"Id": order, "Predicted": ["0"] * 20}).write_csv(tmp_path / "sample_submission.csv")
    fitted = cli(
        "decide", "fit", tmp_path / "predictions.csv", "--method", "grid",
        "--labels", tmp_path / "labels.csv", "--out", tmp_path / "d.json",
        "--held-out", tmp_path / "held-out.csv",
    )  # fmt: skip
    assert "on fields that the thresholds were not fitted to" in fitted.out
    assert list(read_labels(tmp_path / "held-out.csv", LabelSet.hpa28(), column="Predicted")) == ids
    applied = cli(
        "decide", "apply", tmp_path / "predictions.csv", "--decision", tmp_path / "d.json",
        "--order", tmp_path / "sample_submission.csv", "--out", tmp_path / "submission.csv",
    )  # fmt: skip
    assert applied.code == 0
    rows = read_labels(tmp_path / "submission.csv", LabelSet.hpa28(), column="Predicted")
    assert list(rows) == order
    assert all(1 <= len(labels) <= 5 for labels in rows.values())


def test_the_whole_way_by_commands(cli: Cli, tmp_path: Path) -> None:
    def done(*words: object) -> str:
        said = cli(*words)
        assert said.code == 0, said.err
        return said.out

    files = tmp_path / "files"
    done("simulate", "--fields", 24, "--seed", 1, "--size", 96, "--format", "kaggle", "--out", files)
    dataset = tmp_path / "a.dataset"
    done("import", "kaggle", files, "--labels", files / "labels.csv", "--size", 64, "--out", dataset)
    done("folds", dataset, "-k", 2, "--pairs", files / "pairs.csv", "--out", tmp_path / "folds.csv")
    values = ("image.size=64", "schedule.epochs=1", "select.tta=1", "model.backbone=test_resnet", "model.weights=none")
    settings = [f"--set={value}" for value in values]
    runs = tmp_path / "runs"
    said = done("train", "quick", dataset, "--folds", tmp_path / "folds.csv", "--out", runs, *settings)
    assert said.count("epoch") == 4
    assert (runs / "quick-curve.png").exists()

    done("predict", runs, dataset, "--out", tmp_path / "by-dataset.parquet", "--tta", 2)
    done("predict", runs / "quick-fold0", files, "--out", tmp_path / "by-files.parquet")
    done("predict", runs / "quick-fold0", dataset, "--out", tmp_path / "one.parquet")
    by_files, by_dataset = read_predictions(tmp_path / "by-files.parquet"), read_predictions(tmp_path / "one.parquet")
    # The same image, from a larger file or from the dataset, gives the same numbers.
    np.testing.assert_allclose(by_files.rows(by_dataset.ids), by_dataset.probabilities, atol=1e-4)
    assert read_predictions(tmp_path / "by-dataset.parquet").provenance["tta"] == 2

    damaged = sorted(files.glob("*_red.png"))[3]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    listed = cli("predict", runs / "quick-fold0", files, "--out", tmp_path / "some.parquet", "--tta", 1)
    assert (listed.code, "1 field could not be read" in listed.err) == (0, True)
    assert len(read_predictions(tmp_path / "some.parquet")) == len(by_files) - 1
    assert f"{damaged} is truncated" in (tmp_path / "some.quarantine.csv").read_text()
    stopped = cli("predict", runs / "quick-fold0", files, "--out", tmp_path / "none.parquet", "--tta", 1, "--strict")
    assert (stopped.code, str(damaged) in stopped.err, (tmp_path / "none.parquet").exists()) == (1, True, False)

    leaking = cli("decide", "fit", tmp_path / "one.parquet", "--labels", dataset, "--out", tmp_path / "leaking.json")
    assert leaking.code == 1
    assert "was trained on" in leaking.err
    done(
        "decide", "fit", runs, "--method", "grid", "--labels", dataset, "--folds", tmp_path / "folds.csv",
        "--out", tmp_path / "d.json", "--held-out", tmp_path / "held-out.csv",
    )  # fmt: skip
    scored = done("evaluate", tmp_path / "held-out.csv", "--labels", dataset, "--predictions", runs)
    assert "mean average precision" in scored
    done("show", dataset, "--predictions", tmp_path / "held-out.csv", "--out", tmp_path / "sheet.png")
    again = cli("train", "quick", dataset, "--folds", tmp_path / "folds.csv", "--out", runs, *settings)
    assert again.code == 1
    assert "already exists" in again.err
    assert "--resume" in again.err
    assert "finished already" in done(
        "train", "quick", dataset, "--folds", tmp_path / "folds.csv", "--out", runs, "--resume", *settings
    )


def test_the_demo_takes_these_steps(tmp_path: Path) -> None:
    lines = steps(tmp_path / "a folder", fields=30, epochs=1, seed=11)
    words = [line.split()[0] for line in lines]
    way = "simulate simulate import import folds train predict predict predict decide decide evaluate show"
    assert words == way.split()
    assert ["--seed 11 " in lines[0], "--seed 12 " in lines[1]] == [True, True]


@pytest.mark.slow
@pytest.mark.usefixtures("short_steps")
def test_the_demo_ends_in_results_to_look_at(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    said = cli("demo", "--out", out, "--fields", 30, "--epochs", 1)
    assert said.code == 0, said.err
    assert "macro F1 over 28 locations" in said.out
    for name in RESULTS:
        assert (out / name).stat().st_size > 100
        assert str(out / name) in said.out
    submitted = read_labels(out / "submission.csv", LabelSet.hpa28(), column="Predicted")
    assert list(submitted) == list(read_labels(out / "test" / "labels.csv", LabelSet.hpa28()))
    (out / "folds.csv").unlink()
    again = cli("demo", "--out", out, "--fields", 30, "--epochs", 1)
    assert again.code == 0
    assert again.out.count("done already") == 9
    assert "finetune-fold1 is finished already" in again.out
    other = cli("demo", "--out", out)
    assert (other.code, "not from a demo with these settings" in other.err) == (1, True)


@pytest.mark.slow
def test_a_trained_network_finds_locations(cli: Cli, tmp_path: Path) -> None:
    # The protein is in one large square or in nine small ones, on noise.
    for name, count, seed in (("train", 64, 1), ("test", 40, 2)):
        images = np.random.default_rng(seed).integers(0, 120, (count, 2, 48, 48), dtype=np.uint8)
        images[0::2, 0, 6:24, 6:24] += 80
        for row, column in product((4, 20, 36), repeat=2):
            images[1::2, 0, row : row + 6, column : column + 6] += 80
        labels = [["large"], ["small"]] * (count // 2)
        dataset_from_arrays(images, out=tmp_path / f"{name}.dataset", channels=["protein", "nucleus"], labels=labels)
    train, test = tmp_path / "train.dataset", tmp_path / "test.dataset"
    assert cli("folds", train, "-k", 2, "--out", tmp_path / "folds.csv").code == 0
    done = cli(
        "train", "quick", train, "--folds", tmp_path / "folds.csv", "--fold", "0", "--out", tmp_path / "runs",
        "--set", "image.size=48", "--set", "schedule.epochs=6", "--set", "schedule.batch_size=8",
        "--set", "select.tta=1",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert cli("predict", tmp_path / "runs", test, "--out", tmp_path / "predictions.parquet").code == 0
    probabilities = read_predictions(tmp_path / "predictions.parquet").probabilities
    truth = open_dataset(test).truth
    assert roc_auc_score(truth, probabilities) > 0.9
