"""Decisions as JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import Blank, CalibrationKind, EnsembleKind, Method
from cytoloc.decide.ensemble import LEVELS
from cytoloc.decide.fitted import Decision
from cytoloc.decide.plan import Evidence, Plan, ThresholdKind
from cytoloc.decide.rules import Rules
from cytoloc.errors import FormatError, LabelSetError
from cytoloc.files import FileFormat, read_json, write_json
from cytoloc.labels import LabelSet

DECISION_FORMAT: Final = FileFormat("cytoloc-decision", 1)


def write_decision(decision: Decision, path: Path) -> None:
    """Write a decision as JSON to a path that must be free."""
    content = {
        "method": decision.method,
        "label_set": decision.label_set.to_json(),
        "members": list(decision.members),
        "thresholds": decision.thresholds.tolist(),
        "intervals_95": None if decision.intervals is None else decision.intervals.tolist(),
        "plan": decision.plan.to_json(),
        "evidence": decision.evidence.to_json(),
        "rates": decision.rates.tolist(),
        "rules": decision.rules.to_json(),
        "fitted_on": decision.fitted_on,
    }
    write_json(path, content, DECISION_FORMAT)


def read_decision(path: Path) -> Decision:
    """Return what :func:`write_decision` wrote.

    Raises:
        FormatError: If the file is not a decision of this version, or is damaged.
    """
    content = read_json(path, DECISION_FORMAT)
    try:
        decision = _decision(content)
        faults = _faults(decision)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged: {error!r}.", hint="Fit the decision again.") from error
    except LabelSetError as error:
        raise FormatError(f"{path} is damaged: {error.message}", hint="Fit the decision again.") from error
    if faults:
        raise FormatError(f"{path} is damaged: {faults[0]}.", hint="Fit the decision again.")
    return decision


def _decision(content: dict[str, Any]) -> Decision:
    intervals = content["intervals_95"]
    return Decision(
        content["method"],
        tuple(content["members"]),
        np.array(content["thresholds"], np.float64),
        Plan.from_json(content["plan"]),
        Evidence.from_json(content["evidence"]),
        np.array(content["rates"], np.float64),
        LabelSet.from_json(content["label_set"]),
        Rules.from_json(content["rules"]),
        None if intervals is None else np.array(intervals, np.float64),
        dict(content["fitted_on"]),
    )


def _faults(decision: Decision) -> list[str]:
    """Return what is wrong with a decision that was read."""
    ensemble, plan, rules = decision.evidence.ensemble, decision.plan, decision.rules
    locations = len(decision.label_set)
    per_member = (len(decision.members), locations)
    numbers: list[tuple[str, NDArray[np.float64] | None, tuple[int, ...]]] = [
        ("thresholds", decision.thresholds, (locations,)),
        ("rates", decision.rates, (locations,)),
        ("intervals_95", decision.intervals, (locations, 2)),
        ("center", ensemble.center, per_member),
        ("spread", ensemble.spread, per_member),
        ("weights", ensemble.weights, per_member),
        ("curves", decision.evidence.calibration.curves, (locations, 3)),
        ("quantiles", ensemble.quantiles, (int(ensemble.heard.sum()), locations, len(LEVELS))),
    ]
    faults = [
        f"{name} must be numbers of shape {shape}"
        for name, values, shape in numbers
        if values is not None and (values.shape != shape or not np.isfinite(values).all())
    ]
    names = (
        ("method", decision.method, Method),
        ("thresholds", plan.thresholds, ThresholdKind),
        ("ensemble", ensemble.kind, EnsembleKind),
        ("calibration", decision.evidence.calibration.kind, CalibrationKind),
        ("blank", rules.blank, Blank),
    )
    faults += [f"it has no known {what}: {name!r}" for what, name, known in names if name not in get_args(known)]
    if ensemble.heard.shape != per_member[:1] or not ensemble.heard.any():
        faults.append("heard must say of each member whether it counts, and one must")
    if not np.isfinite(rules.shrink).all():
        faults.append("shrink must be finite numbers")
    if not all(0 <= i < locations for pair in rules.exclusive for i in pair):
        faults.append(f"exclusive must be pairs of locations from 0 to {locations - 1}")
    if not 1 <= rules.most <= locations:
        faults.append(f"the cap must lie from 1 to {locations}")
    needed = {
        "stack": ensemble.stack,
        "rank": ensemble.quantiles,
        "weighted": ensemble.weights,
        "class": ensemble.weights,
    }
    if not faults and needed.get(ensemble.kind, True) is None:
        faults.append(f"the ensemble {ensemble.kind!r} lacks its numbers")
    if not faults and decision.members:
        # Shapes that do not fit together show when they are used.
        decision({name: np.full((1, locations), 0.5) for name in decision.members})
    return faults
