"""Fetching fields of the Human Protein Atlas: gene look-up, plan, images and labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from cytoloc.channels import HPA_COLORS
from cytoloc.choices import check_type
from cytoloc.errors import ArgumentTypeError, FetchError, FormatError, ImageError, SettingsError
from cytoloc.files import existing
from cytoloc.hpa.catalog import (
    RELIABILITIES,
    FieldSelection,
    Gene,
    SelectionOptions,
    read_catalog,
    select_fields,
)
from cytoloc.hpa.genes import GeneList, catalog_origin, ensembl_ids, fetch_genes, gene_list, genes_in, read_genes
from cytoloc.hpa.site import (
    RELEASE_18,
    FailedFile,
    Received,
    RemoteFile,
    Site,
    SiteOptions,
    host_of,
    is_of_the_atlas,
)
from cytoloc.hpa.store import FetchedFile, FetchFolder
from cytoloc.images.codecs import read_jpeg
from cytoloc.labels.label_set import LabelSet

LICENSES: Final = {"15": "CC BY-NC-ND 4.0", "18": "CC BY-SA 3.0"}
"""Licenses by release. The page /about/license of the site states the license of each release."""

STAIN_COLORS: Final = tuple(HPA_COLORS.values())

SIZE_SAMPLE: Final = 24
"""Number of images whose sizes are requested to estimate the total size."""

_COLORS_IN_NAME: Final = re.compile(r"(?:_(?:red|green|blue|yellow))+\.jpg$")
_FIELD_COLUMNS: Final = (
    "id", "gene", "ensembl", "antibody", "cell_line", "plate", "well", "field", "reliability", "locations", "go_ids",
    "url",
)  # fmt: skip

ProgressBars = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""A function of a description; returns a context manager of a function that is called with (done, total)."""


@dataclass(frozen=True, kw_only=True)
class FetchOptions(SiteOptions):
    """Options for a fetch from the Human Protein Atlas.

    See :class:`~cytoloc.hpa.site.SiteOptions` for the options of requests.

    Attributes:
        base: URL of the site of one release, such as ``https://v21.proteinatlas.org``. Images are requested there too.
            None: the site of release 18.
        catalog: XML file with many genes, plain or gzipped, to be used instead of the site's XML of each gene.
        reliability: Reliabilities of the antibodies to fetch, any of ``enhanced``, ``supported``, ``approved`` and
            ``uncertain``.
        cell_lines: Cell lines to fetch, such as ``U-2 OS``; None for all.
        colors: Channels to fetch, any of ``red``, ``green``, ``blue`` and ``yellow``. An import needs all four.
        unlabeled: Also fetch fields without a location of the label set.
        label_set: Label set of ``labels.csv``.
        limit: Maximum number of fields, in order of the catalog; None for all.
        license_name: License for the manifest. None: the license of the release, if it is known.
        verify: Compare the SHA-256 of existing files with the manifest, and fetch changed files again.
        progress: Function that shows the progress, see ``ProgressBars``.
        now: Function that returns the current time, for the manifest.

    Raises:
        SettingsError: If a value is invalid.
    """

    base: str | None = None
    catalog: str | Path | None = None
    reliability: Sequence[str] = RELIABILITIES[:3]
    cell_lines: Sequence[str] | None = None
    colors: Sequence[str] = STAIN_COLORS
    unlabeled: bool = False
    label_set: LabelSet = field(default_factory=LabelSet.hpa28)
    limit: int | None = None
    license_name: str | None = None
    verify: bool = False
    progress: ProgressBars = lambda _what: nullcontext(lambda _done, _total: None)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        for name, known in (("reliability", RELIABILITIES), ("colors", STAIN_COLORS)):
            words = getattr(self, name)
            unknown = [] if isinstance(words, str) else [word for word in words if word not in known]
            if unknown or isinstance(words, str) or not words:
                raise SettingsError(
                    f"`{name}` contains {(unknown or [words])[0]!r}, which is not one of {', '.join(known)}.",
                    hint="Give one or more of these words.",
                )
        if self.base is not None and (host_of(self.base) is None or any(sign in self.base for sign in "?#")):
            raise SettingsError(
                f"`base` is {self.base!r}, which is not the URL of a site.",
                hint="Give a URL such as https://v18.proteinatlas.org.",
            )
        for name in ("jobs", "rate_per_s", "timeout_s", "attempts", *(["limit"] if self.limit is not None else [])):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(
                    f"`{name}` is {getattr(self, name)}, but must be more than 0.", hint="Give a positive number."
                )


