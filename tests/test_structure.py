"""The shape of the project: who may import whom, what is public, and what a command costs to start."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import cytoloc

SOURCE = Path(cytoloc.__file__).parent
GROUND = {
    "channels",
    "errors",
    "choices",
    "labels",
    "label_conversion",
    "files",
    "parallel",
    "memory",
    "predictions",
    "prediction_files",
    "runs",
}
ALLOWED = {
    "_typing": set[str](),
    "errors": set[str](),
    "choices": {"errors"},
    "parallel": {"errors", "memory"},
    "memory": set[str](),
    "labels": {"choices", "errors", "files"},
    "channels": {"errors"},
    "files": {"errors"},
    "recipes": {"channels", "choices", "errors", "labels"},
    "predictions": {"choices", "errors", "labels"},
    "prediction_files": {"choices", "errors", "labels", "files", "predictions", "runs"},
    "label_conversion": {"choices", "errors", "files", "labels", "predictions"},
    "runs": {"errors", "files", "labels"},
    "contents": GROUND | {"curation", "dataset", "decide", "predict", "recipes"},
    "images": {"channels", "errors", "choices"},
    "dataset": GROUND | {"images"},
    "curation": GROUND | {"dataset", "images"},
    "hpa": GROUND | {"images"},
    "simulate": GROUND | {"images", "dataset.fields", "dataset.store", "dataset.importing", "dataset.manifest"},
    "decide": GROUND,
    "models": GROUND,
    # Model.explain imports explain.maps when it is called.
    "predict": GROUND | {"recipes", "models", "dataset", "decide", "images", "embed.embeddings", "explain.maps"},
    "adoption": GROUND | {"dataset.store", "models", "predict"},
    "cells": GROUND | {"dataset", "decide", "images", "models"},
    "embed": GROUND | {"dataset", "models", "predict"},
    "explain": GROUND | {"dataset", "embed", "models", "predict"},
    "export": GROUND | {"models", "decide", "predict"},
    "training": GROUND | {"recipes", "models", "dataset", "predict", "curation.folds_file"},
    "napari": GROUND | {"dataset", "images", "predict"},
    "serve": GROUND | {"dataset", "embed", "explain", "images", "predict", "report", "simulate"},
    "torch": {"choices", "dataset", "errors"},
    "report": GROUND | {"curation", "dataset", "decide", "embed", "explain", "images", "predict", "recipes"},
    "reproduce": GROUND
    | {"curation", "dataset", "decide", "models", "predict", "recipes", "training.options", "training.run"},
    "cli": GROUND
    | {
        "adoption",
        "cells",
        "curation",
        "contents",
        "embed",
        "explain",
        "export",
        "recipes",
        "models",
        "dataset",
        "decide",
        "hpa",
        "predict",
        "training",
        "report",
        "reproduce",
        "serve",
        "simulate",
        "images",
    },
}
"""What each room may import besides itself: dependencies point down only."""


def imports(path: Path) -> Iterator[str]:
    """Yield every cytoloc module that a file imports, at any depth, without the package's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            if node.module == "cytoloc":
                yield from (name.name for name in node.names)
            elif node.module and node.module.startswith("cytoloc."):
                inner = node.module.removeprefix("cytoloc.")
                is_package = (SOURCE / Path(*inner.split("."))).is_dir()
                yield from (f"{inner}.{name.name}" if is_package else inner for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name.removeprefix("cytoloc.") for name in node.names if name.name.startswith("cytoloc."))


def test_imports_point_down() -> None:
    seen = set()
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room in {"__init__", "__main__"}:
            continue
        seen.add(room)
        for module in imports(path):
            inner = module.split(".")[0]
            allowed = inner in (room, "_typing") or inner in ALLOWED[room] or module in ALLOWED[room]
            assert allowed, f"{path.relative_to(SOURCE)} imports cytoloc.{module}"
    assert seen == set(ALLOWED)


