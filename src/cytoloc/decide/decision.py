"""Fitted decisions, which turn the predictions of one or more members into locations; and their files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from cytoloc.choices import check_type
from cytoloc.decide.calibration import reweighted, shifted_frequencies
from cytoloc.decide.coverage import CoverageRule
from cytoloc.decide.cross_fitting import ProbabilityModel
from cytoloc.decide.ensembles import LEVELS
from cytoloc.decide.inputs import (
    Bools,
    FieldGroups,
    Floats,
    MemberArrays,
    MemberPredictions,
    Members,
    as_groups,
    as_members,
)
from cytoloc.decide.methods import Method, Rules, method_named
from cytoloc.decide.thresholds import NEVER, apply_thresholds, average_groups, expected_thresholds
from cytoloc.errors import ArgumentTypeError, CytolocError, FormatError, SettingsError, TableError
from cytoloc.files import FileFormat, json_bytes, read_json, write_json
from cytoloc.labels.label_set import LabelSet
from cytoloc.predictions import Predictions, cells_of, rows_of, warnings_of

DECISION_FORMAT: Final = FileFormat("cytoloc-decision", 1, "decision file of `cytoloc decide fit`")


def _method_of(content: dict[str, Any]) -> Method:
    options = dict(content)
    method = method_named(options.pop("name"), **options)
    if not isinstance(method, Method):
        raise SettingsError(f"A decision cannot have the method {method.word!r}.")
    return method


@dataclass(frozen=True, repr=False)
class Decision:
    """A fitted decision. Call it with predictions to get the locations of each field.

    Attributes:
        method: The method. If it was chosen by ``auto``, the chosen method.
        members: The names of the ensemble members.
        thresholds: The threshold of each location. A location is predicted if its probability is above the threshold.
        probability_model: The fitted ensemble and calibration.
        frequencies: The share of the fields used for fitting that have each location.
        label_set: The locations.
        rules: The rules that are applied after the thresholds.
        intervals: 95 % bootstrap interval of each threshold, shape ``(locations, 2)``; None if not computed.
        fitted_on: Facts about the fields used for fitting. JSON values only.
        sets: The limit of prediction sets; None if none was fitted.
    """

    method: Annotated[Method, PlainValidator(_method_of), PlainSerializer(lambda method: method.to_json())]
    members: tuple[str, ...]
    thresholds: Floats
    probability_model: ProbabilityModel
    frequencies: Floats
    label_set: Annotated[
        LabelSet, PlainValidator(LabelSet.from_json), PlainSerializer(lambda label_set: label_set.to_json())
    ]
    rules: Rules
    intervals: Floats | None = None
    fitted_on: dict[str, Any] = field(default_factory=dict)
    sets: CoverageRule | None = None

    def __repr__(self) -> str:
        fields = self.fitted_on.get("fields", "unknown")
        return f"Decision({self.method.name}; {', '.join(self.members)}; {self.label_set.name}; {fields} fields)"

    @overload
    def __call__(
        self,
        predictions: MemberPredictions,
        *,
        groups: FieldGroups | None = ...,
        label_shift: bool = ...,
        without: Sequence[str] = ...,
        fields: Sequence[str] | None = ...,
    ) -> Predictions: ...

    @overload
    def __call__(
        self,
        predictions: MemberArrays,
        *,
        groups: FieldGroups | None = ...,
        label_shift: bool = ...,
        without: Sequence[str] = ...,
        fields: Sequence[str] | None = ...,
    ) -> Bools: ...

    def __call__(
        self,
        predictions: MemberPredictions | MemberArrays,
        *,
        groups: FieldGroups | None = None,
        label_shift: bool = False,
        without: Sequence[str] = (),
        fields: Sequence[str] | None = None,
    ) -> Predictions | Bools:
        """Decide on the locations of each field.

        Args:
            predictions: Predictions, or probabilities of shape ``(n, locations)``, of the only member; or a mapping of
                member names to either. A field can lack predictions of some members, but not of all.
            groups: A group per field, such as near-duplicates or fields of one well, over which probabilities are
                averaged. An array, or for Predictions a table with the columns ``id`` and ``group``.
            label_shift: Whether to estimate how frequent each location is in these fields, and to adapt the decision.
                The locations of a field then depend on the other fields.
            without: Names of members that have no predictions of these fields.
            fields: For Predictions, the ids of the fields to decide on, in order. Default: all fields.

        Returns:
            For Predictions, Predictions with calibrated probabilities and ``decided``. For arrays, bool of shape
            ``(n, locations)``.

        Raises:
            ArgumentTypeError: If an argument has the wrong type.
            TableError: If a member is missing or unknown, or ``label_shift`` is used without calibrated probabilities.
            SettingsError: If ``without`` contains a member that is unknown or has predictions.
            LabelSetError: If the predictions have another label set.
        """
        members = self._checked(predictions, without)
        if fields is not None:
            if members.ids is None:
                raise ArgumentTypeError(
                    "`fields` contains ids, but the predictions are arrays without ids.", hint="Give Predictions."
                )
            members = members.of(np.array(rows_of(fields, members.ids, where="fields"), np.int64))
        probabilities = self._probabilities(members, groups=groups, label_shift=label_shift)
        decided = self.decide_calibrated(probabilities, label_shift=label_shift)
        if members.ids is None or members.tables is None:
            return decided
        changed = self.method.fits_probabilities or label_shift or groups is not None
        provenance = {
            **provenance_of(members),
            "decision": self.method.name,
            **({"calibrated_by": self.fingerprint} if changed else {}),
        }
        narrow = probabilities.astype(np.float32)
        rejected = {name: why for table in members.tables.values() for name, why in table.rejected.items()}
        cells = cells_of(members.tables.values(), members.ids)
        return Predictions(members.ids, narrow, self.label_set, provenance, decided, rejected, cells=cells)

    def probabilities(
        self,
        members: MemberPredictions | MemberArrays,
        *,
        groups: FieldGroups | None = None,
        label_shift: bool = False,
    ) -> Floats:
        """Return the calibrated probabilities, before thresholds are applied.

        Args:
            members: Predictions or probabilities; see the call of the decision.
            groups: Groups over which probabilities are averaged.
            label_shift: Whether to adapt to the frequencies of these fields.

        Returns:
            float64 of shape ``(n, locations)``.
        """
        return self._probabilities(self._checked(members, ()), groups=groups, label_shift=label_shift)

    def decide_calibrated(self, probabilities: NDArray[np.floating], *, label_shift: bool = False) -> Bools:
        """Apply thresholds and rules to calibrated probabilities.

        Args:
            probabilities: The result of :meth:`probabilities`, shape ``(n, locations)``.
            label_shift: Whether to recompute the thresholds for these fields.

        Returns:
            The locations of each field, bool of shape ``(n, locations)``.
        """
        thresholds = self.thresholds
        if label_shift:
            thresholds = np.where(thresholds < NEVER, expected_thresholds(probabilities), NEVER)
        return apply_thresholds(probabilities, thresholds, **self.rules.options())

    def prediction_sets(self, predictions: MemberPredictions | MemberArrays) -> Bools:
        """Return for each field the locations that contain all true ones with the probability ``sets.coverage``.

        A decision has prediction sets if it was fitted with ``coverage``; see :func:`cytoloc.fit_and_cross_fit`.

        Args:
            predictions: Predictions or probabilities; see the call of the decision.

        Returns:
            bool of shape ``(n, locations)``.

        Raises:
            SettingsError: If the decision has no prediction sets.
        """
        if self.sets is None:
            raise SettingsError(
                "The decision has no prediction sets.", hint="Fit it again with `coverage`, for example 0.9."
            )
        return self.sets.sets(self.probabilities(predictions))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the decision's file."""
        return hashlib.sha256(json_bytes(_CONTENT.dump_python(self, mode="json"), DECISION_FORMAT)).hexdigest()

    def _checked(self, predictions: MemberPredictions | MemberArrays, without: Sequence[str]) -> Members:
        """Return the predictions of all members, in the order of the fit."""
        members = as_members(predictions, one_member=self.members[0] if len(self.members) == 1 else "the only one")
        for name in without:
            if name not in self.members or name in members.names:
                wrong = "has predictions" if name in members.names else "is not a member of the decision"
                raise SettingsError(
                    f"The member {name!r} in `without` {wrong}.",
                    hint=f"The decision has the members {', '.join(self.members)}. Give members without predictions.",
                )
        if set(members.names) | set(without) != set(self.members):
            raise TableError(
                f"The decision was fitted with the members {', '.join(self.members)}, but the predictions are of"
                f" {', '.join(members.names)}.",
                hint="Give a mapping with the same member names, and list members without predictions in `without`.",
            )
        columns = members.stack.shape[2]
        if members.label_set is not None:
            self.label_set.refuse_other(members.label_set, what="the predictions", than="the decision")
        elif columns != len(self.label_set):
            raise TableError(
                f"The decision has the label set {self.label_set}, but the probabilities have {columns} columns.",
                hint="Give probabilities of the same locations, in the same order.",
            )
        absent = np.full(members.stack.shape[1:], np.nan)
        stacked = dict(zip(members.names, members.stack, strict=True))
        return replace(members, stack=np.stack([stacked.get(name, absent) for name in self.members]))

    def _probabilities(self, members: Members, *, groups: FieldGroups | None, label_shift: bool) -> Floats:
        probabilities = self.probability_model(members.stack)
        numbers = as_groups(groups, members.ids, len(probabilities))
        if numbers is not None:
            probabilities = average_groups(probabilities, numbers)
        if label_shift:
            if not self.method.is_calibrated:
                raise TableError(
                    f"The method {self.method.name!r} does not calibrate probabilities, which label shift needs.",
                    hint="Fit with the method 'expected' or 'auto', or with a calibration.",
                )
            new = shifted_frequencies(probabilities, self.frequencies)
            probabilities = reweighted(probabilities, self.frequencies, new)
        return probabilities


