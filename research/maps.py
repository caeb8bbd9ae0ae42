"""Measure how much of a class activation map lies inside the structure where a simulated protein is.

    python research/maps.py [BUNDLE] [--fields 12] [--method layercam] [--tta 1]

For each location of hpa28, fields with this location alone are simulated, so the structure of the protein is known
without noise, blur and unspecific staining. The share of the map inside the structure is divided by the share of the
image that the structure covers: 1 is chance. The same ratio of the mask of all cells is a stricter reference, because
a map that only finds cells reaches it. The brightness of the protein channel is the strictest one: it needs no network,
but it is the same for every location. Networks with random weights are the last reference. ``correlation`` is the one
of the maps of the trained and the random networks.
"""

from __future__ import annotations

import argparse
import copy

import cv2
import numpy as np
import torch

import cytoloc as cl
from cytoloc._typing import BoolArray, UInt8Array
from cytoloc.explain.activation import class_maps
from cytoloc.models.network import Network
from cytoloc.simulate.field import draw_field
from cytoloc.simulate.patterns import NEEDED_PHASE, PATTERNS
from cytoloc.simulate.plan import FieldPlan, plan_one
from cytoloc.simulate.stains import draw_stained

STRUCTURE = 0.3
"""Share of the maximum of a pattern from which a pixel belongs to the structure."""


def structure_and_cells(plan: FieldPlan, size: int) -> tuple[BoolArray, BoolArray]:
    """Return the masks of the structure of the protein and of all cells, shape ``(size, size)``."""
    (location,) = plan.locations
    edge = plan.row.original_px
    # The same random numbers as in cytoloc.simulate.field.photograph.
    rng = np.random.default_rng([plan.seed, 1, plan.number])
    dividing = [NEEDED_PHASE[location]] if location in NEEDED_PHASE else []
    scene = draw_stained(rng, edge, line=plan.line, dividing=dividing)
    rng.uniform(0, 0.22)
    pattern = PATTERNS[location](scene, rng)
    planes = [np.asarray(each, np.float32) for each in (pattern, scene.cell_map > 0)]
    small = [cv2.resize(each, (size, size), interpolation=cv2.INTER_AREA) for each in planes]
    return small[0] > STRUCTURE * small[0].max(), small[1] > 0.5


def randomized(network: Network, seed: int) -> Network:
    """Return a copy of a network with random weights."""
    torch.manual_seed(seed)
    other = copy.deepcopy(network)
    for module in other.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return other


def main() -> None:
    """Print a table with a row per location."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="builtin")
    parser.add_argument("--fields", type=int, default=12, help="Number of fields per location.")
    parser.add_argument("--method", default="layercam", choices=["layercam", "gradcam"])
    parser.add_argument("--tta", type=int, default=1)
    given = parser.parse_args()
    model = cl.load(given.model, device="cpu")
    label_set = cl.LabelSet.hpa28()
    random_networks = [randomized(network, 1) for network in model.networks]
    print("| location | share of the image | map | all cells | protein | random weights | correlation |")
    print("|---|---|---|---|---|---|---|")
    table = []
    for number, place in enumerate(label_set):
        plans = [plan_one(number, seed=seed, size=model.size) for seed in range(1000, 1000 + given.fields)]
        images: UInt8Array = np.stack([draw_field(plan, size=model.size) for plan in plans])
        masks = [structure_and_cells(plan, model.size) for plan in plans]
        found = model.explain(images, locations=[place.key], method=given.method, tta=given.tta)
        pixels = torch.from_numpy(images)
        noise = np.mean(
            [class_maps(network.eval(), pixels, [number], method=given.method).numpy() for network in random_networks],
            axis=0,
        )[:, 0]
        rows = []
        for one, other, protein, (structure, cells) in zip(
            found.maps[:, 0], noise, images[:, 1].astype(float), masks, strict=True
        ):
            if structure.any() and one.sum() > 0:
                share = structure.mean()
                rows.append(
                    (
                        share,
                        one[structure].sum() / one.sum() / share,
                        (structure & cells).sum() / max(cells.sum(), 1) / share,
                        protein[structure].sum() / protein.sum() / share,
                        other[structure].sum() / max(other.sum(), 1e-9) / share,
                        float(np.corrcoef(one.ravel(), other.ravel())[0, 1]) if other.any() else np.nan,
                    )
                )
        means = np.nanmean(np.array(rows), axis=0)
        print(f"| {place.name} | " + " | ".join(f"{value:.2f}" for value in means) + " |", flush=True)
        table.append(means)
    medians = np.median(np.array(table), axis=0)
    print("| median of the locations | " + " | ".join(f"{value:.2f}" for value in medians) + " |")


if __name__ == "__main__":
    main()
