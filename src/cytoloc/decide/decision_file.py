"""Decisions as JSON files: version 2, and a reader for version 1 too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import Blank, CalibrationKind, EnsembleKind, Method
from cytoloc.decide.calibrate import Calibration
from cytoloc.decide.ensemble import LEVELS, Ensemble
from cytoloc.decide.fitted import Decision
from cytoloc.decide.plan import Evidence, Plan, ThresholdKind
from cytoloc.decide.rules import Rules
from cytoloc.errors import FormatError
from cytoloc.files import read_json, write_json
from cytoloc.labels import N_LOCATIONS

KIND: Final = "cytoloc-decision"
VERSION: Final = 2

Content = dict[str, Any]


def write_decision(decision: Decision, path: Path) -> None:
    """Write a decision as JSON to a path that must be free."""
    content = {
        "method": decision.method,
        "members": list(decision.members),
        "thresholds": decision.thresholds.tolist(),
        "intervals_95": None if decision.intervals is None else decision.intervals.tolist(),
        "plan": decision.plan.to_json(),
        "evidence": decision.evidence.to_json(),
        "rates": decision.rates.tolist(),
        "rules": decision.rules.to_json(),
        "fitted_on": decision.fitted_on,
    }
    write_json(path, content, kind=KIND, version=VERSION)


def read_decision(path: Path) -> Decision:
    """Return what :func:`write_decision` wrote, now or in version 1.

    Raises:
        FormatError: If the file is not a decision of these versions, or is damaged.
    """
    version = _version_of(path)
    content = read_json(path, kind=KIND, version=version)
    read: Callable[[Content], Decision] = _read_first if version == 1 else _read_second
    try:
        decision = read(content)
        faults = _faults(decision)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is damaged: {error!r}.", way_out="Fit the decision again.") from error
    if faults:
        raise FormatError(f"{path} is damaged: {faults[0]}.", way_out="Fit the decision again.")
    return decision


def _version_of(path: Path) -> int:
    """Return 1 if the file says so, else the present version, which is then the one asked for."""
    try:
        read_json(path, kind=KIND, version=1)
    except FormatError:
        return VERSION
    return 1


def _read_first(content: Content) -> Decision:
    """Read version 1: the plain mean of the members, thresholds of the grid, a cap, and blanks filled or not."""
    if not isinstance(content["fill_blank"], bool):
        raise TypeError("fill_blank must be true or false")
    members = tuple(content["members"])
    fitted_on = dict(content["fitted_on"])
    positives = np.array(fitted_on.get("positives", [0] * N_LOCATIONS), np.float64)
    nothing = np.zeros((len(members), N_LOCATIONS))
    mean = Evidence(
        Ensemble("mean", nothing, nothing, np.ones(len(members), bool)),
        Calibration("none", np.tile([0.0, 1.0, 1.0], (N_LOCATIONS, 1))),
    )
    return Decision(
        content["method"],
        members,
        np.array(content["thresholds"], np.float64),
        Plan("mean", "none", "grid"),
        mean,
        positives / max(int(fitted_on.get("fields", 1)), 1),
        Rules(most=int(content["most"]), blank="probability" if content["fill_blank"] else "none"),
        fitted_on=fitted_on,
    )


def _read_second(content: Content) -> Decision:
    intervals = content["intervals_95"]
    return Decision(
        content["method"],
        tuple(content["members"]),
        np.array(content["thresholds"], np.float64),
        Plan.from_json(content["plan"]),
        Evidence.from_json(content["evidence"]),
        np.array(content["rates"], np.float64),
        Rules.from_json(content["rules"]),
        None if intervals is None else np.array(intervals, np.float64),
        dict(content["fitted_on"]),
    )


def _faults(decision: Decision) -> list[str]:
    """Return what is wrong with a decision that was read."""
    ensemble, plan, rules = decision.evidence.ensemble, decision.plan, decision.rules
    per_member = (len(decision.members), N_LOCATIONS)
    numbers: list[tuple[str, NDArray[np.float64] | None, tuple[int, ...]]] = [
        ("thresholds", decision.thresholds, (N_LOCATIONS,)),
        ("rates", decision.rates, (N_LOCATIONS,)),
        ("intervals_95", decision.intervals, (N_LOCATIONS, 2)),
        ("centre", ensemble.centre, per_member),
        ("spread", ensemble.spread, per_member),
        ("weights", ensemble.weights, per_member),
        ("curves", decision.evidence.calibration.curves, (N_LOCATIONS, 3)),
        ("quantiles", ensemble.quantiles, (int(ensemble.heard.sum()), N_LOCATIONS, len(LEVELS))),
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
    if not all(0 <= i < N_LOCATIONS for pair in rules.exclusive for i in pair):
        faults.append(f"exclusive must be pairs of locations from 0 to {N_LOCATIONS - 1}")
    if not 1 <= rules.most <= N_LOCATIONS:
        faults.append(f"the cap must lie from 1 to {N_LOCATIONS}")
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
        decision({name: np.full((1, N_LOCATIONS), 0.5) for name in decision.members})
    return faults
