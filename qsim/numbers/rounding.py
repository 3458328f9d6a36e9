"""Rounding to emulated formats, bit for bit, with traced format parameters.

Only integer arithmetic on bit patterns is used, since float arithmetic on the usual back ends
flushes subnormals, contracts products into sums and rewrites divisions. In the bit pattern of a
magnitude, neighbours of a grid lie ``ulp = 2**d`` patterns apart, so that rounding is::

    (magnitude + offset) & ~(ulp - 1)        with 0 <= offset < ulp, the rounding mode

and the carry into the exponent field is the carry into the next binade. Magnitudes below the
smallest gap are compared with it and its half instead.

Sources: the definitions in ``qsim.numbers.exact``, which this equals.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt

from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Carrier, Grid, carrier_of, lower
from qsim.numbers.modes import Rounding, check_overflow
from qsim.numbers.specs import parse

__all__ = ["quantize", "round_to_grid"]

GRADIENTS = ("clipped", "identity")


def quantize(
    x: Float[Array, "..."],
    fmt: str | Format | Grid,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Array | None = None,
    gradient: str = "clipped",
) -> Float[Array, "..."]:
    """``x`` rounded to the values of a format, in the dtype of ``x``.

    Args:
        x: floating-point array of any shape. A Python float counts as float32, as in jax.numpy.
        fmt: a spec string, a ``Format``, a ``Grid``, or a stacked ``Grid``, which adds its
            leading axes in front of those of ``x``.
        rounding: a mode of ``qsim.ROUNDINGS``; ``"stochastic:N"`` draws N random bits (1 to 32).
        overflow: a policy of ``qsim.OVERFLOWS``.
        key: the random key that stochastic rounding needs. Every row of a stacked grid sees the
            same random bits, so that formats are compared under the same noise.
        gradient: the straight-through derivative is 1 inside the format's range; outside it is
            0 (``"clipped"``) or 1 (``"identity"``).

    NaN stays NaN. The result has the same bytes eagerly, under ``jit`` and under ``vmap``.

    Raises:
        TypeError: if ``x`` is not a float array, or the dtype is not that of the grid's carrier.
        ValueError: for an unknown name, a format that the dtype of ``x`` cannot hold, a missing
            or superfluous key.

    >>> quantize(jax.numpy.array([0.3, 1.2, 500.0]), "e4m3fn").tolist()
    [0.3125, 1.25, 448.0]
    """
    mode, policy = Rounding.parse(rounding), check_overflow(overflow)
    if gradient not in GRADIENTS:
        raise ValueError(f"no gradient {gradient!r}; choose 'clipped' or 'identity'")
    if (key is None) == (mode.mode == "stochastic"):
        need = "needs a random key: pass key=jax.random.key(0)" if key is None else "takes no key"
        raise ValueError(f"rounding={rounding!r} {need}")
    x = require_float(x)
    if not isinstance(fmt, Grid):
        fmt = parse(fmt) if isinstance(fmt, str) else fmt
        return _quantize_to_format(x, fmt, mode, policy, key, gradient)
    _require_carrier(x, fmt)
    random = None if key is None else random_words(key, x.shape, mode)
    rounded = partial(_straight_through, mode, policy, gradient)
    for _ in fmt.shape:
        rounded = jax.vmap(rounded, in_axes=(None, 0, None))
    return rounded(x, fmt, random)


def _quantize_to_format(x, fmt: Format, mode: Rounding, policy: str, key, gradient: str):
    """A single format: narrow floats are carried in float32, where they are exact."""
    dtype = np.dtype(x.dtype)
    if dtype.name in CARRIERS:
        grid, wide = lower(fmt, dtype.name), x
    else:
        _require_held(fmt, dtype)
        grid, wide = lower(fmt), _widen(x)
    random = None if key is None else random_words(key, x.shape, mode)
    return _straight_through(mode, policy, gradient, wide, grid, random).astype(dtype)


# --- what may come in -----------------------------------------------------------------------


def require_float(x) -> Array:
    """``x`` as a JAX array of float16, bfloat16, float32 or float64.

    Raises:
        TypeError: for every other dtype.
        ValueError: for float64 where JAX would silently truncate it.
    """
    if isinstance(x, float):
        return jnp.float32(x)
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        raise TypeError(f"qsim expects a floating-point array, got {type(x).__name__} {x!r}")
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "float64 input would be truncated to float32 before it is rounded (double rounding); "
            "cast it to float32 yourself or enable jax_enable_x64"
        )
    if dtype not in (np.float16, jnp.bfloat16, np.float32, np.float64):
        raise TypeError(f"qsim expects floating-point input, got {dtype}; cast it explicitly")
    return jnp.asarray(x)


def _require_carrier(x: Array, grid: Grid) -> None:
    carrier = carrier_of(grid).name
    if x.dtype != carrier:
        raise TypeError(
            f"this grid's values are carried in {carrier}, but the array is {x.dtype}: cast it "
            f"with .astype('{carrier}'), or lower the format to the array's dtype"
        )


def _require_held(fmt: Format, dtype: np.dtype) -> None:
    """Every value of the format must be a value of a 16-bit float."""
    holder = parse({"float16": "binary16"}.get(dtype.name, dtype.name))
    edge = max(fmt.largest, -fmt.lowest)
    if fmt.precision > holder.precision or fmt.quantum < holder.quantum or edge > holder.largest:
        raise ValueError(
            f"{fmt} has values that {dtype.name} cannot hold: cast the array to float32 first"
        )


def _widen(x: Array) -> Array:
    """A 16-bit float as float32, exactly; bfloat16 by its bits, since casts may be elided."""
    if x.dtype == jnp.bfloat16:
        bits = lax.bitcast_convert_type(x, jnp.uint16).astype(jnp.uint32) << 16
        return lax.bitcast_convert_type(bits, jnp.float32)
    return x.astype(jnp.float32)


def random_words(key: Array, shape: tuple[int, ...], mode: Rounding) -> UInt[Array, "..."]:
    """Uniform 32-bit words whose top ``mode.random_bits`` bits are random and the rest zero."""
    words = jax.random.bits(key, shape, jnp.uint32)
    return words & jnp.uint32((0xFFFFFFFF << (32 - mode.random_bits)) & 0xFFFFFFFF)


# --- the derivative -------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _straight_through(mode: Rounding, policy: str, gradient: str, x, grid: Grid, random):
    return round_to_grid(x, grid, mode=mode, policy=policy, random=random)


@_straight_through.defjvp
def _straight_through_jvp(mode, policy, gradient, primals, tangents):
    x, grid, random = primals
    rounded = _straight_through(mode, policy, gradient, x, grid, random)
    tangent = tangents[0]
    if gradient == "clipped":
        carrier = carrier_of(grid)
        magnitude, negative = _split(lax.bitcast_convert_type(x, carrier.word), carrier)
        inside = magnitude <= jnp.where(negative, grid.lowest, grid.largest)
        tangent = jnp.where(inside, tangent, jnp.zeros_like(tangent))
    return rounded, tangent


# --- the kernel -----------------------------------------------------------------------------


class Gap(NamedTuple):
    """Where a magnitude lies between its two neighbours.

    Bit patterns: ``ulp`` is the distance of the neighbours, ``odd`` is 1 where the lower
    neighbour's code is odd, else 0; ``first`` and ``half`` are the patterns of the grid's smallest
    gap and of half of it (0 where the carrier has none).
    """

    magnitude: Array
    shift: Array
    ulp: Array
    odd: Array
    first: Array
    half: Array


def round_to_grid(
    x: Float[Array, "..."],
    grid: Grid,
    *,
    mode: Rounding,
    policy: str,
    random: UInt[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """``x`` rounded to a grid whose leaves broadcast against it; no checks, no derivative."""
    carrier = carrier_of(grid)
    bits = lax.bitcast_convert_type(x, carrier.word)
    magnitude, negative = _split(bits, carrier)
    # a format without zero treats zero as it treats what is negative
    outside = negative | (magnitude < jnp.minimum(grid.smallest, _word(1, carrier)))
    gap = _gap(magnitude, grid, carrier)
    rounded = jnp.where(
        magnitude < gap.first,
        jnp.where(_first_gap_rounds_up(gap, negative, mode, random, carrier), gap.first, 0),
        (magnitude + _offset(gap, negative, mode, random, carrier)) & ~(gap.ulp - _word(1, carrier)),
    )
    rounded = jnp.maximum(rounded, grid.smallest)
    edge = jnp.where(outside, grid.lowest, grid.largest)
    beyond = _beyond(magnitude, outside, edge, grid, mode, policy, carrier)
    rounded = jnp.maximum(jnp.where(rounded > edge, beyond, rounded), grid.smallest)
    sign = bits & jnp.where(rounded == 0, grid.negative_zero, grid.sign)
    is_nan = (magnitude > carrier.infinity) | (rounded > carrier.infinity)
    result = jnp.where(is_nan, _word(carrier.nan, carrier), rounded | sign)
    return lax.bitcast_convert_type(result, x.dtype)


def _word(value: int, carrier: Carrier) -> np.generic:
    return carrier.word.type(value)


def _split(bits: Array, carrier: Carrier) -> tuple[Array, Array]:
    """The magnitude's bit pattern, and whether the sign bit is set."""
    return bits & _word(carrier.sign - 1, carrier), bits >= _word(carrier.sign, carrier)


