"""Folders of plates as the instruments write them, with one gray level per plane."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import numpy as np
import tifffile

PX = 32


class At(NamedTuple):
    """The place of a plane, all counted from 1."""

    row: int
    column: int
    field: int
    channel: int
    z: int
    time: int

    @property
    def well(self) -> str:
        return f"{'ABC'[self.row - 1]}{self.column:02d}"

    @property
    def gray(self) -> int:
        """The gray level of the plane, different for all planes. The last z plane is the brightest."""
        return 100 * (self.channel - 1) + 40 * (self.row - 1) + 16 * (self.field - 1) + 4 * (self.time - 1) + self.z


def every_plane() -> Iterator[At]:
    """Yield the planes of wells A01 and B02: 2 fields, 2 channels, 2 z planes, 2 time points."""
    for (row, column), *rest in itertools.product([(1, 1), (2, 2)], (1, 2), (1, 2), (1, 2), (1, 2)):
        yield At(row, column, *rest)


def write_planes(folder: Path, name_of: Callable[[At], str], *, dtype: str = "u1") -> list[Path]:
    """Write a file per plane, and hidden files of macOS beside some."""
    files = []
    for number, at in enumerate(every_plane()):
        path = folder / name_of(at)
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full((PX, PX), at.gray, dtype))
        files.append(path)
        if number % 7 == 0:
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
    return files


def imagexpress(folder: Path) -> list[Path]:
    def name(at: At) -> str:
        guid = str(UUID(int=hash(at) % 2**128)).upper()
        return f"TimePoint_{at.time}/ZStep_{at.z}/P1_{at.well}_s{at.field}_w{at.channel}{guid}.tif"

    files = write_planes(folder / "plate 1", name)
    thumb = files[0].with_name(files[0].name.replace("_w1", "_w1_thumb"))
    tifffile.imwrite(thumb, np.zeros((8, 8), np.uint8))
    # The instrument's own projection.
    tifffile.imwrite(files[0].parent.parent / "P1_A01_s1_w1.tif", np.full((PX, PX), 255, np.uint8))
    rows = "".join(
        f'"WellsSelection{row}", {", ".join("TRUE" if column == row else "FALSE" for column in (1, 2, 3))}\r\n'
        for row in (1, 2)
    )
    htd = (
        '"HTSInfoFile", Version 1.0\r\n"Description", "10 µm, ""quick"""\r\n"TimePoints", 2\r\n"ZSeries", TRUE\r\n'
        f'"ZSteps", 2\r\n"XWells", 3\r\n"YWells", 2\r\n{rows}"Sites", TRUE\r\n"XSites", 2\r\n"YSites", 2\r\n'
        '"SiteSelection1", TRUE, FALSE\r\n"SiteSelection2", FALSE, TRUE\r\n"Waves", TRUE\r\n"NWavelengths", 2\r\n'
        '"WaveName1", "DAPI"\r\n"WaveName2", "FITC"\r\n"EndFile"\r\n'
    )
    for place in (folder / "plate 1", folder / "plate 1" / "TimePoint_1"):
        (place / "P1.HTD").write_text(htd, "latin-1", newline="")
    return files


def harmony(folder: Path, version: int = 5) -> list[Path]:
    def name(at: At) -> str:
        place = f"r{at.row:02d}c{at.column:02d}f{at.field:02d}p{at.z:02d}"
        return f"{place}-ch{at.channel}sk{at.time}fk1fl1.tiff"

    files = write_planes(folder / "P1__2026" / "Images", name)
    channel = (
        "<ChannelName>{name}</ChannelName><ImageResolutionX Unit='m'>1.0E-07</ImageResolutionX>"
        "<MainExcitationWavelength Unit='nm'>{nm}</MainExcitationWavelength>"
    )
    described = {1: channel.format(name="DAPI", nm=405), 2: channel.format(name="FITC (488)", nm="488.0")}
    space = "http://www.perkinelmer.com/PEHH/HarmonyV5" if version < 7 else "43B2A954/HarmonyV7"
    images = "".join(
        f"<Image><id>{number}</id><State>Ok</State><URL>{name(at)}</URL><Row>{at.row}</Row><Col>{at.column}</Col>"
        f"<FieldID>{at.field}</FieldID><PlaneID>{at.z}</PlaneID><TimepointID>{at.time - 1}</TimepointID>"
        f"<ChannelID>{at.channel}</ChannelID>{described[at.channel] if version < 7 else ''}</Image>"
        for number, at in enumerate(every_plane())
    )
    entries = "".join(
        f"<Entry ChannelID='{number}'>{text if version >= 7 else '<FlatfieldProfile>{}</FlatfieldProfile>'}</Entry>"
        for number, text in described.items()
    )
    xml = (
        f"<?xml version='1.0' encoding='utf-8'?><EvaluationInputData xmlns='{space}'><Plates><Plate>"
        "<PlateID>b</PlateID><Name>P1</Name></Plate></Plates><Wells><Well><id>0101</id>"
        "<Row>1</Row><Col>1</Col><Image id='1' /></Well>"
        f"</Wells><Maps><Map>{entries}</Map></Maps><Images>{images}</Images></EvaluationInputData>"
    )
    index = files[0].parent / ("Index.idx.xml" if version < 7 else "Index.xml")
    index.write_text(xml, "utf-8-sig")
    return files


