"""The part of rounding that is drawn: whether a fraction of a gap moves up.

A fraction of a gap is brought to units of ``2**-N``, in the way that is the mode's, and moves up if
the units and the N random bits R together make up a whole gap. R comes in the top bits of a word.

Sources: the definitions in ``qsim.numbers.exact``, which this equals.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, UInt

from qsim.numbers.grid import Carrier
from qsim.numbers.modes import Rounding

__all__ = ["moves_up"]


def moves_up(
    numerator: UInt[Array, "..."],
    shift: UInt[Array, "..."],
    random: UInt[Array, "..."],
    mode: Rounding,
    carrier: Carrier,
) -> Bool[Array, "..."]:
    """Whether the fraction ``numerator * 2**-shift`` of a gap moves up.

    Args:
        numerator: carrier words below ``2**(carrier.bits - 2)``. Only the fraction is looked at,
            not the whole gaps of a numerator above ``2**shift``.
        shift: carrier words of any size.
        random: 32-bit words with R in the top bits.
    """
    word, bits = carrier.word.type, mode.random_bits
    drawn = lax.convert_element_type(~random >> (32 - bits), carrier.word)  # 2**N - 1 - R
    fraction = numerator & ((word(1) << shift) - word(1))
    if mode.mode == "stochastic_equal":
        return (fraction != 0) & (drawn < word(1 << (bits - 1)))
    # one of the two counts is far below zero, which as an unsigned word shifts everything out
    up, down = word(bits) - shift, shift - word(bits)
    units = (fraction << up) | ((fraction + _to_nearest(fraction, down, mode, carrier)) >> down)
    return units > drawn


def _to_nearest(numerator: Array, down: Array, mode: Rounding, carrier: Carrier) -> Array:
    """What to add so that a shift down by that many bits rounds as the mode does."""
    unit, one = carrier.word.type(1) << down, carrier.word.type(1)
    match mode.mode:
        case "stochastic":
            return jnp.zeros_like(unit)
        case "stochastic_b":
            return unit >> 1
        case "stochastic_c":
            odd = (numerator >> down) & one
            return (unit - one + odd) >> 1
    raise AssertionError(mode)
