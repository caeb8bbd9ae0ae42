"""The properties of a model, and what it returns for a batch of fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from cytoloc._typing import Float32Array
from cytoloc.dataset.quarantine import Rejected
from cytoloc.labels.label_set import LabelSet
from cytoloc.predict.inputs.reference import InputReference

Unusual = Literal["mark", "refuse", "decide"]
"""What to do with a field whose image is unusual: mark it and decide on no location, stop, or mark it and decide."""


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
        knowledge: What is known of the predictions of a location, by key, such as ``"transfers"``.
        inputs: What the model knows of its training images. None: inputs are not checked.
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
    knowledge: Mapping[str, str] = field(default_factory=dict)
    inputs: InputReference | None = None


class PredictedBatch(NamedTuple):
    """The predictions for a batch of fields.

    Attributes:
        ids: The ids of the fields that could be read.
        probabilities: float32 of shape ``(n, locations)``.
        cautions: What is unusual in the image of each field; an empty text if nothing is.
        rejected: The fields that could not be read, with the reasons.
    """

    ids: tuple[str, ...]
    probabilities: Float32Array
    cautions: tuple[str, ...]
    rejected: tuple[Rejected, ...] = ()
