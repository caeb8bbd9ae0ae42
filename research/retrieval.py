"""Votes of the nearest labeled fields by features that recognize antibodies (ArcFace), as the winner of 2018 had them.

    python research/retrieval.py FOLDER [--seeds 71 72 73]

Two networks start from the built-in model and train on about 1,200 of 1,500 simulated fields: one with the loss of the
recipe `finetune`, the other one also with the ArcFace loss for the antibody. For each seed, a decision is fitted to 600
fields of a second study, and evaluated on 300 fields of a third one. All studies have other antibodies. Probabilities
are those of the built-in model without its decision. Votes come from features of the built-in model or of one of the
networks, and only from fields of other antibodies. No network was trained on the fields that it predicts. An
interrupted script continues.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

import cytoloc as cl
from cytoloc.dataset.manifest import is_complete

LOSSES: Final[dict[str, dict[str, Any]]] = {"finetuned": {}, "ArcFace": {"loss.arcface": 0.1}}


def simulated(path: Path, fields: int, *, seed: int) -> cl.Dataset:
    """Return a simulated dataset with even classes, which is made if it does not exist."""
    design = cl.Design(n_fields=fields, seed=seed, size=128, evenness=0.5)
    return cl.open_dataset(path) if is_complete(path) else cl.simulate_dataset(path, design)


def networks(folder: Path) -> dict[str, cl.Model]:
    """Return the models whose features are compared."""
    dataset = simulated(folder / "networks.dataset", 1500, seed=70)
    folds = cl.make_folds(dataset, k=5, group_by="field")
    options = cl.TrainOptions(resume=True, report=lambda _line: None)
    models = {"built-in": cl.load("builtin", device="cpu", unusual="decide").without_decision()}
    for name, overrides in LOSSES.items():
        cl.train("finetune", dataset, folds, fold=0, out=folder / name, overrides=overrides, options=options)
        models[name] = cl.load(folder / name, device="cpu")
    return models


def measured(models: dict[str, cl.Model], folder: Path, seed: int) -> dict[str, Any]:
    """Return macro F1 and mean average precision of each decision on the test fields of a seed."""
    train = simulated(folder / f"train{seed}.dataset", 600, seed=seed)
    test = simulated(folder / f"test{seed}.dataset", 300, seed=seed + 1000)
    groups = cl.make_folds(train, k=5, group_by="antibody")
    one, two = (models["built-in"].predict(each) for each in (train, test))
    members: dict[str, tuple[dict[str, cl.Predictions], dict[str, cl.Predictions]]] = {
        "no votes": ({"model": one}, {"model": two})
    }
    for name, model in models.items():
        features, new = (cl.embed_sources(model, cl.open_sources([each.path])) for each in (train, test))
        votes = cl.neighbor_votes(features, train, groups=groups)
        new_votes = cl.neighbor_votes(new, train, reference=features)
        members[f"only votes, {name}"] = ({"neighbors": votes}, {"neighbors": new_votes})
        members[f"with votes, {name}"] = (
            {"model": one, "neighbors": votes},
            {"model": two, "neighbors": new_votes},
        )
    found = {}
    for name, (fitted, applied) in members.items():
        decided = cl.fit_decision(fitted, train, groups=groups, intervals=False)(applied)
        score, precision = cl.evaluate(decided, test), cl.mean_average_precision(decided, test)
        found[name] = (round(score.macro_f1, 3), round(precision.mean, 3))
    return found


def main() -> None:
    """Print the metrics of each seed, and their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[71, 72, 73])
    words = parser.parse_args()
    models = networks(words.folder)
    results = [measured(models, words.folder, seed) for seed in words.seeds]
    for name in results[0]:
        values = np.array([each[name] for each in results])
        print(
            json.dumps(
                {"members": name, "macro F1, mAP": values.tolist(), "mean": values.mean(axis=0).round(3).tolist()}
            )
        )


if __name__ == "__main__":
    main()
