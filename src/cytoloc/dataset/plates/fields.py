"""The fields of plates for an import: the files of the wanted channels, planes and time points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from cytoloc.dataset.plates.ome_zarr import OME_ZARR
from cytoloc.dataset.plates.plate import FoundPlates, Plate, PlateChannel, Spot, find_channel
from cytoloc.dataset.sources.channels import ChannelMap, Pick
from cytoloc.dataset.sources.listing import ListedField, Listing
from cytoloc.errors import ImageError, SettingsError


def list_fields(
    found: FoundPlates, channels: ChannelMap, *, z: int | Literal["max"] = "max", time: int | None = None
) -> Listing:
    """Return the fields of plates, one for each field of view and time point.

    The id of a field consists of plate, well and number of the field, and of the time point if there are several.

    Args:
        found: The plates.
        channels: For each channel of the dataset, the name, number or wavelength of the channel on the plates.
        z: The z plane, as the instrument numbers them; ``"max"`` for a maximum projection.
        time: The time point, as the instrument numbers them. None: all.

    Returns:
        The fields.

    Raises:
        SettingsError: If a plate has no such channel, or there are several.
        ImageError: If no plate has the time point.
    """
    if not channels.one_file:
        raise SettingsError(
            "`channels` contains a pattern of files, but the files of a plate are found by its layout.",
            hint="Give names or numbers of channels, as in nucleus=DAPI,protein=2.",
        )
    times = {spot.time for plate in found.plates for spot in plate.spots}
    if time is not None and time not in times:
        raise ImageError(
            f"The plates have no time point {time}; their time points are {_spans(sorted(times))}.",
            hint="Choose another `time`.",
        )
    zarr = found.layout == OME_ZARR
    fields: dict[str, ListedField] = {}
    for plate in found.plates:
        picked = {
            role: find_channel(plate.channels, pick.channel if pick.channel is not None else "", plate=plate.name)
            for role, pick in channels.picks.items()
        }
        roles: dict[int, str] = {}
        for role, channel in picked.items():
            other = roles.setdefault(channel.number, role)
            if other != role:
                raise SettingsError(
                    f"`channels` gives the channel {channel} of plate {plate.name} for both {other} and {role}.",
                    hint="Remove the channel that was not imaged; a dataset can have any number of channels.",
                )
        # All z planes of each channel. A field that lacks some would be projected from fewer planes.
        usual: dict[int, set[int]] = {}
        for by_channel in plate.planes.values():
            for number, planes in by_channel.items():
                usual.setdefault(number, set()).update(planes)
        if found.layout != "scanr":
            # Plane 0 of several is the projection of the instrument.
            usual = {number: planes - {0} if len(planes) > 1 else planes for number, planes in usual.items()}
        for spot in plate.spots:
            if time in (None, spot.time) or (zarr and spot not in plate.planes):
                name = f"{plate.name}_{spot.well}_{spot.field}{f'_t{spot.time}' if len(times) > 1 else ''}"
                fields[name] = _zarr_field(plate, spot, picked) if zarr else _field(plate, spot, picked, usual, z)
    return Listing(
        command="import plate",
        source="plate",
        fields=fields,
        channels=ChannelMap({role: Pick(None, None) for role in channels.picks}),
        note={
            "layout": found.layout,
            "index": ", ".join(plate.index for plate in found.plates if plate.index) or None,
            "channels": channels.note,
            "z": z,
            "time": time,
        },
        unmatched=found.unmatched,
    )


def describe_plates(found: FoundPlates) -> Iterator[str]:
    """Yield lines about plates: layout, index, wells, fields, channels, planes and time points."""
    yield f"layout        {found.layout}"
    for plate in found.plates:
        spots = plate.spots
        wells = sorted({spot.well for spot in spots})
        sites = sorted({spot.field for spot in plate.planes})
        counts = dict.fromkeys((channel.number for channel in plate.channels), 0)
        for channels in plate.planes.values():
            for number, planes in channels.items():
                counts[number] = counts.get(number, 0) + len(planes)
        depths = sorted({z for by in plate.planes.values() for planes in by.values() for z in planes})
        yield f"plate         {plate.name}"
        yield f"  index       {plate.index or 'none; found by file names'}"
        few = ", ".join(wells) if len(wells) <= 6 else f"{', '.join(wells[:3])} … {wells[-1]}"
        yield f"  wells       {len(wells)}: {few}"
        yield f"  fields      {len(sites)} per well: {_spans(sites)}"
        if found.layout == OME_ZARR:
            yield f"  channels    {'; '.join(map(str, plate.channels))}"
        else:
            listed = (f"{channel} ({counts[channel.number]} files)" for channel in plate.channels)
            yield f"  channels    {'; '.join(listed)}"
            yield f"  z planes    {_spans(depths) if depths != [0] else 'one'}"
        yield f"  times       {_spans(sorted({spot.time for spot in spots}))}"
        if plate.problems:
            spot = min(plate.problems)
            example = f"{spot.well} field {spot.field} time {spot.time}: {plate.problems[spot]}"
            yield f"  incomplete  {len(plate.problems)} of {len(spots)} fields, such as {example}"


def _field(
    plate: Plate,
    spot: Spot,
    picked: Mapping[str, PlateChannel],
    usual: Mapping[int, set[int]],
    z: int | Literal["max"],
) -> ListedField:
    """Return a field whose planes are separate files."""
    have = plate.planes.get(spot, {})
    files: dict[str, tuple[str, ...]] = {}
    problem = plate.problems.get(spot)
    for role, channel in picked.items():
        planes = have.get(channel.number, {})
        if not planes:
            problem = problem or f"there is no file of the channel {role} ({channel})"
            continue
        lacking = sorted((usual[channel.number] if z == "max" else {z}) - planes.keys())
        if lacking:
            problem = problem or f"z planes of the channel {role} ({channel}) are missing: {_spans(lacking)}"
            continue
        files[role] = tuple(planes[at] for at in (sorted(planes) if z == "max" else [z]))
    return ListedField(
        files=files,
        parts=_parts(plate, spot),
        pixel_um=plate.pixel_um,
        problem=problem,
        called={role: str(channel) for role, channel in picked.items()},
    )


def _zarr_field(plate: Plate, spot: Spot, picked: Mapping[str, PlateChannel]) -> ListedField:
    """Return a field whose planes are in one OME-Zarr image."""
    problem = plate.problems.get(spot)
    path = () if problem else (plate.planes[spot][1][0],)
    return ListedField(
        files=dict.fromkeys(picked, path) if path else {},
        parts=_parts(plate, spot),
        picks={role: Pick(None, channel.number) for role, channel in picked.items()},
        time=spot.time,
        problem=problem,
        called={role: str(channel) for role, channel in picked.items()},
    )


def _parts(plate: Plate, spot: Spot) -> dict[str, str]:
    return {"plate": plate.name, "well": spot.well, "field": str(spot.field)}


def _spans(numbers: list[int]) -> str:
    """Return numbers in words, with a span for consecutive ones.

    >>> _spans([1, 2, 3, 5])
    '1 to 3, 5'
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans) or "none"
