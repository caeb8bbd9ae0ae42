"""What each rule does: how many fields it changes, and the macro F1 with and without it on unseen fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import Blank
from cytoloc.decide.decision import HeldOut
from cytoloc.decide.metrics import macro_f1
from cytoloc.decide.rules import Rules, decide, share_evidence
from cytoloc.decide.thresholds import NEVER


def rule_effects(
    parts: Sequence[HeldOut], truth: NDArray[np.bool_], *, groups: NDArray[np.int64] | None = None
) -> list[dict[str, Any]]:
    """Return a row per rule: its name, whether the decision has it, fields that it changes, macro F1 with and without.

    Args:
        parts: Of :func:`~cytoloc.decide.decision.held_out_parts`, so that every field is judged unseen.
        truth: bool ``(n, locations)``.
        groups: A group number per field; adds what sharing evidence in groups would do.
    """
    own = parts[0].decision.rules
    blanks: Blank = "probability" if own.blank == "none" else own.blank
    as_they_are = _decided(parts, own, truth)
    switches = {
        "never blank": (
            own.blank != "none",
            _decided(parts, replace(own, blank=blanks), truth),
            _decided(parts, replace(own, blank="none"), truth),
        ),
        f"at most {own.most}": (
            own.most < truth.shape[1],
            as_they_are,
            _decided(parts, replace(own, most=truth.shape[1]), truth),
        ),
    }
    if own.shrink:
        switches["shrunk thresholds"] = (True, as_they_are, _decided(parts, replace(own, shrink=()), truth))
    if any(part.decision.rules.exclusive for part in parts):
        switches["exclusive locations"] = (True, as_they_are, _decided(parts, own, truth, apart=False))
    if groups is not None:
        switches["groups share their evidence"] = (False, _decided(parts, own, truth, groups=groups), as_they_are)
    return [
        {
            "rule": name,
            "on": on,
            "fields_changed": int((with_it != without).any(axis=1).sum()),
            "macro_f1_with": macro_f1(with_it, truth),
            "macro_f1_without": macro_f1(without, truth),
        }
        for name, (on, with_it, without) in switches.items()
    ]


def _decided(
    parts: Sequence[HeldOut],
    rules: Rules,
    truth: NDArray[np.bool_],
    *,
    groups: NDArray[np.int64] | None = None,
    apart: bool = True,
) -> NDArray[np.bool_]:
    """Return the locations under these rules; each part keeps its own exclusive pairs."""
    predicted = np.zeros_like(truth)
    for rows, probabilities, decision in parts:
        here = replace(rules, exclusive=decision.rules.exclusive if apart else ())
        shared = probabilities if groups is None else share_evidence(probabilities, groups[rows])
        predicted[rows] = decide(shared, decision.thresholds, here, never=NEVER)
    return predicted
