"""Sums of gradients over replicas in a narrow format, with a factor that adjusts itself.

All replicas round to the format with one scaling factor, the least of theirs, times mu, and the
rounded gradients are added up in that format, which saturates::

    s = min over replicas of sf(amax(g_i))
    sum = round(... round(round(q_1) + q_2) + ... + q_k) / (s * mu),   q_i = round(g_i * s * mu)

With mu = 1 sums of many replicas overflow, with mu = 1 / k small gradients vanish. Automatic
scaling halves mu when too many results are the largest value of the format, and else lets it grow
so that it doubles over a window of steps.

Sources: H. Peng et al., FP8-LM, arXiv:2310.18313, 2.1 (automatic scaling); MS-AMP, its optimizer
for Megatron-LM (the share of largest values, growth by ``2**(1 / window)``, factors shared by their
minimum).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from qsim.arithmetic.elementwise import add
from qsim.arithmetic.room import require_room
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Grid
from qsim.numbers.modes import Rounding
from qsim.numbers.records import require
from qsim.numbers.rounding import quantize
from qsim.numbers.specs import format_of
from qsim.scales.arithmetic import absolute
from qsim.training.amax import amax, scaling_factor
from qsim.training.scaled_rounding import as_grid

__all__ = ["Reduced", "adjusted_mu", "all_reduced"]

SINGLE = CARRIERS["float32"]


class Reduced(NamedTuple):
    """A sum over replicas, and what the format made of it.

    Attributes:
        total: float32 ``[...]``, the sum of the gradients; the mean times k.
        factor: float32 ``[]``, what gradients were multiplied with before they were rounded.
        underflow: float32 ``[]``, the fraction of all gradients that are not zero and became zero.
        overflow: float32 ``[]``, the fraction of sums whose magnitude is the format's largest.
    """

    total: Array
    factor: Array
    underflow: Array
    overflow: Array


def all_reduced(
    gradients: Float[ArrayLike, "k ..."],
    fmt: str | Format | Grid,
    mu: float | Float[ArrayLike, ""] = 1.0,
    *,
    margin: int | Int[Array, ""] = 0,
) -> Reduced:
    """The sum of gradients over replicas, all rounded to and added up in one format.

    Args:
        gradients: float32 ``[k, ...]``, one row for each of k replicas, which are added in order.
        fmt: a spec string, a ``Format`` or a single ``Grid``, of at most 22 bits of precision.
        mu: a factor on top of the shared one; 1 is scaling after the sum, 1 / k before it.
        margin: as for ``scaling_factor``.

    Replicas of zeros, and those with an infinity or a NaN, have no say in the shared factor.

    Raises:
        TypeError: for other numbers.
        ValueError: for gradients of no replica, a format too precise for ``qsim.arithmetic.add``.

    >>> reduced = all_reduced(jnp.array([[1.0, 0.25], [2.0, 0.25]]), "e4m3fn", 0.5)
    >>> reduced.total.tolist(), reduced.factor.tolist()
    ([3.0, 0.5], 64.0)
    """
    gradients = jnp.asarray(gradients)
    require(
        gradients.ndim > 0 and gradients.shape[0] > 0,
        f"gradients have an axis of replicas in front, got the shape {gradients.shape}",
    )
    if isinstance(fmt, str | Format):
        require_room(format_of(fmt), Rounding("ties_to_even"), SINGLE)
    return _reduced(gradients, as_grid(fmt), jnp.asarray(mu, jnp.float32), margin)


@jax.jit
def _reduced(gradients: Array, grid: Grid, mu: Array, margin: Any) -> Reduced:
    """One call also where nothing else is compiled."""
    own = scaling_factor(jax.vmap(amax)(gradients), grid, margin=margin, previous=jnp.inf)
    least = jnp.min(own)
    factor = jnp.where(jnp.isinf(least), 1, least) * mu
    rounded = quantize(gradients * factor, grid)
    sums, _ = lax.scan(lambda total, q: (add(total, q, grid), None), rounded[0], rounded[1:])
    vanished = (rounded == 0) & (absolute(gradients, SINGLE) > 0)
    full = absolute(sums, SINGLE) >= grid.largest
    return Reduced(
        total=sums / factor,
        factor=factor,
        underflow=jnp.mean(vanished, dtype=jnp.float32),
        overflow=jnp.mean(full, dtype=jnp.float32),
    )


def adjusted_mu(
    mu: Float[ArrayLike, "..."],
    overflow: Float[ArrayLike, "..."],
    *,
    threshold: float = 1e-5,
    window: int | Int[Array, ""] = 1000,
) -> Float[Array, "..."]:
    """The factor mu for the next step.

    Args:
        mu: that of this step; MS-AMP begins with one over the root of the number of replicas.
        overflow: the fraction of results that were the largest value of the format.
        threshold: above this fraction mu is halved.
        window: steps over which mu doubles otherwise.

    Raises:
        ValueError: for a window shorter than one step.

    >>> mu = adjusted_mu(jnp.array([1.0, 1.0]), jnp.array([1e-4, 0.0]), window=1)
    >>> mu.tolist()
    [0.5, 2.0]
    """
    if isinstance(window, int):
        require(window >= 1, f"mu doubles over a window of one step or more, got window={window}")
    growth = jnp.exp2(1 / jnp.asarray(window, jnp.float32))
    return jnp.where(overflow > threshold, mu / 2, mu * growth)
