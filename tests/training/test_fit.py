"""The training loop: memory, compilation, and processes that are gone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.distributed import DistBackendError

from cytoloc.dataset.store import Dataset
from cytoloc.errors import TrainingError
from cytoloc.models.network import build_network
from cytoloc.predict.runs import model_spec
from cytoloc.prediction_files import read_predictions
from cytoloc.training.data import split_dataset
from cytoloc.training.distributed import Processes
from cytoloc.training.fit import clear_errors
from cytoloc.training.resolve import build_learner
from tests.training.conftest import few_of, state_of, stop_in, tiny, train_fold


def test_too_little_memory_is_a_clear_error(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ):

        def full(*_words: Any, what: Exception = error, **_named: Any) -> Any:
            raise what

        monkeypatch.setattr("cytoloc.training.module.features_and_logits", full)
        with pytest.raises(TrainingError, match="A batch of 8 fields of 64 px does not fit") as caught:
            train_fold(tiny(), study, folds, 1, out=tmp_path / str(id(error)))
        assert "schedule.batch_size=4 and schedule.accumulate=2" in caught.value.hint
    with pytest.raises(TrainingError, match="A batch of 2 fields") as caught:
        train_fold(tiny("schedule.batch_size=2"), study, folds, 1, out=tmp_path / "two")
    assert "schedule.batch_size" not in caught.value.hint


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_words: Any, **_named: Any) -> Any:
        raise NotImplementedError("no such operator on this device")

    monkeypatch.setattr("cytoloc.training.module.features_and_logits", fail)
    with pytest.raises(NotImplementedError, match="no such operator"):
        train_fold(tiny(), study, folds, 1, out=tmp_path)


@pytest.mark.slow
def test_a_compiled_run_resumes_bitwise_and_loads_as_one_that_is_not(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of torch.compile but the compiler of C++, which takes most of a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    # The head that takes the maps of several stages is the hardest one to compile.
    settings = ["model.head=multi-stage", "model.dropout=0", "schedule.epochs=2"]
    # Batches of one size, because another size is compiled anew.
    folds = few_of(folds, {0: 8, 1: 8})
    plain = train_fold(tiny(*settings), study, folds, 1, out=tmp_path / "plain")
    recipe = tiny(*settings, "compute.compile=true")
    run = train_fold(recipe, study, folds, 1, out=tmp_path / "whole")
    stop_in(1, recipe, study, folds, tmp_path)
    resumed = train_fold(recipe, study, folds, 1, out=tmp_path, resume=True)
    one, other = state_of(run / "last.ckpt"), state_of(resumed / "last.ckpt")
    assert all(torch.equal(one[name], other[name]) for name in one)
    expected = state_of(plain / "last.ckpt")
    assert one.keys() == expected.keys()
    losses = [pl.read_csv(path / "log.csv")["train_loss"][0] for path in (run, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert any(not torch.equal(one[name], expected[name]) for name in one)
    of_both = [read_predictions(path / "predictions.parquet").probabilities for path in (run, plain)]
    np.testing.assert_allclose(of_both[0], of_both[1], atol=0.05)


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_is_a_clear_error(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor
    from torch._inductor.utils import fresh_cache

    monkeypatch.setattr(inductor.cpp, "cxx", (str(tmp_path / "no-compiler"),))
    with fresh_cache(), pytest.raises(TrainingError, match="The network cannot be compiled") as caught:
        train_fold(tiny("compute.compile=true"), study, folds, 1, out=tmp_path)
    assert "compute.compile=false" in caught.value.hint


def test_a_process_whose_others_are_gone_says_so(study: Dataset, folds: pl.DataFrame) -> None:
    recipe, split, two = tiny(), split_dataset(study, folds, 1), Processes(per_node=2)
    network = build_network(model_spec(recipe, locations=28))
    learner = build_learner(recipe, network, study, split, processes=two)
    for error in (
        RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"),
        DistBackendError("timed out"),
    ):
        with (
            pytest.raises(TrainingError, match="Another process that trains this run has ended"),
            clear_errors(learner, size=64),
        ):
            raise error
    with pytest.raises(RuntimeError, match="no such operator"), clear_errors(learner, size=64):
        raise RuntimeError("no such operator")
