"""A writer of Leica's LIF for tests: an XML header and one block of pixels per scene, as liffile's format notes say."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_lif(
    path: Path,
    scenes: dict[str, NDArray[np.uint8]],
    *,
    names: tuple[str, ...],
    pixel_um: float,
    dimensions: tuple[int, ...] = (2, 1),
) -> None:
    """Write 8-bit scenes ``(channels, height, width)``, or with other dimensions: 1 x, 2 y, 3 z, 4 time, 5 λ."""
    elements, blocks = "", b""
    for number, (name, image) in enumerate(scenes.items()):
        count, *lengths = image.shape
        steps = [int(np.prod(lengths[place + 1 :])) for place in range(len(lengths))]
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="8" NameOfMeasuredQuantity="" Min="0"'
            f' Max="255" Unit="" LUTName="{lut}" IsLUTInverted="0" BytesInc="{channel * image[0].nbytes}" BitInc="0">'
            f"</ChannelDescription>"
            for channel, lut in enumerate(names[:count])
        )
        listed = "".join(
            f'<DimensionDescription DimID="{axis}" NumberOfElements="{length}" Origin="0"'
            f' Length="{length * pixel_um * 1e-6}" Unit="m" BitInc="0" BytesInc="{step}"/>'
            for axis, length, step in reversed([*zip(dimensions, lengths, steps, strict=True)])
        )
        elements += (
            f'<Element Name="{name}" Visibility="1" CopyOption="1" UniqueID="{number}"><Data><Image><ImageDescription>'
            f"<Channels>{channels}</Channels><Dimensions>{listed}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{image.nbytes}" MemoryBlockID="MemBlock_{number}"/><Children/></Element>'
        )
        block = f"MemBlock_{number}".encode("utf-16-le")
        blocks += struct.pack("<IIBQBI", 0x70, 1 + 8 + 1 + 4 + len(block), 0x2A, image.nbytes, 0x2A, len(block) // 2)
        blocks += block + image.tobytes()
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="test.lif" Visibility="1" CopyOption="1" UniqueID="root">'
        f'<Data><Experiment Path=""/></Data><Memory Size="0" MemoryBlockID="MemBlock_root"/>'
        f"<Children>{elements}</Children>"
        "</Element></LMSDataContainerHeader>"
    ).encode("utf-16-le")
    header = struct.pack("<IIBI", 0x70, 1 + 4 + len(xml), 0x2A, len(xml) // 2)
    path.write_bytes(header + xml + blocks)
