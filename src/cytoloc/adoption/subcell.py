"""Adopting SubCell: an encoder and its classifiers, from the files of the authors to a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cytoloc.adoption.adopting import Adopted, read_published, write_adopted
from cytoloc.channels import ER, MICROTUBULES, NUCLEUS, PROTEIN
from cytoloc.choices import check_type, refuse_unknown
from cytoloc.errors import SettingsError, WeightsError
from cytoloc.files import existing
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import Network
from cytoloc.models.state_files import as_state, read_checkpoint
from cytoloc.models.subcell import BACKBONE, PATCH_PX, network_of_files
from cytoloc.predict.bundle import check_bundle_path
from cytoloc.predict.bundle_header import Member, NeededCells, Origin

CHANNEL_SETS: Final = {
    "rybg": (MICROTUBULES, ER, NUCLEUS, PROTEIN),
    "rbg": (MICROTUBULES, NUCLEUS, PROTEIN),
    "ybg": (ER, NUCLEUS, PROTEIN),
    "bg": (NUCLEUS, PROTEIN),
}
"""The channels of each network, in the order of its input, by the letters of the authors: red, yellow, blue, green."""

FOLDERS: Final = {"rybg": "all_channels", "rbg": "MT-DNA-Protein", "ybg": "ER-DNA-Protein", "bg": "DNA-Protein"}
"""The names of the channel sets in the files of the authors."""

ADDRESS: Final = "https://czi-subcell-public.s3.us-west-2.amazonaws.com/models/"

CELL_PX: Final = 640
"""Edge length of the images of cells."""

PIXEL_UM: Final = 0.08
"""Pixel size of the images of cells, in micrometers."""

PUBLISHED_SHA256: Final = {
    "ER-DNA-Protein_MAE-CellS-ProtS-Pool.pth": "ed8c22b42e1b0665b2363e7a1ae56b42a8a93ac93203bb89a13b6be7ad878e51",
}
"""Known checksums of published files. It is the table of a third party; the authors publish none."""

CITATION: Final = (
    "A. Gupta et al. SubCell: vision foundation models for microscopy capture single-cell biology. bioRxiv (2024)"
)

CAUTION: Final = "This network knows masked images of single cells with 0.08 µm per pixel, not whole fields."

S3_PART_BYTES: Final = 8 * 2**20
"""Size of the parts in which the files were uploaded, which decides on their ETags."""


def adopt_subcell(
    encoder: str | Path,
    heads: Sequence[str | Path],
    out: str | Path,
    *,
    channels: str,
    sha256: str | None = None,
    etag: str | None = None,
    size: int = CELL_PX,
) -> Path:
    """Write SubCell to a bundle: the encoder, and the classifiers, whose probabilities are averaged.

    The bundle takes datasets of cells of ``cytoloc segment --size 640 --window-um 51.2``. It refuses whole fields,
    cells that are not masked, and pixel sizes that are unknown or differ from 0.08 µm by more than a quarter. Files are
    read as plain data. Code in them is never run.

    Args:
        encoder: The encoder, such as ``all_channels_MAE-CellS-ProtS-Pool.pth``.
        heads: The classifiers of this encoder, such as ``all_channels_MAE_MLP_classifier_seed_0.pth`` and nine others.
        out: The new file, which must end in ``.cytoloc``.
        channels: ``"rybg"`` (microtubules, ER, nucleus, protein), ``"rbg"``, ``"ybg"`` or ``"bg"``.
        sha256: The expected SHA-256 of the encoder.
        etag: The expected ETag of the encoder, as S3 states it: its MD5, or the MD5 of the MD5 of parts of 8 MiB.
        size: Edge length of the images of cells, in pixels.

    Returns:
        The path of the new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If ``channels`` is unknown, there are no heads, a head is given twice, the encoder and the heads
            are not of one kind, or ``size`` is not a multiple of 16.
        OutputExistsError: If ``out`` exists.
        WeightsError: If a file does not exist, is damaged, contains code, has another checksum, or is of another
            network.

    Examples:
        >>> adopt_subcell("encoder.pth", ["seed_0.pth"], "subcell.cytoloc", channels="rybg")  # doctest: +SKIP
        PosixPath('subcell.cytoloc')
    """
    for name, value, kinds in (
        ("encoder", encoder, (str, Path)),
        ("heads", heads, (list, tuple)),
        ("out", out, (str, Path)),
        ("sha256", sha256, (str, type(None))),
        ("etag", etag, (str, type(None))),
        ("size", size, int),
    ):
        check_type(value, kinds, argument=name)
    for head in heads:
        check_type(head, (str, Path), argument="heads")
    refuse_unknown(channels, CHANNEL_SETS, argument="channels")
    if not heads or len({Path(head).resolve() for head in heads}) < len(heads):
        raise SettingsError("`heads` must name one or more different classifiers.", hint="The authors publish ten.")
    if size % PATCH_PX or not 32 <= size <= 2048:
        raise SettingsError(f"`size` is {size}, which is not a multiple of {PATCH_PX}.", hint=f"Give {CELL_PX}.")
    encoder, out, classifiers = Path(encoder), Path(out), [Path(head) for head in heads]
    check_bundle_path(out)
    refuse_other_kinds(encoder.name, [head.name for head in classifiers], channels)
    digest, is_published = _checked_encoder(encoder, sha256=sha256, etag=etag)
    network, found = _network_of(encoder, classifiers, channels=channels, size=size)
    origin = Origin(
        network="subcell",
        variant=f"{channels}, {len(found)} of 10 classifiers",
        file=encoder.name,
        sha256=digest,
        is_published=is_published,
        source=ADDRESS,
        license="MIT",
        citation=CITATION,
    )
    return write_adopted(_described(network, origin, found, channels=channels, size=size), out)


def _described(
    network: Network, origin: Origin, heads: Sequence[tuple[str, str]], *, channels: str, size: int
) -> Adopted:
    """Return a network of SubCell with its description."""
    planes = CHANNEL_SETS[channels]
    member = Member(
        name=f"subcell-{channels}",
        recipe="",
        fold=None,
        dataset="",
        backbone=BACKBONE,
        head="plain",
        dropout=0.5,
        mean=[0.0] * len(planes),
        std=[1.0] * len(planes),
        each=True,
    )
    return Adopted(
        member=member,
        network=network,
        origin=origin,
        card=subcell_card(origin, planes, size, heads=heads),
        size=size,
        channels=planes,
        label_set=LabelSet.subcell31(),
        caution=CAUTION,
        datasets=("the Human Protein Atlas v23",),
        cells=NeededCells(pixel_um=PIXEL_UM * CELL_PX / size, is_masked=True),
    )


def _checked_encoder(encoder: Path, *, sha256: str | None, etag: str | None) -> tuple[str, bool]:
    """Return the SHA-256 of the encoder, and whether a checksum was compared; raise if one differs."""
    content, digest = read_published(existing(encoder, error=WeightsError, what="weights file"), sha256=sha256)
    if etag is not None and not has_etag(content, etag):
        raise WeightsError(
            f"{encoder} does not have the ETag {etag}.",
            hint="Get the file again. It is damaged, or it is another file.",
        )
    known = PUBLISHED_SHA256.get(encoder.name)
    if known is not None and known != digest:
        raise WeightsError(
            f"{encoder} has the SHA-256 {digest}, but the published file of this name has {known}.",
            hint="Get the file again. It is damaged, or it is another file.",
        )
    return digest, known is not None or etag is not None or sha256 is not None


def _network_of(
    encoder: Path, heads: Sequence[Path], *, channels: str, size: int
) -> tuple[Network, list[tuple[str, str]]]:
    """Return the network, and the name and SHA-256 of each classifier file; raise if the files are of another one."""
    states, found = [], []
    for head in heads:
        digest = read_published(existing(head, error=WeightsError, what="weights file"), sha256=None)[1]
        found.append((head.name, digest))
        states.append(as_state(read_checkpoint(head, hint="Check the path."), head))
    state = as_state(read_checkpoint(encoder, hint="Check the path."), encoder)
    network = network_of_files(state, states, size=size, called=str(encoder))
    have = network.state_dict()["backbone.body.patch_embed.proj.weight"].shape[1]
    if have != len(CHANNEL_SETS[channels]):
        raise WeightsError(
            f"{encoder} takes {have} channels, but {channels} has {len(CHANNEL_SETS[channels])}.",
            hint="Check `channels`.",
        )
    made, wanted = states[0]["6.weight"].shape[0], len(LabelSet.subcell31())
    if made != wanted:
        raise WeightsError(
            f"The classifiers have {made} locations, but SubCell has {wanted}.", hint="Give files of SubCell."
        )
    return network, found


def refuse_other_kinds(encoder: str, heads: Sequence[str], channels: str) -> None:
    """Raise if file names say that an encoder and classifiers do not belong together.

    Args:
        encoder: The name of the encoder file.
        heads: The names of the classifier files.
        channels: The channel set.

    Raises:
        SettingsError: If a name states another channel set, or an encoder of another kind (MAE or ViT).
    """
    kinds = {kind for name in (encoder, *heads) for kind in ("MAE", "ViT") if f"_{kind}" in name}
    if len(kinds) > 1:
        raise SettingsError(
            f"{encoder} and the classifiers are of different encoders, MAE and ViT.",
            hint="Give the classifiers of the same encoder. Others give wrong probabilities without an error.",
        )
    for name in (encoder, *heads):
        # all_channels comes first, because DNA-Protein is a part of the names of others.
        stated = [key for key, folder in FOLDERS.items() if name.startswith(f"{folder}_")]
        if stated and channels not in stated:
            raise SettingsError(f"{name} is of the channels {stated[0]}, not {channels}.", hint="Check `channels`.")


def has_etag(content: bytes, etag: str) -> bool:
    """Return whether a file has an ETag of S3.

    Args:
        content: The content of the file.
        etag: The ETag, with or without quotes: an MD5, or for an upload in parts ``MD5-COUNT``.

    Returns:
        Whether it agrees.

    Examples:
        >>> has_etag(b"", '"d41d8cd98f00b204e9800998ecf8427e"')
        True
    """
    wanted = etag.strip().strip('"').lower()

    def md5(data: bytes) -> Any:
        return hashlib.md5(data, usedforsecurity=False)

    if "-" not in wanted:
        return str(md5(content).hexdigest()) == wanted
    parts = [md5(content[start : start + S3_PART_BYTES]).digest() for start in range(0, len(content), S3_PART_BYTES)]
    return f"{md5(b''.join(parts)).hexdigest()}-{len(parts)}" == wanted


def subcell_card(origin: Origin, channels: Sequence[str], size: int, *, heads: Sequence[tuple[str, str]]) -> str:
    """Return the model card in Markdown.

    Args:
        origin: The encoder file.
        channels: The channels.
        size: Edge length of the images, in pixels.
        heads: The name and SHA-256 of each classifier file.

    Returns:
        The card.
    """
    checked = (
        "Its checksum is as expected."
        if origin.is_published
        else "It cannot be checked whether this is the published file, because its authors publish no checksums."
    )
    lines = [
        "# SubCell",
        "",
        f"A vision transformer for images of single cells ({origin.variant}). It was not trained by cytoloc.",
        "",
        f"- **Source**: <{origin.source}>",
        f"- **Encoder**: `{origin.file}`, SHA-256 `{origin.sha256}`. {checked}",
        *(f"- **Classifier**: `{name}`, SHA-256 `{digest}`" for name, digest in heads),
        f"- **License**: {origin.license}",
        f"- **Citation**: {origin.citation}.",
        f"- **Input**: {', '.join(channels)}, in this order: a square of {size} px around the middle of the bounding"
        " rectangle of a cell, 0.08 µm per pixel, not scaled. Pixels outside the cell, dilated by 3 px, are black. The"
        " image is scaled to 0 to 1 by the minimum and maximum of all channels together.",
        "- **Output**: 31 locations (subcell31). Probabilities are sigmoids, averaged over the classifiers. The"
        " classifiers were trained by a focal loss, so probabilities are not calibrated and 0.5 is not a threshold: fit"
        " a decision to labeled cells or fields of your own with `cytoloc decide fit`. The labels of training cells"
        " were those of their fields, so the probabilities of a cell lean to those of its field.",
        "- **Trained on**: cells of the Human Protein Atlas. Metrics on its fields are too high.",
        "",
        "What the authors do not state:",
        "",
        "- The encoder was trained on squares of 896 px that were halved to 448 px (0.16 µm per pixel), with scales of"
        " 80 to 120 %. The classifiers were trained on features of squares of 640 px that were not scaled. This bundle"
        " does the latter.",
        "- Whether the cells were masked when the classifiers were trained is not stated. The name of the folder, the"
        " default of the cropping function, and the validation say that they were. This bundle takes masked cells.",
        "- The authors' cropping loses the last row and column of a field. Here they are kept, so cells at the right"
        " and bottom border can differ slightly.",
        "- A later version of the authors' script for prediction scales each channel by itself and applies a softmax to"
        " the probabilities. Both differ from training, and are not done here.",
    ]
    return "\n".join(lines) + "\n"
