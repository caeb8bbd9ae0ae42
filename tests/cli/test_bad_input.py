"""Bad input: exit 1 (a wrong call: 2), one clear message, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytoloc import open_dataset
from cytoloc.curation.folds import make_folds
from cytoloc.curation.folds_file import write_folds
from cytoloc.dataset.store import Dataset
from tests.conftest import Cli, images_of


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def another_size(path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(path)


def write(text: str) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        path.write_text(text)

    return rewrite


BAD_FIELDS: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "a missing channel file": ("a_blue.png", Path.unlink, ["the file a_blue.png of field a is missing"]),
    "a truncated channel file": ("a_green.png", truncate, ["a_green.png", "truncated"]),
    "an empty channel file": ("a_green.png", write(""), ["a_green.png", "empty (0 bytes)"]),
    "a file that is no image": ("a_green.png", write("hello"), ["a_green.png", "not a PNG"]),
    "two sizes in one field": (
        "a_yellow.png",
        another_size,
        ["the files of field a differ in size", "48 x 48", "20 x 20"],
    ),
}


@pytest.mark.parametrize("case", BAD_FIELDS)
def test_import_puts_bad_fields_into_quarantine_and_goes_on(cli: Cli, images: Path, tmp_path: Path, case: str) -> None:
    name, damage, expected = BAD_FIELDS[case]
    damage(images / name)
    words = ["import", "kaggle", images, "--labels", images / "labels.csv", "--size", 32]
    said = cli(*words, "--out", tmp_path / "a.dataset")
    assert (said.code, "2 fields of 32 px" in said.out) == (0, True)
    assert open_dataset(tmp_path / "a.dataset").ids == ("b", "c")
    listed = (tmp_path / "a.dataset" / "quarantine.csv").read_text()
    strict = cli(*words, "--out", tmp_path / "b.dataset", "--strict")
    assert (strict.code, (tmp_path / "b.dataset").exists()) == (1, False)
    for part in expected:
        assert part in listed
        assert part in said.err
        assert part in strict.err
    assert "quarantine   1 field " in cli("info", tmp_path / "a.dataset").out


def test_images_that_are_named_otherwise_are_counted(cli: Cli, images: Path, tmp_path: Path) -> None:
    (images / "a_red.png").rename(images / "a_Red.png")
    (images / "b_er.png").write_bytes((images / "b_red.png").read_bytes())
    said = cli("import", "kaggle", images, "--size", 32, "--out", tmp_path / "a.dataset")
    assert f"2 other images in {images} without a channel in the name." in said.err
    folder = tmp_path / "v18"
    folder.mkdir()
    for color in ("red", "green", "blue", "yellow", "Green"):
        Image.new("RGB", (32, 32)).save(folder / f"1_2_C1_1_{color}.jpg")
    said = cli("import", "hpa", folder, "--size", 32, "--out", tmp_path / "b.dataset")
    assert f"1 other image in {folder} without a channel in the name." in said.err


BAD_IMPORTS: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "an unknown label": ("labels.csv", write("Id,Target\nb,3\na,28\n"), ["labels.csv, id a", "'28' is not a location"]),
    "an empty label": ("labels.csv", write("Id,Target\nb,3\na,\n"), ["labels.csv, id a", "label is empty"]),
    "a doubled id": ("labels.csv", write("Id,Target\nb,3\nb,4\n"), ["labels.csv", "b occurs twice"]),
    "labels without the columns": ("labels.csv", write("name,class\nb,3\n"), ["lacks the columns Id, Target", "name"]),
    "labels of absent fields": (
        "labels.csv",
        write("Id,Target\nyy,3\nzz,4\n"),
        ["has no files of the 2 fields in", "labels.csv, such as yy"],
    ),
    "labels that are missing": ("labels.csv", Path.unlink, ["labels.csv", "The labels file", "does not exist"]),
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_import_refuses(cli: Cli, images: Path, tmp_path: Path, case: str) -> None:
    name, damage, expected = BAD_IMPORTS[case]
    damage(images / name)
    said = cli(
        "import", "kaggle", images, "--labels", images / "labels.csv", "--size", 32, "--out", tmp_path / "a.dataset"
    )
    assert said.code == 1
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    for words in expected:
        assert words in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_import_refuses_an_empty_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "empty", "contains no fields"), (tmp_path / "none", "none does not exist")):
        said = cli("import", "kaggle", folder, "--out", tmp_path / "a.dataset")
        assert said.code == 1
        assert words in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_existing_outputs_are_kept(cli: Cli, images: Path, study: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "there.parquet"
    out.write_text("precious")
    predictions = tmp_path / "predictions.csv"
    columns = ",".join(map(str, range(28)))
    predictions.write_text(f"Id,{columns}\na,{','.join(['.5'] * 28)}\nb,{','.join(['.5'] * 28)}\n")
    for words in (
        ("import", "kaggle", images),
        ("simulate", "--fields", 2, "--size", 32),
        ("simulate", "--fields", 2, "--size", 32, "--format", "kaggle"),
        ("folds", study.path),
        ("decide", "fit", predictions, "--labels", images / "labels.csv"),
        ("predict", tmp_path, images),
        ("demo",),
    ):
        said = cli(*words, "--out", out)
        assert said.code == 1, words
        assert "already exists" in said.err
        assert out.read_text() == "precious"


def test_unknown_recipes_and_misspelled_keys(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    folds = tmp_path / "folds.csv"
    cli("folds", study.path, "-k", 2, "--out", folds)
    rest = (study.path, "--folds", folds, "--out", tmp_path / "runs")
    unknown = cli("train", "quik", *rest)
    assert (unknown.code, "Did you mean quick" in unknown.err) == (1, True)
    misspelled = cli("train", "quick", *rest, "--set", "schedule.epoch=3")
    assert (misspelled.code, "Did you mean schedule.epochs" in misspelled.err) == (1, True)
    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "quick"\nname = "mine"\n[schedul]\nepochs = 3\n')
    in_a_file = cli("train", recipe, *rest)
    assert (in_a_file.code, "no key 'schedul'" in in_a_file.err) == (1, True)
    offline = cli("train", "quick", *rest, "--set", "image.size=64", "--set", "model.weights=file:none.pt")
    assert (offline.code, "The weights file none.pt does not exist" in offline.err) == (1, True)
    for number, code in (("²", 2), ("7", 1)):
        assert cli("train", "quick", *rest, "--set", "image.size=64", "--fold", number).code == code
    too_many = cli("folds", study.path, "-k", 999, "--out", tmp_path / "f2.csv")
    assert (too_many.code, "which cannot be split into 999 folds" in too_many.err) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folds.csv", "mine.toml"]


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("import", "kaggle"),
        ("simulate", "--fields", "many", "--out", "a.dataset"),
        ("simulate", "--fields", "2", "--form", "jpeg", "--out", "a.dataset"),
        ("import", "kaggle", ".", "--size", "1", "--out", "a.dataset"),
        ("folds", "a.dataset"),
        ("decide", "fit", "--labels", "x.csv", "--out", "d.json"),
    ],
)
def test_wrong_calls_exit_with_two(cli: Cli, words: tuple[str, ...]) -> None:
    said = cli(*words)
    assert said.code == 2
    assert "Usage" in said.err


def test_prediction_refuses_a_folder_without_runs(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "s.parquet"
    nothing = cli("predict", tmp_path, study.path, "--out", out)
    assert (nothing.code, "contains no run" in nothing.err) == (1, True)
    assert not out.exists()


# The least disk still holds a small table; one without a free inode holds nothing.
DISKS = {
    "simulate": "200k",
    "simulate files": "200k",
    "import": "200k",
    "folds": "4k,nr_inodes=1",
    "decide": "4k,nr_inodes=1",
    "train": "3m",
}


ON_SMALL_DISKS = """
import contextlib, io, json, os, sys
from cytoloc.cli.app import main

