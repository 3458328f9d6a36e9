"""Requantization: from the integers of an accumulator to narrower ones, by integers only.

A real factor, such as the scales of two operands over that of the result, is taken for a dyadic
number, so that a multiplication and a shift replace the division::

    scale ~ multiplier / 2**shift                    2**30 <= |multiplier| < 2**31
    requantize(z) = clamp(floor(z * multiplier / 2**shift + 1/2))

The product has up to 63 bits, which here are two words of 32: no wider integers are needed.

Sources: Z. Yao et al., HAWQ-V3, arXiv:2011.10680, section 3 (dyadic numbers); B. Jacob et al.,
arXiv:1712.05877, 2.2 (a multiplier of 31 bits and a shift).
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int32, Integer, UInt32

from qsim.arithmetic.integers import Width, int32_of, width_of
from qsim.numbers.grid import CARRIERS
from qsim.numbers.rounding import require_single
from qsim.numbers.significands import unpacked

__all__ = ["Dyadic", "dyadic", "requantize"]

TOP = 30  # the exponent of a multiplier's highest bit
LIMIT = np.uint32(1 << 31)  # the largest magnitude of int32


class Dyadic(NamedTuple):
    """A dyadic number.

    Attributes:
        multiplier: int32 array, of 31 bits and a sign, or 0.
        shift: int32 array of the same shape.

    The record's meaning: ``value = multiplier / 2**shift``.
    """

    multiplier: Array
    shift: Array


def dyadic(scale: float | Float[ArrayLike, "..."]) -> Dyadic:
    """The dyadic number nearest to a scale.

    Args:
        scale: a Python float, which is rounded to 31 bits (ties to even), or an array of float32,
            float16 or bfloat16, which is exact. An array is finite: others have no meaning here.

    Raises:
        TypeError: for what is no float, and for float64 arrays.
        ValueError: for a Python float that is not finite.

    >>> [int(x) for x in dyadic(0.75)]
    [1610612736, 31]
    """
    if isinstance(scale, float):
        return _of_float(float(scale))
    return _of_array(require_single(scale, "scales, but for a Python float,"))


def _of_float(scale: float) -> Dyadic:
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}, but only finite numbers are dyadic: give another")
    fraction, exponent = math.frexp(scale)
    multiplier, shift = round(math.ldexp(fraction, TOP + 1)), TOP + 1 - exponent
    if abs(multiplier) == 1 << TOP + 1:
        multiplier, shift = multiplier // 2, shift - 1
    return Dyadic(jnp.int32(multiplier), jnp.int32(shift if scale else 0))


@jax.jit
def _of_array(scale: Float[Array, "..."]) -> Dyadic:
    carrier = CARRIERS["float32"]
    negative, _, exponent, significand = unpacked(scale)
    up = TOP - carrier.mantissa_bits
    multiplier = (significand << up).astype(jnp.int32)
    multiplier = jnp.where(negative, -multiplier, multiplier)
    return Dyadic(multiplier, jnp.where(multiplier == 0, 0, TOP - exponent))


def requantize(
    z: Integer[ArrayLike, "..."],
    multiplier: int | Integer[ArrayLike, "..."],
    shift: int | Integer[ArrayLike, "..."],
    *,
    bits: Width = 8,
    signed: bool = True,
) -> Int32[Array, "..."]:
    """``z * multiplier / 2**shift`` rounded to an integer, half up, and clamped to some bits.

    Args:
        z: integers within int32, such as the sums of a product.
        multiplier, shift: integers, as those of ``dyadic``, that broadcast against ``z``: one for
            all, or one for each channel. Shifts may be negative, and as large as they like.
        bits: of the result, 2 to 32, or unsigned 1 to 31; an array under ``jit`` and ``vmap``.
        signed: whether the range is ``-2**(bits-1) .. 2**(bits-1) - 1`` or ``0 .. 2**bits - 1``.

    Raises:
        TypeError: for operands that are no integers.
        ValueError: for other widths.

    >>> requantize(jnp.array([-3, -1, 1, 3, 1000]), *dyadic(0.5)).tolist()
    [-1, 0, 1, 2, 127]
    """
    width = width_of(bits, 2, 32) if signed else width_of(bits, 1, 31)
    return _requantized(*map(int32_of, (z, multiplier, shift)), width, signed)


@partial(jax.jit, static_argnums=4)
def _requantized(z: Array, multiplier: Array, shift: Array, bits: Array, signed: bool) -> Array:
    z, multiplier, shift = jnp.broadcast_arrays(z, multiplier, shift)
    negative = ((z < 0) ^ (multiplier < 0)) & (z != 0) & (multiplier != 0)
    high, low = _product(_magnitude(z), _magnitude(multiplier))
    magnitude = _divided(high, low, jnp.clip(shift, 0, 64).astype(jnp.uint32), negative)
    up = -jnp.clip(shift, -31, 0).astype(jnp.uint32)
    magnitude = jnp.where(magnitude > LIMIT >> up, LIMIT, magnitude << up)
    return _clamped(magnitude, negative, bits.astype(jnp.uint32), signed)


def _magnitude(x: Int32[Array, "..."]) -> UInt32[Array, "..."]:
    return jnp.abs(x).astype(jnp.uint32)


def _product(
    x: UInt32[Array, "..."], y: UInt32[Array, "..."]
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """``x * y`` as two words, high and low, from products of halves."""
    mask = np.uint32(0xFFFF)
    x_high, x_low, y_high, y_low = x >> 16, x & mask, y >> 16, y & mask
    first, second, low = x_high * y_low, x_low * y_high, x_low * y_low
    middle = (low >> 16) + (first & mask) + (second & mask)
    high = x_high * y_high + (first >> 16) + (second >> 16) + (middle >> 16)
    return high, middle << 16 | low & mask


def _divided(high: Array, low: Array, down: Array, negative: Array) -> UInt32[Array, "..."]:
    """The magnitude of a number of two words over ``2**down``, rounded half up, or ``LIMIT``.

    Half up is half down for the magnitudes of negative numbers: one less halves the other way.
    """
    less = (negative & (down > 0)).astype(jnp.uint32)
    high, low = high - (less & (low == 0).astype(jnp.uint32)), low - less
    above, whole = _shifted(high, low, down)
    half = _shifted(high, low, down - 1)[1] & 1
    return jnp.where(above > 0, LIMIT, jnp.minimum(whole, LIMIT) + half)


def _shifted(high: Array, low: Array, down: Array) -> tuple[Array, Array]:
    """Two words shifted down, where shifts by 32 or more, also wrapped ones, give zero."""
    return high >> down, low >> down | high << (32 - down) | high >> (down - 32)


def _clamped(magnitude: Array, negative: Array, bits: Array, signed: bool) -> Int32[Array, "..."]:
    """The number of a magnitude and a sign, or the nearer end of the range."""
    one = jnp.uint32(1)
    lowest = one << (bits - one) if signed else jnp.uint32(0)
    largest = lowest - one if signed else (one << bits) - one
    magnitude = jnp.minimum(magnitude, jnp.where(negative, lowest, largest))
    return lax.bitcast_convert_type(jnp.where(negative, -magnitude, magnitude), jnp.int32)
