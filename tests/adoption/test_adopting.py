"""Published networks as bundles: exact, with their origin, and refused if the file is another one."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import cytoloc
from benchmarks.adopted import AuthorsDenseNet
from cytoloc.adoption.published import PUBLISHED, Source
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.store import Dataset
from cytoloc.dataset.writer import write_dataset
from cytoloc.errors import CytolocError, ImageError, ModelCaution, SettingsError, WeightsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import build_network
from cytoloc.predict.bundle import open_bundle
from cytoloc.recipes.recipe import load_recipe
from tests.adoption.goldens import drawn_state, waves
from tests.conftest import Cli
from tests.training.conftest import train_fold

HEADS = {
    "densenet121": ("bn1", "fc1", "bn2", "logit"),
    "inceptionv3-cbam": ("fc_layers.0", "fc_layers.2", "fc_layers.4", "logit"),
}
LOGITS = {
    "plain": [
        [-6.763225, -9.235610, 7.903533, -1.777637, 20.062342],
        [-7.449045, -7.802158, 6.827934, -1.783218, 20.974777],
    ],
    "large": [
        [-4.827045, -6.739689, 4.412188, -1.350324, 14.701190],
        [-4.793634, -7.189817, 4.719302, -1.049349, 15.552750],
    ],
}
PROBABILITIES = [
    [0.263396, 0.418519, 0.953590, 0.139941, 0.277631, 0.559935],
    [0.262096, 0.410402, 0.953140, 0.141476, 0.288458, 0.568626],
]


@pytest.fixture(scope="module")
def densenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file as the authors write it: the backbone twice, its classifier, and facts about the training."""
    wanted = AuthorsDenseNet().state_dict()
    state = drawn_state(wanted)
    aliases = {name.replace("backbone.features", "conv1"): value for name, value in state.items() if "conv0" in name}
    path = tmp_path_factory.mktemp("weights") / "d121_i768_final.pth"
    torch.save({"epoch": 55, "best_loss": 0.1, "state_dict": {**state, **aliases}}, path)
    return path


@pytest.fixture(scope="module")
def adopted(densenet: Path) -> Path:
    """Return the bundle of the plain variant, which the file name states."""
    return cytoloc.adopt("densenet121", densenet, densenet.with_name("plain.cytoloc"))


def test_densenet_has_the_published_logits_in_both_variants(adopted: Path, densenet: Path, tmp_path: Path) -> None:
    fields = torch.from_numpy(waves(2, 4, 128))
    unnamed = shutil.copy(densenet, tmp_path / "default_model.pth")
    large = cytoloc.adopt("densenet121", unnamed, tmp_path / "large.cytoloc", variant="large")
    for variant, size, path in (("plain", 512, adopted), ("large", 1024, large)):
        model = cytoloc.load(path, device="cpu")
        assert (model.size, model.channels, model.label_set.name) == (size, cytoloc.CHANNELS, "hpa28")
        with torch.inference_mode():
            logits = model.networks[0](fields).numpy()
        np.testing.assert_allclose(logits[:, :5], LOGITS[variant], atol=5e-5)
        # Another implementation, with torchvision.
        other = AuthorsDenseNet(is_large=variant == "large").eval()
        other.load_state_dict(drawn_state(other.state_dict()))
        with torch.inference_mode():
            np.testing.assert_allclose(model.networks[0](fields), other(fields), atol=1e-3)


@pytest.mark.slow
def test_inception_has_the_published_probabilities(tmp_path: Path) -> None:
    spec = PUBLISHED["inceptionv3-cbam"].specs[""]
    own = build_network(spec).state_dict()
    renamed = dict(zip([f"head.layers.{n}" for n in (0, 2, 4, 6)], HEADS["inceptionv3-cbam"], strict=True))
    renamed |= {
        "backbone.body": "backbone",
        "backbone.attention.channels.0": "att_module.fc1",
        "backbone.attention.channels.2": "att_module.fc2",
        "backbone.attention.places": "att_module.conv_after_concat",
    }
    there = {
        name.replace(ours, theirs): value
        for name, value in own.items()
        for ours, theirs in renamed.items()
        if name.startswith(f"{ours}.")
    }
    torch.save(drawn_state(there), tmp_path / "w.pth")
    model = cytoloc.load(cytoloc.adopt("inceptionv3-cbam", tmp_path / "w.pth", tmp_path / "m.cytoloc"), device="cpu")
    assert (model.size, model.label_set.name) == (128, "hpa19")
    with pytest.warns(ModelCaution, match="single cells"):
        found = model.predict(waves(2, 4, 128)).probabilities
    np.testing.assert_allclose(found[:, :6], PROBABILITIES, atol=2e-6)


