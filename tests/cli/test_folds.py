"""The command `folds` on a simulated study, and on the competition's own lists where they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cytoloc.curation.pairs import tied_ids
from cytoloc.dataset.store import Dataset
from tests.conftest import DATA, Cli

METADATA = DATA / "metadata"
LISTS = (
    "external_train_duplicates.txt",
    "external_test_duplicates.txt",
    "train_duplicates.txt",
    "test_duplicates.txt",
    "train_near_duplicates_2021.csv.gz",
    "TestEtraMatchingUnder_259_R14_G12_B10.csv",
)
needs_lists = pytest.mark.skipif(not METADATA.exists(), reason=f"{METADATA} is not there")


def test_folds_are_made_drawn_and_checked(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    out, sheet = tmp_path / "folds.csv", tmp_path / "folds.png"
    made = cli("folds", study.path, "-k", 3, "--out", out, "--sheet", sheet)
    assert made.code == 0, made.err
    assert "A random split would separate" in made.out
    assert sheet.stat().st_size > 10_000
    checked = cli("folds", study.path, "--check", out)
    assert checked.code == 0, checked.err
    same = checked.out.replace("No group is in two folds.\n", "")
    assert made.out == f"{same}Next: cytoloc train RECIPE {study.path} --folds {out} --out runs\n"
    by_field = tmp_path / "by-field.csv"
    cli("folds", study.path, "-k", 3, "--group", "field", "--out", by_field)
    refused = cli("folds", study.path, "--check", by_field)
    assert refused.code == 1
    assert "fields of the same group are in different folds" in refused.err


def test_the_order_of_a_file_that_is_checked_does_not_matter(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    out, shuffled = tmp_path / "folds.csv", tmp_path / "shuffled.csv"
    cli("folds", study.path, "-k", 3, "--out", out)
    extra = pl.DataFrame({"id": ["elsewhere"], "group": [10_000], "fold": [0]})
    pl.concat([pl.read_csv(out).sort("id", descending=True), extra]).write_csv(shuffled)
    one, other = (json.loads(cli("folds", study.path, "--check", path, "--json").out) for path in (out, shuffled))
    assert (one.pop("unknown"), other.pop("unknown")) == (0, 1)
    for found in (one, other):
        del found["cut_at_random"]  # the random split is dealt in the order of the file
    assert one == other


def test_pairs_of_fields_that_are_not_here_are_counted(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(f"a,b\n{study.ids[0]},elsewhere\nelsewhere,nowhere\n")
    call = ["folds", study.path, "-k", 3, "--pairs", tmp_path / "pairs.csv", "--out"]
    said = cli(*call, tmp_path / "a.csv")
    assert "1 pair of --pairs with one field in this dataset and one not." in said.out, said.err
    counts = json.loads(cli(*call, tmp_path / "b.csv", "--json").out)
    assert (counts["half_strange_pairs"], counts["strange_pairs"]) == (1, 1)


def test_options_without_effect_are_refused(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "folds.csv"
    image = tmp_path / "p.png"
    calls = {
        "Remove -k, --like and --without": ("folds", study.path, "--check", out, "-k", 3),
        "only reads a folds file": ("folds", study.path, "--check", out, "--like", study.path),
        "not the name of a PNG": ("folds", study.path, "--out", out, "--sheet", out),
        "is given twice": ("duplicates", study.path, study.path, "--out", out),
        "was given for two outputs": ("duplicates", study.path, "--out", out, "--groups", out),
        "require --format study": ("simulate", "--fields", 3, "--out", out, "--noise", 0.5),
        "can only be combined with --seed and --size": ("simulate", "--show", image, "--fields", 3, "--out", out),
        "needs --labels": ("ensemble", out, "--folds", out, "--out", tmp_path / "e.parquet"),
    }
    for reason, words in calls.items():
        said = cli(*words)
        assert (said.code, reason in " ".join(said.err.split())) == (2, True), said.err
    for k in (0, 1, -1):
        said = cli("folds", study.path, "--out", out, "-k", k)
        assert (said.code, "greater than or equal to 2" in said.err) == (2, True), said.err
    assert not list(tmp_path.iterdir())


def test_folds_are_either_made_or_checked(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    for words in ((), ("--out", tmp_path / "a.csv", "--check", tmp_path / "b.csv")):
        said = cli("folds", study.path, *words)
        assert said.code != 0
        assert "Give either --out to make folds, or --check to check them." in said.err
    assert not list(tmp_path.iterdir())


def test_a_sheet_that_cannot_be_drawn_leaves_no_folds(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    call = ("folds", study.path, "--out", tmp_path / "folds.csv", "--sheet")
    assert cli(*call, "/proc/sheet.png").code == 1
    assert not list(tmp_path.iterdir())
    assert cli(*call, tmp_path / "sheet.png").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folds.csv", "sheet.png"]


def test_a_folds_file_of_other_fields_is_not_judged(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    rows = [f"{name},{number}," for number, name in enumerate(study.ids)]
    (tmp_path / "f.csv").write_text("\n".join(["id,group,fold", *rows, "x,900,0", "y,901,1"]) + "\n")
    said = cli("folds", study.path, "--check", tmp_path / "f.csv")
    assert (said.code, "contains no fold for any of the labeled fields" in said.err) == (1, True)


def test_a_validation_set_like_the_test_set(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "folds.csv"
    said = cli("folds", study.path, "--like", study.path, "-k", 4, "--out", out, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert [each["look"] for each in found["like"]] == [
        "original_px",
        *(f"mean_{r}" for r in ("microtubules", "protein", "nucleus", "er")),
    ]
    assert all(each["before"] == 0 for each in found["like"])
    assert found["fields"][0] == pytest.approx(len(study) / 4, abs=2)
    assert pl.read_csv(out)["fold"].n_unique() == 2


@needs_lists
def test_the_competitions_training_set(cli: Cli, tmp_path: Path) -> None:
    pairs = [word for name in LISTS for word in ("--pairs", METADATA / name)]
    out = tmp_path / "folds.csv"
    said = cli("folds", METADATA / "train.csv.gz", *pairs, "--out", out, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert sum(found["fields"]) == 31_072
    assert max(found["fields"]) - min(found["fields"]) <= 12
    for row in found["classes"]:
        groups = np.array([row[f"groups_{fold}"] for fold in range(5)])
        assert groups.min() > 0
        assert np.abs(groups - groups.mean()).max() <= max(1, 0.05 * groups.mean())
    assert not found["scarce"]
    assert found["together"] > 1_000
    assert found["cut_at_random"] == pytest.approx(0.8 * found["together"], rel=0.1)
    fold = dict(pl.read_csv(out).select("id", "fold").iter_rows())
    for name in ("train_duplicates.txt", "train_near_duplicates_2021.csv.gz"):
        assert all(fold[a] == fold[b] for a, b in tied_ids(METADATA / name) if a in fold and b in fold)


@pytest.mark.slow
@needs_lists
def test_a_validation_set_with_the_sizes_of_the_competitions_test(cli: Cli, tmp_path: Path) -> None:
    said = cli(
        "folds", METADATA / "train_with_file_sizes.csv.gz", "--like", METADATA / "test_with_file_sizes.csv.gz",
        "--out", tmp_path / "folds.csv", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    (size,) = json.loads(said.out)["like"]
    assert size["look"] == "original_px"
    assert size["before"] == pytest.approx(0.294, abs=0.001)
    assert size["after"] < 0.01


def test_a_validation_set_of_a_label_list_with_its_own_label_set(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("name\nalpha\nbeta\n")
    rows = "".join(f"f{i},{'alpha' if i % 2 else 'beta'},{2048 if i % 3 else 1024}\n" for i in range(40))
    (tmp_path / "list.csv").write_text(f"Id,Target,original_px\n{rows}")
    (tmp_path / "target.csv").write_text("Id,original_px\n" + "".join(f"t{i},2048\n" for i in range(9)))
    call = ["folds", tmp_path / "list.csv", "--label-set", tmp_path / "own.csv", "--like", tmp_path / "target.csv"]
    said = cli(*call, "-k", 4, "--out", tmp_path / "folds.csv")
    assert said.code == 0, said.err


def test_folds_print_their_sizes_and_what_a_check_found(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "folds.csv"
    made = cli("folds", study.path, "-k", 2, "--group", "field", "--out", out).out
    assert "40 fields in 40 groups, split into 2 folds of 20 and 20 fields." in made
    assert "No group" not in made
    assert "No group is in two folds." in cli("folds", study.path, "--group", "field", "--check", out).out


def test_a_pairs_file_without_pairs_is_named(cli: Cli, study: Dataset, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,verdict\n")
    (tmp_path / "doubtful.csv").write_text(f"a,b,verdict\n{study.ids[0]},{study.ids[1]},doubtful\n")
    call = ["--labels", study.path, "--out"]
    assert "pairs.csv has no pairs." in cli("leak", tmp_path / "pairs.csv", *call, tmp_path / "a.csv").out
    said = cli("leak", tmp_path / "doubtful.csv", *call, tmp_path / "b.csv").out
    assert "doubtful.csv are doubtful. Use them with --doubtful." in said
