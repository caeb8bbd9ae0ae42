"""What is trained for the study, network by network: the systems that are compared, and one change at a time."""

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
        name: Of the folder that their runs lie in.
        recipe: A recipe of cytoloc, or a file.
        split: ``random`` folds are dealt field by field; ``honest`` ones keep wells and near-duplicates together.
        folds: Those that are held out, a network each.
        seeds: Of the networks of a fold, one each.
        settings: Changes of the recipe, as ``--set`` takes them.
    """

    name: str
    recipe: str
    split: Literal["random", "honest"]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    settings: tuple[str, ...] = ()

    def train(self, study: Path, work: Path, *, seed: int, fold: int) -> list[str]:
        """Return the words of the command that trains one network, or goes on with it."""
        words = ["train", self.recipe, study / "train.dataset", "--folds", work / f"{self.split}.csv", "--fold", fold]
        for setting in (*self.settings, f"name={self.name}", f"seed={seed}"):
            words += ["--set", setting]
        return [str(word) for word in (*words, "--out", self.place(work, seed=seed), "--resume")]

    def place(self, work: Path, *, seed: int) -> Path:
        """Return the folder of the runs of one seed."""
        return work / "runs" / self.name / f"seed{seed}"

    def runs(self, work: Path, *, seeds: tuple[int, ...] | None = None) -> list[Path]:
        """Return the folders of its runs, fold by fold."""
        chosen = self.seeds if seeds is None else seeds
        return [self.place(work, seed=seed) / f"{self.name}-fold{fold}" for fold in self.folds for seed in chosen]


STARTING: Final = str(HERE / "starting-128.toml")
EPOCHS: Final = ("schedule.epochs=5",)
"""Of five networks of cytoloc's own way: they then see fewer images than three of the silver-medal baseline, as
`evaluation.py`
counts them (fields of rare classes are repeated)."""
LONGER: Final = ("schedule.epochs=9",)
"""Likewise, of three networks."""

RANDOM_SPLIT: Final = Networks("starting-random", STARTING, "random", (0,), SEEDS)
HONEST_SPLIT: Final = replace(RANDOM_SPLIT, name="starting-honest", split="honest")
STRONG: Final = Networks("strong", "strong-128", "honest", (0, 1, 2, 3, 4), (0,), EPOCHS)
STRONG_LONGER: Final = Networks("strong-longer", "strong-128", "honest", (0, 1, 2), (0,), LONGER)
OURS: Final = (STRONG, STRONG_LONGER)
"""Two ways to spend the same compute; the held-out fields of the folds that both have say which is cytoloc's."""

BASE: Final = replace(STRONG, name="strong", folds=(0,), seeds=SEEDS)


def change(name: str, *settings: str, seeds: tuple[int, ...] = SEEDS) -> Networks:
    """Return the networks of one change of the recipe."""
    return replace(BASE, name=name, settings=(*EPOCHS, *settings), seeds=seeds)


CHANGES: Final = {
    "loss: focal + F1, the silver-medal baseline's": change(
        "loss-focal-f1", "loss.cross_entropy=0.0", "loss.focal=0.5", "loss.soft_f1=0.5"
    ),
    "loss: focal + Lovász + hardest, as of strong-512": change(
        "loss-strong-512",
        "loss.cross_entropy=0.0",
        "loss.focal=0.5",
        "loss.symmetric_lovasz=0.5",
        "loss.hard_cross_entropy=0.5",
        # Two of a field, as with batches of 32.
        "loss.hardest=32",
        seeds=(0,),
    ),
    "no antibodies as second task": change("no-arcface", "loss.arcface=0.0", seeds=(0,)),
    "sampling: each field once, shuffled": change(
        # Without oversample an epoch has half the images; the last setting of a name counts.
        "shuffled",
        "sampling.order=shuffled",
        "sampling.oversample={}",
        "schedule.epochs=10",
    ),
    "head: attention by class": change("head-attention", "model.head=attention", seeds=(0,)),
    "images normalized by the set's mean and spread": change("normalize-set", "image.normalize=set", seeds=(0,)),
    "compute: half precision": change("half", "compute.precision=bfloat16"),
}
"""One change of the recipe each, on fold 0 alone."""


def every_run() -> list[tuple[Networks, int, int]]:
    """Return networks, seed and fold of every run, those first that most depends on."""
    wanted: dict[tuple[str, int, int], Networks] = {}
    systems = [(group, seed) for group in (RANDOM_SPLIT, HONEST_SPLIT, *OURS) for seed in group.seeds]
    changes = [(group, seed) for seed in SEEDS for group in (BASE, *CHANGES.values()) if seed in group.seeds]
    for group, seed in [*systems, *changes]:
        for fold in group.folds:
            # A change's base is a fold of the system itself.
            wanted.setdefault((group.name, seed, fold), group)
    return [(group, seed, fold) for (_, seed, fold), group in wanted.items()]
