"""The caution about images that were scaled down in another way than the training images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.sources import DatasetSource, Source

RESAMPLING_MATTERS_PX: Final = 256
"""Edge length from which predictions depend on how images are scaled down; see ``research/resampling.md``."""

UNKNOWN_RESAMPLING: Final = (
    "The images were scaled down by area means, but it is unknown how the training images of the model were scaled. If"
    " they were 512 px files of the 2018 Kaggle competition, give `resample='nearest'`."
)
"""The caution if the training images may have been scaled in another way."""


def resampling_caution(info: ModelInfo, sources: Sequence[Source], *, scaled: bool) -> str:
    """Return a caution if images may have been scaled down in another way than the training images.

    Args:
        info: The properties of the model.
        sources: The sources of the images.
        scaled: Whether images were scaled down in a way that nobody chose.

    Returns:
        The caution; empty if there is none.
    """
    if info.size < RESAMPLING_MATTERS_PX:
        return ""
    if info.resample is None:
        return UNKNOWN_RESAMPLING if scaled else ""
    for source in sources:
        other = (
            source.dataset.resample if isinstance(source, DatasetSource) and source.dataset.size == info.size else None
        )
        if other not in (None, info.resample):
            return (
                f"The images of {source.name} were scaled down by {other}, but the training images of the model by"
                f" {info.resample}. Import them again with `resample='{info.resample}'`."
            )
    return ""
