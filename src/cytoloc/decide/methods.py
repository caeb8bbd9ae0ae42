"""Methods of fitting a decision, and rules that are applied after the thresholds.

A method defines how the predictions of members are combined (``ensemble``), how the result is calibrated
(``calibration``), and how thresholds are chosen. 'Calibrate and decide' in the documentation lists all methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Final, get_args

import numpy as np

from cytoloc.choices import Blank, CalibrationKind, EnsembleKind, MethodName
from cytoloc.decide.inputs import Bools, Floats, refuse_unknown_word
from cytoloc.decide.thresholds import (
    NEVER,
    exact_thresholds,
    exclusive_pairs,
    expected_thresholds,
    global_thresholds,
    grid_thresholds,
    outstanding_thresholds,
    ratio_thresholds,
    smooth_thresholds,
)
from cytoloc.errors import ArgumentTypeError, SettingsError

LABEL_FREE_ENSEMBLES: Final = ("mean", "logit")
"""Kinds of ensembles that do not depend on the fields that they are fitted to."""

DEFAULT_MAX_LOCATIONS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Method:
    """The base class of all methods.

    Attributes:
        ensemble: How members are combined; see :class:`~cytoloc.decide.ensembles.Ensemble`.
        calibration: How the combined predictions are calibrated; see :class:`~cytoloc.decide.calibration.Calibration`.
    """

    ensemble: EnsembleKind = "mean"
    calibration: CalibrationKind = "none"
    word: ClassVar[MethodName]

    def __post_init__(self) -> None:
        refuse_unknown_word(self.ensemble, get_args(EnsembleKind), what="ensemble")
        refuse_unknown_word(self.calibration, get_args(CalibrationKind), what="calibration")

    @property
    def fits_probabilities(self) -> bool:
        """Whether the probabilities depend on the labels or fields that the method is fitted to."""
        return self.calibration != "none" or self.ensemble not in LABEL_FREE_ENSEMBLES

    @property
    def is_calibrated(self) -> bool:
        """Whether the method returns calibrated probabilities."""
        return self.calibration != "none" or self.ensemble == "stack"

    @property
    def name(self) -> str:
        """The parts of the method, such as ``mean + platt + expected``."""
        return " + ".join([self.ensemble, *([self.calibration] if self.calibration != "none" else []), self.word])

    def thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        """Return the threshold of each class; it is 1 for classes without positives.

        Args:
            probabilities: Shape ``(n, classes)``.
            truth: bool of shape ``(n, classes)``.

        Returns:
            float64 of shape ``(classes,)``.
        """
        return np.where(truth.any(axis=0), self._thresholds(probabilities, truth), NEVER)

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the method as JSON values."""
        return {"name": self.word, **{each.name: getattr(self, each.name) for each in fields(self) if each.init}}


class Grid(Method):
    """For each class, the threshold with the best F1 on a grid from 0.1 to 0.699, as in the silver-medal baseline."""

    word: ClassVar[MethodName] = "grid"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return grid_thresholds(probabilities, truth)


class GlobalGrid(Method):
    """One threshold for all classes, with the best macro F1 on the grid of :class:`Grid`."""

    word = "global"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return global_thresholds(probabilities, truth)


class Smooth(Method):
    """Least squares of a smoothed F1, as in the starter code of the silver-medal baseline."""

    word = "smooth"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return smooth_thresholds(probabilities, truth)


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """The same given threshold for all classes.

    Attributes:
        threshold: The threshold, from 0 to below 1.
    """

    threshold: float = 0.5
    word = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold < 1:
            raise SettingsError(
                f"`threshold` is {self.threshold:g}, but must be from 0 to below 1.", hint="Choose for example 0.5."
            )

    def _thresholds(self, _probabilities: Floats, truth: Bools) -> Floats:
        return np.full(truth.shape[1], float(self.threshold))


