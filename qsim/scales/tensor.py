"""How a whole tensor meets a format: one scale for all of its values.

A scale is kept as ``ratio * 2**exponent``. The power of two is absorbed by the grid, whose gaps
and edges move with it, at no cost and without rounding; only the ratio, a number in (1/2, 2) that
is 1 for power-of-two scales, divides the values and multiplies what they were rounded to::

    quantize_scaled(x) = ratio * round(x / ratio, to the grid times 2**exponent)

Both operations are correctly rounded in the carrier. The division hides from the compiler that
its divisor is a scalar, since XLA would replace it by a multiplication with the reciprocal.

Source of the scale rules: OCP MX 1.0, 6.3 (power of two); the absolute maximum is that of
symmetric integer quantization, arXiv:1712.05877.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from qsim.numbers.grid import Carrier, Grid, carrier_of
from qsim.numbers.modes import Rounding, suggest
from qsim.numbers.rounding import inside_range, round_to_grid

__all__ = ["SCALES", "check_scale", "quantize_scaled", "shift"]

SCALES = {
    "none": "values are rounded as they are",
    "absmax": "the largest magnitude of the tensor becomes the largest value of the format",
    "power_of_two": "the smallest power of two at which no value of the tensor overflows",
}


def check_scale(scale: str) -> str:
    """``scale`` itself, if it names a rule.

    Raises:
        ValueError: for an unknown rule, naming the near ones.
    """
    if scale not in SCALES:
        raise ValueError(f"no scale {scale!r}; {suggest(str(scale), list(SCALES))}")
    return scale


@partial(jax.jit, static_argnames=("scale", "mode", "policy", "gradient"))
def quantize_scaled(
    x: Float[Array, "..."],
    grid: Grid,
    *,
    scale: str,
    mode: Rounding,
    policy: str,
    gradient: str = "clipped",
    random: UInt[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """``x`` rounded to the values of a grid times one scale for the whole tensor.

    Args:
        x: values in the grid's carrier, of any shape.
        grid: a single grid.
        scale: a rule of ``SCALES``.
        mode, policy, gradient, random: as for ``qsim.numbers.rounding``.

    A tensor of zeros has the scale 1. A tensor that holds an infinity or a NaN has no scale, and
    all of the result is NaN. A grid as wide as its carrier (8 exponent bits in float32) is not
    scaled by ``absmax``; at the ends of the carrier's range the exponent is limited to what keeps
    the scaled grid inside it.
    """
    grid = jax.tree.map(jnp.asarray, grid)
    if scale == "none" or x.size == 0:
        one = jnp.ones((), x.dtype)
        return _straight_through(mode, policy, gradient, False, x, grid, one, random)
    largest = _absolute_maximum(x, grid)
    exponent, ratio = _rule(scale, largest, grid)
    divides = scale == "absmax"
    moved = shift(grid, exponent)
    result = _straight_through(mode, policy, gradient, divides, x, moved, ratio, random)
    finite = largest < carrier_of(grid).infinity
    return jnp.where(finite, result, jnp.full_like(result, jnp.nan))


def shift(grid: Grid, exponent: Int[Array, "..."]) -> Grid:
    """The grid whose values are those of ``grid`` times ``2**exponent``.

    The caller sees to it that the carrier holds them.
    """
    names = ("largest", "lowest", "overflow", "underflow", "first", "smallest")
    words = jnp.stack([getattr(grid, name) for name in names])
    moved = _times_power(words, exponent, carrier_of(grid))
    return replace(
        grid,
        quantum=grid.quantum + exponent,
        parity=grid.parity - exponent,
        **dict(zip(names, moved, strict=True)),
    )


# --- the rules ------------------------------------------------------------------------------


def _absolute_maximum(x: Array, grid: Grid) -> UInt[Array, ""]:
    """The bit pattern of the largest magnitude; a NaN is above infinity."""
    carrier = carrier_of(grid)
    bits = lax.bitcast_convert_type(lax.stop_gradient(x), carrier.word)
    return jnp.max(bits & carrier.word.type(carrier.sign - 1))


def _rule(scale: str, largest: Array, grid: Grid) -> tuple[Array, Array]:
    """The exponent and the ratio of the scale that a rule chooses."""
    carrier = carrier_of(grid)
    exponent_x, fraction_x = _split_magnitude(largest, carrier)
    exponent_f, fraction_f = _split_magnitude(grid.largest, carrier)
    wanted = exponent_x - exponent_f
    if scale == "power_of_two":
        wanted = wanted + (fraction_x > fraction_f).astype(jnp.int32)
        low = jnp.maximum(carrier.quantum - grid.quantum, -carrier.bias - _emin(grid))
        high = carrier.bias - exponent_f
        return jnp.where(largest == 0, 0, jnp.clip(wanted, low, high)), _unit(0, carrier)
    # all quotients and products stay in the carrier's normal range, or are zero
    low, high = 3 - carrier.bias - grid.quantum, carrier.bias - 1 - exponent_f
    exponent = jnp.where((largest == 0) | (low > high), 0, jnp.clip(wanted, low, high))
    scaled = (exponent == wanted) & (low <= high)
    divisor = jnp.where(scaled, fraction_f, fraction_x)
    ratio = _divide(_unit(fraction_x, carrier), _unit(divisor, carrier), carrier)
    return exponent, jnp.where(largest == 0, jnp.ones_like(ratio), ratio)


def _emin(grid: Grid) -> Array:
    """The exponent from which on the grid's precision is full."""
    return grid.quantum + grid.mantissa_bits


