"""OME-Zarr files of any version, written by script."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray


def write_group(place: Path, attributes: Mapping[str, Any], *, version: str = "0.4") -> None:
    """Write a group with attributes; from version 0.5 they are inside ``ome``."""
    place.mkdir(parents=True, exist_ok=True)
    if version < "0.5":
        (place / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (place / ".zattrs").write_text(json.dumps(attributes))
    else:
        ome = {"ome": {"version": version, **attributes}} if attributes else {}
        (place / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": ome}))


def write_image(
    place: Path,
    image: NDArray[Any],
    *,
    version: str = "0.4",
    axes: str = "tczyx",
    scale: Sequence[float] | None = None,
    unit: str | None = "micrometer",
    labels: Sequence[str] = (),
    chunks: Sequence[int] | None = None,
    **multiscale: Any,
) -> None:
    """Write an image with two levels of resolution; axes and scale as the version has them."""
    described: list[Any] = [{"name": name, **({"unit": unit} if unit and name in "zyx" else {})} for name in axes]
    dataset: dict[str, Any] = {"path": "0"}
    if scale is not None:
        dataset["coordinateTransformations"] = [{"type": "scale", "scale": list(scale)}]
    content: dict[str, Any] = {"datasets": [dataset, {"path": "1"}], **multiscale}
    if version >= "0.4":
        content["axes"] = described
    elif version == "0.3":
        content["axes"] = list(axes)
    if version < "0.5":
        content["version"] = version
    omero = {"omero": {"channels": [{"label": label} for label in labels]}} if labels else {}
    write_group(place, {"multiscales": [content], **omero}, version=version)
    for level, pixels in (("0", image), ("1", image[..., ::2, ::2])):
        write_array(place / level, pixels, version=version, chunks=chunks)


def write_array(
    place: Path, pixels: NDArray[Any], *, version: str = "0.4", chunks: Sequence[int] | None = None
) -> None:
    """Write an array: Zarr v2 before version 0.5, sharded Zarr v3 from then on."""
    shape = list(pixels.shape)
    sizes = list(chunks or [1] * (pixels.ndim - 2) + [16, 16])
    kvstore = f"{place.absolute().as_uri()}/"
    metadata: dict[str, Any]
    if version < "0.5":
        separator = "." if version == "0.1" else "/"
        metadata = {"shape": shape, "chunks": sizes, "dtype": pixels.dtype.str, "dimension_separator": separator}
        spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
    else:
        sharding = {"name": "sharding_indexed", "configuration": {"chunk_shape": [1] * (pixels.ndim - 2) + [8, 8]}}
        metadata = {
            "shape": shape,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": sizes}},
            "data_type": pixels.dtype.name,
            "codecs": [sharding],
        }
        spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    tensorstore.open(spec, create=True).result()[...] = pixels


def write_plate(root: Path, fields: Mapping[str, NDArray[Any]], *, version: str = "0.4", **options: Any) -> None:
    """Write a plate whose fields are named by their path, such as ``B/3/0``."""
    wells = sorted({name.rpartition("/")[0] for name in fields})
    plate = {"name": "P1", "wells": [{"path": well, "rowIndex": 0, "columnIndex": 0} for well in wells]}
    write_group(root, {"plate": {**plate, "rows": [], "columns": []}}, version=version)
    for well in wells:
        write_group(root / well.partition("/")[0], {}, version=version)
        images = [{"path": name.rpartition("/")[2]} for name in fields if name.startswith(f"{well}/")]
        write_group(root / well, {"well": {"images": images}}, version=version)
    for name, image in fields.items():
        write_image(root / name, image, version=version, **options)


def zipped(folder: Path, *, inside: str = "") -> Path:
    """Return a zip file of a folder, whose content is in another folder if ``inside`` ends in a slash."""
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                file.write(each, f"{inside}{each.relative_to(folder)}")
    return path


def noise(*shape: int, seed: int = 0, dtype: str = "u1") -> NDArray[Any]:
    return np.random.default_rng(seed).integers(1, 255, shape).astype(dtype)
