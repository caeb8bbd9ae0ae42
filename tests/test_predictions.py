from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cytoloc.decide.inputs import join_members
from cytoloc.errors import FormatError, LabelSetError, SettingsError, TableError, UnknownIdError
from cytoloc.labels.label_set import SHIPPED, LabelSet, find_label_set
from cytoloc.prediction_files import read_predictions, write_predictions
from cytoloc.predictions import Predictions, combine
from tests.conftest import DATA

HPA28 = LabelSet.hpa28()
OWN = LabelSet.from_names(["Nuclear rim", "Cytoplasm", "Spots"], name="own")


def scores_of(*ids: str, seed: int = 0) -> Predictions:
    values = np.random.default_rng(seed).random((len(ids), 28), dtype=np.float32)
    return Predictions(ids, values, HPA28, {"seed": seed})


def test_parquet_round_trip(tmp_path: Path) -> None:
    predictions = scores_of("b", "a")
    write_predictions(predictions, tmp_path / "s.parquet")
    back = read_predictions(tmp_path / "s.parquet")
    assert back.ids == ("b", "a")
    assert back.probabilities.dtype == np.float32
    np.testing.assert_array_equal(back.probabilities, predictions.probabilities)
    assert back.provenance == {"seed": 0}
    assert pq.read_schema(tmp_path / "s.parquet").names == ["id", *map(str, range(28))]


def test_csv_and_numpy_are_read_too(tmp_path: Path) -> None:
    predictions = scores_of("a", "b")
    table = pl.DataFrame({"Id": ["a", "b"], **{str(i): predictions.probabilities[:, i] for i in range(28)}})
    table.write_csv(tmp_path / "s.csv")
    np.save(tmp_path / "s.npy", predictions.probabilities)
    np.savez(tmp_path / "s.npz", probabilities=predictions.probabilities, other=np.zeros(1))
    (tmp_path / "ids.txt").write_text("a\nb\n")
    for name, ids in (("s.csv", None), ("s.npy", tmp_path / "ids.txt"), ("s.npz", tmp_path / "ids.txt")):
        back = read_predictions(tmp_path / name, ids=ids)
        assert back.ids == ("a", "b")
        np.testing.assert_allclose(back.probabilities, predictions.probabilities, rtol=1e-6)


