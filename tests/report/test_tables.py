from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cytoloc.decide import macro_f1
from cytoloc.labels import LabelSet
from cytoloc.report.tables import leak_effect, leak_lines
from tests.conftest import Cli

HPA28 = LabelSet.hpa28()
IDS = ("a", "b", "c", "d")


def matrix(*rows: tuple[int, ...]) -> np.ndarray:
    values = np.zeros((len(rows), 28), bool)
    for row, ids in enumerate(rows):
        values[row, list(ids)] = True
    return values


def test_a_leak_is_scored_with_and_without() -> None:
    truth, predicted = matrix((0,), (7,), (7,), (25,)), matrix((0,), (0,), (7,), (7,))
    effect = leak_effect(IDS, predicted, truth, {"b": (7,), "d": (3,), "elsewhere": (1,)}, HPA28)
    assert (effect["fields"], effect["correct"]) == (2, 1)
    assert effect["macro_f1_with"] == macro_f1(matrix((0,), (7,), (7,), (3,)), truth)
    assert effect["macro_f1_without"] == macro_f1(predicted, truth)
    assert effect["macro_f1_others"] == macro_f1(predicted[[0, 2]], truth[[0, 2]])
    assert leak_effect(IDS, predicted, truth, dict.fromkeys(IDS, (0,)), HPA28)["macro_f1_others"] is None
    assert "2 of these fields, 1 with" in leak_lines(effect)[0]


def test_commands_use_a_leak_only_when_asked(cli: Cli, tmp_path: Path) -> None:
    predicted, labels, leak = tmp_path / "p.csv", tmp_path / "l.csv", tmp_path / "leak.csv"
    predicted.write_text("Id,Predicted\na,0\nb,0\nc,7\n")
    labels.write_text("Id,Target\na,0\nb,7\nc,7\n")
    leak.write_text("Id,Target,source\nb,7,x\n")
    plain = json.loads(cli("evaluate", predicted, "--labels", labels, "--json").out)
    both = json.loads(cli("evaluate", predicted, "--labels", labels, "--leak", leak, "--json").out)
    assert "leak" not in plain
    assert both["macro_f1"] == plain["macro_f1"] < both["leak"]["macro_f1_with"] == 2 / 28
    assert "macro F1 with its labels put in" in cli("evaluate", predicted, "--labels", labels, "--leak", leak).out
