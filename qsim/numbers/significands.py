"""Exponents and significands of bit patterns, and bit patterns of them, by integer arithmetic.

Source: IEEE 754-2019, 3.4.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.numbers.grid import CARRIERS, Carrier

__all__ = ["Unpacked", "assembled", "normalised", "unpacked", "wrapped"]


class Unpacked(NamedTuple):
    """The numbers of an array by the fields of their bit patterns.

    Attributes:
        negative: whether their sign bits are set.
        magnitude: their bit patterns without it, words of the carrier.
        exponent, significand: as of ``normalised``.
    """

    negative: Array
    magnitude: Array
    exponent: Array
    significand: Array


def unpacked(x: Array) -> Unpacked:
    """The numbers of a float32 or float64 array."""
    carrier = CARRIERS[x.dtype.name]
    bits, sign = lax.bitcast_convert_type(x, carrier.word), carrier.word.type(carrier.sign)
    magnitude = bits & (sign - carrier.word.type(1))
    return Unpacked(bits >= sign, magnitude, *normalised(magnitude, carrier))


def normalised(magnitude: Array, carrier: Carrier) -> tuple[Array, Array]:
    """Exponent and significand of a magnitude, the significand's highest bit being set.

    The magnitude is ``significand * 2**(exponent - carrier.mantissa_bits)``. Zero has the
    significand 0 and an exponent below that of every other number.
    """
    stored, word = carrier.mantissa_bits, carrier.word.type
    field = (magnitude >> stored).astype(jnp.int32)
    fraction = magnitude & word((1 << stored) - 1)
    zeros = lax.clz(fraction).astype(jnp.int32) - (carrier.bits - 1 - stored)
    up = jnp.where(field == 0, zeros, 0)
    exponent = jnp.maximum(field, 1) - up - carrier.bias
    implicit = jnp.where(field > 0, word(1 << stored), word(0))
    return exponent, (fraction | implicit) << up.astype(carrier.word)


def assembled(significand: Array, spacing: Array, negative: Array, carrier: Carrier) -> Array:
    """The bit pattern of ``±significand * 2**spacing``, which the carrier holds exactly."""
    stored, word = carrier.mantissa_bits, carrier.word.type
    length = carrier.bits - lax.clz(significand).astype(jnp.int32)
    exponent = spacing + length - 1
    # the pattern's unit in the last place, which stops falling in the carrier's subnormals
    unit = jnp.maximum(exponent, 1 - carrier.bias) - stored
    down = jnp.maximum(unit - spacing, 0).astype(carrier.word)
    aligned = significand << jnp.maximum(spacing - unit, 0).astype(carrier.word) >> down
    field = jnp.maximum(exponent + carrier.bias - 1, 0).astype(carrier.word) << stored
    magnitude = jnp.where(significand == 0, word(0), aligned + field)
    return jnp.where(negative, magnitude | word(carrier.sign), magnitude)


def wrapped(magnitude: Array, negative: Array, grid, carrier: Carrier) -> Array:
    """The bit pattern of a multiple of the quantum, the bits beyond the width being dropped.

    Args:
        magnitude, negative: its bit pattern without sign, and its sign.
        grid: of an integer or fixed-point format, with ``quantum``, ``modulus`` and ``sign``.
    """
    exponent, significand = normalised(magnitude, carrier)
    spacing = exponent - carrier.mantissa_bits
    down = jnp.maximum(grid.quantum - spacing, 0).astype(carrier.word)
    up = jnp.maximum(spacing - grid.quantum, 0).astype(carrier.word)
    count = significand >> down << up
    one = carrier.word.type(1)
    code = jnp.where(negative, ~count + one, count) & (grid.modulus - one)
    below_zero = (grid.sign != 0) & (code >= grid.modulus >> one)
    return assembled(
        jnp.where(below_zero, grid.modulus - code, code), grid.quantum, below_zero, carrier
    )
