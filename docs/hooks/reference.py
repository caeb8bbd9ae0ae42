"""The pages of the site that are made at build time: the reference from the code, the model card and the notebooks.

MkDocs loads this file as a hook (``hooks`` in ``mkdocs.yml``). Nothing that it makes is stored in the repository, so
the reference cannot differ from the code.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer.main
from pydantic import BaseModel

import cytoloc
from cytoloc import errors
from cytoloc.labels.label_set import SHIPPED, LabelSet, find_label_set
from cytoloc.recipes import recipe as recipe_module
from cytoloc.recipes import sections
from cytoloc.recipes.recipe import Recipe, load_recipe, loss_in_words, published_scores, recipe_names

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
REPOSITORY: Final = "https://github.com/cytoloc/cytoloc"

API: Final[dict[str, dict[str, Any]]] = tomllib.loads(Path(__file__).with_name("api.toml").read_text(encoding="utf-8"))
"""The pages of the Python API: title, summary and public names of each."""

ELSEWHERE: Final = {"__version__", "errors", "torch", "CytolocError"}
"""Public names without an entry of their own: the version, the two public modules, and the errors on their own page."""

NOTEBOOKS: Final = {
    "tutorials/notebook-own-images.md": "own_images.ipynb",
    "tutorials/notebook-own-label-set.md": "own_label_set.ipynb",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the files of the site."""
    from mkdocs.structure.files import File

    for path, content in generated_pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  MkDocs passes all
    """Replace cross-references of docstrings, such as ``:func:`~cytoloc.train```, by the name that they refer to."""
    return re.sub(r":(?:class|func|meth|mod|data|attr|exc):<code>~?(?:[\w.]+\.)?(\w+)</code>", r"<code>\1</code>", html)


def generated_pages() -> dict[str, str]:
    """Return the Markdown of each generated page, by its path in the site."""
    pages: dict[str, Callable[[], str]] = {
        "reference/commands.md": commands_page,
        "reference/recipe-keys.md": recipe_keys_page,
        "reference/recipes.md": recipes_page,
        "reference/label-sets.md": label_sets_page,
        "reference/errors.md": errors_page,
        "reference/api/index.md": api_index_page,
        "explanation/built-in-model-card.md": partial(card_page, "builtin.md"),
        "explanation/built-in-models-for-fewer-channels.md": partial(card_page, "builtin-fewer-channels.md"),
    }
    made = {path: make() for path, make in pages.items()}
    made |= {f"reference/api/{name}.md": api_page(name) for name in API}
    return made | {path: notebook_page(ROOT / "examples" / name) for path, name in NOTEBOOKS.items()}


def commands_page() -> str:
    """Return the page of all commands with their arguments and options."""
    from cytoloc.cli.app import app

    lines = [
        "# Commands",
        "",
        "`cytoloc COMMAND --help` prints the same text in a terminal.",
        "",
        "| exit code | meaning |",
        "|---|---|",
        "| 0 | The command is done. |",
        "| 1 | The command failed, for example because a file is damaged. |",
        "| 2 | The command was called with wrong arguments. |",
        "| 3 | More fields could not be read than `--max-failed` allows. |",
        "| 130 | The command was stopped by Ctrl-C or SIGTERM. |",
        "",
    ]
    group = typer.main.get_command(app)
    for name, command in walk(group, "cytoloc"):
        lines += command_section(name, command)
    return "\n".join(lines)


