"""Tuning of recipes by Optuna: trials on some folds, and a final comparison on a fold that no trial saw."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pytorch_lightning as lightning
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from cytoloc.choices import check_type
from cytoloc.curation.folds_file import read_folds
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import MissingExtraError, SettingsError, TrainingError, installing
from cytoloc.files import new_files, replace_file
from cytoloc.recipes.recipe import Recipe, load_recipe, to_toml
from cytoloc.training.options import DEFAULT_OPTIONS, TrainOptions
from cytoloc.training.run import Run, train
from cytoloc.training.space import Span, read_space

if TYPE_CHECKING:
    import optuna

STUDY: Final = "study.db"
METRIC: Final = "mean_average_precision"


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Options of :func:`~cytoloc.tune_recipe`.

    Attributes:
        trials: Number of finished trials of the whole study, also of earlier calls and of other processes.
        fold: The validation fold of the trials. Default: the first fold.
        test_fold: The fold that no trial sees. Default: the last fold.
        prune: Whether to stop a trial whose metric is below the median of earlier trials at the same epoch.
        seed: Random seed of the search.
        keep: Whether to keep the folders of all trials, and not only of the best one.
        train: Options of training.

    Raises:
        ArgumentTypeError, SettingsError: If a value is invalid.
    """

    trials: int = 20
    fold: int | None = None
    test_fold: int | None = None
    prune: bool = True
    seed: int = 0
    keep: bool = False
    train: TrainOptions = field(default_factory=lambda: DEFAULT_OPTIONS)

    def __post_init__(self) -> None:
        for name in ("trials", "seed"):
            check_type(getattr(self, name), int, argument=name)
        for name in ("fold", "test_fold"):
            check_type(getattr(self, name), (int, type(None)), argument=name)
        check_type(self.train, TrainOptions, argument="train")
        if self.trials < 1:
            raise SettingsError(f"`trials` is {self.trials}, but must be at least 1.")


@dataclass(frozen=True)
class Tuned:
    """The result of tuning.

    Attributes:
        recipe: The recipe with the best values.
        values: The best values, by key.
        trials: A table with one row per trial: ``number``, ``state``, ``mean_average_precision`` and the keys.
        tuned: Mean average precision of the tuned recipe on the test fold.
        untuned: Mean average precision of the given recipe on the test fold.
    """

    recipe: Recipe
    values: Mapping[str, Any]
    trials: pl.DataFrame
    tuned: float
    untuned: float


