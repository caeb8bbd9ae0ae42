"""A fitted decision: from the predictions of one or more members to the locations of each field; and its file."""

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
from cytoloc.predictions import Predictions, rows_of, warnings_of

DECISION_FORMAT: Final = FileFormat("cytoloc-decision", 1)


def _method_of(content: dict[str, Any]) -> Method:
    options = dict(content)
    method = method_named(options.pop("name"), **options)
    if not isinstance(method, Method):
        raise SettingsError(f"A decision cannot have the method {method.word!r}.")
    return method


@dataclass(frozen=True, repr=False)
class Decision:
    """A fitted decision; call it with predictions to get the locations of each field.

    Attributes:
        method: The method; if it was chosen by ``auto``, the chosen one.
        members: Names of the members.
        thresholds: One per location, which is predicted where its probability is above.
        probability_model: Combines the members and calibrates the result.
        frequencies: Share of the fitted fields that have each location.
        label_set: The locations.
        rules: What is done after the thresholds.
        intervals: 95 % bootstrap interval of each threshold, ``(locations, 2)``; None if they were not computed.
        fitted_on: What it was fitted on; JSON values only.
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
        """Return the locations of each field.

        Args:
            predictions: Predictions, or probabilities ``(n, locations)``, of the decision's only member; or a mapping
                of member names to either. A field may lack some members, but not all.
            groups: A group per field, whose probabilities are averaged: near-duplicates, or fields of one well. An
                array, or with Predictions a table with the columns ``id`` and ``group``.
            label_shift: Estimate how frequent locations are in these fields, and decide accordingly. The locations of
                a field then depend on the other fields.
            without: Members that have no predictions of these fields.
            fields: With Predictions, the ids of the fields to decide, in this order; by default all.

        Returns:
            For Predictions, Predictions with calibrated probabilities and ``decided``; for arrays, bool
            ``(n, locations)``.

        Raises:
            ArgumentTypeError: If an argument has another type.
            TableError: If a member is missing or unknown, or ``label_shift`` is used without calibrated probabilities.
            SettingsError: If ``without`` names a member that is unknown or has predictions.
            LabelSetError: If the predictions have another label set.
        """
        members = self._checked(predictions, without)
        if fields is not None:
            if members.ids is None:
                raise ArgumentTypeError("fields names fields by id, but the predictions are arrays.")
            members = members.of(np.array(rows_of(fields, members.ids, where="fields"), np.int64))
        probabilities = self._probabilities(members, groups=groups, label_shift=label_shift)
        decided = self.decided(probabilities, label_shift=label_shift)
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
        return Predictions(members.ids, narrow, self.label_set, provenance, decided, rejected)

    def probabilities(
        self,
        members: MemberPredictions | MemberArrays,
        *,
        groups: FieldGroups | None = None,
        label_shift: bool = False,
    ) -> Floats:
        """Return the probabilities that are compared with the thresholds, float64 ``(n, locations)``.

        Arguments and errors are those of calling the decision.
        """
        return self._probabilities(self._checked(members, ()), groups=groups, label_shift=label_shift)

    def decided(self, probabilities: NDArray[np.floating], *, label_shift: bool = False) -> Bools:
        """Return the locations of each field, bool ``(n, locations)``, from what :meth:`probabilities` returns."""
        thresholds = self.thresholds
        if label_shift:
            thresholds = np.where(thresholds < NEVER, expected_thresholds(probabilities), NEVER)
        return apply_thresholds(probabilities, thresholds, **self.rules.options())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the decision's file."""
        return hashlib.sha256(json_bytes(_CONTENT.dump_python(self, mode="json"), DECISION_FORMAT)).hexdigest()

    def _checked(self, predictions: MemberPredictions | MemberArrays, without: Sequence[str]) -> Members:
        """Return the predictions of all members, in the order of the fit."""
        members = as_members(predictions, one_member=self.members[0] if len(self.members) == 1 else "the only one")
        for name in without:
            if name not in self.members or name in members.names:
                wrong = "has predictions here" if name in members.names else "is not a member of the decision"
                raise SettingsError(
                    f"The member {name!r} of without {wrong}.",
                    hint=f"The decision has the members {', '.join(self.members)}; name those without predictions.",
                )
        if set(members.names) | set(without) != set(self.members):
            raise TableError(
                f"The decision was fitted with the members {', '.join(self.members)}; these are"
                f" {', '.join(members.names)}.",
                hint="Give a mapping of the same member names, and name those without predictions in without.",
            )
        columns = members.stack.shape[2]
        if members.label_set is not None:
            self.label_set.refuse_other(members.label_set, what="the predictions", than="the decision")
        elif columns != len(self.label_set):
            raise TableError(
                f"The decision has the label set {self.label_set}; these probabilities have {columns} columns.",
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
                    f"The method {self.method.name!r} has no calibrated probabilities, so frequencies cannot be"
                    " estimated.",
                    hint="Fit with 'expected' or 'auto', or with a calibration.",
                )
            new = shifted_frequencies(probabilities, self.frequencies)
            probabilities = reweighted(probabilities, self.frequencies, new)
        return probabilities


_CONTENT: Final = TypeAdapter(Decision)


def provenance_of(members: Members) -> dict[str, Any]:
    """Return the provenance of the only member, or that of all members by their names."""
    tables: Mapping[str, Predictions] = members.tables or {}
    if len(tables) == 1:
        return dict(next(iter(tables.values())).provenance)
    each = {name: table.provenance for name, table in tables.items()}
    return {"members": each, **warnings_of(tables.values())}


def with_provenance(decision: Decision, **facts: Any) -> Decision:
    """Return the decision with facts added to ``fitted_on``."""
    return replace(decision, fitted_on={**decision.fitted_on, **facts})


def write_decision(decision: Decision, path: str | Path) -> None:
    """Write a decision as JSON to a path that must be free."""
    check_type(decision, Decision, argument="decision")
    check_type(path, (str, Path), argument="path")
    write_json(Path(path), _CONTENT.dump_python(decision, mode="json"), DECISION_FORMAT)


def read_decision(path: str | Path) -> Decision:
    """Return the decision that :func:`write_decision` wrote.

    Raises:
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
    """Return what is wrong with a decision that was read; empty if nothing."""
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
        return "fitted must be true or false for each member, and true for one"
    if not all(0 <= i < locations for pair in rules.exclusive for i in pair):
        return f"exclusive must be pairs of locations from 0 to {locations - 1}"
    if rules.max_locations is None or rules.max_locations > locations:
        return f"max_locations must lie from 1 to {locations}"
    needed = {"stack": ensemble.stack, "rank": ensemble.quantiles}
    needed |= {"weighted": ensemble.weights, "class": ensemble.weights}
    if needed.get(ensemble.kind, True) is None:
        return f"the ensemble {ensemble.kind!r} lacks its numbers"
    # Shapes that do not fit together show when they are used.
    decision({name: np.full((1, locations), 0.5) for name in decision.members})
    return ""
