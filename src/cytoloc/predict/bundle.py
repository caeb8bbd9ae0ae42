"""Bundles: everything that a prediction needs in one checked file, ``NAME.cytoloc``.

A bundle is a zip of ``bundle.json`` (which parts there are, and the SHA-256 of each), per member its recipe and its
weights as safetensors, the fields that members were trained on, the model card and, if it has one, the decision.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

import safetensors.torch
from pydantic import BaseModel, Field, ValidationError

from cytoloc.decide.decision import read_decision
from cytoloc.errors import CytolocError, FormatError, SettingsError
from cytoloc.files import existing, new_file, parse_json
from cytoloc.labels import CHANNELS, LOCATIONS
from cytoloc.models.network import Network
from cytoloc.predict.model import Model
from cytoloc.predict.runs import build_recipe_network, learned_from, load_run
from cytoloc.recipe import Recipe, read_resolved, to_toml

KIND: Final = "cytoloc-bundle"
VERSION: Final = 1
SUFFIX: Final = ".cytoloc"

BOX: Final = "box"
"""What the model that comes with the package is called."""

_AGAIN: Final = "Copy it again from where it came from."
_HEAD: Final = "bundle.json"
_CARD: Final = "card.md"
_DECISION: Final = "decision.json"
_TRAINED_ON: Final = "trained_on.txt"
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
"""The time that all parts bear, so that the same parts make the same file."""


class Head(BaseModel):
    """What a bundle says of itself."""

    members: list[str] = Field(min_length=1)
    """Name of each network's run."""
    caution: str
    """What is said with every prediction; may be empty."""
    channels: list[str] = list(CHANNELS)
    """Roles of the channels, in order."""
    locations: list[tuple[int, str, str]] = list(LOCATIONS)
    """Id, name and Gene Ontology term of each location."""
    parts: dict[str, str]
    """SHA-256 of each part, by name."""


def box() -> Path:
    """Return where the model in the box is."""
    return Path(str(files("cytoloc") / "predict" / f"{BOX}{SUFFIX}"))


def write_bundle(
    runs: Sequence[Path],
    path: Path,
    *,
    card: str,
    decision: Path | None = None,
    half: bool = False,
    caution: str = "",
) -> None:
    """Write finished runs, whose probabilities are averaged, as one file to a path that must be free.

    Args:
        runs: Their folders.
        path: The new file.
        card: What the model is and what it was measured to do, in Markdown.
        decision: A decision of the runs' held-out scores, averaged and joined: it calibrates and decides.
        half: Whether weights are kept with 16 bits instead of 32.
        caution: What is to be said with every prediction.

    Raises:
        FormatError: If a run is not finished or is damaged.
        SettingsError: If the runs differ in what they see, or the decision is of several members.
    """
    loaded = [load_run(run) for run in runs]
    seen_as = {(recipe.image.field_px, recipe.select.views) for _, recipe, _ in loaded}
    if len(seen_as) != 1:
        raise SettingsError("The runs of a bundle must have one image size and the same views.")
    parts: dict[str, bytes] = {_CARD: card.encode("utf-8")}
    if decision:
        _refuse_several_members(decision)
        parts[_DECISION] = decision.read_bytes()
    names = []
    trained_on: set[str] = set()
    for number, (network, recipe, facts) in enumerate(loaded):
        names.append(str(facts["name"]))
        trained_on |= learned_from(facts)
        state = {
            key: value.half() if half and value.is_floating_point() else value
            for key, value in network.state_dict().items()
        }
        parts[f"members/{number}/recipe.toml"] = to_toml(recipe).encode("utf-8")
        parts[f"members/{number}/weights.safetensors"] = safetensors.torch.save(
            {key: value.contiguous() for key, value in state.items()}
        )
    parts[_TRAINED_ON] = "".join(f"{name}\n" for name in sorted(trained_on)).encode("utf-8")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    said = Head(members=names, caution=caution, parts=digests).model_dump(mode="json")
    head = {"format": KIND, "version": VERSION, **said}
    everything = {_HEAD: json.dumps(head, indent=1).encode("utf-8"), **parts}
    with new_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in everything.items():
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), content, compress_type=zipfile.ZIP_DEFLATED)