def test_another_parquet_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"id": ["a"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(FormatError, match="not a cytoloc-predictions"):
        read_predictions(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(FormatError, match="cannot be read as Parquet"):
        read_predictions(tmp_path / "y.parquet")


@pytest.mark.parametrize("value", [np.nan, -0.01, 1.01, 3.0])
def test_values_that_are_no_probabilities_are_refused(value: float) -> None:
    values = np.full((2, 28), 0.5, np.float32)
    values[1, 7] = value
    with pytest.raises(TableError, match="Field b, location 7") as caught:
        Predictions(("a", "b"), values, HPA28)
    assert ("sigmoid" in caught.value.hint) == (not np.isnan(value))


def test_numpy_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a\nb\n")
    np.savez(tmp_path / "s.npz", np.full((3, 28), 0.5))
    with pytest.raises(
        TableError, match=r"s\.npz has the shape \(3, 28\), but 2 ids in .*ids\.txt .*need the shape \(2, 28\)"
    ):
        read_predictions(tmp_path / "s.npz", ids=tmp_path / "ids.txt")


def test_ids_must_differ() -> None:
    with pytest.raises(TableError, match="a occurs twice"):
        scores_of("a", "a")


def test_rows_come_in_the_order_asked_for() -> None:
    predictions = scores_of("a", "b", "c")
    np.testing.assert_array_equal(predictions.rows(["c", "a"]), predictions.probabilities[[2, 0]])
    with pytest.raises(TableError, match=r"no prediction, e\.g\. z"):
        predictions.rows(["a", "z"])


def test_folds_are_joined_and_members_averaged() -> None:
    fold0, fold1 = scores_of("a", "b"), scores_of("c", seed=1)
    assert combine([fold0, fold1]).ids == ("a", "b", "c")
    other = scores_of("b", "a", seed=2)
    with pytest.raises(TableError, match="more members than others"):
        combine([fold0, other, fold1])
    mean = combine([fold0, other, fold1, fold1])
    expected = (fold0.probabilities[1].astype(float) + other.probabilities[0]) / 2
    np.testing.assert_allclose(mean.rows(["b"])[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(mean.rows(["c"]), fold1.probabilities)
    with pytest.raises(TableError, match="share only some of their fields"):
        combine([fold0, scores_of("b", "c")])


def test_what_is_made_of_scores_says_that_they_were_trained_on() -> None:
    one, two, three = (replace(scores_of("a", "b", seed=i), provenance={"fields_trained_on": i}) for i in (0, 2, 1))
    assert combine([one, two, three]).provenance["fields_trained_on"] == 2
    assert combine([two]).provenance["fields_trained_on"] == 2
    assert combine([one, one]).provenance["fields_trained_on"] == 0
    assert "fields_trained_on" not in combine([scores_of("a"), scores_of("a", seed=1)]).provenance


def test_members_are_joined_by_id_and_may_lack_fields() -> None:
    one, other = scores_of("a", "b"), scores_of("c", "b", seed=1)
    ids, joined, label_set = join_members({"one": one, "other": other})
    assert (ids, label_set) == (("a", "b", "c"), HPA28)
    np.testing.assert_array_equal(joined["one"][:2], one.probabilities)
    np.testing.assert_array_equal(joined["other"][[2, 1]], other.probabilities)
    assert np.isnan(joined["one"][2]).all()
    assert np.isnan(joined["other"][0]).all()
    with pytest.raises(
        TableError, match="'strange' shares no field with the 3 fields of the other members; its ids look like z"
    ):
        join_members({"one": one, "other": other, "strange": scores_of("z")})
    with pytest.raises(TableError, match="No predictions were given"):
        join_members({})


def test_damaged_numpy_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("a\n")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.savez(tmp_path / "objects.npz", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "none.npz")
    np.savez_compressed(tmp_path / "cut.npz", np.random.default_rng(0).random((1, 28)))
    content = bytearray((tmp_path / "cut.npz").read_bytes())
    content[80:120] = bytes(40)
    (tmp_path / "cut.npz").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("probabilities", "no numbers")
    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 28), }"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + (len(head) + 1).to_bytes(2, "little") + head + b"\n")
    for name, message in (
        ("text.npz", "contains no array"),
        ("huge.npy", "cannot be read as a NumPy file"),
        ("empty.npy", "cannot be read as a NumPy file"),
        ("objects.npz", "cannot be read as a NumPy file"),
        ("cut.npz", "cannot be read as a NumPy file"),
        ("none.npz", "contains no array"),
    ):
        with pytest.raises(TableError, match=message):
            read_predictions(tmp_path / name, ids=tmp_path / "ids.txt")


def test_what_is_wrong_with_scores_names_their_file(tmp_path: Path) -> None:
    table = pl.DataFrame({"Id": ["a", "a"], **{str(i): [0.5, 0.5] for i in range(28)}})
    table.write_csv(tmp_path / "twice.csv")
    with pytest.raises(TableError, match=r"twice\.csv: .*the id a occurs twice"):
        read_predictions(tmp_path / "twice.csv")


@pytest.mark.parametrize("damage", ["text", "null", "provenance"])
def test_a_scores_file_of_other_types_is_damaged(tmp_path: Path, damage: str) -> None:
    write_predictions(scores_of("a", "b"), tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    kept = table.schema.metadata
    if damage == "text":
        table = table.set_column(3, "2", pa.array(["x", "y"]))
    elif damage == "null":
        table = table.set_column(0, "id", pa.array(["a", None]))
    else:
        kept = {b"cytoloc": kept[b"cytoloc"].replace(b'{"seed": 0}', b'{"fields_trained_on": "2"}')}
    pq.write_table(table.replace_schema_metadata(kept), tmp_path / "d.parquet")
    with pytest.raises(FormatError, match="is damaged"):
        read_predictions(tmp_path / "d.parquet")


def test_other_writers_types_of_columns_are_read(tmp_path: Path) -> None:
    predictions = scores_of("a", "b")
    write_predictions(predictions, tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    wide = pa.schema([("id", pa.large_string()), *((str(i), pa.float64()) for i in range(28))])
    pq.write_table(table.cast(wide).replace_schema_metadata(table.schema.metadata), tmp_path / "w.parquet")
    np.testing.assert_array_equal(read_predictions(tmp_path / "w.parquet").probabilities, predictions.probabilities)


def few(*ids: str, label_set: LabelSet = OWN) -> Predictions:
    return Predictions(ids, np.random.default_rng(1).random((len(ids), len(label_set)), dtype=np.float32), label_set)


def test_the_label_set_is_kept(tmp_path: Path) -> None:
    write_predictions(few("a", "b"), tmp_path / "s.parquet")
    assert pq.read_schema(tmp_path / "s.parquet").names == ["id", "nuclear_rim", "cytoplasm", "spots"]
    assert read_predictions(tmp_path / "s.parquet").label_set == OWN
    assert read_predictions(tmp_path / "s.parquet", label_set=OWN).ids == ("a", "b")
    with pytest.raises(LabelSetError, match=r"label sets differ: own .* in .*s\.parquet") as caught:
        read_predictions(tmp_path / "s.parquet", label_set=HPA28)
    assert "labels convert" in caught.value.hint
    table = pq.read_table(tmp_path / "s.parquet")
    kept = {b"cytoloc": table.schema.metadata[b"cytoloc"].replace(b"Spots", b"Cytoplasm")}
    pq.write_table(table.replace_schema_metadata(kept), tmp_path / "d.parquet")
    with pytest.raises(FormatError, match="is damaged: The label set own has two locations"):
        read_predictions(tmp_path / "d.parquet")


def test_scores_have_a_column_for_each_location() -> None:
    with pytest.raises(
        TableError, match=r"has the shape \(1, 2\), but 1 fields and the label set own .*need the shape \(1, 3\)"
    ):
        Predictions(("a",), np.zeros((1, 2), np.float32), OWN)
    with pytest.raises(TableError, match=r"location spots \(Spots\): 2 is not a probability"):
        Predictions(("a",), np.array([[0, 1, 2]], np.float32), OWN)


@pytest.mark.parametrize("by", ["keys", "names"])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_csv_by_keys_or_names_tells_its_shipped_label_set(tmp_path: Path, name: str, by: str) -> None:
    label_set = find_label_set(name)
    predictions = few("a", "b", label_set=label_set)
    order = np.random.default_rng(0).permutation(len(label_set))
    # Any order, any case, and the column of ids in lower case, as people have it.
    columns = {getattr(label_set, by)[i].upper(): predictions.probabilities[:, i] for i in order}
    pl.DataFrame({"id": ["a", "b"], **columns}).write_csv(tmp_path / "s.csv")
    back = read_predictions(tmp_path / "s.csv")
    assert back.label_set == label_set
    np.testing.assert_allclose(back.probabilities, predictions.probabilities, rtol=1e-6)


def test_a_csv_of_own_locations_needs_its_label_set(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("ID,Spots,nuclear_rim,CYTOPLASM\na,0.1,0.2,0.3\n")
    assert read_predictions(path, label_set=OWN).probabilities.tolist() == [pytest.approx([0.2, 0.3, 0.1])]
    with pytest.raises(TableError, match="match no shipped label set") as caught:
        read_predictions(path)
    assert "`label_set`" in caught.value.hint
    for content, message, hint in (
        (
            "id,Spots,Cytoplasm\na,0.1,0.2\n",
            r"lacks columns for 1 locations .* nuclear_rim \(Nuclear rim\)",
            "one column per",
        ),
        (
            "id,Spots,Cytoplasm,Nuclear rim,mean\na,1,1,1,1\n",
            "'mean' is not a location of the label set own",
            "locations",
        ),
        ("id,Spots,Cytoplasma,Nuclear rim\na,1,1,1\n", "'Cytoplasma' is not a location", "Did you mean"),
        ("id,Spots,spots,Nuclear rim\na,1,1,1\n", "Spots and spots are the same location", "Remove one"),
        ("name,Spots,Cytoplasm,Nuclear rim\na,1,1,1\n", "lacks the column Id", ""),
    ):
        path.write_text(content)
        with pytest.raises(TableError, match=message) as caught:
            read_predictions(path, label_set=OWN)
        assert hint in str(caught.value)


def test_arrays_of_own_locations_need_their_label_set(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", few("a", "b").probabilities)
    (tmp_path / "ids.txt").write_text("a\nb\n")
    assert read_predictions(tmp_path / "s.npy", ids=tmp_path / "ids.txt", label_set=OWN).label_set == OWN
    with pytest.raises(TableError, match="has 3 columns, and their label set is unknown") as caught:
        read_predictions(tmp_path / "s.npy", ids=tmp_path / "ids.txt")
    assert "`label_set`" in caught.value.hint
    with pytest.raises(TableError, match=r"need the shape \(2, 28\)"):
        read_predictions(tmp_path / "s.npy", ids=tmp_path / "ids.txt", label_set=HPA28)


def test_scores_of_different_label_sets_do_not_mix() -> None:
    one, other = few("a", "b"), few("a", "b", label_set=LabelSet.hpa19())
    with pytest.raises(LabelSetError, match="hpa19"):
        combine([one, other])
    with pytest.raises(LabelSetError, match=r"label sets differ: hpa19 .* in the member 'y'"):
        join_members({"x": one, "y": other})
    # What a label set is called does not matter.
    assert combine([one, replace(one, label_set=replace(OWN, name="other"))]).label_set == OWN


def test_tables_as_people_have_them_are_read() -> None:
    folder = DATA / "awkward" / "tables"
    if not folder.is_dir():
        pytest.skip(f"tables are not at {folder}; set CYTOLOC_TEST_DATA")
    by_id, by_name = (read_predictions(folder / name) for name in ("scores_lower_id.csv", "scores_by_class_name.csv"))
    assert by_id.label_set == by_name.label_set == HPA28
    np.testing.assert_array_equal(by_id.rows(by_name.ids), by_name.probabilities)


def test_predictions_are_indexed_and_turn_into_tables() -> None:
    values = np.array([[0.9, 0.2], [0.1, 0.8], [0.5, 0.4]], np.float32)
    labels = LabelSet.from_names(["Cytosol", "Nucleoli"], name="two")
    plain = Predictions(("a", "b", "c"), values, labels)
    decided = Predictions(("a", "b", "c"), values, labels, {"caution": "Careful."}, values > 0.45, {"d": "is empty"})
    assert repr(plain) == "Predictions(3 fields, 2 locations of two)"
    assert repr(decided) == "Predictions(3 fields, 2 locations of two, decided, 1 rejected)"
    assert decided.caution == "Careful."
    assert decided["b"] == decided[1] == list(decided)[-2]
    assert repr(decided[0]) == "<a: Cytosol 0.90, Nucleoli 0.20; located in Cytosol>"
    assert decided[1:].ids == decided[["b", "c"]].ids == decided[np.array([False, True, True])].ids == ("b", "c")
    assert decided[[2, 0]].decided is not None
    assert [[x.key for x in each] for each in decided.locations] == [["cytosol"], ["nucleoli"], ["cytosol"]]
    with pytest.raises(SettingsError, match="no decision was applied"):
        _ = plain.locations
    with pytest.raises(UnknownIdError, match="no prediction for the field 'x'"):
        plain["x"]
    with pytest.raises(IndexError):
        plain[3]
    table = decided.to_polars()
    assert table.columns == ["id", "predicted", "cytosol", "nucleoli"]
    assert table["predicted"].to_list() == [["cytosol"], ["nucleoli"], ["cytosol"]]
    frame = plain.to_pandas(names=True)
    assert frame.loc["b", "Nucleoli"] == pytest.approx(0.8)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("index", ["", ",", "index,"])
def test_tables_of_other_programs_are_read(separator: str, index: str, tmp_path: Path) -> None:
    locations = LabelSet.hpa28()
    values = np.random.default_rng(0).random((2, 28)).astype(np.float32)
    values[0, 0], values[1, 1] = 1.0005, -1e-7
    rows = []
    for number, (name, row) in enumerate(zip("ab", values, strict=True)):
        cells = [f"{value:.6f}".replace(".", "," if separator != "," else ".") for value in row]
        rows.append([*([str(number)] if index else []), name, *cells])
    header = [*([index[:-1]] if index else []), "ID", *locations.names]
    path = tmp_path / "s.csv"
    path.write_text("\n".join(separator.join(each) for each in [header, *rows]) + "\n")
    found = read_predictions(path)
    assert (found.ids, found.label_set) == (("a", "b"), locations)
    np.testing.assert_allclose(found.probabilities, values.clip(0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.with_columns(fold=pl.lit(1), name=pl.lit("x")), r"not locations .*: fold, name\..*Remove"),
        (lambda table: table.with_columns(pl.col("0") * 90 + 5), r"is not a probability.*Divide percentages by 100"),
        (lambda table: table.with_columns(pl.col("0") - 3), r"is not a probability.*sigmoid"),
        (lambda table: table.with_columns(pl.lit(1.01).alias("0")), r"1\.01 is not a probability"),
        (lambda table: table.rename({"Id": "image"}), r"lacks the column Id.*Rename the column image to Id"),
    ],
)
def test_what_cannot_be_read_has_a_hint_that_fits(change: Any, message: str, tmp_path: Path) -> None:
    table = pl.DataFrame({"Id": ["a", "b"], **{str(key): [0.2, 0.4] for key in range(28)}})
    change(table).write_csv(tmp_path / "s.csv")
    with pytest.raises(TableError, match=f"(?s){message}"):
        read_predictions(tmp_path / "s.csv")