class GeneRow(NamedTuple):
    """A row of ``genes.csv``.

    Attributes:
        ensembl: Ensembl id.
        gene: Gene name.
        release: Release of the Human Protein Atlas.
        fields: Number of fields in the catalog.
        taken: Number of selected fields.
    """

    ensembl: str
    gene: str
    release: str
    fields: int
    taken: int


@dataclass(frozen=True)
class FetchPlan:
    """The plan of a fetch.

    Attributes:
        selection: Selected fields.
        genes: Genes that were looked up.
        images: Image files of the selected fields.
        failed: Genes that could not be looked up, with reasons.
        skipped_rows: Number of skipped rows of each gene table, by file.
        images_here: Number of images that are already in the folder.
        estimated_bytes: Estimated size of the other images; None if the site does not report sizes.
        sampled_images: Number of images from which the size was estimated.
    """

    selection: FieldSelection
    genes: list[GeneRow]
    images: list[RemoteFile]
    failed: list[FailedFile]
    skipped_rows: dict[str, int]
    images_here: int = 0
    estimated_bytes: int | None = None
    sampled_images: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        chosen = self.selection
        return {
            "genes": len(self.genes),
            "genes_without_images": sum(row.fields == 0 for row in self.genes),
            "antibodies": len({each.folder for each in chosen.fields}),
            "wells": len({each.place for each in chosen.fields}),
            "fields": len(chosen.fields),
            "images": len(self.images),
            "images_here": self.images_here,
            "estimated_bytes": self.estimated_bytes,
            "sampled_images": self.sampled_images,
            "label_set": chosen.label_set.name,
            "locations": [
                {"key": each.key, "location": each.name, "fields": number}
                for each, number in zip(chosen.label_set, chosen.per_location, strict=True)
            ],
            "unknown_names": dict(chosen.unknown.most_common()),
            "without_location": dict(chosen.without.most_common()),
            "left_out": dict(chosen.left_out.most_common()),
            "failed": [row._asdict() for row in self.failed],
        }


@dataclass
class Fetched:
    """The result of a fetch.

    Attributes:
        folder: Output folder.
        plan: Plan of the fetch.
        images: Number of images that were fetched.
        already_there: Number of images that were in the folder before.
        size_bytes: Size of the fetched images in bytes.
        failed: Files and genes that could not be fetched, with reasons.
        changed: Files in the folder that had changed and were fetched again.
    """

    folder: Path
    plan: FetchPlan
    images: int = 0
    already_there: int = 0
    size_bytes: int = 0
    failed: list[FailedFile] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "fields": len(self.plan.selection.fields),
            "images": self.images,
            "bytes": self.size_bytes,
            "already_there": self.already_there,
            "changed": self.changed,
            "failed": [row._asdict() for row in self.failed],
            "unknown_names": dict(self.plan.selection.unknown.most_common()),
            "left_out": dict(self.plan.selection.left_out.most_common()),
        }


DEFAULT_FETCH: Final = FetchOptions()


def fetch_hpa(
    genes: str | Path | Iterable[str] | None, *, out: str | Path, options: FetchOptions = DEFAULT_FETCH
) -> Fetched:
    """Fetch fields of the Human Protein Atlas, with labels, into a folder for ``cytoloc import hpa``.

    The folder gets ``images/``, ``labels.csv``, ``fields.csv``, ``genes.csv``, ``unknown_names.csv``, ``manifest.csv``
    and, if some files could not be fetched, ``failed.csv``. Call the function again to resume an interrupted fetch.

    Args:
        genes: File of Ensembl ids or gene names, file with a table of the Human Protein Atlas, iterable of ids and
            names, or None for all genes with images.
        out: Output folder. It may be the folder of an earlier fetch from the same site.
        options: Options for the fetch.

    Returns:
        The plan, and the numbers of images that were fetched or failed.

    Raises:
        FetchError: If no field is selected, no gene can be looked up, or the site does not respond.
        TableError: If the list of genes is invalid.
        FormatError: If the catalog or the manifest is damaged.
        OutputExistsError: If the folder contains other files.
        SettingsError: If the folder was fetched from another site.
        MissingExtraError: If httpx or stamina is not installed.
    """
    with _planned(genes, out, options) as (site, folder, plan):
        selection = plan.selection
        if not selection.fields:
            why = [f"{number} {reason}" for reason, number in selection.left_out.most_common(5)]
            raise FetchError(
                f"No field of {len(plan.genes)} gene{'s' * (len(plan.genes) != 1)} is selected:"
                f" {', '.join(why) or 'the catalog has none'}.",
                hint="Change `reliability`, `cell_lines` or `unlabeled`; a plan lists the locations in the catalog.",
            )
        labeled = ((name, selection.label_set.format(ids)) for name, ids in selection.labels.items() if ids)
        folder.write_table("labels.csv", ("Id", "Target"), labeled)
        values = ([getattr(each, name) for name in _FIELD_COLUMNS] for each in selection.fields)
        rows = ([";".join(value) if isinstance(value, tuple) else value for value in row] for row in values)
        folder.write_table("fields.csv", _FIELD_COLUMNS, rows)
        folder.write_table("unknown_names.csv", ("name", "fields"), selection.unknown.most_common())
        folder.write_table("genes.csv", GeneRow._fields, plan.genes)
        with options.progress("fetching") as advance:
            return _fetch_images(site, folder, plan, options, advance)


