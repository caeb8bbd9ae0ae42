"""Simulated fields whose cells are known, and label images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoloc.cells.labels import CellLabels
from cytoloc.simulate.cell_lines import CELL_LINES
from cytoloc.simulate.plan import Design, plan_study
