"""Adopting a published network: from the file of its authors to a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from cytoloc.adoption.card import adopted_card
from cytoloc.adoption.published import PUBLISHED, Published, in_words, named_variant
from cytoloc.choices import Resample, check_type, refuse_unknown
from cytoloc.errors import SettingsError, WeightsError, first_line
from cytoloc.files import existing
from cytoloc.labels.label_set import LabelSet, find_label_set
from cytoloc.models.network import ModelSpec, Network, build_network
from cytoloc.models.state_files import as_state, read_checkpoint, refuse_other_tensors
from cytoloc.predict.bundle import check_bundle_path, write_archive
from cytoloc.predict.bundle_header import (
    BUNDLE_FORMAT,
    CARD,
    TRAINED_ON,
    WEIGHTS,
    Header,
    Member,
    NeededCells,
    Origin,
    Part,
)


def adopt(
    network: str,
    file: str | Path,
    out: str | Path,
    *,
    variant: str | None = None,
    sha256: str | None = None,
) -> Path:
    """Write a published network of others to a bundle, with the preprocessing and the label set of its authors.

    The file is read as plain data. Code in it is never run.

    Args:
        network: ``"densenet121"`` (first place of 2018) or ``"inceptionv3-cbam"`` (first place of 2021).
        file: The weights, a file of ``torch.save`` as the authors published it.
        out: The new file, which must end in ``.cytoloc``.
        variant: ``"plain"`` (512 px) or ``"large"`` (1024 px) of ``"densenet121"``. Both have the same tensors, so the
            weights do not say which one it is. Default: the variant in the name of the file. If ``variant`` is
            another one, every prediction has a caution.
        sha256: The expected SHA-256 of the file.

    Returns:
        The path of the new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If the network or the variant is unknown, or ``out`` does not end in ``.cytoloc``.
        OutputExistsError: If ``out`` exists.
        WeightsError: If the file does not exist, is damaged, contains code, has another checksum, or has weights of
            another network.

    Examples:
        >>> adopt("densenet121", "bestfitting_default_model.pth", "d121.cytoloc", variant="large")  # doctest: +SKIP
        PosixPath('d121.cytoloc')
    """
    for name, value, kinds in (
        ("network", network, str),
        ("file", file, (str, Path)),
        ("out", out, (str, Path)),
        ("variant", variant, (str, type(None))),
        ("sha256", sha256, (str, type(None))),
    ):
        check_type(value, kinds, argument=name)
    refuse_unknown(network, PUBLISHED, argument="network")
    published, file, out = PUBLISHED[network], Path(file), Path(out)
    check_bundle_path(out)
    existing(file, error=WeightsError, what="weights file")
    if variant is not None and list(published.specs) == [""]:
        raise SettingsError(f"{published.name} has no variants, but `variant` is {variant!r}.", hint="Remove it.")
    if variant is not None:
        refuse_unknown(variant, published.specs, argument="variant")
    chosen = named_variant(published, file.name) if variant is None else variant
    if chosen is None:
        words = in_words(f"{name} ({spec.size} px)" for name, spec in published.specs.items())
        raise SettingsError(
            f"{file.name} does not say which variant of {published.name} it is, and the weights fit all of them.",
            hint=f"Give `variant`: {words}.",
        )
    origin = _origin(published, file, chosen, expected=sha256)
    spec = published.specs[chosen]
    return _write(published, spec, origin, load_published(published, spec, file), out)


def load_published(published: Published, spec: ModelSpec, file: Path) -> Network:
    """Return a published network with its weights.

    Args:
        published: The network.
        spec: The specification of its variant.
        file: The file of its authors: a state dict, or a dict with the key ``state_dict``.

    Returns:
        The network.

    Raises:
        WeightsError: If the file is damaged, contains code, or has weights of another network.
    """
    content = read_checkpoint(file, hint="Check the path.")
    nested = content.get("state_dict", content) if isinstance(content, dict) else content
    state = {name: each for name, each in as_state(nested, file).items() if not name.startswith(published.ignored)}
    network = build_network(spec)
    own = network.state_dict()
    # The name in the file of each tensor of the network, except those of the normalization.
    names = {}
    for name in own:
        prefix = max((each for each in published.names if name.startswith(each)), key=len, default=None)
        if prefix is not None:
            names[name] = published.names[prefix] + name.removeprefix(prefix)
    refuse_other_tensors(state, {there: own[here] for here, there in names.items()}, path=file, what=published.name)
    damaged = next((name for name, value in state.items() if not torch.isfinite(value).all()), None)
    if damaged:
        raise WeightsError(
            f"{file} is damaged: the tensor {damaged} has values that are not finite.",
            hint="Get the file again from its source.",
        )
    network.load_state_dict({**own, **{here: state[there] for here, there in names.items()}})
    return network.eval()


def read_published(file: Path, *, sha256: str | None) -> tuple[bytes, str]:
    """Read a published file and check it.

    Args:
        file: The file.
        sha256: The checksum that the user expects. None: any.

    Returns:
        The content and its SHA-256.

    Raises:
        WeightsError: If the file cannot be read, or has another checksum.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {first_line(error)}.", hint="Check the path.") from error
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256.strip().lower():
        raise WeightsError(
            f"{file} has the SHA-256 {found}, but `sha256` is {sha256}.",
            hint="Get the file again from its source. It is damaged, or it is another file.",
        )
    return content, found


