from __future__ import annotations

from pathlib import Path

import pytest

from cytoloc.errors import FormatError, SettingsError
from cytoloc.files import write_json
from cytoloc.labels.label_set import LabelSet
from cytoloc.runs import HEADER, PREDICTIONS, RUN_FORMAT, find_runs, is_run, read_header, refuse_unfinished

SAID = {"fold": 0, "dataset": {"path": "a.dataset", "fingerprint": "f"}, "held_out": ["x"], "trained_on": ["y"]}
LABELS = LabelSet.from_names(["Cortex", "Nucleus"], name="mine")


def run_in(folder: Path, *, finished: bool = True, said: dict[str, object] | None = None) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / HEADER, {**SAID, "label_set": LABELS.to_json(), **(said or {})}, RUN_FORMAT)
    if finished:
        (folder / PREDICTIONS).write_bytes(b"")
    return folder


def test_runs_are_found_alone_and_in_folders(tmp_path: Path) -> None:
    one, two, other = (run_in(tmp_path / name) for name in ("runs/a-fold0", "runs/a-fold1", "b-fold0"))
    (tmp_path / "runs" / "curves").mkdir()
    run_in(tmp_path / "runs" / ".a-fold2.killed")
    assert is_run(one)
    assert not is_run(tmp_path / "runs")
    assert find_runs([tmp_path / "runs", other]) == [one, two, other]
    with pytest.raises(SettingsError, match="runs/a-fold0 is given twice"):
        find_runs([tmp_path / "runs", tmp_path / "runs" / ".." / "runs" / "a-fold0"])
    with pytest.raises(FormatError, match="curves contains no run"):
        find_runs([one, tmp_path / "runs" / "curves"])
    with pytest.raises(FormatError, match=r"The folder .*nowhere does not exist"):
        find_runs([one, tmp_path / "nowhere"])


def test_runs_that_are_not_finished_are_all_named(tmp_path: Path) -> None:
    done, *others = (run_in(tmp_path / f"a-fold{number}", finished=number == 0) for number in range(3))
    refuse_unfinished([done])
    with pytest.raises(FormatError, match=r"a-fold1, .*a-fold2 are not finished\.\n .*--resume"):
        refuse_unfinished([done, *others])


@pytest.mark.parametrize(
    "said",
    [
        {"fold": None},
        {"dataset": "a.dataset"},
        {"dataset": {"path": "a.dataset"}},
        {"held_out": "x"},
        {"trained_on": [3]},
    ],
)
def test_a_damaged_header_is_named_with_what_it_lacks(tmp_path: Path, said: dict[str, object]) -> None:
    assert read_header(run_in(tmp_path / "whole")).items() >= SAID.items()
    assert read_header(tmp_path / "whole")["label_set"] == LABELS
    with pytest.raises(FormatError, match=rf"run\.json is damaged: it has no valid {next(iter(said))}\."):
        read_header(run_in(tmp_path / "damaged", said=said))
    with pytest.raises(FormatError, match="does not describe a label set"):
        read_header(run_in(tmp_path / "without", said={"label_set": None}))
