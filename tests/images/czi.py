"""A writer of Zeiss's CZI for tests: one plane per subblock, as the specification of ZISRAW describes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TYPES = {"uint8": 0, "uint16": 1, "float32": 2}


@dataclass(frozen=True)
class Plane:
    """A plane ``(height, width)``, or ``(height, width, 3)`` in blue, green, red, and its position along other axes."""

    pixels: NDArray[np.generic]
    at: dict[str, int] = field(default_factory=dict)
    compression: int = 0
    encoded: bytes | None = None

    @property
    def entry(self) -> bytes:
        """The entry of the directory, without the position in the file."""
        height, width = self.pixels.shape[:2]
        code = 3 if self.pixels.ndim == 3 else _TYPES[self.pixels.dtype.name]
        dimensions = [("X", 0, width), ("Y", 0, height), *((axis, start, 1) for axis, start in self.at.items())]
        head = struct.pack("<2siqiiBB4si", b"DV", code, 0, 0, self.compression, 0, 0, b"", len(dimensions))
        return head + b"".join(struct.pack("<4siifi", axis.encode(), start, n, 0.0, n) for axis, start, n in dimensions)


def _segment(kind: bytes, content: bytes) -> bytes:
    allocated = -(-len(content) // 32) * 32
    return struct.pack("<16sqq", kind, allocated, len(content)) + content.ljust(allocated, b"\0")


def write_czi(path: Path, planes: Sequence[Plane], *, names: Sequence[str] = (), pixel_um: float = 0.08) -> None:
    """Write planes, and the names of their channels."""
    content = bytearray(_segment(b"ZISRAWFILE", bytes(512)))
    entries = []
    for plane in planes:
        place = struct.pack("<q", len(content))
        entry = plane.entry[:6] + place + plane.entry[14:]
        entries.append(entry)
        raw = plane.encoded or plane.pixels.tobytes()
        head = struct.pack("<iiq", 0, 0, len(raw)) + entry + bytes(max(0, 240 - len(entry)))
        content += _segment(b"ZISRAWSUBBLOCK", head + raw)
    channels = "".join(f'<Channel Id="Channel:{number}" Name="{name}"/>' for number, name in enumerate(names))
    xml = (
        "<ImageDocument><Metadata><Information><Image><Dimensions><Channels>"
        f"{channels}</Channels></Dimensions></Image></Information><Scaling><Items><Distance Id='X'><Value>"
        f"{pixel_um * 1e-6}</Value></Distance></Items></Scaling></Metadata></ImageDocument>"
    ).encode()
    metadata = len(content)
    content += _segment(b"ZISRAWMETADATA", struct.pack("<ii", len(xml), 0) + bytes(248) + xml)
    directory = len(content)
    content += _segment(b"ZISRAWDIRECTORY", struct.pack("<i", len(entries)) + bytes(124) + b"".join(entries))
    header = struct.pack("<iiii16s16siqqiq", 1, 0, 0, 0, b"", b"", 0, directory, metadata, 0, 0)
    content[32 : 32 + len(header)] = header
    path.write_bytes(content)
