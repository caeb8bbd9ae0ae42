"""Label sets: ordered lists of locations, shared by datasets, models, predictions and decisions."""

from __future__ import annotations

import csv
import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cytoloc.choices import check_type
from cytoloc.errors import LabelSetError, TableError

if TYPE_CHECKING:
    from cytoloc._typing import BoolArray

SHIPPED: Final = ("hpa28", "hpa19", "subcell31", "hpa")
"""The label sets that come with cytoloc, each in ``sets/NAME.csv``."""

_SEPARATORS: Final = ";|,"
_KEY: Final = re.compile(r"[^\s;|,]+")
_COLUMNS: Final = {"id", "target", "predicted", "label", "labels", "location", "locations"}
"""Names of columns in files of labels, which cannot be names of locations."""
_SET_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Location(NamedTuple):
    """A compartment of the cell.

    Attributes:
        key: A word without spaces, unique in its label set. It is the name of the location's column in files.
        name: The name for people.
        go_id: The Gene Ontology term; empty if unknown.
    """

    key: str
    name: str
    go_id: str = ""


@dataclass(frozen=True)
class LabelSet:
    """An ordered list of locations.

    The index of a location is its column in every array of labels or probabilities.

    Attributes:
        name: The name of the label set: letters, digits, ``.``, ``_`` and ``-``.
        version: An integer from 1. A label set that changes gets a new version.
        locations: The locations, at least two.

    Raises:
        LabelSetError: If a key or name is invalid or occurs twice, or there are fewer than two locations.

    Examples:
        >>> labels = LabelSet.from_names(["Nuclear rim", "Cytoplasm"], name="mine")
        >>> labels.keys
        ('nuclear_rim', 'cytoplasm')
        >>> labels.parse("Cytoplasm; nuclear rim", where="labels.csv, id 7")
        (0, 1)
        >>> LabelSet.hpa28().names[16]
        'Cytokinetic bridge'
    """

    name: str
    version: int
    locations: tuple[Location, ...]

    def __post_init__(self) -> None:
        if not _SET_NAME.fullmatch(self.name) or type(self.version) is not int or self.version < 1:
            raise LabelSetError(
                f"The name {self.name!r} and version {self.version!r} are not valid for a label set.",
                hint="Use letters, digits, '.', '_' and '-' for the name, and an integer from 1 for the version.",
            )
        if len(self.locations) < 2:
            raise LabelSetError(
                f"The label set {self.name} has {len(self.locations)} location{'' if self.locations else 's'}.",
                hint="Give at least two locations. With one, every labeled field would have the same label.",
            )
        seen: dict[str, Location] = {}
        for each in self.locations:
            self._check(each)
            for word in {each.key.casefold(), each.name.casefold()}:
                other = seen.setdefault(word, each)
                if other is not each:
                    raise LabelSetError(
                        f"The label set {self.name} has two locations with the key or name {word!r}.",
                        hint="Give each location a unique key and name; upper and lower case do not differ.",
                    )

    def _check(self, location: Location) -> None:
        if not _KEY.fullmatch(location.key):
            raise LabelSetError(
                f"The label set {self.name} has the invalid key {location.key!r}.",
                hint="Use a word without spaces, commas, semicolons or vertical bars.",
            )
        taken = {location.key.casefold(), location.name.casefold()} & _COLUMNS
        if taken:
            raise LabelSetError(
                f"The label set {self.name} has a location with the key or name {min(taken)!r}.",
                hint="Choose another word, because tables of labels and predictions have a column of this name.",
            )
        name = location.name
        if not name.strip() or name != name.strip() or not name.isprintable() or set(name) & set(_SEPARATORS):
            raise LabelSetError(
                f"The label set {self.name} has the invalid name {name!r}.",
                hint="Use a printable name without commas, semicolons, vertical bars, or spaces at its ends.",
            )

    def __len__(self) -> int:
        return len(self.locations)

    def __iter__(self) -> Iterator[Location]:
        return iter(self.locations)

    def __getitem__(self, index: int) -> Location:
        return self.locations[index]

    def __str__(self) -> str:
        return f"{self.name} (version {self.version}, {len(self)} locations)"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all locations, in order."""
        return tuple(location.key for location in self.locations)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all locations, in order."""
        return tuple(location.name for location in self.locations)

    @classmethod
    def hpa28(cls) -> LabelSet:
        """Return the 28 locations of the 2018 Kaggle competition. Keys are its class ids."""
        return _shipped("hpa28")

    @classmethod
    def hpa19(cls) -> LabelSet:
        """Return the 19 locations of the 2021 Kaggle competition. Keys are its class ids."""
        return _shipped("hpa19")

    @classmethod
    def subcell31(cls) -> LabelSet:
        """Return the 31 locations of the SubCell models. Keys are the positions in the output of these models."""
        return _shipped("subcell31")

    @classmethod
    def hpa(cls) -> LabelSet:
        """Return all names of release 25.1 of the Human Protein Atlas. Keys are the names with ``_`` for spaces."""
        return _shipped("hpa")

    @classmethod
    def numbered(cls, count: int) -> LabelSet:
        """Return a label set of unnamed locations, with the keys and names "0", "1" and so on.

        Args:
            count: The number of locations.

        Returns:
            A label set named ``numbered``.
        """
        return cls("numbered", 1, tuple(Location(str(index), str(index)) for index in range(count)))

    @classmethod
    def from_names(cls, names: Iterable[str], *, name: str, version: int = 1) -> LabelSet:
        """Return a label set with keys that are derived from names: ``Nuclear rim`` gets the key ``nuclear_rim``.

        Args:
            names: The names of the locations, in order.
            name: The name of the label set.
            version: The version of the label set.

        Returns:
            The label set.

        Raises:
            LabelSetError: If a name is invalid or occurs twice.
        """
        return cls(name, version, tuple(Location(_slug(each), each) for each in names))

    @classmethod
    def from_csv(cls, path: str | Path, *, name: str | None = None) -> LabelSet:
        """Read a label set from a CSV file with the column ``name`` and, optionally, ``key`` and ``go_id``.

        Args:
            path: The file, with one row per location, in order.
            name: The name of the label set. Default: the name of the file.

        Returns:
            The label set.

        Raises:
            LabelSetError: If the file cannot be read, or does not describe a label set.
        """
        path = Path(path)
        rows = list(csv.DictReader(_text(path).splitlines()))
        _refuse_unknown(rows[0] if rows else (), Location._fields, where=str(path))
        if not rows or "name" not in rows[0] or None in rows[0]:
            found = ", ".join(str(each) for each in (rows[0] if rows else ())) or "no rows"
            raise LabelSetError(
                f"{path} is not a label set: it has the columns {found}."
                if rows
                else f"{path} is not a label set: it has no rows.",
                hint="Give a CSV file with one location per row and the column name; key and go_id are optional.",
            )
        return cls._from_rows(rows, name=name or _slug(path.stem), version=1, where=str(path))

    @classmethod
    def from_toml(cls, path: str | Path) -> LabelSet:
        """Read a label set from a TOML file.

        The file contains ``name``, optionally ``version``, and ``locations``: a list of names, or of tables with
        ``name`` and, optionally, ``key`` and ``go_id``.

        Args:
            path: The file.

        Returns:
            The label set.

        Raises:
            LabelSetError: If the file cannot be read, or does not describe a label set.
        """
        path = Path(path)
        try:
            content = tomllib.loads(_text(path))
        except tomllib.TOMLDecodeError as error:
            raise LabelSetError(f"{path} cannot be read as TOML: {error}.") from error
        rows = content.get("locations")
        if not isinstance(rows, list) or not all(isinstance(row, str | dict) for row in rows):
            raise LabelSetError(
                f"{path} is not a label set: it has no list of locations.",
                hint='Write for example: name = "mine" and locations = ["Nuclear rim", "Cytoplasm"].',
            )
        rows = [{"name": row} if isinstance(row, str) else row for row in rows]
        _refuse_unknown(content, ("name", "version", "locations"), where=str(path))
        for row in rows:
            _refuse_unknown(row, Location._fields, where=f"{path}, location {row.get('name')}")
        name = content.get("name", _slug(path.stem))
        return cls._from_rows(rows, name=name, version=content.get("version", 1), where=str(path))

    @classmethod
    def from_json(cls, content: Any) -> LabelSet:
        """Return the label set that :meth:`to_json` wrote.

        Args:
            content: The JSON values.

        Returns:
            The label set.

        Raises:
            LabelSetError: If ``content`` does not describe a label set.
        """
        if not isinstance(content, dict) or not isinstance(content.get("locations"), list):
            raise LabelSetError("The JSON content does not describe a label set.")
        rows = content["locations"]
        return cls._from_rows(rows, name=content.get("name"), version=content.get("version"), where="the label set")

    @classmethod
    def _from_rows(cls, rows: Sequence[Any], *, name: Any, version: Any, where: str) -> LabelSet:
        locations = []
        for number, row in enumerate(rows, start=1):
            words = [row.get(column) or "" for column in Location._fields] if isinstance(row, Mapping) else [""]
            if not all(isinstance(word, str) for word in words) or not words[1:2] or not words[1]:
                raise LabelSetError(f"{where}: location {number} has no name, or a value that is not text.")
            key, location, go_id = words
            locations.append(Location(key or _slug(location), location, go_id))
        if not isinstance(name, str):
            raise LabelSetError(f"{where} has no name.")
        return cls(name, version, tuple(locations))

    def to_json(self) -> dict[str, Any]:
        """Return the label set as JSON values."""
        return {
            "name": self.name,
            "version": self.version,
            "locations": [location._asdict() for location in self.locations],
        }

    def index(self, word: str, *, where: str = "") -> int:
        """Return the index of the location with a given key or name. Names may differ in case.

        Args:
            word: The key or name.
            where: The file and row, for error messages.

        Returns:
            The index.

        Raises:
            TableError: If there is no such location; the hint suggests similar names.
        """
        found = self._index.get(word)
        if found is None:
            found = self._index.get(word.strip().casefold())
        if found is None:
            raise TableError(
                f"{where}{': ' if where else ''}{word!r} is not a location of the label set {self.name}.",
                hint=self._suggestion(word),
            )
        return found

    @cached_property
    def _index(self) -> dict[str, int]:
        """The index of each location by key and by name, as written and in lower case."""
        return {
            word: number
            for number, each in enumerate(self.locations)
            for word in (each.key, each.name, each.key.casefold(), each.name.casefold())
        }

    def _suggestion(self, word: str) -> str:
        known = {text: name for key, name, _ in self.locations for text in (key.casefold(), name.casefold())}
        near = [known[each] for each in difflib.get_close_matches(word.casefold(), known, n=3, cutoff=0.6)]
        if near:
            return f"Did you mean {' or '.join(dict.fromkeys(near))}?"
        shown = ", ".join(f"{each.key} ({each.name})" if each.key.isdigit() else each.name for each in self.locations)
        return f"Its locations are: {shown}." if len(shown) < 400 else f"See `cytoloc labels {self.name}`."

    def parse(self, text: str, *, where: str) -> tuple[int, ...]:
        """Return the indices of the locations in a cell of labels.

        Args:
            text: Keys or names, separated by ``;``, ``|`` or ``,``, or by spaces if no name contains one.
            where: The file and row, for error messages.

        Returns:
            The indices, sorted.

        Raises:
            TableError: If the cell is empty, repeats a location (unless separated by ``|``), or contains an unknown
                location.

        >>> LabelSet.hpa28().parse("16 0", where="labels.csv, id 7")
        (0, 16)
        """
        words = self._words(text)
        if not words:
            raise TableError(f"{where}: the label is empty.", hint="Give at least one location, or remove the row.")
        indices = sorted({self.index(word, where=where) for word in words})
        # The label list of the 2021 competition repeats some classes, as in 13|13.
        if len(indices) != len(words) and "|" not in text:
            raise TableError(f"{where}: {text!r} contains a location twice.", hint="Give each location once.")
        return tuple(indices)

    def _words(self, text: str) -> list[str]:
        if any(sign in text for sign in _SEPARATORS):
            return [word.strip() for word in re.split(r"[;|,]", text) if word.strip()]
        if text.strip().casefold() in self._index:
            return [text.strip()]
        words = text.split()
        # An unknown name with spaces stays whole, so that the hint can suggest the right name.
        return words if any(word.casefold() in self._index for word in words) else [text.strip()][: len(words)]

    def format(self, indices: Iterable[int]) -> str:
        """Return the keys of locations separated by spaces, as in the 2018 Kaggle competition: ``"0 16"``.

        Args:
            indices: The indices of the locations.

        Returns:
            One cell of labels.
        """
        return " ".join(self.locations[int(index)].key for index in indices)

    def keys_of(self, indices: Iterable[int]) -> tuple[str, ...]:
        """Return the keys of locations.

        Args:
            indices: The indices of the locations.

        Returns:
            One key per index.
        """
        return tuple(self.locations[int(index)].key for index in indices)

    def to_matrix(self, labels: Iterable[Iterable[int]]) -> BoolArray:
        """Return labels as a matrix.

        Args:
            labels: The indices of the locations of each field.

        Returns:
            bool of shape ``(fields, locations)``, true where a field has a location.

        >>> LabelSet.hpa28().to_matrix([[0, 16], []]).sum(axis=1)
        array([2, 0])
        """
        import numpy as np  # imported here so that commands without numbers start faster

        rows = [list(indices) for indices in labels]
        matrix = np.zeros((len(rows), len(self)), dtype=bool)
        for row, indices in enumerate(rows):
            matrix[row, indices] = True
        return matrix

    def matches(self, other: LabelSet) -> bool:
        """Return whether another label set has the same keys and names in the same order. Its name may differ.

        Args:
            other: The other label set.

        Returns:
            Whether they match.
        """
        return [each[:2] for each in self.locations] == [each[:2] for each in other.locations]

    def refuse_other(self, other: LabelSet, *, what: str, than: str) -> None:
        """Raise :class:`~cytoloc.errors.LabelSetError` unless another label set matches.

        Args:
            other: The other label set.
            what: The owner of the other label set, such as ``predictions.parquet``.
            than: The owner of this label set, such as ``the decision``.
        """
        if self.matches(other):
            return
        pairs = list(zip_longest(other.locations, self.locations))
        place = next(n for n, (one, two) in enumerate(pairs) if one is None or two is None or one[:2] != two[:2])
        shown = [f"{each.key} ({each.name})" if each else "none" for each in pairs[place]]
        raise LabelSetError(
            f"The label sets differ: {other} in {what}, {self} in {than}. The first difference is at position {place}:"
            f" {shown[0]} against {shown[1]}.",
            hint="Use files with the same label set, or convert one with `cytoloc labels convert`.",
        )


