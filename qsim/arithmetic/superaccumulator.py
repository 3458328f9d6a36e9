"""Exact sums: fixed-point numbers long enough for every bit, as digits of 15 bits.

Source: U. Kulisch, Computer Arithmetic and Validity, 2nd ed., chapter 8 (the long accumulator).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.arithmetic.extents import Extent
from qsim.numbers.grid import Carrier
from qsim.numbers.significands import unpacked

__all__ = ["MAX_TERMS", "Long", "empty", "leading", "plus"]

DIGIT = 15  # bits; sums of 2**16 digits with signs fit 32 bits
MASK = (1 << DIGIT) - 1
MAX_TERMS = 1 << 16
SHIFTED_OUT = 31  # more than the bits of a significand of float32


class Long(NamedTuple):
    """An exact sum.

    Attributes:
        digits: int32, the lowest first along a leading axis; their carries are still in them.
        special: the sum of what was infinite or NaN.
        negative: whether all numbers so far, which were zeros or not, had a minus sign.
    """

    digits: Array
    special: Array
    negative: Array


def empty(shape: tuple[int, ...], extent: Extent, carrier: Carrier) -> Long:
    """The sum of no numbers, with room for ``MAX_TERMS`` of an extent.

    Raises:
        ValueError: for carriers other than float32.
    """
    if carrier.name != "float32":
        raise ValueError("exact sums are made of float32 numbers: cast the operands to float32")
    length = -(-(extent.top + 17 - extent.quantum) // DIGIT) + 1
    digits = jnp.zeros((length, *shape), jnp.int32)
    return Long(digits, jnp.zeros(shape, carrier.name), jnp.ones(shape, bool))


def plus(long: Long, x: Array, extent: Extent, carrier: Carrier) -> Long:
    """The sum with a number more, which is normal or zero."""
    negative, magnitude, exponent, significand = unpacked(x)
    place = exponent - (carrier.mantissa_bits + extent.quantum)
    start = DIGIT * jnp.arange(len(long.digits), dtype=jnp.int32)
    up = place - start.reshape(-1, *([1] * x.ndim))
    finite = magnitude < carrier.infinity
    kept = jnp.where(finite, significand, 0)
    digits = jnp.where(
        up >= 0,
        kept << jnp.clip(up, 0, SHIFTED_OUT).astype(carrier.word),
        kept >> jnp.clip(-up, 0, SHIFTED_OUT).astype(carrier.word),
    )
    digits = (digits & carrier.word.type(MASK)).astype(jnp.int32)
    return Long(
        long.digits + jnp.where(negative, -digits, digits),
        long.special + jnp.where(finite, jnp.zeros_like(x), x),
        long.negative & negative,
    )


def leading(long: Long, extent: Extent, carrier: Carrier) -> tuple[Array, Array, Array]:
    """The leading bits of a sum as a word, lower ones jammed; the exponent of its top; the sign."""
    digits = _carried(long.digits)
    below_zero = digits[-1] < 0
    digits = _carried(jnp.where(below_zero, -digits, digits)).astype(carrier.word)
    word, exponent = _leading(digits, extent.quantum, carrier)
    return word, exponent, jnp.where(word == 0, long.negative, below_zero)


def _leading(digits: Array, quantum: int, carrier: Carrier) -> tuple[Array, Array]:
    """The leading bits of a number as a word, lower ones jammed, and the exponent of its top."""
    one = carrier.word.type(1)
    word, rest = digits[-1], jnp.zeros_like(digits[-1])
    exponent = jnp.full(word.shape, DIGIT * (len(digits) - 1) + quantum, jnp.int32)
    for digit in digits[-2::-1]:
        taken = jnp.minimum(lax.clz(word), carrier.word.type(DIGIT))
        below = DIGIT - taken
        word = (word << taken) | (digit >> below)
        rest = rest | (digit & ((one << below) - one))
        exponent = exponent - taken.astype(jnp.int32)
    return word | (rest != 0).astype(carrier.word), exponent + (carrier.bits - 1)


def _carried(digits: Array) -> Array:
    """The same number with all digits but the highest in 0 .. 2**15 - 1."""
    found, carry = [], jnp.zeros_like(digits[0])
    for digit in digits[:-1]:
        full = digit + carry
        carry = full >> DIGIT
        found.append(full & MASK)
    return jnp.stack([*found, digits[-1] + carry])
