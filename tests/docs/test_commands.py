"""The commands and the Python names that the documentation shows exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cytoloc
from cytoloc.cli.app import app
from tests.docs.pages import PAGES, ROOT, blocks_of, load_hook

TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in [*PAGES, ROOT / "README.md"]}
TEXTS["reference/commands.md, generated"] = load_hook().commands_page()
COMMAND: Any = typer.main.get_command(app)
ENDS = {"|", ">", "&&", ";", "||"}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words after ``cytoloc`` of each command in the bash blocks of a page."""
    for block in blocks_of(text):
        if block.language != "bash":
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "cytoloc" not in words or "install" in words:
                continue
            words = words[words.index("cytoloc") + 1 :]
            end = next((place for place, word in enumerate(words) if word in ENDS), len(words))
            yield words[:end]


def check(words: list[str]) -> None:
    """Raise unless the command line takes these words; nothing is run."""
    command, name = COMMAND, "cytoloc"
    while hasattr(command, "commands"):
        if not words or words in (["--version"], ["--help"]):
            assert command.invoke_without_command
            return
        name, command, words = command.resolve_command(command.context_class(command, info_name=name), words)
    command.make_context(name, list(words))


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_of_a_page_can_be_called(page: str) -> None:
    for words in commands(TEXTS[page]):
        try:
            check(words)
        except Exception as error:
            error.add_note(f"{page}: cytoloc {shlex.join(words)}")
            raise


def test_commands_are_found_in_the_pages() -> None:
    found = [words for text in TEXTS.values() for words in commands(text)]
    assert len(found) > 100
    assert {words[0] for words in found if words} >= {"import", "train", "predict", "decide", "evaluate", "simulate"}


@pytest.mark.parametrize(
    "line",
    [
        "cytoloc trian quick a.dataset",
        "cytoloc predict builtin images/ --out a.parquet --speed 3",
        "cytoloc predict builtin images/",
        "cytoloc train quick a.dataset --folds f.csv --out runs --devices many",
        "cytoloc decide guess",
    ],
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    (words,) = commands(f"```bash\n{line}\n```\n")
    with pytest.raises(Exception, match=r".+"):
        check(words)


@pytest.mark.parametrize("page", TEXTS)
def test_python_blocks_compile_and_use_public_names(page: str) -> None:
    for block in blocks_of(TEXTS[page]):
        if block.language == "python":
            compile(block.code, f"{page}, line {block.line}", "exec")
            used = set(re.findall(r"\b(?:cl|(?<![\w.])cytoloc)\.([a-zA-Z]\w*)", block.code))
            # Ray's example needs what is not public.
            used -= set(re.findall(r"from cytoloc\.(\w+)", block.code))
            assert used <= set(cytoloc.__all__), f"{page}, line {block.line}"


def test_links_between_files_lead_somewhere() -> None:
    made = load_hook().generated_pages()
    texts = [*PAGES, *ROOT.glob("*.md"), *(ROOT / "research").glob("*.md"), *(ROOT / ".github").rglob("*.md")]
    # The card is packed in the built-in model, so its one link waits for the next packing; the site corrects it.
    known = {("docs/builtin.md", "simulation.md")}
    missing = {
        (str(path.relative_to(ROOT)), link)
        for path in texts
        for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if not (path.parent / link).exists()
        and str((path.parent / link).resolve().relative_to(ROOT / "docs") if is_page(path, link) else "") not in made
    }
    assert missing <= known


def test_links_to_the_repository_lead_to_its_files() -> None:
    texts = [*(path.read_text(encoding="utf-8") for path in PAGES), *load_hook().generated_pages().values()]
    linked = {path for text in texts for path in re.findall(r"cytoloc/cytoloc/blob/main/([^)#]+)", text)}
    assert len(linked) > 8
    assert [path for path in linked if not (ROOT / path).is_file()] == []


def is_page(path: Path, link: str) -> bool:
    """Return whether a link leads to a place in the folder of the site."""
    return (path.parent / link).resolve().is_relative_to(ROOT / "docs")
