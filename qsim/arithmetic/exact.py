"""The exact definition of the operations: fractions, one rounding, no limits of a carrier.

Slow, and written to be read: ``qsim.arithmetic.elementwise`` is tested to equal it. Numbers are
fractions; minus zero, the infinities and NaN are Python floats, as in ``qsim.numbers.exact``.

Source: IEEE 754-2019, 5.4.1, and 6.3 (signs of zeros), 7.2 and 7.3 (invalid operations, division
by zero).
"""

import math
from fractions import Fraction

from qsim.arithmetic.multipliers import LMul
from qsim.numbers.exact import Value, round_exact
from qsim.numbers.formats import Format, power
from qsim.numbers.records import exponent_of

__all__ = [
    "exact_add",
    "exact_divide",
    "exact_fma",
    "exact_multiply",
    "exact_sqrt",
    "exact_subtract",
    "lmul",
    "product",
    "quotient",
    "root",
    "total",
]

ROOT_PLACES = 1200  # binary places of an irrational root: more than any tie of a format has


def exact_add(a: Value, b: Value, fmt: Format, *, rounding="ties_to_even", **how) -> Value:
    """``a + b`` rounded to a format; ``how`` is ``overflow`` and ``random`` of ``round_exact``.

    >>> from qsim import parse
    >>> exact_add(Fraction(1), Fraction(1, 16), parse("e4m3"), rounding="up")
    Fraction(9, 8)
    """
    return round_exact(total(a, b, down=rounding == "down"), fmt, rounding=rounding, **how)


def exact_subtract(a: Value, b: Value, fmt: Format, *, rounding="ties_to_even", **how) -> Value:
    """``a - b`` rounded to a format; arguments as for ``exact_add``."""
    difference = total(a, negated(b), down=rounding == "down")
    return round_exact(difference, fmt, rounding=rounding, **how)


def exact_multiply(a: Value, b: Value, fmt: Format, *, rounding="ties_to_even", **how) -> Value:
    """``a * b`` rounded to a format; arguments as for ``exact_add``."""
    return round_exact(product(a, b), fmt, rounding=rounding, **how)


def exact_divide(a: Value, b: Value, fmt: Format, *, rounding="ties_to_even", **how) -> Value:
    """``a / b`` rounded to a format; arguments as for ``exact_add``."""
    return round_exact(quotient(a, b), fmt, rounding=rounding, **how)


def exact_sqrt(a: Value, fmt: Format, *, rounding="ties_to_even", **how) -> Value:
    """The square root of ``a`` rounded to a format; arguments as for ``exact_add``."""
    return round_exact(root(a), fmt, rounding=rounding, **how)


def exact_fma(
    a: Value, b: Value, c: Value, fmt: Format, *, rounding="ties_to_even", **how
) -> Value:
    """``a * b + c`` rounded once to a format; arguments as for ``exact_add``."""
    real = total(product(a, b), c, down=rounding == "down")
    return round_exact(real, fmt, rounding=rounding, **how)


# --- real results ---------------------------------------------------------------------------


def total(a: Value, b: Value, *, down: bool) -> Value:
    """``a + b``; a zero from numbers of unlike signs is minus zero where ``down`` is true.

    >>> total(Fraction(1), Fraction(-1), down=True)
    -0.0
    """
    if _is_special(a) or _is_special(b):
        return _stand_in(a) + _stand_in(b)
    real = Fraction(a) + Fraction(b)
    if real != 0:
        return real
    return _zero(_is_negative(a) if _is_negative(a) == _is_negative(b) else down)


def product(a: Value, b: Value) -> Value:
    """``a * b``.

    >>> product(Fraction(3), -0.0)
    -0.0
    """
    if _is_special(a) or _is_special(b):
        return _stand_in(a) * _stand_in(b)
    return Fraction(a) * Fraction(b) or _zero(_is_negative(a) != _is_negative(b))


def lmul(how: LMul, a: Value, b: Value) -> Value:
    """The product that an L-Mul multiplier makes of ``a`` and ``b``, of any exponent.

    >>> lmul(LMul.parse("lmul4"), Fraction(3, 2), Fraction(3, 2))
    Fraction(9, 4)
    """
    if _is_special(a) or _is_special(b) or a == 0 or b == 0:
        return product(a, b)
    assert how.offset is not None
    significands, exponents = zip(
        *(_to_bits(abs(Fraction(x)), how.bits) for x in (a, b)), strict=True
    )
    extra = sum(significands) - 2 + power(-how.offset)
    carry = 0 if how.formula else math.floor(extra)
    magnitude = (1 + extra - carry) * power(sum(exponents) + carry)
    return -magnitude if _is_negative(a) != _is_negative(b) else magnitude


def _to_bits(a: Fraction, bits: int) -> tuple[Fraction, int]:
    """A number's significand, rounded to nearest even to some mantissa bits, and its exponent."""
    exponent = exponent_of(a)
    significand = Fraction(round(a * power(bits - exponent))) * power(-bits)
    return (significand, exponent) if significand < 2 else (Fraction(1), exponent + 1)


def quotient(a: Value, b: Value) -> Value:
    """``a / b``.

    >>> quotient(Fraction(1), -0.0)
    -inf
    """
    negative = _is_negative(a) != _is_negative(b)
    if b == 0:
        return math.nan if a == 0 or a != a else (-math.inf if negative else math.inf)
    if _is_special(a) or _is_special(b):
        return _stand_in(a) / _stand_in(b)
    return Fraction(a) / Fraction(b) or _zero(negative)


def root(a: Value) -> Value:
    """The square root of ``a``, if it is rational.

    Of an irrational root the first ``ROOT_PLACES`` binary places, and a half in the next: a number
    that lies with the root between all the same values and ties.

    >>> root(Fraction(9, 4))
    Fraction(3, 2)
    """
    if a == 0 or a != a:
        return a
    if a < 0:
        return math.nan
    if _is_special(a):
        return a
    scaled = Fraction(a) * power(2 * ROOT_PLACES)
    whole = math.isqrt(math.floor(scaled))
    exact = whole * whole == scaled
    return (whole + (Fraction(0) if exact else Fraction(1, 2))) * power(-ROOT_PLACES)


def negated(a: Value) -> Value:
    """``-a``, where a zero changes its sign too.

    >>> negated(Fraction(0))
    -0.0
    """
    return _zero(not _is_negative(a)) if a == 0 else -a


def _is_special(a: Value) -> bool:
    return isinstance(a, float) and not math.isfinite(a)


def _is_negative(a: Value) -> bool:
    return math.copysign(1.0, a) < 0 if isinstance(a, float) else a < 0


def _zero(negative: bool) -> Value:
    return -0.0 if negative else Fraction(0)


def _stand_in(a: Value) -> float:
    """A float that meets infinities and NaNs as ``a`` does."""
    if isinstance(a, float):
        return a
    return float((a > 0) - (a < 0))
