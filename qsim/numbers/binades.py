"""Grids whose gaps are the same within a binade: those of floats, integers and fixed point.

Sources: the definitions in ``qsim.numbers.exact``, which rounding to them equals.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.formats import Float, Format, Integer, power
from qsim.numbers.gaps import gap_shift, round_to_gaps
from qsim.numbers.grid import Carrier, Grid, carrier_of, lowered, pattern, require_carried, word
from qsim.numbers.modes import Rounding
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.records import exponent_of
from qsim.numbers.significands import normalised
from qsim.numbers.tables import table_of

__all__ = ["BinadeGrid", "FirstGap", "edges", "power_pattern", "times_power"]


@pytree
@dataclass(frozen=True, kw_only=True)
class FirstGap:
    """The smallest magnitudes that do not round to zero, one for each way of rounding there.

    Bit patterns of the carrier; all of them are 0 in a format without zero.

    - ``inward``: for modes that keep the lower neighbour;
    - ``outward``: for modes that leave it, if the number is not the neighbour itself;
    - ``tie_outward`` and ``tie_inward``: to nearest, where a tie leaves zero and where it does not;
    - ``tie_even`` and ``tie_odd``: to nearest, where a tie goes to the code of that parity;
    - ``to_odd``: to the neighbour whose code is odd.
    """

    inward: Any
    outward: Any
    tie_outward: Any
    tie_inward: Any
    tie_even: Any
    tie_odd: Any
    to_odd: Any


@pytree
@dataclass(frozen=True, kw_only=True)
class BinadeGrid(Grid):
    """A grid whose gaps are the same within a binade: that of floats, integers and fixed point.

    Bit patterns are those of magnitudes in the carrier (uint32 words for float32, uint64 for
    float64). The values are ``±k * 2**max(E - mantissa_bits, quantum)`` in the binade of exponent
    E, for integers k, up to the edges.

    - ``quantum`` (int32): the exponent of the smallest gap, at least the carrier's;
    - ``dropped`` (int32): mantissa bits that the carrier has and the format has not;
    - ``first``: the grid point next to zero, below which magnitudes are compared and not added to;
    - ``first_exponent`` (int32): the exponent of the gap between zero and ``first``;
    - ``zero``: which magnitudes round to zero, a ``FirstGap``;
    - ``first_is_power``, which is static: whether ``first`` is a power of two, as it is but in
      formats that begin in the middle of a binade, whose grids are a kind of their own;
    - ``smallest`` is 0, but the smallest value where the format has no zero;
    - ``largest``, ``lowest``: the magnitudes of the largest value and of the lowest, which is 0
      for unsigned formats;
    - ``overflow`` and ``underflow`` are what lies above ``largest`` and below ``-lowest``:
      the carrier's infinity or NaN, or the finite edge itself where the format has neither;
    - ``modulus`` is how many codes there are, for the policy "wrap"; 0 in formats that do not wrap,
      where it gives NaN;
    - ``sign`` is the carrier's sign bit, 0 for unsigned formats, and ``negative_zero`` is the
      carrier's sign bit where minus zero is a value, else 0;
    - ``absolute`` is all bits but the carrier's sign bit. It is the same in every grid, and is kept
      here so that a compiled loop over grids does not compute magnitudes ahead and store them;
    - ``parity``: ``(pattern ^ parity) & gap`` is zero where the lower neighbour's code is even;
    - ``deep`` (static): whether binades of full precision may be subnormal in the carrier, as those
      of a grid times a power of two. No format's own are.

    The annotation of the leaves is ``Any``, since transformations put other things in their place.
    """

    quantum: Any
    dropped: Any
    first: Any
    first_exponent: Any
    zero: FirstGap
    smallest: Any
    largest: Any
    lowest: Any
    overflow: Any
    underflow: Any
    modulus: Any
    sign: Any
    absolute: Any
    negative_zero: Any
    parity: Any
    first_is_power: bool = static(default=True)
    deep: bool = static(default=False)
    wraps: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """As ``Grid.kind``."""
        begins = "" if self.first_is_power else " that begins within a binade"
        return type(self).__name__ + begins

    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """As ``Grid.round``; the leaves may also broadcast against ``x``."""
        return round_to_gaps(x, self, gap_shift, mode=mode, policy=policy, random=random)

    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.inside``."""
        carrier = carrier_of(self)
        bits = lax.bitcast_convert_type(x, carrier.word)
        magnitude = bits & word(carrier.sign - 1, carrier)
        negative = bits > word(carrier.sign, carrier)
        return magnitude <= jnp.where(negative, self.lowest, self.largest)

    def times_power(self, exponent: Int[Array, "..."]) -> "BinadeGrid":
        """This grid, that of a format with a zero and gradual subnormals, times ``2**exponent``.

        Args:
            exponent: int32 of any shape, which the leaves get. No value becomes finer than the
                carrier's: ``quantum + exponent`` is not below the carrier's quantum.

        Edges beyond the carrier's largest value become its infinity.
        """
        carrier, grid = carrier_of(self), jax.tree.map(jnp.asarray, self)
        first = power_pattern(grid.quantum + exponent, carrier)
        moved = lambda edge: times_power(edge, exponent, carrier)  # noqa: E731
        zero = _gradual(first, carrier)
        return replace(grid._moved(exponent, moved), first=first, zero=zero, deep=True)

    def times_normal_power(self, exponent: Int[Array, "..."]) -> "BinadeGrid":
        """As ``times_power`` in few instructions, for exponents within ``normal_powers``."""
        carrier, grid = carrier_of(self), jax.tree.map(jnp.asarray, self)
        infinity, binades = word(carrier.infinity, carrier), _binades(exponent, carrier)
        nothing = jnp.zeros_like(binades)

        def moved(point: Array) -> Array:
            # the smallest number of the carrier stands in a ``FirstGap`` for all above zero
            stays = (point <= word(1, carrier)) | (point >= infinity)
            return point + jnp.where(stays, nothing, binades)

        zero = jax.tree.map(moved, grid.zero)
        return replace(grid._moved(exponent, moved), first=grid.first + binades, zero=zero)

    def normal_powers(self) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Between which exponents all points of this grid times a power of two are normal."""
        carrier, grid = carrier_of(self), jax.tree.map(jnp.asarray, self)
        widest = jnp.maximum(grid.largest, grid.lowest) >> carrier.mantissa_bits
        most = 2 * carrier.bias - lax.convert_element_type(widest, jnp.int32)
        least = 2 - carrier.bias - grid.quantum  # from which half of the first gap is normal
        return jnp.where(least > 0, most + 1, least), most

    def _moved(self, exponent: Array, edge: Callable[[Array], Array]) -> "BinadeGrid":
        """This grid but for ``zero`` and ``first``, times a power of two, by what moves an edge."""
        names = ("smallest", "largest", "lowest", "overflow", "underflow")
        binade = word(1 << carrier_of(self).mantissa_bits, carrier_of(self))
        return replace(
            self,
            quantum=self.quantum + exponent,
            first_exponent=self.quantum + exponent,
            parity=self.parity ^ (_binades(exponent, carrier_of(self)) & binade),
            **{name: edge(getattr(self, name)) for name in names},
        )


@lowered.register
def _(fmt: Integer, carrier: Carrier) -> BinadeGrid:
    # the grid of an integer format is all subnormal: its gaps never widen within the range
    return _binade_grid(fmt, carrier.mantissa_bits, carrier)


@lowered.register
def _(fmt: Float, carrier: Carrier) -> Grid:
    if not fmt.is_regular:
        return table_of(fmt, carrier)
    return _binade_grid(fmt, fmt.mantissa_bits, carrier)


def _binade_grid(fmt: Float | Integer, mantissa_bits: int, carrier: Carrier) -> BinadeGrid:
    require_carried(fmt, carrier)
    first = fmt.smallest if _begins_at_smallest(fmt) else power(fmt.quantum)
    integers = {
        "quantum": fmt.quantum,
        "dropped": carrier.mantissa_bits - mantissa_bits,
        "first_exponent": exponent_of(first),
    }
    words = {
        "first": pattern(first, carrier),
        **edges(fmt, carrier),
        "modulus": 2**fmt.bits if fmt.wraps else 0,
        "sign": carrier.sign if fmt.signed else 0,
        "absolute": carrier.sign - 1,
        "negative_zero": carrier.sign if fmt.has_negative_zero else 0,
        "parity": _parity(fmt, carrier),
    }
    arrays = {name: np.asarray(word, carrier.word) for name, word in words.items()}
    zero = {name: np.asarray(word, carrier.word) for name, word in _zero(fmt, carrier).items()}
    return BinadeGrid(
        **arrays,
        **{name: np.asarray(value, np.int32) for name, value in integers.items()},
        zero=FirstGap(**zero),
        first_is_power=first == power(exponent_of(first)),
    )


def _begins_at_smallest(fmt: Format) -> bool:
    """Whether the grid point next to zero is above the smallest gap."""
    no_zero = not fmt.has_zero
    skipping = ("absent", "flush_before", "normalised")
    return no_zero or getattr(fmt, "subnormals", "gradual") in skipping


def _zero(fmt: Float | Integer, carrier: Carrier) -> dict[str, int]:
    """The fields of ``FirstGap``."""
    smallest, subnormals = pattern(fmt.smallest, carrier), getattr(fmt, "subnormals", "gradual")
    if not fmt.has_zero:
        return dict.fromkeys(FirstGap.__dataclass_fields__, 0)
    if subnormals == "flush_before":
        return dict.fromkeys(FirstGap.__dataclass_fields__, smallest)
    if subnormals in ("flush_after", "read_as_zero"):
        # what leaves zero lies in the gap below the smallest normal value, of an odd code
        gap = smallest - pattern(fmt.smallest_normal - power(fmt.quantum), carrier)
        away, stays = smallest - gap // 2, smallest - (gap - 1) // 2
        return {
            "inward": smallest,
            "outward": smallest - gap + 1,
            "tie_outward": away,
            "tie_inward": stays,
            "tie_even": away,
            "tie_odd": stays,
            "to_odd": smallest,
        }
    binade = 1 << carrier.mantissa_bits
    is_odd = smallest < 2 * binade and smallest % 2
    half = smallest >> 1 if smallest < 2 * binade else smallest - binade
    return {
        "inward": smallest,
        "outward": 1,
        "tie_outward": half + is_odd,
        "tie_inward": half + 1,
        "tie_even": half + 1,
        "tie_odd": half + is_odd,
        "to_odd": 1,
    }


def edges(fmt: Format, carrier: Carrier) -> dict[str, int]:
    """The outermost values, and what lies beyond them."""
    largest = pattern(fmt.largest, carrier)
    lowest = pattern(max(-fmt.lowest, Fraction(0)), carrier)
    smallest = 0 if fmt.has_zero else pattern(fmt.smallest, carrier)
    nan = carrier.nan if fmt.has_nan else None
    beyond = carrier.infinity if fmt.infinities else nan
    below = beyond if fmt.signed else nan
    return {
        "smallest": smallest,
        "largest": largest,
        "lowest": lowest,
        "overflow": largest if beyond is None else beyond,
        "underflow": max(lowest, smallest) if below is None else below,
    }


def _parity(fmt: Float | Integer, carrier: Carrier) -> int:
    """What turns the bit of a pattern that is worth one gap into the parity of the code.

    Above the lowest binade that bit is the last one of the stored fraction, which is the code's.
    In the binade of the smallest value the implicit bit is worth a gap, and is always set, while
    the bit in its place belongs to the exponent field. With one bit of precision that is so in
    all binades, the parity being that of the code's exponent field; in the carrier's highest
    subnormal binade, whose field is 0, the bit worth a gap is the one below.
    """
    implicit = 1 << carrier.mantissa_bits
    if isinstance(fmt, Float) and fmt.mantissa_bits == 0:
        return implicit >> 1 if fmt.bias % 2 == carrier.bias % 2 else implicit
    return 0 if (fmt.quantum + carrier.bias) % 2 else implicit


def _binades(exponent: Array, carrier: Carrier) -> Array:
    """What a power of two adds to the pattern of a normal magnitude that stays normal."""
    return lax.convert_element_type(exponent, carrier.word) << carrier.mantissa_bits


def power_pattern(exponent: Array, carrier: Carrier) -> Array:
    """The bit pattern of a power of two that the carrier holds."""
    stored = carrier.mantissa_bits
    normal = lax.convert_element_type(exponent + carrier.bias, carrier.word) << stored
    place = lax.convert_element_type(exponent - carrier.quantum, carrier.word)
    return jnp.where(exponent + carrier.bias > 0, normal, word(1, carrier) << place)


def _gradual(first: Array, carrier: Carrier) -> FirstGap:
    """The first gap of a format with gradual subnormals whose smallest value is ``first``."""
    one, binade = jnp.ones_like(first), word(1 << carrier.mantissa_bits, carrier)
    half = jnp.where(first < 2 * binade, first >> 1, first - binade)
    at_half, above_half = jnp.maximum(half, one), half + one
    return FirstGap(
        inward=first,
        outward=one,
        tie_outward=at_half,
        tie_inward=above_half,
        tie_even=above_half,
        tie_odd=at_half,
        to_odd=one,
    )


def times_power(magnitude: Array, exponent: Array, carrier: Carrier) -> Array:
    """The pattern of a magnitude times a power of two; zero and special values stay.

    The product is a value of the carrier, or beyond it, where it becomes infinity.
    """
    own, significand = normalised(magnitude, carrier)
    field = own + (exponent + carrier.bias)
    fraction = significand & word((1 << carrier.mantissa_bits) - 1, carrier)
    normal = _binades(jnp.minimum(field, 2 * carrier.bias + 1), carrier) | fraction
    infinity = word(carrier.infinity, carrier)
    below = lax.convert_element_type(jnp.maximum(1 - field, 0), carrier.word)
    product = jnp.where(field > 0, jnp.minimum(normal, infinity), significand >> below)
    return jnp.where((magnitude == 0) | (magnitude >= infinity), magnitude, product)