def _gap(magnitude: Array, grid: Grid, carrier: Carrier) -> Gap:
    """The gap of each magnitude, from its exponent field.

    In units of the exponent field the lowest binade of full precision has the number ``floor``;
    below it gaps are as wide as there. Below the carrier's own lowest binade, 1, a step of the
    bit pattern no longer halves.
    """
    word = carrier.word
    floor = grid.quantum + grid.mantissa_bits + carrier.bias
    field = lax.convert_element_type(magnitude >> carrier.mantissa_bits, jnp.int32)
    binade = jnp.maximum(field, floor)
    shift = binade - jnp.maximum(field, 1) + (carrier.mantissa_bits - grid.mantissa_bits)
    shift = lax.convert_element_type(shift, word)
    ulp = _word(1, carrier) << shift
    implicit = magnitude | _word(1 << carrier.mantissa_bits, carrier)
    # one bit of precision has no stored fraction: there the exponent tells odd codes from even
    exponent_odd = (binade - carrier.bias + grid.parity) | jnp.int32(grid.mantissa_bits > 0)
    odd = (implicit >> shift) & lax.convert_element_type(exponent_odd, word) & _word(1, carrier)
    first, half = (_power_bits(grid.quantum - below, carrier) for below in (0, 1))
    return Gap(magnitude, shift, ulp, odd, first, half)


