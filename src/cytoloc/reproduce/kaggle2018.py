"""The silver-medal solution of the 2018 Kaggle competition, from image files to submissions and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Final

import numpy as np
import polars as pl

from cytoloc.choices import check_type
from cytoloc.curation.duplicates import find_duplicates, write_duplicates
from cytoloc.curation.folds import make_folds
from cytoloc.curation.folds_file import read_folds, write_folds
from cytoloc.curation.leak import find_leak, write_leak
from cytoloc.dataset.from_files import import_hpa, import_kaggle
from cytoloc.dataset.importing import ImportOptions
from cytoloc.dataset.labeled import known_labels
from cytoloc.dataset.manifest import MANIFEST, read_manifest
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.decide import Rules, fit_and_cross_fit, read_decision, write_decision
from cytoloc.decide.metrics import macro_f1
from cytoloc.errors import ImageError, OutputExistsError, SettingsError
from cytoloc.files import FileFormat, json_bytes, locked, new_files, read_json, replace_file, write_json
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_ids, read_known, read_labels, replace_known, truth_of, write_locations
from cytoloc.predict.loading import load
from cytoloc.prediction_files import read_predictions, write_predictions
from cytoloc.predictions import Predictions, combine
from cytoloc.recipes.recipe import Recipe, published_scores
from cytoloc.reproduce.competition import CompetitionFiles
from cytoloc.reproduce.options import DEFAULT_OPTIONS, FOLDS, MEMBERS, ReproduceOptions, recipe_names_of, scaled_recipe
from cytoloc.reproduce.steps import (
    Step,
    dataset_bytes,
    prediction_hours,
    run_bytes,
    run_steps,
    training_hours,
)
from cytoloc.reproduce.tables import ENSEMBLE, FINAL, NOTE_BEST, PUBLISHED_ENSEMBLES, Measured, markdown_tables
from cytoloc.runs import is_finished
from cytoloc.training.options import TrainOptions
from cytoloc.training.run import train

REPRODUCTION_FORMAT: Final = FileFormat("cytoloc-reproduction", 1)
RESULTS_FORMAT: Final = FileFormat("cytoloc-reproduction-results", 1)

NO_RULES: Final = Rules(max_locations=28, blank="none")
"""Thresholds alone: fields may have no location, or any number of them."""


def plan_kaggle2018(
    data: str | Path | None = None,
    *,
    out: str | Path = "reproduction",
    options: ReproduceOptions = DEFAULT_OPTIONS,
) -> list[Step]:
    """Return the steps of :func:`reproduce_kaggle2018` with their expected cost, without doing any of them.

    Args:
        data: The folder of the competition; by default the numbers of fields of the 2018 competition are assumed.
        out: The folder of the results.
        options: How the solution is reproduced.

    Raises:
        ImageError: If a folder of images is missing or lacks images.
        TableError: If a table is missing or not valid.
    """
    return Reproduction.of(data, out=out, options=options).steps()


def reproduce_kaggle2018(
    data: str | Path, *, out: str | Path, options: ReproduceOptions = DEFAULT_OPTIONS
) -> pl.DataFrame:
    """Reproduce the silver-medal solution of the 2018 competition, from image files to submissions.

    The steps: import all images at two sizes, find near-duplicates, make folds, train ten models, predict the test
    fields, fit thresholds, and average three models. Then fields with no location or too many are corrected, and leaked
    test fields get the labels of their copies. Every step is resumable: call the function again to continue.

    The new folder contains ``tables.md`` and ``results.json``, ``submissions/`` to upload to Kaggle, and the datasets,
    folds, runs, predictions and decisions of all steps.

    Args:
        data: The folder with ``train.csv``, ``train/``, ``test/`` and ``sample_submission.csv``.
        out: The folder of the results; it may hold an unfinished reproduction with the same options.
        options: How the solution is reproduced.

    Returns:
        A row per submission: ``name``, the macro F1 ``in_sample``, ``cross_fitted`` and ``test``.

    Raises:
        ImageError: If a folder of images is missing or lacks images.
        TableError: If a table is missing or not valid.
        OutputExistsError: If ``out`` holds something else.
        StorageError: If there is too little disk space.
        WeightsError: If pretrained weights cannot be downloaded.
        MissingExtraError: If faiss, which searches for near-duplicates, is not installed.
    """
    check_type(data, (str, Path), argument="data")
    reproduction = Reproduction.of(data, out=out, options=options)
    folder = reproduction.out
    mark, settings = folder / "reproduction.json", reproduction.settings()
    if mark.exists():
        found = read_json(mark, REPRODUCTION_FORMAT)
        different = [name for name, value in settings.items() if found.get(name) != value]
        if different:
            raise OutputExistsError(
                f"{folder} holds a reproduction with other settings: {', '.join(different)}.",
                hint="Continue with the same settings, or choose another `out`.",
            )
    elif folder.exists() and any(folder.iterdir()):
        raise OutputExistsError(f"{folder} exists and holds something else.", hint="Choose another `out`.")
    steps = reproduction.steps()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", busy=f"{folder}: another process is working there"):
        if not mark.exists():
            write_json(mark, settings, REPRODUCTION_FORMAT)
        run_steps(steps, report=options.report)
    rows = read_json(folder / "results.json", RESULTS_FORMAT)["submissions"]
    return pl.DataFrame(
        rows, schema={"name": pl.String, **dict.fromkeys(("in_sample", "cross_fitted", "test"), pl.Float64)}
    )


@dataclass(frozen=True)
class Reproduction:
    """The files, the folder and the options of a reproduction, and all of its steps.

    Attributes:
        files: The files of the competition.
        out: The folder of the results.
        options: How the solution is reproduced.
        recipes: The recipes of the single models.
    """

    files: CompetitionFiles
    out: Path
    options: ReproduceOptions
    recipes: tuple[Recipe, ...]

    @classmethod
    def of(cls, data: str | Path | None, *, out: str | Path, options: ReproduceOptions) -> Reproduction:
        """Return a reproduction after a check of its files."""
        check_type(data, (str, Path, NoneType), argument="data")
        check_type(out, (str, Path), argument="out")
        check_type(options, ReproduceOptions, argument="options")
        if data is not None:
            files = CompetitionFiles.find(data, external=options.external, external_labels=options.external_labels)
        elif options.external or options.external_labels or options.test_labels:
            raise SettingsError(
                "`external` and labels are given without `data`.", hint="Give the folder of the competition too."
            )
        else:
            files = CompetitionFiles()
        if options.test_labels is not None:
            known = read_labels(options.test_labels, LabelSet.hpa28())
            truth_of(read_ids(_known(files.order)), known, LabelSet.hpa28(), where=str(options.test_labels))
        recipes = tuple(
            scaled_recipe(name, options, external=files.external is not None) for name in recipe_names_of(options)
        )
        found = cls(files, Path(out), options, recipes)
        names = [recipe.name for recipe in recipes]
        if len(set(names)) < len(names) or not set(found.ensemble) <= set(names):
            raise SettingsError("`overrides` changes the names of recipes.", hint="Leave out the key name.")
        return found

    def settings(self) -> dict[str, Any]:
        """Return what decides the results, as JSON."""
        files = {
            name: str(value.resolve()) if isinstance(value, Path) else value
            for name, value in asdict(self.files).items()
        }
        recipes = [recipe.model_dump(mode="json") for recipe in self.recipes]
        split = "random" if self.options.baseline_split else "grouped"
        return {"files": files, "recipes": recipes, "split": split, "folds": list(self.options.folds)}

    @property
    def sizes(self) -> list[int]:
        """Edges of the images that the recipes need, in pixels, largest first."""
        return sorted({recipe.image.field_px for recipe in self.recipes}, reverse=True)

    @property
    def ensemble(self) -> tuple[str, ...]:
        """The models that are averaged."""
        return tuple(recipe.name for recipe in self.recipes) if self.options.strong else MEMBERS

    @property
    def repairs(self) -> str:
        """What the final submission repairs, as a phrase in the imperative."""
        return "repair predictions with no location or too many" + (
            ", use leaked labels" if self.files.external else ""
        )

    def dataset_path(self, name: str, size: int) -> Path:
        """Return the path of a dataset: ``train`` or ``test`` at a size in pixels."""
        return self.out / f"{name}-{size}.dataset"

    def dataset(self, name: str, size: int | None = None) -> Dataset:
        """Return a dataset, by default the one of the largest images."""
        return open_dataset(self.dataset_path(name, size or self.sizes[0]))

    def steps(self) -> list[Step]:
        """Return all steps, in order."""
        fields = {"train": self.files.training_fields + self.files.external_fields, "test": self.files.test_fields}
        steps = []
        for size in self.sizes:
            for name, count in fields.items():
                path = self.dataset_path(name, size)
                steps.append(
                    Step(
                        name=f"import the {name}{'ing' if name == 'train' else ''} fields at {size} px",
                        output=path,
                        run=partial(self.import_images, name, size),
                        done=partial(self.is_imported, name, size),
                        disk_bytes=dataset_bytes(count, size),
                    )
                )
        steps.append(self._file_step("find near-duplicates of all fields", "pairs.csv", self.find_pairs))
        steps.append(self._file_step("assign the training fields to folds", "folds.csv", self.assign_folds))
        if self.files.external:
            steps.append(self._file_step("find leaked test fields", "leak.csv", self.find_leaked))
        validation = fields["train"] // FOLDS
        count, tflops = len(self.options.folds), self.options.tflops
        for recipe in self.recipes:
            hours = training_hours(recipe, trained_on=fields["train"] - validation, held_out=validation, tflops=tflops)
            steps.append(
                Step(
                    name=f"train {recipe.name}" + (f", {count} folds" if count > 1 else ""),
                    output=self.out / "runs" / recipe.name,
                    run=partial(self.train_model, recipe),
                    done=partial(self.is_trained, recipe),
                    gpu_hours=count * hours,
                    disk_bytes=count * run_bytes(recipe),
                )
            )
            predictions = f"predictions/{recipe.name}.parquet"
            what = f"predict the test fields with {recipe.name}"
            step = self._file_step(what, predictions, partial(self.predict, recipe))
            steps.append(
                replace(step, gpu_hours=count * prediction_hours(recipe, fields=fields["test"], tflops=tflops))
            )
            steps.append(self._decision_step(recipe.name, [recipe.name]))
        if len(self.ensemble) > 1:
            steps.append(self._decision_step(ENSEMBLE, self.ensemble))
        steps.append(self._decision_step(FINAL, self.ensemble))
        # The labels of the test fields may be given later, so the tables are always written anew.
        tables = self._file_step("write the tables", "results.json", self.write_tables)
        steps.append(replace(tables, done=lambda: False))
        return steps

    def _file_step(self, name: str, path: str, run: Callable[[], None]) -> Step:
        output = self.out / path
        return Step(name=name, output=output, run=run, done=output.exists)

    def _decision_step(self, name: str, members: Sequence[str]) -> Step:
        what = f"decide on the locations by {name}"
        if name in (ENSEMBLE, FINAL):
            what = "average " + ", ".join(members) if name == ENSEMBLE else self.repairs
        return self._file_step(what, f"submissions/{name}.csv", partial(self.decide, name, members))

    def finished_imports(self, name: str, size: int) -> int:
        """Return the number of finished imports of a dataset."""
        path = self.dataset_path(name, size)
        return sum(each.finished for each in read_manifest(path).imports) if (path / MANIFEST).exists() else 0

    def is_imported(self, name: str, size: int) -> bool:
        """Return whether a dataset is complete, external fields included."""
        if name == "train":
            return self.finished_imports(name, size) >= (2 if self.files.external else 1)
        # Without all test fields no submission can be written.
        return self.finished_imports(name, size) >= 1 and not self.dataset(name, size).quarantine

    def import_images(self, name: str, size: int) -> None:
        """Import the images of the competition, and external images after the training images.

        Raises:
            ImageError: If a test field cannot be read; every submission needs all of them.
        """
        path, files = self.dataset_path(name, size), self.files
        options = ImportOptions(
            progress=partial(self.options.progress, "importing"), processes=True, enlarge=self.options.scale == "tiny"
        )
        if self.finished_imports(name, size) == 0:
            folder, labels = (files.train, files.labels) if name == "train" else (files.test, None)
            import_kaggle(_known(folder), out=path, labels=labels, size=size, options=options)
        if name == "train" and files.external and not self.is_imported(name, size):
            options = replace(options, append=True, skip_known=True)
            import_hpa(files.external, out=path, labels=files.external_labels, size=size, options=options)
        rejected = open_dataset(path).quarantine
        if name == "test" and rejected:
            raise ImageError(
                f"{len(rejected)} test fields cannot be read, for example {rejected[0].id}: {rejected[0].reason}",
                hint=f"Replace their files, remove {path}, and run the same command again.",
            )
        if rejected:
            self.options.report(f"{path}: {len(rejected)} fields cannot be read; quarantine.csv has the reasons.")

    def find_pairs(self) -> None:
        """Find near-duplicates among all training, external and test fields."""
        pairs = find_duplicates([self.dataset("train"), self.dataset("test")], progress=self.options.progress)
        write_duplicates(pairs, self.out / "pairs.csv")

    def assign_folds(self) -> None:
        """Make five folds: grouped and stratified, or at random."""
        dataset = self.dataset("train")
        if self.options.baseline_split:
            folds = random_folds(dataset.ids)
        else:
            folds = make_folds(dataset, k=FOLDS, pairs=str(self.out / "pairs.csv"))
        write_folds(folds, self.out / "folds.csv")

    def find_leaked(self) -> None:
        """Find test fields that are copies of training or external fields, with the labels of the copies."""
        train, test = self.dataset("train"), self.dataset("test")
        labeled, wanted = list(known_labels(train)), list(test.ids)
        text = {"a": pl.String, "b": pl.String}
        pairs = pl.read_csv(self.out / "pairs.csv", schema_overrides=text, infer_schema_length=None)
        # Pairs among training fields, and pairs that are no copies, say nothing about the test fields.
        a, b = pl.col("a"), pl.col("b")
        pairs = pairs.filter(
            pl.col("verdict") == "copy",
            a.is_in(wanted) != b.is_in(wanted),
            a.is_in(labeled) | b.is_in(labeled),
        )
        write_leak(find_leak(pairs, train, test=test), self.out / "leak.csv")

    def is_trained(self, recipe: Recipe) -> bool:
        """Return whether all runs of a recipe are finished."""
        folder = self.out / "runs" / recipe.name
        return all(is_finished(folder / f"{recipe.name}-fold{fold}") for fold in self.options.folds)

    def train_model(self, recipe: Recipe) -> None:
        """Train a recipe on all folds but one each."""
        options = self.options
        train(
            recipe,
            self.dataset("train", recipe.image.field_px),
            read_folds(self.out / "folds.csv", grouped=not options.baseline_split),
            out=self.out / "runs" / recipe.name,
            fold=options.folds,
            options=TrainOptions(
                resume=True, device=options.device, report=options.report, progress_bar=options.progress_bar
            ),
        )

    def predict(self, recipe: Recipe) -> None:
        """Predict the test fields with the networks of a recipe."""
        model = load(
            self.out / "runs" / recipe.name, device=None if self.options.device == "auto" else self.options.device
        )
        advance = partial(self.options.progress, "predicting")
        found = model.predict(self.dataset("test", recipe.image.field_px), progress=advance)
        path = self.out / "predictions" / f"{recipe.name}.parquet"
        path.parent.mkdir(exist_ok=True)
        write_predictions(found, path)

    def out_of_fold(self, name: str) -> Predictions:
        """Return the predictions of the held-out fields by the networks of a recipe."""
        return read_predictions(self.out / "runs" / name)

    def decide(self, name: str, members: Sequence[str]) -> None:
        """Fit thresholds to the held-out fields, and write the decision and the submission of the test fields."""
        is_final = name == FINAL
        dataset = self.dataset("train")
        groups = None if self.options.baseline_split else read_folds(self.out / "folds.csv")
        report = fit_and_cross_fit(
            combine([self.out_of_fold(each) for each in members]),
            dataset,
            method="auto" if self.options.strong else "grid",
            rules=Rules() if is_final else NO_RULES,
            groups=groups,
        )
        test = combine([read_predictions(self.out / "predictions" / f"{each}.parquet") for each in members])
        order = read_ids(_known(self.files.order))
        found = report.decision(test, fields=order)
        decided = np.array(found.decided, np.bool_)
        label_set = dataset.label_set
        if is_final and self.files.external:
            leaked = read_known(self.out / "leak.csv", found.ids, label_set)
            decided = replace_known(decided, found.ids, leaked, label_set)
        decision, submission = self.out / "decisions" / f"{name}.json", self.out / "submissions" / f"{name}.csv"
        for path in (decision, submission):
            path.parent.mkdir(exist_ok=True)
        decision.unlink(missing_ok=True)
        with new_files(decision, submission) as temporary:
            write_decision(report.decision, temporary[decision])
            write_locations(found.ids, decided, temporary[submission], label_set)

    def write_tables(self) -> None:
        """Write the tables of single models and ensembles."""
        names = [recipe.name for recipe in self.recipes] + ([ENSEMBLE] if len(self.ensemble) > 1 else []) + [FINAL]
        measured = {name: self.measured(name) for name in names}
        # Values of small networks on small images cannot be compared with the published ones.
        published = (
            {} if self.options.strong or self.options.scale == "tiny" else {**published_scores(), **PUBLISHED_ENSEMBLES}
        )
        text = markdown_tables(
            self.recipes,
            measured,
            published,
            names={ENSEMBLE: " + ".join(self.ensemble), FINAL: f"final: {self.repairs}"},
            notes=[NOTE_BEST] if any(recipe.select.checkpoint == "best" for recipe in self.recipes) else [],
        )
        replace_file(self.out / "tables.md", text.encode())
        rows = [{"name": name, **asdict(values)} for name, values in measured.items()]
        replace_file(self.out / "results.json", json_bytes({"submissions": rows}, RESULTS_FORMAT))

    def measured(self, name: str) -> Measured:
        """Return the metrics of a decision and its submission."""
        fitted_on = read_decision(self.out / "decisions" / f"{name}.json").fitted_on
        test = None
        if self.options.test_labels is not None:
            label_set = LabelSet.hpa28()
            predicted = read_labels(self.out / "submissions" / f"{name}.csv", label_set, column="Predicted", blank=True)
            known = read_labels(self.options.test_labels, label_set)
            truth = truth_of(list(predicted), known, label_set, where=str(self.options.test_labels))
            test = macro_f1(label_set.to_matrix(predicted.values()), truth)
        return Measured(fitted_on["macro_f1_in_sample"], fitted_on["macro_f1_cross_fitted"], test)


def random_folds(ids: Sequence[str], *, k: int = FOLDS, seed: int = 0) -> pl.DataFrame:
    """Return folds of equal size at random, with each field as its own group."""
    order = np.random.default_rng(seed).permutation(len(ids))
    fold = np.empty(len(ids), np.int64)
    fold[order] = np.arange(len(ids)) % k
    return pl.DataFrame({"id": list(ids), "group": np.arange(len(ids)), "fold": fold})


def _known(path: Path | None) -> Path:
    if path is None:
        raise SettingsError("`data` is missing.", hint="Give the folder of the competition.")
    return path
