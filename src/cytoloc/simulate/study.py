"""Writing studies: a dataset, or a whole study with a list of its flaws. Drawing is resumable, as imports are."""

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
"""Test fields by training fields: 11,702 by 31,072 in the 2018 competition."""

TEST_GAIN: Final = 0.8
"""The competition's test fields were darker: the means of their channels are 0.71 to 0.86 of the training set's."""


@dataclass(frozen=True, kw_only=True)
class Flaws:
    """The flaws of a study, as real ones have them.

    Attributes:
        noise: Share of training fields whose labels are wrong.
        kind: A location is missing (of fields that have several), one too many is given, or one is taken for another.
        duplicates: Share of training fields that are near-duplicates of another training field.
        leaked: Share of test fields that are near-duplicates of fields of the external set.
        gain: Brightness of the test set relative to the training set.
    """

    noise: float = 0.03
    kind: Noise = "swapped"
    duplicates: float = 0.04
    leaked: float = 0.02
    gain: float = TEST_GAIN

    def check(self) -> None:
        """Raise unless a study can have these flaws.

        Raises:
            SettingsError: If a number is impossible, or ``kind`` is unknown.
        """
        for name, share in (("noise", self.noise), ("leaked", self.leaked)):
            if not 0 <= share <= 1:
                raise SettingsError(f"A share {name} of {share:g} is impossible.", hint="Choose one from 0 to 1.")
        if not 0 < self.gain <= 2:
            raise SettingsError(f"A test set cannot be {self.gain:g} times as bright.", hint="Choose from 0 to 2.")
        refuse_unknown(self.kind, get_args(Noise), argument="kind")


class SimulatedSource:
    """Fields that are drawn when they are asked for."""

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
        """Return what draws the field ``item``; it can be sent to another process."""
        return partial(_draw_loaded, self._plans[item], self._size)


def _draw_loaded(plan: FieldPlan, size: int) -> list[Loaded]:
    return [(plan.row, draw_field(plan, size=size))]


@dataclass(frozen=True)
class PlannedSet:
    """The fields of a dataset of a study.

    Attributes:
        design: What decides them.
        plans: What they show, with the true labels.
        given: The same, with the labels that the dataset gives.
    """

    design: Design
    plans: list[FieldPlan]
    given: list[FieldPlan]


def simulate_dataset(
    path: str | Path, design: Design, *, pool: Executor | None = None, progress: Progress = lambda _done, _total: None
) -> Dataset:
    """Draw fields of simulated cells into a new dataset.

    The same design gives the same bytes. Drawing is resumable: call again to continue.

    Args:
        path: The new dataset.
        design: The design of the fields.
        pool: Where fields are drawn; by default threads of this process. With
            ``concurrent.futures.ProcessPoolExecutor()`` a script needs ``if __name__ == "__main__":``.
        progress: Called with the number of fields done and of all fields.

    Raises:
        SettingsError: If a number is impossible.
        StorageError: If the disk is full or read-only.
        OutputExistsError: If something lies at ``path``.
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
    """Draw a whole study: a training, a test and an external dataset, and the truth about them.

    The new folder holds ``train.dataset`` (some labels wrong, some fields twice), ``test.dataset`` (without labels,
    larger originals, darker, some fields leaked), ``external.dataset`` (labels of each well),
    ``external-by-antibody.csv`` (the wrong labels that people used), and ``truth/``.

    Args:
        path: The new folder.
        design: The design of the fields.
        flaws: The flaws of the study.
        pool: As for :func:`cytoloc.simulate.study.simulate_dataset`, like the errors.
        progress: Called with the number of fields done and of all fields.
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
        # A leaked field was imaged with the camera of its original, in the same well.
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
