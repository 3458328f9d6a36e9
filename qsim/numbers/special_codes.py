"""Which codes of a float are infinities and NaNs.

Most formats keep them in one of four places, which have names; any other choice is a list of codes.
A format whose list is one of the named places has that name, so that equal formats are equal.

Sources: IEEE 754-2019, 3.4 (``ieee``); OCP OFP8 1.0, 5.1 (``top``); ml_dtypes README, the FNUZ
formats, and IEEE P3109 draft 4.0 (``negative_zero``).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any

from qsim.numbers.records import DECIMAL, exponent_of, power, require, shown

__all__ = ["NAMES", "SUFFIXES", "Specials", "text"]

NAMES = ("ieee", "top", "negative_zero", "none")

# the end of a spec string, by the place of the NaNs and whether there are infinities
SUFFIXES = {
    ("ieee", True): "",
    ("top", False): "fn",
    ("none", False): "f",
    ("negative_zero", False): "fnuz",
    ("negative_zero", True): "nuz",
    ("top", True): "n",
    ("none", True): "i",
}

MAX_LISTED_BITS = 16


@dataclass(frozen=True, kw_only=True)
class Specials:
    """The special codes of a float.

    Attributes:
        width: bits of a magnitude code, which is a code without its sign bit.
        mantissa_bits: those of the format.
        signed: whether there is a sign bit.
        nans: a name, or a tuple of ascending codes.
        infinities: whether the codes just below the NaNs of the top are infinities; a tuple of
            codes, the positive one first, where ``nans`` is a tuple.
    """

    width: int
    mantissa_bits: int
    signed: bool
    nans: Any  # a str or a tuple
    infinities: Any  # a bool or a tuple

    @property
    def sign(self) -> int:
        """The sign bit, which is also the code of minus zero."""
        return 1 << self.width

    @property
    def _top_nans(self) -> int:
        """NaN codes at the top of each sign's codes."""
        return {"ieee": 2**self.mantissa_bits - 1, "top": 1}.get(self.nans, 0)

    @property
    def _named_last(self) -> int:
        return self.sign - 1 - self._top_nans - bool(self.infinities)

    @cached_property
    def listed(self) -> dict[int, float]:
        """The special codes and what they are, where they are a list."""
        found = dict.fromkeys(self.nans, math.nan)
        for code in self.infinities or ():
            found[code] = -math.inf if code & self.sign else math.inf
        return found

    def meaning(self, code: int) -> float | None:
        """The infinity or NaN that a code is; None if it is neither."""
        if isinstance(self.nans, tuple):
            return self.listed.get(code)
        negative, magnitude = divmod(code, self.sign)
        if magnitude == 0 and negative and self.nans == "negative_zero":
            return math.nan
        if magnitude <= self._named_last:
            return None
        if self.infinities and magnitude == self._named_last + 1:
            return -math.inf if negative else math.inf
        return math.nan

    def last_finite(self, negative: bool, limit: int | None = None) -> int:
        """The largest magnitude code of a sign, up to a limit, that is not special, or 0."""
        most = self.sign - 1 if limit is None else limit
        if not isinstance(self.nans, tuple):
            return min(self._named_last, most)
        sign = self.sign if negative else 0
        ordinary = (code for code in range(most, 0, -1) if sign | code not in self.listed)
        return next(ordinary, 0)

    @property
    def nan_count(self) -> int:
        """How many codes are NaNs, both signs counted."""
        if isinstance(self.nans, tuple):
            return len(self.nans)
        return 1 if self.nans == "negative_zero" else self._top_nans * (1 + self.signed)

    @property
    def nan_code(self) -> int | None:
        """The canonical NaN: quiet and positive where there is a choice; None without NaNs."""
        if isinstance(self.nans, tuple):
            return self.nans[0] if self.nans else None
        match self.nans:
            case "ieee":
                return self.sign - 2 ** (self.mantissa_bits - 1)
            case "top":
                return self.sign - 1
            case "negative_zero":
                return self.sign
        return None

    def infinity_code(self, negative: bool) -> int:
        """The code of an infinity, in a format that has infinities."""
        if isinstance(self.infinities, tuple):
            return self.infinities[negative]
        return self._named_last + 1 + (self.sign if negative else 0)

    def codes(self) -> tuple[tuple, tuple]:
        """The codes of the NaNs and of the infinities, listed."""
        every = range(self.sign * (1 + self.signed))
        found = [(code, self.meaning(code)) for code in every]
        nans = tuple(code for code, value in found if value is not None and math.isnan(value))
        infinite = tuple(code for code, value in found if value is not None and math.isinf(value))
        return nans, infinite


