"""The command ``cytoloc embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoloc.cli.console import counted, note, progress, require_nets
from cytoloc.cli.predict import DeviceName, ModelPath
from cytoloc.memory import keep_freed_memory


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("embed")(embed)


def embed(
    model: ModelPath,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Datasets, or folders of image files, as for `cytoloc predict`.", metavar="INPUT…"),
    ],
    out: Annotated[
        Path,
        typer.Option(help="New file of features: .parquet, or .h5ad for AnnData and scanpy."),
    ],
    neighbors: Annotated[
        Path | None,
        typer.Option(help="New CSV file of the nearest fields of --reference, with their distances."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Features of reference fields, from an earlier `cytoloc embed` with the same model. Default: the"
            " fields themselves."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of neighbors.", min=1)] = 5,
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="New map of the fields by UMAP: .html with thumbnails, or .png."),
    ] = None,
    color: Annotated[
        str, typer.Option(help="Color of the map: location, or a column of the dataset such as gene or plate.")
    ] = "location",
    batch_size: Annotated[int, typer.Option(help="Number of fields per batch.", min=1)] = 16,
    device: DeviceName = None,
) -> None:
    """Compute the features of fields, find the nearest fields, and draw a map.

    Example: `cytoloc embed builtin train.dataset --out train-features.parquet --map map.html`

    Example: `cytoloc embed builtin new.dataset --out new.parquet --reference train-features.parquet --neighbors
    neighbors.csv`
    """
    require_nets()
    keep_freed_memory()
    import polars as pl

    from cytoloc.embed.embeddings import check_embeddings_path, embed_sources, read_embeddings, write_embeddings
    from cytoloc.embed.map import color_groups, map_positions, write_map
    from cytoloc.embed.neighbors import find_neighbors
    from cytoloc.errors import SettingsError
    from cytoloc.files import check_outputs, new_file
    from cytoloc.predict.loading import load
    from cytoloc.predict.sources import DatasetSource, open_sources

    check_embeddings_path(out)
    check_outputs(*[each for each in (out, neighbors, map_file) if each])
    sources = open_sources(inputs)
    datasets = [source.dataset for source in sources if isinstance(source, DatasetSource)]
    if map_file and not len(datasets) == len(sources) == 1:
        raise SettingsError("--map needs exactly one dataset as input.", hint="Give one dataset, or leave out --map.")
    known = read_embeddings(reference) if reference else None
    with progress("Computing features") as advance:
        found = embed_sources(load(model, device=device), sources, batch_size=batch_size, progress=advance)
    described = pl.concat([each.fields for each in datasets], how="diagonal_relaxed") if datasets else None
    write_embeddings(found, out, fields=described if len(datasets) == len(sources) else None)
    typer.echo(f"{out}: {found.features.shape[1]} features of {counted(len(found), 'field')}.")
    if "failed" in found.provenance:
        note(f"{counted(len(found.provenance['failed']), 'field')} could not be read.")
    if neighbors:
        nearest = find_neighbors(found, known or found, k=k)
        with new_file(neighbors) as temporary:
            nearest.to_polars().write_csv(temporary, float_precision=4)
        typer.echo(f"{neighbors}: the {counted(k, 'nearest field', 'nearest fields')} of each field.")
    if map_file:
        groups = color_groups(datasets[0], found.ids, by=color)
        write_map(map_positions(found), found.ids, map_file, groups=groups, dataset=datasets[0])
        typer.echo(f"{map_file}: map of {counted(len(found), 'field')}, colored by {color}.")
    elif not neighbors:
        typer.echo(f"Next: find the nearest fields with --neighbors, draw a map with --map, or open {out} in Python.")
