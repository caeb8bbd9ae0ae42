"""Run the notebooks in ``examples/``, and store the text that their cells print: ``python docs/hooks/notebooks.py``."""

from __future__ import annotations

import re
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


def text_outputs(outputs: list[Any]) -> list[dict[str, Any]]:
    """Return one output with the printed and the returned text of a cell, or none; images and warnings are left out."""
    printed = [each["text"] for each in outputs if each["output_type"] == "stream" and each["name"] == "stdout"]
    shown = [each["data"]["text/plain"] for each in outputs if "text/plain" in each.get("data", {})]
    text = "".join(printed) + "\n".join(each for each in shown if not each.startswith("<IPython"))
    # The folder differs in each run, and so does the speed.
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+", "folder", text)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return [{"name": "stdout", "output_type": "stream", "text": text}] if text else []


def main() -> None:
    """Run each notebook in a new folder, and write it with its text outputs."""
    # Both libraries are partly untyped.
    nbclient: Any = import_module("nbclient")
    nbformat: Any = import_module("nbformat")
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        with tempfile.TemporaryDirectory() as folder:
            resources = {"metadata": {"path": folder}}
            nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
        stored = nbformat.read(path, 4)
        for cell, run in zip(stored.cells, notebook.cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs = [nbformat.from_dict(each) for each in text_outputs(run.outputs)]
        nbformat.write(stored, path)


if __name__ == "__main__":
    main()
