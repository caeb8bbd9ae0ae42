"""Votes of the nearest labeled fields as a member of a decision, on simulated studies.

    python research/neighbors.py [--fields 600] [--test-fields 300] [--out neighbors.json]

A decision is fitted to one simulated study and evaluated on another one, which has other genes, with and without the
votes. Probabilities and features are those of the built-in model, which was trained on neither. Its own decision is not
used. Votes come from fields of other antibodies only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import cytoloc as cl
from cytoloc.simulate.plan import Design


def study(path: Path, *, fields: int, seed: int) -> cl.Dataset:
    """Return a simulated dataset with even classes."""
    return cl.simulate_dataset(path, Design(n_fields=fields, seed=seed, size=128, evenness=0.5))


def measured(fields: int, test_fields: int) -> dict[str, Any]:
    """Return the metrics on the second study, with and without votes."""
    model = cl.load("builtin", device="cpu", unusual="decide").without_decision()
    with tempfile.TemporaryDirectory() as folder:
        train = study(Path(folder) / "train", fields=fields, seed=71)
        test = study(Path(folder) / "test", fields=test_fields, seed=72)
        groups = cl.make_folds(train, k=5, group_by="antibody")
        one, two = model.predict(train), model.predict(test)
        features, new = (cl.embed_sources(model, cl.open_sources([each.path])) for each in (train, test))
        votes = cl.neighbor_votes(features, train, groups=groups)
        new_votes = cl.neighbor_votes(new, train, reference=features)
        members: dict[str, tuple[Any, Any]] = {
            "model": ({"model": one}, {"model": two}),
            "votes": ({"neighbors": votes}, {"neighbors": new_votes}),
            "model and votes": ({"model": one, "neighbors": votes}, {"model": two, "neighbors": new_votes}),
        }
        found = {}
        decided: dict[str, cl.Predictions] = {}
        for name, (fitted, applied) in members.items():
            rule = cl.fit_decision(fitted, train, groups=groups)
            decided[name] = rule(applied)
            score = cl.evaluate(decided[name], test)
            precision = cl.mean_average_precision(decided[name], test)
            found[name] = {
                "method": rule.method.name,
                "macro_f1": round(score.macro_f1, 3),
                "micro_f1": round(score.micro_f1, 3),
                "mean_average_precision": round(precision.mean, 3),
                "interval": np.round(precision.interval or (), 3).tolist(),
            }
        return {"fields": fields, "test_fields": test_fields, **found}


def main() -> None:
    """Measure, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=600)
    parser.add_argument("--test-fields", type=int, default=300)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = measured(given.fields, given.test_fields)
    print(json.dumps(results, indent=2))
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