def mean_average_precision(probabilities: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Return the mean average precision over the locations that occur; 0 if none does.

    Args:
        probabilities: Shape ``(n, locations)``.
        truth: bool of shape ``(n, locations)``.
    """
    present = truth.any(axis=0)
    if not present.any():
        return 0.0
    return float(average_precision_score(truth[:, present], probabilities[:, present], average="macro"))


class _Pruning(lightning.Callback):
    """Report the metric of each epoch to a trial, and stop the trial if it is hopeless."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Report the metric."""
        import optuna

        self.trial.report(float(trainer.callback_metrics[METRIC]), trainer.current_epoch)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def tune_recipe(
    recipe: str | Path | Recipe,
    dataset: Dataset | str | Path,
    folds: pl.DataFrame | str | Path,
    *,
    space: str | Path | Mapping[str, Any],
    out: str | Path,
    options: TuneOptions = TuneOptions(),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Tuned:
    """Search for better values of recipe keys, and compare the best ones with the given recipe on an unseen fold.

    Each trial trains on all folds but its validation fold and the test fold, and its metric is the mean average
    precision of the validation fold. Tuning is resumable: call the function again with the same arguments. Several
    processes can work on one study: call it with the same ``out`` in each.

    Args:
        recipe: The recipe to tune: a name, a ``.toml`` file, or a recipe.
        dataset: The dataset, or its path or URL.
        folds: A table with the columns ``id`` and ``fold`` and at least three folds, or the path of a folds file.
        space: The keys to change and their values; see :func:`cytoloc.training.space.read_space`.
        out: A folder. It gets ``study.db`` (SQLite), ``trials.csv``, ``trials.png``, ``best.toml`` and the final runs.
        options: Number of trials, folds, and options of training.
        progress: A function that is called with the number of finished trials and of all trials.

    Returns:
        The tuned recipe, all trials, and the figures on the test fold.

    Raises:
        MissingExtraError: If Optuna is not installed.
        SettingsError: If the space or the folds are invalid, or ``out`` has a study of another recipe or space.
        RecipeError: If the recipe has no such key, or it cannot have a value of the space.
        TrainingError: If a run cannot start.
    """
    check_type(options, TuneOptions, argument="options")
    base = load_recipe(recipe)
    keys = read_space(space, base)
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    table = folds if isinstance(folds, pl.DataFrame) else read_folds(folds)
    fold, test_fold = _two_folds(table, options)
    without_test = table.with_columns(pl.when(pl.col("fold") != test_fold).then(pl.col("fold")).alias("fold"))
    folder = Path(out)
    spans = {key: each.model_dump() if isinstance(each, Span) else each for key, each in keys.items()}
    facts = {"recipe": to_toml(base), "space": spans, "fold": fold, "test_fold": test_fold}
    study = _open_study(folder, options, {**facts, "fingerprint": opened.fingerprint})

    def run(name: str, changed: Mapping[str, Any], *, fields: pl.DataFrame, on: int, more: TrainOptions) -> Run:
        more = replace(more, metrics={**more.metrics, METRIC: mean_average_precision})
        (done,) = train(load_recipe(base, overrides=changed), opened, fields, out=folder / name, fold=on, options=more)
        return done

    def objective(trial: optuna.Trial) -> float:
        changed = {key: _suggest(trial, key, values) for key, values in keys.items()}
        callbacks = (*options.train.callbacks, _Pruning(trial))
        name = f"trials/{trial.number:04d}"
        more = replace(options.train, callbacks=callbacks, report=lambda _line: None)
        return _measured(run(name, changed, fields=without_test, on=fold, more=more), opened)

    def after(current: optuna.Study, _trial: optuna.trial.FrozenTrial) -> None:
        done = _finished(current)
        progress(min(done, options.trials), options.trials)
        if done >= options.trials:
            current.stop()
        if not options.keep:
            _remove_others(current, folder / "trials")

    if _finished(study) < options.trials:
        study.optimize(objective, n_trials=options.trials, callbacks=[after], catch=(TrainingError,))
    trials = _trials(study, list(keys))
    if not trials["state"].is_in(["complete"]).any():
        raise TrainingError(
            f"None of {len(trials)} trials finished.", hint="Train the recipe alone first, or choose a smaller space."
        )
    best = study.best_trial
    tuned = load_recipe(base, overrides=best.params).model_copy(update={"name": f"{base.name}-tuned"})
    final = replace(options.train, resume=True)
    figures = {
        name: _measured(run(f"final/{name}", changed, fields=table, on=test_fold, more=final), opened)
        for name, changed in (("tuned", best.params), ("untuned", {}))
    }
    _write(folder, tuned, trials, figures)
    return Tuned(tuned, dict(best.params), trials, figures["tuned"], figures["untuned"])


def _two_folds(table: pl.DataFrame, options: TuneOptions) -> tuple[int, int]:
    """Return the validation fold of the trials, and the test fold."""
    known = sorted(table["fold"].drop_nulls().unique().to_list())
    if len(known) < 3:
        raise SettingsError(
            f"`folds` has {len(known)} folds, but tuning needs three: for training, validation and the final test.",
            hint="Make folds with `cytoloc folds -k 3` or more.",
        )
    fold = known[0] if options.fold is None else options.fold
    test_fold = (
        next(each for each in reversed(known) if each != fold) if options.test_fold is None else options.test_fold
    )
    for name, each in (("fold", fold), ("test_fold", test_fold)):
        if each not in known:
            raise SettingsError(f"`{name}` is {each}, but the folds are {', '.join(map(str, known))}.")
    if fold == test_fold:
        raise SettingsError(f"`fold` and `test_fold` are both {fold}.", hint="Choose two different folds.")
    return fold, test_fold


def _open_study(folder: Path, options: TuneOptions, facts: Mapping[str, Any]) -> optuna.Study:
    """Open or start a study; raise if it was started with another recipe, space, dataset or other folds."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise MissingExtraError("Tuning needs the library Optuna.", hint=installing("tune")) from error
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=optuna.storages.RDBStorage(f"sqlite:///{folder / STUDY}"),
        study_name="cytoloc",
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=options.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5) if options.prune else optuna.pruners.NopPruner(),
    )
    before = study.user_attrs
    for name, value in facts.items():
        if name in before and before[name] != value:
            raise SettingsError(
                f"`out` has a study with another {name.replace('_', ' ')}.",
                hint="Continue with the same arguments, or choose another folder.",
            )
        study.set_user_attr(name, value)
    return study


def _suggest(trial: optuna.Trial, key: str, values: Any) -> Any:
    """Return the value of a key in a trial."""
    if not isinstance(values, Span):
        return trial.suggest_categorical(key, values)
    if values.is_integer:
        return trial.suggest_int(key, int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
    return trial.suggest_float(key, values.low, values.high, log=values.log, step=values.step)


def _measured(run: Run, dataset: Dataset) -> float:
    """Return the mean average precision of the out-of-fold predictions of a run, over its labeled fields."""
    found = run.predictions()
    rows = np.array([dataset.row(name) for name in found.ids])
    labeled = dataset.labeled[rows]
    return mean_average_precision(found.probabilities[labeled], dataset.truth[rows[labeled]])


def _finished(study: optuna.Study) -> int:
    """Return the number of trials that are complete or pruned."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def _remove_others(study: optuna.Study, folder: Path) -> None:
    """Remove the folders of the trials that ended, but not of the best one."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = max(complete, key=lambda trial: trial.value or 0.0).number if complete else None
    for trial in trials:
        if trial.state.is_finished() and trial.number != best:
            shutil.rmtree(folder / f"{trial.number:04d}", ignore_errors=True)


def _trials(study: optuna.Study, keys: list[str]) -> pl.DataFrame:
    """Return all trials as a table."""
    rows = [
        {"number": trial.number, "state": trial.state.name.lower(), METRIC: trial.value}
        | {key: trial.params.get(key) for key in keys}
        for trial in study.get_trials(deepcopy=False)
    ]
    return pl.DataFrame(rows, infer_schema_length=None, strict=False)


def _write(folder: Path, tuned: Recipe, trials: pl.DataFrame, figures: Mapping[str, float]) -> None:
    """Write the recipe, the table and the plot of a study."""
    head = (
        f"# Tuned by `cytoloc tune`. Mean average precision on a fold that no trial saw: {figures['tuned']:.4f};"
        f" untuned {figures['untuned']:.4f}.\n"
    )
    replace_file(folder / "best.toml", (head + to_toml(tuned)).encode())
    replace_file(folder / "trials.csv", trials.write_csv().encode())
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    complete = trials.filter(pl.col("state") == "complete")
    axes.plot(complete["number"], complete[METRIC], "o", label="trials, validation fold")
    axes.plot(complete["number"], complete[METRIC].cum_max(), label="best so far")
    for name, color in (("tuned", "C2"), ("untuned", "C7")):
        axes.axhline(figures[name], linestyle="--", color=color, label=f"{name}, test fold")
    axes.set(xlabel="trial", ylabel="mean average precision")
    axes.legend(frameon=False)
    with new_files(images=[folder / "trials.png"]) as temporary:
        figure.savefig(temporary[folder / "trials.png"], dpi=150, format="png")