def test_an_adopted_bundle_states_its_origin(
    cli: Cli, adopted: Path, densenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = open_bundle(adopted).header.origin
    assert origin is not None
    assert origin.sha256 == hashlib.sha256(densenet.read_bytes()).hexdigest()
    assert (origin.variant, origin.license, origin.is_published) == ("plain", "MIT", False)
    card = cli("info", adopted).out
    for fact in (origin.sha256, "MIT", "Nature Methods 16", "hpa_densenet", "the 2018 Kaggle training set"):
        assert fact in card
    facts = json.loads(cli("info", adopted, "--json").out)
    assert facts["origin"]["license"] == "MIT"
    assert facts["trained_on_datasets"] == ["the 2018 Kaggle training set", "Human Protein Atlas v18"]
    assert facts["fields_trained_on"] is None
    # A file is the published one if it has the id that git gives to the published file.
    content = densenet.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    known = replace(PUBLISHED["densenet121"], sources=(Source(address="https://example.org/w.pth", git_blob=blob),))
    monkeypatch.setitem(PUBLISHED, "densenet121", known)
    same = open_bundle(cytoloc.adopt("densenet121", densenet, tmp_path / "same.cytoloc"))
    assert same.header.origin is not None
    assert (same.header.origin.is_published, same.header.origin.source) == (True, "https://example.org/w.pth")
    assert "This is the published file" in same.card


def dataset_from(source: str, path: Path, size: int) -> Dataset:
    rows = (FieldRow(id=f"f{i}", source=source, original_px=size, original_width_px=size) for i in range(2))
    fields = list(zip(rows, waves(2, 4, size), strict=True))
    return write_dataset(
        path, fields, size=size, channels=cytoloc.CHANNELS, label_set=LabelSet.hpa28(), made_by={"command": "t"}
    )


def test_predictions_of_public_fields_warn(adopted: Path, cli: Cli, tmp_path: Path) -> None:
    model = cytoloc.load(adopted, device="cpu")
    public, own = (dataset_from(name, tmp_path / f"{name}.dataset", 512) for name in ("hpa", "folder"))
    with pytest.warns(ModelCaution, match="2 of these 2 fields may be among them"):
        found = model.predict(public)
    assert found.provenance["adopted"]["license"] == "MIT"
    assert "fields_trained_on" not in found.provenance  # it is not known
    assert model.predict(own).provenance["fields_maybe_trained_on"] == 0
    cytoloc.write_predictions(found, tmp_path / "p.parquet")
    (tmp_path / "l.csv").write_text("Id,Predicted\nf0,0\nf1,25\n")
    (tmp_path / "t.csv").write_text("Id,Target\nf0,0\nf1,25\n")
    said = cli("evaluate", tmp_path / "l.csv", "--labels", tmp_path / "t.csv", "--predictions", tmp_path / "p.parquet")
    assert "may be among them, so metrics that include them are too high" in said.err
    with pytest.raises(ImageError, match="has 64 px, but the model needs 512 px"):
        model.predict(dataset_from("folder", tmp_path / "small.dataset", 64))


class Code:
    """What a pickle with code in it has."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.made,)


def test_other_files_are_refused_with_the_reason(cli: Cli, densenet: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.cytoloc"
    code, cut, odd, renamed, script = (
        tmp_path / f"{name}.pth" for name in ("code", "cut", "odd", "bestfitting", "script")
    )
    torch.save({"state_dict": Code(tmp_path / "ran")}, code)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    whole = densenet.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    torch.save({"layer1.0.conv1.weight": torch.zeros(1), "logit.bias": torch.zeros(19)}, odd)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # new releases of torch advise against it
        torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1)).save(str(script))  # type: ignore[no-untyped-call]  # of torch
    renamed.write_bytes(whole)
    cases: list[tuple[Path, dict[str, str], type[CytolocError], str]] = [
        (code, {"variant": "plain"}, WeightsError, "contains code, not only weights. The code was not run"),
        (tmp_path / "plain.pkl", {"variant": "plain"}, WeightsError, "was not run|cannot be read as weights"),
        (cut, {"variant": "plain"}, WeightsError, "damaged"),
        (script, {"variant": "plain"}, WeightsError, "is a TorchScript file, which contains code"),
        (odd, {"variant": "plain"}, WeightsError, r"another network than densenet121: \d+ of 739 tensors are missing,"),
        (odd, {"variant": "plain"}, WeightsError, r"1 are left over, such as layer1.*\(19,\) instead of \(28,\)"),
        (densenet, {"sha256": "ab" * 32}, WeightsError, "has the SHA-256 [0-9a-f]{64}, but `sha256` is abab"),
        (densenet, {"variant": "huge"}, SettingsError, "`variant` has the unknown value 'huge'"),
        (renamed, {}, SettingsError, "does not say which variant"),
        (tmp_path / "none.pth", {}, WeightsError, "does not exist"),
    ]
    for file, options, kind, match in cases:
        with pytest.raises(kind, match=match):
            cytoloc.adopt("densenet121", file, out, **options)
    with pytest.raises(SettingsError, match="unknown value 'densenet'"):
        cytoloc.adopt("densenet", densenet, out)
    said = cli("adopt", "densenet121", renamed, "--out", out)
    assert (said.code, "Give --variant: plain (512 px) or large (1024 px)" in said.err) == (2, True)
    assert not out.exists()
    assert not (tmp_path / "ran").exists()


def test_the_command_adopts_and_lists(cli: Cli, densenet: Path, tmp_path: Path) -> None:
    right = hashlib.sha256(densenet.read_bytes()).hexdigest()
    out = tmp_path / "m.cytoloc"
    unnamed = shutil.copy(densenet, tmp_path / "default_model.pth")
    said = cli("adopt", "densenet121", unnamed, "--variant", "large", "--sha256", right, "--out", out)
    assert said.code == 0, said.err
    assert "densenet121 large, 1024 px, 28 locations, license MIT" in said.out
    assert right in said.out
    # The authors run a file whose name indicates another variant as large, too.
    named = shutil.copy(densenet, tmp_path / "densenet121_i768_final.pth")
    doubt = "The name of densenet121_i768_final.pth indicates the variant plain, but it was adopted as large."
    said = cli("adopt", "densenet121", named, "--variant", "large", "--out", tmp_path / "named.cytoloc")
    assert (said.code, doubt in said.err, doubt in cli("info", tmp_path / "named.cytoloc").out) == (0, True, True)
    listed = cli("models").out
    for each in cytoloc.published_models():
        for fact in (each["name"], each["license"], *each["addresses"], each["command"]):
            assert fact in listed
    assert json.loads(cli("models", "--json").out) == cytoloc.published_models()


@pytest.mark.slow
def test_an_adopted_network_is_a_start_for_own_locations_and_channels(adopted: Path, tmp_path: Path) -> None:
    own = LabelSet.from_names(["Cortex", "Vesicles"], name="mine")
    rows = [
        FieldRow(id=f"f{i}", source="folder", original_px=64, original_width_px=64, labels=(i % 2,)) for i in range(8)
    ]
    fields = zip(rows, waves(8, 2, 64), strict=True)
    dataset = write_dataset(
        tmp_path / "own.dataset",
        fields,
        size=64,
        channels=("nucleus", "protein"),
        label_set=own,
        made_by={"command": "t"},
    )
    folds = pl.DataFrame({"id": dataset.ids, "group": range(8), "fold": [0, 1] * 4})
    overrides = [f"model.weights=bundle:{adopted}", "image.size=64", "schedule.epochs=1", "schedule.batch_size=4"]
    said: list[str] = []
    recipe = load_recipe("finetune", overrides=overrides)
    run = train_fold(recipe, dataset, folds, 0, out=tmp_path, report=said.append)
    kept = load_recipe(str(run / "recipe.toml"))
    assert (kept.model.backbone, kept.model.units, round(kept.image.mean["protein"], 5)) == (
        "densenet121",
        1024,
        0.05063,
    )
    assert any("densenet121-plain were trained on all of the 2018 Kaggle training set" in line for line in said)
    started = json.loads((run / "run.json").read_text())["started_from"]
    assert (started["name"], started["with_head"]) == ("densenet121-plain", False)
    # The whole training datasets are known of predictions, and of a bundle of the run.
    known = ["the 2018 Kaggle training set", "Human Protein Atlas v18"]
    assert cytoloc.read_predictions(run / "predictions.parquet").provenance["trained_on_datasets"] == known
    bundle = cytoloc.write_bundle(run, tmp_path / "m.cytoloc")
    assert cytoloc.load(bundle).info.trained_on_datasets == tuple(known)
