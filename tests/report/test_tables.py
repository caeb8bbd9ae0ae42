from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Cli


def test_commands_use_a_leak_only_when_asked(cli: Cli, tmp_path: Path) -> None:
    predicted, labels, leak = tmp_path / "p.csv", tmp_path / "l.csv", tmp_path / "leak.csv"
    predicted.write_text("Id,Predicted\na,0\nb,0\nc,7\n")
    labels.write_text("Id,Target\na,0\nb,7\nc,7\n")
    leak.write_text("Id,Target,source\nb,7,x\n")
    plain = json.loads(cli("evaluate", predicted, "--labels", labels, "--json").out)
    both = json.loads(cli("evaluate", predicted, "--labels", labels, "--leak", leak, "--json").out)
    assert "leak" not in plain
    assert both["macro_f1"] == plain["macro_f1"] < both["leak"]["macro_f1_with"] == 2 / 28
    assert "macro F1 with leaked labels" in cli("evaluate", predicted, "--labels", labels, "--leak", leak).out
