"""Write the built-in bundle anew, with a caution, a card, the knowledge of locations, and the check of images.

    python research/repack_builtin.py SIMULATED.dataset REAL.dataset --model adjusted.cytoloc --decision decision.json
                                      --out builtin.cytoloc

The networks stay as they are. The datasets contain good images at 128 px: simulated fields of the design that the model
was trained on, and real fields, of which only statistics are stored. Without --model and --decision, those of the
built-in model are used, and only the card and the check of images change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cytoloc import open_dataset
from cytoloc.predict.bundle import builtin_bundle, open_bundle, write_archive
from cytoloc.predict.bundle_header import CARD, DECISION, INPUTS, Part
from cytoloc.predict.loading import load
from cytoloc.predict.references import reference_of

KNOWLEDGE = {
    "transfers": (0, 2, 3, 4, 7),
    "partly transfers": (5, 21, 23, 25),
}
"""The locations with five or more of 74 real fields: ROC AUC of 0.75 or more, and of 0.60 to 0.75. The card has the
values. Nothing is known of the other locations."""

CAUTION = "Use this model to try cytoloc, not for conclusions: it was trained on simulated cells only."


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path, help="datasets of good images")
    parser.add_argument("--model", type=Path, default=builtin_bundle(), help="bundle of the networks")
    parser.add_argument("--decision", type=Path, help="decision file of research/builtin_decision.py")
    parser.add_argument("--card", type=Path, default=Path("docs/builtin.md"), help="the model card")
    parser.add_argument("--out", type=Path, required=True, help="the new bundle")
    given = parser.parse_args()
    bundle = open_bundle(given.model)
    reference = reference_of(load(given.model), [open_dataset(path) for path in given.datasets])
    known = {index: text for text, indices in KNOWLEDGE.items() for index in indices}
    parts = {**bundle.parts, CARD: given.card.read_bytes(), INPUTS: reference.to_bytes()}
    if given.decision is not None:
        parts[DECISION] = given.decision.read_bytes()
    header = bundle.header.model_copy(
        update={
            "caution": CAUTION,
            "knowledge": {location.key: known.get(index, "unknown") for index, location in enumerate(bundle.label_set)},
            "parts": {name: Part.of(content) for name, content in parts.items()},
        }
    )
    write_archive(given.out, header, parts)
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
