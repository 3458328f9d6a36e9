"""The choice of scales: what numbers of a block decide on its scale, and how.

Sources: the definitions in ``qsim.scales.exact_blocks``, which this equals.
"""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from qsim.numbers.binades import power_pattern
from qsim.numbers.grid import Carrier, carrier_of, pattern
from qsim.numbers.modes import Rounding
from qsim.scales.arithmetic import (
    above_zero,
    absolute,
    divided,
    floats,
    is_tiny,
    multiplied,
    quotient,
    split_magnitude,
)
from qsim.scales.exact_blocks import FRACTION_BITS, carried
from qsim.scales.layout import Layout

__all__ = ["NEAREST", "Scaling", "as_scales", "choose", "uncentred"]

NEAREST = Rounding.parse("ties_to_even")


class Scaling(NamedTuple):
    """What the blocks of an array are scaled by; arrays of the shape of the blocks.

    Attributes:
        stored: the values that are stored of the scales.
        exponents: of scales that only move grids: one array, or one for each side.
        scales: other scales, with which elements are multiplied: one array, or one for each side.
        encode: what numbers are multiplied with before rounding; None where they are divided.
        zero: the element that stands for zero, or None.
        bad: whether what has a scale is all NaN.
        bad_blocks: the same of the blocks, where groups within them have scales.
        idle: for each array of scales, which of them only zeros have.
    """

    stored: tuple[Float[Array, "..."], ...]
    exponents: tuple[Int[Array, "..."], ...] = ()
    scales: tuple[Float[Array, "..."], ...] = ()
    encode: Float[Array, "..."] | None = None
    zero: Float[Array, "..."] | None = None
    bad: Any = None
    bad_blocks: Any = None
    idle: tuple[Any, ...] = ()


def choose(grid, x: Float[Array, "..."], layout: Layout) -> Scaling:
    """The scales of an array that is split already, by the recipe of a ``BlockGrid``."""
    carrier, recipe = carrier_of(grid), grid.recipe
    x = lax.stop_gradient(x)
    sides, bad, idle = _extents(x, grid, layout, carrier)
    if recipe.micro:
        return _in_groups(grid, sides[0], bad, layout, carrier)._replace(idle=idle)
    if recipe.is_power:
        found = _powers(grid, sides, carrier)
    elif recipe.order == "te":
        found = _te(grid, sides[0], carrier)
    elif recipe.zero_point:
        found = _about_zero_point(grid, sides, carrier)
    elif recipe.rule_name == "mse" or len(recipe.parameters) > 1:
        found = _best(grid, sides[0], x, layout, carrier)
    else:
        found = _by_largest(grid, sides, carrier)
    return found._replace(bad=bad, bad_blocks=bad, idle=idle)


# --- what of a block counts -----------------------------------------------------------------


def _extents(x: Array, grid, layout: Layout, carrier: Carrier) -> tuple[list, Array, tuple]:
    """The magnitudes that decide, for each side, as patterns; which blocks are all NaN; and, for
    each side, which have but zeros there."""
    word, infinity = carrier.word.type, carrier.word.type(carrier.infinity)
    x = x.reshape(layout.filled)
    magnitude = absolute(x, carrier)
    if grid.recipe.nonfinite == "ignore":
        magnitude = jnp.where(magnitude < infinity, magnitude, word(0))
    if grid.recipe.two_sided or grid.recipe.zero_point:
        negative = lax.bitcast_convert_type(x, carrier.word) >= word(carrier.sign)
        sides = [jnp.where(negative, word(0), magnitude), jnp.where(negative, magnitude, word(0))]
    else:
        sides = [magnitude]
    tops = [layout.largest(side) for side in sides]
    bad = tops[0] >= infinity
    for top in tops[1:]:
        bad = bad | (top >= infinity)
    idle = tuple(top == 0 for top in tops)
    if grid.recipe.zero_point:
        idle = (idle[0] & idle[1],)
    if grid.recipe.rule_name == "percentile":
        tops = [_percentile(side, grid.recipe.parameters[0], layout) for side in sides]
    return [jnp.where(bad, word(0), top) for top in tops], bad, idle


