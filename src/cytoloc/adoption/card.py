"""The card of an adopted network."""

from __future__ import annotations

from cytoloc.adoption.published import Published
from cytoloc.models.network import ModelSpec
from cytoloc.predict.bundle_header import Origin


def adopted_card(network: Published, spec: ModelSpec, origin: Origin) -> str:
    """Return the card of an adopted network in Markdown.

    Args:
        network: The published network.
        spec: The specification of its variant.
        origin: The file of the weights.

    Returns:
        The card: source, license, citation, input, output, and training data.
    """
    variant = f" ({origin.variant})" if origin.variant else ""
    checked = (
        "This is the published file: its checksum is right."
        if origin.is_published
        else "It may not be the published file: its checksum is another one, or no published checksum is known."
    )
    lines = [
        f"# {network.name}{variant}",
        "",
        f"{network.title}. It was not trained by cytoloc.",
        "",
        f"- **Source**: <{origin.source}>",
        f"- **File**: `{origin.file}`, SHA-256 `{origin.sha256}`. {checked}",
        f"- **License**: {origin.license}",
        f"- **Citation**: {origin.citation}.",
        f"- **Input**: {', '.join(spec.channels)}, in this order, {spec.size} px. {network.preprocessing}",
        f"- **Output**: {network.gives}. Probabilities are sigmoids of the logits, one view, no crop. They are not"
        " calibrated, and 0.5 is not a threshold: fit a decision to labeled fields of your own with"
        " `cytoloc decide fit`.",
        f"- **Trained on**: all of {' and '.join(network.datasets)}. Metrics on fields of these are too high.",
    ]
    return "\n".join(lines) + "\n"
