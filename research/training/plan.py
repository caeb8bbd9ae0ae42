"""The networks of the study: the systems that are compared, and single changes of the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

HERE: Final = Path(__file__).parent
SEEDS: Final = (0, 1, 2)


@dataclass(frozen=True)
class Networks:
    """Networks of one recipe.

    Attributes:
        name: Name of the networks and of the folder of their runs.
        recipe: Name of a recipe of cytoloc, or a recipe file.
        split: Folds; ``random`` assigns each field at random, ``honest`` keeps wells and near-duplicates together.
        folds: Validation folds, with one network each.
        seeds: Random seeds, with one network each per fold.
        settings: Changes of the recipe, in the form of ``--set``.
    """

    name: str
    recipe: str
    split: Literal["random", "honest"]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()

    def train(self, study: Path, work: Path, *, seed: int, fold: int) -> list[str]:
        """Return the arguments of the command that trains one network or resumes its training."""
        words = ["train", self.recipe, study / "train.dataset", "--folds", work / f"{self.split}.csv", "--fold", fold]
        for setting in (*self.settings, f"name={self.name}", f"seed={seed}"):
            words += ["--set", setting]
        return [str(word) for word in (*words, "--out", self.place(work, seed=seed), "--resume")]

    def place(self, work: Path, *, seed: int) -> Path:
        """Return the folder of the runs of one seed."""
        return work / "runs" / self.name / f"seed{seed}"

    def runs(self, work: Path, *, seeds: tuple[int, ...] | None = None) -> list[Path]:
        """Return the folders of the runs, in order of folds."""
        chosen = self.seeds if seeds is None else seeds
        return [self.place(work, seed=seed) / f"{self.name}-fold{fold}" for fold in self.folds for seed in chosen]


STARTING: Final = str(HERE / "starting-128.toml")
EPOCHS: Final = ("schedule.epochs=5",)
"""Epochs for five networks of cytoloc. They see fewer images than three networks of the silver-medal baseline, as
counted in `evaluation.py` (fields of rare classes are repeated)."""
LONGER: Final = ("schedule.epochs=9",)
"""Epochs for three networks of cytoloc, with the same limit."""

RANDOM_SPLIT: Final = Networks("starting-random", STARTING, "random", (0,), SEEDS)
HONEST_SPLIT: Final = replace(RANDOM_SPLIT, name="starting-honest", split="honest")
STRONG: Final = Networks("strong", "strong-128", "honest", (0, 1, 2, 3, 4), (0,), EPOCHS)
STRONG_LONGER: Final = Networks("strong-longer", "strong-128", "honest", (0, 1, 2), (0,), LONGER)
OURS: Final = (STRONG, STRONG_LONGER)
"""Two candidates with the same compute; out-of-fold predictions of their common folds determine which one is used."""

BASE: Final = replace(STRONG, name="strong", folds=(0,), seeds=SEEDS)


def change(name: str, *settings: str, seeds: tuple[int, ...] = SEEDS) -> Networks:
    """Return the networks of one change of the recipe."""
    return replace(BASE, name=name, settings=(*EPOCHS, *settings), seeds=seeds)


CHANGES: Final = {
    "loss: focal + F1, the silver-medal baseline's": change(
        "loss-focal-f1", "loss.cross_entropy=0.0", "loss.focal=0.5", "loss.soft_f1=0.5"
    ),
    "loss: focal + Lovász + hardest, as in strong-512": change(
        "loss-strong-512",
        "loss.cross_entropy=0.0",
        "loss.focal=0.5",
        "loss.symmetric_lovasz=0.5",
        "loss.hard_cross_entropy=0.5",
        # Two per field, as with batches of 32.
        "loss.hardest=32",
        seeds=(0,),
    ),
    "no antibodies as second task": change("no-arcface", "loss.arcface=0.0", seeds=(0,)),
    "sampling: each field once, shuffled": change(
        # Without oversampling an epoch has half the images. The last setting of a key is used.
        "shuffled",
        "sampling.order=shuffled",
        "sampling.oversample={}",
        "schedule.epochs=10",
    ),
    "head: attention by class": change("head-attention", "model.head=attention", seeds=(0,)),
    "images normalized by the set's mean and spread": change("normalize-set", "image.normalize=set", seeds=(0,)),
    "compute: half precision": change("half", "compute.precision=bfloat16"),
}
"""Single changes of the recipe, on fold 0 only."""


def every_run() -> list[tuple[Networks, int, int]]:
    """Return the networks, seed and fold of each run, the most important first."""
    wanted: dict[tuple[str, int, int], Networks] = {}
    systems = [(group, seed) for group in (RANDOM_SPLIT, HONEST_SPLIT, *OURS) for seed in group.seeds]
    changes = [(group, seed) for seed in SEEDS for group in (BASE, *CHANGES.values()) if seed in group.seeds]
    for group, seed in [*systems, *changes]:
        for fold in group.folds:
            # The base of the changes is a fold of the system.
            wanted.setdefault((group.name, seed, fold), group)
    return [(group, seed, fold) for (_, seed, fold), group in wanted.items()]
