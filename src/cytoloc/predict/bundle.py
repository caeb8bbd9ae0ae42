"""Bundles: everything that a prediction needs in one checked file, ``NAME.cytoloc``.

A bundle is a zip of ``bundle.json`` (what each network is, and size and SHA-256 of every part), per network its weights
as safetensors and, to be read by people, the recipe that it was trained by, the ids of the fields learned from, the
model card and, if it has one, the decision.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from lzma import LZMAError
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor

from cytoloc.channels import check_channels
from cytoloc.choices import HeadName
from cytoloc.decide.decision import Decision, read_decision
from cytoloc.errors import CytolocError, FormatError, SettingsError
from cytoloc.files import FileFormat, existing, new_file, parse_json, refuse_given_twice, sha256_of
from cytoloc.labels import LabelSet
from cytoloc.models.network import ModelSpec, Network, build_network
from cytoloc.predict.model import Model
from cytoloc.predict.runs import learned_from, load_run, refuse_different_runs
from cytoloc.recipe import Recipe, to_toml
from cytoloc.runs import PREDICTIONS

BUNDLE_FORMAT: Final = FileFormat("cytoloc-bundle", 1)
SUFFIX: Final = ".cytoloc"

BUILTIN: Final = "builtin"
"""What the model that comes with the package is called."""

_HEAD: Final = "bundle.json"
_CARD: Final = "card.md"
_DECISION: Final = "decision.json"
_TRAINED_ON: Final = "trained_on.txt"
_MOST_HEAD: Final = 10_000_000
"""Bytes of ``bundle.json``; more would be no description."""

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
"""The time that all parts bear, so that the same parts make the same file."""

_AGAIN: Final = "Copy it again from where it came from."


class _Said(BaseModel):
    """Something that ``bundle.json`` says; nothing more and nothing else."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Member(_Said):
    """A network: how it is built, and where it comes from."""

    name: str
    """Of its run."""
    recipe: str
    fold: int
    dataset: str
    """Fingerprint of the dataset that it learned from."""
    backbone: str
    head: HeadName
    dropout: float
    mean: list[float]
    std: list[float]
    each: bool
    """Whether images are normalized by their own mean and spread."""


class Part(_Said):
    """A file in the zip."""

    sha256: str
    size_bytes: int


class Head(_Said):
    """What a bundle says of itself."""

    format: str
    version: int
    members: list[Member] = Field(min_length=1)
    field_px: int
    """Edge of the images that the networks see."""
    tta: Literal[1, 2, 4, 8]
    """Flips and turns that logits are averaged over, unless told otherwise."""
    caution: str
    """What is said with every prediction, on one printable line; may be empty."""
    channels: list[str]
    """Names of the channels that the networks see, in order."""
    label_set: dict[str, Any]
    parts: dict[str, Part]

    @field_validator("caution")
    @classmethod
    def _is_printable(cls, text: str) -> str:
        if not text.isprintable():
            raise ValueError("a caution is printable")
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        count = len(check_channels(self.channels))
        if any(len(values) != count for member in self.members for values in (member.mean, member.std)):
            raise ValueError("every network needs a mean and a standard deviation of each channel")
        LabelSet.from_json(self.label_set)
        return self


def builtin_bundle() -> Path:
    """Return where the built-in model is."""
    return Path(str(files("cytoloc") / "predict" / f"{BUILTIN}{SUFFIX}"))


def is_builtin(path: str | Path) -> bool:
    """Return whether the built-in model is meant: it is called so, and nothing else of that name is there."""
    return str(path) == BUILTIN and not Path(path).exists()


def write_bundle(
    runs: Sequence[Path],
    path: Path,
    *,
    card: str | None = None,
    decision: Path | None = None,
    half: bool = False,
    caution: str = "",
) -> None:
    """Write finished runs, whose probabilities are averaged, as one file to a path that must be free.

    Args:
        runs: Their folders.
        path: The new file.
        card: What the model is and what it was measured to do, in Markdown; by default what the runs say.
        decision: A decision of these runs' out-of-fold predictions, averaged and joined: it calibrates and decides.
        half: Whether weights are kept with 16 bits instead of 32; means and spreads keep their 32.
        caution: What is to be said with every prediction.

    Raises:
        FormatError: If a run is not finished or is damaged.
        SettingsError: If the runs differ in what they see, one is given twice, the decision is not of their mean, or
            weights are too large for 16 bits.
        LabelSetError: If the runs or the decision differ in their label set.
    """
    if not caution.isprintable():
        raise SettingsError("The caution must be printable text.", hint="Write it on one line.")
    folders = [run.resolve() for run in runs]
    refuse_given_twice(folders)
    loaded = [load_run(folder) for folder in folders]
    label_set = refuse_different_runs(folders, loaded)
    fitted = _decision_of(folders, decision) if decision else None
    if fitted:
        label_set.refuse_other(fitted.label_set, what=str(decision), than=str(folders[0]))
    said = card if card is not None else _plain_card(path.stem, [facts for *_, facts in loaded], fitted)
    parts = {_CARD: said.encode("utf-8")}
    if decision:
        parts[_DECISION] = decision.read_bytes()
    for number, (network, recipe, facts) in enumerate(loaded):
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        kept = {key: _halved(key, value, str(facts["name"])) for key, value in state.items()} if half else state
        parts[f"members/{number}/weights.safetensors"] = safetensors.torch.save(kept)
        parts[f"members/{number}/recipe.toml"] = to_toml(recipe).encode("utf-8")
    known = frozenset().union(*(learned_from(facts) for *_, facts in loaded))
    parts[_TRAINED_ON] = "".join(f"{name}\n" for name in sorted(known)).encode("utf-8")
    recipe = loaded[0][1]
    head = Head(
        **BUNDLE_FORMAT.header,
        members=[_member(recipe, facts) for _, recipe, facts in loaded],
        field_px=recipe.image.field_px,
        tta=recipe.select.tta,
        caution=caution,
        channels=list(recipe.image.channels),
        label_set=label_set.to_json(),
        parts={name: _part(content) for name, content in parts.items()},
    )
    everything = {_HEAD: json.dumps(head.model_dump(mode="json"), indent=1).encode("utf-8"), **parts}
    with new_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in everything.items():
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), content, compress_type=zipfile.ZIP_DEFLATED)


