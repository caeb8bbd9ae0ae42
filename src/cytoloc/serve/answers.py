"""What the service answers, as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cytoloc.errors import CytolocError
from cytoloc.predictions import Predictions

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]


class Answer(BaseModel):
    """Base class of all answers."""

    model_config = ConfigDict(frozen=True)


class LocationAnswer(Answer):
    """The prediction of one location."""

    key: str = Field(description="Key of the location in the label set.", examples=["0"])
    name: str = Field(description="Name of the location.", examples=["Nucleoplasm"])
    go_id: str = Field(description="Gene Ontology term; empty if there is none.", examples=["GO:0005654"])
    probability: float = Field(description="Calibrated probability, from 0 to 1.", examples=[0.93])
    threshold: float | None = Field(description="Threshold of the decision; null without a decision.", examples=[0.41])
    predicted: bool | None = Field(description="Whether the location is predicted; null without a decision.")
    knowledge: str = Field(description="What is known of predictions of this location; may be empty.", examples=[""])
    map: str | None = Field(description="Address of the class activation map, a gray PNG image.", examples=[None])


class FieldAnswer(Answer):
    """The predictions of one field."""

    id: str = Field(description="Id of the field.", examples=["C03_2"])
    locations: list[LocationAnswer] = Field(description="All locations, the most probable first.")
    caution: str = Field(description="What is unusual in the images; empty if nothing is.", examples=[""])
    flags: list[str] = Field(description="Flags of the quality of the images.", examples=[[]])
    channels: dict[str, str] = Field(description="Address of the image of each channel, a gray PNG image.")
    original_px: tuple[int, int] | None = Field(description="Height and width of the images, in pixels.")
    pixel_um: float | None = Field(description="Pixel size of the images in `channels`, in micrometers.")
    labels: list[str] | None = Field(default=None, description="Keys of the labeled locations; null if unlabeled.")
    corrected: list[str] | None = Field(default=None, description="Keys of the locations that a user saved.")
    metadata: dict[str, str] = Field(default_factory=dict, description="Plate, well, antibody and other values.")


class RejectedAnswer(Answer):
    """A field that could not be read."""

    id: str = Field(description="Id of the field.")
    reason: str = Field(description="Why the field could not be read, and what helps.")

    @classmethod
    def of(cls, name: str, error: CytolocError) -> RejectedAnswer:
        """Return the answer for a field that could not be read."""
        return cls(id=name, reason=f"{error.message} {error.hint}".strip())


class PredictAnswer(Answer):
    """The answer to a request for predictions."""

    model: str = Field(description="Name of the model.", examples=["builtin"])
    fields: list[FieldAnswer]
    rejected: list[RejectedAnswer] = Field(description="Fields that could not be read.")
    caution: str = Field(description="A caution of the authors of the model; may be empty.")
    engine: str = Field(description="The library that computed the networks.", examples=["openvino"])


class ModelAnswer(Answer):
    """The properties of the model."""

    name: str = Field(description="Name of the model.", examples=["builtin"])
    fingerprint: str = Field(description="SHA-256 of everything that decides on predictions.")
    channels: list[str] = Field(description="Channels that the model needs, in order.")
    size_px: int = Field(description="Edge length of the images that the model computes with, in pixels.")
    label_set: str = Field(description="Name of the label set.")
    locations: list[dict[str, str]] = Field(description="Key, name and Gene Ontology term of each location.")
    thresholds: dict[str, float] | None = Field(description="Threshold of each location; null without a decision.")
    engine: str = Field(description="The library that computes the networks.")
    tta: int = Field(description="Default number of test-time augmentation views.")
    caution: str = Field(description="A caution of the authors of the model; may be empty.")
    card: str = Field(description="Model card, in Markdown.")
    suffixes: list[str] = Field(description="Endings of names of files that can be sent.")
    max_upload_mb: int = Field(description="Maximum size of a request, in megabytes.")
    has_dataset: bool = Field(description="Whether the service shows a dataset.")
    can_correct: bool = Field(description="Whether labels can be saved.")
    examples: list[dict[str, str]] = Field(description="Id and title of the examples, which are simulated.")
    version: str = Field(description="Version of cytoloc.")


class JobAnswer(Answer):
    """The state of a batch job."""

    id: str = Field(description="Id of the job.")
    state: JobState = Field(description="State of the job.")
    done: int = Field(description="Number of finished fields.")
    total: int = Field(description="Number of fields.")
    rejected: list[RejectedAnswer] = Field(description="Fields that could not be read.")
    error: str = Field(description="Why the job failed; empty if it did not.")


class ErrorAnswer(Answer):
    """An error."""

    error: str = Field(description="What is wrong.", examples=["The model needs the channels protein, nucleus."])
    hint: str = Field(default="", description="How to correct it.")
    missing: list[str] = Field(default_factory=list, description="Channels that the images lack.")
    request_id: str = Field(default="", description="Id of the request in the log of the service.")


class CorrectionRequest(BaseModel):
    """The locations that a user saves for a field."""

    model_config = ConfigDict(extra="forbid")

    locations: list[str] = Field(description="Keys of the locations.", min_length=1, max_length=1000)


def location_answers(
    predictions: Predictions, row: int, *, map_of: Callable[[str], str] | None = None
) -> list[LocationAnswer]:
    """Return the predictions of all locations of a field, the most probable first.

    Args:
        predictions: The predictions.
        row: The row of the field.
        map_of: Returns the address of the map of a location. None: there are no maps.

    Returns:
        The answers.
    """
    thresholds: Mapping[str, float] = predictions.provenance.get("thresholds", {})
    knowledge: Mapping[str, str] = predictions.provenance.get("knowledge", {})
    values, decided = predictions.probabilities[row], predictions.decided
    places: Sequence[int] = np.argsort(-values, kind="stable").tolist()
    return [
        LocationAnswer(
            key=(location := predictions.label_set[place]).key,
            name=location.name,
            go_id=location.go_id or "",
            probability=round(float(values[place]), 6),
            threshold=thresholds.get(location.key),
            predicted=None if decided is None else bool(decided[row, place]),
            knowledge=knowledge.get(location.key, ""),
            map=map_of(location.key) if map_of else None,
        )
        for place in places
    ]