def _split_magnitude(bits: Array, carrier: Carrier) -> tuple[Array, Array]:
    """Exponent and fraction field of a magnitude, as if the carrier had no subnormals."""
    stored, word = carrier.mantissa_bits, carrier.word.type
    bits = jnp.asarray(bits)
    length = carrier.bits - lax.clz(bits).astype(jnp.int32)
    up = jnp.maximum(stored + 1 - length, 0)
    field = (bits >> stored).astype(jnp.int32)
    fraction = (bits << up.astype(carrier.word)) & word((1 << stored) - 1)
    return jnp.maximum(field, 1) - up - carrier.bias, fraction


def _unit(fraction, carrier: Carrier) -> Float[Array, ""]:
    """The number in [1, 2) with a fraction field."""
    bits = jnp.asarray(fraction, carrier.word) | carrier.word.type(
        carrier.bias << carrier.mantissa_bits
    )
    return lax.bitcast_convert_type(bits, jnp.dtype(carrier.name))


def _times_power(bits: Array, exponent: Array, carrier: Carrier) -> Array:
    """The bit pattern of a magnitude times ``2**exponent``; zero, infinity and NaN stay."""
    stored, word = carrier.mantissa_bits, carrier.word.type
    own, fraction = _split_magnitude(bits, carrier)
    field = own + exponent + carrier.bias
    down = jnp.maximum(1 - field, 0).astype(carrier.word)
    significand = (fraction | word(1 << stored)) >> down
    moved = significand + (jnp.maximum(field - 1, 0).astype(carrier.word) << stored)
    special = (bits == 0) | (bits >= word(carrier.infinity))
    return jnp.where(special, bits, moved)


# --- arithmetic with the ratio --------------------------------------------------------------


def _divide(x: Array, ratio: Array, carrier: Carrier) -> Array:
    """``x / ratio``, correctly rounded; subnormals count as the carrier's smallest magnitude.

    The divisor gets a bit of each value's pattern that is always zero, so that it is no scalar.
    Where the ratio is 1, ``x`` stays as it is, subnormals too.
    """
    word = carrier.word.type
    bits = lax.bitcast_convert_type(x, carrier.word)
    magnitude = bits & word(carrier.sign - 1)
    divisor = lax.bitcast_convert_type(ratio, carrier.word) | magnitude >> (carrier.bits - 1)
    quotient = x / lax.bitcast_convert_type(divisor, x.dtype)
    tiny = magnitude < word(2 << carrier.mantissa_bits)
    least = (bits & word(carrier.sign)) | jnp.minimum(magnitude, word(1))
    quotient = jnp.where(tiny, lax.bitcast_convert_type(least, x.dtype), quotient)
    return jnp.where(ratio == 1, x, quotient)


def _multiply(x: Array, ratio: Array, carrier: Carrier) -> Array:
    """``x * ratio``, rounded once: its sign is set apart, so that no sum absorbs the product."""
    word = carrier.word.type
    bits = lax.bitcast_convert_type(x, carrier.word)
    magnitude = lax.bitcast_convert_type(bits & word(carrier.sign - 1), x.dtype) * ratio
    product = lax.bitcast_convert_type(magnitude, carrier.word) | (bits & word(carrier.sign))
    return jnp.where(ratio == 1, x, lax.bitcast_convert_type(product, x.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _straight_through(mode, policy, gradient, divides, x, grid, ratio, random):
    carrier = carrier_of(grid)
    y = _divide(x, ratio, carrier) if divides else x
    rounded = round_to_grid(y, grid, mode=mode, policy=policy, random=random)
    return _multiply(rounded, ratio, carrier) if divides else rounded


@_straight_through.defjvp
def _straight_through_jvp(mode, policy, gradient, divides, primals, tangents):
    x, grid, ratio, random = primals
    result = _straight_through(mode, policy, gradient, divides, x, grid, ratio, random)
    tangent = tangents[0]
    if gradient == "clipped":
        y = _divide(x, ratio, carrier_of(grid)) if divides else x
        tangent = jnp.where(inside_range(y, grid), tangent, jnp.zeros_like(tangent))
    return result, tangent