def _power_bits(exponent: Array, carrier: Carrier) -> Array:
    """The bit pattern of ``2**exponent``; 0 below the carrier's smallest value."""
    normal = lax.convert_element_type(exponent + carrier.bias, carrier.word)
    subnormal = lax.convert_element_type(exponent - carrier.quantum, carrier.word)
    return jnp.where(
        exponent > -carrier.bias,
        normal << carrier.mantissa_bits,
        jnp.where(exponent < carrier.quantum, 0, _word(1, carrier) << subnormal),
    )


def _offset(gap: Gap, negative: Array, mode: Rounding, random, carrier: Carrier) -> Array:
    """What is added to a magnitude before the bits below its ulp are cut; always below the ulp.

    Where the ulp is 1 every magnitude is a grid point and every offset is 0.
    """
    one, zero = _word(1, carrier), _word(0, carrier)
    match mode.mode:
        case "ties_to_even":
            return (gap.ulp - one + gap.odd) >> 1
        case "ties_to_away":
            return gap.ulp >> 1
        case "ties_to_zero":
            return (gap.ulp - one) >> 1
        case "ties_to_odd":
            return (gap.ulp - gap.odd) >> 1
        case "up":
            return jnp.where(negative, zero, gap.ulp - one)
        case "down":
            return jnp.where(negative, gap.ulp - one, zero)
        case "toward_zero":
            return jnp.zeros_like(gap.ulp)
        case "away_from_zero":
            return gap.ulp - one
        case "to_odd":
            return jnp.where(gap.odd == one, zero, gap.ulp - one)
        case "stochastic":
            aligned = lax.convert_element_type(random, carrier.word) << (carrier.bits - 32)
            return aligned >> (carrier.bits - gap.shift)
    raise AssertionError(mode)


