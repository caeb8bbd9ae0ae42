"""Trainings that cannot start: exit 1 (a wrong call: 2), one clear message, the hint, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cytoloc.curation.folds import make_folds
from cytoloc.curation.folds_file import write_folds
from cytoloc.dataset.store import Dataset
from tests.conftest import Cli

SMALL = ("--set", "image.size=64", "--set", "model.backbone=test_resnet", "--set", "model.weights=none")

BAD_SETTINGS = {
    "a truth value for a number": ("schedule.epochs=true", "schedule.epochs = True: input should be a valid integer"),
    "a fraction for a number": ("schedule.batch_size=2.5", "schedule.batch_size = 2.5"),
    "a word for a number": ("schedule.learning_rate=fast", "schedule.learning_rate = 'fast'"),
    "a number out of range": ("schedule.batch_size=1", "greater than or equal to 2"),
    "a value for a section": ("compute=fast", "compute is a section, not a value"),
    "a misspelled key": ("schedule.epoch=3", "no key 'schedule.epoch'. Did you mean schedule.epochs"),
    "a misspelled key of computing": ("compute.precison=float32", "Did you mean compute.precision"),
    "a misspelled section": ("augmnt.flips=true", "no key 'augmnt'. Did you mean augment"),
    "an unknown choice": ("compute.precision=half", "'float32', 'bfloat16' or 'float16'"),
    "no setting": ("epochs", "'epochs' is not a setting"),
    "a size that a network cannot take": (
        "model.backbone=inception_v3",
        "inception_v3 does not accept images of 64 px",
    ),
    "an unknown network": ("model.backbone=resnet35", "no backbone 'resnet35'"),
    "a dataset of another size": ("image.size=128", "needs images of 128 px, but"),
}


@pytest.fixture
def call(study: Dataset, tmp_path: Path) -> tuple[object, ...]:
    """Return the words of a training that could start."""
    table = tmp_path / "folds.csv"
    write_folds(make_folds(study.fields, k=3), table)
    return ("train", "quick", study.path, "--folds", table, "--out", tmp_path / "runs", *SMALL)


def assert_refused(cli: Cli, *words: object, code: int = 1) -> str:
    """Return what a command said that did not start."""
    said = cli(*words)
    assert said.code == code, said.err
    assert said.err.startswith("error: " if code == 1 or "Usage" not in said.err else "Usage")
    assert "Traceback" not in said.err
    assert said.out == ""
    return said.err


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_settings_are_refused(cli: Cli, call: tuple[object, ...], tmp_path: Path, case: str) -> None:
    setting, message = BAD_SETTINGS[case]
    said = assert_refused(cli, *call, "--set", setting)
    assert message in said
    assert not (tmp_path / "runs").exists()


def test_an_dataset_of_another_size_is_refused_with_the_size_to_use(
    cli: Cli, call: tuple[object, ...], tmp_path: Path
) -> None:
    said = assert_refused(cli, *call, "--set", "image.size=128")
    assert "Set image.size=64, or import the images at 128 px" in said


def test_a_fold_that_is_not_there_is_refused(cli: Cli, call: tuple[object, ...], tmp_path: Path) -> None:
    assert "The folds have no fold 7; they are numbered 0, 1, 2." in assert_refused(cli, *call, "--fold", "7")
    assert "'-1' is neither a fold number nor 'all'" in assert_refused(cli, *call, "--fold", "-1", code=2)
    assert not (tmp_path / "runs").exists()


def test_fields_without_labels_are_refused(cli: Cli, images: Path, tmp_path: Path) -> None:
    (images / "labels.csv").write_text("Id,Target\nb,16 0\nc,7\n")
    dataset, table = tmp_path / "a.dataset", tmp_path / "folds.csv"
    words = ("import", "kaggle", images, "--labels", images / "labels.csv", "--size", 32, "--out", dataset)
    assert cli(*words).code == 0
    table.write_text("id,group,fold\na,0,0\nb,1,0\nc,2,1\n")
    rest = ("--folds", table, "--out", tmp_path / "runs", *SMALL, "--set", "image.size=32")
    said = assert_refused(cli, "train", "quick", dataset, *rest)
    assert "The folds contain 1 fields that are not labeled fields of " in said
    assert "cytoloc folds" in said
    assert not (tmp_path / "runs").exists()


def test_processes_that_cannot_be_are_refused(
    cli: Cli, call: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytoloc.training.distributed.device_count", lambda _kind: 4)
    assert "5 processes need one device each, but this machine has 4." in assert_refused(cli, *call, "--devices", "5")
    assert "cannot be shared by 3 processes evenly" in assert_refused(cli, *call, "--devices", "3")
    assert "torchrun or srun" in assert_refused(cli, *call, "--nodes", "2", code=2)
    assert "greater than or equal to 1" in assert_refused(cli, *call, "--devices", "0", code=2)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert "SLURM started 1 processes" in assert_refused(cli, *call, "--devices", "2", code=2)
    assert not (tmp_path / "runs").exists()


def test_a_precision_that_the_device_lacks_is_refused(
    cli: Cli, call: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytoloc.training.run.accelerator", lambda _device="auto": "cpu")
    said = assert_refused(cli, *call, "--set", "compute.precision=float16")
    assert "`compute.precision` is float16, which needs a CUDA GPU, but this machine trains on cpu." in said
    assert not (tmp_path / "runs").exists()


def test_tracking_without_mlflow_is_refused(
    cli: Cli, call: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytoloc.training.tracking.NEEDED", ("not_installed",))
    said = assert_refused(cli, *call, "--mlflow", tmp_path / "mlflow.db")
    assert "pip install 'cytoloc[mlflow]'" in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "mlflow.db").exists()
