"""Devices and processes: two processes train what one trains, however they were started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cytoloc.curation.folds_file import read_folds, write_folds
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import CytolocError, SettingsError, TrainingError
from cytoloc.models.network import build_network, features_and_logits
from cytoloc.predict.loading import load
from cytoloc.predict.runs import model_spec
from cytoloc.predict.sources import DatasetSource
from cytoloc.prediction_files import read_predictions
from cytoloc.recipes.recipe import Recipe, load_recipe
from cytoloc.training.data import FieldBatches, batch_loader, split_dataset
from cytoloc.training.distributed import SINGLE, Processes, accelerator, check_batches, device_count, find_processes
from cytoloc.training.resolve import build_learner, location_loss
from tests.training.conftest import power_cut, state_of, train_fold
from tests.training.shards import PROCESSES, TERMS, trained

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "RANK": "5",
    "LOCAL_RANK": "1",
    # torchrun may run inside a job of SLURM.
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
}


SRUN = {
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "6",
    "SLURM_NTASKS_PER_NODE": "3",
    "SLURM_NNODES": "2",
    "SLURM_PROCID": "4",
}


@pytest.mark.parametrize(
    ("devices", "nodes", "environ", "found"),
    [
        (None, None, {}, SINGLE),
        (1, 1, {"LOCAL_RANK": "3"}, SINGLE),
        (4, None, {}, Processes(per_node=4)),
        # One that Lightning started.
        (4, None, {"LOCAL_RANK": "2", "WORLD_SIZE": "4"}, Processes(per_node=4, rank=2)),
        (None, None, TORCHRUN, Processes(per_node=4, nodes=2, rank=5)),
        (4, 2, TORCHRUN, Processes(per_node=4, nodes=2, rank=5)),
        (None, None, SRUN, Processes(per_node=3, nodes=2, rank=4)),
        # A shell in a job of SLURM is no start of several processes.
        (None, None, {**SRUN, "SLURM_JOB_NAME": "interactive"}, SINGLE),
        (None, None, {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, SINGLE),
    ],
)
def test_processes_are_those_that_were_started(
    devices: int | None, nodes: int | None, environ: dict[str, str], found: Processes
) -> None:
    assert find_processes(devices, nodes, environ=environ, available=4) == found


@pytest.mark.parametrize(
    ("devices", "nodes", "environ", "kind", "message"),
    [
        (5, None, {}, TrainingError, "5 processes need one device each, but this machine has 4"),
        (None, None, {**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}, TrainingError, "8 processes need one device each"),
        (2, 2, {}, SettingsError, "`nodes` is 2, but no launcher started cytoloc on several"),
        (
            2,
            None,
            TORCHRUN,
            SettingsError,
            "torchrun started 4 processes on each of 2 machines, but `devices` is 2 and `nodes` is 2",
        ),
        (
            None,
            1,
            SRUN,
            SettingsError,
            "SLURM started 3 processes on each of 2 machines, but `devices` is 3 and `nodes` is 1",
        ),
        (2, None, {"SLURM_NTASKS": "1"}, SettingsError, "SLURM started 1 processes"),
        (
            None,
            None,
            {"SLURM_NTASKS": "2"},
            SettingsError,
            "SLURM has 2 tasks, but SLURM_NTASKS_PER_NODE is not set",
        ),
    ],
)
def test_processes_that_cannot_be_are_refused(
    devices: int | None, nodes: int | None, environ: dict[str, str], kind: type[CytolocError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        find_processes(devices, nodes, environ=environ, available=4)
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "test_resnet"])
def test_batch_norms_of_several_processes_keep_their_activations(
    backbone: str, study: Dataset, folds: pl.DataFrame
) -> None:
    settings = ["image.size=64", f"model.backbone={backbone}", "model.weights=none", "loss.arcface=0.1"]
    recipe = load_recipe("quick", overrides=[*settings, "compute.sync_batch_norm=true"])
    split = split_dataset(study, folds, 1)

    def norms(processes: Processes) -> tuple[dict[str, str], int, set[str]]:
        learner = build_learner(
            recipe, build_network(model_spec(recipe, locations=28)), study, split, processes=processes
        )
        kinds = {name: module for name, module in learner.named_modules() if isinstance(module, _BatchNorm)}
        acts = {name: str(getattr(module, "act", None)) for name, module in kinds.items()}
        return acts, sum(isinstance(one, nn.SyncBatchNorm) for one in kinds.values()), set(learner.state_dict())

    alone, of_two = norms(SINGLE), norms(Processes(per_node=2, rank=1))
    assert alone[0] == of_two[0]
    assert (alone[1], of_two[1]) == (0, len(of_two[0]))
    assert any(name.startswith("second_head") for name in of_two[0])
    assert alone[2] == of_two[2]


@pytest.mark.parametrize("backbone", ["densenet121", "resnet18"])
def test_stages_are_heard_after_their_batch_norms_were_replaced(
    backbone: str, study: Dataset, folds: pl.DataFrame
) -> None:
    # The last stage of a DenseNet is a batch norm itself.
    settings = ["image.size=64", f"model.backbone={backbone}", "model.weights=none", "model.head=multi-stage"]
    recipe = load_recipe("quick", overrides=[*settings, "compute.sync_batch_norm=true"])
    network = build_network(model_spec(recipe, locations=28)).eval()
    pixels = torch.randint(0, 256, (2, 4, 64, 64), dtype=torch.uint8)
    before = network(pixels)
    learner = build_learner(
        recipe, network, study, split_dataset(study, folds, 1), processes=Processes(per_node=2, rank=1)
    )
    assert any(isinstance(module, nn.SyncBatchNorm) for module in learner.modules())
    # Measuring with them, as here, needs no other process.
    torch.testing.assert_close(learner.network.eval()(pixels), before)


def batches_of(size: int, *, sync: bool = False) -> Recipe:
    return load_recipe(
        "quick", overrides=[f"schedule.batch_size={size}", f"compute.sync_batch_norm={str(sync).lower()}"]
    )


def test_batches_that_cannot_be_shared_are_refused() -> None:
    three = Processes(per_node=3)
    for size, message, even in (
        (8, "A batch of 8 fields cannot be shared by 3 processes evenly", 9),
        (3, "needs two", 6),
    ):
        with pytest.raises(TrainingError, match=message) as caught:
            check_batches(three, batches_of(size), fields=100, device="cpu")
        assert f"schedule.batch_size={even}," in caught.value.hint
        check_batches(three, batches_of(even), fields=100, device="cpu")
        check_batches(SINGLE, batches_of(size), fields=1, device="cpu")
    with pytest.raises(TrainingError, match="The training folds have 8 fields, fewer than a batch of 9"):
        check_batches(three, batches_of(9), fields=8, device="cpu")


def test_batch_norms_are_shared_on_gpus_alone() -> None:
    three = Processes(per_node=3)
    check_batches(SINGLE, batches_of(8, sync=True), fields=100, device="cpu")
    with pytest.raises(TrainingError, match="needs CUDA GPUs, but this machine trains on cpu"):
        check_batches(three, batches_of(3, sync=True), fields=100, device="cpu")
    check_batches(three, batches_of(3, sync=True), fields=100, device="cuda")


needs_two = pytest.mark.skipif(device_count(accelerator()) < PROCESSES, reason="two processes needs two cores")


@needs_two
@pytest.mark.slow
def test_two_processes_have_the_losses_and_the_steps_of_one(by_srun: Path) -> None:
    for rank in range(PROCESSES):
        seen = torch.load(by_srun / f"{rank}.pt", weights_only=True)
        for name, loss in TERMS.items():
            expected, weights = trained(loss, SINGLE)
            assert seen[name][0] == pytest.approx(expected, rel=1e-12), name
            for one, other in zip(seen[name][1], weights, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
            # Not by standing still.
            assert len(set(expected)) == 3, name


SETTINGS = [
    "image.size=64",
    "model.weights=none",
    "model.dropout=0",
    "select.tta=1",
    "schedule.batch_size=8",
    "schedule.frozen_epochs=1",
    "schedule.epochs=2",
]


# Without batch norms, whose measures depend on who sees which field; with everything else that looks at a whole batch.
ALIKE = [
    *SETTINGS,
    "model.backbone=test_convnext",
    "model.head=plain",
    "loss.symmetric_lovasz=0.5",
    "loss.macro_f1=0.5",
    "loss.hard_cross_entropy=0.1",
    "augment.mixup=0.4",
    "augment.rotate_degrees=20",
    "augment.tiles=0.5",
    "augment.lighting=0.1",
    "schedule.clip=1.0",
    "schedule.ema=0.9",
]


AVERAGED = [
    *SETTINGS,
    "model.backbone=test_resnet",
    "schedule.ema=0.9",
    "select.weights=ema",
    "schedule.epochs=1",
]


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def started_by_cytoloc(words: list[str]) -> None:
    run([[sys.executable, "-m", "cytoloc", *words, "--devices", str(PROCESSES)]], [{}])


def started_by_torchrun(words: list[str]) -> None:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}", "-m", "cytoloc"]
    run([[sys.executable, *start, *words]], [{}])


# A process takes seconds to start. Two processes, started as by srun, do what all tests below need two for.
EACH = """
import gc, json, sys
# What is imported is kept, so that the garbage collector has nothing to do.
gc.disable()
from tests.training.shards import train_a_shard
from cytoloc.cli.app import main