def _percentile(magnitude: Array, percent: Fraction, layout: Layout) -> UInt[Array, "..."]:
    """The least magnitude of each block that is not below ``percent`` percent of them."""
    size = math.prod(layout.sizes)
    lengths = [
        np.minimum(size, n - size * np.arange(count)).clip(0)
        for n, size, count in zip(layout.shape, layout.sizes, layout.counts, strict=True)
    ]
    members = np.ones((), np.int64)
    for length in lengths:
        members = members[..., None] * length
    # the zeros that fill a block up come first
    ranks = [size - int(n) + math.ceil(percent * int(n) / 100) - 1 for n in members.flat]
    places = np.array(ranks, np.int32).reshape(*layout.counts, 1)
    ascending = jnp.sort(layout.gathered(magnitude), axis=-1)
    return jnp.take_along_axis(ascending, jnp.asarray(places), axis=-1)[..., 0]


# --- powers of two --------------------------------------------------------------------------


def _powers(grid, sides: list[Array], carrier: Carrier) -> Scaling:
    exponents = tuple(_exponent(grid, amax, carrier) for amax in sides)
    scales = tuple(floats(power_pattern(exponent, carrier), carrier) for exponent in exponents)
    if grid.moves:
        return Scaling(scales, exponents=exponents)
    return Scaling(scales, scales=scales)


def _exponent(grid, amax: UInt[Array, "..."], carrier: Carrier) -> Int[Array, "..."]:
    """The exponents of scales that are powers of two."""
    exponent, fraction = split_magnitude(amax, carrier)
    of_largest, fraction_of_largest = split_magnitude(jnp.asarray(grid.largest), carrier)
    match grid.recipe.rule:
        case "floor":
            up = jnp.zeros_like(exponent)
        case "ceil":
            up = (fraction > 0).astype(jnp.int32)
        case "rceil":
            up = (fraction > fraction_of_largest).astype(jnp.int32)
        case "even":
            one = carrier.word.type(1 << carrier.mantissa_bits)
            half = (one >> 1) >> jnp.asarray(grid.mantissa_bits).astype(carrier.word)
            up = (fraction >= one - half).astype(jnp.int32)
    return jnp.clip(exponent - of_largest + up, grid.lowest_power, grid.highest_power)


def _in_groups(grid, amax: Array, bad: Array, layout: Layout, carrier: Carrier) -> Scaling:
    """Scales of blocks that are powers of two, halved in groups without large numbers."""
    blocks = grid.groups(layout)
    top = blocks.largest(amax)
    bad_blocks = jnp.any(blocks.split(bad), axis=blocks.inner).reshape(blocks.counts)
    top = jnp.where(bad_blocks, carrier.word.type(0), top)
    exponent = _exponent(grid, top, carrier)
    of_group, of_block = (split_magnitude(bits, carrier)[0] for bits in (amax, top))
    halved = jnp.minimum(blocks.spread(of_block) - blocks.split(of_group), 1)
    groups = blocks.join(blocks.spread(exponent) - halved)
    every = jnp.broadcast_to(blocks.spread(bad_blocks), halved.shape)
    return Scaling(
        (
            floats(power_pattern(exponent, carrier), carrier),
            blocks.join(halved).astype(carrier.name),
        ),
        exponents=(groups,),
        bad=blocks.join(every),
        bad_blocks=bad_blocks,
    )


# --- by the largest magnitudes --------------------------------------------------------------


def _by_largest(grid, sides: list[Array], carrier: Carrier) -> Scaling:
    scales, stored = [], []
    for side in sides:
        amax, divisor = floats(side, carrier), _targets(grid, carrier)[0]
        if grid.recipe.rule_name == "fixed":
            fixed = carrier.word.type(pattern(carried(grid.recipe.parameters[0], carrier), carrier))
            # no constant, by whose quotients the compiler would multiply: a bit that is always zero
            amax = floats(fixed | (side >> (carrier.bits - 1)), carrier)
            divisor = jnp.ones((), amax.dtype)
        scale, values = _scales(grid, amax, divisor, carrier)
        scales.append(scale)
        stored += values
    return Scaling(tuple(stored), scales=tuple(scales))


