"""What a number format is: frozen, hashable records of exact facts.

A format is a finite set of values with a code (an unsigned integer) for each of them.

Glossary, used with these meanings everywhere in qsim:

- *code*: the unsigned integer that the hardware stores.
- *mantissa bits*: the stored fraction bits; they do not count the implicit bit.
- *precision*: the bits of the significand, the implicit bit counted: ``mantissa_bits + 1``.
- *bias*: what is subtracted from a stored exponent field; ``emin = 1 - bias`` where the
  field 0 holds subnormals.
- *emin*, *emax*: the exponents of the smallest and of the largest normal value.
- *subnormal*: a value below ``2**emin``; subnormals are spaced as the lowest binade is.
- *quantum*: the exponent of the smallest gap between two neighbours (a power of two).
- *carrier*: the IEEE type (float32, float64) in which emulated values travel.

Source of the terms: IEEE 754-2019, sections 2.1 and 3.3; OCP Microscaling Formats 1.0, section 5.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal

__all__ = ["Float", "Format", "Integer", "power"]

NaNs = Literal["ieee", "top", "negative_zero", "none"]

MAX_CODE_BITS = 64


@cache
def power(exponent: int) -> Fraction:
    """Two to an integer power, exactly.

    >>> power(-3)
    Fraction(1, 8)
    """
    return Fraction(2) ** exponent


class Format:
    """What every format says of itself, whatever its family.

    A family is a frozen, keyword-only dataclass of Python numbers, strings and tuples, so that
    equal formats are equal and hashable. For each family are registered: its spec strings
    (``families.register``), its exact meaning (``exact.value_of``, ``code_of``, ``gap_at``), its
    lowering to arrays (``grid.lowered``) and its codes (``codes.encoded``, ``codes.decoded``).

    Attributes:
        bits: bits of a code.
        largest, lowest: the largest and the lowest finite value.
        smallest: the smallest positive value.
        quantum: an exponent such that every finite value is a multiple of ``2**quantum``.
        precision: bits of the longest significand.

    ``str(fmt)`` is the canonical spec string; ``qsim.parse`` is its inverse.
    """

    bits: int
    largest: Fraction
    lowest: Fraction
    smallest: Fraction
    quantum: int
    precision: int

    @property
    def signed(self) -> bool:
        """Whether there are values below zero."""
        return self.lowest < 0

    @property
    def has_zero(self) -> bool:
        """Whether zero is a value."""
        return True

    @property
    def has_negative_zero(self) -> bool:
        """Whether minus zero is a value of its own."""
        return False

    @property
    def infinities(self) -> bool:
        """Whether infinity is a value."""
        return False

    @property
    def nan_count(self) -> int:
        """How many codes are NaNs."""
        return 0

    @property
    def has_nan(self) -> bool:
        """Whether some code is a NaN."""
        return self.nan_count > 0

    @property
    def nan_code(self) -> int | None:
        """The canonical NaN; None without NaNs."""
        return None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_integers(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if type(value) is not int:
            kind = type(record).__name__
            raise TypeError(f"{kind} {name} must be a Python int, got {value!r}")


def _require_booleans(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if type(value) is not bool:
            raise TypeError(f"{type(record).__name__} {name} must be True or False, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Float(Format):
    """A binary floating-point format.

    Attributes:
        exponent_bits: width of the exponent field, 1 or more.
        mantissa_bits: width of the fraction field. With 0 of them the format is a power-of-two
            *scale* (OCP E8M0): unsigned, with neither zero nor subnormals, so that the exponent
            field 0 is an ordinary binade.
        bias: exponent bias, in units of the exponent field; by default
            ``2**(exponent_bits - 1) - 1``, and one more where the NaN is at minus zero.
        signed: whether there is a sign bit.
        infinities: whether the code just below the NaNs of the top is an infinity.
        nans: ``"ieee"`` (all-ones exponent, non-zero fraction), ``"top"`` (only the all-ones
            code), ``"negative_zero"`` (only the code of minus zero) or ``"none"``.

    Raises:
        TypeError: for a field of another type.
        ValueError: for a combination that names no set of values, more than 15 exponent bits, a
            code of more than 64 bits or a bias beyond 2**15; the message says which rule.

    The record's meaning, for a magnitude code ``c`` with exponent field ``E = c >> mantissa_bits``
    and fraction ``T = c & (2**mantissa_bits - 1)``, where c is not special::

        value = T * 2**(emin - mantissa_bits)                     where E == 0, if there is a zero
        value = (2**mantissa_bits + T) * 2**(E - bias - mantissa_bits)            elsewhere

    Source: IEEE 754-2019, 3.4; OCP OFP8 1.0, 5.1 and OCP MX 1.0, 5.3 for the special values.

    >>> Float(exponent_bits=4, mantissa_bits=3, nans="top", infinities=False).largest
    Fraction(448, 1)
    """

    exponent_bits: int
    mantissa_bits: int
    bias: Any = None  # an int in every record; the usual one is filled in
    signed: bool = True
    infinities: bool = True
    nans: NaNs = "ieee"

    def __post_init__(self):
        _require_booleans(self, "signed", "infinities")
        if self.bias is None:
            object.__setattr__(self, "bias", self._usual_bias)
        _require_integers(self, "exponent_bits", "mantissa_bits", "bias")
        e, m = self.exponent_bits, self.mantissa_bits
        _require(
            e >= 1,
            f"exponent_bits is {e}, but a float has at least 1; without an exponent it is "
            "fixed point: write 'fixed8.4' or Integer(bits=8, fraction_bits=4)",
        )
        _require(m >= 0, f"mantissa_bits is {m}, but it cannot be negative")
        _require(e <= 15, f"exponent_bits is {e}, but at most 15 are supported (binary128 has 15)")
        _require(
            self.bits <= MAX_CODE_BITS,
            f"the code would have {self.bits} bits, but at most {MAX_CODE_BITS} are supported",
        )
        _require(
            abs(self.bias) <= 2**15, f"bias is {self.bias}, but it must be within -32768..32768"
        )
        _require(
            self.nans in ("ieee", "top", "negative_zero", "none"),
            f"nans is {self.nans!r}, but must be 'ieee', 'top', 'negative_zero' or 'none'",
        )
        _require(
            self.infinities or self.nans != "ieee",
            "nans='ieee' keeps a code for infinity; without infinities use nans='top' or 'none'",
        )
        _require(
            self.signed or self.nans != "negative_zero",
            "nans='negative_zero' needs a sign bit; for an unsigned format use nans='top'",
        )
        _require(
            m > 0 or not (self.signed or self.infinities),
            "mantissa_bits=0 makes a power-of-two scale format, which is unsigned and has no "
            "infinities: pass signed=False, infinities=False",
        )
        assert self.top_code >= self.has_zero, "some finite value other than zero is left"

    # --- the layout of the codes -----------------------------------------------------------

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def has_zero(self) -> bool:
        """Whether zero is a value; only power-of-two scale formats lack it."""
        return self.mantissa_bits > 0

    @property
    def has_negative_zero(self) -> bool:
        """Whether minus zero is a value of its own."""
        return self.signed and self.nans != "negative_zero"

    @property
    def nan_count(self) -> int:
        """How many codes are NaNs, both signs counted."""
        match self.nans:
            case "ieee":
                return (2**self.mantissa_bits - 1) * (1 + self.signed)
            case "top":
                return 1 + self.signed
            case "negative_zero":
                return 1
            case _:
                return 0

    @property
    def nan_code(self) -> int | None:
        """The canonical NaN: quiet and positive where there is a choice; None without NaNs."""
        magnitude_bits = self.exponent_bits + self.mantissa_bits
        match self.nans:
            case "ieee" if self.has_nan:
                return 2**magnitude_bits - 2 ** (self.mantissa_bits - 1)
            case "top":
                return 2**magnitude_bits - 1
            case "negative_zero":
                return 2**magnitude_bits
            case _:
                return None

    @property
    def _top_nans(self) -> int:
        """NaN codes at the top of each sign's codes."""
        return {"ieee": 2**self.mantissa_bits - 1, "top": 1}.get(self.nans, 0)

    @property
    def top_code(self) -> int:
        """The magnitude code of the largest finite value."""
        codes = 2 ** (self.exponent_bits + self.mantissa_bits)
        return codes - 1 - self._top_nans - self.infinities

    # --- the values ------------------------------------------------------------------------

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal value."""
        return (1 if self.has_zero else 0) - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest finite value."""
        return max(self.top_code >> self.mantissa_bits, 1 if self.has_zero else 0) - self.bias

    @property
    def quantum(self) -> int:
        """Exponent of the smallest gap between neighbours."""
        return self.emin - self.mantissa_bits

    @property
    def precision(self) -> int:
        """Bits of the significand, the implicit bit counted."""
        return self.mantissa_bits + 1

    @property
    def largest(self) -> Fraction:
        """The largest finite value."""
        return self.magnitude(self.top_code)

    @property
    def lowest(self) -> Fraction:
        """The lowest finite value."""
        return -self.largest if self.signed else self.magnitude(0)

    @property
    def smallest_normal(self) -> Fraction:
        """The smallest positive normal value."""
        return power(self.emin)

    @property
    def smallest(self) -> Fraction:
        """The smallest positive value, subnormal where the format has subnormals."""
        return power(self.quantum)

    def magnitude(self, code: int) -> Fraction:
        """The value of a magnitude code (a code without its sign), were it not special."""
        m = self.mantissa_bits
        field, fraction = code >> m, code & (2**m - 1)
        if field == 0 and self.has_zero:
            return fraction * power(self.quantum)
        return (2**m + fraction) * power(field - self.bias - m)

    # --- names -----------------------------------------------------------------------------

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        e, m = self.exponent_bits, self.mantissa_bits
        bias = "" if self.bias == self._usual_bias else f"b{self.bias}"
        if m == 0:
            return f"e{e}m0{bias}" + ("" if self.nans == "top" else "f")
        specials = {
            ("ieee", True): "",
            ("top", False): "fn",
            ("none", False): "f",
            ("negative_zero", False): "fnuz",
            ("negative_zero", True): "nuz",
            ("top", True): "n",
            ("none", True): "i",
        }[self.nans, self.infinities]
        return f"{'' if self.signed else 'u'}e{e}m{m}{bias}{specials}"

    @property
    def _usual_bias(self) -> int:
        _require_integers(self, "exponent_bits", "mantissa_bits")
        return 2 ** max(self.exponent_bits - 1, 0) - (self.nans != "negative_zero")


