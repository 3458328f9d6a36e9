"""Logarithmic formats: a sign, and the logarithm of the magnitude in fixed point.

Powers of two are those without fraction bits. The spec strings:

- ``[u]lnsN.F[bB][log]``: N bits in all, F of them fraction bits of the logarithm, bias B; with
  ``log`` the nearest value is that of nearest logarithm.
- ``[u]potN[bB][log]``: the same without fraction bits, printed as ``lnsN.0``.

Sources of the idea: Miyashita et al., Convolutional Neural Networks using Logarithmic Data
Representation, arXiv:1603.01025; Zhao et al., LNS-Madam, arXiv:2106.13914.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import isqrt
from typing import Any, Literal

from qsim.numbers import exact, families
from qsim.numbers.grid import Carrier, lowered
from qsim.numbers.records import (
    Format,
    exponent_of,
    power,
    require,
    require_booleans,
    require_integers,
)
from qsim.numbers.tables import MAX_BITS, TableGrid, table_of

__all__ = ["Logarithmic"]

SIGNIFICAND = 24  # bits of a value that is no power of two
TIE = 128  # bits of a tie between logarithms
WORKING = 256  # fraction bits of the roots of two


@dataclass(frozen=True, kw_only=True)
class Logarithmic(Format):
    """A logarithmic format.

    Attributes:
        integer_bits, fraction_bits: width of the exponent field before and after the binary point,
            at least 1 and 0.
        bias: exponent bias, ``2**(integer_bits - 1)`` by default.
        signed: whether there is a sign bit.
        nearest: what the modes to nearest compare: ``"value"``, or ``"logarithm"``, as hardware
            does that rounds the logarithm.

    Raises:
        TypeError: for a field of another type.
        ValueError: for a combination that names no set of values, more than 16 bits or a bias
            beyond 2**15.

    The record's meaning, for an exponent field E from 1 on::

        value = 2**((E - bias * 2**fraction_bits) / 2**fraction_bits)

    A power that is irrational is rounded to the nearest number of 24 bits, whatever the carrier.
    Field 0 is zero; with the sign bit it is the only NaN. The grid continues beyond the largest
    value. Two logarithms tie in the middle: at a number that is irrational too, and cut to 128
    bits; the tie between zero and the smallest value is where field 0 would have it.

    >>> fmt = Logarithmic(integer_bits=3, fraction_bits=1)
    >>> fmt.largest, float(fmt.magnitude(8)), float(fmt.magnitude(7))
    (Fraction(11863283, 1048576), 1.0, 0.7071067690849304)
    """

    integer_bits: int
    fraction_bits: int
    bias: Any = None  # an int in every record; the usual one is filled in
    signed: bool = True
    nearest: Literal["value", "logarithm"] = "value"

    def __post_init__(self):
        require_booleans(self, "signed")
        require_integers(self, "integer_bits", "fraction_bits")
        i, f = self.integer_bits, self.fraction_bits
        require(
            i >= 1,
            f"integer_bits is {i}, but a logarithm has at least 1; write 'lns8.3' for a sign, 4 "
            "integer bits and 3 fraction bits",
        )
        require(f >= 0, f"fraction_bits is {f}, but it cannot be negative")
        require(
            self.bits <= MAX_BITS,
            f"the code would have {self.bits} bits, but logarithmic formats have at most "
            f"{MAX_BITS}: take fewer fraction bits",
        )
        if self.bias is None:
            object.__setattr__(self, "bias", self._usual_bias)
        require_integers(self, "bias")
        require(
            abs(self.bias) <= 2**15, f"bias is {self.bias}, but it must be within -32768..32768"
        )
        require(
            self.nearest in ("value", "logarithm"),
            f"nearest is {self.nearest!r}, but must be 'value' or 'logarithm'",
        )

    @property
    def _usual_bias(self) -> int:
        return 2 ** (self.integer_bits - 1)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.signed + self.integer_bits + self.fraction_bits

    @property
    def nan_count(self) -> int:
        """One with a sign bit, none without."""
        return int(self.signed)

    @property
    def nan_code(self) -> int | None:
        """The sign bit alone; None without one."""
        return self.top_field + 1 if self.signed else None

    @property
    def top_field(self) -> int:
        """The exponent field of the largest value."""
        return 2 ** (self.integer_bits + self.fraction_bits) - 1

    @property
    def largest(self) -> Fraction:
        """The largest value."""
        return self.magnitude(self.top_field)

    @property
    def lowest(self) -> Fraction:
        """The lowest value."""
        return -self.largest if self.signed else Fraction(0)

    @property
    def smallest(self) -> Fraction:
        """The smallest positive value."""
        return self.magnitude(1)

    @property
    def precision(self) -> int:
        """Bits of the significand that a value may have: 24, or 1 for powers of two."""
        return SIGNIFICAND if self.fraction_bits else 1

    @property
    def quantum(self) -> int:
        """The exponent of the last place of the smallest value."""
        return exponent_of(self.smallest) - (self.precision - 1)

    def magnitude(self, field: int) -> Fraction:
        """The magnitude that an exponent field stands for, also beyond the largest one."""
        if field == 0:
            return Fraction(0)
        f = self.fraction_bits
        return root_power(field - (self.bias << f), f, bits=SIGNIFICAND, cut=False)

    def tie(self, field: int) -> Fraction:
        """Where nearest changes from the magnitude of a field to that of the next."""
        if self.nearest == "value":
            return (self.magnitude(field) + self.magnitude(field + 1)) / 2
        f = self.fraction_bits
        return root_power(2 * (field - (self.bias << f)) + 1, f + 1, bits=TIE, cut=True)

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        bias = "" if self.bias == self._usual_bias else f"b{self.bias}"
        sign, end = "" if self.signed else "u", "log" if self.nearest == "logarithm" else ""
        return f"{sign}lns{self.bits}.{self.fraction_bits}{bias}{end}"


# --- powers of two whose exponents are fractions --------------------------------------------------


@cache
def _root(halvings: int) -> int:
    """``2**(1 / 2**halvings)`` in units of ``2**-WORKING``, less than 2 units too small."""
    return 2 << WORKING if halvings == 0 else isqrt(_root(halvings - 1) << WORKING)


@cache
def root_power(numerator: int, halvings: int, *, bits: int, cut: bool) -> Fraction:
    """``2**(numerator / 2**halvings)`` rounded to so many bits, to nearest or down.

    The factors ``2**(1/2), 2**(1/4), ...`` are integer square roots, so that the product is too
    small by few units; that it makes no difference is asserted.

    >>> float(root_power(1, 1, bits=24, cut=False))
    1.4142135381698608
    """
    whole, part = divmod(numerator, 2**halvings)
    if part == 0:
        return power(whole)
    product, least_error = 1 << WORKING, 0
    for place in range(1, halvings + 1):
        if part >> (halvings - place) & 1:
            product = product * _root(place) >> WORKING
            least_error += 5
    dropped = WORKING + 1 - bits
    half = 0 if cut else 1 << (dropped - 1)
    rounded = product + half >> dropped
    assert rounded == product + least_error + half >> dropped, (numerator, halvings)
    return rounded * power(whole + 1 - bits)


# --- the meaning ----------------------------------------------------------------------------------


@exact.value_of.register
def _(fmt: Logarithmic, code: int) -> exact.Value:
    if code == fmt.nan_code:
        return exact.NAN
    magnitude = fmt.magnitude(code & fmt.top_field)
    return -magnitude if code > fmt.top_field else magnitude


@exact.code_of.register
def _(fmt: Logarithmic, value: exact.Value) -> int | None:
    if isinstance(value, float):
        return fmt.nan_code
    return _field_of(abs(value), fmt) + (fmt.top_field + 1 if value < 0 else 0)


@exact.gap_at.register
def _(fmt: Logarithmic, x: Fraction) -> exact.Gap:
    sign, field = -1 if x < 0 else 1, _field_of(abs(x), fmt)
    near, far = fmt.magnitude(field), fmt.magnitude(field + 1)
    return exact.Gap(sign * near, sign * far, sign * fmt.tie(field), field % 2 == 0)


def _field_of(magnitude: Fraction, fmt: Logarithmic) -> int:
    """The field of the largest magnitude that is not above the given one."""
    if magnitude < fmt.smallest:
        return 0
    binade = exponent_of(magnitude) + fmt.bias << fmt.fraction_bits
    fields = range(max(binade, 1), binade + 2**fmt.fraction_bits)
    return fields[bisect_right(fields, magnitude, key=fmt.magnitude) - 1]


@lowered.register
def _(fmt: Logarithmic, carrier: Carrier) -> TableGrid:
    return table_of(fmt, carrier)


# --- names ----------------------------------------------------------------------------------------


def _logarithmic(found: re.Match) -> Logarithmic:
    unsigned, bits, fraction, power_bits, bias, logarithm = found.groups()
    fraction_bits = int(fraction or 0)
    return Logarithmic(
        integer_bits=int(bits or power_bits) - fraction_bits - (not unsigned),
        fraction_bits=fraction_bits,
        bias=None if bias is None else int(bias),
        signed=not unsigned,
        nearest="logarithm" if logarithm else "value",
    )


NUMBER = r"(\d{1,5})"
families.register(
    "logarithmic",
    Logarithmic,
    pattern=rf"(u?)(?:lns{NUMBER}\.{NUMBER}|pot{NUMBER})(?:b(-?{NUMBER[1:-1]}))?(log)?",
    read=_logarithmic,
    example="lns8.3",
)