def plan_hpa(
    genes: str | Path | Iterable[str] | None, *, out: str | Path, options: FetchOptions = DEFAULT_FETCH
) -> FetchPlan:
    """Plan a fetch: look up the genes, select fields, and estimate the size of their images.

    Only the catalog is fetched. Errors are the same as for :func:`fetch_hpa`.

    Args:
        genes: Genes, as in :func:`fetch_hpa`.
        out: Output folder.
        options: Options for the fetch.

    Returns:
        The plan.
    """
    with _planned(genes, out, options) as (site, folder, plan):
        known = folder.manifest()
        missing = [
            each for each in plan.images if each.file not in known or not folder.is_here(known[each.file], verify=False)
        ]
        sample = missing[:: max(1, -(-len(missing) // SIZE_SAMPLE))]
        sizes = [size for size in site.sizes_of([each.url for each in sample]) if size is not None]
        return replace(
            plan,
            images_here=len(plan.images) - len(missing),
            estimated_bytes=round(sum(sizes) / len(sizes) * len(missing)) if sizes else None,
            sampled_images=len(sizes),
        )


@contextmanager
def _planned(
    genes: str | Path | Iterable[str] | None, out: str | Path, options: FetchOptions
) -> Iterator[tuple[Site, FetchFolder, FetchPlan]]:
    """Look up the genes, and yield the site, the locked folder and the plan."""
    check_type(out, (str, Path), argument="out")
    check_type(options, FetchOptions, argument="options")
    if isinstance(genes, str | Path):
        listed: GeneList | None = read_genes(Path(genes))
    elif genes is None or isinstance(genes, Iterable):
        listed = None if genes is None else gene_list(genes)
    else:
        raise ArgumentTypeError(
            f"`genes` must be a path, an iterable of ids and names, or None, not {type(genes).__name__}."
        )
    site = Site((options.base or RELEASE_18).rstrip("/"), options, moved=options.base is not None)
    skipped = {str(genes): listed.skipped} if listed and listed.skipped else {}
    origin = site.base
    if options.catalog is not None:
        catalog = existing(Path(options.catalog), error=FormatError, what="catalog file")
        origin = site.base if site.moved else catalog_origin(catalog)
    with FetchFolder(Path(out), base=origin).opened() as folder:
        if options.catalog is not None:
            wanted = None if listed is None else {*listed.ids, *listed.names}
            found = (g for g in read_catalog(catalog) if wanted is None or g.ensembl in wanted or g.name in wanted)
            plan = _make_plan(found, options, site, [], skipped)
            there = {word for row in plan.genes for word in (row.ensembl, row.gene)}
            missing = () if listed is None else [word for word in (*listed.ids, *listed.names) if word not in there]
            plan.failed.extend(FailedFile(word, catalog.name, f"{catalog.name} has no such gene.") for word in missing)
            asked, where = len(plan.failed), f"is in {catalog.name}"
        else:
            failed: list[FailedFile] = []
            ids = ensembl_ids(site, folder, listed, failed, skipped)
            found_fields = 0

            def is_enough(some: Iterator[Gene]) -> bool:
                nonlocal found_fields
                found_fields += len(select_fields(some, _selection_options(options)).fields)
                return options.limit is not None and found_fields >= options.limit

            with options.progress("looking up genes") as advance:
                limited = is_enough if options.limit is not None else None
                requested = fetch_genes(site, folder, ids, failed=failed, advance=advance, is_enough=limited)
            plan = _make_plan(genes_in(folder, requested), options, site, failed, skipped)
            asked, where = len(ids) or len(failed), f"could be looked up at {site.base}"
        if not plan.genes and asked:
            first = plan.failed[0] if plan.failed else None
            reason = f"; {first.file}: {first.reason}" if first else "."
            raise FetchError(
                f"None of {asked} gene{'s' * (asked != 1)} {where}{reason}",
                hint="Check `genes`, `base` and `catalog`.",
            )
        yield site, folder, plan


def _selection_options(options: FetchOptions) -> SelectionOptions:
    return SelectionOptions(
        reliability=frozenset(options.reliability),
        cell_lines=None if options.cell_lines is None else frozenset(options.cell_lines),
        unlabeled=options.unlabeled,
        limit=options.limit,
        label_set=options.label_set,
    )


def _make_plan(
    genes: Iterable[Gene], options: FetchOptions, site: Site, failed: list[FailedFile], skipped: dict[str, int]
) -> FetchPlan:
    seen: list[tuple[str, str, str, int]] = []

    def at_the_site() -> Iterator[Gene]:
        """Yield the genes with the fields whose images may be requested, and record their number of fields."""
        for gene in genes:
            seen.append((gene.ensembl, gene.name, gene.release, len(gene.fields)))
            ours = [each for each in gene.fields if site.moved or is_of_the_atlas(host_of(each.url))]
            if len(ours) < len(gene.fields):
                gene.skipped["at a host outside proteinatlas.org"] += len(gene.fields) - len(ours)
                gene.fields = ours
            yield gene

    selection = select_fields(at_the_site(), _selection_options(options))
    taken = Counter(name for each in selection.fields for name in each.ensembl.split(";"))
    images = []
    for each in selection.fields:
        for color in options.colors:
            url = _COLORS_IN_NAME.sub(f"_{color}.jpg", each.url)
            if site.moved:
                url = f"{site.base}/{url.partition('://')[2].partition('/')[2]}"
            file = f"images/{each.folder}/{each.id.partition('_')[2]}_{color}.jpg"
            images.append(RemoteFile(file, url, each.release))
    return FetchPlan(selection, [GeneRow(*row, taken[row[0]]) for row in seen], images, failed, skipped)


def _fetch_images(
    site: Site, folder: FetchFolder, plan: FetchPlan, options: FetchOptions, advance: Callable[[int, int], None]
) -> Fetched:
    """Fetch the images that are missing or changed, and write the manifest."""
    manifest = folder.manifest()
    fetched = Fetched(folder.folder, plan, failed=list(plan.failed))
    missing = []
    for each in plan.images:
        row = manifest.get(each.file)
        if row is not None and folder.is_here(row, verify=options.verify):
            fetched.already_there += 1
            continue
        missing.append(each)
        if row is not None and (folder.folder / each.file).exists():
            fetched.changed.append(each.file)
            (folder.folder / each.file).unlink()
    with folder.log() as add:

        def received(remote: RemoteFile, found: Received) -> None:
            row = FetchedFile(
                remote.file, remote.url, remote.release, found.sha256, found.size_bytes,
                options.license_name or license_of(remote.release),
                options.now().isoformat(timespec="seconds"), found.etag,
            )  # fmt: skip
            add(row)
            manifest[row.file] = row
            fetched.images += 1
            fetched.size_bytes += found.size_bytes

        def tell(done: int) -> None:
            advance(fetched.already_there + done, len(plan.images))

        try:
            site.fetch_files(folder, missing, _check_image, failed=fetched.failed, received=received, advance=tell)
        finally:
            folder.write_failed(fetched.failed)
    folder.write_manifest(row for row in manifest.values() if (folder.folder / row.file).exists())
    return fetched


def license_of(release: str) -> str:
    """Return the license of a release, or the page that states it.

    Examples:
        >>> license_of("18.1")
        'CC BY-SA 3.0'
        >>> license_of("25.0")
        'see /about/license of release 25.0'
    """
    return LICENSES.get(release.partition(".")[0], f"see /about/license of release {release or 'unknown'}")


def _check_image(path: Path, _file: RemoteFile) -> None:
    """Raise an ImageError unless a file is a complete JPEG."""
    with path.open("rb") as file:
        head = file.read(256).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        raise ImageError("The site sent a web page instead of an image.")
    try:
        read_jpeg(path)
    except ImageError as error:
        raise ImageError(error.message.replace(str(path), "the file")) from error
