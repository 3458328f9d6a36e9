"""The lowering of block formats, and rounding to them: an array is split, scaled and rounded.

Scales that are powers of two only move the grid of the elements by whole binades, which is integer
arithmetic and exact in the carrier's subnormals too. Other scales divide and multiply, with the
arithmetic of ``qsim.scales.arithmetic``.

Sources: the definitions in ``qsim.scales.exact_blocks``, which this equals.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.binades import times_power
from qsim.numbers.formats import Integer
from qsim.numbers.grid import Carrier, Grid, carrier_of, lowered, pattern
from qsim.numbers.modes import Rounding
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.records import exponent_of, power
from qsim.scales.arithmetic import (
    above_zero,
    absolute,
    divided,
    floats,
    least_gap,
    multiplied,
    or_least,
    quotient,
    split_magnitude,
)
from qsim.scales.blocks import Block
from qsim.scales.choice import NEAREST, Scaling, choose, uncentred
from qsim.scales.layout import Layout
from qsim.scales.recipes import Recipe

__all__ = ["BlockGrid"]


@pytree
@dataclass(frozen=True, kw_only=True)
class BlockGrid(Grid):
    """The grids of a block format, and the recipe by which blocks get their scales.

    - ``element`` and ``scale``: the grids of the two formats;
    - ``mantissa_bits`` (int32): the element's bits of precision but one;
    - ``lowest_power``, ``highest_power`` (int32): the exponents between which scales that are
      powers of two stay;
    - ``least``: the bit pattern of the smallest scale above zero for other rules;
    - ``floor``: that of the smallest scale: 0, but ``least`` where the scale format has no zero;
    - ``recipe`` (static): what numbers share a scale, and the rule that chooses it;
    - ``moves`` (static): whether scales move the grid of the elements, instead of the numbers.

    The grid of elements with a zero point is that of integers with one bit more and a sign.
    """

    element: Grid
    scale: Grid
    mantissa_bits: Any
    lowest_power: Any
    highest_power: Any
    least: Any
    floor: Any
    recipe: Recipe = static()
    moves: bool = static()

    @property
    def kind(self) -> str:
        """As ``Grid.kind``."""
        facts = [f for f in fields(Recipe) if getattr(self.recipe, f.name) != f.default]
        said = (f"{f.name}={getattr(self.recipe, f.name)!r}" for f in facts)
        return f"BlockGrid({', '.join(said)}) of {self.element.kind} and {self.scale.kind}"

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

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """How an array of a shape is split into what has a scale.

        Raises:
            ValueError: if it cannot be.
        """
        sizes = self.recipe.sizes(shape)
        if self.recipe.micro:
            micro, length = self.recipe.micro, self.recipe.shape[0]
            sizes = tuple(micro if size == length else size for size in sizes)
        return Layout(shape, sizes)

    # --- rounding --------------------------------------------------------------------------

    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """As ``Grid.round``: every block on the grid of elements times its scale."""
        layout = self.layout(x.shape)
        if not x.size:
            return x
        x, random = layout.split(x), None if random is None else layout.split(random)
        scaling = choose(self, x, layout)
        return layout.join(self.rounded(x, scaling, layout, mode, policy, random))

    def rounded(
        self, x: Array, scaling: Scaling, layout: Layout, mode: Rounding, policy: str, random=None
    ) -> Array:
        """A split array on the grid of elements times scales.

        Where no block is all NaN, nor one on a moved grid near the carrier's subnormals, a short
        way leaves out what these need; its bytes are the same. The branch also keeps the compiler
        from looping over the joined array, where every number would look its block up.
        """
        by = self._on_moved_grid if self.moves else self._times_scales
        if scaling.bad is None:
            return by(x, scaling, layout, mode, policy, random, False)
        return lax.cond(
            self._may_be_short(scaling),
            lambda: by(x, scaling, layout, mode, policy, random, True),
            lambda: by(x, scaling, layout, mode, policy, random, False),
        )

    def _may_be_short(self, scaling: Scaling) -> Bool[Array, ""]:
        """Whether the short way gives the same bytes."""
        if not self.moves:
            return ~jnp.any(scaling.bad)
        least, most = self.element.normal_powers()
        fine = [
            off | ((exponent >= least) & (exponent <= most))
            for exponent, off in zip(scaling.exponents, scaling.idle, strict=True)
        ]
        return jnp.all(reduce(jnp.logical_and, fine, ~scaling.bad))

    def _on_moved_grid(
        self, x, scaling: Scaling, layout: Layout, mode: Rounding, policy: str, random, short: bool
    ) -> Array:
        exponent = self._each(scaling.exponents, x, layout)
        if short:
            # the exponents of blocks of zeros may lie outside, and are of no account
            grid = self.element.times_normal_power(
                jnp.clip(exponent, *self.element.normal_powers())
            )
            return grid.round(x, mode=mode, policy=policy, random=random)
        grid, x = self.element.times_power(exponent), self._marked(x, scaling, layout)
        return grid.round(x, mode=mode, policy=policy, random=random)

    def _times_scales(
        self, x, scaling: Scaling, layout: Layout, mode: Rounding, policy: str, random, short: bool
    ) -> Array:
        carrier, scale = carrier_of(self), self._each(scaling.scales, x, layout)
        x = x if short else self._marked(x, scaling, layout)
        elements = self.elements(x, scaling, layout, mode, policy, random)
        if short and policy == "saturate" and self.recipe.nonfinite == "nan":
            return elements * scale  # none is NaN, and no sum follows within the branch
        product = multiplied(elements, scale, carrier)
        nan = carrier.word.type(carrier.nan)
        bits = lax.bitcast_convert_type(product, carrier.word)
        is_nan = absolute(product, carrier) > carrier.word.type(carrier.infinity)
        return floats(jnp.where(is_nan, nan, bits), carrier)

    def _marked(self, x: Array, scaling: Scaling, layout: Layout) -> Array:
        """A split array, all NaN in blocks that have no scale."""
        if scaling.bad is None:
            return x
        carrier = carrier_of(self)
        nan = jnp.where(scaling.bad, carrier.word.type(carrier.nan), carrier.word.type(0))
        return floats(lax.bitcast_convert_type(x, carrier.word) | layout.spread(nan), carrier)

    def elements(
        self, x: Array, scaling: Scaling, layout: Layout, mode: Rounding, policy: str, random=None
    ) -> Array:
        """A split array over its scales, on the grid of elements."""
        if self.moves:
            carrier, exponent = carrier_of(self), self._each(scaling.exponents, x, layout)
            result = self.rounded(x, scaling, layout, mode, policy, random)
            return _times_power(result, -exponent, carrier)
        scaled = self._scaled(x, scaling, layout, mode)
        rounded = self.element.round(scaled, mode=mode, policy=policy, random=random)
        if scaling.zero is None:
            return rounded
        zero = layout.spread(scaling.zero)
        highest = floats(self.largest, carrier_of(self)) - zero
        lowest = jnp.zeros_like(zero) - zero  # and not minus zero
        return jnp.where(rounded > highest, highest, jnp.where(rounded < lowest, lowest, rounded))

    def _scaled(self, x: Array, scaling: Scaling, layout: Layout, mode: Rounding) -> Array:
        """The numbers of a split array over the scales of their blocks, not rounded yet.

        Tiny quotients may be flushed to zero where rounding takes them there anyway: the least
        scale sees to it that numbers and quotients are tiny below a quarter of any element alone.
        """
        carrier = carrier_of(self)
        if scaling.encode is not None:
            product = multiplied(x, layout.spread(scaling.encode), carrier)
            return or_least(x, product, carrier)
        bits = [lax.bitcast_convert_type(scale, carrier.word) for scale in scaling.scales]
        # over the largest number, by which a scale of zero divides, nothing is left that counts
        huge = carrier.word.type(carrier.infinity - 1)
        divisors = tuple(floats(jnp.where(b == 0, huge, b), carrier) for b in bits)
        divide = quotient if mode.drops_least and self.element.drops_least else divided
        return divide(x, self._each(divisors, x, layout), carrier)

    def _each(self, scales: tuple[Array, ...], x: Array, layout: Layout) -> Array:
        """For each number of a split array that of the scales which is for its sign."""
        above, *below = (layout.spread(scale) for scale in scales)
        if not below:
            return above
        carrier = carrier_of(self)
        negative = lax.bitcast_convert_type(x, carrier.word) >= carrier.word.type(carrier.sign)
        return jnp.where(negative, below[0], above)

    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.inside``: whether a number is within the range of its block's grid.

        By the rule ``absmax`` all finite numbers are, however the scale was rounded.
        """
        return self._of_elements(x, lambda grid, scaled: grid.inside(scaled))

    def trusts(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.trusts``, of the elements over their scales."""
        return self._of_elements(x, lambda grid, scaled: grid.trusts(scaled))

    def _of_elements(self, x: Array, holds: Callable[[Grid, Array], Array]) -> Array:
        """Whether something holds for each number over the scale of its block."""
        if not x.size:
            return jnp.ones(x.shape, bool)
        layout = self.layout(x.shape)
        split = layout.split(x)
        scaling = choose(self, split, layout)
        if self.recipe.rule_name == "absmax":
            found = jnp.isfinite(split)
        elif self.moves:
            grid = self.element.times_power(self._each(scaling.exponents, split, layout))
            found = holds(grid, split)
        else:
            found = holds(self.element, self._scaled(split, scaling, layout, NEAREST))
        return layout.join(found & ~layout.spread(scaling.bad))

    # --- what is stored --------------------------------------------------------------------

    def parts(
        self, x: Array, *, mode: Rounding, policy: str, random=None
    ) -> tuple[Array, tuple[Array, ...]]:
        """The elements of ``x`` over their scales, of whole blocks, and what is stored of scales.

        Blocks that are all NaN have elements of zero, and NaN as their scale.
        """
        layout = self.layout(x.shape)
        x, random = layout.split(x), None if random is None else layout.split(random)
        scaling = choose(self, x, layout)
        elements = self.elements(x, scaling, layout, mode, policy, random)
        if scaling.zero is not None:
            elements = elements + layout.spread(scaling.zero)
        elements = jnp.where(layout.spread(scaling.bad), jnp.zeros_like(elements), elements)
        bad = scaling.bad_blocks
        first = jnp.where(bad, jnp.full_like(scaling.stored[0], jnp.nan), scaling.stored[0])
        return elements.reshape(layout.filled), (first, *scaling.stored[1:])

    def joined(self, elements: Array, stored: tuple[Array, ...]) -> Array:
        """The values of elements and of what is stored of their scales: undoes ``parts``."""
        carrier, layout = carrier_of(self), self.layout(elements.shape)
        split = layout.split(elements)
        *scales, rest = self._sides_of(stored)
        if self.recipe.zero_point:
            split = split - layout.spread(rest[0])
        if not self.moves:
            return layout.join(multiplied(split, self._each(tuple(scales), split, layout), carrier))
        bits = [absolute(scale, carrier) for scale in scales]
        if self.recipe.micro:
            blocks = self.groups(layout)
            halved = blocks.split(rest[0]).astype(jnp.int32)
            groups = split_magnitude(blocks.spread(bits[0]), carrier)[0] - halved
            exponents = [blocks.join(groups)]
            bits = [blocks.join(jnp.broadcast_to(blocks.spread(bits[0]), halved.shape))]
        else:
            exponents = [split_magnitude(side, carrier)[0] for side in bits]
        exponent = self._each(tuple(exponents), split, layout)
        values = _times_power(split, exponent, carrier)
        bad = self._each(tuple(bits), split, layout) > carrier.word.type(carrier.infinity)
        return layout.join(jnp.where(bad, jnp.full_like(values, jnp.nan), values))

    def _sides_of(self, stored: tuple) -> tuple:
        """The scales of one or two sides that are stored as these values, and what is left."""
        above, rest = self.scales_of(stored)
        if not self.recipe.two_sided:
            return above, rest
        below, rest = self.scales_of(rest)
        return above, below, rest

    def groups(self, layout: Layout) -> Layout:
        """How the array of halved scales is split into those of a block each."""
        sizes = self.recipe.sizes(layout.filled)
        per_block = zip(sizes, layout.sizes, strict=True)
        return Layout(layout.counts, tuple(block // group for block, group in per_block))

    def scales_of(self, stored: tuple) -> tuple[Array, tuple]:
        """The scales that are stored as these values, and the values that are left."""
        carrier = carrier_of(self)
        if isinstance(self.scale, BlockGrid):
            scales, rest = self.scale.values_of(stored)
            scales = above_zero(scales, jnp.asarray(self.least))
        else:
            scales, rest = stored[0], stored[1:]
        if self.recipe.stores == "amax":
            ratio = divided(scales, floats(self.largest, carrier), carrier)
            scales = above_zero(ratio, jnp.asarray(self.least))
        return scales, rest

    def values_of(self, stored: tuple) -> tuple[Array, tuple]:
        """The scales of another grid that are stored as elements and scales of this one."""
        carrier, layout = carrier_of(self), self.layout(stored[0].shape)
        own, rest = self.scales_of(stored[1:])
        values = multiplied(layout.split(stored[0]), layout.spread(own), carrier)
        if self.recipe.centred:
            values, rest = uncentred(values, rest[0], carrier), rest[1:]
        return layout.join(values), rest


def _times_power(x: Array, exponent: Array, carrier: Carrier) -> Array:
    """``x`` times a power of two, exactly."""
    sign = lax.bitcast_convert_type(x, carrier.word) & carrier.word.type(carrier.sign)
    return floats(times_power(absolute(x, carrier), exponent, carrier) | sign, carrier)


# --- lowering -------------------------------------------------------------------------------


@lowered.register
def _(fmt: Block, carrier: Carrier) -> BlockGrid:
    if fmt.recipe.centred:
        raise ValueError(f"{fmt} takes the mean off, which is for formats of scales alone")
    return _lowered(fmt, carrier, 0)


def _lowered(fmt: Block, carrier: Carrier, outer: int) -> BlockGrid:
    """The grid of a block format whose values are scales of elements with the quantum ``outer``."""
    element, quantum = fmt.element, fmt.element.quantum + outer
    if fmt.recipe.zero_point:
        element = Integer(bits=element.bits + 1)
    nested = isinstance(fmt.scale, Block)
    least = power(1 - carrier.bias) if fmt.moves else least_scale(quantum, carrier)
    integers = {"mantissa_bits": fmt.element.precision - 1, **_powers(fmt, outer, carrier)}
    return BlockGrid(
        element=lowered(element, carrier),
        scale=_lowered(fmt.scale, carrier, quantum) if nested else lowered(fmt.scale, carrier),
        least=np.asarray(pattern(least, carrier), carrier.word),
        floor=np.asarray(0 if fmt.scale.has_zero else pattern(least, carrier), carrier.word),
        recipe=fmt.recipe,
        moves=fmt.moves,
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
        halved = 1 if fmt.recipe.micro else 0
        least = carrier.quantum - fmt.element.quantum + halved
    else:
        least = exponent_of(least_scale(fmt.element.quantum + outer, carrier))
    lowest = max(least, exponent_of(fmt.scale.smallest))
    highest = min(exponent_of(fmt.scale.largest), carrier.bias)
    return {"lowest_power": lowest, "highest_power": max(lowest, highest)}
