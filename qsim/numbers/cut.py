"""Grids of formats that are the carrier with fewer mantissa bits: bfloat16, ``p12``, ``e8m13``.

Their gap is the same number of lowest bits of a bit pattern in every binade, subnormals included,
so rounding to nearest even is a third of the work. These grids do not stack with others of floats;
``lower`` therefore never gives one, and only a format that is simulated on its own gets it.
"""

from dataclasses import dataclass, fields

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.binades import BinadeGrid
from qsim.numbers.formats import Float, Format, power
from qsim.numbers.grid import CARRIERS, Carrier, Grid, carrier_of, lower, word
from qsim.numbers.modes import Rounding
from qsim.numbers.pytrees import pytree

__all__ = ["CutGrid", "lower_alone"]

POLICIES = ("saturate", "saturate_propagate", "ieee")


@pytree
@dataclass(frozen=True, kw_only=True)
class CutGrid(BinadeGrid):
    """A grid of every value of the carrier whose lowest ``dropped`` mantissa bits are zero."""

    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """As ``Grid.round``."""
        if mode.mode != "ties_to_even" or policy not in POLICIES:
            return super().round(x, mode=mode, policy=policy, random=random)
        carrier = carrier_of(self)
        infinity = word(carrier.infinity, carrier)
        bits = lax.bitcast_convert_type(x, carrier.word)
        magnitude = bits & word(carrier.sign - 1, carrier)
        rounded = self._nearest(magnitude, carrier)
        if policy == "saturate":
            rounded = jnp.minimum(rounded, jnp.asarray(self.largest))
        elif policy == "saturate_propagate":
            finite = jnp.minimum(rounded, jnp.asarray(self.largest))
            rounded = jnp.where(magnitude == infinity, infinity, finite)
        signed = rounded | (bits & word(carrier.sign, carrier))
        is_nan = magnitude > infinity
        result = jnp.where(is_nan, word(carrier.nan, carrier), signed)
        return lax.bitcast_convert_type(result, x.dtype)

    def _nearest(self, magnitude: Array, carrier: Carrier) -> Array:
        """Patterns rounded to multiples of the gap; beyond the largest value that is infinity."""
        shift = jnp.asarray(self.dropped).astype(carrier.word)
        one = word(1, carrier)
        below = (one << shift) - one
        is_odd = (magnitude >> shift) & jnp.minimum(below, one)
        return (magnitude + ((below >> one) + is_odd)) & ~below


def lower_alone(fmt: Format, carrier: str = "float32") -> Grid:
    """The grid of a format that no other is to be stacked with, which may be a cheaper one.

    Raises:
        TypeError, ValueError: as ``lower``.

    >>> from qsim import parse
    >>> type(lower_alone(parse("bfloat16"))).__name__, type(lower_alone(parse("e4m3"))).__name__
    ('CutGrid', 'BinadeGrid')
    """
    grid = lower(fmt, carrier)
    if isinstance(grid, BinadeGrid) and _is_cut(fmt, CARRIERS[carrier]):
        return CutGrid(**{item.name: getattr(grid, item.name) for item in fields(grid)})
    return grid


def _is_cut(fmt: Format, carrier: Carrier) -> bool:
    """Whether a format has the carrier's exponents, zeros, infinities and subnormals."""
    if not isinstance(fmt, Float) or not (fmt.signed and fmt.has_negative_zero and fmt.infinities):
        return False
    dropped = carrier.mantissa_bits - fmt.mantissa_bits
    largest = (2 - power(-fmt.mantissa_bits)) * power(carrier.bias)
    same_range = fmt.quantum == carrier.quantum + dropped and fmt.largest == largest
    return same_range and fmt.smallest == power(fmt.quantum) and fmt.subnormals == "gradual"
