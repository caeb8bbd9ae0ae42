"""The properties of a model, and what it returns for a batch of fields."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cytoloc._typing import Float32Array
from cytoloc.choices import Resample
from cytoloc.dataset.quarantine import Rejected
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import Network
from cytoloc.predict.engines.int8 import Int8Graph
from cytoloc.predict.inputs.reference import InputReference

Unusual = Literal["mark", "refuse", "decide"]
"""What to do with a field whose image is unusual: mark it and decide on no location, stop, or mark it and decide."""


@dataclass(frozen=True)
class CellImages:
    """The images of single cells that a model needs.

    Attributes:
        pixel_um: Pixel size in micrometers.
        is_masked: Whether pixels outside the cell are black.
    """

    pixel_um: float
    is_masked: bool


@dataclass(frozen=True)
class ModelInfo:
    """The properties of a model.

    Attributes:
        size: Edge length of the images that the networks need, in pixels.
        channels: The names of the channels that the networks need, in order.
        label_set: The locations that the model predicts.
        tta: The default number of test-time augmentation views.
        provenance: How the model was made. JSON values only.
        trained_on: Ids of the fields that any of the networks was trained on.
        trained_on_datasets: Public datasets that the networks were trained on as a whole. ``trained_on`` does not list
            their fields.
        caution: A caution that is shown with every prediction; may be empty.
        card: The model card in Markdown; may be empty.
        resample: How the images that the networks were trained on were scaled down; None if it is unknown.
        knowledge: What is known of the predictions of a location, by key, such as ``"transfers"``.
        inputs: What the model knows of its training images. None: inputs are not checked.
        int8: The int8 networks, one per network; empty if there are none.
        cells: The images of single cells that the model needs. None: it takes any images.
    """

    size: int
    channels: tuple[str, ...]
    label_set: LabelSet
    tta: int = 1
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trained_on: frozenset[str] = frozenset()
    trained_on_datasets: tuple[str, ...] = ()
    caution: str = ""
    card: str = ""
    resample: Resample | None = None
    knowledge: Mapping[str, str] = field(default_factory=dict)
    inputs: InputReference | None = None
    int8: tuple[Int8Graph, ...] = ()
    cells: CellImages | None = None


class PredictedBatch(NamedTuple):
    """The predictions for a batch of fields.

    Attributes:
        ids: The ids of the fields that could be read.
        probabilities: float32 of shape ``(n, locations)``.
        cautions: What is unusual in the image of each field; an empty text if nothing is.
        rejected: The fields that could not be read, with the reasons.
        scaled: Whether images were scaled down.
    """

    ids: tuple[str, ...]
    probabilities: Float32Array
    cautions: tuple[str, ...]
    rejected: tuple[Rejected, ...] = ()
    scaled: bool = False


def fingerprint_of(networks: Sequence[Network], info: ModelInfo, decision: str) -> str:
    """Return the SHA-256 of everything that decides on predictions.

    Args:
        networks: The networks.
        info: The properties of the model, of which the size, the channels, the label set and the int8 networks count.
        decision: The fingerprint of the decision; empty if there is none.

    Returns:
        The checksum in hexadecimal digits.
    """
    digest = hashlib.sha256(repr((info.size, info.channels, info.label_set.to_json(), decision)).encode())
    for network in networks:
        if network.enlarged_px is not None:
            digest.update(str(network.enlarged_px).encode())
        for name, value in network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    for graph in info.int8:
        digest.update(graph.xml + graph.weights)
    return digest.hexdigest()
