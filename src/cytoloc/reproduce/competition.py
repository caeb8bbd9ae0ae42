"""The files of the 2018 Kaggle competition, and external images: checked before any work begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from cytoloc.channels import COLORS
from cytoloc.dataset.sources.hpa import find_hpa_fields
from cytoloc.dataset.sources.kaggle import find_kaggle_fields
from cytoloc.errors import ImageError, TableError
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_ids, read_labels

COMPETITION: Final = "human-protein-atlas-image-classification"
"""Name of the competition on Kaggle, also for its command line client."""

TRAINING_FIELDS: Final = 31_072
TEST_FIELDS: Final = 11_702


@dataclass(frozen=True)
class CompetitionFiles:
    """The files that a reproduction starts from, or the numbers of fields that a plan assumes.

    Attributes:
        train: Folder of the training images; None if only numbers are known.
        test: Folder of the test images.
        labels: ``train.csv``.
        order: ``sample_submission.csv``.
        external: Folder of external images; None without external images.
        external_labels: Labels of the external images.
        training_fields: Number of training fields.
        test_fields: Number of test fields.
        external_fields: Number of external fields that have labels and all four images.
    """

    train: Path | None = None
    test: Path | None = None
    labels: Path | None = None
    order: Path | None = None
    external: Path | None = None
    external_labels: Path | None = None
    training_fields: int = TRAINING_FIELDS
    test_fields: int = TEST_FIELDS
    external_fields: int = 0

    @classmethod
    def find(
        cls, data: str | Path, *, external: str | Path | None = None, external_labels: str | Path | None = None
    ) -> Self:
        """Return the files in the folder of the competition, after a check that they are complete.

        Args:
            data: The folder with ``train.csv``, ``train/``, ``test/`` and ``sample_submission.csv``.
            external: The folder of external images, named as the Human Protein Atlas names them. The images may lie in
                ``images/``, as :func:`cytoloc.fetch_hpa` puts them.
            external_labels: CSV ``Id,Target``; by default ``labels.csv`` in the folder of external images.

        Raises:
            ImageError: If a folder is missing, or fields lack images.
            TableError: If a table is missing or not valid.
        """
        data = Path(data)
        if not data.is_dir():
            raise ImageError(f"The folder {data} does not exist.", hint=_download("the competition"))
        labels, order = data / "train.csv", data / "sample_submission.csv"
        for path in (labels, order):
            if not path.exists():
                raise TableError(f"{data} lacks {path.name}.", hint=_download("the competition"))
        label_set = LabelSet.hpa28()
        train_ids, test_ids = list(read_labels(labels, label_set)), read_ids(order)
        for name, ids, table in (("train", train_ids, labels), ("test", test_ids, order)):
            found = find_kaggle_fields(data / name)
            missing = [each for each in ids if len(found.get(each, ())) != len(COLORS)]
            if missing:
                there = found.get(missing[0], {})
                color = next(color for color in COLORS if color not in there)
                raise ImageError(
                    f"{data / name} has all images of {len(ids) - len(missing)} of the {len(ids)} fields in"
                    f" {table.name}; for example, {missing[0]}_{color} is missing.",
                    hint=_download("the missing files"),
                )
        files = cls(
            data / "train",
            data / "test",
            labels,
            order,
            training_fields=len(train_ids),
            test_fields=len(test_ids),
        )
        if external is None and external_labels is not None:
            raise TableError(
                "`external_labels` is given without `external`.", hint="Give the folder of the external images too."
            )
        if external is None:
            return files
        folder = Path(external)
        if not folder.is_dir():
            raise ImageError(
                f"The folder {folder} does not exist.", hint="Download external images with `cytoloc fetch hpa`."
            )
        images = folder / "images" if (folder / "images").is_dir() else folder
        places = [Path(external_labels)] if external_labels else [folder / "labels.csv", folder.parent / "labels.csv"]
        path = next((each for each in places if each.exists()), places[0])
        if not path.exists():
            raise TableError(
                f"The external images in {folder} have no labels: there is no {path}.",
                hint="Give the CSV Id,Target with `external_labels`; `cytoloc fetch hpa` writes one.",
            )
        of_hpa, known = find_hpa_fields(images), read_labels(path, label_set)
        usable = sum(name in known and len(of_hpa[name]) == len(COLORS) for name in of_hpa)
        if not usable:
            raise TableError(
                f"None of the external images in {images} has labels in {path}.",
                hint="Ids of external fields are named {antibody}_{plate}_{well}_{field}.",
            )
        return replace(files, external=images, external_labels=path, external_fields=usable)


def _download(what: str) -> str:
    return f"Download {what} with `kaggle competitions download -c {COMPETITION}`, and unpack the archives."
