"""Posits and takums: the exponent field grows with the magnitude, at the expense of the fraction.

A code is zero, or NaR ("not a real", the code ``10...0``, here the format's NaN), or the sign and
the bits of a number; negative numbers are the two's complement of the positive code. Behind the
sign bit:

- a posit has a *regime*, a run of equal bits ended by the opposite bit, of the value ``k - 1`` for
  k ones and ``-k`` for k zeros; then ``es`` exponent bits; then the fraction::

      value = 2**(regime * 2**es + exponent) * (1 + fraction)

- a linear takum has a direction bit D, three bits R that say how many bits r of the
  characteristic follow (``R`` where D is set, else ``7 - R``), those bits C, and the fraction::

      value = 2**c * (1 + fraction),   c = 2**r - 1 + C where D is set, else -2**(r + 1) + 1 + C

Bits that a short code has no room for are zero. The codes of one sign are ordered as the values.

Rounding is that of the bit string: a number between two neighbours is nearer to the upper one from
the value on that the code has with a 1 appended, the posit of one bit more between them. Where
exponent bits are cut this is not the middle of the gap. Stochastic rounding takes its fraction
from the values, so that it is unbiased there too.

Nearest never gives zero for a number that is not zero. No finite number overflows, in any mode:
beyond the largest value there is no grid. Infinity is no number, and the policy ``ieee`` makes it
NaR, as both documents do; the other policies give the largest value.

Sources: Posit Standard 2022, sections 3, 4 and 6.5 (es = 2); Gustafson and Yonemoto, Beating
Floating Point at its Own Game, 2017 (other es); Hunhold, Beating Posits at Their Own Game: Takum
Arithmetic, arXiv:2404.18603 (the linear takum).
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from qsim.numbers import exact
from qsim.numbers.exact import Gap, Value
from qsim.numbers.families import register
from qsim.numbers.records import MAX_CODE_BITS, Format, power, require, require_integers

__all__ = ["Posit", "Takum"]

MAX_ES = 9


class _Tapered(Format):
    """What posits and takums have in common."""

    bits: int

    @property
    def nan_count(self) -> int:
        """How many codes are NaNs: NaR alone."""
        return 1

    @property
    def nan_code(self) -> int:
        """The code of NaR, the sign bit alone."""
        return 1 << (self.bits - 1)

    @property
    def top_code(self) -> int:
        """The code of the largest value."""
        return self.nan_code - 1

    @property
    def largest(self) -> Fraction:
        """The largest value."""
        return self.magnitude(self.top_code)

    @property
    def lowest(self) -> Fraction:
        """The lowest value."""
        return -self.largest

    @property
    def smallest(self) -> Fraction:
        """The smallest positive value."""
        return self.magnitude(1)

    def magnitude(self, code: int, *, appended: int = 0) -> Fraction:
        """The value of a positive code, of ``appended`` bits more than the format's codes."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Posit(_Tapered):
    """A posit.

    Attributes:
        bits: bits of a code, 2 to 64.
        es: exponent bits behind the regime, 0 to 9; 2 in the standard of 2022.

    Raises:
        TypeError: for a field that is no Python int.
        ValueError: for a number of bits out of range.

    The record's meaning is the first equation of the module.

    Source: Posit Standard 2022, section 3.

    >>> Posit(bits=8).largest, Posit(bits=16, es=1).smallest == Fraction(1, 2**28)
    (Fraction(16777216, 1), True)
    """

    bits: int
    es: int = 2

    def __post_init__(self):
        _require_within(
            self, "bits", 2, MAX_CODE_BITS, "the smallest posit has a sign and a regime"
        )
        _require_within(self, "es", 0, MAX_ES, "no carrier reaches the values of more")

    @property
    def precision(self) -> int:
        """Bits of the significand about 1, where it is longest."""
        return max(self.bits - self.es - 2, 1)

    @property
    def quantum(self) -> int:
        """Exponent of the smallest value."""
        return -(self.bits - 2) * 2**self.es

    def magnitude(self, code: int, *, appended: int = 0) -> Fraction:
        """The value of a positive code, of ``appended`` bits more than the format's codes."""
        return _posit_magnitude(code, self.bits + appended, self.es)

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        return f"posit{self.bits}.{self.es}"


