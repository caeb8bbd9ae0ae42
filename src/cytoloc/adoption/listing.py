"""The list of all published weights that cytoloc can use."""

from __future__ import annotations

from typing import Any, Final

from cytoloc.adoption.published import COMPETITION_2018, COMPETITION_2021, PUBLISHED
from cytoloc.adoption.subcell import CITATION as SUBCELL_CITATION

_OTHERS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": "onnx, InceptionV3",
        "title": "InceptionV3 of the first place of the 2021 Kaggle competition (team bestfitting), as ONNX",
        "gives": "19 locations (hpa19) of single cells",
        "megabytes": 123,
        "license": "MIT",
        "addresses": [
            "https://github.com/oeway/hpa-bestfitting-inceptionv3/releases/tag/v0.1.0",
            "https://doi.org/10.5281/zenodo.5910854",
        ],
        "citation": COMPETITION_2021,
        "command": "cytoloc adopt onnx bestfitting-inceptionv3-single-cell.onnx --label-set hpa19 --size 128"
        " --license MIT --trained-on 'the 2021 Kaggle training set' --out model.cytoloc",
    },
    {
        "name": "onnx, DenseNet121",
        "title": "DenseNet121 of the first place of the 2018 Kaggle competition (team bestfitting), as ONNX",
        "gives": "28 locations (hpa28) of whole fields",
        "megabytes": 37,
        "license": "MIT",
        "addresses": ["https://doi.org/10.5281/zenodo.5910163", "https://doi.org/10.5281/zenodo.8061392"],
        "citation": COMPETITION_2018,
        "command": "cytoloc adopt onnx densenet_model.onnx --label-set hpa28 --size 1024 --license MIT --trained-on"
        " 'the 2018 Kaggle training set' --trained-on 'Human Protein Atlas v18' --out model.cytoloc",
    },
    {
        "name": "subcell",
        "title": "SubCell: vision transformers for single cells with ten classifiers, for four sets of channels",
        "gives": "31 locations (subcell31) of single cells, and features",
        "megabytes": 386,
        "license": "MIT",
        "addresses": ["https://czi-subcell-public.s3.us-west-2.amazonaws.com/models/"],
        "citation": SUBCELL_CITATION,
        "command": "cytoloc adopt subcell --channels rybg --encoder all_channels_MAE-CellS-ProtS-Pool.pth --heads"
        " CLASSIFIERS --out subcell.cytoloc",
    },
    {
        "name": "dino4cells",
        "title": "Vision transformers of DINO4Cells, trained on cells of the Human Protein Atlas without labels",
        "gives": "a backbone to train on; no locations",
        "megabytes": None,
        "license": "not stated by the authors",
        "addresses": ["https://doi.org/10.5281/zenodo.8061392", "https://doi.org/10.5281/zenodo.8061426"],
        "citation": "M. Doron et al. Unbiased single-cell morphology with self-supervised vision transformers. bioRxiv"
        " (2023)",
        "command": "cytoloc train builtin my.dataset --folds folds.csv --out runs/ --set"
        " model.weights=adopt:dino4cells:FILE.pth --set model.backbone=vit_base_patch16_224 --set model.variant=dino"
        " --set image.normalize=field --set image.size=224",
    },
    {
        "name": "morphem",
        "title": "MorphEm: a small vision transformer for single channels, trained on CHAMMI-75 without labels",
        "gives": "a backbone to train on, for any channels; no locations",
        "megabytes": 86,
        "license": "MIT",
        "addresses": ["https://huggingface.co/CaicedoLab/MorphEm"],
        "citation": "CHAMMI-75: pre-training multi-channel models with heterogeneous microscopy images (2025)",
        "command": "cytoloc train builtin my.dataset --folds folds.csv --out runs/ --set"
        " model.weights=adopt:morphem:model.safetensors --set model.backbone=vit_small_patch16_224 --set"
        " model.variant=channel-bag --set image.normalize=field --set image.size=224",
    },
)
"""Published ONNX files, and backbones."""


def published_models() -> list[dict[str, Any]]:
    """Return the published networks that can be adopted.

    Returns:
        For each network, ``name``, ``title``, what it ``gives``, ``megabytes``, ``license``, ``addresses``,
        ``citation``, and the ``command`` that uses it. JSON values.

    Examples:
        >>> [each["license"] for each in published_models() if each["name"] == "densenet121"]
        ['MIT']
    """
    found: list[dict[str, Any]] = []
    for each in PUBLISHED.values():
        variant = " --variant large" if len(each.specs) > 1 else ""
        last = each.sources[0].address.rpartition("/")[2]
        file = last if last.endswith(".pth") else "FILE.pth"
        found.append(
            {
                "name": each.name,
                "title": each.title,
                "gives": each.gives,
                "megabytes": each.megabytes,
                "license": each.license,
                "addresses": [source.address for source in each.sources],
                "citation": each.citation,
                "command": f"cytoloc adopt {each.name} {file}{variant} --out model.cytoloc",
            }
        )
    return [*found, *_OTHERS]