rank, folder, commands = sys.argv[1:]
train_a_shard(int(rank), folder)
for words in json.loads(commands):
    sys.argv = ["cytoloc", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
"""


def started_as_by_srun(commands: list[list[str]], folder: Path) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    job |= {"SLURM_NTASKS": str(PROCESSES), "SLURM_NTASKS_PER_NODE": str(PROCESSES)}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "PYTHONPATH": os.pathsep.join(sys.path)}
    each = [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(PROCESSES)]
    starts = [[sys.executable, "-c", EACH, str(rank), str(folder), json.dumps(commands)] for rank in range(PROCESSES)]
    run(starts, each)


def run(commands: list[list[str]], environments: list[dict[str, str]]) -> None:
    """Run commands side by side; all of them must end well."""
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    said = [one.communicate()[0] for one in started]
    assert [one.returncode for one in started] == [0] * len(started), said


def words_of(study: Dataset, folds: pl.DataFrame, folder: Path, settings: list[str]) -> list[str]:
    table = folder / "folds.csv"
    write_folds(folds, table)
    changes = [word for setting in settings for word in ("--set", setting)]
    return ["train", "quick", str(study.path), "--folds", str(table), "--out", str(folder / "two"), *changes]


@pytest.fixture(scope="module")
def uneven(folds: pl.DataFrame) -> pl.DataFrame:
    """Return folds of which one holds out a number of fields that two processes cannot share evenly."""
    first = folds.filter(pl.col("fold") == 1)["id"][0]
    fewer = folds.with_columns(pl.when(pl.col("id") != first).then("fold"))
    assert fewer.filter(pl.col("fold") == 1).height % PROCESSES == 1
    return fewer


@pytest.fixture(scope="module")
def alone(study: Dataset, uneven: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of one process."""
    out = tmp_path_factory.mktemp("alone")
    return train_fold(load_recipe("quick", overrides=ALIKE), study, uneven, 1, out=out)


@pytest.fixture(scope="module")
def by_srun(
    study: Dataset, folds: pl.DataFrame, uneven: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the folder of all that two processes trained: losses alone, one run, and in ``norms`` a run per fold."""
    folder = tmp_path_factory.mktemp("srun")
    (folder / "norms").mkdir()
    one_fold = [*words_of(study, uneven, folder, ALIKE), "--fold", "1"]
    started_as_by_srun([one_fold, words_of(study, folds, folder / "norms", AVERAGED)], folder)
    return folder


def assert_alike(one: Path, other: Path) -> None:
    """Compare two runs, but for the order in which floats were added up, which Adam's first steps magnify."""
    measures = ["epoch", "train_loss", "val_loss", "val_macro_f1", "learning_rate"]
    logs = [pl.read_csv(run / "log.csv").select(measures).to_numpy() for run in (one, other)]
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-5)
    first, second = state_of(one / "last.ckpt"), state_of(other / "last.ckpt")
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=2e-5, msg=name)
    predictions = [read_predictions(run / "predictions.parquet") for run in (one, other)]
    assert predictions[0].ids == predictions[1].ids
    np.testing.assert_allclose(predictions[0].probabilities, predictions[1].probabilities, atol=1e-5)


