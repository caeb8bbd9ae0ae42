from __future__ import annotations

import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from torch import nn
from torch.distributed import DistBackendError
from torch.nn.modules.batchnorm import _BatchNorm

from cytoloc.dataset.store import Dataset
from cytoloc.errors import CytolocError, SettingsError, TrainingError
from cytoloc.models.network import build_network
from cytoloc.predict.runs import model_spec
from cytoloc.recipe import Recipe, load_recipe
from cytoloc.training.data import split_dataset
from cytoloc.training.processes import ALONE, Processes, SameStart, find_processes, others, refuse_processes
from cytoloc.training.together import Share
from cytoloc.training.unpacking import build_learner

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
        (None, None, {}, ALONE),
        (1, 1, {"LOCAL_RANK": "3"}, ALONE),
        (4, None, {}, Processes(per_node=4)),
        # One that Lightning started.
        (4, None, {"LOCAL_RANK": "2", "WORLD_SIZE": "4"}, Processes(per_node=4, rank=2)),
        (None, None, TORCHRUN, Processes(per_node=4, nodes=2, rank=5)),
        (4, 2, TORCHRUN, Processes(per_node=4, nodes=2, rank=5)),
        (None, None, SRUN, Processes(per_node=3, nodes=2, rank=4)),
        # A shell in a job of SLURM is no start of several processes.
        (None, None, {**SRUN, "SLURM_JOB_NAME": "interactive"}, ALONE),
        (None, None, {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, ALONE),
    ],
)
def test_processes_are_those_that_were_started(
    devices: int | None, nodes: int | None, environ: dict[str, str], found: Processes
) -> None:
    assert find_processes(devices, nodes, environ=environ, available=4) == found


@pytest.mark.parametrize(
    ("devices", "nodes", "environ", "kind", "message"),
    [
        (5, None, {}, TrainingError, "5 processes need a device each; this machine has 4"),
        (None, None, {**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}, TrainingError, "8 processes need a device each"),
        (2, 2, {}, SettingsError, "2 machines need something that starts cytoloc on each"),
        (2, None, TORCHRUN, SettingsError, "torchrun started 4 processes on each of 2 machines, but 2 on each of 2"),
        (None, 1, SRUN, SettingsError, "SLURM started 3 processes on each of 2 machines, but 3 on each of 1"),
        (2, None, {"SLURM_NTASKS": "1"}, SettingsError, "SLURM started 1 processes"),
        (None, None, {"SLURM_NTASKS": "2"}, SettingsError, "SLURM has 2 tasks, but not a number for each machine"),
    ],
)
def test_processes_that_cannot_be_are_refused(
    devices: int | None, nodes: int | None, environ: dict[str, str], kind: type[CytolocError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        find_processes(devices, nodes, environ=environ, available=4)
    assert message in caught.value.message
    assert caught.value.hint


def test_processes_that_do_not_start_alike_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    start = {"run": "quick-fold1", "recipe": "a", "goes on": True}
    said = [start, {**start, "goes on": False}]
    monkeypatch.setattr("cytoloc.training.processes.told", lambda own: [own, *said[1:]])
    trainer, module = lightning.Trainer(logger=False, enable_checkpointing=False), lightning.LightningModule()
    with pytest.raises(TrainingError, match="Processes 0 and 1 do not start alike: goes on") as caught:
        SameStart(start).setup(trainer, module, "fit")
    assert "a folder that all machines share" in caught.value.hint
    SameStart(said[1]).setup(trainer, module, "fit")


def test_a_process_whose_others_are_gone_says_so() -> None:
    for error in (
        RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"),
        DistBackendError("timed out"),
    ):
        with pytest.raises(TrainingError, match="Another process that learns this run has ended"), others():
            raise error
    with pytest.raises(RuntimeError, match="no such operator"), others():
        raise RuntimeError("no such operator")


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "test_resnet"])
def test_batch_norms_of_several_processes_keep_their_activations(
    backbone: str, study: Dataset, folds: pl.DataFrame
) -> None:
    settings = ["image.size=64", f"model.backbone={backbone}", "model.weights=none", "loss.arcface=0.1"]
    recipe = load_recipe("quick", overrides=[*settings, "compute.sync_batch_norm=true"])
    split = split_dataset(study, folds, 1)

    def norms(share: Share) -> tuple[dict[str, str], int, set[str]]:
        learner = build_learner(recipe, build_network(model_spec(recipe, locations=28)), study, split, share=share)
        kinds = {name: module for name, module in learner.named_modules() if isinstance(module, _BatchNorm)}
        acts = {name: str(getattr(module, "act", None)) for name, module in kinds.items()}
        return acts, sum(isinstance(one, nn.SyncBatchNorm) for one in kinds.values()), set(learner.state_dict())

    alone, of_two = norms(Share()), norms(Share(1, 2))
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
    learner = build_learner(recipe, network, study, split_dataset(study, folds, 1), share=Share(1, 2))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in learner.modules())
    # Measuring with them, as here, needs no other process.
    torch.testing.assert_close(learner.network.eval()(pixels), before)


def batches_of(size: int, *, sync: bool = False) -> Recipe:
    return load_recipe(
        "quick", overrides=[f"schedule.batch_size={size}", f"compute.sync_batch_norm={str(sync).lower()}"]
    )


def test_batches_that_cannot_be_shared_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    three = Processes(per_node=3)
    for size, message, even in (
        (8, "A batch of 8 fields cannot be shared by 3 processes evenly", 9),
        (3, "need two", 6),
    ):
        with pytest.raises(TrainingError, match=message) as caught:
            refuse_processes(three, batches_of(size), fields=100)
        assert f"schedule.batch_size={even}," in caught.value.hint
        refuse_processes(three, batches_of(even), fields=100)
        refuse_processes(ALONE, batches_of(size), fields=1)
    with pytest.raises(TrainingError, match="The 8 fields to learn from are fewer than a batch of 9"):
        refuse_processes(three, batches_of(9), fields=8)


def test_batch_norms_are_shared_on_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    three = Processes(per_node=3)
    refuse_processes(ALONE, batches_of(8, sync=True), fields=100)
    monkeypatch.setattr("cytoloc.training.processes.accelerator", lambda: "cpu")
    with pytest.raises(TrainingError, match="needs CUDA GPUs; this machine has a cpu device"):
        refuse_processes(three, batches_of(3, sync=True), fields=100)
    monkeypatch.setattr("cytoloc.training.processes.accelerator", lambda: "cuda")
    refuse_processes(three, batches_of(3, sync=True), fields=100)
