"""The commands ``cytoloc adopt`` and ``cytoloc models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.cli.console import note, require_nets

File = Annotated[Path, typer.Argument(help="File of the authors (.pth), which you downloaded.", metavar="FILE")]
Out = Annotated[Path, typer.Option(help="New bundle file (.cytoloc).")]
Checksum = Annotated[
    str | None,
    typer.Option("--sha256", help="Expected SHA-256 of the file. The command fails if the file has another one."),
]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Also compare the predictions of the bundle with predictions that the authors published. Downloads"
        " their example images.",
    ),
]
Examples = Annotated[
    str | None,
    typer.Option(help="With --check: address of the folder of the example images. Default: the authors' folder."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    adopting = typer.Typer(
        help="Adopt a published network of others as a bundle, with the preprocessing of its authors.\n\nExample:"
        " `cytoloc adopt densenet121 FILE.pth --variant large --out model.cytoloc`",
        no_args_is_help=True,
    )
    adopting.command("densenet121")(densenet121)
    adopting.command("inceptionv3-cbam")(inceptionv3_cbam)
    adopting.command("subcell")(subcell)
    adopting.command("onnx")(onnx)
    app.add_typer(adopting, name="adopt")
    app.command("models")(models)


def densenet121(
    file: File,
    out: Out,
    variant: Annotated[
        Literal["plain", "large"] | None,
        typer.Option(
            help="Variant: plain for 512 px or large for 1024 px, which the authors' own script uses. The weights fit"
            " both. Default: the variant in the name of the file."
        ),
    ] = None,
    sha256: Checksum = None,
    check: Check = False,
    examples: Examples = None,
) -> None:
    """Adopt the DenseNet121 of the first place of 2018: 28 locations of whole fields.

    Example: `cytoloc adopt densenet121 bestfitting_default_model.pth --variant large --out densenet121.cytoloc`
    """
    _refuse_examples_alone(check=check, examples=examples)
    _adopt("densenet121", file, out, variant=variant, sha256=sha256)
    _check("densenet121", out, check=check, examples=examples)


def inceptionv3_cbam(
    file: File, out: Out, sha256: Checksum = None, check: Check = False, examples: Examples = None
) -> None:
    """Adopt the InceptionV3 with attention of the first place of 2021: 19 locations of single cells.

    Example: `cytoloc adopt inceptionv3-cbam 12.00_ema.pth --out inceptionv3.cytoloc`
    """
    _refuse_examples_alone(check=check, examples=examples)
    _adopt("inceptionv3-cbam", file, out, sha256=sha256)
    _check("inceptionv3-cbam", out, check=check, examples=examples)


def subcell(
    encoder: Annotated[
        Path,
        typer.Option(help="Encoder, such as all_channels_MAE-CellS-ProtS-Pool.pth, which you downloaded."),
    ],
    heads: Annotated[
        list[Path],
        typer.Option(help="Classifier of this encoder, or a folder of classifiers. Can be repeated; there are ten."),
    ],
    channels: Annotated[
        Literal["rybg", "rbg", "ybg", "bg"],
        typer.Option(
            help="Channels: rybg for microtubules, ER, nucleus and protein; rbg without ER; ybg without microtubules;"
            " bg for nucleus and protein."
        ),
    ],
    out: Out,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", help="Expected SHA-256 of the encoder. The command fails if it has another one."),
    ] = None,
    etag: Annotated[str | None, typer.Option(help="Expected ETag of the encoder, as S3 states it.")] = None,
    size: Annotated[int, typer.Option(help="Edge length of the images of cells, in pixels.", min=32)] = 640,
) -> None:
    """Adopt SubCell: 31 locations of single cells, and features for `cytoloc embed`.

    Example: `cytoloc adopt subcell --channels rybg --encoder all_channels_MAE-CellS-ProtS-Pool.pth --heads classifiers
    --out subcell.cytoloc`
    """
    require_nets()
    from cytoloc.adoption.subcell import adopt_subcell
    from cytoloc.errors import WeightsError

    files: list[Path] = []
    for head in heads:
        inside = sorted(head.glob("*.pth")) if head.is_dir() else [head]
        if not inside:
            raise WeightsError(f"The folder {head} has no .pth files.", hint="Give the folder of the classifiers.")
        files += inside
    adopt_subcell(encoder, files, out, channels=channels, sha256=sha256, etag=etag, size=size)
    _print_adopted(out)


def onnx(
    file: Annotated[Path, typer.Argument(help="ONNX file of the authors, which you downloaded.", metavar="FILE")],
    out: Out,
    label_set: Annotated[
        str,
        typer.Option(
            help="Label set of the network, in the order of its outputs: hpa28, hpa19, subcell31, or a .csv or"
            " .toml file.",
            metavar="NAME|FILE",
        ),
    ],
    size: Annotated[int, typer.Option(help="Edge length of the images that the network takes, in pixels.", min=1)],
    channels: Annotated[
        str, typer.Option(help="Names of the channels in the order that the network expects, separated by commas.")
    ] = "microtubules,protein,nucleus,er",
    license: Annotated[str, typer.Option(help="License of the file, for the model card.")] = "not stated",  # noqa: A002
    source: Annotated[str, typer.Option(help="Address of the file, for the model card.")] = "not stated",
    trained_on: Annotated[
        list[str] | None,
        typer.Option(
            "--trained-on",
            help="Public dataset that the network was trained on as a whole. Can be repeated. Default: not known.",
            metavar="NAME",
        ),
    ] = None,
    caution: Annotated[str, typer.Option(help="Warning that is shown with every prediction. Default: none.")] = "",
    sha256: Checksum = None,
    check: Annotated[
        Literal["densenet121", "inceptionv3-cbam"] | None,
        typer.Option(
            help="Name of the published network, to also compare its predictions with those that its authors"
            " published. Downloads their example images."
        ),
    ] = None,
    examples: Examples = None,
) -> None:
    """Adopt a classifier that others published as ONNX, such as the single-cell network of the first place of 2021.

    The network must take pixels divided by 255. Its last operation shows whether it gives logits or probabilities.

    Example: `cytoloc adopt onnx bestfitting-inceptionv3-single-cell.onnx --label-set hpa19 --size 128 --license MIT
    --out inceptionv3.cytoloc`
    """
    _refuse_examples_alone(check=check is not None, examples=examples)
    require_nets()
    from cytoloc.adoption.graphs import OnnxFacts, adopt_onnx

    planes = [name.strip() for name in channels.split(",")]
    adopt_onnx(
        file,
        out,
        label_set=label_set,
        size=size,
        channels=planes,
        facts=OnnxFacts(license=license, source=source, trained_on=trained_on or (), caution=caution, sha256=sha256),
    )
    _print_adopted(out)
    _check(check or "", out, check=check is not None, examples=examples)


def _adopt(network: str, file: Path, out: Path, *, variant: str | None = None, sha256: str | None = None) -> None:
    """Adopt a network, and print what it is."""
    require_nets()
    from cytoloc.adoption.adopting import adopt

    adopt(network, file, out, variant=variant, sha256=sha256)
    _print_adopted(out)


def _refuse_examples_alone(*, check: bool, examples: str | None) -> None:
    """Raise if the address of examples is given, but nothing is compared with them."""
    from cytoloc.errors import SettingsError

    if examples is not None and not check:
        raise SettingsError("--examples needs --check.", hint="Give both, or remove --examples.")


def _check(network: str, out: Path, *, check: bool, examples: str | None) -> None:
    """Compare the answers of an adopted network with the published ones, and print both."""
    if not check:
        return
    from cytoloc.adoption.checking import check_adopted, refuse_other_answers

    answers = check_adopted(out, network, address=examples)
    for answer in answers:
        sign = "=" if answer.agrees else "!="
        typer.echo(f"{answer.example}: published {answer.published} {sign} {answer.found} of {out}")
    refuse_other_answers(answers, out)


def _print_adopted(out: Path) -> None:
    """Print what an adopted bundle is, and what to do next."""
    from cytoloc.predict.bundle import open_bundle

    header = open_bundle(out).header
    origin = header.origin
    if origin is not None:
        name = " ".join(filter(None, (origin.network, origin.variant)))
        typer.echo(
            f"{out}: {name}, {header.field_px} px, {len(header.label_set['locations'])} locations, license"
            f" {origin.license}, {out.stat().st_size / 1e6:.1f} MB."
        )
        typer.echo(f"SHA-256 of {origin.file}: {origin.sha256}")
        if header.caution:
            note(header.caution)
        if not origin.is_published and origin.network != "onnx":
            note("The file was not recognized as a published one. Compare its SHA-256 with that of its source.")
    if header.cells is not None:
        size = header.field_px
        typer.echo(
            f"Next: cytoloc segment INPUT --size {size} --window-um {size * header.cells.pixel_um:g} --out cells, then"
            f" cytoloc predict {out}"
            " cells --out predictions.parquet"
        )
        return
    typer.echo(f"Next: cytoloc info {out}, then cytoloc predict {out} INPUT --out predictions.parquet")


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List the published networks that can be adopted: what they predict, their sizes, licenses and addresses.

    Example: `cytoloc models`
    """
    require_nets()
    from cytoloc.adoption.listing import published_models

    found = published_models()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for each in found:
        typer.echo(f"{each['name']}: {each['title']}")
        typer.echo(f"  gives     {each['gives']}")
        size = "" if each["megabytes"] is None else f"about {each['megabytes']} MB, "
        typer.echo(f"  weights   {size}license {each['license']}")
        for address in each["addresses"]:
            typer.echo(f"  address   {address}")
        typer.echo(f"  cite      {each['citation']}")
        typer.echo(f"  command   {each['command']}")
