"""Prediction of any number of fields into a folder of parts, with flat memory. It continues after an interruption."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from cytoloc.choices import check_type
from cytoloc.dataset.quarantine import Rejected, to_csv
from cytoloc.errors import FailedFieldsError, OutputExistsError, SettingsError
from cytoloc.files import json_bytes, locked, parse_json
from cytoloc.labels.lists import locations_csv, refuse_repeated
from cytoloc.predict.engines.engine import ModelPrecision
from cytoloc.predict.model import BATCH_SIZE, Model
from cytoloc.predict.model_info import PredictedBatch
from cytoloc.predict.part_store import LocalStore, PartStore, open_store
from cytoloc.predict.sources import Source, cells_in
from cytoloc.prediction_files import MANIFEST, PARTS_FORMAT, parquet_bytes, part_name

if TYPE_CHECKING:
    from cytoloc.predict.cluster import RayWorkers

PART_FIELDS: Final = 10_000
"""Default number of fields in a part."""

_OTHER: Final = {
    "model": "another model",
    "unusual": "a model with another choice of `unusual`",
    "part_fields": "parts of another size",
    "tta": "another number of TTA views",
    "absent": "other substitutes for channels",
    "precision": "another precision",
    "resample": "images that were scaled down in another way",
}
"""What differs, by the key of the manifest. The other keys describe the fields."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """How fields are predicted into parts.

    Attributes:
        part_fields: Number of fields in a part. A killed run loses at most the part that it was working on.
        shard: Which share of the parts to predict, as ``(number, of)``: ``(1, 1)`` for all of them, ``(2, 8)`` for the
            second of eight shares. All shares are written to the same folder.
        max_failed: The largest share of fields that may fail to be read, from 0 to 1.
        absent: Substitutes for missing channels; see :meth:`cytoloc.Model.predict`.
        tta: Number of test-time augmentation views. Default: the number that the model states.
        batch_size: Number of fields per batch.
        precision: Floating-point precision. Default: the precision of the model.
    """

    part_fields: int = PART_FIELDS
    shard: tuple[int, int] = (1, 1)
    max_failed: float = 1.0
    absent: Mapping[str, str] = field(default_factory=dict)
    tta: int | None = None
    batch_size: int = BATCH_SIZE
    precision: ModelPrecision | None = None

    def __post_init__(self) -> None:
        number, of = self.shard
        if type(self.part_fields) is not int or self.part_fields < 1:
            raise SettingsError(f"`part_fields` is {self.part_fields!r}, but must be a positive integer.")
        if not 1 <= number <= of:
            raise SettingsError(
                f"`shard` is {number}/{of}, but the first number must be from 1 to the second.",
                hint="Write for example 2/8 for the second of eight shares.",
            )
        if not 0 <= self.max_failed <= 1:
            raise SettingsError(f"`max_failed` is {self.max_failed:g}, but must be from 0 to 1.")


@dataclass(frozen=True)
class StreamState:
    """The progress of a prediction into parts.

    Attributes:
        fields: Number of fields of this shard.
        done: Number of fields that are predicted or failed, including those of earlier runs.
        failed: Number of fields that could not be read.
        marked: Number of fields whose images are unusual.
        parts: Number of parts of this shard.
        parts_done: Number of finished parts.
        fields_per_s: Number of fields per second in this run.
    """

    fields: int
    done: int
    failed: int
    marked: int
    parts: int
    parts_done: int
    fields_per_s: float


class _Part(NamedTuple):
    """What a finished part states."""

    fields: int
    failed: int
    marked: int


def predict_parts(
    model: Model,
    sources: Sequence[Source],
    out: str | Path,
    *,
    options: StreamOptions | None = None,
    workers: RayWorkers | None = None,
    report: Callable[[StreamState], None] = lambda _state: None,
) -> StreamState:
    """Predict fields into a folder of parts, ``part-00000.parquet`` and so on, each written whole or not at all.

    A run that was stopped continues with the first part that is missing. Several runs with different shards can write
    to the same folder at the same time. :func:`cytoloc.read_predictions` reads a finished folder.

    Args:
        model: The model.
        sources: The sources of the fields; see :func:`cytoloc.predict.sources.open_sources`.
        out: The folder, or a URL such as ``s3://BUCKET/FOLDER``.
        options: The options.
        workers: Workers of a Ray cluster, which predict the parts. They must reach the sources and the folder by the
            same names. A part whose worker dies is given to another one. Default: predict in this process.
        report: A function that is called after each batch and each part; with ``workers`` after each part.

    Returns:
        The final state.

    Raises:
        FailedFieldsError: If more fields than ``max_failed`` could not be read. Their predictions are complete.
        OutputExistsError: If the folder has predictions of another model, other fields or other options.
        SettingsError: If there are more shards than parts, or an option is invalid.
        StorageError: If another process writes the same shard, or the folder cannot be written.
        WorkerError: If the workers end again and again. The finished parts are complete.
        MissingExtraError: If ``workers`` is given, and Ray is not installed.
        TableError: If two sources have a field with the same id.
    """
    check_type(model, Model, argument="model")
    check_type(sources, (list, tuple), argument="sources")
    check_type(out, (str, Path), argument="out")
    options = options or StreamOptions()
    store = open_store(out)
    ids = [name for source in sources for name in source.ids]
    refuse_repeated(ids, where="the fields to predict", hint="Give each field once.")
    count = -(-len(ids) // options.part_fields)
    number, of = options.shard
    if of > max(count, 1):
        raise SettingsError(
            f"There are {of} shards, but {len(ids)} fields in parts of {options.part_fields} are only {count} parts.",
            hint=f"Use at most {count} shards, or smaller parts: `part_fields={max(1, len(ids) // of)}`.",
        )
    # What all runs that write to a folder have in common.
    common = {
        "model": model.fingerprint,
        "unusual": model.unusual,
        "sources": [source.name for source in sources],
        "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "fields": len(ids),
        "part_fields": options.part_fields,
        "parts": count,
        "tta": model.info.tta if options.tta is None else options.tta,
        "absent": dict(options.absent),
        "precision": options.precision or model.precision,
        "resample": model.resample,
    }
    _write_manifest(store, common)
    mine = range(number - 1, count, of)
    lock = nullcontext()
    if isinstance(store, LocalStore):
        busy = f"Another process is writing the shard {number}/{of} of {store.name}"
        lock = locked(store.folder / f".shard-{number}-of-{of}.lock", busy=busy)  # type: ignore[assignment]
    with lock:
        return _predict_shard(model, sources, store, options, mine, report, workers)


def _predict_shard(
    model: Model,
    sources: Sequence[Source],
    store: PartStore,
    options: StreamOptions,
    mine: range,
    report: Callable[[StreamState], None],
    workers: RayWorkers | None,
) -> StreamState:
    """Predict the missing parts of a shard."""
    length, total = options.part_fields, sum(len(source.ids) for source in sources)
    sizes = {part: min(length, total - part * length) for part in mine}
    existing = store.names()
    finished: dict[int, _Part] = {}
    for part in mine:
        if part_name(part) in existing:
            header = _header(store, part)
            bad = len(header["rejected"])
            finished[part] = _Part(header["rows"] + bad, bad, header["marked"])
    started, before = time.monotonic(), sum(each.fields for each in finished.values())

    def state(done: int = 0, failed: int = 0, marked: int = 0) -> StreamState:
        """Return the progress, with the fields of the part that is not finished."""
        all_done = sum(each.fields for each in finished.values()) + done
        return StreamState(
            fields=sum(sizes.values()),
            done=all_done,
            failed=sum(each.failed for each in finished.values()) + failed,
            marked=sum(each.marked for each in finished.values()) + marked,
            parts=len(mine),
            parts_done=len(finished),
            fields_per_s=(all_done - before) / max(time.monotonic() - started, 1e-9),
        )

    report(state())
    missing = [part for part in mine if part not in finished]
    if workers is None:
        for part in missing:
            finished[part] = _predict_part(
                model, part, sources, store, options, total, lambda batches: report(state(*_counts(batches)))
            )
            report(state())
    elif missing:
        from cytoloc.predict.cluster import run_on_ray

        work = partial(_predict_part, sources=sources, store=store, options=options, total=total)
        for part, made in run_on_ray(work, model, missing, workers):
            finished[part] = made
            report(state())
    last = state()
    number, of = options.shard
    failed = "failed.csv" if of == 1 else f"failed-{number}-of-{of}.csv"
    if last.failed:
        rejected = [Rejected(*each) for part in mine for each in _header(store, part)["rejected"]]
        store.write(failed, to_csv(rejected))
    if last.failed > options.max_failed * last.fields:
        raise FailedFieldsError(
            f"{last.failed} of {last.fields} fields could not be read, more than the allowed share of"
            f" {options.max_failed:.2%}.",
            hint=f"The reasons are in {store.name}/{failed}. The other fields are predicted.",
        )
    return last


def _predict_part(
    model: Model,
    part: int,
    sources: Sequence[Source],
    store: PartStore,
    options: StreamOptions,
    total: int,
    report: Callable[[Sequence[PredictedBatch]], None] = lambda _batches: None,
) -> _Part:
    """Predict a part, write it, and return what it states."""
    start = part * options.part_fields
    some = list(_between(sources, start, min(start + options.part_fields, total)))
    batches: list[PredictedBatch] = []
    for batch in model.predict_batches(
        some,
        absent=options.absent,
        tta=options.tta,
        batch_size=options.batch_size,
        precision=options.precision,
    ):
        batches.append(batch)
        report(batches)
    ids = [name for batch in batches for name in batch.ids]
    cautions = [text for batch in batches for text in batch.cautions]
    probabilities = np.concatenate([batch.probabilities for batch in batches])
    failed = {each.id: each.reason for batch in batches for each in batch.rejected}
    decided = model.decide(probabilities, cautions)
    if decided is not None:
        store.write(f"locations-{part:05}.csv", locations_csv(ids, decided, model.label_set))
    scaled = any(batch.scaled for batch in batches)
    provenance = model.provenance(some, ids, absent=options.absent, tta=options.tta, scaled=scaled)
    cells = cells_in(some, ids)
    content = parquet_bytes(
        ids, probabilities, model.label_set, provenance, cautions=cautions, rejected=failed, cells=cells
    )
    store.write(part_name(part), content)
    return _Part(*_counts(batches))


def _counts(batches: Sequence[PredictedBatch]) -> tuple[int, int, int]:
    """Return the number of fields, of fields that could not be read, and of unusual fields."""
    failed = sum(len(batch.rejected) for batch in batches)
    marked = sum(bool(text) for batch in batches for text in batch.cautions)
    return sum(len(batch.ids) for batch in batches) + failed, failed, marked


def _between(sources: Sequence[Source], start: int, stop: int) -> Iterator[Source]:
    """Yield the sources of the fields from one position to another."""
    passed = 0
    for source in sources:
        count = len(source.ids)
        first, last = max(start - passed, 0), min(stop - passed, count)
        if first < last:
            yield source.part(first, last)
        passed += count


def _write_manifest(store: PartStore, wanted: dict[str, Any]) -> None:
    """Write the manifest of a new folder; raise if the folder has another one."""
    names = store.names()
    if MANIFEST in names:
        found = parse_json(store.read(MANIFEST), PARTS_FORMAT, where=f"{store.name}/{MANIFEST}")
        other = [key for key, value in wanted.items() if found.get(key) != value]
        if other:
            raise OutputExistsError(
                f"{store.name} contains predictions of {_OTHER.get(other[0], 'other fields')}.",
                hint="Nothing was changed. Choose another output folder, or repeat the command that began it.",
            )
        return
    if any(not name.startswith(".") for name in names):
        raise OutputExistsError(
            f"{store.name} exists, and is not a folder of predictions.",
            hint="Nothing was changed. Choose another output folder.",
        )
    store.write(MANIFEST, json_bytes(wanted, PARTS_FORMAT))


def _header(store: PartStore, part: int) -> dict[str, Any]:
    import pyarrow.parquet as pq

    schema = pq.ParquetFile(io.BytesIO(store.read(part_name(part))))
    header: dict[str, Any] = json.loads(schema.schema_arrow.metadata[b"cytoloc"])
    return {**header, "rows": schema.metadata.num_rows}
