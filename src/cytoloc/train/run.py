"""A run: one recipe on one fold. Everything it was made from and everything it learned lies in its folder.

``recipe.toml`` (resolved), ``run.json`` (atlas, fold, environment), ``log.csv``, ``best.ckpt``, ``last.ckpt`` and, once
it is finished, ``scores.parquet``: probabilities of the held-out fold.
"""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from cytoloc.atlas.store import Atlas
from cytoloc.errors import TrainingError
from cytoloc.files import disk_errors, new_folder, read_json, refuse_existing, write_json
from cytoloc.models.losses import focal_f1_loss
from cytoloc.models.network import Network, build_network
from cytoloc.predict.model import RUN_KIND, RUN_VERSION, Model, load_network
from cytoloc.predict.sources import AtlasSource
from cytoloc.recipe import Recipe, read_resolved, to_toml
from cytoloc.scores import write_scores
from cytoloc.train.augment import random_dihedral
from cytoloc.train.data import Fields, Split, split_atlas
from cytoloc.train.module import Learner
from cytoloc.train.progress import EpochLog, TrainingBar, WholeCheckpoints


def train_fold(
    recipe: Recipe,
    atlas: Atlas,
    folds: pl.DataFrame,
    fold: int,
    *,
    out: Path,
    resume: bool = False,
    progress_bar: bool = False,
    report: Callable[[str], None] = print,
) -> Path:
    """Train a recipe on all folds but one and score the one held out; return the run's folder.

    Args:
        recipe: What to train.
        atlas: The fields, at the recipe's image size.
        folds: Columns ``id``, ``group``, ``fold``.
        fold: The one to hold out.
        out: The run's folder is made in here, named after recipe and fold.
        resume: Go on with a run that was stopped; a finished one is left as it is.
        progress_bar: Whether a bar shows the steps of an epoch.
        report: Told a line per epoch.

    Raises:
        TrainingError: If the run cannot start: another size, no such fold, or a resume on other data or another recipe.
        WeightsError: If pretrained weights cannot be had.
        OutputExistsError: If the run is there already and ``resume`` is not asked for.
        StorageError: If the disk is full or read-only.
    """
    split, header = check_run(recipe, atlas, folds, fold, out=out, resume=resume)
    run = _folder(recipe, fold, out)
    resuming = run.exists()
    if resuming and (run / "scores.parquet").exists():
        report(f"{run.name} is finished already.")
        return run
    torch.manual_seed(recipe.seed)
    network = _first_network(recipe)
    if not resuming:
        _start_run(run, recipe, header)
    with disk_errors(run):
        _learn(run, recipe, network, atlas, split, progress_bar=progress_bar, report=report)
        judged = load_network(run / f"{recipe.select.checkpoint}.ckpt", recipe)
        made_by = {"run": run.name, "recipe": recipe.name, "fold": fold, "held_out": True}
        model = Model([judged], size=recipe.image.size, views=recipe.select.views, provenance=made_by)
        write_scores(model.score(AtlasSource(atlas, split.held_out)).scores, run / "scores.parquet")
    return run


def check_run(
    recipe: Recipe, atlas: Atlas, folds: pl.DataFrame, fold: int, *, out: Path, resume: bool
) -> tuple[Split, dict[str, Any]]:
    """Return the split and the header of a run that may start or go on.

    Raises:
        TrainingError: If the sizes differ, there is no such fold, or a resume is on other data or another recipe.
        OutputExistsError: If the run is there already and ``resume`` is not asked for.
    """
    if atlas.size != recipe.image.size:
        raise TrainingError(
            f"Recipe {recipe.name} sees {recipe.image.size} px; {atlas.path} has {atlas.size} px.",
            way_out=f"Use --set image.size={atlas.size}, or import at --size {recipe.image.size}.",
        )
    split = split_atlas(atlas, folds, fold)
    ids = atlas.ids
    header = {
        "fold": fold,
        "atlas": {"path": str(atlas.path), "fingerprint": atlas.fingerprint},
        "held_out": [ids[row] for row in split.held_out],
        "trained_on": [ids[row] for row in split.train],
    }
    run = _folder(recipe, fold, out)
    if resume and run.exists():
        _refuse_other(run, recipe, header)
    else:
        refuse_existing(run, way_out="Go on with it by --resume, or choose another --out.")
    return split, header