def find_label_set(word: str) -> LabelSet:
    """Return a shipped label set, or read a label set from a file.

    Args:
        word: The name of a shipped label set, or the path of a ``.csv`` or ``.toml`` file.

    Returns:
        The label set.

    Raises:
        LabelSetError: If there is no label set of this name, or the file does not describe one.

    >>> len(find_label_set("hpa19"))
    19
    """
    if word in SHIPPED:
        return _shipped(word)
    if word.lower().endswith(".csv"):
        return LabelSet.from_csv(word)
    if word.lower().endswith(".toml"):
        return LabelSet.from_toml(word)
    files_here = [f"{word}{suffix}" for suffix in (".csv", ".toml") if Path(f"{word}{suffix}").is_file()]
    near = files_here or difflib.get_close_matches(word, SHIPPED, n=1)
    raise LabelSetError(
        f"There is no label set {word!r}.{f' Did you mean {near[0]}?' if near else ''}",
        hint=f"Choose one of {', '.join(SHIPPED)}, or give a .csv or .toml file.",
    )


def as_label_set(given: LabelSet | str, *, argument: str = "label_set") -> LabelSet:
    """Return a label set that is given as a value, name or file.

    Args:
        given: A label set, or a word for :func:`find_label_set`.
        argument: The name of the argument, for error messages.

    Returns:
        The label set.

    Raises:
        ArgumentTypeError: If ``given`` is neither a label set nor a string.
        LabelSetError: If there is no label set of this name.
    """
    check_type(given, (LabelSet, str), argument=argument)
    return find_label_set(given) if isinstance(given, str) else given


