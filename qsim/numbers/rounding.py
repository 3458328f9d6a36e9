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

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, UInt

from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Carrier, Grid, carrier_of, lower
from qsim.numbers.modes import Rounding, check_overflow
from qsim.numbers.specs import format_of, parse

__all__ = ["quantize", "round_to_grid"]

GRADIENTS = ("clipped", "identity")


def quantize(
    x: Float[ArrayLike, "..."],
    fmt: str | Format | Grid,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Array | None = None,
    gradient: str = "clipped",
) -> Float[Array, "..."]:
    """``x`` rounded to the values of a format, in the dtype of ``x``.

    Args:
        x: floating-point array of any shape. A Python float counts as float32, or as float64
            with x64, as in jax.numpy.
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
    check_gradient(gradient)
    if (key is None) == (mode.mode == "stochastic"):
        need = "needs a random key: pass key=jax.random.key(0)" if key is None else "takes no key"
        raise ValueError(f"rounding={rounding!r} {need}")
    x = require_float(x)
    if not isinstance(fmt, Grid):
        return _quantize_to_format(x, format_of(fmt), mode, policy, key, gradient)
    _require_carrier(x, fmt)
    random = None if key is None else random_words(key, x.shape, mode)
    rounded = partial(_compiled, mode, policy, gradient)
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
        grid, wide = lower(fmt), widen(x)
    random = None if key is None else random_words(key, x.shape, mode)
    return _compiled(mode, policy, gradient, wide, grid, random).astype(dtype)


def check_gradient(gradient: str) -> str:
    """``gradient`` itself, if it names a straight-through estimator.

    Raises:
        ValueError: for an unknown one.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"no gradient {gradient!r}; choose 'clipped' or 'identity'")
    return gradient


# --- what may come in -----------------------------------------------------------------------


def require_float(x) -> Array:
    """``x`` as a JAX array of float16, bfloat16, float32 or float64.

    Raises:
        TypeError: for every other dtype.
        ValueError: for float64 where JAX would silently truncate it.
    """
    if type(x) is float:  # and not np.float64, which is a float too
        return jnp.asarray(x, jnp.float64 if jax.config.jax_enable_x64 else jnp.float32)
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        kind, shown = type(x).__name__, repr(x)
        shown = shown if len(shown) <= 40 else shown[:40] + "..."
        raise TypeError(f"qsim expects a floating-point array, got {kind} {shown}")
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


def widen(x: Array) -> Array:
    """A 16-bit float as float32, exactly; wider floats as they are."""
    return x.astype(jnp.float32) if x.dtype in (np.float16, jnp.bfloat16) else x


def random_words(key: Array, shape: tuple[int, ...], mode: Rounding) -> UInt[Array, "..."]:
    """Uniform 32-bit words whose top ``mode.random_bits`` bits are random and the rest zero."""
    words = jax.random.bits(key, shape, jnp.uint32)
    return words & jnp.uint32((0xFFFFFFFF << (32 - mode.random_bits)) & 0xFFFFFFFF)


# --- the derivative -------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(mode: Rounding, policy: str, gradient: str, x, grid: Grid, random):
    """One call also where nothing else is compiled; the grid is traced."""
    return _straight_through(mode, policy, gradient, x, grid, random)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _straight_through(mode: Rounding, policy: str, gradient: str, x, grid: Grid, random):
    return round_to_grid(x, grid, mode=mode, policy=policy, random=random)


@_straight_through.defjvp
def _straight_through_jvp(mode, policy, gradient, primals, tangents):
    x, grid, random = primals
    rounded = _straight_through(mode, policy, gradient, x, grid, random)
    tangent = tangents[0]
    if gradient == "clipped":
        tangent = jnp.where(inside_range(x, grid), tangent, jnp.zeros_like(tangent))
    return rounded, tangent


def inside_range(x: Float[Array, "..."], grid: Grid) -> Bool[Array, "..."]:
    """Whether each of ``x`` lies between the lowest and the largest value of a grid."""
    carrier = carrier_of(grid)
    bits = lax.bitcast_convert_type(x, carrier.word)
    magnitude = bits & _word(carrier.sign - 1, carrier)
    negative = bits > _word(carrier.sign, carrier)
    return magnitude <= jnp.where(negative, grid.lowest, grid.largest)


# --- the kernel -----------------------------------------------------------------------------


