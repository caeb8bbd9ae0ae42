"""Adjust the built-in model to real fields without labels: what is gained on fields that took no part?

    python research/adjusting.py plain.cytoloc real128.dataset

The real fields are divided into halves, five times. In each division, each half is once the tuning half: the batch
normalization is adjusted to its images, and the factor of enlargement is the one with the highest mean ROC AUC on it.
The other half is the reporting half. It is predicted by the model as it was, by the adjusted model without
enlargement, and by the adjusted model with the chosen factor. Locations need five fields in all, and a field in the
half. Predictions are means over four views.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

import cytoloc as cl
from cytoloc.adoption.adjusting import adjust_network
from cytoloc.models.network import Network
from cytoloc.predict.planes import find_planes
from cytoloc.predict.tta import TTA_VIEWS, dihedral

FACTORS: Final = (1.0, 1.125, 1.25, 1.375, 1.5)
SPLITS: Final = 5
LEAST: Final = 5


def predicted(network: Network, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean logits of four views."""
    views = TTA_VIEWS[4]
    with torch.inference_mode():
        logits = [network(dihedral(torch.from_numpy(images), view).contiguous()) for view in views]
    return torch.stack(logits).double().mean(dim=0).numpy()


def metrics(logits: NDArray[np.float64], truth: NDArray[np.bool_], counted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean ROC AUC and the mean average precision over the counted locations with some fields."""
    there = [i for i in counted if 0 < truth[:, i].sum() < len(truth)]
    return np.array(
        [
            np.mean([metric(truth[:, i], logits[:, i]) for i in there])
            for metric in (roc_auc_score, average_precision_score)
        ]
    )


def main() -> None:
    """Print one line per division and side, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="bundle of one network")
    parser.add_argument("real", type=Path, help="labeled dataset of real fields, in the size of the model")
    given = parser.parse_args()
    real = cl.open_dataset(given.real)
    model = cl.load(given.model, engine="torch")
    planes = find_planes(model.channels, real.channels, where=str(given.real))
    images, truth = planes.of(real.read(np.arange(len(real)))), real.truth
    counted = np.flatnonzero(truth.sum(axis=0) >= LEAST)
    plain = model.networks[0]
    as_it_was = predicted(plain, images)

    def adjusted(rows: NDArray[np.int64], factor: float) -> NDArray[np.float64]:
        network = deepcopy(plain)
        network.enlarged_px = 8 * round(images.shape[-1] * factor / 8)
        adjust_network(network, images[rows], share=0.5)
        return predicted(network, images)

    rng = np.random.default_rng(0)
    results = []
    for split in range(SPLITS):
        order = rng.permutation(len(real))
        half = len(order) // 2
        for tuning, reporting in ((order[:half], order[half:]), (order[half:], order[:half])):
            tried = {factor: adjusted(tuning, factor) for factor in FACTORS}
            best = max(FACTORS, key=lambda factor: metrics(tried[factor][tuning], truth[tuning], counted)[0])
            rows = [
                metrics(logits[reporting], truth[reporting], counted) for logits in (as_it_was, tried[1.0], tried[best])
            ]
            results.append(rows)
            line = "   ".join(f"AUC {auc:.3f} mAP {ap:.3f}" for auc, ap in rows)
            print(f"division {split}   {line}   factor {best:g}", flush=True)
    means = np.mean(results, axis=0)
    print("mean         " + "   ".join(f"AUC {auc:.3f} mAP {ap:.3f}" for auc, ap in means))
    gain = (np.array(results)[:, 2] - np.array(results)[:, 0]).reshape(SPLITS, 2, 2).mean(axis=1)
    print(f"divisions of {SPLITS} with a gain: AUC {(gain[:, 0] > 0).sum()}, mAP {(gain[:, 1] > 0).sum()}")


if __name__ == "__main__":
    main()