def read_bundle(path: Path) -> Model:
    """Return the model in a bundle.

    Raises:
        FormatError: If the file is no bundle of this version, or any part of it is not as it was written.
    """
    head, parts = _checked(path)
    with tempfile.TemporaryDirectory() as place:
        try:
            members = [_member(Path(place), parts, number) for number in range(len(head.members))]
            decision = None
            if _DECISION in parts:
                (Path(place) / _DECISION).write_bytes(parts[_DECISION])
                decision = read_decision(Path(place) / _DECISION)
        # Parts are as they were written; what cannot be read then was written by another release.
        except (CytolocError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
            raise FormatError(
                f"{path} cannot be used by this release: {str(error).splitlines()[0]}",
                way_out="Use the release that wrote it, or bundle the runs again.",
            ) from error
    recipe = members[0][1]
    return Model(
        [network for network, _ in members],
        size=recipe.image.field_px,
        views=recipe.select.views,
        provenance={
            "bundle": path.name,
            "members": list(head.members),
            **({"caution": head.caution} if head.caution else {}),
        },
        trained_on=frozenset(parts[_TRAINED_ON].decode("utf-8").splitlines()),
        decision=decision,
        caution=head.caution,
    )


def read_card(path: Path) -> str:
    """Return the model card of a bundle, in Markdown.

    Raises:
        FormatError: As :func:`read_bundle`.
    """
    return _checked(path)[1][_CARD].decode("utf-8")


def _member(place: Path, parts: dict[str, bytes], number: int) -> tuple[Network, Recipe]:
    resolved = place / f"{number}.toml"
    resolved.write_bytes(parts[f"members/{number}/recipe.toml"])
    recipe = read_resolved(resolved)
    network = build_recipe_network(recipe, weights="none")
    network.load_state_dict(safetensors.torch.load(parts[f"members/{number}/weights.safetensors"]))
    return network, recipe


def _checked(path: Path) -> tuple[Head, dict[str, bytes]]:
    """Return what a bundle says of itself, and its parts, each as it was written."""
    existing(path, error=FormatError, what="bundle file")
    try:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, RuntimeError, zlib.error) as error:
        raise FormatError(
            f"{path} cannot be read as a bundle: {error}.", way_out=f"Give a {SUFFIX} file of `cytoloc bundle`."
        ) from error
    if _HEAD not in content:
        raise FormatError(f"{path} is not a bundle: it lacks {_HEAD}.", way_out="Give a file of `cytoloc bundle`.")
    said = parse_json(content[_HEAD], where=path, kind=KIND, version=VERSION)
    try:
        head = Head.model_validate(said)
    except ValidationError as error:
        raise FormatError(f"{path} is damaged: {_HEAD} is not as it must be.", way_out=_AGAIN) from error
    if head.channels != list(CHANNELS) or head.locations != list(LOCATIONS):
        raise FormatError(
            f"{path} is of other channels or locations than this release knows.",
            way_out="Use the release that wrote it.",
        )
    for name, digest in head.parts.items():
        if hashlib.sha256(content.get(name, b"")).hexdigest() != digest:
            raise FormatError(f"{path} is damaged: {name} is not as it was written.", way_out=_AGAIN)
    return head, content


def _refuse_several_members(decision: Path) -> None:
    members = read_decision(decision).members
    if len(members) != 1:
        raise SettingsError(
            f"{decision} is of the members {', '.join(members)}; a bundle averages its runs.",
            way_out="Fit the decision without --members: `cytoloc decide fit RUNS --labels … --out decision.json`.",
        )
