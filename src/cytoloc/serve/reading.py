"""Reading of uploaded images, in processes with a limit on memory and time.

A decoder that crashes, hangs or takes too much memory costs one request. No name of a client is used as a path: the
service stores each upload under a name of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import zipfile
from collections.abc import Collection, Mapping
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pebble import ProcessExpired, ProcessPool
from PIL import Image

from cytoloc._typing import UInt8Array
from cytoloc.choices import Resample
from cytoloc.dataset.sources.channels import ChannelMap, Pick
from cytoloc.dataset.sources.field_files import FieldReader, FolderItem, FoundScene
from cytoloc.dataset.sources.planes import PlaneChoice
from cytoloc.errors import ArgumentTypeError, CytolocError, ImageError
from cytoloc.images.decoding import decoding, refuse_other_kind
from cytoloc.images.depth import DepthRule, all_to_8_bit, native_pixels
from cytoloc.images.formats import IMAGE_SUFFIXES, open_image
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.serve.settings import ServeSettings

ARRAY_SUFFIX: Final = ".npy"

SUFFIXES: Final = (*(end for end in IMAGE_SUFFIXES if end not in (".zarr", ".oif")), ARRAY_SUFFIX)
"""Endings of names of files that can be uploaded. An OIF or a Zarr in a folder consists of several files."""

SHOWN_PX: Final = 1024
"""Largest edge length of the images that the page shows, in pixels."""

MOST_FIELDS: Final = 64
"""Maximum number of fields in one file."""

LONGEST_NAME: Final = 80
"""Maximum length of the name of a channel, in characters."""

MOST_CHANNELS: Final = 1000
"""The number of a channel in a file must be below this."""

_NUMBERS: Final = 'Send `channels` with the number of each channel in its file, such as {"nucleus": 0, "protein": 1}.'

MEMORY_BYTES: Final = 3 * 1024**3
"""Memory that a process may take to read images, in bytes."""


@dataclass(frozen=True, kw_only=True)
class UploadedField:
    """The files of an uploaded field, on the disk of the service.

    Attributes:
        name: The id of the field.
        files: The file of each channel. Several channels can be in the same file.
        picks: The number or name of each channel in its file; None if the file has only one channel.
        in_order: Whether the file must have exactly these channels in this order, because the client gave neither
            numbers nor names.
        pixel_um: Pixel size in micrometers; None if it is unknown or the files state it.
    """

    name: str
    files: Mapping[str, Path]
    picks: Mapping[str, int | str | None] = field(default_factory=dict)
    in_order: bool = False
    pixel_um: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReadField:
    """A field that was read.

    Attributes:
        name: The id.
        channels: The channels, in order.
        image: uint8 of shape ``(channels, size, size)``, for the model.
        shown: uint8 of shape ``(channels, shown, shown)``, for the page; at most :data:`SHOWN_PX` pixels.
        original_px: Height and width of the original image, in pixels.
        pixel_um: Pixel size of ``image`` in micrometers; None if it is unknown.
        shown_um: Pixel size of ``shown`` in micrometers; None if it is unknown.
        flags: Flags of the quality of the image, in words.
    """

    name: str
    channels: tuple[str, ...]
    image: UInt8Array
    shown: UInt8Array
    original_px: tuple[int, int]
    pixel_um: float | None
    shown_um: float | None
    flags: tuple[str, ...]


class RejectedField(NamedTuple):
    """A field that cannot be read.

    Attributes:
        name: The id.
        error: Why it cannot be read.
    """

    name: str
    error: ImageError


@dataclass(frozen=True)
class ReadingRules:
    """How uploaded images are read.

    Attributes:
        size: Edge length of images for the model, in pixels.
        resample: How larger images are scaled down.
        max_pixels: Maximum number of pixels of all channels of a field.
    """

    size: int
    resample: Resample
    max_pixels: int


class ReaderPool:
    """Processes that read uploaded images.

    Args:
        rules: How images are read.
        settings: The number of processes, and the maximum time per field.
    """

    def __init__(self, rules: ReadingRules, settings: ServeSettings) -> None:
        self.rules = rules
        self._timeout_s = settings.timeout_s
        self._pool = ProcessPool(
            max_workers=settings.readers,
            initializer=_limit_memory,
            context=multiprocessing.get_context("spawn"),
        )

    async def read(self, upload: UploadedField) -> list[ReadField | RejectedField]:
        """Read the fields in uploaded files.

        Args:
            upload: The files.

        Returns:
            The fields, and those that cannot be read.

        Raises:
            ImageError: If no field can be read, or reading crashes or takes too long.
        """
        future = self._pool.schedule(read_upload, args=(upload, self.rules), timeout=self._timeout_s)
        try:
            return cast("list[ReadField | RejectedField]", await asyncio.wrap_future(future))
        except LateError:
            raise ImageError(
                f"The image {upload.name} could not be read in {self._timeout_s:g} seconds.",
                hint="Send a smaller image, or one without z planes that are not needed.",
            ) from None
        except (ProcessExpired, MemoryError):
            raise ImageError(
                f"The image {upload.name} could not be read: its decoder crashed or ran out of memory.",
                hint="Open the file in the program that wrote it, and export it as OME-TIFF.",
            ) from None

    def close(self) -> None:
        """End the processes."""
        self._pool.stop()  # type: ignore[no-untyped-call]  # pebble has no annotation here
        self._pool.join()


def _limit_memory() -> None:
    """Limit the memory that this process takes from now on, on Linux. Limits of pixels and time hold everywhere."""
    used = Path("/proc/self/statm")
    if not used.exists():
        return
    import resource

    most = int(used.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(hard, most), hard))


def read_upload(upload: UploadedField, rules: ReadingRules) -> list[ReadField | RejectedField]:
    """Read the fields in uploaded files; see :meth:`ReaderPool.read`.

    Args:
        upload: The files.
        rules: How they are read.

    Returns:
        The fields, and those that cannot be read.

    Raises:
        ImageError: If no field can be read.
    """
    try:
        if any(path.name.endswith(ARRAY_SUFFIX) for path in upload.files.values()):
            return list(_array_fields(upload, rules))
        found = _file_fields(upload, rules)
    except CytolocError as error:
        raise _for_client(error, upload) from None
    found = [
        each if isinstance(each, ReadField) else RejectedField(each.name, _for_client(each.error, upload))
        for each in found
    ]
    if isinstance(found[0], RejectedField) and not any(isinstance(each, ReadField) for each in found):
        raise found[0].error
    return found


def _for_client(error: CytolocError, upload: UploadedField) -> ImageError:
    """Return an error as a client understands it.

    The client does not know the names that the service gave to the files, and cannot give all arguments of the library.
    """
    message = error.message
    folder = next(iter(upload.files.values())).parent
    is_one = len({*upload.files.values()}) == 1
    for channel, path in upload.files.items():
        called = "the file" if is_one else f"the file of {channel}"
        message = message.replace(str(path), called).replace(path.name, called)
    message = message.replace(f"{folder}/", "").replace(str(folder), "the upload")
    hint = error.hint
    if "#0" in hint:
        hint = _NUMBERS
    elif set(re.findall(r"`(\w+)", hint)) - {"absent", "channels", "image", "pixel_um"}:
        hint = "Export the image as an OME-TIFF file that has only channels, y and x, and send that."
    return ImageError(message[:1].upper() + message[1:], hint=hint)


def _file_fields(upload: UploadedField, rules: ReadingRules) -> list[ReadField | RejectedField]:
    """Read the fields in image files."""
    folder = next(iter(upload.files.values())).parent
    for path in {*upload.files.values()}:
        _refuse_too_large(path, len(upload.files), rules)
    picks = {name: Pick(None, upload.picks.get(name), exact=name in upload.picks) for name in upload.files}
    reader = FieldReader(
        folder=folder,
        channels=ChannelMap(picks),
        # Pages of unstated meaning are channels if a channel above 0 is asked for. Otherwise they may be z planes.
        planes=PlaneChoice(pages="channel" if {*upload.picks.values()} - {0} else None),
        scaling=Scaling(size=rules.size, resample=rules.resample),
        pixel_um=upload.pixel_um,
    )
    item = FolderItem(
        name=upload.name,
        files={name: (path.name,) for name, path in upload.files.items()},
        parts={},
        metadata={},
        labels={},
    )
    found: list[ReadField | RejectedField] = []
    for scene in reader.scenes(item):
        if len(found) == MOST_FIELDS:
            found.append(RejectedField(scene.name, ImageError(f"A file can have at most {MOST_FIELDS} fields.")))
            break
        try:
            if upload.in_order:
                _refuse_other_channels(scene, picks)
            if isinstance(scene.planes, ImageError):
                raise scene.planes
            found.append(_field(scene.name, tuple(picks), scene.planes, rules, pixel_um=scene.scene.pixel_um))
        except ImageError as error:
            found.append(RejectedField(scene.name, error))
    return found


def _refuse_other_channels(found: FoundScene, channels: Collection[str]) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if a file does not have exactly the channels that the client listed."""
    scene = found.scene
    count = len(scene.channels) * scene.pages
    is_one = len(channels) == 1 if scene.pages > 1 else count == 1
    # The reader knows best which axes a file has, unless it only has too few channels.
    if isinstance(found.planes, ImageError) and (
        scene.problem or scene.times > 1 or (is_one and scene.depths * scene.pages > 1)
    ):
        raise found.planes
    # Transparency is not a channel. If it is not the last plane, the channels have other numbers than in the list.
    stains = [number for number, name in enumerate(scene.channels * scene.pages) if name != "alpha"]
    if stains != list(range(len(channels))):
        raise _other_channels("The file", len(stains), channels)