def _folder(recipe: Recipe, fold: int, out: Path) -> Path:
    return out / f"{recipe.name}-fold{fold}"


def _first_network(recipe: Recipe) -> Network:
    return build_network(
        recipe.model.backbone,
        weights=recipe.model.weights,
        head=recipe.model.head,
        dropout=recipe.model.dropout,
        prior=recipe.model.prior,
        mean=recipe.image.mean,
        std=recipe.image.std,
    )


def _start_run(run: Path, recipe: Recipe, header: dict[str, Any]) -> None:
    packages = ("cytoloc", "torch", "torchvision", "timm", "pytorch-lightning", "numpy", "tensorstore")
    environment = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "packages": {name: version(name) for name in packages},
    }
    with new_folder(run) as folder:
        (folder / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
        write_json(folder / "run.json", {**header, "environment": environment}, kind=RUN_KIND, version=RUN_VERSION)


def _refuse_other(run: Path, recipe: Recipe, header: dict[str, Any]) -> None:
    """Raise unless the run in the folder has this recipe, these data and this fold."""
    kept = read_json(run / "run.json", kind=RUN_KIND, version=RUN_VERSION)
    if read_resolved(run / "recipe.toml") != recipe:
        raise TrainingError(
            f"{run} was started with another recipe.",
            way_out="Resume with that recipe, or choose another --out.",
        )
    same = kept.get("atlas", {}).get("fingerprint") == header["atlas"]["fingerprint"]
    if not same or kept.get("held_out") != header["held_out"]:
        raise TrainingError(
            f"{run} was started on other fields or folds.",
            way_out="Resume on those, or choose another --out.",
        )


def _learn(
    run: Path,
    recipe: Recipe,
    network: Network,
    atlas: Atlas,
    split: Split,
    *,
    progress_bar: bool,
    report: Callable[[str], None],
) -> None:
    """Train until the schedule ends, from the last checkpoint if there is one."""
    frozen, epochs = recipe.schedule.frozen_epochs, recipe.schedule.epochs
    learner = Learner(
        network,
        Fields(atlas, split.train),
        Fields(atlas, split.held_out),
        loss=partial(focal_f1_loss, focal=recipe.loss.focal, gamma=recipe.loss.gamma),
        augment=partial(random_dihedral, flips=recipe.augment.flips, turns=recipe.augment.turns),
        batch_size=recipe.schedule.batch_size,
        frozen_epochs=frozen,
        epochs=epochs,
        learning_rate=recipe.schedule.learning_rate,
        weight_decay=recipe.schedule.weight_decay,
        seed=recipe.seed,
    )
    log = EpochLog(run / "log.csv", name=run.name, frozen_epochs=frozen, epochs=epochs, report=report)
    # Best before last: so the last one knows which was the best when a run goes on from it.
    keep = partial(ModelCheckpoint, run, save_on_train_epoch_end=True, enable_version_counter=False)
    checkpoints = [keep(filename="best", monitor="val_loss"), keep(filename="last")]
    bar = [TrainingBar(leave=False)] if progress_bar else []
    with _quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=frozen + epochs,
            callbacks=[log, *checkpoints, *bar],
            default_root_dir=run,
            logger=False,
            enable_progress_bar=progress_bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            reload_dataloaders_every_n_epochs=1,
            devices=1,
            plugins=[WholeCheckpoints()],
        )
        last = run / "last.ckpt"
        try:
            trainer.fit(learner, ckpt_path=last if last.exists() else None)
        except SystemExit:
            # So Lightning ends on Ctrl-C.
            report(f"{run.name} was stopped; go on with --resume.")
            raise KeyboardInterrupt from None


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's greetings off the terminal, and its advice that does not hold here."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Batches are decoded by tensorstore's threads; worker processes would only copy them.
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        # Lightning 2.6 on torch 2.14; nothing that a user can mend.
        warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")
        # The run's folder is ours: it holds the recipe before Lightning comes.
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        try:
            yield
        finally:
            logger.setLevel(level)