def test_public_names_are_those_written_down() -> None:
    assert sorted(cytoloc.__all__) == [
        "Aggregated",
        "Auto",
        "AveragePrecision",
        "BundleOptions",
        "CHANNELS",
        "Classical",
        "CropOptions",
        "CytolocError",
        "Dataset",
        "Decision",
        "Design",
        "Embeddings",
        "Evaluation",
        "Exact",
        "ExpectedF1",
        "ExplainOptions",
        "Explanations",
        "FetchOptions",
        "Fixed",
        "Flaws",
        "FolderOptions",
        "GlobalGrid",
        "Grid",
        "HpaSegmentation",
        "ImportOptions",
        "InstanSeg",
        "LabelFiles",
        "LabelList",
        "LabelSet",
        "Location",
        "Model",
        "Neighbors",
        "OnnxFacts",
        "PlateOptions",
        "Predictions",
        "Ratio",
        "RayWorkers",
        "Recipe",
        "ReportOptions",
        "ReproduceOptions",
        "Rules",
        "Run",
        "ServeSettings",
        "SheetOptions",
        "Shrunk",
        "Smooth",
        "Stack",
        "StreamOptions",
        "StreamState",
        "TrainOptions",
        "TuneOptions",
        "__version__",
        "adjust",
        "adopt",
        "adopt_onnx",
        "adopt_subcell",
        "aggregate_cells",
        "attention_maps",
        "attention_weights",
        "audit_labels",
        "cell_anndata",
        "cell_average_precision",
        "cell_mean_average_precision",
        "check_adopted",
        "check_folds",
        "compare_runs",
        "contact_sheet",
        "conversion",
        "convert_labels",
        "convert_predictions",
        "cross_fit",
        "dataset_from_arrays",
        "decode_mask",
        "describe",
        "duplicates_sheet",
        "embed_sources",
        "encode_mask",
        "ensemble",
        "errors",
        "evaluate",
        "explain_sources",
        "export_model",
        "fetch_hpa",
        "find_duplicates",
        "find_label_errors",
        "find_leak",
        "find_neighbors",
        "fit_and_cross_fit",
        "fit_decision",
        "fold_quality",
        "fold_sheet",
        "import_folder",
        "import_hpa",
        "import_kaggle",
        "import_plate",
        "labels_of",
        "load",
        "load_recipe",
        "make_folds",
        "make_validation_fold",
        "map_positions",
        "mean_average_precision",
        "neighbor_votes",
        "open_dataset",
        "open_sources",
        "outline_sheet",
        "plan_hpa",
        "plan_kaggle2018",
        "predict_parts",
        "prediction_table",
        "preview_folder",
        "preview_plate",
        "published_models",
        "read_decision",
        "read_embeddings",
        "read_folds",
        "read_label_list",
        "read_predictions",
        "recipe_names",
        "reproduce_kaggle2018",
        "score_plot",
        "segment_cells",
        "serve_model",
        "simulate_competition",
        "simulate_dataset",
        "simulate_hpa",
        "simulate_kaggle",
        "simulate_study",
        "torch",
        "train",
        "training_curve",
        "tune_recipe",
        "write_bundle",
        "write_cell_submission",
        "write_corrections",
        "write_decision",
        "write_duplicates",
        "write_embeddings",
        "write_explanations",
        "write_folds",
        "write_leak",
        "write_map",
        "write_predictions",
        "write_report",
        "write_table",
    ]
    modules = {path.stem for path in SOURCE.iterdir()}
    for name in set(cytoloc.__all__) - {"errors", "torch", "__version__"}:
        assert name not in modules, f"the module {name} would hide the public name"
        value = getattr(cytoloc, name)
        assert not callable(value) or value.__doc__, name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cytoloc.nonsense


def test_the_architecture_names_every_package_and_module() -> None:
    text = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    parts = re.split(r"^\*\*`([a-z]+)/`\*\*.*$", text, flags=re.MULTILINE)
    named = {
        package: set(re.findall(r"`([a-z_0-9]+)/?`", "".join(re.findall(r"^\| (`.*?) \|", body, flags=re.MULTILINE))))
        for package, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        inside = path.relative_to(SOURCE)
        package = inside.parts[0] if len(inside.parts) > 1 else "cytoloc"
        if path.name != "__init__.py":
            found.setdefault(package, set()).update({*inside.parts[1:-1], path.stem})
    found["cytoloc"] |= {"__init__"}
    found["labels"] |= {"sets"}
    assert named == found


def test_packages_are_small() -> None:
    modules = Counter(path.parent for path in SOURCE.rglob("*.py") if path.name != "__init__.py")
    assert [str(folder) for folder, count in modules.items() if count > 14 and folder.name != "cli"] == []


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['cytoloc', '--help']\n"
        "from cytoloc.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'polars', 'cv2', 'tensorstore', 'matplotlib', 'sklearn', 'httpx'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    assert "loaded: []" in run_python(code)


def test_core_rooms_work_without_torch() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'timm', 'pytorch_lightning'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import cytoloc.dataset.sources.kaggle, cytoloc.curation.folds, cytoloc.simulate.study, cytoloc.decide\n"
        "import cytoloc.recipes.recipe\n"
        "import cytoloc.report.figures, cytoloc.report.tables, cytoloc.predictions\n"
        "import cytoloc.report.page, cytoloc.report.explanations, cytoloc.explain.maps\n"
        "print('fine')"
    )
    assert run_python(code) == "fine\n"


def test_import_and_help_work_where_unix_modules_are_missing() -> None:
    # On Windows both are missing.
    code = (
        "import sys\n"
        "sys.modules.update(fcntl=None, resource=None)\n"
        "import cytoloc\n"
        "for name in set(cytoloc.__all__): getattr(cytoloc, name)\n"
        "sys.argv = ['cytoloc', '--help']\n"
        "from cytoloc.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
    )
    assert "Usage: cytoloc" in run_python(code)


def test_module_and_command_are_the_same() -> None:
    command = Path(sys.executable).parent / "cytoloc"
    both = [
        subprocess.run([*call, "--help"], check=True, capture_output=True, text=True).stdout
        for call in ([sys.executable, "-m", "cytoloc"], [str(command)])
    ]
    assert both[0] == both[1]
    assert "Usage: cytoloc" in both[0]
