"""Dynamic fixed point: a tensor as 16-bit mantissas that share one exponent, multiplied in chains.

With the exponent of the largest magnitude, ``2**e <= max|x| < 2**(e+1)``, and B bits::

    E = e - (B - 2)        i = round(x / 2**E), to nearest, ties to even        x ~ i * 2**E

What rounds to ``2**(B-1)`` becomes ``2**(B-1) - 1``, so that the sum of two products always fits in
int32. The sum of more may not: products are added up in int32 in chains, and the sum of each chain
is added to a float32 number. The result's exponent is the sum of the operands'.

Source: D. Das et al., Mixed precision training of convolutional neural networks using integer
operations, arXiv:1802.00930.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Int32, Integer

from qsim.arithmetic.integers import Width, by_rows, int32_of, matrices, plus, width_of
from qsim.arithmetic.odd import nearest_shift
from qsim.numbers.grid import CARRIERS
from qsim.numbers.rounding import require_single
from qsim.numbers.significands import assembled, normalised, unpacked

__all__ = ["DFP", "ChainSums", "chain_of", "dfp", "dfp_matmul", "dfp_value", "down_convert"]

CARRIER = CARRIERS["float32"]
NOT_FINITE = 1 << 14  # the exponent of a tensor with an infinity or a NaN
SHIFTED_OUT = 40  # more than a word


class DFP(NamedTuple):
    """A tensor in dynamic fixed point.

    Attributes:
        mantissas: int16 array, of magnitudes below ``2**(bits-1)``.
        exponent: int32 scalar.

    The record's meaning: ``value = mantissas * 2**exponent``; NaN from an exponent of ``2**14`` on.
    """

    mantissas: Array
    exponent: Array


class ChainSums(NamedTuple):
    """Sums of chains, and how often these overflowed.

    Attributes:
        values: float32 [..., m, n].
        overflows: int32 [..., m, n], how many of the additions within chains went beyond int32.
    """

    values: Array
    overflows: Array


def dfp(x: float | Float[ArrayLike, "..."], *, bits: Width = 16) -> DFP:
    """A float32 tensor in dynamic fixed point.

    Args:
        x: array of float32, float16 or bfloat16. A tensor with an infinity or a NaN has no
            exponent, and is NaN.
        bits: of the mantissas with their signs, 2 to 16; an array under ``jit`` and ``vmap``.

    Raises:
        TypeError: for what is no float, or float64.
        ValueError: for other widths.

    >>> [x.tolist() for x in dfp(jnp.array([1.0, -0.3, 0.0]), bits=8)]
    [[64, -19, 0], -6]
    """
    values = require_single(x, "tensors to go into dynamic fixed point")
    return _of_floats(values, width_of(bits, 2, 16))


@jax.jit
def _of_floats(x: Float32[Array, "..."], bits: Int32[Array, ""]) -> DFP:
    negative, magnitude, exponent, significand = unpacked(x)
    largest = jnp.max(magnitude, initial=jnp.uint32(0))
    shared = normalised(largest, CARRIER)[0] - (bits - 2)
    down = shared - (exponent - CARRIER.mantissa_bits)
    mantissas = _mantissas(significand, down, negative, bits)
    finite = largest < jnp.uint32(CARRIER.infinity)
    return DFP(jnp.where(finite, mantissas, 0), jnp.where(finite, shared, NOT_FINITE))


def _mantissas(magnitude: Array, down: Array, negative: Array, bits: Array) -> Array:
    """Magnitudes shifted down, rounded to nearest even and clamped, as int16 with their signs."""
    down = jnp.clip(down, 0, SHIFTED_OUT).astype(jnp.uint32)
    rounded = nearest_shift(magnitude, jnp.broadcast_to(down, magnitude.shape))
    largest = (jnp.int32(1) << (bits - 1)) - 1
    rounded = jnp.minimum(rounded, largest.astype(jnp.uint32)).astype(jnp.int16)
    return jnp.where(negative, -rounded, rounded)


def dfp_value(x: DFP) -> Float32[Array, "..."]:
    """The float32 numbers of a tensor in dynamic fixed point, rounded once where these cannot be.

    Raises:
        TypeError: for mantissas that are not int16.

    >>> dfp_value(dfp(jnp.array([1.0, -0.3, 0.0]), bits=8)).tolist()
    [1.0, -0.296875, 0.0]
    """
    return _scaled(_mantissas_of(x).astype(jnp.float32), int32_of(x.exponent))


def _mantissas_of(x: DFP) -> Array:
    """The mantissas, which are int16: float32 holds them, and int32 the sum of two products."""
    if not isinstance(x, DFP):
        raise TypeError(
            f"expected a tensor in dynamic fixed point, got {type(x).__name__}: make one with dfp"
        )
    mantissas = x.mantissas if hasattr(x.mantissas, "dtype") else jnp.asarray(x.mantissas)
    if mantissas.dtype != jnp.int16:
        raise TypeError(
            f"mantissas of dynamic fixed point are int16, got {mantissas.dtype}: make them with "
            "dfp, or of integers with down_convert"
        )
    return jnp.asarray(mantissas)


@jax.jit
def _scaled(x: Float32[Array, "..."], exponent: Int32[Array, ""]) -> Float32[Array, "..."]:
    """``x * 2**exponent`` rounded once, to nearest even, by integers, which flush nothing."""
    negative, _, place, significand = unpacked(x)
    top = place + jnp.clip(exponent, -NOT_FINITE, NOT_FINITE)
    spacing = top - CARRIER.mantissa_bits
    down = jnp.clip(CARRIER.quantum - spacing, 0, SHIFTED_OUT)
    kept = nearest_shift(significand, down.astype(jnp.uint32))
    found = assembled(kept, jnp.maximum(spacing, CARRIER.quantum), negative, CARRIER)
    infinity = jnp.where(negative, jnp.uint32(CARRIER.sign), 0) | jnp.uint32(CARRIER.infinity)
    found = jnp.where((top > CARRIER.bias) & (significand > 0), infinity, found)
    found = jnp.where(exponent >= NOT_FINITE, jnp.uint32(CARRIER.nan), found)
    return lax.bitcast_convert_type(found, jnp.float32)


def dfp_matmul(a: DFP, b: DFP, *, chain: int | Integer[ArrayLike, ""]) -> ChainSums:
    """``a @ b`` in dynamic fixed point: chains of products in int32, and their sums in float32.

    Args:
        a, b: tensors [..., m, k] and [..., k, n], whose leading axes broadcast.
        chain: how many products are added up in int32, which wraps, before their sum is rounded
            to float32 and added there; 2 never overflow, nor do ``2**(33 - P)`` or fewer, where P
            is how many bits both operands have together; an array under ``jit`` and ``vmap``.

    Sums are scaled at the end, by a power of two, so that only the result can be subnormal or
    infinite.

    Raises:
        TypeError: for mantissas that are not int16, and a chain that is no integer.
        ValueError: for other shapes, and chains without products.

    >>> a, b = dfp(jnp.full((1, 3), 1.99999)), dfp(jnp.full((3, 1), 1.99999))
    >>> [x.tolist() for x in dfp_matmul(a, b, chain=2)]
    [[[11.999267578125]], [[0]]]
    >>> [x.tolist() for x in dfp_matmul(a, b, chain=3)]
    [[[-4.000732421875]], [[1]]]
    """
    left, right = matrices(_mantissas_of(a), _mantissas_of(b))
    sums, overflows = _in_chains(left, right, chain_of(chain))
    first, second = int32_of(a.exponent), int32_of(b.exponent)
    finite = jnp.maximum(first, second) < NOT_FINITE
    return ChainSums(_scaled(sums, jnp.where(finite, first + second, NOT_FINITE)), overflows)


def chain_of(chain: int | Integer[ArrayLike, ""]) -> Int32[Array, ""]:
    """A number of products, 1 or more if that is known.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is an array of several, or less than 1.
    """
    length = int32_of(chain)
    if not isinstance(length, jax.core.Tracer) and (length.ndim or int(length) < 1):
        raise ValueError(f"chain is {chain}, but it counts products: give one number, 1 or more")
    return length


@jax.jit
def _in_chains(a: Array, b: Array, chain: Int32[Array, ""]) -> tuple[Array, Array]:
    """The sums of chains, without the exponents, and their overflows."""
    count = a.shape[-1]

    def run(row, right):
        zeros = jnp.zeros(jnp.broadcast_shapes(row.shape[1:], right.shape[1:]), jnp.int32)

        def step(state, operands):
            total, s, overflows = state
            number, x, y = operands
            s, beyond = plus(s, x * y, 32, "wrap")
            ends = (number % chain == 0) | (number == count)
            total = jnp.where(ends, total + s.astype(jnp.float32), total)
            return (total, jnp.where(ends, 0, s), overflows + beyond.astype(jnp.int32)), None

        numbers = jnp.arange(1, count + 1, dtype=jnp.int32)
        start = zeros.astype(jnp.float32), zeros, zeros
        total, _, overflows = lax.scan(step, start, (numbers, row, right))[0]
        return total, overflows

    return by_rows(run, a, b)


def down_convert(
    i: Integer[ArrayLike, "..."], exponent: int | Integer[ArrayLike, ""], *, bits: Width = 16
) -> DFP:
    """The int32 tensor ``i * 2**exponent`` with mantissas of some bits.

    It is shifted down by the least R for which ``max|i| < 2**(R + bits - 1)``, rounded to nearest
    even and clamped as by ``dfp``; R is added to the exponent.

    Args:
        i: integers within int32, such as the sums of ``integer_matmul``.
        exponent: of the last bit of ``i``.
        bits: of the mantissas with their signs, 2 to 16; an array under ``jit`` and ``vmap``.

    Raises:
        TypeError: for what is no integer.
        ValueError: for other widths.

    >>> [x.tolist() for x in down_convert(jnp.array([1000, -3, 12]), -20, bits=8)]
    [[125, 0, 2], -17]
    """
    return _down_converted(int32_of(i), int32_of(exponent), width_of(bits, 2, 16))


@jax.jit
def _down_converted(i: Array, exponent: Array, bits: Array) -> DFP:
    magnitude = jnp.abs(i).astype(jnp.uint32)
    length = 32 - lax.clz(jnp.max(magnitude, initial=jnp.uint32(0))).astype(jnp.int32)
    down = jnp.maximum(length - (bits - 1), 0)
    return DFP(_mantissas(magnitude, down, i < 0, bits), exponent + down)
