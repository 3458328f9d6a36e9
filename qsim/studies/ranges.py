"""Ranges of small whole numbers as people write them: ``2-8``, ``2,4,6-8``, or a list."""

import re
from typing import Any

from qsim.numbers.records import shown

__all__ = ["numbers"]

MOST = 10**6  # numbers


def numbers(name: str, given: Any, digits: int = 2) -> list[int]:
    """The numbers of a text, of one number, or of a list of numbers.

    Args:
        name: what they are for, in messages.
        given: such as ``"2-8"``, ``"2,4,6-8"``, ``3`` or ``[2, 3]``.
        digits: that a number has at most.

    Raises:
        ValueError: for anything else, and for more than a million numbers.

    >>> numbers("exponents", "2,4-6"), numbers("seeds", [0, 1])
    ([2, 4, 5, 6], [0, 1])
    """
    if isinstance(given, list):
        text = ",".join(str(part) for part in given)
    elif isinstance(given, str) or (isinstance(given, int) and not isinstance(given, bool)):
        text = str(given).replace(" ", "")
    else:
        raise ValueError(f"{name} is {shown(given)}, no range; write 2-8 or 2,4,6")
    found: list[int] = []
    for part in filter(None, text.split(",")):
        match = re.fullmatch(rf"([0-9]{{1,{digits}}})(?:-([0-9]{{1,{digits}}}))?", part)
        if not match or int(match[2] or match[1]) < int(match[1]) or len(found) > MOST:
            raise ValueError(f"{name} {shown(given)} is no range; write 2-8 or 2,4,6")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found
