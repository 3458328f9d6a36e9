"""Correctly rounded arithmetic with scales, and magnitudes by their bit patterns.

Back ends differ in what they make of subnormals, and compilers in what they make of divisions and
sums. What is computed here has the same bytes everywhere:

- a number or quotient below ``2**(2 - bias)``, twice the smallest normal number, counts as
  the smallest magnitude there is: that keeps its sign and that it is not zero;
- a divisor gets a bit of the dividend's pattern that is always zero, since XLA would replace the
  division by a scalar, or by what is broadcast, by a product with its reciprocal; a dividend that
  is a constant of the program is kept from being folded into that bit;
- the sign of a product is set apart, so that no sum behind it absorbs it.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt

from qsim.numbers.grid import Carrier

__all__ = [
    "above_zero",
    "absolute",
    "divided",
    "floats",
    "is_tiny",
    "least_gap",
    "multiplied",
    "number",
    "or_least",
    "quotient",
    "split_magnitude",
]


def least_gap(carrier: Carrier) -> int:
    """The exponent of the finest scaled gap of which no half or quotient that matters is tiny."""
    return 4 - carrier.bias


def absolute(x: Float[Array, "..."], carrier: Carrier) -> UInt[Array, "..."]:
    """The bit patterns of the magnitudes of ``x``; that of a NaN is above infinity's."""
    return lax.bitcast_convert_type(x, carrier.word) & carrier.word.type(carrier.sign - 1)


def floats(bits: UInt[Array, "..."], carrier: Carrier) -> Float[Array, "..."]:
    """The numbers of bit patterns."""
    return lax.bitcast_convert_type(jnp.asarray(bits), jnp.dtype(carrier.name))


def above_zero(x: Float[Array, "..."], least: UInt[Array, ""]) -> Float[Array, "..."]:
    """Numbers that are not negative, those above zero at least that of the pattern ``least``."""
    bits = lax.bitcast_convert_type(x, least.dtype)
    bits = jnp.where(bits > 0, jnp.maximum(bits, least), bits)
    return lax.bitcast_convert_type(bits, x.dtype)


def split_magnitude(
    bits: UInt[Array, "..."], carrier: Carrier
) -> tuple[Int[Array, "..."], UInt[Array, "..."]]:
    """Exponent and fraction field of magnitudes, as if the carrier had no subnormals."""
    stored, word = carrier.mantissa_bits, carrier.word.type
    up = jnp.maximum(lax.clz(bits).astype(jnp.int32) - (carrier.bits - 1 - stored), 0)
    fraction = (bits << up.astype(carrier.word)) & word((1 << stored) - 1)
    field = (bits >> stored).astype(jnp.int32)
    return jnp.maximum(field, 1) - up - carrier.bias, fraction


def number(
    exponent: Int[Array, "..."], fraction: UInt[Array, "..."], carrier: Carrier
) -> Float[Array, "..."]:
    """The normal numbers of exponents and fraction fields."""
    field = (exponent + carrier.bias).astype(carrier.word) << carrier.mantissa_bits
    return lax.bitcast_convert_type(field | fraction, jnp.dtype(carrier.name))


def is_tiny(magnitude: UInt[Array, "..."], carrier: Carrier) -> Bool[Array, "..."]:
    """Whether magnitudes are subnormal or in the lowest normal binade."""
    return magnitude < carrier.word.type(2 << carrier.mantissa_bits)


def divided(
    x: Float[Array, "..."], by: Float[Array, "..."], carrier: Carrier
) -> Float[Array, "..."]:
    """``x / by``, correctly rounded, tiny numbers and quotients as the module says.

    Args:
        x: any numbers.
        by: normal numbers above zero, infinity or NaN, of a shape that broadcasts against ``x``.
    """
    return or_least(x, quotient(x, by, carrier), carrier)


def quotient(
    x: Float[Array, "..."], by: Float[Array, "..."], carrier: Carrier
) -> Float[Array, "..."]:
    """``x / by``, correctly rounded where neither operand nor result is subnormal."""
    never = absolute(lax.optimization_barrier(x), carrier) >> (carrier.bits - 1)
    divisor = lax.bitcast_convert_type(by, carrier.word) | never
    return x / lax.bitcast_convert_type(divisor, x.dtype)


def or_least(
    x: Float[Array, "..."], scaled: Float[Array, "..."], carrier: Carrier
) -> Float[Array, "..."]:
    """What ``x`` was scaled to, or the smallest magnitude where either is tiny; zeros stay."""
    word, bits = carrier.word.type, lax.bitcast_convert_type(scaled, carrier.word)
    magnitude = absolute(x, carrier)
    tiny = is_tiny(magnitude, carrier) | is_tiny(absolute(scaled, carrier), carrier)
    sign = lax.bitcast_convert_type(x, carrier.word) & word(carrier.sign)
    least = sign | jnp.minimum(magnitude, word(1))
    # words are chosen, not numbers: for those the compiler would branch around the division
    return lax.bitcast_convert_type(jnp.where(tiny, least, bits), x.dtype)


def multiplied(
    x: Float[Array, "..."], by: Float[Array, "..."], carrier: Carrier
) -> Float[Array, "..."]:
    """``x * by``, rounded once, for ``by`` above or at zero or NaN."""
    product = lax.bitcast_convert_type(absolute(x, carrier), x.dtype) * by
    sign = lax.bitcast_convert_type(x, carrier.word) & carrier.word.type(carrier.sign)
    signed = lax.bitcast_convert_type(product, carrier.word) | sign
    return lax.bitcast_convert_type(signed, x.dtype)
