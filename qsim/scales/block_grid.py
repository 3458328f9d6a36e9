"""The lowering of block formats: arrays split into blocks, their scales, rounding to both.

Scales that are powers of two only move the grid of the elements by whole binades, which is integer
arithmetic and exact in the carrier's subnormals too. Other scales divide and multiply, with the
arithmetic of ``qsim.scales.arithmetic``.

Sources: the definitions in ``qsim.scales.exact_blocks``, which this equals.
"""

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.binades import times_power
from qsim.numbers.grid import Carrier, Grid, carrier_of, lowered, pattern
from qsim.numbers.modes import Rounding
from qsim.numbers.records import exponent_of, power
from qsim.scales.arithmetic import (
    absolute,
    divided,
    least_gap,
    moved,
    multiplied,
    number,
    or_least,
    quotient,
    split_magnitude,
)
from qsim.scales.blocks import Block, Recipe
from qsim.scales.exact_blocks import carried

__all__ = ["BlockGrid", "Layout", "Scaling"]


class Layout(NamedTuple):
    """How an array of one shape is split into blocks.

    Attributes:
        shape: of the array.
        sizes: the lengths of a block along its axes.
    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many blocks there are along each axis: the shape of the array of scales."""
        return tuple(-(-n // max(size, 1)) for n, size in zip(self.shape, self.sizes, strict=True))

    @property
    def filled(self) -> tuple[int, ...]:
        """The shape once the last blocks are filled up."""
        return tuple(n * size for n, size in zip(self.counts, self.sizes, strict=True))

    @property
    def _parts(self) -> list[tuple[tuple[int, bool], ...]]:
        """For each axis the axes that it becomes: their lengths, and whether they are a block's."""
        parts = []
        for count, size in zip(self.counts, self.sizes, strict=True):
            if size == 1:
                parts.append(((count, False),))
            elif count == 1:
                parts.append(((size, True),))
            else:
                parts.append(((count, False), (size, True)))
        return parts

    @property
    def inner(self) -> tuple[int, ...]:
        """The axes of a split array that run within blocks."""
        flat = [within for part in self._parts for _, within in part]
        return tuple(place for place, within in enumerate(flat) if within)

    def split(self, x: Array) -> Array:
        """``x`` with the last blocks filled up with zeros, every axis split in two."""
        if self.filled != self.shape:
            x = jnp.pad(x, [(0, m - n) for n, m in zip(self.shape, self.filled, strict=True)])
        return x.reshape([length for part in self._parts for length, _ in part])

    def spread(self, scales: Array) -> Array:
        """An array of scales, of shape ``counts``, such that it broadcasts against a split one."""
        return scales.reshape([1 if within else n for part in self._parts for n, within in part])

    def join(self, x: Array) -> Array:
        """The inverse of ``split``."""
        x = x.reshape(self.filled)
        return x if self.filled == self.shape else x[tuple(slice(n) for n in self.shape)]


class Scaling(NamedTuple):
    """What the blocks of an array are scaled by; arrays of the shape of the blocks.

    Attributes:
        bad: whether a block is all NaN.
        exponent: of scales that are powers of two and only move grids; None for others.
        scale: the scales as numbers, with which elements are multiplied; None for the former.
        encode: what numbers are multiplied with before rounding; None where they are divided.
        stored: the values that are stored, in the scale format and those of its own scales.
    """

    bad: Bool[Array, "..."]
    exponent: Int[Array, "..."] | None = None
    scale: FloatArray[Array, "..."] | None = None
    encode: FloatArray[Array, "..."] | None = None
    stored: tuple[FloatArray[Array, "..."], ...] = ()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class BlockGrid(Grid):
    """The grids of a block format, and the recipe by which blocks get their scales.

    - ``element`` and ``scale``: the grids of the two formats;
    - ``mantissa_bits`` (int32): the element's bits of precision but one;
    - ``lowest_power``, ``highest_power`` (int32): the exponents between which scales that are
      powers of two stay;
    - ``least``: the bit pattern of the smallest scale above zero for other rules;
    - ``recipe`` (static): what numbers share a scale, and the rule that chooses it;
    - ``moves`` (static): whether scales move the grid of the elements, instead of the numbers.
    """

    element: Grid
    scale: Grid
    mantissa_bits: Any
    lowest_power: Any
    highest_power: Any
    least: Any
    recipe: Recipe = field(metadata={"static": True})
    moves: bool = field(metadata={"static": True})

    @property
    def wraps(self) -> bool:
        """Whether the elements wrap."""
        return self.element.wraps

    @property
    def largest(self) -> Any:
        """The largest element, before it is scaled."""
        return self.element.largest

    @property
    def quantum(self) -> Any:
        """That of the elements, before they are scaled."""
        return self.element.quantum

    def along(self, axes: tuple[int, ...]) -> "BlockGrid":
        """This grid with its blocks along other axes, unless its format names axes itself."""
        recipe = self.recipe
        if recipe.per == "tensor" or recipe.axes is not None:
            return self
        if recipe.per == "block":
            axes = axes[-len(recipe.shape) :]
        if recipe.per == "block" and len(axes) < len(recipe.shape):
            return self
        per = "token" if recipe.per == "channel" else recipe.per
        return replace(self, recipe=replace(recipe, per=per, axes=axes))

    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """As ``Grid.round``: every block on the grid of elements times its scale."""
        if not x.size:
            return x
        carrier, layout = carrier_of(self), self.layout(x.shape)
        x, random = layout.split(x), None if random is None else layout.split(random)
        scaling = self.scaling(x, layout)
        bad = layout.spread(scaling.bad)
        if self.moves:
            grid = self.element.times_power(layout.spread(scaling.exponent))
            result = grid.round(x, mode=mode, policy=policy, random=random)
        else:
            scaled = self.unscaled(x, scaling, layout)
            rounded = self.element.round(scaled, mode=mode, policy=policy, random=random)
            result = multiplied(rounded, layout.spread(scaling.scale), carrier)
            bad = bad | jnp.isnan(rounded)
        nan = lax.bitcast_convert_type(carrier.word.type(carrier.nan), x.dtype)
        return layout.join(jnp.where(bad, nan, result))

    def parts(self, x, *, mode: Rounding, policy: str, random=None) -> tuple[Array, tuple]:
        """The elements of ``x`` over their scales, of whole blocks, and what is stored of scales.

        Blocks that are all NaN have elements of zero, and NaN as their scale.
        """
        carrier, layout = carrier_of(self), self.layout(x.shape)
        x, random = layout.split(x), None if random is None else layout.split(random)
        scaling = self.scaling(x, layout)
        if self.moves:
            grid = self.element.times_power(layout.spread(scaling.exponent))
            result = grid.round(x, mode=mode, policy=policy, random=random)
            elements = moved(result, layout.spread(-scaling.exponent), carrier)
            one = lax.bitcast_convert_type(jnp.ones((), x.dtype), carrier.word)
            scale = times_power(one, scaling.exponent, carrier)
            stored = (lax.bitcast_convert_type(scale, x.dtype),)
        else:
            scaled = self.unscaled(x, scaling, layout)
            elements = self.element.round(scaled, mode=mode, policy=policy, random=random)
            stored = scaling.stored
        elements = jnp.where(layout.spread(scaling.bad), jnp.zeros_like(elements), elements)
        first = jnp.where(scaling.bad, jnp.full_like(stored[0], jnp.nan), stored[0])
        return elements.reshape(layout.filled), (first, *stored[1:])

    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.inside``: whether a number is within the range of its block's grid."""
        if not x.size:
            return jnp.ones(x.shape, bool)
        layout = self.layout(x.shape)
        split = layout.split(x)
        scaling = self.scaling(split, layout)
        if self.moves:
            grid = self.element.times_power(layout.spread(scaling.exponent))
            inside = grid.inside(split)
        else:
            inside = self.element.inside(self.unscaled(split, scaling, layout))
        if self.recipe.rule_name == "absmax":  # what is beyond is so by the rounding of the scale
            inside = jnp.isfinite(split)
        return layout.join(inside & ~layout.spread(scaling.bad))

    # --- the scales ------------------------------------------------------------------------

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """How an array of a shape is split into blocks.

        Raises:
            ValueError: if it cannot be.
        """
        return Layout(shape, self.recipe.sizes(shape))

    def scaling(self, x: FloatArray[Array, "..."], layout: Layout) -> Scaling:
        """The scales of the blocks of an array that is split already."""
        carrier = carrier_of(self)
        magnitude = absolute(lax.stop_gradient(x), carrier)
        infinity, zero = carrier.word.type(carrier.infinity), carrier.word.type(0)
        if self.recipe.nonfinite == "ignore":
            magnitude = jnp.where(magnitude < infinity, magnitude, zero)
        amax = jnp.max(magnitude, axis=layout.inner).reshape(layout.counts)
        bad = amax >= infinity
        if self.recipe.is_power:
            exponent = self._exponent(amax, carrier)
            if self.moves:
                return Scaling(bad, exponent=exponent)
            scale = number(exponent, jnp.zeros_like(amax), carrier)
            return Scaling(bad, scale=scale, stored=(scale,))
        maxima = lax.bitcast_convert_type(jnp.where(bad, zero, amax), x.dtype)
        if self.recipe.order == "te":
            return self._te(maxima, bad, carrier)
        if self.recipe.rule_name == "fixed":
            maxima = jnp.full_like(maxima, float(carried(self.recipe.parameter, carrier)))
            scale, stored = self._scales(maxima, jnp.ones((), x.dtype), carrier)
        else:
            scale, stored = self._scales(maxima, self._largest(carrier), carrier)
        return Scaling(bad, scale=scale, stored=stored)

    def _largest(self, carrier: Carrier) -> FloatArray[Array, ""]:
        """The largest element as a number."""
        return lax.bitcast_convert_type(jnp.asarray(self.largest), jnp.dtype(carrier.name))

    def _exponent(self, amax: UInt[Array, "..."], carrier: Carrier) -> Int[Array, "..."]:
        """The exponents of scales that are powers of two."""
        exponent, fraction = split_magnitude(amax, carrier)
        of_largest, fraction_of_largest = split_magnitude(jnp.asarray(self.largest), carrier)
        match self.recipe.rule:
            case "floor":
                up = jnp.zeros_like(exponent)
            case "ceil":
                up = (fraction > 0).astype(jnp.int32)
            case "rceil":
                up = (fraction > fraction_of_largest).astype(jnp.int32)
            case "even":
                one = carrier.word.type(1 << carrier.mantissa_bits)
                half = (one >> 1) >> jnp.asarray(self.mantissa_bits).astype(carrier.word)
                up = (fraction >= one - half).astype(jnp.int32)
        wanted = exponent - of_largest + up
        return jnp.clip(wanted, self.lowest_power, self.highest_power)

    def _scales(self, amax: Array, divisor: Array, carrier: Carrier) -> tuple[Array, tuple]:
        """The scales ``amax / divisor`` on the scale grid, and what is stored of them."""
        wanted, mode = divided(amax, divisor, carrier), Rounding.parse(self.recipe.scale_rounding)
        if isinstance(self.scale, BlockGrid):
            return self.scale.as_scales(wanted, amax, divisor, mode)
        bits = lax.bitcast_convert_type(wanted, carrier.word)
        bits = jnp.where(bits > 0, jnp.maximum(bits, self.least), bits)
        wanted = lax.bitcast_convert_type(bits, wanted.dtype)
        scale = self.scale.round(wanted, mode=mode, policy="saturate")
        return scale, (scale,)

    def as_scales(
        self, wanted: Array, amax: Array, divisor: Array, mode: Rounding
    ) -> tuple[Array, tuple]:
        """``wanted`` scales, which are ``amax / divisor``, on this grid, as that of scales.

        With the rule ``absmax`` the scales of this grid are the largest of ``amax`` over the
        product of the divisor and this grid's largest value, in one division.
        """
        if self.recipe.rule != "absmax":
            elements, stored = self.parts(wanted, mode=mode, policy="saturate")
            return self.round(wanted, mode=mode, policy="saturate"), (elements, *stored)
        carrier, layout = carrier_of(self), self.layout(wanted.shape)
        split = layout.split(wanted)
        tops = jnp.max(absolute(layout.split(amax), carrier), axis=layout.inner)
        tops = lax.bitcast_convert_type(tops.reshape(layout.counts), wanted.dtype)
        both = multiplied(divisor, self._largest(carrier), carrier)
        scale, stored = self._scales(tops, both, carrier)
        scaling = Scaling(jnp.zeros_like(tops, bool), scale=scale)
        scaled = self.unscaled(split, scaling, layout)
        rounded = self.element.round(scaled, mode=mode, policy="saturate")
        factor = multiplied(rounded, layout.spread(scale), carrier)
        return layout.join(factor), (layout.join(rounded), *stored)

    def _te(self, amax: Array, bad: Array, carrier: Carrier) -> Scaling:
        """The scales of Transformer Engine, which encodes by products."""
        tensor, largest = self.scale, self._largest(carrier)
        both = multiplied(largest, tensor._largest(carrier), carrier)
        least = lax.bitcast_convert_type(jnp.asarray(tensor.least), amax.dtype)
        words = (absolute(amax, carrier).max(), absolute(both * least, carrier))
        top = lax.bitcast_convert_type(jnp.maximum(*words), amax.dtype)
        one = jnp.ones((), amax.dtype)
        encode = jnp.where(words[0] > 0, quotient(both, top, carrier), one)
        decode = quotient(one, encode, carrier)
        wanted = multiplied(divided(amax, largest, carrier), encode, carrier)
        mode = Rounding.parse(self.recipe.scale_rounding)
        stored = tensor.element.round(wanted, mode=mode, policy="saturate")
        scale = multiplied(stored, decode, carrier)
        encode = jnp.where(stored > 0, quotient(encode, stored, carrier), jnp.zeros_like(stored))
        decode = decode.reshape((1,) * amax.ndim)
        return Scaling(bad, scale=scale, encode=encode, stored=(stored, decode))

    def unscaled(
        self, x: FloatArray[Array, "..."], scaling: Scaling, layout: Layout
    ) -> FloatArray[Array, "..."]:
        """The numbers of a split array over the scales of their blocks, not rounded yet."""
        carrier = carrier_of(self)
        if scaling.encode is not None:
            product = multiplied(x, layout.spread(scaling.encode), carrier)
            return or_least(x, product, carrier)
        bits = lax.bitcast_convert_type(scaling.scale, carrier.word)
        # over the largest number, by which a scale of zero divides, nothing is left that counts
        bits = jnp.where(bits == 0, carrier.word.type(carrier.infinity - 1), bits)
        divisor = lax.bitcast_convert_type(bits, x.dtype)
        return divided(x, layout.spread(divisor), carrier)


# --- lowering -------------------------------------------------------------------------------


@lowered.register
def _(fmt: Block, carrier: Carrier) -> BlockGrid:
    return _lowered(fmt, carrier, 0)


def _lowered(fmt: Block, carrier: Carrier, outer: int) -> BlockGrid:
    """The grid of a block format whose values are scales of elements with the quantum ``outer``."""
    element, quantum = lowered(fmt.element, carrier), fmt.element.quantum + outer
    if isinstance(fmt.scale, Block):
        scale = _lowered(fmt.scale, carrier, quantum)
    else:
        scale = lowered(fmt.scale, carrier)
    least = power(1 - carrier.bias) if fmt.moves else least_scale(quantum, carrier)
    words = {"least": pattern(least, carrier)}
    integers = {"mantissa_bits": fmt.element.precision - 1, **_powers(fmt, outer, carrier)}
    return BlockGrid(
        element=element,
        scale=scale,
        recipe=fmt.recipe,
        moves=fmt.moves,
        **{name: np.asarray(word, carrier.word) for name, word in words.items()},
        **{name: np.asarray(value, np.int32) for name, value in integers.items()},
    )


def least_scale(quantum: int, carrier: Carrier) -> Fraction:
    """The smallest scale of elements with a quantum, where scales divide.

    Raises:
        ValueError: if it would be above 1, so that the carrier has no room for scaling.
    """
    if quantum < least_gap(carrier):
        raise ValueError(
            f"elements that are multiples of 2^{quantum} leave no room for scales in "
            f"{carrier.name}: choose elements with a smaller range, or a wider carrier"
        )
    return power(max(least_gap(carrier) - quantum, 1 - carrier.bias))


def _powers(fmt: Block, outer: int, carrier: Carrier) -> dict[str, int]:
    """The least and the largest exponent of a scale that is a power of two."""
    if fmt.moves and not outer:
        least = carrier.quantum - fmt.element.quantum
    else:
        least = exponent_of(least_scale(fmt.element.quantum + outer, carrier))
    lowest = max(least, exponent_of(fmt.scale.smallest))
    highest = min(exponent_of(fmt.scale.largest), carrier.bias)
    return {"lowest_power": lowest, "highest_power": max(lowest, highest)}