@dataclass(frozen=True, kw_only=True)
class Ratio(Method):
    """Thresholds that predict each class in a given share of the fields.

    Attributes:
        ratios: The share of each class, 0 to 1. Default: its share of the fields used for fitting.
    """

    ratios: Sequence[float] | None = None
    word = "ratio"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratios is not None:
            values = np.asarray(self.ratios, np.float64)
            if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
                raise SettingsError(
                    "`ratios` must be one share from 0 to 1 per location.",
                    hint="Give the share of the fields that have each location.",
                )
            object.__setattr__(self, "ratios", tuple(values.tolist()))

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return ratio_thresholds(probabilities, truth.mean(axis=0) if self.ratios is None else np.array(self.ratios))


class Shrunk(Grid):
    """Thresholds of :class:`Grid` times 0.7; for blank fields times 0.6, then 0.5 (second place of 2018)."""

    word = "shrunk"
    factors: ClassVar[tuple[float, ...]] = (0.7, 0.6, 0.5)


class Exact(Method):
    """For each class, the threshold with the best F1."""

    word = "exact"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return exact_thresholds(probabilities, truth)


@dataclass(frozen=True, kw_only=True)
class ExpectedF1(Method):
    """For each class, the threshold with the best expected F1 of calibrated probabilities.

    No positives are needed. A class without positives is predicted only if its probability exceeds the probabilities of
    all but one of the fields used for fitting.
    """

    calibration: CalibrationKind = "platt"
    word: ClassVar[MethodName] = "expected"

    def thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        """Return the threshold of each class.

        Args:
            probabilities: Calibrated probabilities, shape ``(n, classes)``.
            truth: bool of shape ``(n, classes)``.

        Returns:
            float64 of shape ``(classes,)``.
        """
        found = expected_thresholds(probabilities)
        return np.where(truth.any(axis=0), found, np.maximum(found, outstanding_thresholds(probabilities)))


@dataclass(frozen=True, kw_only=True)
class Stack(ExpectedF1):
    """The best expected F1 of a stack: a regression in which each location also depends on the other locations.

    Attributes:
        precision: How strongly classes are shrunk towards their common weights. Default: estimated from the data.
    """

    ensemble: EnsembleKind = field(default="stack", init=False, repr=False)
    calibration: CalibrationKind = "none"
    precision: float | None = None
    word = "stack"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision is not None:
            if not self.precision > 0:
                raise SettingsError(f"`precision` is {self.precision:g}, but must be greater than 0.")
            object.__setattr__(self, "precision", float(self.precision))

    @property
    def name(self) -> str:
        """The parts of the method, such as ``stack 30 + expected``."""
        stack = "stack" if self.precision is None else f"stack {self.precision:g}"
        return " + ".join([stack, *([self.calibration] if self.calibration != "none" else []), "expected"])


@dataclass(frozen=True, kw_only=True)
class Auto:
    """The method with the lowest cross-fitted log loss, or one whose macro F1 is clearly higher.

    Attributes:
        max_fields: The maximum number of fields for comparing methods. The best method is then fitted to all fields.
    """

    max_fields: int = 8000
    word: ClassVar[MethodName] = "auto"

    def __post_init__(self) -> None:
        if self.max_fields < 3:
            raise SettingsError(f"`max_fields` is {self.max_fields}, but must be 3 or more.")


METHODS: Final[dict[str, type[Method]]] = {
    each.word: each for each in (Grid, GlobalGrid, Smooth, Fixed, Ratio, Shrunk, Exact, ExpectedF1, Stack)
}
AnyMethod = Method | Auto | MethodName


def method_named(word: str, **options: Any) -> Method | Auto:
    """Return the method with a given name, such as ``auto`` or ``grid``.

    Args:
        word: The name.
        options: The attributes of the method. None stands for the default.

    Returns:
        The method.

    Raises:
        SettingsError: If the method is unknown, or does not have an option.

    >>> method_named("fixed", threshold=0.3)
    Fixed(ensemble='mean', calibration='none', threshold=0.3)
    """
    refuse_unknown_word(word, [*METHODS, Auto.word], what="method")
    made: type[Method] | type[Auto] = METHODS.get(word, Auto)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - {each.name for each in fields(made) if each.init}:
        users = [each for each, other in METHODS.items() if name in {f.name for f in fields(other) if f.init}]
        raise SettingsError(
            f"The method {word!r} has no option {name!r}.",
            hint=f"Remove it, or choose {' or '.join(users)}." if users else "Remove it.",
        )
    return made(**given)


