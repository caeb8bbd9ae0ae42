"""Packages for the bioimage.io model zoo, which ImageJ, ilastik and other programs open."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Final

import numpy as np

import cytoloc
from cytoloc._typing import Float32Array, UInt8Array
from cytoloc.errors import ExportError, MissingExtraError, installing
from cytoloc.export.card import export_card
from cytoloc.export.pipeline import OUTPUT
from cytoloc.files import new_file
from cytoloc.predict.engines.graph import OPSET
from cytoloc.predict.model import Model

CITATION: Final = "https://github.com/cytoloc/cytoloc"


def write_package(
    model: Model, graph: bytes, out: Path, *, fields: UInt8Array, probabilities: Float32Array, tta: int
) -> Path:
    """Write a bioimage.io package, and run the test of ``bioimageio.core`` on it.

    Args:
        model: The model.
        graph: Its ONNX graph.
        out: The new ``.zip`` file.
        fields: The test input, uint8 of shape ``(n, channels, size, size)``.
        probabilities: The expected output, shape ``(n, locations)``.
        tta: Number of test-time augmentation views in the graph.

    Returns:
        The path of the new file.

    Raises:
        ExportError: If the package fails the test of ``bioimageio.core``.
        MissingExtraError: If ``bioimageio.core`` is not installed.
    """
    try:
        from bioimageio.core import test_model
        from bioimageio.spec import save_bioimageio_package
        from bioimageio.spec.model import v0_5 as spec
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"A bioimage.io package needs the library {error.name}.", hint=installing("export")
        ) from error
    adopted = model.info.provenance.get("adopted")
    cite = [spec.CiteEntry(text="The cytoloc authors: cytoloc", url=spec.HttpUrl(CITATION))]
    if adopted:
        cite.insert(0, spec.CiteEntry(text=adopted["citation"], url=spec.HttpUrl(adopted["source"])))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "model.onnx").write_bytes(graph)
        (folder / "README.md").write_text(export_card(model, format="bioimageio", tta=tta), encoding="utf-8")
        _write_images(folder, fields, probabilities)
        keys = [re.sub(r"\W", "_", location.key) for location in model.label_set]
        # An identifier cannot start with a digit.
        locations = [spec.Identifier(key if key.isidentifier() else f"location_{key}") for key in keys]
        description = spec.ModelDescr(
            name=f"cytoloc {re.sub(r'[^A-Za-z0-9_+() -]', ' ', out.stem)}"[:64],
            description=f"Locations of a protein in fluorescence images: {len(locations)} locations of"
            f" {model.label_set.name}, several at once.",
            authors=[spec.Author(name="The cytoloc authors")],
            cite=cite,
            license=spec.LicenseId(adopted["license"] if adopted else "BSD-3-Clause"),
            tags=["fluorescence", "protein-localization", "multi-label-classification", "2d"],
            version=spec.Version(cytoloc.__version__),
            documentation=spec.FileDescr(source=folder / "README.md"),
            covers=[spec.FileDescr(source=folder / "cover.png")],
            git_repo=spec.HttpUrl(CITATION),
            inputs=[
                spec.InputTensorDescr(
                    id=spec.TensorId("pixels"),
                    description=f"8-bit images of {', '.join(model.channels)}.",
                    axes=[
                        spec.BatchAxis(),
                        spec.ChannelAxis(channel_names=[spec.Identifier(name) for name in model.channels]),
                        *(spec.SpaceInputAxis(id=spec.AxisId(axis), size=model.size) for axis in "yx"),
                    ],
                    test_tensor=spec.FileDescr(source=folder / "test_input.npy"),
                    data=spec.IntervalOrRatioDataDescr(type="uint8"),
                )
            ],
            outputs=[
                spec.OutputTensorDescr(
                    id=spec.TensorId(OUTPUT),
                    description="The probability of each location.",
                    axes=[
                        spec.BatchAxis(),
                        spec.ChannelAxis(channel_names=locations),
                    ],
                    test_tensor=spec.FileDescr(source=folder / "test_output.npy"),
                    data=spec.IntervalOrRatioDataDescr(type="float32"),
                )
            ],
            weights=spec.WeightsDescr(onnx=spec.OnnxWeightsDescr(source=folder / "model.onnx", opset_version=OPSET)),
        )
        with new_file(out) as temporary:
            package = folder / "package.zip"
            save_bioimageio_package(description, output_path=package)
            summary = test_model(package, weight_format="onnx", stop_early=True)
            if summary.status != "passed":
                raise ExportError(
                    f"The package did not pass the test of bioimageio.core: {summary.status}.",
                    hint="Install the newest bioimageio.core, and export again.",
                )
            temporary.write_bytes(package.read_bytes())
    return out


def _write_images(folder: Path, fields: UInt8Array, probabilities: Float32Array) -> None:
    """Write the test input and output, and an image of up to three channels of the first field."""
    import cv2

    np.save(folder / "test_input.npy", fields)
    np.save(folder / "test_output.npy", probabilities)
    field = fields[0]
    planes = [field[min(number, len(field) - 1)] for number in range(3)]
    large = cv2.resize(np.stack(planes, axis=-1), (512, 256), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "cover.png"), large)
