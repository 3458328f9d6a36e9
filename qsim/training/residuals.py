"""Residuals of few bits: an exact forward pass, and a backward pass from rounded activations.

What a backward pass needs of the forward pass is what memory is spent on. For a function y = f(x)
and the gradient g of y::

    y = f(x),   saved = round(x),   gradient of x = (df / dx at saved) applied to g

so that nothing else is rounded, and errors do not add up from layer to layer as they do when
activations themselves are rounded. Scales are those of the format: one for a tensor, or with a
block format one for each head, ``int8[channel@1]``, or with a zero point,
``uint8[channel@1,zero_point]``. Or they follow a running estimate of the range, which is a state.

Source: Z. Pan et al., Mesa: A memory-saving training framework for Transformers, arXiv:2111.11124,
3 (exact forward, head-wise scales, running estimates with a decay of 0.9).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.random_bits import Key, check_key, fold_in
from qsim.numbers.records import require
from qsim.numbers.specs import format_of
from qsim.simulate.quantizer import MODES, Quantizer, check_modes
from qsim.training.scaled_rounding import as_grid, as_quantizer, largest_of, quantize_at

__all__ = ["RunningRange", "low_bit_residuals", "running_range", "running_residuals"]


def low_bit_residuals(
    fn: Callable,
    fmt: str | Format | Grid | Quantizer,
    *,
    argnums: int | tuple[int, ...] = 0,
    scale: str = "absmax",
    rounding: str = "ties_to_even",
) -> Callable:
    """A function with the results of ``fn``, whose gradients are taken at rounded arguments.

    Args:
        fn: a function of arrays, or trees of them, by position; the values that it is to be
            differentiated by must be among its arguments. Its backward pass computes it again.
        fmt: a spec string, a ``Format``, a single ``Grid`` or a ``Quantizer``.
        argnums: the arguments that are saved on the format; the others, such as weights, are
            saved as they are.
        scale, rounding: of formats and grids, as for ``Quantizer``.

    The function takes a random key as ``key=``, which stochastic rounding needs. Arguments of 16
    bits are saved in 16 bits: scaled numbers are rounded to these too. There is no forward-mode
    derivative.

    Raises:
        TypeError, ValueError: for unknown formats and modes; when called, for a missing or
            superfluous key, or arguments that are not there.

    >>> square = low_bit_residuals(jnp.square, "int4sym")
    >>> x = jnp.array([7.0, 2.4])
    >>> square(x).tolist(), jax.grad(lambda x: square(x).sum())(x).tolist()
    ([49.0, 5.760000228881836], [14.0, 4.0])
    """
    fmt = format_of(fmt) if isinstance(fmt, str) else fmt
    check_modes(**{**MODES, "rounding": rounding, "scale": scale})
    argnums = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def with_rounded_residuals(*args: Any, key: Key | None = None) -> Any:
        places = _counted(argnums, args)
        leaves = jax.tree.leaves([args[place] for place in places])
        wide = any(jnp.result_type(leaf) == jnp.float64 for leaf in leaves)
        carrier = "float64" if wide else "float32"
        quantizer = as_quantizer(fmt, carrier, rounding=rounding, scale=scale)
        check_key(key, quantizer.rounding)
        return _apart(fn, places, quantizer, key, args)

    return with_rounded_residuals


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apart(fn: Callable, places: tuple[int, ...], rounder: Callable, key: Any, args: tuple) -> Any:
    return fn(*args)


def _forward(fn, places, rounder, key, args):
    saved = [
        _saved(rounder, arg, _folded(key, place)) if place in places else arg
        for place, arg in enumerate(args)
    ]
    return fn(*args), tuple(saved)


def _backward(fn, places, saved, gradient):
    _, pull_back = jax.vjp(fn, *saved)
    return None, None, pull_back(gradient)


_apart.defvjp(_forward, _backward)


def _saved(rounder: Callable, tree: Any, key: Key | None) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    rounded = [
        rounder(leaf, _folded(key, number)).astype(leaf.dtype)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        else leaf
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, rounded)


def _folded(key: Key | None, number: int) -> Key | None:
    return None if key is None else fold_in(key, number)


def _counted(places: tuple[int, ...], args: tuple) -> tuple[int, ...]:
    """The places of arguments, counted from the first one."""
    for place in places:
        require(
            -len(args) <= place < len(args),
            f"argument {place} is to be saved on a format, but there are {len(args)} arguments by "
            "position: change argnums, or pass it by position",
        )
    return tuple(place % len(args) for place in places)


# --- a running estimate of the range --------------------------------------------------------


@pytree
@dataclass(frozen=True, kw_only=True)
class RunningRange:
    """A running estimate of the least and the largest activation.

    Attributes:
        low, high: float32, of a shape that broadcasts against the activations.
        steps: int32 of shape ``[]``, batches seen.

    ``low(t+1) = decay * low(t) + (1 - decay) * min(x)``, and the first batch counts in full.
    """

    low: Any
    high: Any
    steps: Any


def running_range(shape: tuple[int, ...], axes: tuple[int, ...] = ()) -> RunningRange:
    """An estimate that has seen nothing, for activations of a shape.

    Args:
        shape: of the activations.
        axes: those along which every index has a range of its own, such as that of heads.

    Raises:
        ValueError: for axes that there are not.

    >>> running_range((8, 4, 16, 16), axes=(1,)).low.shape
    (1, 4, 1, 1)
    """
    for axis in axes:
        require(
            -len(shape) <= axis < len(shape),
            f"there is no axis {axis} in an array of shape {shape}: give axes that it has",
        )
    own = {axis % len(shape) for axis in axes}
    zeros = jnp.zeros([n if axis in own else 1 for axis, n in enumerate(shape)], jnp.float32)
    return RunningRange(low=zeros, high=zeros, steps=jnp.int32(0))


def running_residuals(
    fn: Callable,
    fmt: str | Format | Grid = "uint8",
    *,
    argnum: int = 0,
    decay: float = 0.9,
    rounding: str = "ties_to_even",
) -> Callable:
    """As ``low_bit_residuals``, of one array within an estimated range, which is a state.

    Args:
        fn: as for ``low_bit_residuals``.
        fmt: an unsigned integer or another format; zero stands for the least activation, its
            largest value for the largest, and what is beyond saturates.
        argnum: the argument that is saved, an array.
        decay: of the estimate.
        rounding: a mode of ``qsim.ROUNDINGS``.

    The function takes a ``RunningRange`` first and returns a pair: what ``fn`` does, and the range
    that has seen this batch, in which this batch is saved.

    Raises:
        ValueError: for a decay outside 0 <= decay < 1; when called as ``low_bit_residuals``.

    >>> square = running_residuals(jnp.square, "uint2")
    >>> x = jnp.array([1.0, 3.1, 4.0])
    >>> def loss(x, seen):
    ...     y, seen = square(seen, x)
    ...     return y.sum(), seen
    >>> slopes, seen = jax.grad(loss, has_aux=True)(x, running_range((3,)))
    >>> slopes.tolist(), seen.high.tolist()
    ([2.0, 6.0, 8.0], [4.0])
    """
    require(0 <= decay < 1, f"a decay lies in 0 <= decay < 1, got {decay}: try 0.9")
    grid = as_grid(fmt)

    def with_running_range(seen: RunningRange, *args: Any, key: Key | None = None) -> Any:
        check_key(key, rounding)
        places = _counted((argnum,), args)
        seen = _observed(seen, lax.stop_gradient(args[places[0]]), decay)
        rounder = _WithinRange(grid=grid, low=seen.low, high=seen.high, rounding=rounding)
        return _apart(fn, places, rounder, key, args), seen

    return with_running_range


def _observed(seen: RunningRange, x: Array, decay: float) -> RunningRange:
    x = x.astype(jnp.float32)
    axes = tuple(axis for axis, n in enumerate(seen.low.shape) if n == 1)
    low, high = jnp.min(x, axes, keepdims=True), jnp.max(x, axes, keepdims=True)

    def averaged(old: Array, new: Array) -> Array:
        return jnp.where(seen.steps > 0, decay * old + (1 - decay) * new, new)

    low, high = averaged(seen.low, low), averaged(seen.high, high)
    return RunningRange(low=low, high=high, steps=seen.steps + 1)


@pytree
@dataclass(frozen=True, kw_only=True)
class _WithinRange:
    """Rounding to a grid whose zero and largest value are the ends of a range."""

    grid: Grid
    low: Any
    high: Any
    rounding: str = static()

    def __call__(self, x: Float[Array, "..."], key: Key | None = None) -> Float[Array, "..."]:
        tiny = jnp.finfo(jnp.float32).tiny
        scale = jnp.maximum((self.high - self.low) / largest_of(self.grid), tiny)
        above = x.astype(jnp.float32) - self.low
        return self.low + quantize_at(above, scale, self.grid, rounding=self.rounding, key=key)