_CONTENT: Final = TypeAdapter(Decision)


def provenance_of(members: Members) -> dict[str, Any]:
    """Return the provenance of the only member, or the provenance of each member by name."""
    tables: Mapping[str, Predictions] = members.tables or {}
    if len(tables) == 1:
        return dict(next(iter(tables.values())).provenance)
    each = {name: table.provenance for name, table in tables.items()}
    return {"members": each, **warnings_of(tables.values())}


def with_provenance(decision: Decision, **facts: Any) -> Decision:
    """Return the decision with more facts in ``fitted_on``."""
    return replace(decision, fitted_on={**decision.fitted_on, **facts})


def write_decision(decision: Decision, path: str | Path) -> None:
    """Write a decision to a new JSON file.

    Args:
        decision: The decision.
        path: The new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        OutputExistsError: If the file exists.
    """
    check_type(decision, Decision, argument="decision")
    check_type(path, (str, Path), argument="path")
    write_json(Path(path), _CONTENT.dump_python(decision, mode="json"), DECISION_FORMAT)


def read_decision(path: str | Path) -> Decision:
    """Read a decision that :func:`write_decision` wrote.

    Args:
        path: The file.

    Returns:
        The decision.

    Raises:
        ArgumentTypeError: If ``path`` is not a path.
        FormatError: If the file is not a decision of this version, or is damaged.
    """
    check_type(path, (str, Path), argument="path")
    content = read_json(Path(path), DECISION_FORMAT)
    try:
        decision = _CONTENT.validate_python(content)
        fault = _fault(decision)
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        fault = error.message if isinstance(error, CytolocError) else repr(error)
    if fault:
        raise FormatError(f"{path} is damaged: {fault}", hint="Fit the decision again.")
    return decision


