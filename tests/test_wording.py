"""Rules for the wording of the package: terms, help texts, docstrings and messages."""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

import cytoloc
import cytoloc.torch
from cytoloc import errors
from cytoloc.cli.app import app
from cytoloc.errors import CytolocError

SOURCE = Path(cytoloc.__file__).parent

BANNED = {
    r"atlas(?:es)?": "dataset",
    r"pictures?|photos?|photographs?": "image",
    r"near[- ]cop(?:y|ies)": "near-duplicate",
    r"shards?": "segment",
    r"box(?:es)?": "built-in model",
    r"deals?|dealt|dealing": "assign, permute or split",
    r"judged?|judges|judging|heard|evidence": "fit, calibrate, threshold or decide",
    r"told|tells?": "report, state or specify",
    r"mend(?:s|ed|ing)?": "fix or repair",
    r"settled?|settles|settling": "decide or set",
    r"ways? out": "hint",
    r"go(?:es)? on|went on": "resume or continue",
    r"starting system|peers?": "baseline",
    r"held-out scores?": "out-of-fold predictions",
    r"whole numbers?": "integer",
    r"no number": "NaN",
    r"worth": "metric",
    r"room|wears?|lends?|lent|borrows?|knows nothing": "a literal word",
}
"""Words that the project does not use, and the words that it uses instead."""

ALLOWED = (
    "Human Protein Atlas",
    "Cell Atlas",
    "bounding box",
)
"""Names and terms that contain a banned word."""

ALLOWED_IN = dict.fromkeys(
    ("dataset/segments.py", "dataset/writer.py", "cli/streaming.py", "predict/streaming.py", "prediction_files.py"),
    "shard",
)
"""Files that may use one banned word. A shard is a file of chunks in Zarr, or a job's share."""


class Text(NamedTuple):
    """A docstring, message or comment, and its place."""

    place: str
    text: str


def sources() -> list[Path]:
    """Return the files of the package."""
    return sorted(SOURCE.rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


def literal(node: ast.expr) -> str | None:
    """Return the text of a string or f-string, with ``{}`` for values; None if a node is not a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "{}"
            for part in node.values
        )
    return None


def docstrings(path: Path) -> Iterator[Text]:
    """Yield the docstrings of a file, also those of constants."""
    for node in ast.walk(parsed(path)):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield Text(f"{path.relative_to(SOURCE)}:{statement.lineno}", inspect.cleandoc(value.value))


def messages(path: Path) -> Iterator[Text]:
    """Yield the string literals of a file that have blanks: messages, help texts and docstrings."""
    inner = {
        id(part) for node in ast.walk(parsed(path)) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)
    } - {id(node) for node in ast.walk(parsed(path)) if isinstance(node, ast.JoinedStr)}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in inner:
            text = literal(node)
            if text and " " in text:
                yield Text(f"{path.relative_to(SOURCE)}:{node.lineno}", text)


def comments(path: Path) -> Iterator[Text]:
    """Yield the comments of a file."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield Text(f"{path.relative_to(SOURCE)}:{token.start[0]}", token.string)


def banned_words(text: str) -> list[str]:
    """Return the banned words in a text, outside of code."""
    for name in ALLOWED:
        text = re.sub(rf"{name}\b(?:'s)?", "", re.sub(r"\s+", " ", text))
    plain = re.sub(r"``[^`]*``|`[^`]*`", "", text)
    return [
        match[0] for words in BANNED for match in re.finditer(rf"(?<![\w.-])(?:{words})(?![\w-]|\.\w)", plain, re.I)
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Pack an atlas.", ["atlas"]),
        ("Fields of the Human Protein\nAtlas in `atlas.json`.", []),
        ("A near-copy of a Picture tells all.", ["Picture", "near-copy", "tells"]),
        ("A bounding box, and the box.", ["box"]),
    ],
)
def test_banned_words_are_found(text: str, found: list[str]) -> None:
    assert banned_words(text) == found


def test_the_package_uses_the_terms_of_the_project() -> None:
    wrong = [
        f"{place}: {word}"
        for path in sources()
        for place, text in (*messages(path), *comments(path))
        for word in banned_words(text)
        if ALLOWED_IN.get(place.partition(":")[0]) != word.rstrip("s").lower()
    ]
    wrong += [f"{path.name}: {word}" for path in SOURCE.rglob("*.toml") for word in banned_words(path.read_text())]
    assert wrong == []


def commands(command: Any, path: str = "cytoloc") -> Iterator[tuple[str, Any]]:
    """Yield the command line of each command and group, and the command."""
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_every_command_and_option_has_help(path: str) -> None:
    command = COMMANDS[path]
    text = inspect.cleandoc(command.help or "")
    summary = text.partition("\n\n")[0]
    assert re.match(r"[A-Z][a-z]+(?<!s) .*\.$", summary, re.S), f"{path}: no imperative summary: {summary}"
    example = path if not hasattr(command, "commands") else "cytoloc"
    assert re.search(rf"(?m)^Example: `{example}\b", text), f"{path}: no example"
    for parameter in command.params:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        words = (getattr(parameter, "help", None) or "").split()
        assert len(words) >= 3, f"{path}, {parameter.name}: {' '.join(words) or 'no help'}"


ERRORS = {name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, CytolocError)}


def error_literals(path: Path) -> Iterator[tuple[Text, ast.expr]]:
    """Yield the literal messages of the errors that a file creates, with their nodes."""
    local = {
        node.name
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in ERRORS for base in node.bases)
    }
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            text = literal(node.args[0])
            if name in ERRORS | local | {"error"} and text is not None:
                yield Text(f"{path.relative_to(SOURCE)}:{node.lineno}", text), node.args[0]


