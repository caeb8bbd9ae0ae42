"""Simulated datasets, and whole studies with a list of their flaws. Simulations are resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from cytoloc._typing import Progress
from cytoloc.channels import CHANNELS
from cytoloc.choices import Noise, check_type, refuse_unknown
from cytoloc.dataset.importing import ImportOptions, Loaded, import_fields
from cytoloc.dataset.manifest import is_complete
from cytoloc.dataset.store import Dataset
from cytoloc.errors import SettingsError
from cytoloc.labels.label_set import LabelSet
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.files import of_one_well, resumable, write_labels, write_rows
from cytoloc.simulate.plan import KINDS, MOST_PX, Design, FieldPlan, plan_study

TEST_SHARE: Final = 0.38
"""Number of test fields per training field: 11,702 to 31,072 in the 2018 competition."""

TEST_GAIN: Final = 0.8
"""Brightness of test fields. In the 2018 competition, their channel means are 0.71 to 0.86 of the training set's."""


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """The flaws of a simulated study.

    Attributes:
        noise: Share of training fields with a wrong label.
        kind: ``"missing"``: a location is missing (only in fields with several). ``"extra"``: a wrong location is
            added. ``"swapped"``: a location is replaced by a wrong one.
        duplicates: Share of training fields that are near-duplicates of other training fields.
        leaked: Share of test fields that are near-duplicates of fields in the external dataset.
        gain: Brightness of the test images relative to the training images.
    """

    noise: float = 0.03
    kind: Noise = "swapped"
    duplicates: float = 0.04
    leaked: float = 0.02
    gain: float = TEST_GAIN

    def check(self) -> None:
        """Raise unless a study can have these flaws.

        Raises:
            SettingsError: If a value is out of range, or ``kind`` is unknown.
        """
        for name, share in (("noise", self.noise), ("leaked", self.leaked)):
            if not 0 <= share <= 1:
                raise SettingsError(f"`{name}` is {share:g}, but must be from 0 to 1.")
        if not 0 < self.gain <= 2:
            raise SettingsError(f"`gain` is {self.gain:g}, but must be above 0 and at most 2.")
        refuse_unknown(self.kind, get_args(Noise), argument="kind")


class SimulatedSource:
    """A source of fields that are simulated when they are loaded."""

    folder = Path()
    quick = False
    channels: tuple[str, ...] = CHANNELS

    def __init__(self, design: Design, plans: Sequence[FieldPlan]) -> None:
        self.label_set = LabelSet.hpa28()
        self._size = design.size
        self._plans = {plan.row.id: plan for plan in plans}
        self.items = list(self._plans)
        self.made_by: dict[str, Any] = {"command": "simulate", **asdict(design)}

    def loader(self, item: str) -> Callable[[], list[Loaded]]:
        """Return a function that simulates the field ``item``. It can be pickled."""
        return partial(_draw_loaded, self._plans[item], self._size)


def _draw_loaded(plan: FieldPlan, size: int) -> list[Loaded]:
    return [(plan.row, draw_field(plan, size=size))]


@dataclass(frozen=True)
class PlannedSet:
    """The fields of one dataset of a study.

    Attributes:
        design: The design of the dataset.
        plans: The plans of the fields, with their true labels.
        given: The same plans, with the labels in the dataset.
    """

    design: Design
    plans: list[FieldPlan]
    given: list[FieldPlan]


def simulate_dataset(
    path: str | Path, design: Design, *, pool: Executor | None = None, progress: Progress = lambda _done, _total: None
) -> Dataset:
    """Simulate fields of cells, and write them to a new dataset.

    The same design gives the same bytes. Simulations are resumable: call the function again to continue.

    Args:
        path: The new dataset.
        design: The design of the fields.
        pool: Executor that simulates the fields. Default: threads of this process. With
            ``concurrent.futures.ProcessPoolExecutor()``, a script needs ``if __name__ == "__main__":``.
        progress: A function that is called with the number of finished fields and of all fields.

    Returns:
        The dataset.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If a value of the design is out of range.
        StorageError: If the disk is full or read-only.
        OutputExistsError: If ``path`` exists and is not an unfinished simulation of this design.
    """
    check_type(path, (str, Path), argument="path")
    check_type(design, Design, argument="design")
    source, options = SimulatedSource(design, plan_study(design)), ImportOptions(strict=True, progress=progress)
    return import_fields(source, Path(path), size=design.size, options=options, pool=pool).dataset


