"""Bundles: one file from runs to predictions, checked part by part."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import cytoloc
from cytoloc.dataset.store import Dataset
from cytoloc.decide import fit_decision, write_decision
from cytoloc.decide.decision import with_provenance
from cytoloc.errors import ArgumentTypeError, ExportError, FormatError, ImageError, ModelCaution, SettingsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_labels
from cytoloc.predict.bundle import BundleOptions, open_bundle, write_bundle
from cytoloc.predict.engines import comparison
from cytoloc.prediction_files import read_predictions
from cytoloc.recipes.recipe import load_recipe
from tests.conftest import Cli
from tests.training.conftest import train_fold

TWO = BundleOptions(card="# two", half=True, caution="Not for conclusions.")

SETTINGS = (
    "image.size=64", "model.backbone=resnet18", "model.weights=none", "model.head=plain", "schedule.epochs=1",
    "schedule.batch_size=8", "select.tta=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(study: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folds = pl.DataFrame({"id": study.ids, "group": range(40), "fold": [0, 1] * 20})
    recipe = load_recipe("quick", overrides=list(SETTINGS))
    return train_fold(recipe, study, folds, 0, out=tmp_path_factory.mktemp("runs"), report=lambda _: None)


@pytest.fixture(scope="module")
def decision(run: Path, study: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    predictions = read_predictions(run / "predictions.parquet")
    rows = [study.ids.index(name) for name in predictions.ids]
    path = tmp_path_factory.mktemp("decision") / "decision.json"
    write_decision(
        fit_decision(
            {"mean": predictions.probabilities}, study.truth[rows], method="expected", label_set=study.label_set
        ),
        path,
    )
    return path


def rewrite(path: Path, part: str, content: bytes | None) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if content is None:
        del parts[part]
    else:
        parts[part] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, each in parts.items():
            archive.writestr(name, each)


@pytest.mark.slow
def test_a_bundle_says_what_its_runs_say(run: Path, decision: Path, study: Dataset, tmp_path: Path) -> None:
    plain, decided = tmp_path / "plain.cytoloc", tmp_path / "decided.cytoloc"
    write_bundle([run], plain, options=BundleOptions(card="# one"))
    write_bundle([run], decided, decision=decision, options=TWO)
    fields = study.read(range(5))
    raw = cytoloc.load(run).probabilities(fields)
    np.testing.assert_array_equal(cytoloc.load(plain).probabilities(fields), raw)
    model = cytoloc.load(decided)
    assert model.decision is not None
    assert "calibrated_by" in model.info.provenance
    np.testing.assert_allclose(model.probabilities(fields), model.decision.probabilities({"mean": raw}), atol=2e-3)
    assert model.info.trained_on == cytoloc.load(run).info.trained_on
    assert decided.stat().st_size < 0.6 * plain.stat().st_size
    assert open_bundle(decided).card == "**Not for conclusions.**\n\n# two"
    again = tmp_path / "again.cytoloc"
    write_bundle([run], again, decision=decision, options=TWO)
    assert again.read_bytes() == decided.read_bytes()


def test_arrays_datasets_and_the_command_give_the_same(
    cli: Cli, run: Path, decision: Path, study: Dataset, tmp_path: Path
) -> None:
    path = tmp_path / "m.cytoloc"
    said = cli("bundle", run.parent, "--decision", decision, "--caution", "For trying out.", "--out", path)
    assert said.code == 0, said.err
    assert "1 network" in said.out
    card = cli("info", path).out
    assert "**For trying out.**" in card
    assert "| 20 fields of study.dataset | 20 |" in card
    model = cytoloc.load(path)
    with pytest.warns(ModelCaution, match="For trying out"):
        of_array = model.predict(study.read(range(len(study))))
    with pytest.warns(ModelCaution):
        of_dataset = model.predict(study)
    np.testing.assert_allclose(of_array.probabilities, of_dataset.probabilities, atol=1e-4)
    assert of_dataset.ids == study.ids
    assert of_array.caution == "For trying out."
    assert all(names for names in of_array.locations)
    said = cli("predict", path, study.path, "--out", tmp_path / "s.parquet", "--locations", tmp_path / "l.csv")
    assert said.code == 0, said.err
    assert "For trying out." in said.err
    predictions = read_predictions(tmp_path / "s.parquet")
    np.testing.assert_allclose(predictions.probabilities, of_dataset.probabilities, atol=1e-6)
    assert predictions.provenance["caution"] == "For trying out."
    assert predictions.provenance["fields_trained_on"] == 20
    again = cli("decide", "apply", tmp_path / "s.parquet", "--decision", decision, "--out", tmp_path / "a.csv")
    assert (again.code, "were calibrated by a decision already" in again.err) == (1, True)
    bare = cli("predict", path, study.path, "--uncalibrated", "--out", tmp_path / "u.parquet")
    assert bare.code == 0, bare.err
    again = cli("decide", "apply", tmp_path / "u.parquet", "--decision", decision, "--out", tmp_path / "a.csv")
    assert again.code == 0, again.err
    assert model.decision is not None
    uncalibrated = read_predictions(tmp_path / "u.parquet").probabilities
    np.testing.assert_allclose(model.decision.probabilities(uncalibrated), predictions.probabilities, atol=1e-6)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "l.csv").read_bytes()
    assert model.without_decision().fingerprint != model.fingerprint
    refused = cli(
        "predict", path, study.path, "--uncalibrated", "--out", tmp_path / "v.parquet", "--locations", "v.csv"
    )
    assert (refused.code, "no locations, because --uncalibrated was given" in refused.err) == (2, True)
    written = read_labels(tmp_path / "l.csv", LabelSet.hpa28(), column="Predicted")
    assert list(written.values()) == [tuple(int(place.key) for place in row) for row in of_dataset.locations]


def test_images_of_other_depths_and_sizes_are_taken(run: Path, study: Dataset, tmp_path: Path) -> None:
    model = cytoloc.load(run)
    one = study[0]
    large = np.kron(one, np.ones((2, 2), np.uint8))
    np.testing.assert_allclose(model.predict(large).probabilities, model.predict(one).probabilities, atol=1e-6)
    deep = one.astype(np.uint16) * 257
    assert model.predict(deep).probabilities.shape == (1, 28)
    assert model.predict(np.stack([one, one]).astype(np.float32)).ids == ("0", "1")
    with pytest.raises(SettingsError, match="no decision"):
        _ = model.predict(one).locations
    for bad, message in (
        (one[:3], r"shape \(n, 4, h, w\)"),
        (one[:, :32, :32], "image 0.*detail cannot be invented|enlarge"),
        (one[:, :, :60], "not square"),
        (np.full((4, 64, 64), np.nan), "NaN"),
        (np.zeros((0, 4, 64, 64), np.uint8), "shape"),
        (one.astype(np.complex64), "complex64 pixels"),
        (one.tolist(), "or a list of datasets or paths, not list"),
    ):
        with pytest.raises((ImageError, ArgumentTypeError), match=message):
            model.predict(bad)
    with pytest.raises(SettingsError, match="Invalid number of TTA views: 3"):
        model.predict(one, tta=3)
    swapped = deep.astype(deep.dtype.newbyteorder(">"))
    np.testing.assert_array_equal(model.predict(swapped).probabilities, model.predict(deep).probabilities)


@pytest.mark.slow
def test_what_a_bundle_cannot_be_made_of_is_refused(cli: Cli, run: Path, study: Dataset, tmp_path: Path) -> None:
    predictions = read_predictions(run / "predictions.parquet")
    truth = study.truth[[study.ids.index(name) for name in predictions.ids]]
    two = fit_decision(
        {"a": predictions.probabilities, "b": predictions.probabilities},
        truth,
        method="grid",
        label_set=study.label_set,
    )
    write_decision(two, tmp_path / "two.json")
    other = fit_decision(predictions.probabilities, truth, method="grid", label_set=study.label_set)
    write_decision(with_provenance(other, predictions=[{"file": "x", "sha256": "0"}]), tmp_path / "other.json")
    out = tmp_path / "m.cytoloc"
    for words, code, message in (
        ((run, "--decision", tmp_path / "two.json", "--out", out), 2, "combines the members a, b"),
        ((run, "--out", tmp_path / "m.zip"), 2, "must end in .cytoloc"),
        ((tmp_path, "--out", out), 1, "contains no run"),
        ((run, "--card", tmp_path / "absent.md", "--out", out), 1, "absent.md"),
        ((run, "--decision", tmp_path / "other.json", "--out", out), 2, "fitted to other predictions"),
        ((run, "--caution", "a\x1b[2J", "--out", out), 2, "printable"),
    ):
        said = cli("bundle", *words)
        assert (said.code, message in said.err) == (code, True), said.err
    write_bundle([run], out, options=BundleOptions(card=""))
    said = cli("predict", out, study.path, "--out", tmp_path / "s.parquet", "--locations", tmp_path / "l.csv")
    assert (said.code, "contains no decision" in said.err) == (2, True)
    assert not (tmp_path / "s.parquet").exists()
    with pytest.raises(SettingsError, match="given twice"):
        write_bundle([run, run.parent / "." / run.name], tmp_path / "twice.cytoloc")
    said = cli("bundle", run, run.parent, "--out", tmp_path / "once.cytoloc")
    assert (said.code, "is given twice" in said.err) == (2, True)


@pytest.mark.slow
def test_a_damaged_bundle_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.cytoloc"
    write_bundle([run], path, options=BundleOptions(card="# card"))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        head = json.loads(archive.read("bundle.json"))

    def headed(**change: object) -> bytes:
        return json.dumps({**head, **change}).encode()

    fewer = {name: each for name, each in head["parts"].items() if name != "card.md"}
    for part, content, message in (
        ("members/0/weights.safetensors", b"x", "weights.safetensors is not as it was written"),
        ("members/0/recipe.toml", None, "recipe.toml is not as it was written"),
        ("bundle.json", None, "has no bundle.json"),
        ("bundle.json", headed(version=2), "version 2"),
        ("bundle.json", headed(channels=["protein"]), "damaged"),
        ("bundle.json", headed(channels=["nucleus", "er", "actin", "golgi"]), "damaged"),
        ("bundle.json", headed(label_set={"name": "mine"}), "damaged"),
        ("bundle.json", headed(parts=None), "damaged"),
        ("bundle.json", headed(parts=fewer), "the content of bundle.json is invalid"),
        ("bundle.json", headed(members=head["members"] * 2), "the content of bundle.json is invalid"),
        ("bundle.json", headed(more=1), "damaged"),
        ("bundle.json", headed(tta=3), "damaged"),
        ("bundle.json", headed(caution="\x1b[2J"), "damaged"),
        ("decision.json", b"{}", "decision.json is not as it was written"),
    ):
        path.write_bytes(whole)
        rewrite(path, part, content)
        with pytest.raises(FormatError, match=message):
            cytoloc.load(path)
    for content in (b"", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(FormatError, match="cannot be read as a bundle"):
            cytoloc.load(path)
    with pytest.raises(FormatError, match=r"bundle file .* does not exist"):
        cytoloc.load(tmp_path / "absent.cytoloc")


@pytest.mark.slow
def test_int8_networks_are_compared_packed_and_used(
    cli: Cli, run: Path, decision: Path, study: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.cytoloc"
    said = cli("bundle", run, "--decision", decision, "--int8", study.path, "--out", path)
    assert said.code == 0, said.err
    assert "Statistics" not in said.out
    report = json.loads(cli("info", path, "--json").out)["int8"]
    assert (report["dataset"], report["calibration_fields"], report["compared_fields"]) == ("study.dataset", 20, 20)
    assert 0 <= report["changed_decisions"] <= 0.02
    assert f"int8 networks change {report['changed_decisions']:.2%} of decisions for 20 fields." in said.out
    assert report["macro_f1_float32"] - report["macro_f1_int8"] <= 0.005
    assert "compared fields: 20" in cli("info", path).out
    with zipfile.ZipFile(path) as archive:
        sizes = {name: archive.getinfo(name).file_size for name in archive.namelist()}
    assert sizes["members/0/int8.bin"] < 0.4 * sizes["members/0/weights.safetensors"]
    exact, small = cytoloc.load(path, device="cpu"), cytoloc.load(path, precision="int8")
    expected, found = exact.predict(study, tta=1), small.predict(study, tta=1)
    difference = np.abs(found.probabilities - expected.probabilities)
    assert 1e-6 < difference.max() < 0.1
    assert found.provenance["engine"] == "openvino, int8"
    np.testing.assert_array_equal(exact.predict(study, tta=1, precision="int8").probabilities, found.probabilities)
    assert small.fingerprint == exact.fingerprint  # the manifest of parts states the precision
    said = cli("predict", path, study.path, "--precision", "int8", "--out", tmp_path / "p.parquet")
    assert (said.code, "cpu with openvino, int8" in said.out) == (0, True)
    np.testing.assert_allclose(read_predictions(tmp_path / "p.parquet").probabilities, found.probabilities, atol=1e-6)
    with pytest.raises(SettingsError, match="int8 networks are computed on the CPU by openvino, not on cpu by onnx"):
        cytoloc.load(path, precision="int8", engine="onnx")
    # The bundle's networks are quantized once, because it takes seconds.
    (graph,) = open_bundle(path).int8()
    monkeypatch.setattr(comparison, "quantize", lambda _network, _fields: graph)
    monkeypatch.setattr(comparison, "MOST_CHANGED", -1.0)
    with pytest.raises(ExportError, match=r"differ too much .* \d\.\d\d% of decisions changed, .* macro F1 0"):
        write_bundle([run], tmp_path / "other.cytoloc", options=BundleOptions(int8=study))
    monkeypatch.setattr(comparison, "LEAST_FIELDS", 50)
    with pytest.raises(SettingsError, match="has 40 fields, but `int8` needs 50"):
        write_bundle([run], tmp_path / "other.cytoloc", options=BundleOptions(int8=study))
    assert not (tmp_path / "other.cytoloc").exists()
    rewrite(path, "members/0/int8.xml", None)
    with pytest.raises(FormatError, match=r"members/0/int8\.xml is not as it was written"):
        cytoloc.load(path)


def test_a_bundle_without_int8_networks_is_refused() -> None:
    with pytest.raises(SettingsError, match="The bundle has no int8 networks"):
        cytoloc.load("builtin", precision="int8")
