"""Prediction into a folder of parts: whole parts, each field once, after any interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import cytoloc as cl
from cytoloc.channels import CHANNELS
from cytoloc.choices import Resample
from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.store import Dataset
from cytoloc.errors import (
    FailedFieldsError,
    FormatError,
    OutputExistsError,
    SettingsError,
    StorageError,
)
from cytoloc.files import locked
from cytoloc.labels.label_set import LabelSet
from cytoloc.models.network import build_network
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import ModelInfo
from cytoloc.predict.sources import ArraySource, DatasetSource, FieldBatch
from cytoloc.predict.streaming import StreamOptions, predict_parts
from tests.conftest import Cli
from tests.models.nets import spec_of


def model_of(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    network = build_network(spec_of("resnet10t", dropout=0.0, size=64))
    return Model([network], ModelInfo(size=64, channels=CHANNELS, label_set=LabelSet.hpa28()), device="cpu")


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of()


@pytest.fixture
def source(study: Dataset) -> DatasetSource:
    return DatasetSource(study)


SMALL = StreamOptions(part_fields=15)


def test_parts_have_the_predictions_of_one_file(model: Model, source: DatasetSource, tmp_path: Path) -> None:
    whole = model.predict_sources([source])
    states: list[cl.StreamState] = []
    last = predict_parts(model, [source], tmp_path / "out", options=SMALL, report=states.append)
    assert (last.fields, last.done, last.parts, last.parts_done, last.failed) == (40, 40, 3, 3, 0)
    assert [state.done for state in states] == sorted(state.done for state in states)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "predictions.json"]
    found = cl.read_predictions(tmp_path / "out")
    assert found.ids == whole.ids
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-6)
    assert len(cl.read_predictions(tmp_path / "out" / "part-00002.parquet")) == 10


def test_a_stopped_run_continues_and_other_runs_are_refused(
    model: Model, source: DatasetSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    batches = Model.predict_batches

    def stops(self: Model, sources: Any, **settings: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(self, sources, **settings)):
            if "field-2" in batch.ids[0] or (number and (out / "part-00001.parquet").exists()):
                raise KeyboardInterrupt
            yield batch
        if (out / "part-00000.parquet").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(Model, "predict_batches", stops)
    with pytest.raises(KeyboardInterrupt):
        predict_parts(model, [source], out, options=SMALL)
    monkeypatch.undo()
    assert sorted(path.name for path in out.glob("part-*")) == ["part-00000.parquet"]
    before = (out / "part-00000.parquet").stat().st_mtime_ns
    with pytest.raises(FormatError, match=r"is not finished: 2 of 3 parts are missing, such as part-00001"):
        cl.read_predictions(out)
    for other, options, what in (
        (model_of(1), SMALL, "another model"),
        (model, StreamOptions(part_fields=20), "parts of another size"),
        (model, StreamOptions(part_fields=15, tta=2), "another number of TTA views"),
    ):
        with pytest.raises(OutputExistsError, match=f"contains predictions of {what}"):
            predict_parts(other, [source], out, options=options)
    with pytest.raises(OutputExistsError, match="of other fields"):
        predict_parts(model, [source.part(0, 39)], out, options=SMALL)
    state = predict_parts(model, [source], out, options=SMALL)
    assert state.done == 40
    assert (out / "part-00000.parquet").stat().st_mtime_ns == before
    assert cl.read_predictions(out).ids == source.ids


def test_shards_share_a_folder(model: Model, source: DatasetSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (2, 1):
        part = predict_parts(model, [source], out, options=StreamOptions(part_fields=15, shard=(number, 2)))
        assert part.fields == {1: 25, 2: 15}[number]
    assert cl.read_predictions(out).ids == source.ids
    with pytest.raises(SettingsError, match=r"8 shards, but 40 fields in parts of 15 are only 3 parts"):
        predict_parts(model, [source], tmp_path / "more", options=StreamOptions(part_fields=15, shard=(1, 8)))
    assert not (tmp_path / "more").exists()
    with (
        locked(out / ".shard-1-of-2.lock", busy="busy"),
        pytest.raises(StorageError, match="Another process is writing the shard 1/2"),
    ):
        predict_parts(model, [source], out, options=StreamOptions(part_fields=15, shard=(1, 2)))


class FailingSource(DatasetSource):
    """A dataset of which some fields cannot be read."""

    def part(self, start: int, stop: int) -> FailingSource:
        return FailingSource(self.dataset, self.rows[start:stop])

    def batches(self, size: int, length: int, resample: Resample = "area") -> Iterator[FieldBatch]:
        for batch in super().batches(size, length, resample):
            good = [i for i, name in enumerate(batch.ids) if self.dataset.ids.index(name) >= 20]
            bad = tuple(Rejected(name, "no good") for i, name in enumerate(batch.ids) if i not in good)
            yield FieldBatch(tuple(batch.ids[i] for i in good), batch.images[good], bad)


def test_fields_that_cannot_be_read_are_listed(model: Model, study: Dataset, tmp_path: Path) -> None:
    out, options = tmp_path / "out", StreamOptions(part_fields=15, max_failed=0.4)
    with pytest.raises(FailedFieldsError, match="20 of 40 fields could not be read") as caught:
        predict_parts(model, [FailingSource(study)], out, options=options)
    assert caught.value.exit_code == 3
    assert len(pl.read_csv(out / "failed.csv")) == 20
    # The first part has no field that could be read.
    assert cl.read_predictions(out).ids == study.ids[20:]
    assert predict_parts(model, [FailingSource(study)], out, options=SMALL).failed == 20


def test_memory_does_not_grow_with_the_number_of_fields(
    model: Model, study: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(fields: int) -> int:
        source = DatasetSource(study)
        source.rows = np.arange(fields) % len(study)
        monkeypatch.setattr(DatasetSource, "ids", property(lambda self: tuple(f"{i}" for i in range(len(self.rows)))))
        monkeypatch.setattr(
            Model, "_compute", lambda _self, images, *_: (np.zeros((len(images), 28), np.float32), np.empty((0, 0)))
        )
        tracemalloc.start()
        predict_parts(model, [source], tmp_path / str(fields), options=StreamOptions(part_fields=200))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(200)
    # A field's image has 16 kB; its id, the list of ids and a row of a part have less than 300 bytes.
    assert peak(2400) - peak(400) < 300 * 2000


def test_a_part_of_an_array_has_the_pixels_of_the_whole() -> None:
    images = np.ones((2, 4, 64, 64), np.float32)
    images[0] *= np.linspace(0, 200, 64, dtype=np.float32)
    images[1] *= np.linspace(0, 1000, 64, dtype=np.float32)
    source = ArraySource(images, channels=CHANNELS)
    (whole,) = source.batches(64, 2)
    for row in (0, 1):
        (part,) = source.part(row, row + 1).batches(64, 2)
        assert part.ids == (str(row),)
        np.testing.assert_array_equal(part.images[0], whole.images[row])


def test_options_of_parts_need_a_folder(study: Dataset, tmp_path: Path, cli: Cli) -> None:
    words = ("predict", "builtin", study.path, "--out", tmp_path / "p.parquet")
    for option in (("--shard", "3/8"), ("--json-log",), ("--max-failed", "5"), ("--max-failed", "nan")):
        assert cli(*words, *option).code == 2
    assert not (tmp_path / "p.parquet").exists()


def test_inputs_are_patterns_and_lists(study: Dataset, tmp_path: Path) -> None:
    (tmp_path / "a.dataset").symlink_to(study.path)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'a.dataset'}\n\n")
    for given in (str(tmp_path / "*.dataset"), tmp_path / "list.txt"):
        assert [source.ids for source in cl.open_sources([given])] == [study.ids]
    with pytest.raises(cl.errors.ImageError, match="No file matches the pattern"):
        cl.open_sources([str(tmp_path / "*.nothing")])


def test_the_command_writes_parts_and_merges_them(tmp_path: Path, cli: Cli) -> None:
    made = cl.simulate_dataset(tmp_path / "made.dataset", cl.Design(n_fields=7, seed=3, size=128))
    out, metrics = tmp_path / "out", tmp_path / "metrics.prom"
    words = ("predict", "builtin", made.path, "--out", out, "--part-fields", 4, "--tta", 1, "--device", "cpu")
    done = cli(*words, "--json-log", "--metrics-file", metrics)
    assert done.code == 0, done.err
    events = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    assert [each["event"] for each in events] == ["start", "part", "part", "part", "end"]
    assert "cytoloc_predict_fields_done 7.0" in metrics.read_text()
    assert "Next: `cytoloc merge" in done.out
    again = cli(*words)
    assert "7 fields in 2 parts" in again.out
    merged = cli("merge", out, "--out", tmp_path / "p.parquet", "--locations", tmp_path / "l.csv")
    assert merged.code == 0, merged.err
    assert pl.read_csv(tmp_path / "l.csv", infer_schema=False)["Id"].to_list() == list(made.ids)
    assert cl.read_predictions(tmp_path / "p.parquet").ids == made.ids
    assert cli(*words, "--table", tmp_path / "t.csv").code == 2
    assert cli(*words, "--shard", "2of3").code == 2
    assert cli(*words, "--max-failed", "few").code == 2


@pytest.mark.slow
def test_a_killed_command_continues(tmp_path: Path, cli: Cli) -> None:
    made = cl.simulate_dataset(tmp_path / "made.dataset", cl.Design(n_fields=24, seed=3, size=128))
    out = tmp_path / "out"
    words = [sys.executable, "-m", "cytoloc", "predict", "builtin", str(made.path), "--out", str(out)]
    words += ["--part-fields", "4", "--tta", "8", "--batch-size", "2", "--engine", "torch", "--device", "cpu"]

    def stopped_after(parts: int, how: signal.Signals) -> tuple[int, str]:
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while process.poll() is None and len(list(out.glob("part-*"))) < parts:
            time.sleep(0.01)
        process.send_signal(how)
        _, err = process.communicate()
        return process.returncode, err

    assert stopped_after(2, signal.SIGKILL)[0] == -signal.SIGKILL
    code, err = stopped_after(4, signal.SIGTERM)
    assert code == 130
    assert "Rerun the same command to continue" in err
    assert cli(*words[3:]).code == 0
    found = cl.read_predictions(out)
    assert found.ids == made.ids


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket on a local S3 server."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "testing")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="fields")
        yield "s3://fields/run"
        server.stop()


# The libraries of the server and its client use what Python has deprecated, and leave sockets open.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_parts_are_written_to_a_bucket(model: Model, source: DatasetSource, bucket: str) -> None:
    import fsspec

    predict_parts(model, [source], bucket, options=SMALL)
    system = fsspec.filesystem("s3")
    names = sorted(path.rsplit("/", 1)[-1] for path in system.ls("fields/run"))
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "predictions.json"]
    system.rm("fields/run/part-00001.parquet")
    assert predict_parts(model, [source], bucket, options=SMALL).done == 40
    with system.open("fields/run/part-00001.parquet") as file:
        assert pl.read_parquet(file)["id"].to_list() == list(source.ids[15:30])
    with pytest.raises(OutputExistsError, match="of another model"):
        predict_parts(model_of(1), [source], bucket, options=SMALL)
    with pytest.raises(StorageError, match="s3://vanished/run cannot be read or written"):
        predict_parts(model, [source], "s3://vanished/run", options=SMALL)
    with pytest.raises(StorageError, match="nothing://bucket/run cannot be written"):
        predict_parts(model, [source], "nothing://bucket/run", options=SMALL)
