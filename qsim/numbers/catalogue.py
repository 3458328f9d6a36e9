"""The catalogue: named formats, read from the TOML files of ``formats/``."""

import inspect
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from qsim.numbers.families import FAMILIES
from qsim.numbers.formats import Format
from qsim.numbers.modes import suggest
from qsim.numbers.records import shown

__all__ = ["Entry", "catalogue", "find", "folder", "load", "read", "short_name"]

LONG = 16  # letters of a spec string beyond which a name is easier to read
MAX_LENGTH = 2**22  # letters of a file; a list of 2**16 values has less than a third


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A named format with where it is defined, and landmark values, for tests and checks."""

    name: str
    format: Format
    title: str
    source: str
    landmarks: Mapping[str, object] = field(hash=False, compare=False)


def folder():
    """The catalogue's folder: package data of the wheel, or ``formats/`` of a checkout."""
    packaged = resources.files("qsim") / "_catalogue"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "formats"


@cache
def catalogue() -> Mapping[str, Entry]:
    """Every entry by name.

    >>> catalogue()["ocp_e4m3"].format.largest
    Fraction(448, 1)
    """
    entries = {**_entries(composite=False), **_entries(composite=True)}
    return MappingProxyType({name: entries[name] for name in _tables()})


def find(name: str) -> Entry | None:
    """The entry of a name, if there is one; entries that others are made of are found first."""
    return _entries(composite=False).get(name) or _entries(composite=True).get(name)


def short_name(fmt: Format) -> str:
    """The spec string of a format; where that is long, the name of an equal one, if there is one.

    >>> short_name(catalogue()["nf4"].format), short_name(catalogue()["ocp_e2m1"].format)
    ('nf4', 'e2m1f')
    """
    spec = str(fmt)
    equal = (entry.name for entry in catalogue().values() if entry.format == fmt)
    return spec if len(spec) <= LONG else next(equal, spec)


@cache
def _tables() -> dict[str, dict]:
    """What the files say of each name, the files in alphabetical order."""
    files = sorted(
        (path for path in folder().iterdir() if path.name.endswith(".toml")), key=lambda p: p.name
    )
    tables = [item for p in files for item in tomllib.loads(p.read_text("utf-8")).items()]
    names = [name for name, _ in tables]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the catalogue has more than one {sorted(twice)[0]!r}; rename the others")
    return dict(tables)


@cache
def _entries(*, composite: bool) -> dict[str, Entry]:
    """The entries of the families whose formats are, or are not, made of other formats."""
    chosen = {
        name: table
        for name, table in _tables().items()
        if composite == (table.get("family") in _composite_families())
    }
    return {name: _entry(name, dict(table)) for name, table in chosen.items()}


def _composite_families() -> set[str]:
    return {name for name, family in FAMILIES.items() if family.composite}


def load(file: str | os.PathLike) -> dict[str, Entry]:
    """The entries of a catalogue file of one's own, by name.

    The schema is that of ``formats/README.md``. ``load(file)[name].format`` is the format.

    Raises:
        ValueError: for a file that cannot be read, or holds no format or an impossible one.

    >>> load(folder() / "ocp.toml")["ocp_e2m1"].format.largest
    Fraction(6, 1)
    """
    try:
        if Path(file).is_fifo():
            raise ValueError("it is a pipe, no file")
        entries = read(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no UTF-8 text ({error.reason}): save it as UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not entries:
        raise ValueError(f"{file} holds no format; formats/README.md says what one looks like")
    return {entry.name: entry for entry in entries}


def read(text: str) -> list[Entry]:
    """The entries of a catalogue file.

    Raises:
        ValueError: for a text that is no TOML or too long, and for a key or a family that the
            schema does not have.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(
            f"the file has {len(text)} letters, but at most {MAX_LENGTH} are read: split it"
        )
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply: a format needs one or two") from None
    return [_entry(name, table) for name, table in tables.items()]


def _entry(name: str, table: dict) -> Entry:
    if not isinstance(table, dict):
        raise ValueError(f"catalogue entry {name!r} is no table: begin it with [{name}]")
    table = dict(table)
    try:
        family = table.pop("family")
        if not isinstance(family, str) or family not in FAMILIES:
            raise TypeError(f"no family {shown(family)}; known are {', '.join(FAMILIES)}")
        described = {key: table.pop(key) for key in ("title", "source")}
        for key, said in described.items():
            if not isinstance(said, str):
                raise TypeError(f"{key} is {shown(said)}, but must be a string")
        described["landmarks"] = table.pop("landmarks", {})
        if not isinstance(described["landmarks"], dict):
            raise TypeError("landmarks must be a table: begin it with [NAME.landmarks]")
        record = FAMILIES[family].record
        _require_known(table, record, family)
        return Entry(name=name, format=record(**table), **described)
    except KeyError as missing:
        raise ValueError(f"catalogue entry {name!r}: {missing} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"catalogue entry {name!r}: {error}") from None


def _require_known(table: dict, record: Callable, family: str) -> None:
    """Every key of an entry is a field of its family."""
    parameters = inspect.signature(record).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for key in table:
        if key not in parameters:
            hint = suggest(key[:40], list(parameters))
            raise TypeError(f"no key {shown(key)} in the family {family}; {hint}")
