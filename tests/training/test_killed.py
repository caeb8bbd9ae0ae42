"""A training that is killed at any change of the disk, and resumed, ends with the weights of an undisturbed one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cytoloc.curation.folds_file import write_folds
from cytoloc.dataset.store import Dataset
from cytoloc.prediction_files import read_predictions
from tests.training.conftest import few_of, state_of

CHILD = """
import gc, os, signal, sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
# What is imported is kept, so that the garbage collector has nothing to do.
gc.disable()
import torch
from cytoloc.dataset.store import open_dataset
from cytoloc.curation.folds_file import read_folds
from cytoloc.recipes.recipe import load_recipe
from cytoloc.training.options import TrainOptions
from cytoloc.training.run import train as train_runs

torch.set_num_threads(1)
# What the first training imports, if it is there: here once, not in each process below.
for name in ("adlfs", "gcsfs", "s3fs", "pandas", "pyarrow.parquet"):
    if find_spec(name):
        import_module(name)
dataset, folds, whole, killed = map(Path, sys.argv[1:])
settings = ["image.size=64", "model.backbone=test_resnet", "model.weights=none", "select.tta=1",
            "schedule.batch_size=4", "schedule.frozen_epochs=0", "schedule.epochs=2", "schedule.ema=0.9",
            "select.weights=ema"]
recipe = load_recipe("quick", overrides=settings)

def train(out):
    options = TrainOptions(resume=True, report=lambda line: None)
    train_runs(recipe, open_dataset(dataset), read_folds(folds), fold=1, out=out, options=options)

def attempt(out, dies_at):
    # Return how a process of its own ends that dies just before, or just after, the given change of the disk.
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = 0
    def dying(change):
        def once(*words, **options):
            nonlocal changes
            changes += 1
            mine = changes
            if mine == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            done = change(*words, **options)
            if mine == -dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        return once
    for owner, name in ((Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "mkdir"), (os, "rename")):
        setattr(owner, name, dying(getattr(owner, name)))
    code = 1
    try:
        train(out)
        code = 0
    finally:
        os._exit(code)

print(attempt(whole, 0))
number, ended = 0, -1
while ended < 0:
    number += 1
    ended = attempt(killed / str(number), number if number % 2 else -number)
    print(ended if ended >= 0 else ended + attempt(killed / str(number), 0))
"""


@pytest.mark.slow
def test_killed_at_any_change_of_the_disk_it_ends_with_the_same_weights(
    study: Dataset, folds: pl.DataFrame, tmp_path: Path
) -> None:
    write_folds(few_of(folds, {0: 8, 1: 4}), tmp_path / "folds.csv")
    words = [study.path, tmp_path / "folds.csv", tmp_path / "whole", tmp_path / "killed"]
    said = subprocess.run([sys.executable, "-c", CHILD, *map(str, words)], capture_output=True, text=True, check=True)
    undisturbed, *killed, last = map(int, said.stdout.split())
    assert (undisturbed, last) == (0, 0), said.stderr
    # Each is killed once, and then ends well.
    assert len(killed) >= 12
    assert set(killed) == {-signal.SIGKILL}, said.stderr
    whole = tmp_path / "whole" / "quick-fold1"
    for number in range(1, len(killed) + 1):
        assert_same(whole, tmp_path / "killed" / str(number) / "quick-fold1")


def assert_same(whole: Path, resumed: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        one, other = (state_of(run / name) for run in (whole, resumed))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), resumed
    predictions, again = (read_predictions(run / "predictions.parquet") for run in (whole, resumed))
    assert predictions.ids == again.ids
    np.testing.assert_array_equal(predictions.probabilities, again.probabilities)
    logs = [pl.read_csv(run / "log.csv").drop("images_per_second", "data_wait", "seconds") for run in (whole, resumed)]
    assert logs[0].equals(logs[1])
    # Nothing half-written is left.
    assert {path.name for path in whole.iterdir()} == {path.name for path in resumed.iterdir()}