outcomes = {}
for disk, words in json.load(sys.stdin).items():
    sys.argv = ["cytoloc", *words]
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    outcomes[disk] = [code, said.getvalue(), os.listdir(disk)]
print(json.dumps(outcomes))
"""


@dataclass(frozen=True)
class SmallDisk:
    """What a command did whose output was on a full or read-only disk.

    Attributes:
        code: The exit code.
        error: The error output.
        left: The names of the files that are left.
    """

    code: int
    error: str
    left: list[str]


def on_small_disks(calls: Mapping[Path, tuple[Sequence[object], str, bool]]) -> dict[Path, SmallDisk]:
    """Run commands in one process that has small file systems of its own.

    Args:
        calls: By the folder on which a file system is mounted: the words of a command, the size of the file system,
            and whether it is read-only.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare on this machine to mount a small disk with")
    mounts = []
    for disk, (_, size, read_only) in calls.items():
        disk.mkdir()
        mounts.append(f"mount -t tmpfs -o size={size} none {disk}")
        if read_only:
            mounts.append(f"mount -o remount,ro {disk}")
    script = f'{" && ".join(mounts)} || exit 99; exec "$@"'
    start = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, "-c"]
    given = json.dumps({str(disk): list(map(str, words)) for disk, (words, _, _) in calls.items()})
    done = subprocess.run([*start, ON_SMALL_DISKS], input=given, capture_output=True, text=True)
    if done.returncode == 99 or done.stderr.startswith("unshare:"):
        pytest.skip(f"this machine does not let tests mount: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    return {disk: SmallDisk(*outcomes[str(disk)]) for disk in calls}


@pytest.fixture(scope="module")
def small_disks(study: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], SmallDisk]:
    """Return what each command did whose disk was full, or read-only."""
    folder = tmp_path_factory.mktemp("disks")
    images_of(folder / "images")
    (folder / "predictions.csv").write_text(
        f"Id,{','.join(map(str, range(28)))}\n" + "".join(f"{i},{'.5,' * 27}.{i + 1}\n" for i in range(9))
    )
    (folder / "labels.csv").write_text("Id,Target\n" + "".join(f"{i},3\n" for i in range(9)))
    write_folds(make_folds(study.fields, k=2), folder / "folds.csv")
    words: dict[str, list[object]] = {
        "simulate": ["simulate", "--fields", 12, "--size", 128],
        "simulate files": ["simulate", "--fields", 12, "--size", 128, "--format", "kaggle"],
        "import": ["import", "kaggle", folder / "images", "--size", 512, "--enlarge"],
        "folds": ["folds", study.path, "-k", 2],
        "decide": [
            "decide", "fit", folder / "predictions.csv", "--method", "grid", "--labels", folder / "labels.csv"
        ],
        "train": ["train", "quick", study.path, "--folds", folder / "folds.csv", "--set", "image.size=64"],
    }  # fmt: skip
    calls = list(product(DISKS, (False, True)))
    disks = {folder / str(number): call for number, call in enumerate(calls)}
    done = on_small_disks(
        {
            disk: ([*words[name], "--out", disk / "out"], DISKS[name], read_only)
            for disk, (name, read_only) in disks.items()
        }
    )
    return {call: done[disk] for disk, call in disks.items()}


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True], ids=["full", "read-only"])
@pytest.mark.parametrize("command", list(DISKS))
def test_a_disk_that_cannot_be_written(
    small_disks: dict[tuple[str, bool], SmallDisk], command: str, *, read_only: bool
) -> None:
    done = small_disks[command, read_only]
    assert done.code == 1, done.error
    assert "cannot be written" in done.error
    assert "Traceback" not in done.error
    # What can be resumed is kept; an import without a whole shard cannot.
    assert done.left == (["out"] if command in {"train", "simulate files"} and not read_only else [])


def test_a_folder_of_jpegs_is_shown_the_way(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "10580_1610_C1_1_red.jpg").write_bytes(b"")
    said = cli("import", "kaggle", tmp_path, "--out", tmp_path / "a.dataset")
    assert said.code == 1
    assert "For JPEG files use `cytoloc import hpa`" in said.err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
def test_a_folder_that_takes_no_files_is_said_to_be_one(cli: Cli, images: Path) -> None:
    said = cli("import", "kaggle", images, "--out", "/proc/x.dataset")
    assert (said.code, "/proc does not accept new files" in said.err) == (1, True)
