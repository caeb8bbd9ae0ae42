"""The site: its reference is complete, it builds without warnings, and its pages load nothing from other hosts."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import cytoloc
from cytoloc import errors
from cytoloc.cli.app import app
from cytoloc.labels.label_set import SHIPPED
from cytoloc.recipes.recipe import Recipe, flat, load_recipe, recipe_names
from tests.docs.pages import ROOT, load_hook

HOOK = load_hook()
PAGES: dict[str, str] = HOOK.generated_pages()
NO_MKDOCS = importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None


def test_every_public_name_has_one_entry_in_the_reference() -> None:
    entries = [name for page, text in PAGES.items() if "/api/" in page for name in re.findall("::: cytoloc.(.*)", text)]
    assert len(entries) == len(set(entries))
    assert {name for name in entries if not name.startswith("torch.")} == set(cytoloc.__all__) - HOOK.ELSEWHERE
    torch_names = set(re.findall(r"^class (\w+)", (ROOT / "src/cytoloc/torch.py").read_text(), re.MULTILINE))
    assert {name.removeprefix("torch.") for name in entries if name.startswith("torch.")} == torch_names


def test_every_command_and_option_is_in_the_reference() -> None:
    text = PAGES["reference/commands.md"]
    found = dict(HOOK.walk(typer.main.get_command(app), "cytoloc"))
    assert len(found) > 20
    for name, command in found.items():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for option in command.params:
            assert option.param_type_name == "argument" or option.name == "help" or f"`{option.opts[0]}`" in section


def test_every_recipe_key_has_a_type_a_default_and_an_explanation() -> None:
    text = PAGES["reference/recipe-keys.md"]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    keys = [key for key, _ in flat({name: value for name, value in Recipe.model_fields.items() if name})]
    assert len(rows) > len(keys)
    sections = load_recipe("quick").model_dump()
    expected = [name for name, value in sections.items() if not isinstance(value, dict)]
    expected += [key for value in sections.values() if isinstance(value, dict) for key in value]
    assert sorted(row[0] for row in rows) == sorted(expected)
    assert ("epochs", "integer (≥ 1)", "`20`") in {row[:3] for row in rows}


def test_recipes_label_sets_and_errors_are_in_the_reference() -> None:
    assert all(f'"{name}"' in PAGES["reference/recipes.md"] for name in recipe_names())
    assert all(f"## {name}\n" in PAGES["reference/label-sets.md"] for name in SHIPPED)
    assert "| `16` | Cytokinetic bridge | GO:" in PAGES["reference/label-sets.md"]
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and each.__module__ == errors.__name__]
    assert all(f"| `{kind.__name__}` |" in PAGES["reference/errors.md"] for kind in kinds)
    assert "| `SettingsError` | 2 | `CytolocError`, `ValueError` |" in PAGES["reference/errors.md"]


def test_the_reference_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'timm', 'pytorch_lightning'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.path.insert(0, {str(ROOT / 'docs' / 'hooks')!r})\n"
        "import reference\n"
        "print(len(reference.generated_pages()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) == len(PAGES)


@pytest.mark.slow
@pytest.mark.skipif(NO_MKDOCS, reason="the extra docs is not installed")
def test_the_site_builds_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert loaded_from_elsewhere(page.read_text(encoding="utf-8")) == [], page
    for style in (tmp_path / "site").rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*", style.read_text("utf-8")) == []


def loaded_from_elsewhere(html: str) -> list[str]:
    """Return the addresses of other hosts that a page loads by itself: scripts, styles, fonts, images and frames."""
    tags = re.findall(r"<(?:script|img|iframe|source|video|audio|embed|object|link)\b[^>]*>", html)
    loads = [tag for tag in tags if not re.search(r'rel="?(?:canonical|prev|next)', tag)]
    return [tag for tag in loads if re.search(r"""(?:src|href|srcset|data)=["']?(?:https?:)?//""", tag)]


def test_addresses_of_other_hosts_are_noticed() -> None:
    assert loaded_from_elsewhere('<p><a href="https://a.org">a</a><img src="../a.png"><script src="b.js">') == []
    assert len(loaded_from_elsewhere('<img src="https://a.org/a.png"><script src=//b.org/c.js></script>')) == 2
    assert loaded_from_elsewhere('<link rel="stylesheet" href="https://fonts.example.org/css">')