def read_bundle(path: Path) -> Model:
    """Return the model in a bundle.

    Raises:
        FormatError: If the file is no bundle of this version, or any part of it is not as it was written.
    """
    head, parts = _checked(path)
    with _of_this_release(path):
        networks = [_network(head, parts, number) for number in range(len(head.members))]
        decision = _decision(parts)
        trained_on = _known(parts)
    return Model(
        networks,
        size=head.field_px,
        channels=head.channels,
        label_set=LabelSet.from_json(head.label_set),
        tta=head.tta,
        provenance={
            "bundle": path.name,
            "runs": [member.model_dump(include={"name", "recipe", "fold", "dataset"}) for member in head.members],
            **(
                {"calibrated_by": head.parts[_DECISION].sha256}
                if decision and decision.method.fits_probabilities
                else {}
            ),
            **({"caution": head.caution} if head.caution else {}),
        },
        trained_on=trained_on,
        decision=decision,
        caution=head.caution,
    )


class BundledNetwork(NamedTuple):
    """One network of a bundle.

    Attributes:
        name: Of its run.
        spec: What it is.
        network: The network.
        label_set: The locations that it predicts.
        trained_on: Ids of the fields that the bundle's networks learned from.
    """

    name: str
    spec: ModelSpec
    network: Network
    label_set: LabelSet
    trained_on: frozenset[str]


def read_member(path: Path, *, fold: int) -> BundledNetwork:
    """Return one network of a bundle.

    Args:
        path: A bundle.
        fold: Of several networks, that which held out the fold of this number is taken, or else the first.

    Raises:
        FormatError: As :func:`read_bundle`.
    """
    head, parts = _checked(path)
    folds = [member.fold for member in head.members]
    number = folds.index(fold) if fold in folds else 0
    with _of_this_release(path):
        return BundledNetwork(
            head.members[number].name,
            _spec(head, number),
            _network(head, parts, number),
            LabelSet.from_json(head.label_set),
            _known(parts),
        )


def read_card(path: Path) -> str:
    """Return the model card of a bundle, in Markdown, its caution first.

    Raises:
        FormatError: As :func:`read_bundle`.
    """
    head, parts = _checked(path)
    card = "".join(
        each for each in parts[_CARD].decode("utf-8", errors="replace") if each.isprintable() or each in "\n\t"
    )
    return f"**{head.caution}**\n\n{card}" if head.caution and head.caution not in card else card


def _member(recipe: Recipe, facts: dict[str, Any]) -> Member:
    return Member(
        name=facts["name"],
        recipe=recipe.name,
        fold=facts["fold"],
        dataset=facts["dataset"]["fingerprint"],
        backbone=recipe.model.backbone,
        head=recipe.model.head,
        dropout=recipe.model.dropout,
        mean=[recipe.image.mean[name] for name in recipe.image.channels],
        std=[recipe.image.std[name] for name in recipe.image.channels],
        each=recipe.image.normalize == "field",
    )