def _other_channels(what: str, count: int, channels: Collection[str]) -> ImageError:
    """Return the error for a file that does not have exactly the channels that the client listed."""
    return ImageError(
        f"{what} has {count} channel{'s' * (count != 1)}, but should have exactly these: {', '.join(channels)}.",
        hint="Send `channels` with the channels of the file in order, and `absent` with the channels that it lacks."
        if count < len(channels)
        else _NUMBERS,
    )


def _array_fields(upload: UploadedField, rules: ReadingRules) -> list[ReadField]:
    """Read the fields in a NumPy file of shape ``(channels, h, w)`` or ``(n, channels, h, w)``."""
    path = next(iter(upload.files.values()))
    if len({*upload.files.values()}) != 1:
        raise ImageError(
            "A NumPy file contains all channels of a field, but several files were sent.",
            hint="Send one array as `image`.",
        )
    channels = tuple(upload.files)
    places = [upload.picks.get(name, 0) for name in channels]
    if any(isinstance(place, str) for place in places):
        raise ImageError(
            "`channels` selects by name, but the channels of a NumPy file have no names.", hint="Send numbers."
        )
    with path.open("rb") as stream, decoding(path):
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read_header(stream)
    if len(shape) not in (3, 4) or kind.kind not in "iuf":
        raise ImageError(
            f"The array has the shape {shape} and {kind} pixels.",
            hint="Send integers or floats of shape (channels, h, w) or (n, channels, h, w).",
        )
    if (upload.in_order or not upload.picks) and shape[-3] != len(channels):
        raise _other_channels(f"The array of shape {shape} (channels, h, w)", shape[-3], channels)
    planes_at = [place for place in places if isinstance(place, int)]
    if max(planes_at) >= shape[-3]:
        raise ImageError(
            f"The array of shape {shape} has no channel {max(planes_at)}: its channels are 0 to {shape[-3] - 1}.",
            hint="Send other numbers in `channels`.",
        )
    count = shape[0] if len(shape) == 4 else 1
    if not 1 <= count <= MOST_FIELDS or int(np.prod(shape[-3:])) > rules.max_pixels:
        raise ImageError(
            f"The array has the shape {shape}, which is empty or too large.",
            hint=f"Send at most {MOST_FIELDS} fields of {rules.max_pixels / 1e6:g} megapixels.",
        )
    with decoding(path):
        fields = native_pixels(np.load(path, allow_pickle=False).reshape(count, *shape[-3:]))
    names = [upload.name] if count == 1 else [f"{upload.name}_{number}" for number in range(count)]
    return [
        _field(name, channels, [planes[place] for place in planes_at], rules, pixel_um=upload.pixel_um)
        for name, planes in zip(names, fields, strict=True)
    ]


