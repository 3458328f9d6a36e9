"""Rounding to a grid whose gaps are the same within a binade, bit for bit.

Only integer arithmetic on bit patterns is used, since float arithmetic on the usual back ends
flushes subnormals, contracts products into sums and rewrites divisions. In the bit pattern of a
magnitude, neighbours of a grid lie ``ulp = 2**d`` patterns apart, so that rounding is::

    (magnitude + offset) & ~(ulp - 1)        with 0 <= offset < ulp, the rounding mode

and the carry into the exponent field is the carry into the next binade. Magnitudes below the
smallest gap are compared with it and its half instead. Grids have the leaves of
``qsim.numbers.binades.BinadeGrid``.

Sources: the definitions in ``qsim.numbers.exact``, which this equals.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.grid import Carrier, Grid, carrier_of, word
from qsim.numbers.interpolation import moves
from qsim.numbers.modes import Rounding
from qsim.numbers.significands import wrapped
from qsim.numbers.stochastic import moves_up

__all__ = ["gap_shift", "offset", "points_inward", "round_to_gaps"]


def round_to_gaps(
    x: FloatArray[Array, "..."],
    grid: Grid,
    shift: Callable[[Array, Grid, Carrier], Array],
    *,
    mode: Rounding,
    policy: str,
    random: UInt[Array, "..."] | None,
) -> FloatArray[Array, "..."]:
    """``x`` rounded to a grid on which ``shift`` low bits of a magnitude lie below its gap."""
    carrier, grid = carrier_of(grid), jax.tree.map(jnp.asarray, grid)
    bits = lax.bitcast_convert_type(x, carrier.word)
    magnitude, negative = bits & grid.absolute, bits > grid.absolute + word(1, carrier)
    # what lies in the first gap and does not fall to zero rounds as the first grid point does
    at_least_first = jnp.maximum(magnitude, grid.first)
    below = shift(at_least_first, grid, carrier)
    mask = word(2**carrier.bits - 1, carrier) << below
    odd = _is_odd(at_least_first, ~mask + word(1, carrier), grid)
    drawn = _drawn_up(magnitude, below, grid, mode, random, carrier) if mode.is_stochastic else None
    rounded = (at_least_first + offset(mask, odd, negative, drawn, mode, carrier)) & mask
    rounded = _overflowed(rounded, magnitude, negative, grid, shift, mode, policy, carrier)
    leaves_zero = _leaves_zero(magnitude, negative, grid, drawn, mode, carrier)
    signed = rounded | (bits & grid.sign)
    result = jnp.where(leaves_zero, signed, bits & grid.negative_zero)
    is_nan = magnitude > carrier.infinity
    if policy == "wrap":
        beyond = leaves_zero & (rounded > jnp.where(negative, grid.lowest, grid.largest))
        result = jnp.where(beyond, wrapped(rounded, negative, grid, carrier), result)
        is_nan = (magnitude >= carrier.infinity) | (beyond & (grid.modulus == 0))
    if policy in ("ieee", "p3109"):
        is_nan = is_nan | ((rounded > carrier.infinity) & leaves_zero)
    result = jnp.where(is_nan, word(carrier.nan, carrier), result)
    return lax.bitcast_convert_type(result, x.dtype)


# --- the parts of the kernel ----------------------------------------------------------------


def gap_shift(magnitude: Array, grid: Grid, carrier: Carrier) -> Array:
    """How many low bits of a magnitude's pattern lie below its gap.

    One more for each binade below the lowest of full precision. Below the carrier's own lowest
    binade, whose exponent field is 1, a step of the bit pattern no longer halves.
    """
    lowest = grid.quantum + (carrier.bias + carrier.mantissa_bits) - grid.dropped
    field = lax.convert_element_type(magnitude >> carrier.mantissa_bits, jnp.int32)
    if grid.deep:
        field = jnp.where(field > 0, field, _subnormal_field(magnitude, carrier))
    shift = jnp.maximum(field, lowest) - jnp.maximum(field, 1) + grid.dropped
    return lax.convert_element_type(shift, carrier.word)


def _subnormal_field(magnitude: Array, carrier: Carrier) -> Array:
    """The exponent field that a subnormal magnitude would have, were it stored as a normal one."""
    signed = lax.convert_element_type(magnitude, jnp.dtype(f"int{carrier.bits}"))
    number = lax.convert_element_type(signed, jnp.dtype(carrier.name))
    field = lax.bitcast_convert_type(number, carrier.word) >> carrier.mantissa_bits
    return lax.convert_element_type(field, jnp.int32) + carrier.quantum


def _is_odd(magnitude: Array, gap: Array, grid: Grid) -> Array:
    """Whether the code of a magnitude's lower neighbour is odd."""
    return (magnitude ^ grid.parity) & gap != 0