def is_complete(text: str) -> bool:
    """Return whether a message begins with a capital, a quoted name, an option or a value, and ends with a period.

    A value at the end, ``{}`` here, can be the message of another error, with its own period.
    """
    return bool(re.match(r"[A-Z`'\"]|--\w|\{\}|\.\w", text)) and text.rstrip().endswith((".", "{}"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it has two pages.", False),
        ("The file has two pages", False),
        ("`size` is 0.", True),
        ("{} has {} pages.", True),
    ],
)
def test_incomplete_messages_are_found(text: str, *, expected: bool) -> None:
    assert is_complete(text) == expected


def test_error_messages_are_sentences_with_a_subject() -> None:
    found = [text for path in sources() for text, _ in error_literals(path)]
    assert len(found) > 300
    assert [text for text in found if not is_complete(text.text)] == []


def test_hints_are_sentences() -> None:
    found = [
        Text(f"{path.relative_to(SOURCE)}:{node.lineno}", text)
        for path in sources()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.keyword) and node.arg == "hint" and (text := literal(node.value))
    ]
    assert len(found) > 200
    assert [each for each in found if not is_complete(each.text)] == []


def decimals(text: str) -> list[str]:
    """Return the decimals without a leading zero in a text."""
    return [match[0] for match in re.finditer(r"(?<![\w.*}\])/-])-?\.\d+\b", text)]


@pytest.mark.parametrize(
    ("text", "found"), [("a threshold of .153", [".153"]), ("0.153, release 3.12.1, `*.1`", []), ("(.5 to 1)", [".5"])]
)
def test_decimals_without_a_leading_zero_are_found(text: str, found: list[str]) -> None:
    assert decimals(text) == found


def test_decimals_have_a_leading_zero() -> None:
    wrong = [
        f"{place}: {number}"
        for path in sources()
        for place, text in (*messages(path), *comments(path))
        for number in decimals(text)
    ]
    assert wrong == []


MAX_WORDS = 38


def long_sentences(text: str) -> list[str]:
    """Return the sentences of a docstring with more than 38 words; list items, examples and sections are separate."""
    prose = re.sub(r"(?m)^\s*(?:>>>|\.\.\.|\$|cytoloc |\|).*$", "\n", text)
    parts = re.split(r"\n\s*\n|\n\s*(?:[*-]|\d+\.)\s|\n\s*\*{0,2}[\w. ]+(?: \(.*?\))?:\s|::\s|(?<=[.:;?!])\s", prose)
    return [" ".join(part.split()) for part in parts if len(part.split()) > MAX_WORDS]


def test_long_sentences_are_found() -> None:
    assert long_sentences(f"Short.\n\nArgs:\n    a: {'word ' * 38}end.") == [f"{'word ' * 38}end."]
    assert long_sentences(f"{'word ' * 37}end. {'word ' * 37}end.") == []


def test_docstrings_have_no_long_sentences() -> None:
    wrong = [
        f"{place}: {each}" for path in sources() for place, text in docstrings(path) for each in long_sentences(text)
    ]
    assert wrong == []


def public_functions() -> Iterator[tuple[str, Any]]:
    """Yield the name of each public function, method, property and class with parameters, and the object."""
    exported = {name: getattr(cytoloc, name) for name in cytoloc.__all__}
    exported["torch.FieldDataset"] = cytoloc.torch.FieldDataset
    for name, each in exported.items():
        if inspect.isfunction(each):
            yield name, each
        elif inspect.isclass(each) and each.__module__.startswith("cytoloc"):
            for key, member in vars(each).items():
                plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                if not key.startswith("_") and inspect.isfunction(plain) and key == plain.__name__:
                    yield f"{name}.{key}", plain


PUBLIC = dict(public_functions())


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_functions_document_arguments_and_results(name: str) -> None:
    function = PUBLIC[name]
    text = inspect.getdoc(function) or ""
    code = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(code, ast.FunctionDef)
    section = re.search(r"(?m)^Args:\n((?:    .*\n|\n)*)", f"{text}\n")
    documented = set(re.findall(r"(?m)^    \*{0,2}(\w+):", section[1] if section else ""))
    parameters = [each for each in inspect.signature(function).parameters if each not in ("self", "cls")]
    assert [each for each in parameters if each not in documented] == [], f"{name}: parameters without a description"
    returns = ast.unparse(code.returns) if code.returns else "None"
    if returns != "None":
        first = text.partition("\n")[0]
        assert re.match(r"(Returns?|Yields?)\b|Whether ", first) or re.search(r"(?m)^(Returns|Yields):$", text), name


def test_modules_of_the_public_names_have_docstrings() -> None:
    for name in cytoloc.__all__:
        each = getattr(cytoloc, name)
        if inspect.isfunction(each) or inspect.isclass(each):
            assert inspect.getdoc(each), name
            assert inspect.getdoc(import_module(each.__module__)), each.__module__


def test_no_string_stands_alone_after_a_docstring() -> None:
    stray = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
            if isinstance(value, str) and not value.strip():
                stray.append(f"{path.relative_to(SOURCE)}: {ast.unparse(node)}")
    assert stray == []


def test_no_docstring_describes_a_name_twice() -> None:
    repeated = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for section in re.split(r"(?m)^(?:Args|Attributes|Raises):$", ast.get_docstring(node) or "")[1:]:
                    entries = re.findall(r"(?m)^    (\w+):", section.split("\n\n")[0])
                    repeated += [f"{path.name}:{node.name}: {each}" for each in entries if entries.count(each) > 1]
    assert repeated == []
