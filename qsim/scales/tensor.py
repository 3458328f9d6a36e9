"""How a whole tensor meets a format: one scale for all of its values.

With the scale s, a number of the carrier, and correctly rounded operations::

    quantize_scaled(x) = s * round(x / s, to the grid)

The operations are those of ``qsim.scales.arithmetic``. Back ends differ in what they make of
subnormals, so the scale is limited such that no quotient or product that matters is one: the scaled
grid's smallest gap stays at or above ``2**-123`` in float32 (``2**-1019`` in float64), and its
largest value below the carrier's. Formats too wide for that, those of 8 exponent bits in float32,
have the scale 1.

Sources: OCP MX 1.0, 6.3 (power of two); the absolute maximum is that of symmetric integer
quantization, arXiv:1712.05877.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt

from qsim.numbers.gradients import surrogate
from qsim.numbers.grid import CARRIERS, Carrier, Grid, carrier_of, require_wraps
from qsim.numbers.modes import Rounding, require_one_of
from qsim.scales.arithmetic import (
    absolute,
    divided,
    least_gap,
    multiplied,
    number,
    or_least,
    quotient,
    split_magnitude,
)
from qsim.scales.layout import Layout

__all__ = ["SCALES", "check_scale", "choose_scale", "quantize_apart", "quantize_scaled", "rescaled"]

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
    require_one_of("scale", scale, SCALES)
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
    all of the result is NaN.
    """
    grid = jax.tree.map(jnp.asarray, grid)
    require_wraps(grid, policy)
    factor = None
    if scale != "none" and x.size:
        factor = choose_scale(x, grid, scale=scale)
    divides = scale == "absmax"
    return _straight_through(mode, policy, gradient, divides, x, grid, factor, random)


@partial(jax.jit, static_argnames=("scale", "mode", "policy", "gradient"))
def quantize_apart(
    x: Float[Array, "..."],
    grid: Grid,
    *,
    scale: str,
    mode: Rounding,
    policy: str,
    gradient: str = "clipped",
    random: UInt[Array, "..."] | None = None,
) -> tuple[Float[Array, "..."], Float[Array, ""]]:
    """As ``quantize_scaled``, the values of the grid and the scale apart; ``scale`` is not "none".

    ``rescaled`` of both is what ``quantize_scaled`` gives.
    """
    grid = jax.tree.map(jnp.asarray, grid)
    require_wraps(grid, policy)
    factor = choose_scale(x, grid, scale=scale)
    return _apart(mode, policy, gradient, scale == "absmax", x, grid, factor, random), factor


def rescaled(x: Float[Array, "..."], factor: Float[Array, ""] | None) -> Float[Array, "..."]:
    """``x`` times a scale of ``quantize_apart``, rounded once."""
    return x if factor is None else _rescaled(x, factor)


@jax.custom_jvp
def _rescaled(x: Array, factor: Array) -> Array:
    return _rescale(x, factor, CARRIERS[x.dtype.name])


@_rescaled.defjvp
def _rescaled_jvp(primals, tangents):
    return _rescaled(*primals), tangents[0] * primals[1]


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _apart(mode, policy, gradient, divides, x, grid, factor, random):
    y = _unscale(x, factor, divides, carrier_of(grid))
    return grid.round(y, mode=mode, policy=policy, random=random)


@_apart.defjvp
def _apart_jvp(mode, policy, gradient, divides, primals, tangents):
    x, grid, factor, random = primals
    tangent = tangents[0] / factor
    if gradient != "identity":
        unscaled = _unscale(x, factor, divides, carrier_of(grid))
        tangent = surrogate(gradient, grid, unscaled, tangent)
    return _apart(mode, policy, gradient, divides, x, grid, factor, random), tangent


def choose_scale(x: Float[Array, "..."], grid: Grid, *, scale: str) -> Float[Array, ""]:
    """The scale that a rule gives a tensor: a number of the carrier, or NaN.

    Args:
        x: values in the grid's carrier, of any shape but empty.
        grid: a single grid.
        scale: ``"absmax"`` or ``"power_of_two"``.
    """
    carrier = carrier_of(grid)
    magnitudes = absolute(lax.stop_gradient(x), carrier)
    largest = Layout(x.shape, x.shape).largest(magnitudes).reshape(())
    exponent_x, fraction_x = split_magnitude(largest, carrier)
    exponent_f, fraction_f = split_magnitude(jnp.asarray(grid.largest), carrier)
    least = least_gap(carrier)
    low, high = least - grid.quantum, carrier.bias - 1 - exponent_f
    scalable = (largest > 0) & (low <= high) & (grid.quantum >= least)
    wanted = exponent_x - exponent_f
    if scale == "power_of_two":
        wanted = wanted + (fraction_x > fraction_f).astype(jnp.int32)
    exponent = jnp.where(scalable, jnp.clip(wanted, low, high), 0)
    factor = number(exponent, jnp.zeros_like(fraction_x), carrier)
    if scale == "absmax":
        fits = scalable & (exponent == wanted)
        zero = jnp.zeros_like(exponent)
        dividend = number(zero, fraction_x, carrier)
        divisor = number(zero, jnp.where(fits, fraction_f, fraction_x), carrier)
        factor = factor * _ratio(dividend, divisor, carrier)
    return jnp.where(largest < carrier.infinity, factor, jnp.full_like(factor, jnp.nan))


def _ratio(dividend: Array, divisor: Array, carrier: Carrier) -> Float[Array, ""]:
    """The quotient r of two scalars, such that ``dividend / r`` is not above ``divisor``."""
    ratio = quotient(dividend, divisor, carrier)
    bits = lax.bitcast_convert_type(ratio, carrier.word)
    above = lax.bitcast_convert_type(bits + carrier.word.type(1), ratio.dtype)
    return jnp.where(quotient(dividend, ratio, carrier) > divisor, above, ratio)


# --- arithmetic with the scale --------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _straight_through(mode, policy, gradient, divides, x, grid, factor, random):
    y = _unscale(x, factor, divides, carrier_of(grid))
    rounded = grid.round(y, mode=mode, policy=policy, random=random)
    return _rescale(rounded, factor, carrier_of(grid))


@_straight_through.defjvp
def _straight_through_jvp(mode, policy, gradient, divides, primals, tangents):
    x, grid, factor, random = primals
    result = _straight_through(mode, policy, gradient, divides, x, grid, factor, random)
    if gradient == "identity":
        return result, tangents[0]
    unscaled = _unscale(x, factor, divides, carrier_of(grid))
    return result, surrogate(gradient, grid, unscaled, tangents[0])


def _unscale(x: Array, factor: Array | None, divides: bool, carrier: Carrier) -> Array:
    """``x / factor``; what is far below the smallest gap becomes the smallest magnitude."""
    if factor is None:
        return x
    if divides:
        unscaled = divided(x, factor, carrier)
    else:  # by a power of two, whose reciprocal is exact
        bits = lax.bitcast_convert_type(factor, carrier.word)
        one_over = carrier.word.type(2 * carrier.bias << carrier.mantissa_bits) - bits
        product = x * lax.bitcast_convert_type(one_over, x.dtype)
        unscaled = or_least(x, product, carrier)
    return jnp.where(factor == 1, x, unscaled)


def _rescale(x: Array, factor: Array | None, carrier: Carrier) -> Array:
    """``x * factor``, rounded once."""
    if factor is None:
        return x
    result = jnp.where(factor == 1, x, multiplied(x, factor, carrier))
    return jnp.where(jnp.isnan(factor), factor, result)
