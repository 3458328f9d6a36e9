"""Sums of products as an accumulator makes them: an ``Accumulator`` lowered to arrays.

How a sum is rounded once, though floats round it before, is decided when a program is traced, from
the extents of formats: by float operations that are exact, or rounded there without harm; by a
float sum and its error, jammed; or by integer arithmetic on words, which always works and is slow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qsim.arithmetic import odd
from qsim.arithmetic.accumulator import Accumulator
from qsim.arithmetic.extents import Extent
from qsim.arithmetic.integer_sums import IntegerSum
from qsim.arithmetic.multipliers import Multiplier
from qsim.arithmetic.rounders import Rounder, jammed
from qsim.numbers.grid import CARRIERS, Carrier
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.random_bits import Key, fold_in, random_words

__all__ = ["LOWEST", "Accumulation", "Steps"]

DIRECT = {"ties_to_even": "nearest", "toward_zero": "zero"}
LOWEST = -(1 << 14)  # below the exponent of every number


@pytree
@dataclass(frozen=True, kw_only=True)
class Accumulation:
    """An ``Accumulator`` whose formats are grids; the arrays are its only leaves.

    Attributes:
        sums, products, outer: the roundings; None where there are none.
        multiplier: what makes products; None for a multiplication.
        bits: at how many bits ``align`` cuts; None for other orders.
        shifts: those of ``normalise``, [2]; None for other orders.
        order, count, group, chunk: as in ``Accumulator``; ``count`` is 0 for ``align``.
        carrier: the name of the carrier.
    """

    sums: Rounder | IntegerSum
    products: Rounder | None = None
    outer: Rounder | None = None
    multiplier: Multiplier | None = None
    bits: Any = None
    shifts: Any = None
    order: str = static(default="sequential")
    count: int = static(default=0)
    group: int = static(default=0)
    chunk: int = static(default=0)
    carrier: str = static(default="float32")

    @classmethod
    def of(cls, acc: Accumulator, carrier: str = "float32") -> "Accumulation":
        """The lowering of an accumulator, for a carrier.

        Raises:
            ValueError: if the carrier cannot hold its formats.
        """
        held = CARRIERS[carrier]
        aligned = acc.order == "align"
        product = acc.product
        return cls(
            sums=IntegerSum.of(acc, held) or Rounder.of(acc.fmt, acc.rounding, acc.overflow, held),
            products=product and Rounder.of(product, acc.rounding, acc.overflow, held),
            outer=acc.outer and Rounder.of(acc.outer, "ties_to_even", "ieee", held),
            multiplier=acc.multiplier and Multiplier.of(acc.multiplier, held),
            bits=np.int32(acc.count) if aligned else None,
            shifts=acc.shifts and np.int32(acc.shifts),
            order=acc.order,
            count=0 if aligned else acc.count,
            group=acc.group,
            chunk=acc.chunk,
            carrier=carrier,
        )

    def among(self, others: "Sequence[Accumulation]") -> "Accumulation":
        """The same with the extents of all; without others without any. All have one structure."""
        joined = {
            name: part.among([getattr(other, name) for other in others])
            for name in ("sums", "products", "outer", "multiplier")
            if (part := getattr(self, name)) is not None
        }
        return replace(self, **joined)

    @property
    def alters_products(self) -> bool:
        """Whether products are other than exact: rounded, or made by no multiplication."""
        return self.products is not None or self.multiplier is not None

    @property
    def is_stochastic(self) -> bool:
        """Whether its roundings draw random bits."""
        return self.sums.mode.is_stochastic


@dataclass(frozen=True)
class Steps:
    """The operations of an accumulation on operands of an extent.

    Attributes:
        how: the accumulation.
        products: the extent of products before they are rounded.
        key: for stochastic rounding; each operation folds in its number.
        least: the exponents of the smallest normal numbers of either operand's format.
        narrow: whether operands are numbers of bfloat16, none subnormal, in float32.
    """

    how: Accumulation
    products: Extent
    key: Key | None = None
    least: tuple[Any, Any] = (LOWEST, LOWEST)
    narrow: bool = False

    @property
    def carrier(self) -> Carrier:
        """The carrier."""
        return CARRIERS[self.how.carrier]

    @property
    def normal(self) -> bool:
        """Whether products are exact in the carrier, and no number is subnormal there."""
        return self.products.is_normal_in(self.carrier)

    @property
    def addends(self) -> Extent:
        """The extent of the products that are added."""
        rounder = self.how.products
        return self.products if rounder is None else rounder.extent

    @property
    def has_products(self) -> bool:
        """Whether products are numbers of the carrier, which can be added."""
        return self.normal or self.how.alters_products

    def product(self, a: Array, b: Array, number: Array | int) -> Array:
        """``a * b``, exact or rounded.

        Raises:
            ValueError: for exact products that are no numbers of the carrier.
        """
        rounder, multiplier = self.how.products, self.how.multiplier
        if not self.has_products:
            rounds = "" if self.how.order == "align" else "round them with product=FORMAT, or "
            raise ValueError(
                f"products of these operands are not exact in {self.carrier.name}, and order "
                f"{self.how.order!r} adds them as they are: {rounds}say of what formats the "
                "operands are, by rules or formats=('e4m3', 'e4m3')"
            )
        if multiplier is not None:
            exact = multiplier(a, b, self.carrier)
        else:
            exact = a * b if self.normal else self._words(odd.product, (a, b), rounder)
        return exact if rounder is None else self.rounded(exact, rounder, 1, number)

    def plus(self, s: Array, x: Array, number: Array | int, extent: Extent | None = None) -> Array:
        """``s + x`` rounded; the extent is that of ``x``, by default that of sums."""
        return self._plus(self.how.sums, s, x, number, extent)

    def outer(self, s: Array, x: Array) -> Array:
        """``s + x`` rounded to the outer accumulator's format, ``x`` being a sum of a chunk."""
        assert self.how.outer is not None
        return self._plus(self.how.outer, s, x, 0, self.how.sums.extent)

    def folded(self, number: Array | int) -> "Steps":
        """The same with random bits of their own."""
        return self if self.key is None else replace(self, key=fold_in(self.key, number))

    def _plus(self, rounder: Rounder, s: Array, x: Array, number, extent: Extent | None) -> Array:
        total = self.total(rounder, s, x, extent or rounder.extent)
        return self.rounded(total, rounder, 0, number)

    def total(self, rounder: Rounder, s: Array, x: Array, extent: Extent) -> Array:
        """``s + x``, near enough to the exact sum to be rounded; ``x`` is of an extent."""
        mine, nearest = rounder.extent, rounder.mode.mode == "ties_to_even"
        # whether a sum beyond the carrier's range may be infinite
        within = max(mine.top, extent.top) < self.carrier.bias or (
            nearest and not rounder.propagates
        )
        harmless = nearest and extent.adds_harmlessly(mine, self.carrier, rounder.ties)
        floats = self.normal and rounder.mode.mode != "down"  # where an exact zero is minus zero
        if floats and (extent.adds_exactly(mine, self.carrier) or (harmless and within)):
            return s + x
        if floats and rounder.has_room:
            return jammed(s, x, self.carrier, huge=None if within else rounder.huge)
        return self._words(odd.total, (s, x), rounder)

    def step(self, s: Array, a: Array, b: Array, number: Array | int) -> Array:
        """``s + a * b`` rounded, the product rounded before if it has a format."""
        return self.rounded(self.before(s, a, b, number), self.how.sums, 0, number)

    def before(self, s: Array, a: Array, b: Array, number: Array | int) -> Array:
        """The same before the sum is rounded, near enough to the exact one for that."""
        if self.has_products:
            return self.total(self.how.sums, s, self.product(a, b, number), self.addends)
        return self._words(odd.fused, (a, b, s), self.how.sums)

    def settled(
        self, word: Array, exponent: Array, negative: Array, special: Array, number: Array | int
    ) -> Array:
        """A sum that integer arithmetic made, rounded.

        Args:
            word: its leading bits, of which the last stands for all that are lower (jammed).
            exponent: of the word's top bit.
            negative: its sign.
            special: an infinity or a NaN, if the sum is one, else 0.
            number: as elsewhere.
        """
        rounder, carrier = self.how.sums, self.carrier
        total = odd.assembled(
            jnp.where(special != 0, special < 0, negative),
            exponent,
            word,
            carrier,
            rounder.huge,
            infinite=jnp.isinf(special),
            invalid=jnp.isnan(special),
            to=self._target(rounder),
        )
        return self.rounded(total, rounder, 0, number)

    def rounded(self, x: Array, rounder: Rounder, *numbers: Array | int) -> Array:
        """``x`` rounded; the numbers tell the random bits apart."""
        random = None
        if rounder.mode.is_stochastic:
            if self.key is None:
                raise ValueError("stochastic rounding needs a random key: key=jax.random.key(0)")
            key = self.key
            for number in numbers:
                key = fold_in(key, number)
            random = random_words(key, x.shape, rounder.mode)
        return rounder(x, random, normal=self.normal)

    def _words(self, operation: Callable, operands: tuple, rounder: Rounder | None) -> Array:
        """An operation rounded to odd by integer arithmetic."""
        assert rounder is not None
        taken = [odd.operand(x) for x in jnp.broadcast_arrays(*operands)]
        down, to = rounder.mode.mode == "down", self._target(rounder)
        return operation(*taken, down=down, huge=rounder.huge, to=to)

    def _target(self, rounder: Rounder) -> str:
        """To what integer arithmetic rounds: to odd, or as the format does that is the carrier."""
        mode, held = rounder.mode.mode, self.carrier
        if rounder.has_room:
            return "odd"
        if rounder.is_carrier and mode in DIRECT:
            return DIRECT[mode]
        fewer = " or fewer random bits, stochastic:8" if rounder.mode.is_stochastic else ""
        raise ValueError(
            f"sums and products of {rounder.extent.precision} bits cannot be rounded once, {mode}, "
            f"in {held.name}, which has {held.mantissa_bits + 1}: take a narrower accumulator"
            + fewer
            + ("" if held.name == "float64" else ", or enable x64 and pass float64")
        )