@needs_two
@pytest.mark.slow
@pytest.mark.parametrize("start", ["cytoloc", "torchrun", "srun"])
def test_a_run_of_two_processes_is_that_of_one(
    start: str, alone: Path, study: Dataset, uneven: pl.DataFrame, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    words = [*words_of(study, uneven, tmp_path, ALIKE), "--fold", "1"]
    if start == "cytoloc":
        started_by_cytoloc(words)
    elif start == "torchrun":
        # One process starts the run, and two resume it.
        with power_cut(2):
            train_fold(load_recipe("quick", overrides=ALIKE), study, uneven, 1, out=tmp_path / "two")
        started_by_torchrun([*words, "--resume"])
    else:
        tmp_path = request.getfixturevalue("by_srun")
    both = tmp_path / "two" / "quick-fold1"
    assert {path.name for path in both.iterdir()} == {path.name for path in alone.iterdir()}
    assert (tmp_path / "two" / "quick-curve.png").exists()
    assert_alike(both, alone)
    begun_by = 1 if start == "torchrun" else PROCESSES
    assert json.loads((both / "run.json").read_text())["environment"]["processes"] == begun_by


@needs_two
@pytest.mark.slow
def test_with_batch_norms_the_kept_weights_are_those_that_were_measured(by_srun: Path, study: Dataset) -> None:
    folder = by_srun / "norms"
    for number in range(3):
        path = folder / "two" / f"quick-fold{number}"
        model = load(path)
        split = split_dataset(open_dataset(study.path), read_folds(folder / "folds.csv"), number)
        held = FieldBatches(study, split.held_out)
        loss = location_loss(load_recipe("quick").loss)
        with torch.inference_mode():
            measured = [
                (len(batch.images), loss(features_and_logits(model.networks[0], batch.images)[1], batch.targets))
                for batch in batch_loader(held, np.arange(len(held)), batch_size=8)
            ]
        mean = sum(count * float(value) for count, value in measured) / len(held)
        assert pl.read_csv(path / "log.csv")["val_loss"][-1] == pytest.approx(mean, rel=1e-5)
        predictions = read_predictions(path / "predictions.parquet")
        assert list(predictions.ids) == json.loads((path / "run.json").read_text())["held_out"]
        again = model.predict_sources([DatasetSource(study, split.held_out)])
        np.testing.assert_allclose(predictions.probabilities, again.probabilities, atol=1e-5)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, best in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=cuda: there)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda there=mps: there)
        assert (accelerator(), accelerator("cpu")) == (best, "cpu")
        assert device_count(accelerator("cpu")) >= 1
    with pytest.raises(SettingsError, match="`device` is 'cuda', which is not available on this machine"):
        find_processes(None, None, environ={}, device="cuda")
    with pytest.raises(SettingsError, match="`device` is 'gpu'"):
        accelerator("gpu")  # type: ignore[arg-type]
