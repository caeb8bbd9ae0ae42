"""Write a built-in bundle anew, with a caution, a card, the knowledge of locations, and the check of images.

    python research/repack_builtin.py SIMULATED.dataset REAL.dataset --model adjusted.cytoloc --decision decision.json
                                      --card docs/builtin.md --out builtin.cytoloc

The networks stay as they are. The datasets contain good images at 128 px: simulated fields of the design that the model
was trained on, and labeled real fields, of which only statistics are stored. What is known of a location follows from
its ROC AUC on the real fields, which is printed. Without --model and --decision, those of the built-in model for four
channels are used, and only the card, the knowledge and the check of images change.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from sklearn.metrics import roc_auc_score

from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.predict.bundle import builtin_bundle, open_bundle, write_archive
from cytoloc.predict.bundle_header import CARD, DECISION, INPUTS, Part
from cytoloc.predict.loading import load
from cytoloc.predict.model import Model
from cytoloc.predict.references import reference_of

LEAST: Final = 5
"""Number of real fields below which nothing is known of a location."""

LEVELS: Final = ((0.75, "transfers"), (0.60, "partly transfers"), (0.0, "does not transfer"))
"""The least ROC AUC on real fields for each statement."""

CAUTION = "Use this model to try cytoloc, not for conclusions: it was trained on simulated cells only."


def knowledge_of(model: Model, real: Dataset) -> dict[str, str]:
    """Return what is known of each location, by its key, and print the ROC AUC on real fields."""
    probabilities = model.predict(real, tta=8).probabilities
    known = {}
    for place, location in enumerate(real.label_set):
        truth = real.truth[:, place]
        known[location.key] = "unknown"
        if truth.sum() >= LEAST:
            auc = roc_auc_score(truth, probabilities[:, place])
            known[location.key] = next(text for least, text in LEVELS if auc >= least)
            print(f"| {location.name} | {truth.sum()} | {auc:.2f} | {known[location.key]} |")
    return known


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulated", type=Path, help="dataset of good simulated images")
    parser.add_argument("real", type=Path, help="labeled dataset of real images")
    parser.add_argument("--model", type=Path, default=builtin_bundle(), help="bundle of the networks")
    parser.add_argument("--decision", type=Path, help="decision file of research/builtin_decision.py")
    parser.add_argument("--card", type=Path, default=Path("docs/builtin.md"), help="the model card")
    parser.add_argument("--out", type=Path, required=True, help="the new bundle")
    given = parser.parse_args()
    bundle = open_bundle(given.model)
    model, real = load(given.model, unusual="decide"), open_dataset(given.real)
    reference = reference_of(model, [open_dataset(given.simulated), real])
    parts = {**bundle.parts, CARD: given.card.read_bytes(), INPUTS: reference.to_bytes()}
    if given.decision is not None:
        parts[DECISION] = given.decision.read_bytes()
    header = bundle.header.model_copy(
        update={
            "caution": CAUTION,
            "knowledge": knowledge_of(model, real),
            "parts": {name: Part.of(content) for name, content in parts.items()},
        }
    )
    write_archive(given.out, header, parts)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
