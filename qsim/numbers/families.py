"""The families of formats: what spec strings and catalogue entries are made into.

A module that defines a family registers it here, and is imported by ``qsim.numbers`` (or by the
package that it belongs to); nothing else needs to know of it.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from qsim.numbers.formats import Format

__all__ = ["FAMILIES", "Family", "register"]


class Family(NamedTuple):
    """A family of formats.

    Attributes:
        record: what makes a format from the keys of a catalogue entry.
        pattern: matches the whole of a spec string, in lower case.
        read: the format that a match stands for; a ``ValueError`` says what is impossible.
        example: a spec string to show to people.
        composite: whether its formats are made of others, which may be named in the catalogue.
    """

    record: Callable[..., Format]
    pattern: re.Pattern
    read: Callable[[re.Match], Format]
    example: str
    composite: bool = False


FAMILIES: dict[str, Family] = {}


def register(
    name: str,
    record: Callable[..., Format],
    *,
    pattern: str,
    read: Callable[[re.Match], Format],
    example: str,
    composite: bool = False,
) -> None:
    """Adds a family under the name that catalogue entries use.

    Raises:
        ValueError: if the name is taken.
    """
    if name in FAMILIES:
        raise ValueError(f"there is a family {name!r} already")
    FAMILIES[name] = Family(record, re.compile(pattern), read, example, composite)
