"""Roundings inside contractions, of which there are as many as products: in few instructions.

A ``Rounder`` is a grid with its modes. Where no number is subnormal in the carrier, and the format
is a float with all its codes, rounding to nearest even adds, and subtracts, a power of two whose
last place is the gap; where that would be beyond the carrier's range it is an integer addition for
normal values. Else it is the grid's.

``jammed`` turns a sum that the carrier rounded to nearest into the sum rounded to odd, which can be
rounded again without harm (see ``qsim.arithmetic.odd``), with float operations.

Sources: D. E. Knuth, The Art of Computer Programming 2, 4.2.2 (the error of a sum); S. Boldo and
G. Melquiond, IEEE Trans. Computers 57(4), 2008 (rounding to odd).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from qsim.arithmetic.extents import Extent
from qsim.arithmetic.room import spare_bits
from qsim.numbers.binades import BinadeGrid
from qsim.numbers.formats import Float, Format, Integer
from qsim.numbers.grid import Carrier, Grid, carrier_of, lower, word
from qsim.numbers.modes import Rounding
from qsim.numbers.pytrees import pytree, static

__all__ = ["Rounder", "jammed"]

LEAN = ("saturate", "ieee")


@pytree
@dataclass(frozen=True, kw_only=True)
class Rounder:
    """A grid, a mode and an overflow policy.

    Attributes:
        grid: its arrays are the only leaves.
        rounding, overflow: as for ``qsim.quantize``.
        extent: of the format's values.
        spare: bits that the carrier has more than the format, at each of its gaps.
        ties: the fewest bits of a tie, as for ``Extent.adds_harmlessly``; 0 if they are not known.
        plain: whether the format is a float that uses all its codes, rounded to nearest even.
        is_carrier: whether the format is the carrier itself.
    """

    grid: Grid
    rounding: str = static(default="ties_to_even")
    overflow: str = static(default="ieee")
    extent: Extent = static()
    spare: int = static(default=0)
    ties: int = static(default=0)
    plain: bool = static(default=False)
    is_carrier: bool = static(default=False)

    @classmethod
    def of(cls, fmt: Format, rounding: str, overflow: str, carrier: Carrier) -> "Rounder":
        """That of a format in a carrier.

        Raises:
            ValueError: if the carrier cannot hold the format.
        """
        grid, extent = lower(fmt, carrier.name), Extent.of(fmt)
        plain = (
            isinstance(fmt, Float)
            and isinstance(grid, BinadeGrid)
            and fmt.mantissa_bits > 0
            and fmt.signed
            and fmt.has_negative_zero
            and fmt.subnormals == "gradual"
            and abs(fmt.quantum + carrier.mantissa_bits) < carrier.bias
            and rounding == "ties_to_even"
            and overflow in LEAN
        )
        return cls(
            grid=grid,
            rounding=rounding,
            overflow=overflow,
            extent=extent,
            spare=spare_bits(fmt, carrier),
            ties=fmt.precision + 1 if isinstance(fmt, Float | Integer) else 0,
            plain=plain,
            is_carrier=extent == Extent.of_dtype(carrier.name),
        )

    def among(self, others: "Sequence[Rounder]") -> "Rounder":
        """The same with the extent, the room and the ties of all; without others without any."""
        extents = [other.extent for other in others] or [Extent(0, 0, 0)]
        spare, ties = (
            min((getattr(other, name) for other in others), default=0) for name in ("spare", "ties")
        )
        return replace(self, extent=reduce(or_, extents), spare=spare, ties=ties)

    @property
    def mode(self) -> Rounding:
        """The rounding mode."""
        return Rounding.parse(self.rounding)

    @property
    def has_room(self) -> bool:
        """Whether what is rounded to odd in the carrier can be rounded to the format."""
        return self.spare > self.mode.fraction_bits

    @property
    def huge(self) -> str:
        """What stands for finite results beyond the carrier's range, as in ``odd``."""
        certain = self.mode.is_stochastic and self.overflow in ("ieee", "p3109")
        nearest = self.is_carrier and self.mode.mode == "ties_to_even"
        return "infinity" if certain or (nearest and not self.propagates) else "largest"

    @property
    def propagates(self) -> bool:
        """Whether infinities stay, and finite numbers do not become infinite."""
        return self.overflow == "saturate_propagate"

    def __call__(self, x: Array, random: Array | None = None, *, normal: bool = False) -> Array:
        """``x`` rounded.

        Args:
            x: numbers of the grid's carrier.
            random: random words for stochastic rounding.
            normal: whether none of them is subnormal in the carrier; NaNs may then be any.
        """
        if self.plain and normal:
            return _lean(x, self.grid, self.overflow, self.extent.top)
        return self.grid.round(x, mode=self.mode, policy=self.overflow, random=random)


