"""The part of stochastic rounding that is drawn: whether a fraction of a gap moves up.

With N random bits R, a fraction of a gap moves up if it, brought to N bits as the mode says, plus
R carries. The bits come as words whose top N bits are R and whose other bits are zero, so that R
is compared with the top bits of a fraction wherever that is held.

Sources: the definitions in ``qsim.numbers.exact``, which this equals.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, UInt

from qsim.numbers.grid import Carrier
from qsim.numbers.modes import Rounding

__all__ = ["drawn_offset", "moves_up"]


def drawn_offset(
    rest: UInt[Array, "..."],
    magnitude: UInt[Array, "..."],
    random: UInt[Array, "..."],
    mode: Rounding,
    carrier: Carrier,
) -> UInt[Array, "..."]:
    """What is added to a magnitude before the bits below its gap are cut; less than the gap.

    Args:
        rest: the mask of the bits below the gap, carrier words; not all bits.
        magnitude: carrier words.
        random: 32-bit words with R in the top bits.
    """
    word, bits = carrier.word.type, mode.random_bits
    if mode.mode == "stochastic_equal":
        return jnp.where(random >> 31 == 1, rest, jnp.zeros_like(rest))
    drawn = lax.convert_element_type(random, carrier.word) << (carrier.bits - 32)
    if mode.mode == "stochastic_b" and bits < carrier.bits:
        drawn = drawn | word(1 << (carrier.bits - 1 - bits))  # 2R + 1, of one bit more
    shift = word(carrier.bits) - lax.population_count(rest)
    offset = drawn >> shift
    if mode.mode == "stochastic_c" and bits < carrier.bits:
        below = rest >> word(bits)  # of the fraction's bits those that R has no partner for
        odd = magnitude & (below + word(1)) != 0
        offset = offset | (jnp.where(odd, below + word(1), below) >> 1)
    return offset


def moves_up(
    numerator: UInt[Array, "..."],
    shift: UInt[Array, "..."],
    random: UInt[Array, "..."],
    mode: Rounding,
    carrier: Carrier,
) -> Bool[Array, "..."]:
    """Whether the fraction ``numerator * 2**-shift`` of a gap moves up.

    Args:
        numerator: carrier words, below ``2**shift`` and below a quarter of the words' range.
        shift: carrier words of any size.
        random: 32-bit words with R in the top bits.
    """
    word, bits, most = carrier.word.type, mode.random_bits, carrier.bits - 1
    drawn = lax.convert_element_type(random >> (32 - bits), carrier.word)
    if mode.mode == "stochastic_equal":
        return (numerator != 0) & (drawn >= word(1 << (bits - 1)))
    # the fraction in units of 2**-bits: its numerator moves up or, rounded, down
    down = jnp.clip(shift, word(bits), word(bits + most)) - word(bits)
    up = jnp.minimum(word(bits) - jnp.minimum(shift, word(bits)), word(most))
    units = (numerator << up) + _nearest(numerator, down, mode, carrier) >> down
    return units > word(2**bits - 1) - drawn


def _nearest(numerator: Array, down: Array, mode: Rounding, carrier: Carrier) -> Array:
    """What makes a shift down by ``down`` bits the mode's rounding of the fraction."""
    word = carrier.word.type
    half = word(1) << down >> 1
    match mode.mode:
        case "stochastic":
            return jnp.zeros_like(half)
        case "stochastic_b":
            return half
        case "stochastic_c":
            odd = numerator >> down & word(1)
            return jnp.where(half == 0, half, half - word(1) + odd)
    raise AssertionError(mode)
