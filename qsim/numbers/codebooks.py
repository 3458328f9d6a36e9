"""Codebooks: formats that are a list of values, such as NF4 or the centroids of a clustering.

The spec string lists the values in the order of their codes: ``codebook(-1,0,0.5,1)``. After it may
stand what counts as even where it is not the code (``low``, ``high``, ``zero`` or ``away``).
``codebook64(...)`` has values that are float64 numbers.

Source of the idea: Dettmers et al., QLoRA, arXiv:2305.14314, section 3 (NF4).
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal

import numpy as np

from qsim.numbers import exact, families
from qsim.numbers.floats import Float
from qsim.numbers.grid import Carrier, lowered, pattern
from qsim.numbers.records import DECIMAL, Format, exponent_of, last_place, require, shown
from qsim.numbers.tables import TableGrid, table_of

__all__ = ["Codebook"]

TIES = ("even", "low", "high", "zero", "away")
CARRIERS = {
    "float32": Float(exponent_bits=8, mantissa_bits=23),
    "float64": Float(exponent_bits=11, mantissa_bits=52),
}
MAX_VALUES = 2**16

INTEGER = re.compile(r"[+-]?\d{1,400}")


@dataclass(frozen=True, kw_only=True)
class Codebook(Format):
    """A format that is a list of values.

    Attributes:
        values: 2 to 65,536 different numbers in the order of their codes. Integers and fractions
            are taken as they are. Floats, and strings such as ``"-0.6962"`` or ``"1/3"``, stand
            for the nearest number of the carrier, as decimals do in programs.
        ties: which of two neighbours counts as even, that is, where the modes ``ties_to_even``,
            ``ties_to_odd`` and ``to_odd`` go: the one of even code (``"even"``), the lower or the
            higher one (``"low"``, ``"high"``), that of smaller or larger magnitude (``"zero"``,
            ``"away"``).
        carrier: ``"float32"`` or ``"float64"``, the type of which all values are numbers.

    Raises:
        TypeError: for values that are not numbers.
        ValueError: for too few or too many values, one that occurs twice, or one that is no
            number of the carrier.

    Codes that no value has are NaNs. Numbers beyond an end go to the end, whatever the policy: a
    list does not continue. Between a negative and a positive neighbour that are equally far from
    zero, the negative one counts as that of smaller magnitude.

    The record's meaning: ``value = values[code]``.

    >>> Codebook(values=(-1, "-1/3", 0.1, 1)).values
    (Fraction(-1, 1), Fraction(-11184811, 33554432), Fraction(13421773, 134217728), Fraction(1, 1))
    """

    values: Any  # a tuple of Fractions in every record
    ties: Literal["even", "low", "high", "zero", "away"] = "even"
    carrier: Literal["float32", "float64"] = "float32"

    def __post_init__(self):
        require(
            self.carrier in tuple(CARRIERS),
            f"carrier is {self.carrier!r}, but must be 'float32' or 'float64'",
        )
        require(self.ties in TIES, f"ties is {self.ties!r}, but must be one of {', '.join(TIES)}")
        if not isinstance(self.values, Sequence | np.ndarray) or isinstance(self.values, str):
            raise TypeError(f"values must be a list of numbers, got {shown(self.values)}")
        require(
            2 <= len(self.values) <= MAX_VALUES,
            f"a codebook has 2 to {MAX_VALUES} values, got {len(self.values)}",
        )
        read = tuple(_read(number, self.carrier) for number in self.values)
        object.__setattr__(self, "values", read)
        self._require_different()

    def _require_different(self) -> None:
        seen: dict[Fraction, int] = {}
        for place, value in enumerate(self.values):
            first = seen.setdefault(value, place)
            require(
                first == place,
                f"values {first} and {place} (counted from 0) are both {float(value):g} in "
                f"{self.carrier}: a codebook has every value once, so leave one out",
            )

    @cached_property
    def _hash(self) -> int:
        return hash((self.values, self.ties, self.carrier))

    def __hash__(self) -> int:
        return self._hash

    # --- codes and values ------------------------------------------------------------------

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return (len(self.values) - 1).bit_length()

    @property
    def nan_count(self) -> int:
        """How many codes no value has."""
        return 2**self.bits - len(self.values)

    @property
    def nan_code(self) -> int | None:
        """The first code that no value has; None if all have one."""
        return len(self.values) if self.has_nan else None

    @cached_property
    def ordered(self) -> tuple[Fraction, ...]:
        """The values in ascending order."""
        return tuple(sorted(self.values))

    @property
    def codes_in_order(self) -> bool:
        """Whether the values are listed in ascending order."""
        return self.values == self.ordered

    @cached_property
    def codes(self) -> dict[Fraction, int]:
        """The code of each value."""
        return {value: code for code, value in enumerate(self.values)}

    @property
    def largest(self) -> Fraction:
        """The largest value."""
        return self.ordered[-1]

    @property
    def lowest(self) -> Fraction:
        """The lowest value."""
        return self.ordered[0]

    @cached_property
    def smallest(self) -> Fraction:
        """The smallest positive value; without one the smallest magnitude but zero."""
        positive = [value for value in self.values if value > 0]
        return min(positive or [abs(value) for value in self.values if value])

    @property
    def has_zero(self) -> bool:
        """Whether zero is a value."""
        return 0 in self.codes

    @cached_property
    def quantum(self) -> int:
        """The largest exponent such that every value is a multiple of that power of two."""
        return min(last_place(value) for value in self.values if value)

    @cached_property
    def precision(self) -> int:
        """Bits of the longest significand."""
        nonzero = [abs(value) for value in self.values if value]
        return max(exponent_of(value) - last_place(value) + 1 for value in nonzero)

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        kind = "codebook" if self.carrier == "float32" else "codebook64"
        listed = ",".join(_written(value, self.carrier) for value in self.values)
        return f"{kind}({listed}){'' if self.ties == 'even' else self.ties}"


def _read(number: object, carrier: str) -> Fraction:
    """The value that a number of a list stands for."""
    if isinstance(number, bool | np.bool_):
        raise TypeError(f"a codebook holds numbers, got {shown(number)}")
    if isinstance(number, int | np.integer):
        exactly, taken_as_is = Fraction(int(number)), True
    elif isinstance(number, Fraction):
        exactly, taken_as_is = number, True
    elif isinstance(number, float | np.floating):
        require(bool(np.isfinite(number)), f"a codebook holds finite numbers, got {number}")
        exactly, taken_as_is = Fraction(float(number)), False
    elif isinstance(number, str) and DECIMAL.fullmatch(number.strip().lower()):
        exactly, taken_as_is = _fraction(number.strip()), bool(INTEGER.fullmatch(number.strip()))
    else:
        raise TypeError(
            f"a codebook holds numbers such as -1, 0.5 or '1/3', of at most 400 digits, got "
            f"{shown(number)}"
        )
    holder = CARRIERS[carrier]
    require(abs(exactly) <= holder.largest, f"{number} is beyond the largest {carrier}")
    value = Fraction(exact.round_exact(exactly, holder))
    require(
        value == exactly or not taken_as_is,
        f"{number} is no number of {carrier}; give it as a decimal to take the nearest one"
        + (", or pass carrier='float64'" if carrier == "float32" else ""),
    )
    return value


def _fraction(text: str) -> Fraction:
    numerator, _, denominator = text.partition("/")
    require(denominator.strip("0") != "" or "/" not in text, f"{text} divides by zero")
    return Fraction(numerator) / Fraction(denominator or 1)


def _written(value: Fraction, carrier: str) -> str:
    """The shortest text that is read as a value."""
    if value.denominator == 1 and abs(value) < 10**6:
        return str(value)
    return str(np.dtype(carrier).type(value.numerator / value.denominator))


# --- the meaning ------------------------------------------------------------------------------


@exact.value_of.register
def _(fmt: Codebook, code: int) -> exact.Value:
    return fmt.values[code] if code < len(fmt.values) else exact.NAN


@exact.code_of.register
def _(fmt: Codebook, value: exact.Value) -> int | None:
    if isinstance(value, float):
        return fmt.nan_code
    return fmt.codes.get(value)


@exact.gap_at.register
def _(fmt: Codebook, x: Fraction) -> exact.Gap:
    place = bisect_left(fmt.ordered, x)
    if x in fmt.codes or not 0 < place < len(fmt.values):  # on a value, or beyond an end
        value = fmt.ordered[min(place, len(fmt.values) - 1)]
        return exact.Gap(value, value, value, True)
    low, high = fmt.ordered[place - 1], fmt.ordered[place]
    near, far = (low, high) if abs(low) <= abs(high) else (high, low)
    return exact.Gap(near, far, (low + high) / 2, _counts_as_even(fmt, near, low))


def _counts_as_even(fmt: Codebook, near: Fraction, low: Fraction) -> bool:
    match fmt.ties:
        case "low":
            return near == low
        case "high":
            return near != low
        case "zero":
            return True
        case "away":
            return False
    return fmt.codes[near] % 2 == 0


@lowered.register
def _(fmt: Codebook, carrier: Carrier) -> TableGrid:
    magnitude = max(fmt.largest, -fmt.lowest)  # scales bring a tensor's largest magnitude here
    largest = np.asarray(pattern(magnitude, carrier), carrier.word)
    return replace(table_of(fmt, carrier), largest=largest)


# --- names ------------------------------------------------------------------------------------


def _codebook(found: re.Match) -> Codebook:
    wide, listed, ties = found.groups()
    return Codebook(
        values=listed.split(","),
        ties=ties or "even",
        carrier="float64" if wide else "float32",
    )


families.register(
    "codebook",
    Codebook,
    pattern=r"codebook(64)?\(([^()]+)\)(low|high|zero|away)?",
    read=_codebook,
    example="codebook(-1,0,1)",
)
