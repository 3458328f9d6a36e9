"""HiFloat8: eight bits whose *dot* field says how they are shared out.

Behind the sign bit a prefix code, the dot, gives the number of exponent bits; what remains is the
fraction. The exponent is in sign and magnitude, and its magnitude has an implicit leading 1::

    dot     exponent bits   fraction bits   exponents        value
    11      4               1               ±8 .. ±15        2**exponent * (1 + fraction)
    10      3               2               ±4 .. ±7
    01      2               3               ±2, ±3
    001     1               3               ±1
    0001    0               3               0
    0000    -               3 (M)           -22 .. -16       2**(M - 23), and zero for M = 0

So near 1 there are four bits of precision, and the lowest seven binades hold a power of two each.
The largest code is infinity, that of minus zero is NaN. Codes are not ordered as the values are,
but the parity of a code is that of its last fraction bit, and alternates between neighbours.

The document rounds to nearest with ties away from zero (``rounding="ties_to_away"``), and gives
infinity beyond the largest value (``overflow="ieee"``).

Source: Luo et al., Ascend HiFloat8 Format for Deep Learning, arXiv:2409.16626.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from qsim.numbers import exact
from qsim.numbers.exact import Gap, Value
from qsim.numbers.families import register
from qsim.numbers.formats import Format, power

__all__ = ["HiFloat8"]

# the dot, and the number of exponent bits behind it
DOTS = {"11": 4, "10": 3, "01": 2, "001": 1, "0001": 0}
INFINITY = 0b0_11_0111_1
NAN = 0b1_0000_000


@dataclass(frozen=True, kw_only=True)
class HiFloat8(Format):
    """The format HiFloat8 (HiF8), which has no parameters.

    The record's meaning is the table of the module.

    Source: arXiv:2409.16626.

    >>> HiFloat8().largest, HiFloat8().smallest
    (Fraction(32768, 1), Fraction(1, 4194304))
    """

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8

    @property
    def codes_in_order(self) -> bool:
        """Whether the codes of one sign are in the order of their values: they are not."""
        return False

    @property
    def infinities(self) -> bool:
        """Whether infinity is a value."""
        return True

    @property
    def nan_count(self) -> int:
        """How many codes are NaNs."""
        return 1

    @property
    def nan_code(self) -> int:
        """The code of NaN, which would be that of minus zero."""
        return NAN

    @property
    def precision(self) -> int:
        """Bits of the significand near 1, where it is longest."""
        return 4

    @property
    def quantum(self) -> int:
        """Exponent of the smallest value."""
        return -22

    @property
    def largest(self) -> Fraction:
        """The largest finite value."""
        return power(15)

    @property
    def lowest(self) -> Fraction:
        """The lowest finite value."""
        return -self.largest

    @property
    def smallest(self) -> Fraction:
        """The smallest positive value."""
        return power(self.quantum)

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        return "hif8"


# --- the exact definition -------------------------------------------------------------------


@cache
def _magnitude(code: int) -> Fraction:
    """The value of a code without its sign, were it not infinity."""
    body = f"{code:07b}"
    for dot, width in DOTS.items():
        if body.startswith(dot):
            exponent, fraction = body[len(dot) :][:width], body[len(dot) + width :]
            size = int("1" + exponent[1:], 2) if width else 0
            significand = 1 + Fraction(int(fraction, 2), 2 ** len(fraction))
            return significand * power(-size if exponent.startswith("1") else size)
    return power(code - 23) if code else Fraction(0)


@cache
def _ordered() -> list[tuple[Fraction, int]]:
    """Magnitudes in ascending order with their codes; infinity's as if it were finite."""
    return sorted((_magnitude(code), code) for code in range(2**7))


@exact.value_of.register
def _(fmt: HiFloat8, code: int) -> Value:
    negative, magnitude = code >> 7, code % 2**7
    if code == NAN:
        return exact.NAN
    if magnitude == INFINITY:
        return -exact.INF if negative else exact.INF
    return -_magnitude(magnitude) if negative else _magnitude(magnitude)


@exact.code_of.register
def _(fmt: HiFloat8, value: Value) -> int | None:
    codes = {repr(exact.value_of(fmt, code)): code for code in range(2**8)}
    return codes.get(repr(value))


@exact.gap_at.register
def _(fmt: HiFloat8, x: Fraction) -> Gap:
    sign, place = -1 if x < 0 else 1, bisect_right(_ordered(), (abs(x), 2**7)) - 1
    near, code = _ordered()[place]
    if code == INFINITY:  # beyond the code of infinity all numbers overflow alike
        return Gap(sign * near, sign * 2 * near, sign * near * 3 / 2, False)
    far, _ = _ordered()[place + 1]
    return Gap(sign * near, sign * far, sign * (near + far) / 2, code % 2 == 0)


# --- names ----------------------------------------------------------------------------------


def _hifloat8(found: re.Match) -> HiFloat8:
    return HiFloat8()


register("hifloat8", HiFloat8, pattern=r"hif8", read=_hifloat8, example="hif8")
