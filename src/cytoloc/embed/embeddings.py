"""The features that a model computes for fields, as a value and as a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from cytoloc._typing import Float32Array
from cytoloc.choices import check_type
from cytoloc.errors import FormatError, MissingExtraError, SettingsError, TableError, first_line, installing
from cytoloc.files import FileFormat, check_format, existing, new_file
from cytoloc.labels.lists import refuse_repeated
from cytoloc.predictions import text_categories, to_pandas

if TYPE_CHECKING:
    import anndata

    from cytoloc.predict.model import Model
    from cytoloc.predict.sources import Source

EMBEDDINGS_FORMAT: Final = FileFormat("cytoloc-embeddings", 1, "file of `cytoloc embed`")


@dataclass(frozen=True, repr=False)
class Embeddings:
    """The features of a list of fields.

    Attributes:
        ids: The id of each field. Ids are unique.
        features: float32 of shape ``(n, features)``.
        model: The fingerprint of the model. Features of different models cannot be compared.
        provenance: How the features were made. JSON values only.

    Raises:
        TableError: If shapes do not match, an id occurs twice, or a value is not finite.

    Examples:
        >>> found = Embeddings(("a", "b"), np.eye(2, 3, dtype=np.float32), "model")
        >>> found
        Embeddings(2 fields, 3 features)
        >>> found.to_polars().columns
        ['id', 'f0', 'f1', 'f2']
    """

    ids: tuple[str, ...]
    features: Float32Array
    model: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or len(self.features) != len(self.ids):
            raise TableError(f"`features` has the shape {self.features.shape}, but there are {len(self.ids)} ids.")
        if not np.isfinite(self.features).all():
            raise TableError("`features` has values that are not finite.", hint="Compute the features again.")
        refuse_repeated(self.ids, where="embeddings")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        fields = f"{len(self)} field{'s' * (len(self) != 1)}"
        return f"Embeddings({fields}, {self.features.shape[1]} features)"

    def to_polars(self) -> pl.DataFrame:
        """Return a polars table with a column ``id`` and the columns ``f0``, ``f1`` and so on."""
        names = [f"f{number}" for number in range(self.features.shape[1])]
        return pl.DataFrame({"id": list(self.ids), **dict(zip(names, self.features.T, strict=True))})

    def to_pandas(self) -> Any:
        """Return the table of :meth:`to_polars` for pandas, with the ids as index.

        Raises:
            MissingExtraError: If pandas is not installed.
        """
        return to_pandas(self.to_polars()).set_index("id")

    def to_anndata(self, fields: pl.DataFrame | None = None) -> anndata.AnnData:
        """Return an AnnData object, which scanpy opens: one observation per field, the features as ``X``.

        Args:
            fields: A table with a column ``id``, such as ``dataset.fields``. Its other columns become ``obs``.

        Returns:
            The object. ``uns["cytoloc"]`` is the provenance.

        Raises:
            MissingExtraError: If anndata is not installed.
            TableError: If a field is not in ``fields``.
        """
        try:
            import anndata
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("The library anndata is not installed.", hint=installing("embed")) from error
        observed = pd.DataFrame(index=pd.Index(list(self.ids), dtype=object))
        if fields is not None:
            described = pl.DataFrame({"id": list(self.ids)}).join(fields, on="id", how="left", maintain_order="left")
            missing = [name for name in self.ids if name not in set(fields["id"].to_list())]
            if missing:
                raise TableError(f"`fields` has no row for {len(missing)} fields, such as {missing[0]}.")
            for column in described.columns:
                values = described[column]
                if column == "id" or values.dtype == pl.Binary:
                    continue
                if isinstance(values.dtype, pl.List | pl.Array | pl.Struct):
                    values = pl.Series([" ".join(map(str, each or ())) for each in values.to_list()])
                if values.dtype == pl.String:
                    observed[column] = pd.Series(text_categories(values.fill_null("").to_list()), index=observed.index)
                elif not values.is_null().all():
                    observed[column] = values.to_numpy()
        names = pd.DataFrame(index=pd.Index([f"f{i}" for i in range(self.features.shape[1])], dtype=object))
        return anndata.AnnData(self.features, observed, names, uns={"cytoloc": json.dumps(self.provenance)})


def embed_sources(
    model: Model,
    sources: Sequence[Source],
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Embeddings:
    """Compute the features of all fields of some sources: the mean of the last feature map of each network.

    Args:
        model: The model.
        sources: The sources of the fields; see :func:`cytoloc.open_sources`.
        batch_size: Number of fields per batch.
        progress: A function that is called after each batch with the number of finished fields and of all fields.

    Returns:
        The features. Fields that cannot be read are left out, and listed in the provenance.

    Raises:
        ChannelError: If a source lacks a channel.
        TableError: If two sources have a field with the same id, or no field could be read.
    """
    from cytoloc.predict.model import Model
    from cytoloc.predict.planes import find_planes
    from cytoloc.predict.sources import refuse_other_cells

    check_type(model, Model, argument="model")
    check_type(sources, (list, tuple), argument="sources")
    names = [name for source in sources for name in source.ids]
    refuse_repeated(names, where="the fields to embed")
    total = len(names)
    ids: list[str] = []
    parts: list[Float32Array] = []
    failed: dict[str, str] = {}
    for source in sources:
        refuse_other_cells(source, model.info.cells, size=model.size)
        planes = find_planes(model.channels, source.channels, where=source.name)
        for batch in source.batches(model.size, batch_size, model.resample or model.info.resample or "area"):
            if batch.ids:
                parts.append(model.features(planes.of(batch.images)))
            ids += batch.ids
            failed |= {each.id: each.reason for each in batch.rejected}
            if progress:
                progress(len(ids) + len(failed), total)
    if not parts:
        raise TableError("No field could be read.", hint="Check the inputs.")
    provenance = {**model.info.provenance, "source": ", ".join(source.name for source in sources)}
    if failed:
        provenance["failed"] = failed
    seen = sum(name in model.info.trained_on for name in ids)
    if seen:
        provenance["fields_trained_on"] = seen
    return Embeddings(tuple(ids), np.concatenate(parts), model.fingerprint, provenance)


def write_embeddings(embeddings: Embeddings, path: str | Path, *, fields: pl.DataFrame | None = None) -> Path:
    """Write features to a new file.

    Args:
        embeddings: The features.
        path: The new file: ``.parquet``, with 16 bits per feature, or ``.h5ad`` for AnnData and scanpy.
        fields: For ``.h5ad``, a table with a column ``id`` whose other columns describe the fields.

    Returns:
        The path.

    Raises:
        SettingsError: If the name has another ending.
        OutputExistsError: If the file exists.
        MissingExtraError: If anndata is needed and not installed.
    """
    check_type(embeddings, Embeddings, argument="embeddings")
    check_type(path, (str, Path), argument="path")
    path = Path(path)
    check_embeddings_path(path)
    with new_file(path) as temporary:
        if path.suffix == ".h5ad":
            embeddings.to_anndata(fields).write_h5ad(temporary)
            return path
        import pyarrow as pa
        import pyarrow.parquet as pq

        width = embeddings.features.shape[1]
        flat = pa.array(embeddings.features.astype(np.float16).ravel())
        header = {**EMBEDDINGS_FORMAT.header, "model": embeddings.model, "provenance": embeddings.provenance}
        table = pa.table(
            [pa.array(embeddings.ids, pa.string()), pa.FixedSizeListArray.from_arrays(flat, width)],
            names=["id", "features"],
        )
        pq.write_table(table.replace_schema_metadata({"cytoloc": json.dumps(header)}), temporary)
    return path


def join_embeddings(parts: Sequence[Embeddings]) -> Embeddings:
    """Return the features of several lists of fields as one value.

    Args:
        parts: The features, of one model.

    Returns:
        The features of all fields.

    Raises:
        SettingsError: If the features are of different models.
        TableError: If they differ in width, or a field is in two lists.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.model != first.model:
            raise SettingsError(
                "The features are of different models, so they cannot be compared.",
                hint="Compute all features with one model.",
            )
        if part.features.shape[1] != first.features.shape[1]:
            raise TableError(
                f"Some fields have {first.features.shape[1]} features, others {part.features.shape[1]}.",
                hint="Compute all features with one model.",
            )
    seen = sum(part.provenance.get("fields_trained_on", 0) for part in parts)
    provenance = {**first.provenance, **({"fields_trained_on": seen} if seen else {})}
    ids = tuple(name for part in parts for name in part.ids)
    return Embeddings(ids, np.concatenate([part.features for part in parts]), first.model, provenance)