def canonical(
    *, exponent_bits: int, mantissa_bits: int, bias: int, signed: bool, nans: Any, infinities: Any
) -> Specials:
    """The special codes that the fields of a format choose.

    Raises:
        TypeError, ValueError: for an unknown name, a code that the format does not have or that
            two would have, and a choice that the format has no code for.
    """
    width = exponent_bits + mantissa_bits
    layout = {"width": width, "mantissa_bits": mantissa_bits, "signed": signed}
    if isinstance(nans, str) and isinstance(infinities, bool):
        _check_named(nans, infinities, signed, exponent_bits)
        if nans == "ieee" and mantissa_bits == 0:
            nans = "none"  # there is only the infinity at the all-ones exponent
        return Specials(nans=nans, infinities=infinities, **layout)
    bits = width + signed
    require(
        bits <= MAX_LISTED_BITS,
        f"special codes are listed for formats of at most {MAX_LISTED_BITS} bits, this one has "
        f"{bits}: use a name, {', '.join(map(repr, NAMES))}",
    )
    if isinstance(nans, str):
        _check_named(nans, nans == "ieee", signed, exponent_bits)
        nans = Specials(nans=nans, infinities=nans == "ieee", **layout).codes()[0]
    require(
        infinities is not True,
        "infinities=True means the code below named NaNs; where NaNs are listed, list the codes of "
        "the infinities too, or pass infinities=False",
    )
    at = {"mantissa_bits": mantissa_bits, "bias": bias, "width": width, "signed": signed}
    nans = tuple(sorted(_code(special, **at) for special in _listed("nans", nans)))
    infinities = () if infinities is False else _listed("infinities", infinities)
    infinities = tuple(sorted(_code(special, **at) for special in infinities))
    _check_listed(nans, infinities, width, signed)
    for name, has_infinities in SUFFIXES:
        if name == "ieee" and not 0 < mantissa_bits < width:
            continue
        if name == "negative_zero" and not signed:
            continue
        named = Specials(nans=name, infinities=has_infinities, **layout)
        if named.codes() == (nans, infinities):
            return named
    return Specials(nans=nans, infinities=infinities or False, **layout)


def _check_named(nans: str, infinities: bool, signed: bool, exponent_bits: int) -> None:
    require(
        nans in NAMES,
        f"nans is {nans!r}, but must be 'ieee', 'top', 'negative_zero' or 'none', or a list",
    )
    require(
        nans != "ieee" or exponent_bits > 0,
        "nans='ieee' needs an exponent field; without one use nans='none', infinities=False",
    )
    require(
        infinities or nans != "ieee",
        "nans='ieee' keeps a code for infinity; without infinities use nans='top' or 'none'",
    )
    require(
        signed or nans != "negative_zero",
        "nans='negative_zero' needs a sign bit; for an unsigned format use nans='top'",
    )


def _listed(field: str, given: Any) -> Iterable:
    if not isinstance(given, tuple | list):
        raise TypeError(f"Float {field} must be a name or a tuple of codes, got {given!r}")
    return given


def _code(special: Any, *, mantissa_bits: int, bias: int, width: int, signed: bool) -> int:
    """The code given, or the code of a value given."""
    if type(special) is int:
        codes = 1 << (width + signed)
        require(0 <= special < codes, f"there is no code {special}; codes are 0..{codes - 1}")
        return special
    if type(special) not in (float, str, Fraction):
        raise TypeError(f"a special code is an int, or the value it would have, got {special!r}")
    value = _value(special)
    negative = math.copysign(1.0, special) < 0 if type(special) is float else value < 0
    magnitude, emin = abs(value), 1 - bias
    if magnitude < power(emin):
        code = magnitude / power(emin - mantissa_bits)
    else:
        exponent = exponent_of(magnitude)
        fraction = magnitude / power(exponent) - 1
        code = ((exponent + bias) + fraction) * 2**mantissa_bits
    require(
        code.denominator == 1 and code < 1 << width and (signed or not negative),
        f"{special} is not a value that some code would have: list the code instead",
    )
    return int(code) | (negative << width)


def _value(special: float | str | Fraction) -> Fraction:
    """The number that a special code is listed by."""
    is_number = DECIMAL.fullmatch(special.strip().lower()) if isinstance(special, str) else True
    try:
        if is_number:
            return Fraction(special)
    except (OverflowError, ValueError, ZeroDivisionError):
        pass
    raise ValueError(
        f"{shown(special)} is no number that a code would have, such as -1, '0.5' or '1/3': list "
        "the code instead"
    )


def _check_listed(nans: tuple, infinities: tuple, width: int, signed: bool) -> None:
    both = sorted(nans + infinities)
    twice = [code for code, following in pairwise(both) if code == following]
    require(not twice, f"the special code {[*twice, 0][0]:#x} is listed twice: list it once")
    require(0 not in both, "the code 0 is zero or the smallest value; it cannot be special")
    signs = [code >> width for code in infinities]
    require(
        not infinities or signs == list(range(1 + signed)),
        f"infinities has the codes {infinities}, but must have one for each sign: "
        + ("a positive and a negative one" if signed else "one code, as the format is unsigned"),
    )


def text(codes: Iterable[int]) -> str:
    """Codes as a spec string has them: hexadecimal, with points between them.

    >>> text((0x7F, 0xFF))
    '7f.ff'
    """
    return ".".join(f"{code:x}" for code in codes)
