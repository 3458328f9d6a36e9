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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, UInt
from jaxtyping import Float as FloatArray

from qsim.numbers.binades import offset
from qsim.numbers.formats import Format
from qsim.numbers.grid import Carrier, Grid, carrier_of, lowered, pattern, require_carried
from qsim.numbers.hifloat import HiFloat8
from qsim.numbers.modes import Rounding
from qsim.numbers.posits import Posit, Takum
from qsim.numbers.stochastic import moves_up

__all__ = ["TaperedGrid"]


@jax.tree_util.register_dataclass
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
    - ``parity``: ``(aligned ^ parity) & ulp`` is zero where the lower neighbour's code is even;
    - ``excess``: where the smallest value is ``2**e * (1 + 2**-excess)``; -1 for a power of two.
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
    excess: Any

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
        sign = bits & _word(carrier.sign, carrier)
        magnitude, negative = bits ^ sign, sign != 0
        # what lies in the first gap and does not fall to zero rounds as the smallest value does
        at_least_first = jnp.maximum(magnitude, grid.first)
        align = _alignment(at_least_first, grid, carrier)
        aligned = at_least_first + align
        exponent = _exponent(aligned, carrier)
        shift = _shift(exponent, grid)
        mask = _word(2**carrier.bits - 1, carrier) << lax.convert_element_type(shift, carrier.word)
        odd = (aligned ^ grid.parity) & (~mask + _word(1, carrier)) != 0
        drawn = None
        if mode.is_stochastic:
            drawn = _drawn_up(magnitude, exponent, shift, grid, mode, random, carrier)
        rounded = ((aligned + offset(mask, odd, negative, drawn, mode, carrier)) & mask) - align
        rounded = _overflowed(rounded, magnitude, negative, grid, mode, policy, carrier)
        leaves_zero = _leaves_zero(magnitude, negative, grid, drawn, mode, carrier)
        result = jnp.where(leaves_zero, rounded | sign, _word(0, carrier))
        is_nan = magnitude > carrier.infinity
        if policy == "ieee":
            is_nan = is_nan | (rounded > carrier.infinity)
        result = jnp.where(is_nan, _word(carrier.nan, carrier), result)
        return lax.bitcast_convert_type(result, x.dtype)

    def inside(self, x: FloatArray[Array, "..."]) -> Bool[Array, "..."]:
        """As ``Grid.inside``."""
        carrier = carrier_of(self)
        bits = lax.bitcast_convert_type(x, carrier.word)
        return bits & _word(carrier.sign - 1, carrier) <= self.largest


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
        excess=max(fmt.bits - 12, -1),
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
    excess: int = -1,
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
    integers = {"regime": regime, "counted": counted, "excess": excess, **counts}
    return TaperedGrid(
        quantum=np.asarray(fmt.quantum, np.int32),
        **{name: np.asarray(word, carrier.word) for name, word in words.items()},
        **{name: np.asarray(value, np.int32) for name, value in integers.items()},
    )


# --- the parts of the kernel ----------------------------------------------------------------


def _word(value: int, carrier: Carrier) -> np.generic:
    return carrier.word.type(value)


def _alignment(magnitude: Array, grid: TaperedGrid, carrier: Carrier) -> Array:
    """What is added to the pattern of a magnitude to align its exponent."""
    one = _word(carrier.bias << carrier.mantissa_bits, carrier)
    return jnp.where(magnitude >= one, grid.above, grid.below)


def _exponent(aligned: Array, carrier: Carrier) -> Array:
    """The exponent in an aligned pattern, int32."""
    signed = lax.bitcast_convert_type(aligned, jnp.dtype(f"int{carrier.bits}"))
    return lax.convert_element_type(signed >> carrier.mantissa_bits, jnp.int32)


def _shift(exponent: Array, grid: TaperedGrid) -> Array:
    """How many low bits of an aligned pattern are cut, int32."""
    size = jnp.where(exponent < 0, ~exponent, exponent)
    length = 32 - lax.clz(size & grid.counted)
    return jnp.clip(grid.dropped + (size >> grid.regime) + length, grid.least, grid.most)


def _leaves_zero(magnitude, negative, grid: TaperedGrid, drawn, mode: Rounding, carrier: Carrier):
    """Whether a magnitude rounds to a value other than zero; from the smallest one on all do."""
    one, first, half = _word(1, carrier), grid.first, grid.half
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
    infinity = _word(carrier.infinity, carrier)
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
        case _:
            beyond = grid.overflow
    inward = _points_inward(negative, mode)
    if inward is not None:
        beyond = jnp.where(inward & is_finite, grid.largest, beyond)
    return jnp.where(rounded > grid.largest, beyond, rounded)


def _points_inward(negative: Array, mode: Rounding) -> Array | None:
    """Whether the mode takes finite numbers beyond the largest value back; None: it never does.

    To odd does not: of the formats here only HiFloat8 overflows, and its largest code is even.
    """
    match mode.mode:
        case "toward_zero":
            return jnp.ones_like(negative)
        case "up":
            return negative
        case "down":
            return ~negative
    return None


# --- what is drawn --------------------------------------------------------------------------


class _Draw(NamedTuple):
    """The fractions of a gap, times ``2**32``, that move up: those from ``2**32 - d`` on.

    Here d is ``whole + rest * 2**-bits`` with carrier words, and ``ties`` says whether the first of
    these fractions itself moves up.
    """

    whole: Array
    rest: Array
    ties: Any


