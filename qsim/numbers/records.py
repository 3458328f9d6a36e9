"""What every format says of itself, and the checks of its record."""

import math
import re
from fractions import Fraction
from functools import cache

__all__ = [
    "DECIMAL",
    "MAX_CODE_BITS",
    "Format",
    "exponent_of",
    "last_place",
    "log2",
    "power",
    "printable",
    "require",
    "require_booleans",
    "require_integers",
    "shown",
]

MAX_CODE_BITS = 64

# Numbers as they are typed. The lengths are bounded: 1e999999999 would take forever.
DECIMAL = re.compile(
    r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:e[+-]?\d{1,4})?|[+-]?\d{1,400}/\d{1,400}"
)


@cache
def power(exponent: int) -> Fraction:
    """Two to an integer power, exactly.

    >>> power(-3)
    Fraction(1, 8)
    """
    return Fraction(2) ** exponent


def log2(x: Fraction) -> float:
    """Its logarithm, also where no float holds the number."""
    return math.log2(x.numerator) - math.log2(x.denominator)


def exponent_of(x: Fraction) -> int:
    """``floor(log2(x))`` of a positive number, exactly.

    >>> exponent_of(Fraction(3, 8))
    -2
    """
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if power(guess) <= x else guess - 1


def last_place(x: Fraction) -> int:
    """The exponent of the last bit of a dyadic fraction that is not zero.

    >>> last_place(Fraction(3, 8)), last_place(Fraction(-12))
    (-3, 2)
    """
    lowest = x.numerator & -x.numerator
    return lowest.bit_length() - x.denominator.bit_length()


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
    def flushed_below(self) -> Fraction:
        """Magnitudes below this become zero after they are rounded; 0 for most formats."""
        return Fraction(0)

    @property
    def wraps(self) -> bool:
        """Whether what overflows can wrap to a value, as two's complement arithmetic does."""
        return False

    @property
    def codes_in_order(self) -> bool:
        """Whether the codes of one sign are in the order of their values, or the opposite."""
        return True

    @property
    def codes_are_unique(self) -> bool:
        """Whether no two codes have the same value, zero apart."""
        return True

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


def printable(text: str) -> str:
    """A text without what terminals take for commands, and what no file can hold.

    >>> printable("a\x1b[31mb")
    'a\ufffd[31mb'
    """
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def shown(value: object) -> str:
    """A value as messages show it: what a program would write, at most 40 letters of it.

    >>> shown("9" * 100)
    "'999999999999999999999999999999999999999..."
    """
    if isinstance(value, str) and len(value) > 40:
        return repr(value[:40] + "...")
    text = repr(value)
    return text if len(text) <= 42 else text[:40] + "..."


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_integers(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if type(value) is not int:
            kind = type(record).__name__
            raise TypeError(f"{kind} {name} must be a Python int, got {value!r}")


def require_booleans(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        if type(value) is not bool:
            raise TypeError(f"{type(record).__name__} {name} must be True or False, got {value!r}")
