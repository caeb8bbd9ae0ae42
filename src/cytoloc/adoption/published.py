"""The published networks that can be adopted: what they give, where they are, and under which license."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cytoloc.channels import CHANNELS
from cytoloc.models.network import ModelSpec

KAGGLE_2018: Final = "the 2018 Kaggle training set"
HPA_18: Final = "Human Protein Atlas v18"
KAGGLE_2021: Final = "the 2021 Kaggle training set"

COMPETITION_2018: Final = (
    "W. Ouyang et al. Analysis of the Human Protein Atlas Image Classification competition. Nature Methods 16,"
    " 1254-1261 (2019)"
)
COMPETITION_2021: Final = (
    "T. Le et al. Analysis of the Human Protein Atlas Weakly Supervised Single-Cell Classification competition. Nature"
    " Methods 19, 1221-1229 (2022)"
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A published file.

    Attributes:
        address: Where it can be downloaded.
        git_blob: The id of the file in its git repository, which is a checksum; empty if it is not known.
    """

    address: str
    git_blob: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published network that becomes a bundle.

    Attributes:
        name: The name of the network in commands.
        title: What the network is, for people.
        gives: What the network predicts.
        specs: The specification of each variant, by the words of the authors; an empty word if there is one variant.
        variants: A part of a file name, and the variant that it means.
        label_set: The name of the label set.
        sources: The published files.
        megabytes: The approximate size of the weights.
        license: The SPDX identifier of the license of the weights.
        citation: The publication to cite.
        datasets: The public datasets that the network was trained on as a whole.
        names: The prefix of tensors in a network of cytoloc, and their prefix in the file.
        ignored: The prefixes of tensors in the file that the network does not use.
        preprocessing: How images are prepared, and how that differs from the authors' way.
        caution: A caution that is shown with every prediction; may be empty.
    """

    name: str
    title: str
    gives: str
    specs: dict[str, ModelSpec]
    variants: dict[str, str]
    label_set: str
    sources: tuple[Source, ...]
    megabytes: int
    license: str
    citation: str
    datasets: tuple[str, ...]
    names: dict[str, str]
    ignored: tuple[str, ...]
    preprocessing: str
    caution: str = ""


def _densenet(variant: str, size: int) -> ModelSpec:
    return ModelSpec(
        backbone="densenet121",
        head="average-max",
        dropout=0.5,
        prior=0.5,
        locations=28,
        channels=CHANNELS,
        mean=(0.074598, 0.050630, 0.050891, 0.076287),
        std=(0.122813, 0.085745, 0.129882, 0.119411),
        each=False,
        size=size,
        units=1024,
        variant="second-pool" if variant == "large" else "plain",
    )


DENSENET121: Final = Published(
    name="densenet121",
    title="DenseNet121 of the first place of the 2018 Kaggle competition (team bestfitting), one of five folds",
    gives="28 locations (hpa28) of whole fields",
    specs={"plain": _densenet("plain", 512), "large": _densenet("large", 1024)},
    variants={"i768": "plain", "crop512": "plain", "i1536": "large", "crop1024": "large"},
    label_set="hpa28",
    sources=(
        Source(
            address="https://github.com/CellProfiling/hpa_densenet/raw/main/models/bestfitting_default_model.pth",
            git_blob="d55efd7e92e19f7691df3496cf040022294935fe",
        ),
        Source(
            address="https://github.com/CellProfiling/densenet/releases/download/v0.1.0/external_crop512_focal_slov_"
            "hardlog_class_densenet121_dropout_i768_aug2_5folds_fold0_final.pth"
        ),
    ),
    megabytes=37,
    license="MIT",
    citation=COMPETITION_2018,
    datasets=(KAGGLE_2018, HPA_18),
    names={
        "backbone.": "backbone.",
        "head.layers.0.": "bn1.",
        "head.layers.2.": "fc1.",
        "head.layers.4.": "bn2.",
        "head.layers.6.": "logit.",
    },
    # Layers of the backbone occur a second time, under the names of the stages.
    ignored=("conv1.", "encoder2.", "encoder3.", "encoder4.", "encoder5.", "backbone.classifier."),
    preprocessing="Pixels are divided by 255, and normalized by the mean and standard deviation of each channel inside"
    " the network. Larger images are scaled down by averaging areas. The authors scale to 1536 px, save as JPEG, and"
    " scale to 1024 px. On four fields in full resolution (2048 px), the two ways differ by 1.0 to 4.9 gray values"
    " (root mean square; the standard deviation of the channels is 14 to 50). Their JPEG alone makes 0.6 to 2.4 of"
    " this. Images that were stored at 512 px and enlarged differ by 1.8 to 11.6, so smaller images are refused. For"
    " the endoplasmic reticulum the authors take the red value of yellow images; `import hpa` takes the mean of red and"
    " green.",
)

INCEPTIONV3_CBAM: Final = Published(
    name="inceptionv3-cbam",
    title="InceptionV3 with attention (CBAM) of the first place of the 2021 Kaggle competition (team bestfitting)",
    gives="19 locations (hpa19) of single cells",
    specs={
        "": ModelSpec(
            backbone="inception_v3",
            head="average-max",
            dropout=0.5,
            prior=0.5,
            locations=19,
            channels=CHANNELS,
            mean=(0.0,) * 4,
            std=(1.0,) * 4,
            each=False,
            size=128,
            units=2048,
            variant="cbam",
        )
    },
    variants={},
    label_set="hpa19",
    # The authors published the network as ONNX only.
    sources=(Source(address="https://github.com/oeway/hpa-bestfitting-inceptionv3"),),
    megabytes=123,
    license="MIT",
    citation=COMPETITION_2021,
    datasets=(KAGGLE_2021, "the public Human Protein Atlas"),
    names={
        "backbone.body.": "backbone.",
        "backbone.attention.channels.0.": "att_module.fc1.",
        "backbone.attention.channels.2.": "att_module.fc2.",
        "backbone.attention.places.": "att_module.conv_after_concat.",
        "head.layers.0.": "fc_layers.0.",
        "head.layers.2.": "fc_layers.2.",
        "head.layers.4.": "fc_layers.4.",
        "head.layers.6.": "logit.",
    },
    ignored=("backbone.layer", "backbone.AuxLogits.", "backbone.fc.", "ml_logit."),
    preprocessing="The image of a cell is its bounding box with a margin of 20 px on each side, black outside of the"
    " cell, scaled to 128 px. Pixels are divided by 255. The authors' example uses the threshold 0.3.",
    caution="This network knows images of single cells, black outside of the cell, not whole fields.",
)

PUBLISHED: Final = {each.name: each for each in (DENSENET121, INCEPTIONV3_CBAM)}
"""The networks that :func:`cytoloc.adopt` knows, by name."""


def named_variant(network: Published, file_name: str) -> str | None:
    """Return the variant that a file name means; None if it does not say.

    >>> named_variant(DENSENET121, "external_crop512_class_densenet121_dropout_i768_aug2_5folds_fold0_final.pth")
    'plain'
    >>> named_variant(DENSENET121, "bestfitting_default_model.pth") is None
    True
    """
    if len(network.specs) == 1:
        return next(iter(network.specs))
    found = {variant for part, variant in network.variants.items() if part in file_name}
    return found.pop() if len(found) == 1 else None


def in_words(names: Iterable[str]) -> str:
    """Return several words as a list in a sentence.

    >>> in_words(["plain", "large"])
    'plain or large'
    """
    return " or ".join(names)
