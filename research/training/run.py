"""Compare the silver-medal baseline with cytoloc on a simulated study, and single changes of the recipe.

    cytoloc simulate --format study --fields 1500 --seed 42 --size 128 --original 256 --evenness 0.8 --out study/
    python research/training/run.py study/ work/ [--jobs 2]

Makes folds, trains or resumes all networks, predicts the test set with each, and prints the tables of
`research/results.md`. `work/results.json` contains all results. Nothing is selected on the test set: thresholds are
fitted to out-of-fold predictions, and the recipes were fixed on another study (`--seed 41 --evenness 0.5`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from evaluation import changes_table, chosen, decisions_table, systems_table
from plan import BASE, CHANGES, HONEST_SPLIT, OURS, RANDOM_SPLIT, every_run

from cytoloc import open_dataset
from cytoloc.predict.loading import load
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.runs import load_network
from cytoloc.predict.sources import DatasetSource, Source
from cytoloc.predictions import read_predictions, write_predictions
from cytoloc.recipes.recipe import read_resolved


def cytoloc(*words: object, log: Path | None = None) -> None:
    """Run a command of cytoloc with one thread, with its output in a file or on the terminal."""
    call = [sys.executable, "-m", "cytoloc", *map(str, words)]
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    if log is None:
        subprocess.run(call, check=True, env=threads)  # noqa: S603  our own command
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        subprocess.run(call, check=True, env=threads, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603  likewise


def make_folds(study: Path, work: Path) -> None:
    """Split the training fields into folds twice: at random, as in the silver-medal baseline, and by groups."""
    train = study / "train.dataset"
    if not (work / "random.csv").exists():
        cytoloc("folds", train, "--group", "field", "--out", work / "random.csv")
    if not (work / "pairs.csv").exists():
        cytoloc("duplicates", train, "--out", work / "pairs.csv")
    if not (work / "honest.csv").exists():
        cytoloc("folds", train, "--pairs", work / "pairs.csv", "--out", work / "honest.csv")


def train_all(study: Path, work: Path, *, jobs: int) -> None:
    """Train all missing networks, several at a time."""
    wanted = every_run()
    started = time.monotonic()

    def train(number: int) -> None:
        group, seed, fold = wanted[number]
        run = group.place(work, seed=seed) / f"{group.name}-fold{fold}"
        if not (run / "predictions.parquet").exists():
            cytoloc(*group.train(study, work, seed=seed, fold=fold), log=run.with_suffix(".log"))
        score_test(run, study)
        print(f"{number + 1}/{len(wanted)} {run}, {(time.monotonic() - started) / 60:.0f} min", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(train, number) for number in range(len(wanted))]:
            done.result()


def score_test(run: Path, study: Path) -> None:
    """Write the predictions of the test set into the folder of a run, as ``test.parquet``.

    For the base of the changes, also predict the test set and the validation fold in two other ways: ``test-1view`` and
    ``predictions-1view`` without test-time augmentation, and ``test-last`` and ``predictions-last`` with the last
    weights instead of their moving average.
    """
    test = DatasetSource(open_dataset(study / "test.dataset"))
    recipe = read_resolved(run / "recipe.toml")
    wanted: list[tuple[str, Source, Model, int | None]] = [("test", test, load(run), None)]
    if recipe.name == BASE.name and run.name.endswith(f"fold{BASE.folds[0]}"):
        last = recipe.model_copy(update={"select": recipe.select.model_copy(update={"weights": "plain"})})
        dataset = open_dataset(study / "train.dataset")
        info = ModelInfo(
            size=recipe.image.field_px,
            channels=tuple(recipe.image.channels),
            label_set=dataset.label_set,
            tta=recipe.select.tta,
            provenance={"run": run.name},
        )
        plain = Model([load_network(run / "last.ckpt", last, locations=len(dataset.label_set))], info)
        row = {name: number for number, name in enumerate(dataset.ids)}
        held_out = DatasetSource(
            dataset, np.array([row[name] for name in read_predictions(run / "predictions.parquet").ids])
        )
        for kind, source in (("test", test), ("predictions", held_out)):
            wanted += [(f"{kind}-last", source, plain, None), (f"{kind}-1view", source, load(run), 1)]
    for name, source, model, views in wanted:
        path = run / f"{name}.parquet"
        if not path.exists():
            write_predictions(model.predict_sources([source], tta=views), path)


def main() -> None:
    """Train all missing networks, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the simulated study")
    parser.add_argument("work", type=Path, help="folder for folds, runs and results")
    parser.add_argument("--jobs", type=int, default=2, help="number of networks to train at a time (default: 2)")
    parser.add_argument("--evaluate", action="store_true", help="only evaluate the trained networks")
    given = parser.parse_args()
    given.work.mkdir(exist_ok=True)
    if not given.evaluate:
        make_folds(given.study, given.work)
        train_all(given.study, given.work, jobs=given.jobs)
    ours, ranked = chosen(given.study, given.work, OURS)
    results = {
        "chosen": ours.name,
        "held_out_average_precision": ranked,
        "systems": systems_table(given.study, given.work, [RANDOM_SPLIT, HONEST_SPLIT], OURS),
        "decisions": decisions_table(given.study, given.work, ours),
        "changes": changes_table(given.study, given.work, BASE, CHANGES),
    }
    (given.work / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
