"""The command ``cytoloc explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cytoloc.choices import MapMethod
from cytoloc.cli.console import counted, note, progress, require_nets
from cytoloc.cli.predict import Absent, DeviceName, Inputs, ModelPath
from cytoloc.memory import keep_freed_memory

FieldIds = Annotated[
    list[str] | None,
    typer.Option("--id", help="Id of a field to explain. Can be repeated. Default: all fields.", metavar="ID"),
]
Locations = Annotated[
    list[str] | None,
    typer.Option(
        help="Location to explain, by key or name. Can be repeated. Default: the locations that the model predicts"
        " in each field.",
        metavar="LOCATION",
    ),
]
MethodOption = Annotated[
    MapMethod,
    typer.Option(
        help="How maps are computed. layercam shows small structures, gradcam is coarser. attention shows the"
        " attention of a network with an attention head."
    ),
]
Views = Annotated[
    Literal["1", "2", "4", "8"],
    typer.Option(help="Number of test-time augmentation views over which maps are averaged."),
]
Reference = Annotated[
    str | None,
    typer.Option(help="Labeled dataset. The five nearest fields of each field are shown and listed."),
]
MapFiles = Annotated[
    Literal["npy", "tiff", "zarr"] | None,
    typer.Option(help="Also write the maps of each field as float16 in this format."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("explain")(explain)


def explain(
    model: ModelPath,
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="New folder for panels and tables.")],
    ids: FieldIds = None,
    location: Locations = None,
    method: MethodOption = "layercam",
    tta: Views = "1",
    neighbors: Reference = None,
    maps: MapFiles = None,
    absent: Absent = None,
    batch_size: Annotated[int, typer.Option(help="Number of fields per batch.", min=1)] = 8,
    device: DeviceName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table of channel effects as JSON.")] = False,
) -> None:
    """Show which parts of an image, which channels, and which labeled fields a prediction depends on.

    The folder gets a panel for each field, and the tables channel_effects and neighbors.

    Example: `cytoloc explain builtin plate.dataset --out explanations`

    Example: `cytoloc explain model.cytoloc plate.dataset --out explanations --id A01_1 --location Nucleoli --neighbors
    train.dataset`
    """
    require_nets()
    keep_freed_memory()
    import numpy as np

    from cytoloc.choices import near
    from cytoloc.dataset.store import open_dataset
    from cytoloc.errors import SettingsError, UnknownIdError
    from cytoloc.explain.maps import ExplainOptions
    from cytoloc.files import refuse_existing
    from cytoloc.predict.loading import load
    from cytoloc.predict.planes import parse_substitutes
    from cytoloc.predict.sources import DatasetSource, open_sources
    from cytoloc.report.explanations import write_explanations

    refuse_existing(out)
    sources = open_sources(inputs)
    if ids:
        known = {name for source in sources for name in source.ids}
        for name in ids:
            if name not in known:
                raise UnknownIdError(f"There is no field {name!r}.", hint=near(name, sorted(known)[:1000]))
        if not all(isinstance(source, DatasetSource) for source in sources):
            raise SettingsError("--id needs datasets as input.", hint="Import the images first, or leave out --id.")
        sources = [
            DatasetSource(each.dataset, np.array([each.dataset.row(name) for name in ids if name in each.dataset]))
            for each in sources
            if isinstance(each, DatasetSource) and any(name in each.dataset for name in ids)
        ]
    options = ExplainOptions(
        locations=location,
        method=method,
        tta=int(tta),
        absent=parse_substitutes(absent) if absent else None,
        batch_size=batch_size,
    )
    reference = open_dataset(neighbors) if neighbors else None
    loaded = load(model, device=device)
    with progress("Explaining fields") as advance:
        table = write_explanations(
            loaded, sources, out=out, options=options, neighbors=reference, maps=maps, progress=advance
        )
    if loaded.info.caution:
        note(loaded.info.caution)
    if (out / "failed.csv").exists():
        note(f"Some fields could not be read. They are listed in {out / 'failed.csv'}.")
    if as_json:
        typer.echo(json.dumps(table.to_dicts(), indent=2))
        return
    written = "panels, channel_effects.csv and channel_effects.parquet"
    written += ", neighbors.csv" * bool(neighbors) + f", maps as .{maps}" * bool(maps)
    typer.echo(f"{out}: {counted(table['id'].n_unique(), 'field')}: {written}.")
