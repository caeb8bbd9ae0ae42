"""Comparison of an adopted network with the answers that its authors published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.request import urlopen

import cv2
import numpy as np
from numpy.typing import NDArray

from cytoloc.channels import CHANNELS
from cytoloc.choices import check_type
from cytoloc.errors import FetchError, SettingsError, WeightsError, first_line
from cytoloc.predict.loading import load

TOLERANCE: Final = 0.02
"""Largest difference of a probability from the published one. The authors scale images in another way."""

_TIMEOUT_S: Final = 30.0

_PLANES: Final = {"red": 2, "green": 1, "blue": 0, "yellow": 2}
"""The plane of a colored JPEG that the authors take for each channel, in OpenCV's order blue, green, red."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image with a published answer.

    Attributes:
        name: The name of the image: a PNG with four channels, or the beginning of four JPEG files.
        highest: The location with the highest probability; empty if it is not published.
        probabilities: Published probabilities, by the name of the location.
    """

    name: str
    highest: str = ""
    probabilities: Mapping[str, float] = field(default_factory=dict)


class Examples(NamedTuple):
    """The published examples of a network.

    Attributes:
        address: The folder of the files.
        examples: The images.
    """

    address: str
    examples: tuple[Example, ...]


class Answer(NamedTuple):
    """A published answer, and that of an adopted network.

    Attributes:
        example: The name of the image.
        published: The published answer.
        found: The answer of the adopted network.
        agrees: Whether the two agree.
    """

    example: str
    published: str
    found: str
    agrees: bool


PUBLISHED_EXAMPLES: Final = {
    # The README of the repository at 19dad14.
    "densenet121": Examples(
        "https://github.com/CellProfiling/densenet/raw/main/exampleimages/",
        (
            Example(name="800_A6_1", highest="Cytosol"),
            Example(name="89_B5_1", highest="Endoplasmic reticulum"),
        ),
    ),
    # The release v0.1.0 of the repository.
    "inceptionv3-cbam": Examples(
        "https://github.com/oeway/hpa-bestfitting-inceptionv3/releases/download/v0.1.0/",
        (
            Example(name="115_672_E2_1_6.png", probabilities={"Cytosol": 0.5525864958763123}),
            Example(
                name="115_672_E2_1_10.png",
                probabilities={
                    "Vesicles and punctate cytosolic patterns": 0.3182237446308136,
                    "Negative": 0.4854247570037842,
                },
            ),
        ),
    ),
}
"""The published answers, by the name of the network."""


def check_adopted(
    bundle: str | Path,
    network: str,
    *,
    address: str | None = None,
    opener: Callable[..., Any] = urlopen,
    published: Mapping[str, Examples] = PUBLISHED_EXAMPLES,
) -> list[Answer]:
    """Compare the predictions of an adopted network with predictions that its authors published.

    The published images are downloaded. Nothing is kept on the disk.

    Args:
        bundle: The bundle of :func:`cytoloc.adopt` or :func:`cytoloc.adopt_onnx`.
        network: The name of the network: ``"densenet121"`` or ``"inceptionv3-cbam"``.
        address: The address of the folder of the images. Default: where the authors published them.
        opener: A function that opens a URL, such as :func:`urllib.request.urlopen`.
        published: The published examples, by the name of the network.

    Returns:
        The answers, in the order of the examples.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If no answers of the network are published.
        FetchError: If an image cannot be downloaded.
        WeightsError: If a downloaded file is not an 8-bit image, or the bundle has other locations.
    """
    check_type(bundle, (str, Path), argument="bundle")
    check_type(network, str, argument="network")
    check_type(address, (str, type(None)), argument="address")
    if network not in published:
        raise SettingsError(
            f"No published predictions of {network} are known.", hint=f"They are known for {' and '.join(published)}."
        )
    folder, examples = published[network]
    folder = folder if address is None else address.rstrip("/") + "/"
    planes = [_read_example(each.name, folder, opener) for each in examples]
    model = load(bundle, device="cpu")
    shape = (model.size, model.size)
    images = np.stack([[cv2.resize(plane, shape, interpolation=how) for plane in image] for image, how in planes])
    unknown = [name for name in model.channels if name not in CHANNELS]
    if unknown:
        raise WeightsError(
            f"The bundle needs the channel {unknown[0]}, which the examples lack.", hint="Check `network`."
        )
    found = model.probabilities(images.astype(np.uint8)[:, [CHANNELS.index(name) for name in model.channels]])
    answers = []
    for example, row in zip(examples, found, strict=True):
        probabilities = dict(zip(model.label_set.names, row.tolist(), strict=True))
        unknown = [name for name in (example.highest, *example.probabilities) if name and name not in probabilities]
        if unknown:
            raise WeightsError(
                f"The bundle does not predict {unknown[0]}.", hint="Check the network and its label set."
            )
        if example.highest:
            highest = max(probabilities, key=probabilities.__getitem__)
            answers.append(Answer(example.name, example.highest, highest, highest == example.highest))
        for name, value in example.probabilities.items():
            agrees = abs(probabilities[name] - value) <= TOLERANCE
            answers.append(Answer(example.name, f"{name} {value:.3f}", f"{name} {probabilities[name]:.3f}", agrees))
    return answers


def _read_example(name: str, folder: str, opener: Callable[..., Any]) -> tuple[list[NDArray[Any]], int]:
    """Download an image, and return the planes red, green, blue and yellow, and how the authors scale them."""
    if name.endswith(".png"):
        # The authors write and read the channels red, green, blue and yellow in OpenCV's order of planes.
        image = _decoded(folder + name, opener, cv2.IMREAD_UNCHANGED)
        if image.shape[2:] != (4,):
            raise WeightsError(f"{folder}{name} does not have four channels.", hint="Check the address.")
        if image.dtype != np.uint8:
            raise WeightsError(
                f"{folder}{name} has values of type {image.dtype}, not uint8.", hint="Give 8-bit images."
            )
        return [np.ascontiguousarray(image[..., plane]) for plane in range(4)], cv2.INTER_LINEAR
    planes = [
        np.ascontiguousarray(_decoded(f"{folder}{name}_{color}.jpg", opener, cv2.IMREAD_COLOR)[..., plane])
        for color, plane in _PLANES.items()
    ]
    return planes, cv2.INTER_AREA


def _decoded(address: str, opener: Callable[..., Any], flags: int) -> NDArray[Any]:
    """Download and decode an image."""
    try:
        with opener(address, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read()
    except (OSError, ValueError, HTTPException) as error:
        raise FetchError(
            f"The published example {address} cannot be downloaded: {first_line(error)}.",
            hint="Use cytoloc.check_adopted(…), or remove the bundle and rerun `cytoloc adopt`.",
        ) from error
    image: NDArray[Any] | None = cv2.imdecode(np.frombuffer(content, np.uint8), flags) if content else None
    if image is None:
        raise WeightsError(f"{address} is not an image.", hint="Check the address.")
    return image


def refuse_other_answers(answers: Sequence[Answer], bundle: Path) -> None:
    """Raise unless an adopted network gives the published answers.

    Args:
        answers: The answers of :func:`check_adopted`.
        bundle: The bundle, for the message.

    Raises:
        WeightsError: If an answer differs.
    """
    wrong = [answer for answer in answers if not answer.agrees]
    if wrong:
        first = wrong[0]
        raise WeightsError(
            f"{bundle} differs from {len(wrong)} of {len(answers)} published predictions: for {first.example} the"
            f" authors have {first.published}, the bundle has {first.found}.",
            hint="Check the file and the variant. The bundle was kept.",
        )