def simulate_study(
    path: str | Path,
    design: Design,
    flaws: Flaws = Flaws(),
    *,
    pool: Executor | None = None,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Simulate a whole study: training, test and external datasets, and the truth about them.

    The new folder contains ``train.dataset`` (with some wrong labels and near-duplicates), ``test.dataset`` (unlabeled,
    with larger raw images, darker, with some leaked fields), ``external.dataset`` (with the labels of each well),
    ``external-by-antibody.csv`` (labels per antibody, a common error), and ``truth/``.

    Args:
        path: The new folder.
        design: The design of the fields.
        flaws: The flaws of the study.
        pool: Executor that simulates the fields; see :func:`simulate_dataset`.
        progress: A function that is called with the number of finished fields and of all fields.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If a value of the design or the flaws is out of range.
        StorageError: If the disk is full or read-only.
        OutputExistsError: If ``path`` exists and is not an unfinished simulation with these settings.
    """
    check_type(path, (str, Path), argument="path")
    check_type(design, Design, argument="design")
    check_type(flaws, Flaws, argument="flaws")
    path = Path(path)
    flaws.check()
    sets = plan_sets(design, flaws)
    with resumable(path, {"design": asdict(design), "flaws": asdict(flaws)}, done=path / "study.json"):
        total, before = sum(len(each.plans) for each in sets.values()), 0
        for name, each in sets.items():
            target = path / f"{name}.dataset"
            if not is_complete(target):
                source = SimulatedSource(each.design, each.given)

                def advance(done: int, _total: int, *, before: int = before) -> None:
                    progress(before + done, total)

                options = ImportOptions(progress=advance)
                import_fields(source, target, size=design.size, options=options, pool=pool)
            before += len(each.plans)
        truth, train, test = path / "truth", sets["train"], sets["test"]
        truth.mkdir(exist_ok=True)
        for name in ("train", "test"):
            write_labels(truth / f"{name}.csv", {plan.row.id: plan.locations for plan in sets[name].plans})
        label_set = LabelSet.hpa28()
        mistaken = [
            (true.row.id, label_set.format(true.locations), label_set.format(given.row.labels or ()))
            for true, given in zip(train.plans, train.given, strict=True)
            if true.locations != given.row.labels
        ]
        write_rows(truth / "label_noise.csv", ["Id", "Target", "given"], mistaken)
        for name, plans in (("duplicates", train.plans), ("leak", test.plans)):
            copies = [(plan.copy_of.row.id, plan.row.id, plan.kind or "") for plan in plans if plan.copy_of]
            write_rows(truth / f"{name}.csv", ["a", "b", "kind"], copies)
        write_rows(truth / "wells.csv", ["a", "b"], of_one_well(test.plans))
        write_labels(path / "external-by-antibody.csv", labels_by_antibody(sets["external"].plans))


def labels_by_antibody(
    plans: Sequence[FieldPlan], *, name_of: Callable[[FieldPlan], str] = lambda plan: plan.row.id
) -> dict[str, tuple[int, ...]]:
    """Return the labels that the usual external list gives: all locations of the antibody, in any well."""
    every: dict[str | None, set[int]] = {}
    for plan in plans:
        every.setdefault(plan.row.antibody, set()).update(plan.locations)
    return {name_of(plan): tuple(sorted(every[plan.row.antibody])) for plan in plans}


def plan_sets(design: Design, flaws: Flaws) -> dict[str, PlannedSet]:
    """Return the planned fields of the sets ``train``, ``external`` and ``test``."""
    n_test = max(1, round(TEST_SHARE * design.n_fields))
    of_train = replace(design, duplicates=flaws.duplicates)
    of_external = replace(design, seed=design.seed + 1_000_003)
    of_test = replace(
        design,
        n_fields=n_test,
        seed=design.seed + 2_000_003,
        gain=flaws.gain,
        original_px=min(round(1.5 * (design.original_px or design.size)), MOST_PX),
    )
    train, external, test = plan_study(of_train), plan_study(of_external), plan_study(of_test)
    rng = np.random.default_rng([of_test.seed, 5])
    for place in rng.choice(n_test, round(flaws.leaked * n_test), replace=False):
        original, kind = external[int(rng.integers(len(external)))], KINDS[int(rng.integers(len(KINDS)))]
        # A leaked field is from the same well as its original, and was imaged with the same camera.
        row = replace(
            test[place].row,
            labels=original.locations,
            plate=None,
            well=None,
            original_px=original.row.original_px,
            original_width_px=original.row.original_width_px,
            pixel_um=original.row.pixel_um,
        )
        test[place] = replace(test[place], row=row, locations=original.locations, copy_of=original, kind=kind)
    rng = np.random.default_rng([design.seed, 4])
    wrong = []
    for plan in train:
        labels = plan.locations
        draw, place = rng.uniform(), int(rng.integers(len(labels)))
        others = [location for location in range(len(LabelSet.hpa28())) if location not in labels]
        if draw < flaws.noise and others and flaws.kind == "missing":
            labels = labels[:place] + labels[place + 1 :] if len(labels) > 1 else labels
        elif draw < flaws.noise and others:
            other = others[int(rng.integers(len(others)))]
            rest = labels if flaws.kind == "extra" else labels[:place] + labels[place + 1 :]
            labels = tuple(sorted({*rest, other}))
        wrong.append(replace(plan, row=replace(plan.row, labels=labels)))
    hidden = [
        replace(plan, row=replace(plan.row, labels=None, gene=None, antibody=None, plate=None, well=None))
        for plan in test
    ]
    return {
        "train": PlannedSet(of_train, train, wrong),
        "external": PlannedSet(of_external, external, external),
        "test": PlannedSet(of_test, test, hidden),
    }
