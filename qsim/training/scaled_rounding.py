"""Rounding at a scale that is given: by a history, by statistics, or by hand.

With the scale s, a number above zero for each element, and correctly rounded operations::

    quantize_at(x, s) = s * round(x / s, to the format)

``qsim.scales`` has the rules that take the scale from the numbers that are rounded; training often
takes it from elsewhere, such as the gradients of earlier steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.numbers.cut import lower_alone
from qsim.numbers.formats import Format
from qsim.numbers.gradients import check_gradient, surrogate
from qsim.numbers.grid import CARRIERS, Grid, carrier_of
from qsim.numbers.integers import check_wrap
from qsim.numbers.modes import Rounding, check_overflow
from qsim.numbers.random_bits import Key, check_key, random_words
from qsim.numbers.rounding import require_float, widen
from qsim.numbers.specs import format_of
from qsim.scales.arithmetic import divided, multiplied
from qsim.scales.block_grid import BlockGrid
from qsim.simulate.quantizer import Quantizer

__all__ = ["as_grid", "as_quantizer", "largest_of", "quantize_at"]


def as_grid(fmt: str | Format | Grid, carrier: str = "float32") -> Grid:
    """The grid of a format in a carrier; a single ``Grid`` of that carrier is returned as it is.

    Raises:
        TypeError: for something else, or a grid of another carrier.
        ValueError: for an unknown name, a format that the carrier cannot hold, a stack of grids.

    >>> as_grid("e4m3fn").kind
    'BinadeGrid'
    """
    if not isinstance(fmt, Grid):
        return lower_alone(format_of(fmt), carrier)
    if carrier_of(fmt).name != carrier:
        raise TypeError(
            f"this grid's values are carried in {carrier_of(fmt).name}, but the numbers are "
            f"{carrier}: lower the format to {carrier}"
        )
    if fmt.shape:
        raise ValueError(
            f"one format is needed here, got a stack of shape {fmt.shape}: use jax.vmap over it"
        )
    return fmt


def as_quantizer(
    fmt: str | Format | Grid | Quantizer,
    carrier: str = "float32",
    *,
    rounding: str = "ties_to_even",
    scale: str = "none",
) -> Quantizer:
    """The quantizer of a format with these modes; one that has modes of its own stays as it is.

    Args:
        fmt: a spec string, a ``Format``, a single ``Grid`` or a ``Quantizer``.
        carrier: float32 or float64.
        rounding, scale: as for ``Quantizer``; block formats have scales of their own.

    Raises:
        TypeError, ValueError: as ``as_grid``, and for unknown modes.

    >>> as_quantizer("int4sym", scale="absmax")(jnp.array([7.0, -3.4])).tolist()
    [7.0, -3.0]
    """
    if isinstance(fmt, Quantizer):
        return fmt
    grid = as_grid(fmt, carrier)
    own = isinstance(grid, BlockGrid)
    return Quantizer(grid=grid, rounding=rounding, scale="none" if own else scale)


def largest_of(grid: Grid) -> Float[Array, ""]:
    """The largest value of a single grid, in its carrier.

    >>> largest_of(as_grid("e5m2")).tolist()
    57344.0
    """
    return lax.bitcast_convert_type(jnp.asarray(grid.largest), jnp.dtype(carrier_of(grid).name))


def quantize_at(
    x: Float[ArrayLike, "..."],
    scale: Float[ArrayLike, "..."],
    fmt: str | Format | Grid,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Key | None = None,
    gradient: str = "clipped",
) -> Float[Array, "..."]:
    """``scale * round(x / scale)``, in float32, or float64 for float64 numbers.

    Args:
        x: floating-point array of any shape.
        scale: above zero and normal, of a shape that broadcasts to that of ``x``; not checked, and
            not differentiated. A NaN makes what it scales NaN.
        fmt: a spec string, a ``Format`` or a single ``Grid``.
        rounding, overflow, key, gradient: as for ``qsim.quantize``.

    With a scale of 1, numbers are rounded as ``qsim.quantize`` does. Products and quotients that
    are subnormal in the carrier lose digits.

    Raises:
        TypeError: as ``qsim.quantize``.
        ValueError: as ``qsim.quantize``; for a stack of grids, or a scale of another shape.

    >>> quantize_at(jnp.array([1.0, 3.5, -40.0]), jnp.float32(4), "e2m1f").tolist()
    [0.0, 4.0, -24.0]
    """
    mode, policy = Rounding.parse(rounding), check_overflow(overflow)
    check_gradient(gradient)
    check_key(key, rounding)
    x = widen(require_float(x))
    if isinstance(fmt, str | Format):
        check_wrap(format_of(fmt), policy)
    grid = jax.tree.map(jnp.asarray, as_grid(fmt, x.dtype.name))
    scale = jnp.asarray(scale).astype(x.dtype)
    if jnp.broadcast_shapes(scale.shape, x.shape) != x.shape:
        raise ValueError(
            f"scales of shape {scale.shape} are more than those of an array of shape {x.shape}: "
            "give one for each number, or a shape that broadcasts to it"
        )
    random = None if key is None else random_words(key, x.shape, mode)
    scale = lax.stop_gradient(scale.reshape((1,) * (x.ndim - scale.ndim) + scale.shape))
    return _compiled(mode, policy, gradient, x, scale, grid, random)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(mode: Rounding, policy: str, gradient: str, x, scale, grid: Grid, random):
    """One call also where nothing else is compiled."""
    return _straight_through(mode, policy, gradient, x, scale, grid, random)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _straight_through(mode: Rounding, policy: str, gradient: str, x, scale, grid: Grid, random):
    rounded = grid.round(_unscaled(x, scale), mode=mode, policy=policy, random=random)
    return jnp.where(scale == 1, rounded, multiplied(rounded, scale, carrier_of(grid)))


@_straight_through.defjvp
def _straight_through_jvp(mode, policy, gradient, primals, tangents):
    x, scale, grid, random = primals
    result = _straight_through(mode, policy, gradient, x, scale, grid, random)
    return result, surrogate(gradient, grid, _unscaled(x, scale), tangents[0])


def _unscaled(x: Array, scale: Array) -> Array:
    return jnp.where(scale == 1, x, divided(x, scale, CARRIERS[x.dtype.name]))
