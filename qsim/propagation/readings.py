"""What scales and data look like at every operation of a program: a scale trace.

For numbers x = data * scale, of which formats hold the data::

    rms       = sqrt(mean(data^2))
    underflow = the share of the data above zero in magnitude that a format rounds to zero
    overflow  = the share of the data beyond the format's largest value
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qsim.numbers.formats import Format
from qsim.numbers.grid import lower
from qsim.numbers.rounding import quantize
from qsim.numbers.specs import format_of
from qsim.propagation.transform import propagation
from qsim.propagation.watch import Watch
from qsim.scales.scaled import ScaledArray, norm

__all__ = ["Reading", "scale_trace"]


class Reading(NamedTuple):
    """What is read at a site; arrays, so that those of training steps stack.

    Attributes:
        scale: the scale, float32.
        rms: of the data, float32.
        underflow, overflow: shares of the data, float32 [formats].
    """

    scale: Float[Array, "..."]
    rms: Float[Array, "..."]
    underflow: Float[Array, "... formats"]
    overflow: Float[Array, "... formats"]


def scale_trace(
    fn: Callable, formats: Sequence[str | Format], policy: Any = None, **options: Any
) -> Callable:
    """A function like ``scale_propagation(fn, policy)`` that also reads every site.

    Args:
        fn, policy: as for ``qsim.scale_propagation``.
        formats: those that the data is held against.
        options: the rest of ``qsim.scale_propagation``'s arguments.

    The returned function gives ``(results, readings)``. Readings are by site: the path and the
    primitive of an operation, and a number if there are several; of the iterations of a scan,
    which is unrolled, each has its own. Operations in ``while``, ``cond``, ``remat`` and functions
    with derivative rules of their own are not read.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``qsim.scale_propagation``.

    >>> x = ScaledArray(jnp.array([1.5, 2.0**-12]), jnp.float32(64))
    >>> _, readings = scale_trace(lambda x: 3 * x, ["e4m3", "e5m10"])(x)
    >>> reading = readings["mul"]
    >>> reading.scale.tolist(), reading.underflow.tolist()
    (128.0, [0.5, 0.0])
    """
    chosen = [format_of(fmt) for fmt in formats]

    @wraps(fn)
    def traced(*args, **kwargs):
        watch = Watch(lambda x: _reading(x, chosen))
        results = propagation(fn, policy, watch=watch, **options)(*args, **kwargs)
        return results, watch.seen

    return traced


def _reading(x: ScaledArray, formats: Sequence[Format]) -> Reading:
    data = jax.lax.stop_gradient(x.data).astype(jnp.float32)
    count = jnp.float32(max(data.size, 1))
    some = data != 0
    lost, beyond = [], []
    for fmt in formats:
        grid = lower(fmt)
        rounded = quantize(data, grid)
        lost.append(_count(some & (rounded == 0)) / jnp.maximum(_count(some), 1))
        beyond.append(_count(jnp.abs(data) > float(fmt.largest)) / count)
    rows = (jnp.array(shares, jnp.float32) for shares in (lost, beyond))
    return Reading(x.scale, norm(data, "l2"), *rows)


def _count(where: Array) -> Array:
    return jnp.sum(where, dtype=jnp.float32)