def offset(mask, odd: Array, negative: Array, drawn, mode: Rounding, carrier: Carrier) -> Array:
    """What is added to a magnitude before the bits outside ``mask``, below its gap, are cut.

    It is always less than the gap, so that grid points stay where they are.
    """
    rest = ~mask
    ulp, zero = rest + word(1, carrier), jnp.zeros_like(rest)
    match mode.mode:
        case "ties_to_even":
            return jnp.where(odd, ulp, rest) >> 1
        case "ties_to_away":
            return ulp >> 1
        case "ties_to_zero":
            return rest >> 1
        case "ties_to_odd":
            return jnp.where(odd, rest, ulp) >> 1
        case "up":
            return jnp.where(negative, zero, rest)
        case "down":
            return jnp.where(negative, rest, zero)
        case "toward_zero":
            return zero
        case "away_from_zero":
            return rest
        case "to_odd":
            return jnp.where(odd, zero, rest)
        case _:
            return jnp.where(drawn, rest, zero)


def _leaves_zero(magnitude, negative, grid: Grid, drawn, mode: Rounding, carrier: Carrier):
    """Whether a magnitude rounds to a grid point other than zero.

    Beyond the first gap every magnitude does, and without a zero in the format all do.
    """
    zero = grid.zero
    match mode.mode:
        case "ties_to_even":
            least = zero.tie_even
        case "ties_to_odd":
            least = zero.tie_odd
        case "ties_to_away":
            least = zero.tie_outward
        case "ties_to_zero":
            least = zero.tie_inward
        case "up":
            least = jnp.where(negative, zero.inward, zero.outward)
        case "down":
            least = jnp.where(negative, zero.outward, zero.inward)
        case "toward_zero":
            least = zero.inward
        case "away_from_zero":
            least = zero.outward
        case "to_odd":
            least = zero.to_odd
        case _:
            least = jnp.where(drawn, zero.outward, zero.inward)
    return magnitude >= least


def _drawn_up(magnitude: Array, below: Array, grid: Grid, mode: Rounding, random, carrier: Carrier):
    """Whether a stochastic mode moves a magnitude up, in the first gap too.

    Elsewhere ``below`` bits of its pattern lie below its gap.
    """
    one, stored = word(1, carrier), carrier.mantissa_bits
    implicit = jnp.minimum(magnitude >> stored, one) << stored
    significand = (magnitude & word((1 << stored) - 1, carrier)) | implicit
    if not grid.first_is_power:
        least = jnp.minimum(magnitude, grid.first)
        leaves = moves(least, least ^ least, grid.first, random, mode=mode, carrier=carrier)
        inside = moves_up(significand, below, random, mode, carrier)
        return jnp.where(magnitude < grid.first, leaves, inside)
    binade = lax.convert_element_type(jnp.maximum(magnitude >> stored, one), jnp.int32)
    below_first = grid.first_exponent + (carrier.bias + stored) - binade
    below_first = lax.convert_element_type(below_first, carrier.word)
    below = jnp.where(magnitude < grid.first, below_first, below)
    return moves_up(significand, below, random, mode, carrier)


def _overflowed(
    rounded, magnitude, negative, grid: Grid, shift, mode: Rounding, policy: str, carrier
):
    """The rounded magnitude, or what the policy makes of it beyond the largest or lowest value."""
    edge = jnp.where(negative, jnp.maximum(grid.lowest, grid.smallest), grid.largest)
    if policy == "saturate":
        return jnp.minimum(rounded, edge)
    if policy == "wrap":
        return rounded
    infinity = word(carrier.infinity, carrier)
    beyond = jnp.where(negative, grid.underflow, grid.overflow)
    if policy == "saturate_propagate":
        keeps = (magnitude == infinity) & (beyond == infinity)
        return jnp.where(keeps, infinity, jnp.minimum(rounded, edge))
    below_unsigned = negative & (grid.sign == 0)
    if policy == "p3109":
        beyond = jnp.where((beyond == infinity) | below_unsigned, beyond, edge)
    inward = _points_inward(negative, grid, shift, mode, carrier)
    if inward is not None:
        back = inward & (magnitude < infinity) & ~below_unsigned
        beyond = jnp.where(back, edge, beyond)
    limit = jnp.where(negative, grid.lowest, grid.largest)
    return jnp.where(rounded > limit, beyond, rounded)


def _points_inward(negative, grid: Grid, shift, mode: Rounding, carrier: Carrier):
    """Whether the mode takes finite numbers beyond the edge back to it; None: it never does."""
    if mode.mode != "to_odd":
        return points_inward(negative, mode)
    ulp = word(1, carrier) << shift(grid.largest, grid, carrier)
    return _is_odd(grid.largest, ulp, grid) | (grid.overflow != carrier.infinity)


def points_inward(negative: Array, mode: Rounding) -> Array | None:
    """Whether a mode other than to odd takes finite numbers beyond the edge back to it, or None."""
    match mode.mode:
        case "toward_zero":
            return jnp.ones_like(negative)
        case "up":
            return negative
        case "down":
            return ~negative
    return None