@dataclass(frozen=True, kw_only=True)
class Integer(Format):
    """An integer or fixed-point format in two's complement.

    Attributes:
        bits: bits of a code, the sign bit counted.
        fraction_bits: bits after the binary point; 0 for integers.
        signed: two's complement where true, plain binary where false.
        symmetric: whether the most negative code is left unused, so that the range is
            ``-max .. max``.

    Raises:
        ValueError: for a combination that names no set of values.

    The record's meaning: ``value = code_as_signed_integer * 2**-fraction_bits``.

    Source: OCP MX 1.0, 5.3.4 (INT8 with an implied scale is ``fixed8.6``).

    >>> Integer(bits=8).lowest, Integer(bits=8, fraction_bits=6).largest
    (Fraction(-128, 1), Fraction(127, 64))
    """

    bits: int
    fraction_bits: int = 0
    signed: bool = True
    symmetric: bool = False

    def __post_init__(self):
        _require_integers(self, "bits", "fraction_bits")
        _require_booleans(self, "signed", "symmetric")
        least = 2 if self.signed else 1
        kind = "a signed" if self.signed else "an unsigned"
        _require(
            self.bits >= least, f"bits is {self.bits}, but {kind} integer has at least {least}"
        )
        _require(
            self.bits <= MAX_CODE_BITS,
            f"bits is {self.bits}, but at most {MAX_CODE_BITS} are supported",
        )
        _require(
            0 <= self.fraction_bits <= 1074,
            f"fraction_bits is {self.fraction_bits}, but it must be within 0..1074",
        )
        _require(
            self.signed or not self.symmetric,
            "symmetric=True needs a signed format; an unsigned one starts at zero",
        )

    @property
    def precision(self) -> int:
        """Bits of the largest magnitude's significand."""
        return self.bits - self.signed

    @property
    def quantum(self) -> int:
        """Exponent of the gap between neighbours."""
        return -self.fraction_bits

    @property
    def largest(self) -> Fraction:
        """The largest value."""
        return (2**self.precision - 1) * power(self.quantum)

    @property
    def lowest(self) -> Fraction:
        """The lowest value."""
        if not self.signed:
            return Fraction(0)
        return -self.largest if self.symmetric else -(2**self.precision) * power(self.quantum)

    @property
    def smallest(self) -> Fraction:
        """The smallest positive value."""
        return power(self.quantum)

    def __str__(self) -> str:
        """The canonical spec string; ``qsim.parse`` is its inverse."""
        sign, end = "" if self.signed else "u", "sym" if self.symmetric else ""
        if self.fraction_bits:
            return f"{sign}fixed{self.bits}.{self.fraction_bits}{end}"
        return f"{sign}int{self.bits}{end}"