@dataclass(frozen=True, kw_only=True)
class Takum(_Tapered):
    """A linear takum.

    Attributes:
        bits: bits of a code, 6 to 64.

    Raises:
        TypeError: if ``bits`` is no Python int.
        ValueError: if ``bits`` is out of range.

    The record's meaning is the second equation of the module. The values reach ``2**255``, with
    few bits ``2**191`` at least, so that of the carriers only float64 holds them.

    Source: Hunhold, arXiv:2404.18603.

    >>> Takum(bits=8).largest == 2**239, Takum(bits=16).precision
    (True, 12)
    """

    bits: int

    def __post_init__(self):
        _require_within(self, "bits", 6, MAX_CODE_BITS, "shorter ones cut the regime")

    @property
    def precision(self) -> int:
        """Bits of the significand about 1, where it is longest."""
        return self.bits - 4

    @property
    def quantum(self) -> int:
        """An exponent such that every value is a multiple of ``2**quantum``."""
        return -243 - self.bits if self.bits > 12 else 2 ** (12 - self.bits) - 255

    def magnitude(self, code: int, *, appended: int = 0) -> Fraction:
        """The value of a positive code, of ``appended`` bits more than the format's codes."""
        return _takum_magnitude(code, self.bits + appended)

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        return f"takum{self.bits}"


def _require_within(record: Format, name: str, least: int, most: int, reason: str) -> None:
    require_integers(record, name)
    kind, value = type(record).__name__, getattr(record, name)
    require(
        least <= value <= most,
        f"{kind} {name} is {value}, but must be within {least}..{most}: {reason}",
    )


# --- the values -----------------------------------------------------------------------------


@cache
def _posit_magnitude(code: int, bits: int, es: int) -> Fraction:
    body = f"{code:0{bits - 1}b}"
    run = len(body) - len(body.lstrip(body[0]))
    regime = run - 1 if body[0] == "1" else -run
    rest = body[run + 1 :]
    return _scaled(rest[es:], regime * 2**es + _number(rest[:es], es))


@cache
def _takum_magnitude(code: int, bits: int) -> Fraction:
    body = f"{code:0{bits - 1}b}".ljust(11, "0")
    upward, field = body[0] == "1", int(body[1:4], 2)
    r = field if upward else 7 - field
    start = 2**r - 1 if upward else -(2 ** (r + 1)) + 1
    return _scaled(body[4 + r :], start + _number(body[4 : 4 + r], r))


def _scaled(fraction: str, exponent: int) -> Fraction:
    return (1 + Fraction(_number(fraction, len(fraction)), 2 ** len(fraction))) * power(exponent)


def _number(digits: str, width: int) -> int:
    """The integer that binary digits stand for; missing ones are zero."""
    return int(digits.ljust(width, "0") or "0", 2)


# --- the exact definition -------------------------------------------------------------------


@exact.value_of.register
def _(fmt: _Tapered, code: int) -> Value:
    if code == 0:
        return Fraction(0)
    if code == fmt.nan_code:
        return exact.NAN
    return fmt.magnitude(code) if code < fmt.nan_code else -fmt.magnitude(2**fmt.bits - code)


@exact.code_of.register
def _(fmt: _Tapered, value: Value) -> int | None:
    if isinstance(value, float):
        return fmt.nan_code if value != value else None
    code = _code_below(fmt, abs(value))
    return code if value >= 0 else 2**fmt.bits - code


@exact.gap_at.register
def _(fmt: _Tapered, x: Fraction) -> Gap:
    sign, code = -1 if x < 0 else 1, _code_below(fmt, abs(x))
    near = sign * fmt.magnitude(code) if code else Fraction(0)
    if code == fmt.top_code:  # every larger number is rounded to the largest value
        return Gap(near, near, near, False)
    tie = fmt.magnitude(2 * code + 1, appended=1) if code else Fraction(0)
    return Gap(near, sign * fmt.magnitude(code + 1), sign * tie, code % 2 == 0)


def _code_below(fmt: _Tapered, x: Fraction) -> int:
    """The code of the largest value that is not above ``x``, which is not negative."""
    return bisect_right(range(1, fmt.top_code + 1), x, key=fmt.magnitude)


# --- names ----------------------------------------------------------------------------------


def _posit(found: re.Match) -> Posit:
    return Posit(bits=int(found[1]), es=2 if found[2] is None else int(found[2]))


def _takum(found: re.Match) -> Takum:
    return Takum(bits=int(found[1]))


POSIT = r"posit(\d{1,5})(?:\.(\d{1,5}))?"
TAKUM = r"takum(\d{1,5})"

register("posit", Posit, pattern=POSIT, read=_posit, example="posit8.1")
register("takum", Takum, pattern=TAKUM, read=_takum, example="takum16")