def _field(
    name: str, channels: tuple[str, ...], planes: list[NDArray[Any]], rules: ReadingRules, *, pixel_um: float | None
) -> ReadField:
    """Return a field from the images of its channels."""
    height, width = planes[0].shape
    if height != width or height < rules.size:
        raise ImageError(
            f"The image is {width} x {height} px, but the model needs square images of at least"
            f" {rules.size} x {rules.size} px.",
            hint="Crop it to a square. If it is too small, send a larger area. Enlarging it adds no detail.",
        )
    eight = all_to_8_bit(planes, DepthRule(), called=channels)
    model = scale_field(eight.image, Scaling(size=rules.size, resample=rules.resample), pixel_um=pixel_um)
    shown = scale_field(eight.image, Scaling(size=min(SHOWN_PX, height, width)), pixel_um=pixel_um)
    return ReadField(
        name=name,
        channels=channels,
        image=model.image,
        shown=shown.image,
        original_px=(height, width),
        pixel_um=model.pixel_um or _scaled_um(pixel_um, height, model.image.shape[1]),
        shown_um=shown.pixel_um or _scaled_um(pixel_um, height, shown.image.shape[1]),
        flags=tuple(eight.flags(channels)),
    )


def _scaled_um(pixel_um: float | None, before_px: int, after_px: int) -> float | None:
    """Return the pixel size of an image that was scaled as a whole."""
    return None if pixel_um is None else pixel_um * before_px / after_px


