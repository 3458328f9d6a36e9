"""Numbers as unevaluated sums of two float32 numbers, of which the second is small.

::

    s, e = two_sum(a, b)         s = round(a + b),  s + e = a + b
    fast_two_sum(a, b)           the same, where |a| >= |b|

First words are made of additions, and of products that are exact: a compiler that computes them
twice, fused with other operations, gets the same. Second words are so small that it matters little.

Sources: T. J. Dekker, A floating-point technique for extending the available precision, Numer.
Math. 18, 1971; M. Joldes, J.-M. Muller and V. Popescu, Tight and rigorous error bounds for basic
building blocks of double-word arithmetic, ACM TOMS 44(2), 2017 (the name).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qsim.functions.elementary import EXP, LN2_PARTS, LOG2_E, MOST, horner

__all__ = ["DoubleWord", "exponential", "fast_two_sum", "plus", "quotient", "two_sum"]

# ln 2 less the first three of LN2_PARTS: in parts of eight bits, and the rest
LN2_MORE = float.fromhex("0x1.7cp-28"), float.fromhex("0x1.1cp-36")
LN2_REST = float.fromhex("0x1.ef357ap-45")
UPPER = 0xFFFFF000  # sign, exponent and the upper half of a significand, 12 bits
Number = Float[Array, "..."]


class DoubleWord(NamedTuple):
    """The number ``high + low``, in which ``low`` is some hundredths of ``high`` at most.

    Attributes:
        high, low: float32 arrays.
    """

    high: Array
    low: Array


def two_sum(a: Number, b: Number) -> DoubleWord:
    """A sum, and what its rounding lost.

    >>> two_sum(jnp.float32(1), jnp.float32(2**-30)).low == 2**-30
    Array(True, dtype=bool)
    """
    high = a + b
    of_b = high - a
    return DoubleWord(high, (a - (high - of_b)) + (b - of_b))


def fast_two_sum(a: Number, b: Number) -> DoubleWord:
    """``two_sum`` for ``|a| >= |b|``.

    >>> fast_two_sum(jnp.float32(1), jnp.float32(2**-30)).low == 2**-30
    Array(True, dtype=bool)
    """
    high = a + b
    return DoubleWord(high, b - (high - a))


def plus(a: DoubleWord, b: DoubleWord) -> DoubleWord:
    """The sum of two numbers of the same sign.

    >>> one = DoubleWord(jnp.float32(1), jnp.float32(2**-30))
    >>> [float(part) for part in plus(one, one)] == [2, 2**-29]
    True
    """
    high, error = two_sum(a.high, b.high)
    return DoubleWord(high, error + (a.low + b.low))


def quotient(a: DoubleWord, b: DoubleWord) -> Number:
    """``a / b`` in float32: the quotient of the first words, and what it leaves of ``a``, divided.

    >>> third = quotient(*(DoubleWord(jnp.float32(n), jnp.float32(0)) for n in (1, 3)))
    >>> float(third) == 11184811 * 2**-25
    True
    """
    first = a.high / b.high
    upper, lower = _halves(first)
    residual = a.high
    for half in _halves(b.high):
        residual = residual - upper * half
    for half in _halves(b.high):
        residual = residual - lower * half
    return first + ((residual + a.low) - first * b.low) / (b.high + b.low)


def exponential(x: Number, rest: Number) -> tuple[DoubleWord, Number]:
    """``exp(x + rest)`` as a significand and an exponent, which cannot overflow.

    Args:
        x: float32, up to 45,000 in magnitude; beyond, as at the end of that range.
        rest: float32, at most half a unit in the last place of ``x``; where that is beyond, zero.

    Returns:
        The significand, between 0.7 and 1.42, its relative error below 2**-25; and the exponent,
        an integer in float32. Steps and source are those of ``qsim.functions.extended_exp``.

    >>> significand, exponent = exponential(jnp.float32(1000), jnp.float32(0))
    >>> float(exponent)
    1443.0
    """
    rest = jnp.where(jnp.abs(x) < MOST, rest, 0.0)
    x = jnp.clip(x, -MOST, MOST)
    n = jnp.round(x * LOG2_E)
    t = x
    for part in LN2_PARTS[:2]:
        t = t - n * part
    for part in (*LN2_PARTS[2:3], *LN2_MORE):
        t, lost = two_sum(t, -(n * part))
        rest = rest + lost
    rest = rest - n * LN2_REST
    # a constant that a compiler knows it would add to another one, although sums are rounded
    one = lax.optimization_barrier(jnp.ones_like(t))
    high, lost = fast_two_sum(one, t)
    curve = t * t * horner(t, EXP)
    return DoubleWord(high, lost + (curve + rest * (high + curve))), n


def _halves(x: Number) -> DoubleWord:
    """Numbers whose products with each other are exact."""
    bits = lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(UPPER)
    upper = lax.bitcast_convert_type(bits, jnp.float32)
    return DoubleWord(upper, x - upper)