def _targets(grid, carrier: Carrier) -> list[Float[Array, ""]]:
    """What the largest magnitude of a block becomes: candidates, of which the best is taken."""
    largest, numbers = floats(grid.largest, carrier), grid.recipe.parameters
    if grid.recipe.rule_name == "mse":
        steps = int(numbers[0])
        factors = [Fraction(steps, k) for k in range(steps, (steps + 1) // 2 - 1, -1) if k]
        constants = [_constant(factor, carrier) for factor in factors]
        return [multiplied(largest, constant, carrier) for constant in constants]
    if grid.recipe.rule_name == "absmax" and numbers:
        return [_constant(target, carrier) for target in numbers]
    return [largest]


def _constant(value: Fraction, carrier: Carrier) -> Float[Array, ""]:
    return jnp.asarray(float(carried(value, carrier)), carrier.name)


def _scales(
    grid, amax: Array, divisor: Array, carrier: Carrier, first: Array | None = None
) -> tuple[Array, tuple]:
    """The scales ``amax / divisor`` on the scale grid, and what is stored of them.

    Args:
        first: the divisor that decides on the scales of scales, if it is another one.
    """
    mode = Rounding.parse(grid.recipe.scale_rounding)
    stores_amax = grid.recipe.stores == "amax"
    wanted = amax if stores_amax else divided(amax, divisor, carrier)
    if hasattr(grid.scale, "recipe"):
        of_top = jnp.ones_like(divisor) if stores_amax else divisor if first is None else first
        scales, stored = as_scales(grid.scale, wanted, amax, of_top, mode)
        scales = above_zero(scales, jnp.asarray(grid.least))
    else:
        if not stores_amax:
            wanted = above_zero(wanted, jnp.asarray(grid.least))
        wanted = floats(jnp.maximum(absolute(wanted, carrier), grid.floor), carrier)
        scales = grid.scale.round(wanted, mode=mode, policy="saturate")
        stored = (scales,)
    if stores_amax:
        scales = above_zero(divided(scales, divisor, carrier), jnp.asarray(grid.least))
    return scales, stored


def as_scales(
    grid, wanted: Array, amax: Array, divisor: Array, mode: Rounding
) -> tuple[Array, tuple]:
    """``wanted`` scales, which are ``amax / divisor``, on a grid of blocks, as that of scales.

    With the rule ``absmax`` the scales of these are the largest of ``amax`` over the product of
    the divisor and what the largest becomes, in one division.
    """
    carrier, recipe = carrier_of(grid), grid.recipe
    if recipe.centred:
        mean = _mean(wanted, carrier)
        difference = wanted - mean
        tiny = is_tiny(absolute(difference, carrier), carrier)
        wanted = jnp.where(tiny, jnp.zeros_like(difference), difference)
    if recipe.centred or recipe.rule_name != "absmax" or len(recipe.parameters) > 1:
        elements, stored = grid.parts(wanted, mode=mode, policy="saturate")
        values = grid.round(wanted, mode=mode, policy="saturate")
        elements = elements[tuple(slice(n) for n in wanted.shape)]
        if recipe.centred:
            values, stored = uncentred(values, mean, carrier), (*stored, mean)
        return values, (elements, *stored)
    layout = grid.layout(wanted.shape)
    tops = floats(
        layout.largest(layout.split(absolute(amax, carrier)).reshape(layout.filled)), carrier
    )
    both = multiplied(divisor, _targets(grid, carrier)[0], carrier)
    scale, stored = _scales(grid, tops, both, carrier)
    scaling = Scaling(stored, scales=(scale,))
    rounded = grid.elements(layout.split(wanted), scaling, layout, mode, "saturate")
    values = multiplied(rounded, layout.spread(scale), carrier)
    return layout.join(values), (layout.join(rounded), *stored)


def _mean(x: Array, carrier: Carrier) -> Array:
    """The mean of numbers that are not negative, those that are tiny counting as zero."""
    bits = absolute(x, carrier)
    counts = jnp.where(is_tiny(bits, carrier), carrier.word.type(0), bits)
    total = _total(floats(counts, carrier).reshape(-1))
    return quotient(total, jnp.asarray(x.size, carrier.name), carrier).reshape((1,) * x.ndim)


def uncentred(values: Array, mean: Array, carrier: Carrier) -> Array:
    """Scales whose mean had been taken off; none is below zero."""
    total = values + mean
    dropped = (total < 0) | is_tiny(absolute(total, carrier), carrier)
    return jnp.where(dropped, jnp.zeros_like(total), total)


def _te(grid, amax: Array, carrier: Carrier) -> Scaling:
    """The scales of Transformer Engine, which encodes by products."""
    tensor, largest = grid.scale, floats(grid.largest, carrier)
    both = multiplied(largest, floats(tensor.largest, carrier), carrier)
    least = absolute(both * floats(tensor.least, carrier), carrier)
    top = amax.max(initial=0)
    extent = floats(jnp.maximum(top, least), carrier)
    one = jnp.ones((), extent.dtype)
    encode = jnp.where(top > 0, quotient(both, extent, carrier), one)
    decode = quotient(one, encode, carrier)
    wanted = multiplied(divided(floats(amax, carrier), largest, carrier), encode, carrier)
    mode = Rounding.parse(grid.recipe.scale_rounding)
    stored = tensor.element.round(wanted, mode=mode, policy="saturate")
    scale = multiplied(stored, decode, carrier)
    encode = jnp.where(stored > 0, quotient(encode, stored, carrier), jnp.zeros_like(stored))
    decode = decode.reshape((1,) * amax.ndim)
    return Scaling((stored, decode), scales=(scale,), encode=encode)


def _about_zero_point(grid, sides: list[Array], carrier: Carrier) -> Scaling:
    """The scales of unsigned integers that reach from the lowest to the largest number."""
    word = carrier.word.type
    above, below = (floats(jnp.where(is_tiny(s, carrier), word(0), s), carrier) for s in sides)
    extent = jnp.maximum(absolute(above + below, carrier), jnp.maximum(*sides))
    scale, stored = _scales(grid, floats(extent, carrier), _targets(grid, carrier)[0], carrier)
    bits = lax.bitcast_convert_type(scale, carrier.word)
    divisor = floats(jnp.where(bits == 0, word(carrier.infinity - 1), bits), carrier)
    wanted = divided(floats(sides[1], carrier), divisor, carrier)
    zero = grid.element.round(wanted, mode=NEAREST, policy="saturate")
    return Scaling((*stored, zero), scales=(scale,), zero=zero)


# --- the best of several --------------------------------------------------------------------


def _best(grid, amax: Array, x: Array, layout: Layout, carrier: Carrier) -> Scaling:
    """In each block the scale of least squared error, the first of equals."""
    targets, numbers = _targets(grid, carrier), floats(amax, carrier)

    def candidate(target: Array) -> Scaling:
        scale, stored = _scales(grid, numbers, target, carrier, first=targets[0])
        return Scaling(stored, scales=(scale,))

    def better(best: tuple, target: Array) -> tuple[tuple, None]:
        scaling = candidate(target)
        rounded = grid.rounded(x, scaling, layout, NEAREST, "saturate")
        error = _squared_error(x, rounded, amax, layout, carrier)
        is_less = error < best[0]
        level = [
            jnp.where(is_less, new, old) if new.shape == is_less.shape else old
            for new, old in zip(scaling.stored, best[2], strict=True)
        ]
        scale = jnp.where(is_less, scaling.scales[0], best[1])
        return (jnp.minimum(error, best[0]), scale, tuple(level)), None

    start = candidate(targets[0])
    error = jnp.full(layout.counts, jnp.inf, x.dtype)
    found, _ = lax.scan(better, (error, start.scales[0], start.stored), jnp.stack(targets))
    return Scaling(found[2], scales=(found[1],))


def _squared_error(x: Array, rounded: Array, amax: Array, layout: Layout, carrier: Carrier):
    """The sum of squared errors of each block, in units that its largest magnitude sets."""
    exponent = layout.spread(split_magnitude(amax, carrier)[0])
    fixed = [_fixed_point(absolute(v, carrier), exponent, carrier) for v in (x, rounded)]
    error = jnp.abs(fixed[0] - fixed[1]).astype(carrier.name)
    is_finite = absolute(x, carrier) < carrier.word.type(carrier.infinity)
    error = jnp.where(is_finite, error, jnp.zeros_like(error))
    # a bit that is always zero keeps the compiler from taking products and sums together
    never = layout.spread(amax) & carrier.word.type(carrier.sign)
    squares = lax.bitcast_convert_type(error * error, carrier.word) | never
    return _total(layout.gathered(floats(squares, carrier)))


def _fixed_point(bits: Array, exponent: Array, carrier: Carrier) -> Int[Array, "..."]:
    """Magnitudes in units of ``2**(exponent - FRACTION_BITS)``, cut off, at most 2**24."""
    own, fraction = split_magnitude(bits, carrier)
    significand = fraction | carrier.word.type(1 << carrier.mantissa_bits)
    down = carrier.mantissa_bits - FRACTION_BITS + exponent - own
    shifted = significand >> jnp.maximum(down, 0).astype(carrier.word)
    limit = carrier.word.type(1 << 24)
    cut = jnp.where(down < carrier.mantissa_bits - 23, limit, jnp.minimum(shifted, limit))
    return jnp.where(bits == 0, carrier.word.type(0), cut).astype(jnp.int32)


def _total(x: Array) -> Array:
    """The sum over the last axis: halves are added to each other until one number is left."""
    length = x.shape[-1]
    full = 1 << max(length - 1, 0).bit_length()
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, full - length)])
    while full > 1:
        full //= 2
        x = x[..., :full] + x[..., full:]
    return x[..., 0]