def _part(content: bytes) -> Part:
    return Part(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _halved(key: str, value: Tensor, run: str) -> Tensor:
    """Return a tensor with 16 bits; statistics of images and features keep their range."""
    if not value.is_floating_point() or key.endswith(("running_mean", "running_var")) or key.startswith("normalize."):
        return value
    half = value.half()
    if not torch.isfinite(half).all():
        raise SettingsError(f"{key} of {run} is too large for 16 bits.", hint="Leave out --half.")
    return half


def _spec(head: Head, number: int) -> ModelSpec:
    member = head.members[number]
    return ModelSpec(
        backbone=member.backbone,
        head=member.head,
        dropout=member.dropout,
        prior=0.5,
        locations=len(head.label_set["locations"]),
        channels=tuple(head.channels),
        mean=tuple(member.mean),
        std=tuple(member.std),
        each=member.each,
        size=head.field_px,
    )


def _network(head: Head, parts: dict[str, bytes], number: int) -> Network:
    network = build_network(_spec(head, number))
    network.load_state_dict(safetensors.torch.load(parts[f"members/{number}/weights.safetensors"]))
    return network


def _known(parts: dict[str, bytes]) -> frozenset[str]:
    return frozenset(parts[_TRAINED_ON].decode("utf-8").splitlines())


@contextmanager
def _of_this_release(path: Path) -> Iterator[None]:
    """Say of parts that are as they were written, but cannot be read, that another release wrote them."""
    try:
        yield
    except (CytolocError, KeyError, RuntimeError, UnicodeDecodeError, safetensors.SafetensorError) as error:
        raise FormatError(
            f"{path} cannot be used by this release: {error!r}",
            hint="Use the release that wrote it, or bundle the runs again.",
        ) from error


def _decision(parts: dict[str, bytes]) -> Decision | None:
    if _DECISION not in parts:
        return None
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / _DECISION
        path.write_bytes(parts[_DECISION])
        return read_decision(path)


def _checked(path: Path) -> tuple[Head, dict[str, bytes]]:
    """Return what a bundle says of itself, and its parts, each as it was written and none besides."""
    existing(path, error=FormatError, what="bundle file")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if sizes.get(_HEAD, _MOST_HEAD + 1) > _MOST_HEAD:
                raise FormatError(f"{path} is not a bundle: it lacks {_HEAD}.", hint="Give a file of `cytoloc bundle`.")
            head = _head_of(archive.read(_HEAD), path)
            listed = {name: part.size_bytes for name, part in head.parts.items()}
            strange = set(sizes.items()) ^ {*listed.items(), (_HEAD, sizes[_HEAD])}
            if strange or len(archive.infolist()) != len(sizes):
                what = min((name for name, _ in strange), default="a part that is there twice")
                raise FormatError(f"{path} is damaged: {what} is not as it was written.", hint=_AGAIN)
            parts = {name: archive.read(name) for name in head.parts}
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error, LZMAError) as error:
        raise FormatError(
            f"{path} cannot be read as a bundle: {error!r}.", hint=f"Give a {SUFFIX} file of `cytoloc bundle`."
        ) from error
    for name, content in parts.items():
        if _part(content) != head.parts[name]:
            raise FormatError(f"{path} is damaged: {name} is not as it was written.", hint=_AGAIN)
    return head, parts


def _head_of(content: bytes, path: Path) -> Head:
    """Return what ``bundle.json`` says, if it is of this release and names all parts that its members need."""
    said = parse_json(content, BUNDLE_FORMAT, where=path)
    try:
        head = Head.model_validate(said)
    except (ValidationError, CytolocError) as error:
        raise FormatError(f"{path} is damaged: {_HEAD} is not as it must be.", hint=_AGAIN) from error
    needed = {
        f"members/{i}/{name}" for i in range(len(head.members)) for name in ("weights.safetensors", "recipe.toml")
    }
    if set(head.parts) - {_DECISION} != needed | {_CARD, _TRAINED_ON}:
        raise FormatError(f"{path} is damaged: {_HEAD} does not name the parts that it must.", hint=_AGAIN)
    return head


def _decision_of(runs: Sequence[Path], path: Path) -> Decision:
    """Return a decision if it is of the mean of these runs, as far as it says."""
    decision = read_decision(path)
    if len(decision.members) != 1:
        raise SettingsError(
            f"{path} is of the members {', '.join(decision.members)}; a bundle averages its runs.",
            hint="Fit the decision without --members: `cytoloc decide fit RUNS --labels … --out decision.json`.",
        )
    fitted_on = {each["sha256"] for each in decision.fitted_on.get("predictions", [])}
    if fitted_on and fitted_on != {sha256_of(run / PREDICTIONS) for run in runs}:
        raise SettingsError(
            f"{path} was fitted to other predictions than the held-out ones of these runs.",
            hint="Fit a decision to these runs: `cytoloc decide fit RUNS --labels … --out decision.json`.",
        )
    return decision


def _plain_card(name: str, runs: Sequence[dict[str, Any]], decision: Decision | None) -> str:
    """Return a card of what runs and decision say of themselves."""
    lines = [f"# {name}", "", "| network | recipe | learned from | held out |", "|---|---|---|---|"]
    for facts in runs:
        known = len(learned_from(facts))
        earlier = f", some by way of {facts['started_from']['name']}" if "started_from" in facts else ""
        source = Path(facts["dataset"]["path"]).name
        lines.append(
            f"| {facts['name']} | {facts['recipe']} | {known} fields, of {source}{earlier} | {len(facts['held_out'])} |"
        )
    if decision:
        judged, fields = (decision.fitted_on.get(key) for key in ("macro_f1_cross_fitted", "fields"))
        worth = "" if judged is None else f"; macro F1 {judged:.3f} on fields that it did not see"
        lines += ["", f"Decision: method {decision.method.name}, fitted to {fields or 'unknown'} fields{worth}."]
    return "\n".join(lines) + "\n"
