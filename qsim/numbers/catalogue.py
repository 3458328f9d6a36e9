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

__all__ = ["Entry", "catalogue", "folder", "read"]


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
    files = sorted(
        (path for path in folder().iterdir() if path.name.endswith(".toml")), key=lambda p: p.name
    )
    entries = [entry for path in files for entry in read(path.read_text(encoding="utf-8"))]
    names = [entry.name for entry in entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"the catalogue has more than one {sorted(twice)[0]!r}; rename the others")
    return MappingProxyType({entry.name: entry for entry in entries})


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
