"""Methods of fitting a decision, and rules that apply after the thresholds: typed values.

A method says how the predictions of members are combined (``ensemble``), how the result is calibrated (``calibration``)
and how thresholds are found. The comparison of all methods is in research/decisions.md.
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
"""Ensembles that do not depend on the fields that they are fitted to."""

DEFAULT_MAX_LOCATIONS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Method:
    """What all methods have in common.

    Attributes:
        ensemble: How members are combined; see :class:`~cytoloc.decide.ensembles.Ensemble`.
        calibration: How the result is calibrated; see :class:`~cytoloc.decide.calibration.Calibration`.
    """

    ensemble: EnsembleKind = "mean"
    calibration: CalibrationKind = "none"
    word: ClassVar[MethodName]

    def __post_init__(self) -> None:
        refuse_unknown_word(self.ensemble, get_args(EnsembleKind), what="ensemble")
        refuse_unknown_word(self.calibration, get_args(CalibrationKind), what="calibration")

    @property
    def fits_probabilities(self) -> bool:
        """Whether its probabilities depend on the labels or fields that it is fitted to."""
        return self.calibration != "none" or self.ensemble not in LABEL_FREE_ENSEMBLES

    @property
    def is_calibrated(self) -> bool:
        """Whether its scores are calibrated probabilities."""
        return self.calibration != "none" or self.ensemble == "stack"

    @property
    def name(self) -> str:
        """Its parts, such as ``mean + platt + expected``."""
        return " + ".join([self.ensemble, *([self.calibration] if self.calibration != "none" else []), self.word])

    def thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        """Return the threshold of each class, float64 ``(classes,)``; without positives it is 1."""
        return np.where(truth.any(axis=0), self._thresholds(probabilities, truth), NEVER)

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the method as JSON values."""
        return {"name": self.word, **{each.name: getattr(self, each.name) for each in fields(self) if each.init}}


class Grid(Method):
    """Per class the best F1 on a grid from 0.1 to 0.699: the silver-medal baseline."""

    word: ClassVar[MethodName] = "grid"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return grid_thresholds(probabilities, truth)


class GlobalGrid(Method):
    """One threshold for all classes: the best macro F1 on the same grid."""

    word = "global"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return global_thresholds(probabilities, truth)


class Smooth(Method):
    """The silver-medal baseline's starter code: least squares of a smoothed F1."""

    word = "smooth"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return smooth_thresholds(probabilities, truth)


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """The same given threshold for all classes.

    Attributes:
        threshold: From 0 to below 1.
    """

    threshold: float = 0.5
    word = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold < 1:
            raise SettingsError(
                f"A fixed threshold lies from 0 to below 1; this is {self.threshold:g}.", hint="Choose one such as 0.5."
            )

    def _thresholds(self, _probabilities: Floats, truth: Bools) -> Floats:
        return np.full(truth.shape[1], float(self.threshold))


@dataclass(frozen=True, kw_only=True)
class Ratio(Method):
    """Predicts each class in a given share of the fields.

    Attributes:
        ratios: Share of each class, 0 to 1; by default its share of the fitted fields.
    """

    ratios: Sequence[float] | None = None
    word = "ratio"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratios is not None:
            values = np.asarray(self.ratios, np.float64)
            if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
                raise SettingsError(
                    "ratios must be one share from 0 to 1 per location.", hint="Give each location's share of fields."
                )
            object.__setattr__(self, "ratios", tuple(values.tolist()))

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return ratio_thresholds(probabilities, truth.mean(axis=0) if self.ratios is None else np.array(self.ratios))


class Shrunk(Grid):
    """The second-placed team's thresholds: ``grid``, multiplied by 0.7, 0.6 for blank fields, 0.5 if still blank."""

    word = "shrunk"
    factors: ClassVar[tuple[float, ...]] = (0.7, 0.6, 0.5)


class Exact(Method):
    """Per class the best F1 of all thresholds."""

    word = "exact"

    def _thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        return exact_thresholds(probabilities, truth)


@dataclass(frozen=True, kw_only=True)
class ExpectedF1(Method):
    """Per class the best expected F1 of calibrated probabilities.

    No positives are needed. A class without positives is predicted where its probability stands out from those of all
    but one of the fitted fields.
    """

    calibration: CalibrationKind = "platt"
    word: ClassVar[MethodName] = "expected"

    def thresholds(self, probabilities: Floats, truth: Bools) -> Floats:
        """Return the threshold of each class, float64 ``(classes,)``."""
        found = expected_thresholds(probabilities)
        return np.where(truth.any(axis=0), found, np.maximum(found, outstanding_thresholds(probabilities)))