def as_method(method: AnyMethod) -> Method | Auto:
    """Return a method that is given as a value or by name."""
    if isinstance(method, type) or not isinstance(method, str | Method | Auto):
        raise ArgumentTypeError(
            f"`method` must be a name or a value such as Grid() or Auto(), not {method!r}.",
            hint=f"The names are {', '.join([*METHODS, Auto.word])}.",
        )
    return method_named(method) if isinstance(method, str) else method


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules that are applied after the thresholds.

    Attributes:
        max_locations: The maximum number of locations per field; those furthest above their thresholds are kept.
            Default: 5, or all locations if there are fewer.
        blank: The location of a field without any probability above its threshold: the location with the highest
            ``probability``, the best ``margin`` (probability minus threshold) or the best ``ratio`` (probability
            divided by threshold); or ``none``.
        shrink: Factors of the thresholds. All thresholds are multiplied by the first factor; the next factors are used
            in turn for fields without a location.
        exclusive: Pairs of indices of locations. Only the location with the better margin is kept in a field.
        cooccurrence: Whether to add to ``exclusive`` all pairs that never occur together in the fields used for
            fitting, although at least five fields are expected to have both.
    """

    max_locations: int | None = None
    blank: Blank = "probability"
    shrink: tuple[float, ...] = ()
    exclusive: tuple[tuple[int, int], ...] = ()
    cooccurrence: bool = False

    def __post_init__(self) -> None:
        refuse_unknown_word(self.blank, get_args(Blank), what="rule for blank fields")
        most = self.max_locations
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise SettingsError(f"`max_locations` must be an integer of 1 or more, not {most!r}.")
        if not all(np.isfinite(factor) and factor >= 0 for factor in self.shrink):
            raise SettingsError(f"`shrink` must contain factors of 0 or more, not {self.shrink!r}.")
        if not all(type(i) is int and len(pair) == 2 for pair in self.exclusive for i in pair):
            raise SettingsError(f"`exclusive` must contain pairs of indices of locations, not {self.exclusive!r}.")

    def fitted(self, method: Method | Auto, truth: Bools) -> Rules:
        """Return the rules with all values filled in that depend on the method and the fields used for fitting.

        Args:
            method: The method of the decision.
            truth: bool of shape ``(n, locations)``.

        Returns:
            The rules.

        Raises:
            SettingsError: If a rule requires more locations than there are.
        """
        locations = truth.shape[1]
        if self.max_locations is not None and self.max_locations > locations:
            raise SettingsError(
                f"`max_locations` is {self.max_locations}, but there are {locations} locations.",
                hint=f"Choose a number from 1 to {locations}.",
            )
        if not all(0 <= i < locations for pair in self.exclusive for i in pair):
            raise SettingsError(
                f"`exclusive` must contain indices of locations from 0 to {locations - 1}, not {self.exclusive}."
            )
        found = exclusive_pairs(truth) if self.cooccurrence else ()
        return replace(
            self,
            max_locations=self.max_locations or min(DEFAULT_MAX_LOCATIONS, locations),
            shrink=self.shrink or (method.factors if isinstance(method, Shrunk) else ()),
            exclusive=tuple(dict.fromkeys([*self.exclusive, *found])),
        )

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return fitted rules as arguments of :func:`~cytoloc.decide.thresholds.apply_thresholds`.

        Args:
            changes: Arguments to replace.

        Returns:
            The arguments.
        """
        names = ("max_locations", "blank", "shrink", "exclusive")
        return {name: getattr(self, name) for name in names} | changes