def _refuse_too_large(path: Path, channels: int, rules: ReadingRules) -> None:
    """Raise :class:`~cytoloc.errors.ImageError` if an image states too many pixels, before it is decoded."""
    edges: list[tuple[int, int]] = []
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        # A PNG or JPEG file is decoded when it is opened.
        with path.open("rb") as stream:
            refuse_other_kind(stream.read(16), path, kind="PNG" if path.suffix.lower() == ".png" else "JPEG")
        Image.MAX_IMAGE_PIXELS = None  # our own limit is lower
        with decoding(path), Image.open(path) as header:
            edges = [header.size]
    else:
        if path.name.lower().endswith((".zip", ".ozx")):
            # A small zip file can hold much more than the pixels of a field can take.
            most = 64 * rules.max_pixels
            with decoding(path):
                try:
                    total = sum(entry.file_size for entry in zipfile.ZipFile(path).infolist())
                except zipfile.BadZipFile as error:
                    raise ImageError(f"{path} is not a zip file: {error}.", hint="Send the file again.") from error
            if total > most:
                raise ImageError(
                    f"The zip file holds {total / 1e6:,.0f} MB, but the service reads at most {most / 1e6:,.0f} MB.",
                    hint="Send one field of view per file.",
                )
        with open_image(path, alone=True) as image:
            edges = [(scene.height, scene.width) for scene in image.scenes]
    for height, width in edges:
        if height * width * channels > rules.max_pixels:
            raise ImageError(
                f"The image states a size of {width} x {height} px for {channels} channels, but the service reads at"
                f" most {rules.max_pixels / 1e6:g} megapixels.",
                hint="Send a field of view, not a slide scan; or start the service with a higher limit.",
            )


def check_picks(value: object) -> dict[str, int | str | None]:
    """Return the channels in a file as a client states them.

    Args:
        value: A list of channel names in the order of the file, or an object of a channel and its number (from 0) or
            name.

    Returns:
        The number or name of each channel.

    Raises:
        ArgumentTypeError: If it is neither.

    >>> check_picks(["protein", "nucleus"])
    {'protein': 0, 'nucleus': 1}
    """
    if isinstance(value, list) and all(isinstance(name, str) and _is_name(name) for name in value):
        if 0 < len(value) == len(set(value)):
            return {name: number for number, name in enumerate(value)}
    elif isinstance(value, dict):
        picks: dict[str, int | str | None] = {
            name: pick
            for name, pick in value.items()
            if _is_name(name)
            and (_is_name(pick) if isinstance(pick, str) else type(pick) is int and 0 <= pick < MOST_CHANNELS)
        }
        if picks and len(picks) == len(value):
            return picks
    raise ArgumentTypeError(
        "`channels` must be a list of different names in the order of the file, or a JSON object of numbers or names.",
        hint='Send for example ["protein", "nucleus"], or {"protein": 1, "nucleus": "DAPI"}.',
    )


def _is_name(text: str) -> bool:
    """Return whether a text can be shown as the name of a channel."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable()