def _lean(x: Array, grid: Grid, policy: str, top: int) -> Array:
    """Rounding to nearest even on a grid of a float with all its codes, of no subnormal numbers.

    Args:
        x: numbers of the grid's carrier.
        grid: the grid.
        policy: ``saturate`` or ``ieee``.
        top: the format's values are below ``2**top``.
    """
    carrier, grid = carrier_of(grid), jax.tree.map(jnp.asarray, grid)
    infinity = word(carrier.infinity, carrier)
    bits = lax.bitcast_convert_type(x, carrier.word)
    magnitude = bits & word(carrier.sign - 1, carrier)
    if top + carrier.mantissa_bits <= carrier.bias:
        rounded = _by_float(magnitude, grid, carrier)
    else:
        rounded = jnp.where(magnitude > infinity, magnitude, _by_integer(magnitude, grid, carrier))
    edge = grid.overflow if policy == "ieee" else grid.largest
    number, largest = (lax.bitcast_convert_type(z, x.dtype) for z in (rounded, grid.largest))
    rounded = jnp.where(number > largest, edge, rounded)  # no NaN is larger
    return lax.bitcast_convert_type(rounded | (bits & word(carrier.sign, carrier)), x.dtype)


def _by_float(magnitude: Array, grid: BinadeGrid, carrier: Carrier) -> Array:
    """Magnitudes rounded by a float addition of the power of two whose last place is the gap."""
    stored = carrier.mantissa_bits
    dtype = jnp.dtype(carrier.name)
    up = grid.dropped.astype(carrier.word) << stored
    least = (grid.quantum + (stored + carrier.bias) - grid.dropped).astype(carrier.word) << stored
    field = magnitude & word(carrier.infinity, carrier)
    field = jnp.clip(field, least, word(2 * carrier.bias << stored, carrier) - up)
    magic = lax.bitcast_convert_type(field + up, dtype)
    number = lax.bitcast_convert_type(magnitude, dtype)
    return lax.bitcast_convert_type((number + magic) - magic, carrier.word)


def _by_integer(magnitude: Array, grid: BinadeGrid, carrier: Carrier) -> Array:
    """Magnitudes rounded by an integer addition, subnormal ones by a float addition."""
    one, dtype = word(1, carrier), jnp.dtype(carrier.name)
    shift = grid.dropped.astype(carrier.word)
    below = (one << shift) - one
    odd = (magnitude >> shift) & jnp.minimum(below, one)
    rounded = (magnitude + odd + (below >> 1)) & ~below
    unit = grid.quantum + carrier.mantissa_bits
    magic = _power(unit, carrier)
    gradual = (lax.bitcast_convert_type(magnitude, dtype) + magic) - magic
    normal = lax.bitcast_convert_type(_power(unit - grid.dropped, carrier), carrier.word)
    gradual = lax.bitcast_convert_type(gradual, carrier.word)
    return jnp.where(magnitude < normal, gradual, rounded)


def _power(exponent: Array, carrier: Carrier) -> Array:
    """Two to a power that is normal in the carrier."""
    field = (exponent + carrier.bias).astype(carrier.word) << carrier.mantissa_bits
    return lax.bitcast_convert_type(field, jnp.dtype(carrier.name))


def jammed(a: Array, b: Array, carrier: Carrier, *, huge: str | None) -> Array:
    """``a + b`` rounded to odd, where neither they nor the error of their sum is subnormal.

    Args:
        a, b: numbers of the carrier.
        carrier: their carrier.
        huge: as in ``odd``, what stands for finite sums beyond its range; None if there are none.
    """
    total = a + b
    of_b = total - a
    error = (a - (total - of_b)) + (b - of_b)
    bits = lax.bitcast_convert_type(total, carrier.word)
    apart = bits ^ lax.bitcast_convert_type(error, carrier.word)
    signed = jnp.dtype(f"int{carrier.bits}")
    step = (lax.bitcast_convert_type(apart, signed) >> (carrier.bits - 1)) | 1
    even = (bits & word(1, carrier)) == 0
    finite = (bits & word(carrier.sign - 1, carrier)) < word(carrier.infinity, carrier)
    moved = bits + lax.bitcast_convert_type(step, carrier.word)
    result = jnp.where((error != 0) & even & finite, moved, bits)
    if huge == "largest":
        beyond = ~finite & jnp.isfinite(a) & jnp.isfinite(b)
        result = jnp.where(beyond, bits - word(1, carrier), result)
    return lax.bitcast_convert_type(result, total.dtype)