@dataclass(frozen=True, kw_only=True)
class Stack(ExpectedF1):
    """The best expected F1 of a stack, a regression in which locations inform each other.

    Attributes:
        precision: How strongly classes are shrunk towards what they share; by default estimated.
    """

    ensemble: EnsembleKind = field(default="stack", init=False, repr=False)
    calibration: CalibrationKind = "none"
    precision: float | None = None
    word = "stack"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision is not None:
            if not self.precision > 0:
                raise SettingsError(f"precision must be greater than 0; this is {self.precision:g}.")
            object.__setattr__(self, "precision", float(self.precision))

    @property
    def name(self) -> str:
        """Its parts, such as ``stack 30 + expected``."""
        stack = "stack" if self.precision is None else f"stack {self.precision:g}"
        return " + ".join([stack, *([self.calibration] if self.calibration != "none" else []), "expected"])


@dataclass(frozen=True, kw_only=True)
class Auto:
    """The best of several methods on fields that they were not fitted to.

    Attributes:
        max_fields: Maximum number of fields that methods are compared on; the best method is then fitted to all.
    """

    max_fields: int = 8000
    word: ClassVar[MethodName] = "auto"

    def __post_init__(self) -> None:
        if self.max_fields < 3:
            raise SettingsError(f"max_fields must be 3 or more; this is {self.max_fields}.")


METHODS: Final[dict[str, type[Method]]] = {
    each.word: each for each in (Grid, GlobalGrid, Smooth, Fixed, Ratio, Shrunk, Exact, ExpectedF1, Stack)
}
AnyMethod = Method | Auto | MethodName


def method_named(word: str, **options: Any) -> Method | Auto:
    """Return the method of a name, such as ``auto`` or ``grid``.

    Args:
        word: The name.
        options: The method's fields; None stands for the default.

    Raises:
        SettingsError: If there is no such method, or it does not use an option.

    >>> method_named("fixed", threshold=0.3)
    Fixed(ensemble='mean', calibration='none', threshold=0.3)
    """
    refuse_unknown_word(word, [*METHODS, Auto.word], what="method")
    made: type[Method] | type[Auto] = METHODS.get(word, Auto)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - {each.name for each in fields(made) if each.init}:
        users = [each for each, other in METHODS.items() if name in {f.name for f in fields(other) if f.init}]
        raise SettingsError(
            f"The method {word!r} does not use {name!r}.",
            hint=f"Leave it out, or choose {' or '.join(users)}." if users else "Leave it out.",
        )
    return made(**given)


def as_method(method: AnyMethod) -> Method | Auto:
    """Return a method that was given as a value or by its name."""
    if isinstance(method, type) or not isinstance(method, str | Method | Auto):
        raise ArgumentTypeError(
            f"method must be a name or a value such as Grid() or Auto(); this is {method!r}.",
            hint=f"Names are {', '.join([*METHODS, Auto.word])}.",
        )
    return method_named(method) if isinstance(method, str) else method


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is done after the thresholds.

    Attributes:
        max_locations: Maximum number of locations per field; those furthest above their thresholds are kept. By
            default 5, or all if there are fewer.
        blank: Location of a field above no threshold: that of the greatest ``probability``, that of the best
            ``margin`` (probability minus threshold) or ``ratio`` (probability by threshold), or ``none``.
        shrink: Thresholds are multiplied by the first factor; for fields without location, by the next ones in turn.
        exclusive: Pairs of locations of which a field keeps only that with the better margin.
        cooccurrence: Add to ``exclusive`` the pairs that no fitted field has together, though five are expected to.
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
            raise SettingsError(f"max_locations must be an integer of 1 or more; this is {most!r}.")
        if not all(np.isfinite(factor) and factor >= 0 for factor in self.shrink):
            raise SettingsError(f"shrink must be factors of 0 or more; this is {self.shrink!r}.")
        if not all(type(i) is int and len(pair) == 2 for pair in self.exclusive for i in pair):
            raise SettingsError(f"exclusive must be pairs of indices of locations; this is {self.exclusive!r}.")

    def fitted(self, method: Method | Auto, truth: Bools) -> Rules:
        """Return the rules with all that depends on the method and the fitted fields filled in."""
        locations = truth.shape[1]
        if self.max_locations is not None and self.max_locations > locations:
            raise SettingsError(
                f"max_locations is {self.max_locations}, but there are {locations} locations.",
                hint=f"Choose a number from 1 to {locations}.",
            )
        if not all(0 <= i < locations for pair in self.exclusive for i in pair):
            raise SettingsError(f"exclusive must name locations from 0 to {locations - 1}; this is {self.exclusive}.")
        found = exclusive_pairs(truth) if self.cooccurrence else ()
        return replace(
            self,
            max_locations=self.max_locations or min(DEFAULT_MAX_LOCATIONS, locations),
            shrink=self.shrink or (method.factors if isinstance(method, Shrunk) else ()),
            exclusive=tuple(dict.fromkeys([*self.exclusive, *found])),
        )

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return fitted rules as arguments of :func:`~cytoloc.decide.thresholds.apply_thresholds`, some changed."""
        names = ("max_locations", "blank", "shrink", "exclusive")
        return {name: getattr(self, name) for name in names} | changes