def _draw(random: Array, mode: Rounding, carrier: Carrier) -> _Draw:
    """What the random bits mean in a mode; those of ``_b`` and ``_c`` count half a unit more."""
    word, bits = carrier.word.type, mode.random_bits
    whole = lax.convert_element_type(random, carrier.word)
    if mode.mode == "stochastic":
        return _Draw(whole, jnp.zeros_like(whole), True)
    half, rest = (1 << 31 >> bits, 0) if bits < 32 else (0, 1 << (carrier.bits - 1))
    ties = True if mode.mode == "stochastic_b" else (random >> (32 - bits)) & 1 == 0
    return _Draw(whole + word(half), jnp.full_like(whole, word(rest)), ties)


def _drawn_up(
    magnitude, exponent, shift, grid: TaperedGrid, mode: Rounding, random, carrier: Carrier
) -> Array:
    """Whether a stochastic mode moves a magnitude up, if it lies between two values.

    Within a binade the bits that are cut are the fraction of the gap.
    """
    if mode.mode == "stochastic_equal":
        return random >> 31 == 1
    draw, binades = _draw(random, mode, carrier), jnp.maximum(shift - carrier.mantissa_bits, 0)
    cut = lax.convert_element_type(shift, carrier.word)
    within = moves_up(_significand(magnitude, carrier), cut, random, mode, carrier)
    across = _crosses(magnitude, exponent, binades, draw, carrier)
    first = _reaches_first(magnitude, grid, draw, carrier)
    inside = jnp.where(binades > 0, across, within)
    return jnp.where(magnitude < grid.first, first, inside)


def _significand(magnitude: Array, carrier: Carrier) -> Array:
    stored = carrier.mantissa_bits
    implicit = jnp.minimum(magnitude >> stored, _word(1, carrier)) << stored
    return (magnitude & _word((1 << stored) - 1, carrier)) | implicit


def _crosses(magnitude, exponent, binades, draw: _Draw, carrier: Carrier) -> Array:
    """Whether a magnitude in a gap of several binades is drawn to the upper neighbour.

    The gap is ``2**e .. 2**(e + K)`` with K = ``2**binades``, so that a number x moves up if::

        x * 2**(32 - e - K) >= (2**32 - d) + d * 2**-K
    """
    wide = jnp.int32(1) << binades
    down = wide - 1 - (exponent & (wide - 1))  # from the exponent of x to e + K - 1
    return _reaches(magnitude, down, draw, (draw.whole, draw.rest), wide, carrier)


def _reaches_first(magnitude, grid: TaperedGrid, draw: _Draw, carrier: Carrier) -> Array:
    """Whether a magnitude below the smallest value, ``2**e * (1 + 2**-excess)``, is drawn to it.

    That is so if ``x * 2**(32 - e) >= (2**32 - d) * (1 + 2**-excess)``.
    """
    stored, none = carrier.mantissa_bits, _word(0, carrier)
    fields = [lax.convert_element_type(m >> stored, jnp.int32) for m in (magnitude, grid.first)]
    down = fields[1] - 1 - jnp.maximum(fields[0], 1)
    tail = [jnp.where(grid.excess < 0, none, part) for part in _threshold(draw, carrier)]
    return _reaches(magnitude, down, draw, tail, jnp.maximum(grid.excess, 0), carrier)


def _threshold(draw: _Draw, carrier: Carrier) -> tuple[Array, Array]:
    """``2**32 - d``, integer and fraction, the integer modulo the carrier's word."""
    most, zero = _word((2**32 - 1) % 2**carrier.bits, carrier), _word(0, carrier)
    borrow = _word(1, carrier) - (draw.rest != zero).astype(carrier.word)
    return most - draw.whole + borrow, zero - draw.rest


def _reaches(magnitude, down, draw: _Draw, tail, tail_shift, carrier: Carrier) -> Array:
    """Whether ``s * 2**(32 - down)`` reaches ``(2**32 - d) + tail * 2**-tail_shift``.

    Here s, below 1, is the significand of the magnitude, at the top of a word. Numbers are integer
    and fraction, in units of ``2**-bits``. The left side is held exactly, unless it is below 1/2,
    which is less than any right side; of the right side it is known whether bits below were lost.
    Shifts by more than a word leave nothing, also those that are negative and wrap.
    """
    bits, zero = carrier.bits, _word(0, carrier)
    significand = _significand(magnitude, carrier) << (bits - 1 - carrier.mantissa_bits)
    shift = lax.convert_element_type(down + (bits - 32), carrier.word)
    left, left_rest = significand >> shift, significand << (_word(bits, carrier) - shift)

    whole, rest = tail
    shift = lax.convert_element_type(tail_shift, carrier.word)
    up = _word(bits, carrier) - shift
    lost = jnp.where(shift > bits, whole | rest, rest << up) != zero
    right, right_rest = _threshold(draw, carrier)
    sum_rest = right_rest + ((whole << up) | (rest >> shift))
    right = right + (whole >> shift) + (sum_rest < right_rest).astype(carrier.word)

    beyond = (left > right) | ((left == right) & (left_rest > sum_rest))
    equal = (left == right) & (left_rest == sum_rest) & ~lost
    return (beyond | (equal & draw.ties)) & (draw.whole | draw.rest != zero)