def from_matrix(matrix: BoolArray) -> list[tuple[int, ...]]:
    """Return the indices of the locations of each row of a matrix of labels.

    Args:
        matrix: bool of shape ``(fields, locations)``.

    Returns:
        One tuple of indices per row.
    """
    return [tuple(int(index) for index in row.nonzero()[0]) for row in matrix]


def shipped_text(name: str) -> str:
    """Return the text of a file in the folder of the shipped label sets.

    Args:
        name: The name of the file.

    Returns:
        Its content.
    """
    return (files("cytoloc.labels") / "sets" / name).read_text(encoding="utf-8")


_loaded: Final[dict[str, LabelSet]] = {}


def _shipped(name: str) -> LabelSet:
    if name not in _loaded:
        rows = csv.DictReader(shipped_text(f"{name}.csv").splitlines())
        _loaded[name] = LabelSet(name, 1, tuple(Location(row["key"], row["name"], row["go_id"]) for row in rows))
    return _loaded[name]


def _refuse_unknown(keys: Iterable[str], known: Sequence[str], *, where: str) -> None:
    """Raise :class:`~cytoloc.errors.LabelSetError` if a file has keys that a label set does not have."""
    unknown = [str(key) for key in keys if key not in known]
    if unknown:
        raise LabelSetError(
            f"{where}: {unknown[0]!r} is not a key of a label set.",
            hint=f"Use {', '.join(known)}; check the spelling.",
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise LabelSetError(f"{path} does not exist.", hint="Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelSetError(
            f"{path} cannot be read as a label set: {error}.", hint="Give a text file in UTF-8."
        ) from error


def _slug(name: str) -> str:
    return re.sub(r"[^\w]+", "_", name.casefold()).strip("_") or name