def _first_gap_rounds_up(gap: Gap, negative: Array, mode: Rounding, random, carrier: Carrier):
    """Whether a magnitude between zero and the smallest gap rounds to the gap; zero never does."""
    inexact = gap.magnitude > 0
    match mode.mode:
        case "ties_to_even" | "ties_to_zero":
            return gap.magnitude > gap.half
        case "ties_to_away" | "ties_to_odd":
            return (gap.magnitude >= gap.half) & inexact
        case "up":
            return inexact & ~negative
        case "down":
            return inexact & negative
        case "toward_zero":
            return jnp.zeros_like(inexact)
        case "away_from_zero" | "to_odd":
            return inexact
        case "stochastic":
            fraction = _first_gap_fraction(gap, carrier)
            return fraction + random < fraction  # the sum carries out of 32 bits
    raise AssertionError(mode)


def _first_gap_fraction(gap: Gap, carrier: Carrier) -> UInt[Array, "..."]:
    """floor(fraction * 2**32) of a magnitude below the smallest gap.

    With its implicit bit the magnitude is ``significand * 2**-shift'`` of the gap.
    """
    stored = carrier.mantissa_bits
    field = gap.magnitude >> stored
    significand = gap.magnitude & _word((1 << stored) - 1, carrier)
    significand = significand | (jnp.minimum(field, _word(1, carrier)) << stored)
    # gap.shift counts from the gap's own binade, as if the precision there were full
    down = gap.shift
    wide = jnp.where(
        down >= 32,
        significand >> (down - _word(32, carrier)),
        significand << (_word(32, carrier) - down),
    )
    return lax.convert_element_type(wide, jnp.uint32)


def _beyond(magnitude, negative, edge, grid: Grid, mode: Rounding, policy: str, carrier: Carrier):
    """The magnitude that a result beyond the edge becomes."""
    infinity = _word(carrier.infinity, carrier)
    if policy == "saturate":
        return edge
    above = jnp.where(negative, grid.underflow, grid.overflow)
    if policy == "saturate_propagate":
        return jnp.where((magnitude == infinity) & (above == infinity), above, edge)
    if policy == "p3109":
        unsigned_below = negative & (grid.sign == 0)
        above = jnp.where((above == infinity) | unsigned_below, above, edge)
    inward = _points_inward(negative, grid, mode, carrier)
    if inward is None:
        return above
    signed = ~negative | (grid.sign != 0)
    return jnp.where(inward & (magnitude < infinity) & signed, edge, above)


def _points_inward(negative, grid: Grid, mode: Rounding, carrier: Carrier):
    """Whether the mode takes finite numbers beyond the edge back to it; None: it never does."""
    match mode.mode:
        case "toward_zero":
            return jnp.ones_like(negative)
        case "up":
            return negative
        case "down":
            return ~negative
        case "to_odd":
            odd = _gap(grid.largest, grid, carrier).odd == 1
            return jnp.broadcast_to(odd | (grid.overflow != carrier.infinity), negative.shape)
    return None
