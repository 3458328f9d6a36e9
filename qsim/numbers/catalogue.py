"""The catalogue: named formats, read from the TOML files of ``formats/``."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from qsim.numbers.families import FAMILIES
from qsim.numbers.formats import Format

__all__ = ["Entry", "catalogue", "find", "folder", "read"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A named format with where it is defined, and landmark values that only tests use."""

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


def read(text: str) -> list[Entry]:
    """The entries of a catalogue file.

    Raises:
        ValueError: for a key or a family that the schema does not have.
    """
    return [_entry(name, table) for name, table in tomllib.loads(text).items()]


def _entry(name: str, table: dict) -> Entry:
    if not isinstance(table, dict):
        raise ValueError(f"catalogue entry {name!r} is no table: begin it with [{name}]")
    table = dict(table)
    try:
        family = table.pop("family")
        if family not in FAMILIES:
            raise TypeError(f"no family {family!r}; known are {', '.join(FAMILIES)}")
        described = {key: table.pop(key) for key in ("title", "source")}
        described["landmarks"] = table.pop("landmarks", {})
        return Entry(name=name, format=FAMILIES[family].record(**table), **described)
    except KeyError as missing:
        raise ValueError(f"catalogue entry {name!r}: {missing} is missing") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"catalogue entry {name!r}: {error}") from None
