"""Retrieval: do the nearest training fields help, and does learning to recognize antibodies (ArcFace) help them?

    python research/retrieval.py WORKFOLDER [--fields 2000] [--seed 44]

As the first place of 2018 did, a network is trained with and without a second task, to recognize the antibody. Each
field of the validation fold is then looked up among the training fields: the ten nearest ones by cosine vote on its
locations. There are two divisions of one simulated dataset. In the first one, fields of an antibody are on both sides,
as in the competition; in the second one, all antibodies of the validation fold are new. Decisions on this fold
are cross-fitted, with the fields of an antibody together, from the network, from the votes, and from both as members.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

import cytoloc as cl

NEIGHBORS: Final = 10
GROUPS: Final[tuple[Literal["field", "antibody"], ...]] = ("field", "antibody")


def votes(query: NDArray[np.float32], known: NDArray[np.float32], truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the share of the votes of the nearest known fields for each location."""
    query, known = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (query, known))
    cosines = query @ known.T
    nearest = np.argsort(-cosines, axis=1)[:, :NEIGHBORS]
    weights = np.take_along_axis(cosines, nearest, axis=1).clip(min=0)
    shares = np.einsum("nk,nkl->nl", weights, truth[nearest]) + truth.mean(axis=0)
    return np.asarray(shares / (weights.sum(axis=1, keepdims=True) + 1), np.float32)


def main() -> None:
    """Train, look up, and print a row per division, network and kind of members."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the dataset and the runs; finished runs are kept")
    parser.add_argument("--fields", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=44)
    given = parser.parse_args()
    path = given.folder / "simulated.dataset"
    if not path.exists():
        design = cl.Design(n_fields=given.fields, seed=given.seed, size=128, original_px=256, evenness=0.8)
        cl.simulate_dataset(path, design)
    dataset = cl.open_dataset(path)
    antibodies = cl.make_folds(dataset, k=5, group_by="antibody")
    print("division by | ArcFace | members | macro F1 | mean average precision")
    for group_by in GROUPS:
        folds = cl.make_folds(dataset, k=4, group_by=group_by)
        for weight in (0.0, 0.1):
            out = given.folder / f"{group_by}-{weight:g}"
            (run,) = cl.train(
                "builtin",
                dataset,
                folds,
                out=out,
                fold=0,
                overrides={"loss.arcface": weight},
                options=cl.TrainOptions(resume=True),
            )
            of_network = run.predictions()
            place = {name: row for row, name in enumerate(dataset.ids)}
            held_out = np.array([place[name] for name in of_network.ids])
            known = np.setdiff1d(np.arange(len(dataset)), held_out)
            features = cl.load(run.folder, engine="torch").embed(dataset)
            of_neighbors = cl.Predictions(
                of_network.ids, votes(features[held_out], features[known], dataset.truth[known]), dataset.label_set
            )
            members = {"network": of_network, "neighbors": of_neighbors}
            for names in (("network",), ("neighbors",), ("network", "neighbors")):
                chosen = {name: members[name] for name in names}
                decided = cl.cross_fit(chosen, dataset, method="expected", groups=antibodies)
                score = cl.evaluate(decided, dataset)
                precision = cl.mean_average_precision(decided, dataset)
                print(
                    f"{group_by} | {weight:g} | {' and '.join(names)} | {score.macro_f1:.3f} | {precision.mean:.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
