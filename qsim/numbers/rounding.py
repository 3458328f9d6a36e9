"""Rounding to emulated formats, bit for bit, with traced format parameters.

``quantize`` is the same for all families of formats: the rounding itself is the grid's.

Sources: the definitions in ``qsim.numbers.exact``, which this equals.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from qsim.numbers.complexes import RootsOfUnity, quantize_complex
from qsim.numbers.cut import lower_alone
from qsim.numbers.formats import Format
from qsim.numbers.gradients import check_gradient, surrogate
from qsim.numbers.grid import CARRIERS, Grid, carrier_of, lower, require_wraps
from qsim.numbers.integers import check_wrap
from qsim.numbers.modes import Rounding, check_overflow
from qsim.numbers.random_bits import Key, check_key, random_words
from qsim.numbers.records import shown
from qsim.numbers.specs import format_of, parse

__all__ = ["quantize"]


def quantize(
    x: Inexact[ArrayLike, "..."],
    fmt: str | Format | Grid,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Key | None = None,
    gradient: str = "clipped",
) -> Inexact[Array, "..."]:
    """``x`` rounded to the values of a format, in the dtype of ``x``.

    Args:
        x: floating-point array of any shape. A Python float counts as float32, or as float64
            with x64, as in jax.numpy. For the format ``roots4`` a complex array.
        fmt: a spec string, a ``Format``, a ``Grid``, or a stacked ``Grid``, which adds its
            leading axes in front of those of ``x``.
        rounding: a mode of ``qsim.ROUNDINGS``; ``"stochastic:N"`` and its variants draw N
            random bits (1 to 32).
        overflow: a policy of ``qsim.OVERFLOWS``.
        key: the random key that stochastic rounding needs, of ``jax.random.key`` or, faster, of
            ``qsim.counter_key``. Every row of a stacked grid sees the same random bits, so that
            formats are compared under the same noise; so do the rows of a ``jax.vmap`` that
            captures the key, unless each folds its number in (``qsim.fold_in``).
        gradient: what stands in for the derivative: ``"clipped"`` is 1 inside the format's range
            and 0 outside it, ``"identity"`` 1; others in ``qsim.numbers.gradients``.

    NaN stays NaN. The result has the same bytes eagerly, under ``jit`` and under ``vmap``.

    Raises:
        TypeError: if ``x`` is not a float array, or not a complex one for ``roots4``, the dtype is
            not that of the grid's carrier, or ``key`` is not a key.
        ValueError: for an unknown name, a format that the dtype of ``x`` cannot hold, a missing
            or superfluous key.

    >>> quantize(jax.numpy.array([0.3, 1.2, 500.0]), "e4m3fn").tolist()
    [0.3125, 1.25, 448.0]
    """
    mode, policy = Rounding.parse(rounding), check_overflow(overflow)
    check_gradient(gradient)
    check_key(key, rounding)
    if not isinstance(fmt, Grid):
        return _quantize_to_format(x, format_of(fmt), mode, policy, key, gradient)
    x = require_float(x)
    _require_carrier(x, fmt)
    random = None if key is None else random_words(key, x.shape, mode)
    rounded = partial(_compiled, mode, policy, gradient)
    for _ in fmt.shape:
        rounded = jax.vmap(rounded, in_axes=(None, 0, None))
    return rounded(x, fmt, random)


def _quantize_to_format(x, fmt: Format, mode: Rounding, policy: str, key, gradient: str):
    """A single format: narrow floats are carried in float32, where they are exact."""
    check_wrap(fmt, policy)
    if isinstance(fmt, RootsOfUnity):
        return quantize_complex(x, mode=mode)
    x = require_float(x)
    dtype = np.dtype(x.dtype)
    if dtype.name in CARRIERS:
        grid, wide = lower_alone(fmt, dtype.name), x
    else:
        _require_held(fmt, dtype)
        grid, wide = lower_alone(fmt), widen(x)
    random = None if key is None else random_words(key, x.shape, mode)
    return _compiled(mode, policy, gradient, wide, grid, random).astype(dtype)


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
        raise TypeError(f"qsim expects a floating-point array, got {type(x).__name__} {shown(x)}")
    if dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "float64 input would be truncated to float32 before it is rounded (double rounding); "
            "cast it to float32 yourself or enable jax_enable_x64"
        )
    if dtype not in (np.float16, jnp.bfloat16, np.float32, np.float64):
        complex_too = jnp.issubdtype(dtype, np.complexfloating)
        raise TypeError(
            f"qsim expects floating-point input, got {dtype}; cast it explicitly"
            + (" (the format 'roots4' alone rounds complex numbers)" if complex_too else "")
        )
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
            f"{fmt} has values that {dtype.name} cannot hold: cast the array to {_carrier(fmt)} "
            "first"
        )


def _carrier(fmt: Format) -> str:
    """The narrower of the carriers of a format."""
    try:
        lower(fmt)
    except ValueError:
        return "float64"
    return "float32"


def require_single(x, what: str) -> Array:
    """``x`` as a JAX array of float32; narrower floats are widened, a Python float is rounded.

    Args:
        what: that is of float32, in the plural, for the message.

    Raises:
        TypeError: for other numbers, float64 among them.
        ValueError: as ``require_float``.
    """
    wide = widen(require_float(np.float32(x) if type(x) is float else x))
    if wide.dtype != jnp.float32:
        raise TypeError(f"{what} are of float32, got {wide.dtype}: cast to float32")
    return wide


def widen(x: Array) -> Array:
    """A 16-bit float as float32, exactly; wider floats as they are."""
    return x.astype(jnp.float32) if x.dtype in (np.float16, jnp.bfloat16) else x


# --- the derivative -------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(mode: Rounding, policy: str, gradient: str, x, grid: Grid, random):
    """One call also where nothing else is compiled; the grid is traced."""
    return _straight_through(mode, policy, gradient, x, grid, random)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _straight_through(mode: Rounding, policy: str, gradient: str, x, grid: Grid, random):
    require_wraps(grid, policy)
    return grid.round(x, mode=mode, policy=policy, random=random)


@_straight_through.defjvp
def _straight_through_jvp(mode, policy, gradient, primals, tangents):
    x, grid, random = primals
    rounded = _straight_through(mode, policy, gradient, x, grid, random)
    return rounded, surrogate(gradient, grid, x, tangents[0])
