"""What would come: fields with their labels, and the files of their channels."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cytoloc.channels import HPA_COLORS
from cytoloc.hpa.address import host_of, is_of_the_atlas
from cytoloc.hpa.catalog import Field, Gene
from cytoloc.hpa.selection import Selection, Wanted, select
from cytoloc.hpa.site import Failed, Remote, Site
from cytoloc.hpa.store import Store

COLORS: Final = tuple(HPA_COLORS.values())

SAMPLE: Final = 24
"""Images whose size is asked for to guess that of all."""

_COLORS_IN_NAME: Final = re.compile(r"(?:_(?:red|green|blue|yellow))+\.jpg$")
_COLUMNS: Final = (
    "id", "gene", "ensembl", "antibody", "cell_line", "plate", "well", "field", "reliability", "locations", "go_ids",
    "url",
)  # fmt: skip


class GeneRow(NamedTuple):
    """A gene that was looked up.

    Attributes:
        ensembl: Its id.
        gene: Its name.
        release: Of the Atlas.
        fields: How many the catalog has of it; none for many genes.
        taken: How many of them are wanted.
    """

    ensembl: str
    gene: str
    release: str
    fields: int
    taken: int


@dataclass(frozen=True)
class Plan:
    """What there is, and what is wanted of it.

    Attributes:
        selection: The fields.
        genes: Those that were looked up.
        images: The files of the fields.
        failed: Genes that could not be had, and why.
    """

    selection: Selection
    genes: list[GeneRow]
    images: list[Remote]
    failed: list[Failed]


class Guess(NamedTuple):
    """How large images are: the mean in bytes of a sample, and how many it is."""

    mean_bytes: float
    sample: int


def make_plan(
    genes: Iterable[Gene], wanted: Wanted, *, colors: Sequence[str], site: Site, failed: list[Failed]
) -> Plan:
    """Return which fields, and which files, are wanted of the genes."""
    seen: list[tuple[str, str, str, int]] = []

    def at_the_site() -> Iterator[Gene]:
        """Yield the genes, each with its addresses at the site, and note what it has."""
        for gene in genes:
            seen.append((gene.ensembl, gene.name, gene.release, len(gene.fields)))
            if not site.moved:
                ours = [each for each in gene.fields if is_of_the_atlas(host_of(each.url))]
                if len(ours) < len(gene.fields):
                    gene.passed_over["at another host than the Atlas's"] += len(gene.fields) - len(ours)
                    gene.fields = ours
            yield gene

    selection = select(at_the_site(), wanted)
    taken: dict[str, int] = {}
    for each in selection.fields:
        for name in each.ensembl.split(";"):
            taken[name] = taken.get(name, 0) + 1
    rows = [GeneRow(*row, taken.get(row[0], 0)) for row in seen]
    images = [_image(each, color, site) for each in selection.fields for color in colors]
    return Plan(selection, rows, images, failed)


def lacking(store: Store, images: Sequence[Remote]) -> list[Remote]:
    """Return the images that are not here yet."""
    known = store.manifest()
    return [each for each in images if each.file not in known or not store.is_here(known[each.file], verify=False)]


def guess_size(site: Site, images: Sequence[Remote]) -> Guess | None:
    """Return how large the images are, by a sample spread over them; None if the site does not say."""
    sample = images[:: max(1, -(-len(images) // SAMPLE))]

    async def ask() -> list[int | None]:
        async with site.downloader() as downloader:
            return [await downloader.size_bytes(each.url) for each in sample]

    sizes = [size for size in asyncio.run(ask()) if size is not None] if sample else []
    return Guess(sum(sizes) / len(sizes), len(sizes)) if sizes else None


def write_tables(store: Store, plan: Plan) -> None:
    """Write the fields, their labels, the genes, and the names that are not known."""
    selection = plan.selection
    labeled = ((name, selection.label_set.format(ids)) for name, ids in selection.labels.items() if ids)
    store.write_table("labels.csv", ("Id", "Target"), labeled)
    store.write_table("fields.csv", _COLUMNS, (_row(each) for each in selection.fields))
    store.write_table("unknown_names.csv", ("name", "fields"), selection.unknown.most_common())
    store.write_table("genes.csv", GeneRow._fields, plan.genes)


def _image(each: Field, color: str, site: Site) -> Remote:
    url = _COLORS_IN_NAME.sub(f"_{color}.jpg", each.url)
    if site.moved:
        url = f"{site.base}/{url.partition('://')[2].partition('/')[2]}"
    return Remote(f"images/{each.folder}/{each.id.partition('_')[2]}_{color}.jpg", url, each.release)


def _row(each: Field) -> list[str]:
    return [";".join(value) if isinstance(value := getattr(each, name), tuple) else value for name in _COLUMNS]