def _fault(decision: Decision) -> str:
    """Return the error in a decision that was read; empty if there is none."""
    ensemble, calibration, rules = (
        decision.probability_model.ensemble,
        decision.probability_model.calibration,
        decision.rules,
    )
    locations = len(decision.label_set)
    per_member = (len(decision.members), locations)
    shapes: list[tuple[str, Floats | None, tuple[int, ...]]] = [
        ("thresholds", decision.thresholds, (locations,)),
        ("frequencies", decision.frequencies, (locations,)),
        ("intervals", decision.intervals, (locations, 2)),
        ("center", ensemble.center, per_member),
        ("std", ensemble.std, per_member),
        ("weights", ensemble.weights, per_member),
        ("curves", calibration.curves, (locations, 3)),
        ("quantiles", ensemble.quantiles, (int(ensemble.fitted.sum()), locations, len(LEVELS))),
    ]
    for name, values, shape in shapes:
        if values is not None and values.shape != shape:
            return f"{name} must have the shape {shape}"
    if ensemble.fitted.shape != per_member[:1] or not ensemble.fitted.any():
        return "fitted must be one boolean for each member, at least one of them true"
    if not all(0 <= i < locations for pair in rules.exclusive for i in pair):
        return f"exclusive must be pairs of locations from 0 to {locations - 1}"
    if rules.max_locations is None or rules.max_locations > locations:
        return f"max_locations must be from 1 to {locations}"
    needed = {"stack": ensemble.stack, "rank": ensemble.quantiles}
    needed |= {"weighted": ensemble.weights, "class": ensemble.weights}
    if needed.get(ensemble.kind, True) is None:
        return f"the values of the ensemble {ensemble.kind!r} are missing"
    # Other inconsistent shapes raise an error when the decision is used.
    decision({name: np.full((1, locations), 0.5) for name in decision.members})
    return ""
