"""How the values of a format lie: what each code is, how many there are, how precise they are.

A *binade* is the interval ``[2**e, 2**(e+1))``. The precision at a magnitude x is what x would
have in a float with the same gap: ``floor(log2(x)) - log2(gap) + 1`` bits, with the implicit one.

Everything is read off the exact definitions, so that it holds for every family of formats.
"""

import math
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import pairwise

from qsim.numbers import exact
from qsim.numbers.exact import Value
from qsim.numbers.formats import Format, power
from qsim.numbers.records import exponent_of, log2

__all__ = [
    "KINDS",
    "LISTED_BITS",
    "binades",
    "count_per_binade",
    "dynamic_range",
    "element",
    "finite_values",
    "is_finite",
    "kind",
    "listed_values",
    "precision_at",
    "require_listed",
    "ties",
]

KINDS = ("zero", "subnormal", "normal", "infinity", "NaN", "unused")

LISTED_BITS = 16  # formats of more bits have more values than can be listed in a moment


def element(fmt: Format) -> Format:
    """The format of single numbers: the element of a block format, any other format itself."""
    return getattr(fmt, "element", fmt)


def require_listed(fmt: Format, what: str) -> None:
    """Checks that all values of the format can be listed.

    Raises:
        ValueError: for more than 16 bits, saying what cannot be done.
    """
    if fmt.bits > LISTED_BITS:
        raise ValueError(
            f"{fmt} has {fmt.bits} bits: {what} lists all values, of at most {LISTED_BITS} bits"
        )


@cache
def listed_values(fmt: Format) -> tuple[Value, ...]:
    """Every value by its code.

    Raises:
        ValueError: for a format of more than 16 bits.
    """
    require_listed(fmt, "this")
    return tuple(exact.values(fmt))


@cache
def finite_values(fmt: Format) -> tuple[Fraction, ...]:
    """The finite values in ascending order, each once; zero and minus zero are one.

    >>> from qsim import parse
    >>> [float(value) for value in finite_values(parse("e2m1f"))[7:]]
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    used = {Fraction(value) for value in listed_values(fmt) if is_finite(value)}
    return tuple(sorted(value for value in used if fmt.lowest <= value <= fmt.largest))


@cache
def ties(fmt: Format) -> tuple[Fraction, ...]:
    """Where nearest changes from one finite value to the next: one fewer than there are values.

    In the middle of two neighbours in most families; posits have it elsewhere.
    """
    return tuple(exact.gap_at(fmt, (a + b) / 2).tie for a, b in pairwise(finite_values(fmt)))


def is_finite(value: Value) -> bool:
    """Whether a value is neither infinite nor NaN, however large it is."""
    return isinstance(value, Fraction) or math.isfinite(value)


def kind(fmt: Format, value: Value) -> str:
    """What a value is, one of ``KINDS``; unused is a code outside the format's range.

    >>> from qsim import parse
    >>> kind(parse("e4m3"), Fraction(1, 512)), kind(parse("int8sym"), Fraction(-128))
    ('subnormal', 'unused')
    """
    if not is_finite(value):
        return "NaN" if math.isnan(value) else "infinity"
    if value == 0:
        return "zero"
    if not fmt.lowest <= value <= fmt.largest:
        return "unused"
    return "subnormal" if abs(value) < getattr(fmt, "smallest_normal", 0) else "normal"


def binades(fmt: Format) -> range:
    """The exponents of the binades from the smallest positive value to the largest."""
    return range(exponent_of(fmt.smallest), exponent_of(max(fmt.largest, fmt.smallest)) + 1)


def dynamic_range(fmt: Format) -> float:
    """log2(largest / smallest positive value), in binades.

    >>> from qsim import parse
    >>> round(dynamic_range(parse("e4m3fn")), 2)
    17.81
    """
    ratio = max(fmt.largest, fmt.smallest) / fmt.smallest
    return log2(ratio)


def precision_at(fmt: Format, x: Fraction) -> float | None:
    """Bits of precision at a positive number; None outside the format's range.

    >>> from qsim import parse
    >>> [precision_at(parse(spec), Fraction(1)) for spec in ("e4m3", "int8")]
    [4.0, 1.0]
    """
    if not fmt.smallest <= x <= fmt.largest:
        return None
    gap = exact.gap_at(fmt, x)
    width = abs(gap.far - gap.near)
    if width == 0:
        return None
    return exponent_of(x) + 1 - log2(width)


def count_per_binade(fmt: Format) -> dict[int, int]:
    """How many positive values each binade has, by its exponent.

    Nothing of formats too wide to be listed, if their codes do not ascend with the values.

    >>> from qsim import parse
    >>> count_per_binade(parse("int4"))
    {0: 1, 1: 2, 2: 4}
    """
    if fmt.bits <= LISTED_BITS:
        found = Counter(exponent_of(value) for value in finite_values(fmt) if value > 0)
        return {e: found[e] for e in binades(fmt)}
    if not fmt.codes_in_order:
        return {}
    ends = [_rank(fmt, power(e)) for e in binades(fmt)] + [_rank(fmt, fmt.largest) + 1]
    return {e: after - at for e, (at, after) in zip(binades(fmt), pairwise(ends), strict=True)}


def _rank(fmt: Format, x: Fraction) -> int:
    """The code of the first value that is not below ``x``."""
    return exact.encode(fmt, exact.round_exact(max(x, fmt.smallest), fmt, rounding="up"))