def check_embeddings_path(path: Path) -> None:
    """Raise :class:`~cytoloc.errors.SettingsError` if a file of features cannot have this name."""
    if path.suffix not in (".parquet", ".h5ad"):
        raise SettingsError(
            f"{path} is not a valid name for a file of features.",
            hint="Choose a name that ends in .parquet, or in .h5ad for AnnData.",
        )
    if path.suffix == ".h5ad" and find_spec("anndata") is None:
        raise MissingExtraError("The library anndata is not installed.", hint=installing("embed"))


def read_embeddings(path: str | Path) -> Embeddings:
    """Read features that :func:`write_embeddings` wrote as Parquet.

    Args:
        path: The file.

    Returns:
        The features.

    Raises:
        FormatError: If the file is not a file of features of this version.
        TableError: If the file does not exist.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_type(path, (str, Path), argument="path")
    path = existing(Path(path))
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {}).get(b"cytoloc", b"{}"))
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise FormatError(
            f"{path} cannot be read as Parquet: {first_line(error)}.", hint="Give a file of `cytoloc embed`."
        ) from error
    check_format(header if isinstance(header, dict) else {}, EMBEDDINGS_FORMAT, where=path)
    if table.schema.names != ["id", "features"] or not len(table):
        raise FormatError(f"{path} is damaged: columns or rows are missing.", hint="Compute the features again.")
    flat = table["features"].combine_chunks().flatten().to_numpy()
    features = flat.astype(np.float32).reshape(len(table), -1)
    return Embeddings(tuple(table["id"].to_pylist()), features, header["model"], header["provenance"])