def _origin(published: Published, file: Path, variant: str, *, expected: str | None) -> Origin:
    """Return where the weights come from; raise if the file has another checksum than the user expects."""
    content, found = read_published(file, sha256=expected)
    # The source that has the content or the name of the file; the first source if none has.
    blob = git_blob_id(content)
    by_content = [each for each in published.sources if each.git_blob == blob]
    by_name = [each for each in published.sources if each.address.endswith(f"/{file.name}")]
    source = (by_content or by_name or list(published.sources))[0]
    return Origin(
        network=published.name,
        variant=variant,
        file=file.name,
        sha256=found,
        is_published=bool(by_content),
        source=source.address,
        license=published.license,
        citation=published.citation,
    )


def _doubt(published: Published, origin: Origin) -> str:
    """Return a caution if the name of the file indicates another variant than the stated one; empty otherwise."""
    named = named_variant(published, origin.file)
    if named in (None, origin.variant):
        return ""
    return f"The name of {origin.file} indicates the variant {named}, but it was adopted as {origin.variant}."


def git_blob_id(content: bytes) -> str:
    """Return the id that git gives to a file with this content.

    >>> git_blob_id(b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _write(published: Published, spec: ModelSpec, origin: Origin, network: Network, out: Path) -> Path:
    """Write a published network to a bundle."""
    member = Member(
        name="-".join(filter(None, (published.name, origin.variant))),
        recipe="",
        fold=None,
        dataset="",
        backbone=spec.backbone,
        head=spec.head,
        dropout=spec.dropout,
        mean=list(spec.mean),
        std=list(spec.std),
        each=spec.each,
        units=spec.units,
        variant=spec.variant,
    )
    adopted = Adopted(
        member=member,
        network=network,
        origin=origin,
        card=adopted_card(published, spec, origin),
        size=spec.size,
        channels=spec.channels,
        label_set=find_label_set(published.label_set),
        caution=" ".join(filter(None, (published.caution, _doubt(published, origin)))),
        datasets=published.datasets,
        # The authors scale by bilinear interpolation in two steps, which is near to area means.
        resample="area",
    )
    return write_adopted(adopted, out)


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A network that others trained, as a bundle describes it.

    Attributes:
        member: The description of the network.
        network: The network.
        origin: The file that it comes from.
        card: The model card in Markdown.
        size: Edge length of the images, in pixels.
        channels: The names of the channels.
        label_set: The locations.
        caution: A caution that is shown with every prediction.
        datasets: The public datasets that the network was trained on as a whole.
        resample: How images were scaled down for training; None if it is unknown.
        cells: The images of single cells that the network needs; None if it takes any images.
    """

    member: Member
    network: Network
    origin: Origin
    card: str
    size: int
    channels: Sequence[str]
    label_set: LabelSet
    caution: str = ""
    datasets: Sequence[str] = ()
    resample: Resample | None = None
    cells: NeededCells | None = None


def write_adopted(adopted: Adopted, out: Path) -> Path:
    """Write an adopted network to a new bundle, and return its path."""
    state = {name: value.contiguous() for name, value in adopted.network.state_dict().items()}
    weights = safetensors.torch.save(state)
    parts = {CARD: adopted.card.encode(), f"members/0/{WEIGHTS}": weights, TRAINED_ON: b""}
    header = Header(
        **BUNDLE_FORMAT.header,
        members=[adopted.member],
        field_px=adopted.size,
        tta=1,
        caution=adopted.caution,
        channels=list(adopted.channels),
        label_set=adopted.label_set.to_json(),
        knowledge={},
        parts={name: Part.of(content) for name, content in parts.items()},
        origin=adopted.origin,
        trained_on_datasets=list(adopted.datasets),
        resample=adopted.resample,
        cells=adopted.cells,
    )
    write_archive(out, header, parts)
    return out
