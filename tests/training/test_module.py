"""The training step, its precision, the optimizer, and averages of weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cytoloc.dataset.store import Dataset
from cytoloc.errors import TrainingError
from cytoloc.models.network import build_network, features_and_logits
from cytoloc.predict.loading import load
from cytoloc.predict.runs import load_network, model_spec
from cytoloc.training.callbacks import EpochLog
from cytoloc.training.data import split_dataset
from cytoloc.training.distributed import accelerator, check_precision
from cytoloc.training.module import Learner, averaged, ema_weight
from cytoloc.training.resolve import build_learner
from tests.training.conftest import EVERYTHING, network_of, same, state_of, stop_in, tiny, train_fold

HALF = [
    "compute.precision=bfloat16",
    "schedule.epochs=2",
    "loss.arcface=0.1",
    "loss.macro_f1=0.5",
    "schedule.clip=1.0",
    "schedule.ema=0.9",
]


def test_in_half_precision_the_backbone_alone_has_fewer_bits(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    kinds: set[tuple[str, torch.dtype]] = set()

    class Watch(lightning.Callback):
        def on_fit_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
            last = [module for module in pl_module.network.backbone.modules() if isinstance(module, nn.Conv2d)][-1]
            for name, module in {
                "backbone": last,
                "head": pl_module.network.head,
                "second": pl_module.second_head,
            }.items():
                module.register_forward_hook(self.keeper(name))

        def keeper(self, name: str) -> Any:
            def keep(module: nn.Module, _given: Any, made: Tensor) -> None:
                if module.training:
                    kinds.add((name, made.dtype))

            return keep

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            kinds.add(("loss", outputs["loss"].dtype))

    run = train_fold(tiny(*HALF), study, folds, 1, out=tmp_path, callbacks=[Watch()])
    whole = {(name, torch.float32) for name in ("head", "second", "loss")}
    assert kinds == whole | {("backbone", torch.bfloat16)}
    state = state_of(run / "last.ckpt")
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}
    assert len(load(run).networks) == 1


def test_half_precision_resumes_bitwise(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    undisturbed = train_fold(tiny(*HALF), study, folds, 1, out=tmp_path / "whole")
    stop_in(1, tiny(*HALF), study, folds, tmp_path)
    resumed = train_fold(tiny(*HALF), study, folds, 1, out=tmp_path, resume=True)
    one, other = state_of(undisturbed / "last.ckpt"), state_of(resumed / "last.ckpt")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    single = state_of(train_fold(tiny(*HALF[1:]), study, folds, 1, out=tmp_path / "float32") / "last.ckpt")
    assert any(not torch.equal(one[name], single[name]) for name in one)


def test_float16_is_refused_where_it_cannot_be_trained(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    for device in ("cpu", "mps"):
        with pytest.raises(TrainingError, match=f"needs a CUDA GPU, but this machine trains on {device}"):
            check_precision("float16", device)
    for precision, device in (("float16", "cuda"), ("bfloat16", "cpu"), ("float32", "mps")):
        check_precision(precision, device)
    if accelerator() != "cuda":
        with pytest.raises(TrainingError, match=r"`compute\.precision` is float16"):
            train_fold(tiny("compute.precision=float16"), study, folds, 1, out=tmp_path)


def test_pixels_and_filters_have_their_channels_last() -> None:
    network = build_network(model_spec(tiny(), locations=28))
    layouts: list[tuple[bool, bool]] = []

    def look(module: nn.Conv2d, given: tuple[Tensor], _made: Tensor) -> None:
        last = torch.channels_last
        layouts.append((given[0].is_contiguous(memory_format=last), module.weight.is_contiguous(memory_format=last)))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(look)
    features_and_logits(network, torch.zeros(2, 4, 64, 64, dtype=torch.uint8))
    assert len(layouts) > 5
    assert set(layouts) == {(True, True)}


@pytest.mark.parametrize(
    ("settings", "fused"),
    [
        ([], True),
        (["schedule.clip=1.0"], True),
        (["compute.precision=bfloat16"], True),
        (["compute.precision=bfloat16", "schedule.clip=1.0"], False),
    ],
)
def test_all_weights_are_updated_at_once_where_lightning_can(
    settings: list[str],
    fused: bool,  # noqa: FBT001  pytest passes it by name
    study: Dataset,
    folds: pl.DataFrame,
) -> None:
    recipe = tiny(*settings)
    network = build_network(model_spec(recipe, locations=28))
    learner = build_learner(recipe, network, study, split_dataset(study, folds, 1))
    assert learner.configure_optimizers()["optimizer"].param_groups[0]["fused"] == fused


def test_the_weights_that_a_recipe_selects_are_those_that_it_names(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[dict[str, torch.Tensor]] = []
    kept = Learner.on_train_epoch_end

    def keep(learner: Learner) -> None:
        kept(learner)
        ends.append({name: value.clone() for name, value in learner.network.state_dict().items()})

    monkeypatch.setattr(Learner, "on_train_epoch_end", keep)
    settings = ["schedule.epochs=3", "schedule.swa_epochs=2", "schedule.ema=0.5"]
    recipe = tiny(*settings, "select.weights=swa")
    run = train_fold(recipe, study, folds, 1, out=tmp_path)
    mean = load_network(run / "last.ckpt", recipe, locations=28).state_dict()
    for name, value in mean.items():
        expected = (ends[1][name] + ends[2][name]) / 2 if value.is_floating_point() else ends[2][name]
        assert torch.allclose(value, expected, atol=1e-6), name
    plain = load_network(run / "last.ckpt", tiny(*settings), locations=28).state_dict()
    moving = load_network(run / "last.ckpt", tiny(*settings, "select.weights=ema"), locations=28).state_dict()
    assert same(plain, ends[2])
    assert not same(moving, plain)
    assert same(load(run).networks[0].state_dict(), mean)


@pytest.mark.parametrize("weights", ["plain", "ema", "swa"])
def test_an_epoch_is_measured_by_the_weights_that_are_used(
    weights: str, study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, torch.Tensor]] = []
    own: list[dict[str, torch.Tensor]] = []
    step = Learner.validation_step

    def keep(learner: Learner, batch: Any, index: int) -> None:
        measured.append({name: value.clone() for name, value in learner.network.state_dict().items()})
        step(learner, batch, index)

    monkeypatch.setattr(Learner, "validation_step", keep)
    monkeypatch.setattr(
        Learner,
        "on_train_epoch_end",
        lambda learner: own.append({name: value.clone() for name, value in learner.network.state_dict().items()}),
    )
    settings = ["schedule.epochs=3", "schedule.swa_epochs=2", "schedule.ema=0.5", f"select.weights={weights}"]
    run = train_fold(tiny(*settings), study, folds, 1, out=tmp_path)
    batches = len(measured) // 3
    assert same(measured[-1], load(run).networks[0].state_dict())
    assert same(measured[-1], own[2]) == (weights == "plain")
    # Before its first epoch there is no mean.
    assert same(measured[batches - 1], own[0]) == (weights != "ema")


def test_images_grow_and_are_cut_from_larger_fields(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges: list[int] = []

    def watch(network: Any, images: torch.Tensor, **named: Any) -> Any:
        if named:
            edges.append(images.shape[-1])
        return features_and_logits(network, images, **named)

    monkeypatch.setattr("cytoloc.training.module.features_and_logits", watch)
    settings = ["image.size=48", "image.field_size=64", "image.progressive=[32]", "schedule.epochs=2"]
    run = train_fold(tiny(*settings), study, folds, 1, out=tmp_path)
    assert edges == [32] * (len(edges) // 2) + [48] * (len(edges) // 2)
    assert len(edges) >= 4
    assert load(run).size == 64


def test_antibodies_are_trained_beside_locations_and_left_out_of_the_model(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    plain = train_fold(tiny(), study, folds, 1, out=tmp_path / "plain")
    both = train_fold(tiny("loss.arcface=0.5"), study, folds, 1, out=tmp_path)
    assert network_of(plain / "last.ckpt").keys() == network_of(both / "last.ckpt").keys()
    assert not same(network_of(plain / "last.ckpt"), network_of(both / "last.ckpt"))
    split = study.fields.filter(~pl.col("id").is_in(folds.filter(pl.col("fold") == 1)["id"].to_list()))
    state = torch.load(both / "last.ckpt", weights_only=True)["state_dict"]
    assert state["second_head.directions"].shape == (split["antibody"].n_unique(), 512)

    unknown = Dataset(
        study.path, study.manifest, study.fields.with_columns(antibody=pl.lit(None, pl.String)), study._array
    )
    with pytest.raises(TrainingError, match="states 0 antibodies"):
        train_fold(tiny("loss.arcface=0.5"), unknown, folds, 1, out=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def states(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"w": torch.randn(3, generator=generator, dtype=torch.float64), "batches": torch.tensor(number)}
        for number in range(count)
    ]


def test_running_means_are_means() -> None:
    mean = None
    for place, state in enumerate(states(5), start=1):
        mean = averaged(None if place == 1 else mean, state, weight=1 / place)
    assert mean is not None
    assert torch.allclose(mean["w"], torch.stack([state["w"] for state in states(5)]).mean(dim=0))
    assert mean["batches"] == 4


def test_an_average_is_a_copy() -> None:
    state = states(1)[0]
    average = averaged(None, state, weight=1)
    state["w"] += 1
    assert torch.equal(average["w"], states(1)[0]["w"])


def test_moving_averages_forget_by_their_decay() -> None:
    assert ema_weight(0.9, 10_000) == pytest.approx(0.1)
    assert ema_weight(0.999, 1) == pytest.approx(1 - 2 / 11)
    average, by_hand = None, states(1)[0]["w"]
    for step, state in enumerate(states(30), start=1):
        share = ema_weight(0.9, step)
        average = averaged(average, state, weight=share)
        by_hand = by_hand if step == 1 else (1 - share) * by_hand + share * state["w"]
    assert average is not None
    assert torch.allclose(average["w"], by_hand)


def test_the_frozen_epoch_changes_the_head_alone(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny("schedule.epochs=1", "schedule.frozen_epochs=1")
    seen: list[dict[str, torch.Tensor]] = []
    keep = EpochLog.on_train_epoch_end

    def snapshot(log: EpochLog, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        keep(log, trainer, pl_module)
        seen.append(
            {name: value.clone() for name, value in [*pl_module.named_parameters(), *pl_module.named_buffers()]}
        )

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochLog, "on_train_epoch_end", snapshot)
        train_fold(recipe, study, folds, 0, out=tmp_path)
        # The same first weights, from the same seed, before any step.
        before: list[dict[str, torch.Tensor]] = []
        measured: list[tuple[str, torch.Tensor]] = []

        def first(log: EpochLog, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            before.append({name: value.clone() for name, value in pl_module.named_parameters()})
            measured.extend((name, value.clone()) for name, value in pl_module.named_buffers())
            raise RuntimeError("enough")

        patch.setattr(EpochLog, "on_train_epoch_start", first)
        with pytest.raises(RuntimeError, match="enough"):
            train_fold(recipe, study, folds, 0, out=tmp_path / "again")
    body = [name for name in before[0] if name.startswith("network.backbone")]
    head = [name for name in before[0] if name.startswith("network.head")]
    assert all(torch.equal(before[0][name], seen[0][name]) for name in body)
    assert all(not torch.equal(before[0][name], seen[0][name]) for name in head)
    assert any(not torch.equal(seen[0][name], seen[1][name]) for name in body)
    # What frozen batch norms measure goes on adapting.
    norms = [(name, value) for name, value in measured if "backbone" in name and name.endswith("running_mean")]
    assert norms
    assert all(not torch.equal(value, seen[0][name]) for name, value in norms)


class Step(NamedTuple):
    """What a step of the optimizer was made with."""

    rate: float
    betas: tuple[float, float]
    decay: float
    gradient: float
    parameters: int


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Return a list that the steps of the runs to come are added to."""
    made: list[Step] = []
    configure = Learner.configure_optimizers

    def note(optimizer: torch.optim.Optimizer, _args: Any, _named: Any) -> None:
        (group,) = optimizer.param_groups
        gradients = [value.grad.flatten() for value in group["params"] if value.grad is not None]
        norm = float(torch.cat(gradients).norm())
        made.append(Step(group["lr"], group["betas"], group["weight_decay"], norm, len(group["params"])))

    def watched(learner: Learner) -> Any:
        configured = configure(learner)
        configured["optimizer"].register_step_post_hook(note)
        return configured

    monkeypatch.setattr(Learner, "configure_optimizers", watched)
    return made


