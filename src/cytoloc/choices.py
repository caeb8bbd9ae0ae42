"""The words that settings can take, where several rooms and the command line must agree on them."""

from __future__ import annotations

from typing import Literal

Square = Literal["refuse", "crop", "pad"]
"""What becomes of an image that is not square."""

GroupBy = Literal["well", "antibody", "field"]
"""What folds keep together."""

Noise = Literal["missing", "extra", "swapped"]
"""What is wrong with the wrong labels of a simulated study."""

HeadName = Literal["plain", "average-max", "attention", "multi-stage"]
"""How a network's features become predictions of the locations."""

NewPlanes = Literal["red", "mean"]
"""What a network's weights for a fourth channel are copied from."""

MethodName = Literal["grid", "global", "smooth", "fixed", "ratio", "shrunk", "exact", "expected", "stack", "auto"]
"""How a decision is fitted."""

EnsembleKind = Literal["mean", "logit", "rank", "weighted", "class", "stack"]
"""How members become one."""

CalibrationKind = Literal["none", "platt", "temperature", "isotonic", "beta"]
"""How predictions become probabilities."""

Blank = Literal["none", "probability", "margin", "ratio"]
"""What a field above no threshold gets."""
