"""Integers and fixed point."""

from dataclasses import dataclass
from fractions import Fraction

from qsim.numbers.records import (
    MAX_CODE_BITS,
    Format,
    power,
    require,
    require_booleans,
    require_integers,
)

__all__ = ["Integer", "check_wrap"]


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
        require_integers(self, "bits", "fraction_bits")
        require_booleans(self, "signed", "symmetric")
        least = 2 if self.signed else 1
        kind = "a signed" if self.signed else "an unsigned"
        require(self.bits >= least, f"bits is {self.bits}, but {kind} integer has at least {least}")
        require(
            self.bits <= MAX_CODE_BITS,
            f"bits is {self.bits}, but at most {MAX_CODE_BITS} are supported",
        )
        require(
            0 <= self.fraction_bits <= 1074,
            f"fraction_bits is {self.fraction_bits}, but it must be within 0..1074",
        )
        require(
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

    @property
    def wraps(self) -> bool:
        """Whether two's complement arithmetic wraps to values of the format."""
        return not self.symmetric


def check_wrap(fmt: Format, overflow: str) -> None:
    """Checks that a format has what the overflow policy ``"wrap"`` needs.

    Raises:
        ValueError: for a format that does not wrap.
    """
    require(
        overflow != "wrap" or fmt.wraps,
        f"overflow='wrap' is for integers and fixed point that use all their codes, and {fmt} is "
        "not one: choose another policy, such as 'saturate'",
    )
