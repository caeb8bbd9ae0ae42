"""A fitted decision: everything between the probabilities of one or more members and the locations of a field."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoloc.choices import Method
from cytoloc.decide.inputs import Members, stack_members
from cytoloc.decide.label_shift import reweighted, shifted_rates
from cytoloc.decide.plan import Evidence, Plan
from cytoloc.decide.rules import Rules, decide, share_evidence
from cytoloc.decide.thresholds import NEVER, expected_thresholds
from cytoloc.errors import TableError
from cytoloc.labels import LabelSet

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """A fitted rule; call it with the probabilities of each member to get bool ``(n, locations)``.

    Attributes:
        method: How it was found.
        members: Names of the members, in the order that the evidence knows them in.
        thresholds: Per location; it is predicted where the probability is above.
        plan: What the method came to.
        evidence: How the members' probabilities become one.
        rates: Frequency of each location among the fitted fields.
        label_set: The locations.
        rules: What is done after the thresholds.
        intervals: 95 % bootstrap interval of each threshold, ``(locations, 2)``; None if it was not asked for.
        fitted_on: What it was fitted on; JSON values only.
    """

    method: Method
    members: tuple[str, ...]
    thresholds: Floats
    plan: Plan
    evidence: Evidence
    rates: Floats
    label_set: LabelSet
    rules: Rules = field(default_factory=Rules)
    intervals: Floats | None = None
    fitted_on: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self, members: Members, *, groups: NDArray[np.int64] | None = None, shift: bool = False
    ) -> NDArray[np.bool_]:
        """Return the locations of each field, bool ``(n, locations)``.

        Args:
            members: Probabilities ``(n, locations)`` of all members of the fit; a row of NaN is a field that the
                member lacks, and it may lack them all if others have them.
            groups: A group number per field: duplicates, or fields of one well, which then share their evidence.
            shift: Whether to estimate how frequent locations are in these fields, and to decide by that. A field's
                locations then depend on the fields that it comes with.

        Raises:
            TableError: If a member is missing, unknown, or of another shape.
        """
        return self.decided(self.probabilities(members, groups=groups, shift=shift), shift=shift)

    def decided(self, probabilities: NDArray[np.floating], *, shift: bool = False) -> NDArray[np.bool_]:
        """Return the locations of fields, bool ``(n, locations)``, by what :meth:`probabilities` said of them."""
        thresholds = self.thresholds
        if shift:
            thresholds = np.where(thresholds < NEVER, expected_thresholds(probabilities), NEVER)
        return decide(probabilities, thresholds, self.rules, never=NEVER)

    def probabilities(
        self, members: Members, *, groups: NDArray[np.int64] | None = None, shift: bool = False
    ) -> Floats:
        """Return the probabilities that are held against the thresholds, float64 ``(n, locations)``.

        Args:
            members: As for the call.
            groups: Likewise.
            shift: Likewise.

        Raises:
            TableError: As for the call, and if ``shift`` is asked of predictions that are not calibrated.
        """
        if set(members) != set(self.members):
            here = [name for name, values in members.items() if not np.isnan(values).all()]
            raise TableError(
                f"The decision was fitted with the members {', '.join(self.members)}; these are {', '.join(here)}.",
                hint="Give the predictions of the same members (--members, or --member NAME=FILE, keeps them apart), or"
                " say which have none of these fields: --without NAME, in Python rows of NaN.",
            )
        stack = stack_members({name: members[name] for name in self.members})
        if stack.shape[2] != len(self.label_set):
            raise TableError(
                f"The decision has the label set {self.label_set}; these probabilities have {stack.shape[2]} columns.",
                hint="Give probabilities of the same locations, in the same order.",
            )
        probabilities = self.evidence(stack)
        if groups is not None:
            probabilities = share_evidence(probabilities, groups)
        if shift:
            if not self.plan.calibrated:
                raise TableError(
                    f"The method {self.method!r} has no calibrated probabilities, so frequencies cannot be estimated.",
                    hint="Fit with 'expected' or 'auto', or with a calibration.",
                )
            probabilities = reweighted(probabilities, self.rates, shifted_rates(probabilities, self.rates))
        return probabilities


def with_provenance(decision: Decision, **facts: Any) -> Decision:
    """Return the decision with more said about what it was fitted on."""
    return replace(decision, fitted_on={**decision.fitted_on, **facts})
