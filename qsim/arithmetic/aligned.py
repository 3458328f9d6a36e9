"""Sums as tensor cores make them: products of a group, aligned at their largest exponent and cut.

For each group of products, and the sum s so far::

    E = the largest exponent among the products and s; that of a product is the sum of the exponents
        of its operands, whose own are those of their leading bits
    each of them is cut (toward zero) to a multiple of 2**(E - bits), and they are added exactly
    s = the sum, rounded to the accumulator's format

Numbers that are subnormal in an operand's format have the exponent of its smallest normal ones.

Sources: M. Fasi, N. J. Higham, M. Mikaitis and S. Pranesh, Numerical behavior of NVIDIA tensor
cores, PeerJ Computer Science 7:e330, 2021; F. A. Khattak and M. Mikaitis, Accurate models of NVIDIA
tensor cores, arXiv:2512.07004 (group sizes and bits of four generations).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.arithmetic.accumulation import LOWEST, Steps
from qsim.arithmetic.starts import zero
from qsim.numbers.binades import BinadeGrid
from qsim.numbers.grid import Carrier, Grid, carrier_of
from qsim.numbers.significands import unpacked

__all__ = ["aligned", "cut", "leading_exponent", "least_exponent", "special_part"]

HALF = 16  # bits of the lower of the two words in which a group is added up


def aligned(steps: Steps, a: Array, b: Array) -> Array:
    """The sum of the products ``a[k] * b[k]``, group by group; see ``qsim.arithmetic.orders``."""
    size = steps.how.group
    whole = a.shape[0] // size * size

    def step(s, group):
        number, x, y = group
        return _group(steps, s, x, y, number), None

    groups = lambda x: x[:whole].reshape(-1, size, *x.shape[1:])  # noqa: E731
    numbers = jnp.arange(whole // size, dtype=jnp.uint32)
    s, _ = lax.scan(step, zero(a, b), (numbers, groups(a), groups(b)))
    if whole < a.shape[0]:
        s = _group(steps, s, a[whole:], b[whole:], len(numbers))
    return s


def least_exponent(grid: Grid) -> Array | int:
    """The exponent of the smallest normal numbers of a grid's format, if it has such numbers."""
    if not isinstance(grid, BinadeGrid):
        return LOWEST
    return jnp.asarray(grid.quantum) + (carrier_of(grid).mantissa_bits - jnp.asarray(grid.dropped))


def _group(steps: Steps, s: Array, x: Array, y: Array, number: Array | int) -> Array:
    """The sum so far and the products of a group, added and rounded."""
    carrier = steps.carrier
    products = steps.product(x, y, number)
    exponents = leading_exponent(x, steps.least[0], carrier) + leading_exponent(
        y, steps.least[1], carrier
    )
    largest = jnp.maximum(exponents.max(0), leading_exponent(s, LOWEST, carrier))
    unit = largest - steps.how.bits
    total = cut(s, unit, carrier)
    high, low = total >> HALF, total & ((1 << HALF) - 1)
    for product in products:
        count = cut(product, unit, carrier)
        high, low = high + (count >> HALF), low + (count & ((1 << HALF) - 1))
    special = special_part(s, carrier)
    for product in products:
        special = special + special_part(product, carrier)
    return steps.settled(*_leading(high, low, unit, carrier), special, number)


def leading_exponent(x: Array, least: Array | int, carrier: Carrier) -> Array:
    """Exponents of leading bits, or the least one; that of zero is below all."""
    _, magnitude, exponent, _ = unpacked(x)
    return jnp.where(magnitude == 0, LOWEST, jnp.maximum(exponent, least))


def cut(x: Array, unit: Array, carrier: Carrier) -> Array:
    """Numbers as multiples of ``2**unit``, cut toward zero; special ones as zero."""
    negative, magnitude, exponent, significand = unpacked(x)
    up = exponent - carrier.mantissa_bits - unit
    count = jnp.where(
        up >= 0,
        significand << jnp.clip(up, 0, carrier.bits - 1).astype(carrier.word),
        significand >> jnp.clip(-up, 0, carrier.bits - 1).astype(carrier.word),
    ).astype(jnp.int32)
    count = jnp.where(magnitude < carrier.infinity, count, 0)
    return jnp.where(negative, -count, count)


def special_part(x: Array, carrier: Carrier) -> Array:
    """Infinities and NaNs as they are; other numbers as zero."""
    return jnp.where(jnp.isfinite(x), jnp.zeros_like(x), x)


def _leading(high: Array, low: Array, unit: Array, carrier: Carrier):
    """The leading bits of a sum as a word, lower ones jammed; the exponent of its top; the sign."""
    mask = (1 << HALF) - 1
    high, low = high + (low >> HALF), low & mask
    negative = high < 0
    high, low = (
        jnp.where(negative, -high - (low > 0).astype(jnp.int32), high).astype(carrier.word),
        jnp.where(negative, -low & mask, low).astype(carrier.word),
    )
    taken = jnp.minimum(lax.clz(high), carrier.word.type(HALF))
    below = HALF - taken
    rest = low & ((carrier.word.type(1) << below) - carrier.word.type(1))
    word = (high << taken) | (low >> below) | (rest != 0).astype(carrier.word)
    return word, unit + (HALF + carrier.bits - 1) - taken.astype(jnp.int32), negative