def round_to_grid(
    x: Float[Array, "..."],
    grid: Grid,
    *,
    mode: Rounding,
    policy: str,
    random: UInt[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """``x`` rounded to a grid whose leaves broadcast against it; no checks, no derivative."""
    carrier, grid = carrier_of(grid), jax.tree.map(jnp.asarray, grid)
    bits = lax.bitcast_convert_type(x, carrier.word)
    magnitude, negative = bits & grid.absolute, bits > grid.absolute + _word(1, carrier)
    # what lies in the first gap and does not fall to zero rounds as the first grid point does
    at_least_first = jnp.maximum(magnitude, grid.first)
    mask = _word(2**carrier.bits - 1, carrier) << _shift(at_least_first, grid, carrier)
    odd = _is_odd(at_least_first, ~mask + _word(1, carrier), grid)
    rounded = (at_least_first + _offset(mask, odd, negative, mode, random, carrier)) & mask
    rounded = _overflowed(rounded, magnitude, negative, grid, mode, policy, carrier)
    leaves_zero = _leaves_zero(magnitude, negative, grid, mode, random, carrier)
    signed = rounded | (bits & grid.sign)
    result = jnp.where(leaves_zero, signed, bits & grid.negative_zero)
    is_nan = magnitude > carrier.infinity
    if policy in ("ieee", "p3109"):
        is_nan = is_nan | ((rounded > carrier.infinity) & leaves_zero)
    result = jnp.where(is_nan, _word(carrier.nan, carrier), result)
    return lax.bitcast_convert_type(result, x.dtype)


def _word(value: int, carrier: Carrier) -> np.generic:
    return carrier.word.type(value)


def _shift(magnitude: Array, grid: Grid, carrier: Carrier) -> Array:
    """How many low bits of a magnitude's pattern lie below its gap.

    One more for each binade below the lowest of full precision. Below the carrier's own lowest
    binade, whose exponent field is 1, a step of the bit pattern no longer halves.
    """
    lowest = grid.quantum + (carrier.bias + carrier.mantissa_bits - 1)
    field = lax.convert_element_type(magnitude >> carrier.mantissa_bits, jnp.int32)
    shift = jnp.maximum(lowest - field, grid.dropped - 1) + jnp.minimum(field, 1)
    return lax.convert_element_type(shift, carrier.word)


def _is_odd(magnitude: Array, gap: Array, grid: Grid) -> Array:
    """Whether the code of a magnitude's lower neighbour is odd."""
    return ((magnitude & grid.parity_mask) ^ grid.parity_flip) & gap != 0


def _offset(mask, odd: Array, negative: Array, mode: Rounding, random, carrier: Carrier) -> Array:
    """What is added to a magnitude before the bits outside ``mask``, below its gap, are cut.

    It is always less than the gap, so that grid points stay where they are.
    """
    rest = ~mask
    ulp, zero = rest + _word(1, carrier), jnp.zeros_like(rest)
    match mode.mode:
        case "ties_to_even":
            return jnp.where(odd, ulp, rest) >> 1
        case "ties_to_away":
            return ulp >> 1
        case "ties_to_zero":
            return rest >> 1
        case "ties_to_odd":
            return jnp.where(odd, rest, ulp) >> 1
        case "up":
            return jnp.where(negative, zero, rest)
        case "down":
            return jnp.where(negative, rest, zero)
        case "toward_zero":
            return zero
        case "away_from_zero":
            return rest
        case "to_odd":
            return jnp.where(odd, zero, rest)
        case "stochastic":
            shift = _word(carrier.bits, carrier) - lax.population_count(rest)
            return lax.convert_element_type(random, carrier.word) << (carrier.bits - 32) >> shift
    raise AssertionError(mode)


def _leaves_zero(magnitude, negative, grid: Grid, mode: Rounding, random, carrier: Carrier):
    """Whether a magnitude rounds to a grid point other than zero.

    Beyond the first gap every magnitude does, and without a zero in the format all do.
    """
    one, first, half, inside = _word(1, carrier), grid.first, grid.half, None
    match mode.mode:
        case "ties_to_even" | "ties_to_zero":
            least = half + one
        case "ties_to_away" | "ties_to_odd":
            least = jnp.maximum(half, one)
        case "up":
            least = jnp.where(negative, first, one)
        case "down":
            least = jnp.where(negative, one, first)
        case "toward_zero":
            least = first
        case "away_from_zero" | "to_odd":
            least = one
        case "stochastic":
            least = first
            fraction = _first_gap_fraction(magnitude, grid, carrier)
            inside = fraction + random < fraction  # the sum carries out of 32 bits
    leaves = magnitude >= jnp.where(grid.smallest > 0, _word(0, carrier), least)
    return leaves if inside is None else leaves | inside


def _first_gap_fraction(magnitude: Array, grid: Grid, carrier: Carrier) -> UInt[Array, "..."]:
    """floor(fraction * 2**32) of a magnitude below the smallest gap.

    The fraction is the significand, the implicit bit included, times ``2**-shift``.
    """
    stored = carrier.mantissa_bits
    implicit = jnp.minimum(magnitude >> stored, _word(1, carrier)) << stored
    significand = (magnitude & _word((1 << stored) - 1, carrier)) | implicit
    shift, width = _shift(magnitude, grid, carrier), _word(32, carrier)
    wide = jnp.where(shift >= 32, significand >> (shift - width), significand << (width - shift))
    return lax.convert_element_type(wide, jnp.uint32)


def _overflowed(rounded, magnitude, negative, grid: Grid, mode: Rounding, policy: str, carrier):
    """The rounded magnitude, or what the policy makes of it beyond the largest or lowest value."""
    edge = jnp.where(negative, jnp.maximum(grid.lowest, grid.smallest), grid.largest)
    if policy == "saturate":
        return jnp.minimum(rounded, edge)
    infinity = _word(carrier.infinity, carrier)
    beyond = jnp.where(negative, grid.underflow, grid.overflow)
    if policy == "saturate_propagate":
        keeps = (magnitude == infinity) & (beyond == infinity)
        return jnp.where(keeps, infinity, jnp.minimum(rounded, edge))
    below_unsigned = negative & (grid.sign == 0)
    if policy == "p3109":
        beyond = jnp.where((beyond == infinity) | below_unsigned, beyond, edge)
    inward = _points_inward(negative, grid, mode, carrier)
    if inward is not None:
        back = inward & (magnitude < infinity) & ~below_unsigned
        beyond = jnp.where(back, edge, beyond)
    limit = jnp.where(negative, grid.lowest, grid.largest)
    return jnp.where(rounded > limit, beyond, rounded)


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
            ulp = _word(1, carrier) << _shift(grid.largest, grid, carrier)
            odd = _is_odd(grid.largest, ulp, grid)
            return odd | (grid.overflow != carrier.infinity)
    return None