def walk(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command under a group that can be called, with its full name."""
    for word, command in group.commands.items():
        full = f"{name} {word}"
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield full, command
            yield from walk(command, full)
        else:
            yield full, command


def command_section(name: str, command: Any) -> list[str]:
    """Return the lines of one command: its help, and tables of its arguments and options."""
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
    required = [f"{each.opts[0]} {value_of(each, command)}" for each in options if each.required]
    usage = " ".join([name, *map(metavar_of, arguments), *required, "[OPTIONS]"])
    lines = [f"## {name}", "", "```text", usage, "```", ""]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        example = re.fullmatch(r"Example: `(cytoloc [^`]*)`", text)
        lines += ["Example:", "", "```bash", example[1], "```", ""] if example else [text, ""]
    if arguments:
        lines += ["| argument | description |", "|---|---|"]
        lines += [f"| `{cell(metavar_of(each))}` | {cell(each.help)} |" for each in arguments]
        lines.append("")
    if options:
        lines += ["| option | value | default | description |", "|---|---|---|---|"]
        for each in options:
            flags = ", ".join(f"`{flag}`" for flag in [*each.opts, *each.secondary_opts])
            value = "" if each.is_flag else value_in_words(value_of(each, command))
            lines.append(f"| {flags} | {value} | {default_of(each)} | {cell(each.help)} |")
        lines.append("")
    return lines


def metavar_of(argument: Any) -> str:
    """Return how an argument is named in a usage line, such as ``[INPUT…]``."""
    name = (argument.metavar or argument.name).strip("[]").removesuffix("…")
    name = name.upper() if name.islower() else name
    name += "…" if argument.nargs == -1 else ""
    return name.replace("|", " or ") if argument.required else f"[{name}]"


def value_of(option: Any, command: Any) -> str:
    """Return what an option takes, such as ``path`` or ``cuda|cpu``."""
    if option.metavar:
        return str(option.metavar)
    words = {
        "Path": "path",
        "str": "text",
        "int": "number",
        "int range": "number",
        "float": "number",
        "float range": "number",
    }
    name = option.display_type(command.context_class(command)).strip("<>")
    name = name.removeprefix("list[").removesuffix("]")
    return words.get(name, str(name))


def value_in_words(value: str) -> str:
    """Return the value of an option for a cell of a table; each of several fixed choices is code of its own.

    >>> value_in_words("cuda|cpu"), value_in_words("NAME|FILE"), value_in_words("CHANNEL=zero|OTHER")
    ('`cuda`, `cpu`', '`NAME` or `FILE`', '`CHANNEL=zero` or `CHANNEL=OTHER`')
    """
    words = value.split("|")
    before, equals, first = words[0].partition("=")
    if equals:
        words = [f"{before}={word}" for word in (first, *words[1:])]
    separator = " or " if value.isupper() or equals else ", "
    return separator.join(f"`{word}`" for word in words)


def default_of(option: Any) -> str:
    """Return the default of an option, for a cell of a table."""
    if option.required:
        return "required"
    if option.is_flag:
        return "on" if option.default else "off"
    if option.default in (None, "", ()):
        return ""
    return f"`{cell(str(option.default))}`"


def cell(text: str | None) -> str:
    """Return a text for a cell of a Markdown table."""
    return " ".join((text or "").split()).replace("|", "\\|")


def recipe_keys_page() -> str:
    """Return the page of all keys of a recipe."""
    lines = [
        "# Recipe keys",
        "",
        "A recipe is a TOML file. It states only the keys that differ from the recipe that it `extends`. An unknown key"
        " or a value of another type is an error. `cytoloc recipes NAME` prints a recipe with all its keys.",
        "",
        "```toml",
        'extends = "quick"',
        'name = "mine"',
        'summary = "quick with more epochs"',
        "",
        "[schedule]",
        "epochs = 40",
        "```",
        "",
        "## Top level",
        "",
        *keys_table(Recipe, recipe_module.__file__),
    ]
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += [f"## [{name}]", "", inspect.cleandoc(section.__doc__ or ""), ""]
            lines += keys_table(section, sections.__file__)
    return "\n".join(lines)


def keys_table(section: type[BaseModel], source: str) -> list[str]:
    """Return a table of the keys of a section: name, type, allowed values, default and explanation."""
    written = attribute_docs(Path(source), section.__name__)
    lines = ["| key | type | default | explanation |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            continue
        annotation, text = written[name]
        default = "required" if field.is_required() else f"`{toml_value(field.get_default())}`"
        bounds = ", ".join(bound for item in field.metadata for bound in bounds_of(item))
        limits = f" ({bounds})" if bounds else ""
        if section is Recipe and name in TOP_LEVEL:
            text = TOP_LEVEL[name]
        lines.append(f"| `{name}` | {type_in_words(annotation)}{limits} | {default} | {cell(text)} |")
    return [*lines, ""]


TOP_LEVEL: Final = {
    "name": "Name of the recipe. Folders of runs are named after it.",
    "summary": "Description of the recipe in one line.",
}
"""Explanations of keys that need none in the code."""


def attribute_docs(path: Path, class_name: str) -> dict[str, tuple[str, str]]:
    """Return the annotation and the docstring of each attribute of a class, as its source has them."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            found = {}
            for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                    text = str(after.value.value) if documented else ""  # type: ignore[union-attr]
                    found[statement.target.id] = (ast.unparse(statement.annotation), text)
            return found
    raise LookupError(f"{path} has no class {class_name}")


def type_in_words(annotation: str) -> str:
    """Return a type as a reader of TOML knows it.

    >>> type_in_words("tuple[int, ...]"), type_in_words("Literal['set', 'field']")
    ('list of integers', '`set`, `field`')
    """
    plain = {
        "int": "integer",
        "float": "number",
        "str": "text",
        "bool": "true or false",
        "tuple[int, ...]": "list of integers",
        "tuple[float, ...]": "list of numbers",
        "tuple[str, ...]": "list of texts",
        "tuple[float, float]": "two numbers",
        "dict[str, float]": "table of numbers",
        "dict[str, dict[str, int]]": "table of tables of integers",
    }
    if annotation in plain:
        return plain[annotation]
    choices = getattr(sections, annotation, None)
    values = getattr(choices, "__args__", None) or ast.literal_eval(f"({annotation[len('Literal[') : -1]},)")
    return ", ".join(f"`{value}`" for value in values)


def bounds_of(item: object) -> Iterator[str]:
    """Yield the limits of a number, such as ``≥ 1``; that it fits into 64 bits goes without saying."""
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        limit = getattr(item, name, None)
        if limit is not None and abs(limit) < 2**62:
            yield f"{sign} {limit:g}"


def toml_value(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(each)}" for key, each in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def recipes_page() -> str:
    """Return the page of the recipes that come with cytoloc."""
    published = published_scores()
    lines = [
        "# Recipes",
        "",
        "A recipe states how a network is trained: network, image size, loss, sampling, augmentation and schedule."
        " `cytoloc train RECIPE DATASET` trains one. [Recipe keys](recipe-keys.md) explains every key.",
        "",
        "## Recipes of cytoloc",
        "",
        "| recipe | network | image (px) | batch | loss |",
        "|---|---|---|---|---|",
        *(recipe_row(name, with_loss=True) for name in recipe_names() if name not in published),
        "",
        "`strong-512` and `strong-1024` are meant for the images of the 2018 competition. They have not been trained on"
        " these images yet. `strong-128` is the variant that two CPU cores can train."
        " It keeps the oversampling of rare locations, although oversampling lowered its score in a simulated study,"
        " because rare locations of real data are rarer. [Research](../research.md#what-helps-and-what-hurts) has the"
        " measured results.",
        "",
        "## Recipes of the silver-medal baseline",
        "",
        "These ten recipes reproduce the networks of a silver-medal solution of the 2018 competition. The last three"
        " columns are macro F1 as the author of that solution published it. cytoloc has not measured these values."
        f" The loss is {' or '.join(sorted({loss_in_words(load_recipe(name)) for name in published}))}.",
        "",
        "| recipe | network | image (px) | batch | own validation | public score | private score |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scores in published.items():
        cells = " | ".join("" if score is None else f"{score:.3f}" for score in scores)
        lines.append(f"{recipe_row(name, with_loss=False)} {cells} |")
    lines += ["", "## Recipe files", ""]
    for name in recipe_names():
        text = (Path(recipe_module.__file__).parent / f"{name}.toml").read_text(encoding="utf-8")
        lines += [f'??? note "{name}"', "", "    ```toml"]
        lines += [f"    {line}".rstrip() for line in text.splitlines()]
        lines += ["    ```", ""]
    return "\n".join(lines)


def recipe_row(name: str, *, with_loss: bool) -> str:
    """Return the row of a recipe in a table."""
    recipe = load_recipe(name)
    batch = recipe.schedule.batch_size * recipe.schedule.accumulate
    row = f"| `{name}` | `{recipe.model.backbone}` | {recipe.image.size} | {batch} |"
    return f"{row} {loss_in_words(recipe)} |" if with_loss else row


def label_sets_page() -> str:
    """Return the page of the label sets that come with cytoloc."""
    lines = [
        "# Label sets",
        "",
        "A label set is the ordered list of locations that a model predicts. Each location has a key, a name and, where"
        " one is known, a Gene Ontology term. Keys name the columns of files."
        " [Train on your own label set](../tutorials/own-labels.md) shows how to define one."
        " [File formats](file-formats.md#label-set) states the format of the file.",
        "",
    ]
    for name in SHIPPED:
        label_set = find_label_set(name)
        lines += [f"## {name}", "", f"{len(label_set)} locations: {ORIGINS[name]}.", ""]
        lines += locations_table(label_set)
    return "\n".join(lines)


ORIGINS: Final = {
    "hpa28": "the 2018 Kaggle competition *Human Protein Atlas Image Classification*",
    "hpa19": "the 2021 Kaggle competition *HPA Single Cell Classification*",
    "subcell31": "the SubCell models",
    "hpa": "all location names of release 25.1 of the Human Protein Atlas",
}
"""Where each shipped label set comes from."""


def locations_table(label_set: LabelSet) -> list[str]:
    """Return a table of the locations of a label set."""
    rows = [f"| `{place.key}` | {place.name} | {place.go_id} |" for place in label_set]
    return ["| key | name | Gene Ontology |", "|---|---|---|", *rows, ""]


def errors_page() -> str:
    """Return the page of all errors and warnings."""
    found = [each for each in vars(errors).values() if isinstance(each, type) and each.__module__ == errors.__name__]
    lines = [
        "# Errors",
        "",
        "All errors of cytoloc derive from `cytoloc.CytolocError` and from a built-in class. The message says what is"
        " wrong, where, and what was found. `error.hint` says how to fix the problem. A command prints the message and"
        " ends with the exit code of the error.",
        "",
        "```python",
        "import cytoloc as cl",
        "",
        "try:",
        '    ds = cl.open_dataset("missing.dataset")',
        "except cl.errors.FormatError as error:  # also: except ValueError",
        "    print(error.message, error.hint)",
        "```",
        "",
        "| error | exit code | base classes | meaning |",
        "|---|---|---|---|",
    ]
    for kind in found:
        if issubclass(kind, errors.CytolocError):
            bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
            lines.append(f"| `{kind.__name__}` | {kind.exit_code} | {bases} | {first_paragraph(kind)} |")
    lines += ["", "## Warnings", "", "| warning | base class | meaning |", "|---|---|---|"]
    for kind in found:
        if issubclass(kind, Warning):
            lines.append(f"| `{kind.__name__}` | `{kind.__bases__[0].__name__}` | {first_paragraph(kind)} |")
    return "\n".join([*lines, ""])


def first_paragraph(kind: type) -> str:
    """Return the first paragraph of a docstring, for a cell of a table."""
    return cell(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0])


def api_index_page() -> str:
    """Return the page that lists all public names."""
    lines = [
        "# Python API",
        "",
        "All public names are attributes of `cytoloc`. Every command except `demo` is a thin layer over this API.",
        "",
        "```python",
        "import cytoloc as cl",
        "```",
        "",
    ]
    for page, part in API.items():
        links = ", ".join(f"[`{name}`]({page}.md#cytoloc.{name})" for name in part["names"])
        lines += [f"**[{part['title']}]({page}.md)**: {part['summary']}", "", links, ""]
    lines += [
        "**[Errors](../errors.md)**: all exceptions and warnings.",
        "",
        "Two modules are public as a whole: `cytoloc.errors` and `cytoloc.torch`.",
        "`cytoloc.__version__` is the version.",
        "",
    ]
    return "\n".join(lines)


def api_page(page: str) -> str:
    """Return a page of the Python API, which mkdocstrings fills from docstrings."""
    part = API[page]
    lines = [f"# {part['title']}", "", part["summary"], ""]
    for name in part["names"]:
        # Nothing is imported here, so the site is built without PyTorch.
        if name.partition(".")[0] not in cytoloc.__all__:
            raise LookupError(f"cytoloc has no public name {name}")
        lines += [f"::: cytoloc.{name}", ""]
    return "\n".join(lines)


def card_page(name: str) -> str:
    """Return a model card that is packed in a built-in model; links to research notes lead to the repository."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    text = text.replace("# The built-in model", "# Card of the built-in model", 1)
    return re.sub(r"\]\((\w+\.md)", rf"]({REPOSITORY}/blob/main/research/\1", text)


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown: its text, its code and the stored text outputs."""
    parts = []
    for each in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(each["source"])
        parts.append(text if each["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += [f"```text\n{''.join(output['text'])}\n```" for output in each.get("outputs", [])]
    link = f"[`examples/{path.name}`]({REPOSITORY}/blob/main/examples/{path.name})"
    note = f"!!! note\n\n    This page shows the notebook {link}. Download the notebook to run it."
    return "\n\n".join([parts[0], note, *parts[1:]]) + "\n"