def cellvoyager(folder: Path) -> list[Path]:
    def name(at: At) -> str:
        return f"P1_{at.well}_T{at.time:04d}F{at.field:03d}L01A0{at.channel}Z{at.z:02d}C{at.channel:02d}.tif"

    files = write_planes(folder / "P1_20260101", name)
    (files[0].parent / "DC_sCMOS_CAM1.tif").write_bytes(files[0].read_bytes())
    space = "xmlns:bts='http://www.yokogawa.co.jp/BTS/BTSSchema/1.0'"
    records = "".join(
        f"<bts:MeasurementRecord bts:Type='IMG' bts:Column='{at.column}' bts:Row='{at.row}' bts:FieldIndex='{at.field}'"
        f" bts:TimePoint='{at.time}' bts:ZIndex='{at.z}' bts:Ch='{at.channel}'>{name(at)}</bts:MeasurementRecord>"
        for at in every_plane()
    )
    error = (
        "<bts:MeasurementRecord bts:Type='ERR' bts:Column='3' bts:Row='1' bts:FieldIndex='1' bts:TimePoint='1'>"
        "autofocus failed</bts:MeasurementRecord>"
    )
    beside = {
        "MeasurementData.mlf": f"<bts:MeasurementData {space}>{records}{error}</bts:MeasurementData>",
        "MeasurementDetail.mrf": f"<bts:MeasurementDetail {space} bts:Title='P1'>"
        + "".join(
            f"<bts:MeasurementChannel bts:Ch='{channel}' bts:HorizontalPixelDimension='0.1' />" for channel in (1, 2)
        )
        + "</bts:MeasurementDetail>",
        "setting.mes": f"<bts:MeasurementSetting {space}><bts:ChannelList><bts:Channel bts:Ch='1' bts:Target='DAPI'"
        " bts:Acquisition='BP445/45'><bts:LightSourceName>405nm</bts:LightSourceName></bts:Channel><bts:Channel"
        " bts:Ch='2' bts:Target='FITC' bts:Acquisition='BP525/50'><bts:LightSourceName>488nm</bts:LightSourceName>"
        "</bts:Channel></bts:ChannelList></bts:MeasurementSetting>",
    }
    for file, text in beside.items():
        (files[0].parent / file).write_text(text, "utf-8")
    return files


def incell(folder: Path) -> list[Path]:
    filters = {1: "DAPI", 2: "FITC"}

    def name(at: At) -> str:
        wave = filters[at.channel]
        return f"{at.well[0]} - {at.column}(fld {at.field} wv {wave} - {wave} z {at.z} time {at.time}).tif"

    files = write_planes(folder / "P1", name)
    images = "".join(
        f"<Image filename='{name(at)}'><Well label='{at.well[0]} - {at.column}'><Row number='{at.row}' />"
        f"<Column number='{at.column}' /></Well><ExcitationFilter name='{filters[at.channel]}' /><EmissionFilter"
        f" name='{filters[at.channel]}' /><Identifier field_index='{at.field - 1}' time_index='{at.time - 1}'"
        f" wave_index='{at.channel - 1}' z_index='{at.z - 1}' /></Image>"
        for at in every_plane()
    )
    xml = (
        "<ImageStack><AutoLeadAcquisitionProtocol><ObjectiveCalibration pixel_width='0.1' />"
        "</AutoLeadAcquisitionProtocol>"
        f"<Images>{images}</Images></ImageStack>"
    )
    (files[0].parent / "P1.xdce").write_text(xml)
    return files


def scanr(folder: Path) -> list[Path]:
    def name(at: At) -> str:
        number = (at.row - 1) * 12 + at.column
        stain = {1: "DAPI", 2: "FITC"}[at.channel]
        return f"--W{number:05d}--P{at.field:05d}--Z{at.z:05d}--T{at.time:05d}--{stain}.tif"

    files = write_planes(folder / "P1" / "data", name)
    pairs = [
        ("plate name", "P1"),
        ("conversion factor um/pixel", "0.1"),
        *(("well selection table + cDNA", text) for text in ("1", "A1", "14", "B2")),
    ]
    xml = "".join(f"<String><Name>{key}</Name><Val>{value}</Val></String>" for key, value in pairs)
    (folder / "P1" / "experiment_descriptor.xml").write_text(f"<LVData>{xml}</LVData>")
    return files
