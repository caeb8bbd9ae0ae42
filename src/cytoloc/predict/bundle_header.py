"""The content of ``bundle.json``: the networks of a bundle, and the size and checksum of every part."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cytoloc.channels import check_channels
from cytoloc.choices import BackboneVariant, HeadName, Resample
from cytoloc.files import FileFormat
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import ModelSpec
from cytoloc.predict.runs import LoadedRun

BUNDLE_FORMAT: Final = FileFormat("cytoloc-bundle", 1, "file of `cytoloc bundle`")

HEADER: Final = "bundle.json"
CARD: Final = "card.md"
DECISION: Final = "decision.json"
TRAINED_ON: Final = "trained_on.txt"
INPUTS: Final = "inputs.npz"
WEIGHTS: Final = "weights.safetensors"
INT8_REPORT: Final = "int8.json"
INT8: Final = ("int8.xml", "int8.bin")
"""The parts of an int8 network: its operations and its weights."""


MOST_ENLARGED_PX: Final = 8192
"""Maximum edge length that a network enlarges images to, in pixels."""


class Part(BaseModel):
    """The size and checksum of a file in the archive."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Return the size and checksum of a file with this content."""
        return cls(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


class Graph(BaseModel):
    """The output of a network that was published as an ONNX graph."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    output: str
    """The name of the output."""
    is_probability: bool
    """Whether the output has probabilities; otherwise logits."""


class Member(BaseModel):
    """A network: its architecture and its origin."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    """Name of the run, or of the published network."""
    recipe: str
    """Name of the recipe; empty for a published network."""
    fold: int | None
    """Validation fold; None for a published network."""
    dataset: str
    """Fingerprint of the training dataset; empty for a published network."""
    backbone: str
    head: HeadName
    dropout: float
    mean: list[float]
    std: list[float]
    each: bool
    """Whether each image is normalized by its own mean and standard deviation."""
    units: int = 512
    """Number of hidden units of the head."""
    variant: BackboneVariant = "plain"
    """The change to the backbone."""
    enlarged_px: int | None = Field(None, ge=32, le=MOST_ENLARGED_PX)
    """Edge length that images are enlarged to before the backbone, in pixels; null: not enlarged."""
    graph: Graph | None = None
    """The output of an ONNX graph, if the network is one."""

    @classmethod
    def of(cls, run: LoadedRun) -> Self:
        """Return the member for a run."""
        model, image = run.recipe.model, run.recipe.image
        return cls(
            name=run.folder.name,
            recipe=run.recipe.name,
            fold=run.header["fold"],
            dataset=run.header["dataset"]["fingerprint"],
            backbone=model.backbone,
            head=model.head,
            dropout=model.dropout,
            mean=[image.mean[name] for name in image.channels],
            std=[image.std[name] for name in image.channels],
            each=image.normalize == "field",
            units=model.units,
            variant=model.variant,
        )


class NeededCells(BaseModel):
    """The images of single cells that a network needs."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    pixel_um: float
    """Pixel size in micrometers."""
    is_masked: bool
    """Whether pixels outside the cell are black."""


class Origin(BaseModel):
    """The published file that the weights of an adopted network come from."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    network: str
    """The name of the network, such as ``densenet121``."""
    variant: str
    """The variant of the network, in the words of its authors; may be empty."""
    file: str
    """The name of the file."""
    sha256: str
    """SHA-256 of the file."""
    is_published: bool
    """Whether the file is the published one, by its checksum."""
    source: str
    """The address of the published file."""
    license: str
    """The SPDX identifier of the license."""
    citation: str


class Header(BaseModel):
    """The content of ``bundle.json``."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    format: str
    version: int
    members: list[Member] = Field(min_length=1)
    field_px: int
    """Edge length of the images that the networks need, in pixels."""
    tta: Literal[1, 2, 4, 8]
    """Default number of test-time augmentation views."""
    caution: str
    """A caution that is shown with every prediction, one printable line; may be empty."""
    resample: Resample | None = None
    """How the images that the networks were trained on were scaled down; null if it is unknown."""
    channels: list[str]
    """The names of the channels that the networks need, in order."""
    label_set: dict[str, Any]
    knowledge: dict[str, str]
    """What is known of the predictions of a location, by key, such as ``transfers``; shown in every table."""
    parts: dict[str, Part]
    origin: Origin | None = None
    """The published file of an adopted network. None: the networks were trained by cytoloc."""
    cells: NeededCells | None = None
    """The images of single cells that the networks need. None: the networks take any images."""
    trained_on_datasets: list[str] = []
    """Public datasets that the networks were trained on as a whole, without a list of their fields."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.caution.isprintable():
            raise ValueError("a caution must be printable")
        count = len(check_channels(self.channels))
        if any(len(values) != count for member in self.members for values in (member.mean, member.std)):
            raise ValueError("every network needs a mean and a standard deviation for each channel")
        label_set = LabelSet.from_json(self.label_set)
        if not set(self.knowledge) <= set(label_set.keys) or not "".join(self.knowledge.values()).isprintable():
            raise ValueError("the knowledge must be of locations of the label set")
        names = [WEIGHTS, *(INT8 if INT8_REPORT in self.parts else ())]
        if self.origin is None:
            names.append("recipe.toml")
        needed = {f"members/{i}/{name}" for i in range(len(self.members)) for name in names}
        if set(self.parts) - {DECISION, INPUTS, INT8_REPORT} != needed | {CARD, TRAINED_ON}:
            raise ValueError("parts are missing or unexpected")
        return self

    def spec(self, number: int) -> ModelSpec:
        """Return the specification of the network of a member."""
        member = self.members[number]
        return ModelSpec(
            backbone=member.backbone,
            head=member.head,
            dropout=member.dropout,
            prior=0.5,
            locations=len(self.label_set["locations"]),
            channels=tuple(self.channels),
            mean=tuple(member.mean),
            std=tuple(member.std),
            each=member.each,
            size=self.field_px,
            units=member.units,
            variant=member.variant,
            enlarged_px=member.enlarged_px,
        )