def height_by_hand(progress: float) -> float:
    if progress < 0.3:
        return (1 - math.cos(math.pi * progress / 0.3)) / 2
    return (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2


def test_steps_have_the_rates_betas_decay_and_bound_of_the_recipe(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Step]
) -> None:
    seeds: list[int] = []

    def keep(*words: Any, **named: Any) -> Any:
        if named:
            seeds.append(torch.initial_seed())
        return features_and_logits(*words, **named)

    monkeypatch.setattr("cytoloc.training.module.features_and_logits", keep)
    recipe = tiny(
        "schedule.frozen_epochs=1",
        "schedule.epochs=2",
        "schedule.cycles=[1.0, 0.5]",
        "schedule.accumulate=2",
        "schedule.learning_rate=2e-3",
        "schedule.weight_decay=0.03",
        "schedule.betas=[0.8, 0.98]",
        "schedule.momentum=[0.95, 0.85]",
        "schedule.batch_size=4",
        "schedule.clip=0.01",
        "loss.arcface=0.1",
    )
    train_fold(recipe, study, folds, 1, out=tmp_path)
    fields = len(split_dataset(study, folds, 1).train)
    an_epoch = math.ceil(fields // 4 / 2)
    assert len(steps) == 5 * an_epoch
    assert len(set(seeds)) == len(seeds) == 5 * (fields // 4)
    for number, step in enumerate(steps):
        cycle, place = divmod(number - an_epoch, 2 * an_epoch)
        height = height_by_hand(place / (2 * an_epoch))
        rising = place / (2 * an_epoch) < 0.3
        rate = (1.0, 0.5)[cycle] * (1 / 25 + 24 / 25 * height if rising else height) if cycle >= 0 else 1.0
        assert step.rate == pytest.approx(2e-3 * rate, abs=1e-12), number
        assert step.betas == pytest.approx((0.95 - 0.1 * height if cycle >= 0 else 0.8, 0.98)), number
        assert step.decay == 0.03
        assert step.gradient <= 0.0101
    split = split_dataset(study, folds, 1)
    learner = build_learner(recipe, build_network(model_spec(recipe, locations=28)), study, split)
    assert learner.second is not None
    both = [*learner.network.parameters(), *learner.second.head.parameters()]
    assert {step.parameters for step in steps} == {len(both)}


def test_without_a_bound_and_without_cycled_momentum(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, steps: list[Step]
) -> None:
    recipe = tiny("schedule.frozen_epochs=0", "schedule.epochs=1")
    train_fold(recipe, study, folds, 1, out=tmp_path)
    assert {step.betas for step in steps} == {(0.9, 0.999)}
    assert min(step.gradient for step in steps) > 0.0101


READS = {"item", "tolist", "cpu", "numpy", "nonzero", "masked_select", "unique"}
READS |= {"__bool__", "__float__", "__int__", "__index__"}


class DeviceReads(TorchFunctionMode):
    """Notices what would make the host wait for a GPU, on tensors that would be on it.

    These are the weights, the batches, and everything that is computed from them. Random numbers are drawn on the CPU,
    where the host may read them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.device: dict[int, Tensor] = {}

    def tag(self, values: object) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self.device[id(value)] = value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        if any(id(value) in self.device for value in given):
            name = func.__name__
            mask = name in {"__getitem__", "__setitem__"} and any(
                isinstance(index, Tensor) and index.dtype == torch.bool for index in tree_leaves(args[1])
            )
            if name in READS or mask:
                self.reads.append(name)
            made = func(*args, **(kwargs or {}))
            self.tag(made)
            return made
        return func(*args, **(kwargs or {}))


class WatchSteps(lightning.Callback):
    """Notices reads from the first step of an epoch to the last; of the last one, without the moving average."""

    def __init__(self) -> None:
        self.mode = DeviceReads()
        self.active = False
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.mode.tag([tuple(batch), *pl_module.parameters(), *pl_module.buffers()])
        if not self.active:
            self.active = True
            self.mode.__enter__()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        if batch_idx + 1 == trainer.num_training_batches:
            self.active = False
            self.mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def test_no_step_waits_for_the_device(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    recipe = tiny(*EVERYTHING, "augment.warp=0.1", "augment.zoom=1.2", "image.size=48", "image.field_size=64")
    watch = WatchSteps()
    train_fold(recipe, study, folds, 1, out=tmp_path, callbacks=[watch])
    assert watch.steps >= 12
    assert watch.mode.reads == []


def test_a_step_that_waits_for_the_device_is_noticed(study: Dataset, folds: pl.DataFrame, tmp_path: Path) -> None:
    def slow(logits: Tensor, targets: Tensor) -> Tensor:
        loss = (logits * targets)[targets > 0.5].mean()
        return loss if loss > float(loss.detach()) - 1 else -loss

    watch = WatchSteps()
    train_fold(tiny(), study, folds, 1, out=tmp_path, callbacks=[watch], loss=slow)
    assert set(watch.mode.reads) == {"__getitem__", "__float__", "__bool__"}


def test_batches_are_copied_to_cuda_from_pinned_memory_without_waiting(
    study: Dataset, folds: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny()
    network = build_network(model_spec(recipe, locations=28))
    learner = build_learner(recipe, network, study, split_dataset(study, folds, 1))
    batch = learner.fold.train.__getitems__([0, 1])
    copies: list[tuple[torch.device, bool]] = []

    def copied(tensor: Tensor, device: torch.device, *, non_blocking: bool) -> Tensor:
        copies.append((device, non_blocking))
        return tensor

    monkeypatch.setattr(Tensor, "to", copied)
    for kind, asynchronous in (("cuda", True), ("cpu", False)):
        copies.clear()
        device = torch.device(kind)
        learner.transfer_batch_to_device(batch, device, 0)
        assert copies == [(device, asynchronous)] * 3
        monkeypatch.setattr(Learner, "device", device)
        assert learner.train_dataloader().pin_memory is asynchronous
        assert learner.val_dataloader().pin_memory is asynchronous
