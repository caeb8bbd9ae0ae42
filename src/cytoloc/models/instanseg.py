"""InstanSeg, a published network that segments nuclei and cells in fluorescence images (Goldsborough et al., 2024)."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import numpy as np
import torch
from numpy.typing import NDArray

from cytoloc._typing import Float32Array
from cytoloc.errors import FetchError, WeightsError, first_line
from cytoloc.files import existing, new_file

SHA256: Final = "636833d26b5afcc03bde1357b3e669cf015e91dd1edda863aa51c19eee986562"
"""SHA-256 of the TorchScript file of ``fluorescence_nuclei_and_cells`` 0.1.1."""

ADDRESS: Final = (
    "https://github.com/instanseg/instanseg/releases/download/instanseg_models_v0.1.1/fluorescence_nuclei_and_cells.zip"
)
"""The release of the authors, a zip file that contains the TorchScript file."""

LICENSE: Final = "Apache-2.0"

LEAST_PX: Final = 32
"""Smallest image that the network takes."""

_EPSILON: Final = 1e-6


class InstanSegNet:
    """The network with its weights.

    Args:
        weights: The TorchScript file ``instanseg.pt``.
        device: The device to compute on.

    Raises:
        WeightsError: If the file does not exist, or is not the published file. Other files are refused, because
            TorchScript is a program.
    """

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        content = existing(weights, error=WeightsError, what="weights file").read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256:
            raise WeightsError(
                f"{weights} has the SHA-256 {found}, not {SHA256} of InstanSeg's fluorescence_nuclei_and_cells 0.1.1.",
                hint="Get the file again, or leave out `weights` to download it.",
            )
        self._device = device
        with warnings.catch_warnings():
            # torch 2.14 deprecates TorchScript, and warns at the first use of sparse tensors. The authors publish no
            # other form.
            warnings.simplefilter("ignore")
            self._net: Any = torch.jit.load(io.BytesIO(content), map_location=device)  # type: ignore[no-untyped-call]
            self._net.eval()
            # Convolutions are about a tenth faster with channels last.
            self._net.to(memory_format=torch.channels_last)
            row, column = np.mgrid[:128, :128]
            disc = (np.hypot(row % 64 - 32, column % 64 - 32) < 15).astype(np.float32)
            self(disc[None])

    def __call__(self, planes: Float32Array, *, nuclei_only: bool = False) -> tuple[NDArray[np.int32], ...]:
        """Segment an image.

        Args:
            planes: The channels in any order and number, float32 of shape ``(channels, height, width)``. Each is scaled
                by its percentiles 0.1 and 99.9, as the authors do.
            nuclei_only: Whether to segment only nuclei, which is faster.

        Returns:
            Labels of the nuclei and, unless ``nuclei_only``, of the cells, int32 of shape ``(height, width)`` each.
        """
        height, width = planes.shape[1:]
        low, high = np.percentile(planes, (0.1, 99.9), axis=(1, 2), keepdims=True)
        scaled = ((planes - low) / (high - low + _EPSILON)).astype(np.float32)
        missing = ((0, 0), (0, max(0, LEAST_PX - height)), (0, max(0, LEAST_PX - width)))
        pixels = torch.from_numpy(np.pad(scaled, missing))[None].to(self._device, memory_format=torch.channels_last)
        # Small images vary in size, so compiling for each size costs more than it saves.
        jit: Any = torch.jit
        with torch.inference_mode(), jit.optimized_execution(should_optimize=False):
            found = self._net(pixels, target_segmentation=torch.tensor([1, 0 if nuclei_only else 1]))
        labels = found[0].cpu().numpy().astype(np.int32)
        return tuple(plane[:height, :width] for plane in labels)


def fetch_instanseg(path: Path, *, opener: Callable[..., Any] = urlopen) -> Path:
    """Download the weights of InstanSeg once.

    Args:
        path: The file to write. If it exists, nothing is downloaded.
        opener: A function that opens a URL, such as :func:`urllib.request.urlopen`.

    Returns:
        The path.

    Raises:
        FetchError: If the download fails.
        WeightsError: If the downloaded file is not the published file.
    """
    if path.exists():
        return path
    try:
        with opener(ADDRESS, timeout=60) as answer:
            content = answer.read()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if name.endswith("instanseg.pt")]
            weights = archive.read(names[0]) if names else b""
    except (OSError, zipfile.BadZipFile) as error:
        raise FetchError(
            f"{ADDRESS} cannot be downloaded: {first_line(error)}.",
            hint="Download it elsewhere, and give its instanseg.pt as `weights`.",
        ) from error
    found = hashlib.sha256(weights).hexdigest()
    if found != SHA256:
        raise WeightsError(
            f"{ADDRESS} contains a file with the SHA-256 {found}, not {SHA256}.",
            hint="Give the file as `weights`, or use the classical method.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary:
        temporary.write_bytes(weights)
    return path
