"""Sums that are normalised coarsely: leading zeros cost mantissa bits.

A matrix engine saves area if it does not count the leading zeros of a sum. With ``normaliseK-L`` it
only looks whether the first K bits are zero, and then whether the next L are, and shifts by 0, K or
K + L. For each product p and the sum s so far, whose highest place (zeros included) is h::

    top = the higher of h and the exponent of p: the sum of those of its operands if p is exact
    t   = s + p, exactly
    h   = top - shift, where shift is what the zeros above the leading bit of t, counted from top,
          let it be; after a carry the exponent of t
    s   = t cut (toward zero) to a multiple of 2**(h - M), for a format of M mantissa bits

Places are those of the format: none is above that of its largest number, and nothing is cut below
its quantum. Sums that are zero, infinite or NaN have none. Where no zeros stay this is a fused
multiply-add that rounds toward zero.

Source: K. Alexandridis, C. Peltekis, D. Filippas and G. Dimitrakopoulos, Floating-point
multiply-add with approximate normalization for low-cost matrix engines, arXiv:2408.11997.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.arithmetic.accumulation import LOWEST, Steps
from qsim.arithmetic.aligned import cut, leading_exponent, special_part
from qsim.arithmetic.starts import varying, zero

__all__ = ["coarse"]


def coarse(steps: Steps, a: Array, b: Array) -> Array:
    """The sum of the products ``a[k] * b[k]``; see ``qsim.arithmetic.orders``."""
    nothing = zero(a, b)

    def step(state, product):
        (s, place), (number, x, y) = state, product
        return _step(steps, s, place, x, y, number), None

    start = nothing, varying(jnp.full(nothing.shape, LOWEST, jnp.int32), nothing)
    numbers = jnp.arange(a.shape[0], dtype=jnp.uint32)
    return lax.scan(step, start, (numbers, a, b))[0][0]


def _step(steps: Steps, s: Array, place: Array, x: Array, y: Array, number):
    """The next sum, and its highest place."""
    carrier, grid = steps.carrier, jax.tree.map(jnp.asarray, steps.how.sums.grid)
    total = steps.before(s, x, y, number)
    top = jnp.maximum(place, _exponent_of_product(steps, x, y, number))
    leading = leading_exponent(total, LOWEST, carrier)
    place = jnp.maximum(top - _removed(top - leading, steps.how.shifts), leading)
    # a sum beyond the carrier's range is its largest number here, whose place is the highest
    beyond = (leading == carrier.bias) & (top > carrier.bias)
    place = jnp.where(beyond, carrier.bias, place)
    unit = jnp.maximum(place - (carrier.mantissa_bits - grid.dropped), grid.quantum)
    count = cut(total, unit, carrier)
    result = steps.settled(
        jnp.abs(count).astype(carrier.word),
        unit + (carrier.bits - 1),
        count < 0,
        special_part(total, carrier),
        number,
    )
    result = jnp.where(leading == LOWEST, total, result)
    largest = (grid.largest >> carrier.mantissa_bits).astype(jnp.int32) - carrier.bias
    gone = (leading_exponent(result, LOWEST, carrier) == LOWEST) | ~jnp.isfinite(result)
    return result, jnp.where(gone, LOWEST, jnp.minimum(place, largest))


def _exponent_of_product(steps: Steps, x: Array, y: Array, number) -> Array:
    """That of a product that was rounded; else the sum of those of its operands."""
    if steps.how.alters_products:
        return leading_exponent(steps.product(x, y, number), LOWEST, steps.carrier)
    return sum(leading_exponent(z, LOWEST, steps.carrier) for z in (x, y))


def _removed(zeros: Array, shifts: Array) -> Array:
    """How many of some leading zeros are removed."""
    first, both = shifts[0], shifts[0] + shifts[1]
    return jnp.where(zeros >= both, both, jnp.where(zeros >= first, first, 0))
