"""Segmentation and heterogeneity on simulated fields, whose cells are known.

    python research/cells.py [--weights instanseg.pt] [--fields 12] [--out cells.json]

Precision and recall: fields have 1024 px of 0.16 µm, and cells count if their nucleus is in the field. Heterogeneity:
the share of cells with the protein and the entropy of a field, from segmented cells, against the true ones. A cell is
taken to have the protein if its mean brightness is at least 0.35 of that of the median cell of the field. Without
--weights, only the classical method is evaluated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from cytoloc.cells.aggregation import heterogeneity
from cytoloc.cells.matching import match_objects
from cytoloc.cells.methods import Classical, FieldImage, InstanSeg, Method
from cytoloc.channels import CHANNELS, PROTEIN
from cytoloc.simulate.field import photograph, true_amounts, true_cells
from cytoloc.simulate.plan import plan_one

PIXEL_UM = 0.16

DIM = 0.35
"""Brightness, relative to the median cell of a field, below which a cell is taken to lack the protein."""

WITHOUT_PROTEIN = 0.12
"""Amount of the protein below which a simulated cell has only a trace of it."""


def evaluate(method: Method, *, fields: int) -> dict[str, Any]:
    """Return precision and recall of cells and nuclei at IoU 0.5 and 0.75, over all fields."""
    sums: dict[str, np.ndarray] = {}
    with method.running():
        for number in range(fields):
            plan = plan_one(number % 28, seed=100 + number, size=1024)
            cells, nuclei = true_cells(plan)
            # The nuclei of some cells at the border are outside the field.
            cells = np.where(np.isin(cells, np.unique(nuclei)), cells, 0)
            found = method.segment(FieldImage(str(number), np.asarray(photograph(plan), np.uint8), CHANNELS, PIXEL_UM))
            own_nuclei = found.cells * 0 if found.nuclei is None else found.nuclei
            inside = np.where(own_nuclei > 0, found.cells, 0)
            nucleated = np.where(np.isin(found.cells, np.unique(inside)), found.cells, 0)
            for what, one, other in (("cells", nucleated, cells), ("nuclei", own_nuclei, nuclei)):
                for iou in (0.5, 0.75):
                    counts = np.array(match_objects(one, other, iou=iou))
                    sums[f"{what} {iou}"] = sums.get(f"{what} {iou}", np.zeros(3, int)) + counts
    return {
        name: {
            "precision": round(matched / max(found, 1), 3),
            "recall": round(matched / max(true, 1), 3),
            "found": int(found),
            "true": int(true),
        }
        for name, (matched, found, true) in sums.items()
    }


def heterogeneity_of(method: Method, *, fields: int) -> dict[str, Any]:
    """Return the correlation of the found and the true share of cells with the protein, and of the entropies."""
    found, true = [], []
    with method.running():
        for number in range(fields):
            plan = plan_one(number % 28, seed=100 + number, size=1024)
            image, cells, amounts = np.asarray(photograph(plan), np.uint8), true_cells(plan)[0], true_amounts(plan)
            has = amounts[np.unique(cells[cells > 0])] >= WITHOUT_PROTEIN
            true.append((has.mean(), heterogeneity(has[:, None])["entropy"]))
            labels = method.segment(FieldImage(str(number), image, CHANNELS, PIXEL_UM)).cells
            numbers = np.unique(labels[labels > 0])
            bright = np.asarray(ndimage.mean(image[CHANNELS.index(PROTEIN)], labels, numbers))
            has = bright >= DIM * np.median(bright)
            found.append((has.mean(), heterogeneity(has[:, None])["entropy"]))
    pairs = zip(("share", "entropy"), np.transpose(found), np.transpose(true), strict=True)
    return {name: round(float(np.corrcoef(one, other)[0, 1]), 3) for name, one, other in pairs}


def main() -> None:
    """Evaluate the methods, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--fields", type=int, default=12)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    methods: dict[str, Method] = {"classical": Classical()}
    if given.weights:
        methods["instanseg"] = InstanSeg(weights=given.weights)
    results = {name: evaluate(method, fields=given.fields) for name, method in methods.items()}
    correlations = {name: heterogeneity_of(method, fields=given.fields) for name, method in methods.items()}
    for name, rows in results.items():
        for what, row in rows.items():
            print(f"{name:10} {what:12} precision {row['precision']:.3f} recall {row['recall']:.3f}")
    for name, row in correlations.items():
        print(f"{name:10} correlation with the truth: share {row['share']:.3f}, entropy {row['entropy']:.3f}")
    if given.out:
        results = {"segmentation": results, "heterogeneity": correlations}
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
