"""Grids whose precision falls with the distance from 1, and the rounding to them, bit for bit.

The bit pattern of a carrier's magnitude is its exponent field followed by its fraction. Moved by a
whole number of binades, so that the exponent stands as the format's codes write it, its low bits
are those of the code behind the regime: cutting them rounds the code, as for floats::

    (aligned + offset) & ~(ulp - 1)        with 0 <= offset < ulp, the rounding mode

How many bits are cut depends on the regime, and may be more than the fraction has: then exponent
bits are cut too, and neighbours lie several binades apart. The carry runs into the next binade, and
into the next regime, by itself. With q the magnitude of the aligned exponent (``~e`` below zero)::

    cut = dropped + (q >> regime) + bit_length(q & counted)

where posits have the linear term and takums and HiFloat8 the logarithmic one. Magnitudes below the
smallest value are compared with thresholds instead.

Sources: the definitions in ``qsim.numbers.posits`` and ``hifloat``, which this equals.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.formats import Format
from qsim.numbers.gaps import offset, points_inward
from qsim.numbers.grid import Carrier, Grid, carrier_of, lowered, pattern, require_carried, word
from qsim.numbers.hifloat import HiFloat8
from qsim.numbers.interpolation import moves
from qsim.numbers.modes import Rounding
from qsim.numbers.posits import Posit, Takum
from qsim.numbers.pytrees import pytree

__all__ = ["TaperedGrid"]


@pytree
@dataclass(frozen=True, kw_only=True)
class TaperedGrid(Grid):
    """The grid of a posit, a takum or HiFloat8.

    Bit patterns are those of magnitudes in the carrier (uint32 words for float32, uint64 for
    float64); integers are int32.

    - ``quantum``: every value is a multiple of ``2**quantum``;
    - ``first`` and ``largest``: the smallest and the largest value;
    - ``half``: where nearest changes from zero to ``first``; 0 where it never gives zero;
    - ``ceiling``: what finite magnitudes are rounded to at most: ``largest`` where none overflows,
      the carrier's infinity where they can;
    - ``overflow``: what lies above ``largest``: the carrier's infinity or NaN;
    - ``above`` and ``below``: added to the pattern of a magnitude from 1 on, or below 1, to align
      its exponent, modulo the word;
    - ``regime`` and ``counted``, ``dropped``: the terms of the equation above; ``regime`` is 31 and
      ``counted`` has no bits where the term is absent;
    - ``least`` and ``most``: bounds of the number of bits that are cut;
    - ``parity``: ``(aligned ^ parity) & ulp`` is zero where the lower neighbour's code is even.
    """

    quantum: Any
    first: Any
    largest: Any
    half: Any
    ceiling: Any
    overflow: Any
    above: Any
    below: Any
    regime: Any
    counted: Any
    dropped: Any
    least: Any
    most: Any
    parity: Any
    drops_least: ClassVar[bool] = False  # posits and takums have no zero beside their least value

    def round(
        self,
        x: FloatArray[Array, "..."],
        *,
        mode: Rounding,
        policy: str,
        random: UInt[Array, "..."] | None = None,
    ) -> FloatArray[Array, "..."]:
        """As ``Grid.round``; the leaves may also broadcast against ``x``."""
        carrier, grid = carrier_of(self), jax.tree.map(jnp.asarray, self)
        bits = lax.bitcast_convert_type(x, carrier.word)
        sign = bits & word(carrier.sign, carrier)
        magnitude, negative = bits ^ sign, sign != 0
        # what lies in the first gap and does not fall to zero rounds as the smallest value does
        at_least_first = jnp.maximum(magnitude, grid.first)
        align = _alignment(at_least_first, grid, carrier)
        aligned = at_least_first + align
        mask = word(2**carrier.bits - 1, carrier) << _shift(aligned, grid, carrier)
        odd = (aligned ^ grid.parity) & (~mask + word(1, carrier)) != 0
        drawn = None
        if mode.is_stochastic:
            near, far = _neighbours(magnitude, aligned, align, mask, grid, carrier)
            drawn = moves(magnitude, near, far, random, mode=mode, carrier=carrier)
        rounded = ((aligned + offset(mask, odd, negative, drawn, mode, carrier)) & mask) - align
        rounded = _overflowed(rounded, magnitude, negative, grid, mode, policy, carrier)
        leaves_zero = _leaves_zero(magnitude, negative, grid, drawn, mode, carrier)
        result = jnp.where(leaves_zero, rounded | sign, word(0, carrier))
        is_nan = magnitude > carrier.infinity
        if policy == "ieee":
            is_nan = is_nan | (rounded > carrier.infinity)
        result = jnp.where(is_nan, word(carrier.nan, carrier), result)
        return lax.bitcast_convert_type(result, x.dtype)

    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.inside``."""
        carrier = carrier_of(self)
        bits = lax.bitcast_convert_type(x, carrier.word)
        return bits & word(carrier.sign - 1, carrier) <= self.largest


# --- lowering -------------------------------------------------------------------------------


@lowered.register
def _(fmt: Posit, carrier: Carrier) -> TaperedGrid:
    stored, most = carrier.mantissa_bits, carrier.mantissa_bits + fmt.es
    dropped = stored + 3 + fmt.es - fmt.bits
    # with all exponent bits cut the last bit of the code is the regime's last
    parity = (fmt.bits - 1) % 2 << most
    return _tapered(
        fmt,
        carrier,
        half=0,
        regime=fmt.es,
        dropped=dropped,
        least=min(dropped, most),
        most=min(most, carrier.bits - 1),
        parity=parity % 2**carrier.bits,
    )


@lowered.register
def _(fmt: Takum, carrier: Carrier) -> TaperedGrid:
    stored = carrier.mantissa_bits
    return _tapered(
        fmt,
        carrier,
        half=0,
        above=1,
        below=-1,
        counted=-1,
        dropped=stored + 4 - fmt.bits,
        least=stored + 5 - fmt.bits,
        most=stored + 7,
    )


@lowered.register
def _(fmt: HiFloat8, carrier: Carrier) -> TaperedGrid:
    stored = carrier.mantissa_bits
    return _tapered(
        fmt,
        carrier,
        half=pattern(fmt.smallest / 2, carrier),
        ceiling=carrier.infinity,
        overflow=carrier.infinity,
        below=-1,
        counted=-1,
        dropped=stored - 5,
        least=stored - 3,
        most=stored,
    )


def _tapered(
    fmt: Format,
    carrier: Carrier,
    *,
    half: int,
    ceiling: int | None = None,
    overflow: int | None = None,
    above: int = 0,
    below: int = 0,
    parity: int = 0,
    regime: int = 31,
    counted: int = 0,
    **counts: int,
) -> TaperedGrid:
    """The grid of a format, after checking that the carrier holds it; binades as integers."""
    require_carried(fmt, carrier)
    largest = pattern(fmt.largest, carrier)
    words = {
        "first": pattern(fmt.smallest, carrier),
        "largest": largest,
        "half": half,
        "ceiling": largest if ceiling is None else ceiling,
        "overflow": carrier.nan if overflow is None else overflow,
        "above": ((above - carrier.bias) << carrier.mantissa_bits) % 2**carrier.bits,
        "below": ((below - carrier.bias) << carrier.mantissa_bits) % 2**carrier.bits,
        "parity": parity,
    }
    integers = {"regime": regime, "counted": counted, **counts}
    return TaperedGrid(
        quantum=np.asarray(fmt.quantum, np.int32),
        **{name: np.asarray(word, carrier.word) for name, word in words.items()},
        **{name: np.asarray(value, np.int32) for name, value in integers.items()},
    )


# --- the parts of the kernel ----------------------------------------------------------------


def _alignment(magnitude: Array, grid: TaperedGrid, carrier: Carrier) -> Array:
    """What is added to the pattern of a magnitude to align its exponent."""
    one = word(carrier.bias << carrier.mantissa_bits, carrier)
    return jnp.where(magnitude >= one, grid.above, grid.below)


def _shift(aligned: Array, grid: TaperedGrid, carrier: Carrier) -> Array:
    """How many low bits of an aligned pattern are cut."""
    signed = lax.bitcast_convert_type(aligned, jnp.dtype(f"int{carrier.bits}"))
    exponent = lax.convert_element_type(signed >> carrier.mantissa_bits, jnp.int32)
    size = jnp.where(exponent < 0, ~exponent, exponent)
    length = 32 - lax.clz(size & grid.counted)
    cut = jnp.clip(grid.dropped + (size >> grid.regime) + length, grid.least, grid.most)
    return lax.convert_element_type(cut, carrier.word)


def _neighbours(magnitude, aligned, align, mask, grid: TaperedGrid, carrier: Carrier):
    """The two values, or grid points beyond the largest, between which a magnitude lies."""
    in_first_gap = magnitude < grid.first
    near, far = (aligned & mask) - align, (aligned | ~mask) + word(1, carrier) - align
    near = jnp.where(in_first_gap, word(0, carrier), near)
    return near, jnp.where(in_first_gap, grid.first, far)


def _leaves_zero(magnitude, negative, grid: TaperedGrid, drawn, mode: Rounding, carrier: Carrier):
    """Whether a magnitude rounds to a value other than zero; from the smallest one on all do."""
    one, first, half = word(1, carrier), grid.first, grid.half
    match mode.mode:
        case "ties_to_even" | "ties_to_zero":
            return magnitude > half
        case "ties_to_away" | "ties_to_odd":
            return magnitude >= jnp.maximum(half, one)
        case "up":
            return magnitude >= jnp.where(negative, first, one)
        case "down":
            return magnitude >= jnp.where(negative, one, first)
        case "toward_zero":
            return magnitude >= first
        case "away_from_zero" | "to_odd":
            return magnitude >= one
        case _:
            return magnitude >= jnp.where(drawn, one, first)


def _overflowed(rounded, magnitude, negative, grid: TaperedGrid, mode: Rounding, policy, carrier):
    """The rounded magnitude, or what the policy makes of it beyond the largest value."""
    infinity = word(carrier.infinity, carrier)
    is_finite = magnitude < infinity
    rounded = jnp.where(is_finite, jnp.minimum(rounded, grid.ceiling), infinity)
    match policy:
        case "saturate":
            return jnp.minimum(rounded, grid.largest)
        case "saturate_propagate":
            keeps = ~is_finite & (grid.overflow == infinity)
            return jnp.where(keeps, infinity, jnp.minimum(rounded, grid.largest))
        case "p3109":
            beyond = jnp.where(grid.overflow == infinity, infinity, grid.largest)
        case "ieee":
            beyond = grid.overflow
        case _:
            raise AssertionError(policy)
    # to odd stays: of the formats here only HiFloat8 overflows, and its largest code is even
    inward = points_inward(negative, mode)
    if inward is not None:
        beyond = jnp.where(inward & is_finite, grid.largest, beyond)
    return jnp.where(rounded > grid.largest, beyond, rounded)
