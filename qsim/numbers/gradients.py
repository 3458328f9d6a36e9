"""What stands in for the derivative of rounding, which is zero almost everywhere.

Sources: arXiv:1308.3432 (straight-through estimator); arXiv:2502.05003, 3.2 (trust estimator of
QuEST); arXiv:2501.17116, 3.1 (differentiable gradient estimator, with the bound of 3).
"""

import re

import jax.numpy as jnp
from jaxtyping import Array, Float

from qsim.numbers.grid import Grid
from qsim.numbers.modes import Rounding, suggest
from qsim.numbers.records import shown

__all__ = ["GRADIENTS", "check_gradient", "surrogate"]

GRADIENTS = {
    "clipped": "1 inside the range of the format, 0 outside it",
    "identity": "1 everywhere",
    "trust": "1 where rounding moves a number by at most half of the largest gap, else 0",
    "dge": "between neighbours that of a power function, dge:K with its exponent 1/K (dge:5)",
}
STEEPEST = 3.0  # the bound of the derivative of dge
UP, DOWN = Rounding("up"), Rounding("down")


def check_gradient(gradient: str) -> str:
    """``gradient`` itself, if it names a derivative.

    Raises:
        ValueError: for an unknown one, and an exponent of ``dge`` that is not above 1.
    """
    name, colon, number = str(gradient).partition(":")
    if name not in GRADIENTS or (colon and name != "dge"):
        raise ValueError(f"no gradient {shown(gradient)}; {suggest(name[:40], list(GRADIENTS))}")
    if colon and not (re.fullmatch(r"\d{1,3}(\.\d{1,3})?", number) and float(number) > 1):
        raise ValueError(f"gradient {shown(gradient)} needs a number above 1, such as dge:5")
    return gradient


def surrogate(
    gradient: str, grid: Grid, x: Float[Array, "..."], tangent: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The tangent of rounding ``x`` to a grid, by a key of ``GRADIENTS``."""
    name, _, number = gradient.partition(":")
    match name:
        case "identity":
            return tangent
        case "clipped":
            passes = grid.inside(x)
        case "trust":
            passes = grid.trusts(x)
        case _:
            passes, tangent = grid.inside(x), tangent * _slope(grid, x, float(number or 5))
    return jnp.where(passes, tangent, jnp.zeros_like(tangent))


def _slope(grid: Grid, x: Array, exponent: float) -> Array:
    """The derivative of ``sign(2t - 1) |2t - 1|**(1 / exponent)``, half of it, at the place t of
    a number between its neighbours."""
    low, high = (grid.round(x, mode=mode, policy="saturate") for mode in (DOWN, UP))
    gap = jnp.where(high > low, high - low, jnp.ones_like(x))
    off_centre = jnp.abs(2 * (x - low) / gap - 1)
    power = jnp.maximum(off_centre, jnp.finfo(x.dtype).tiny) ** (1 / exponent - 1)
    return jnp.minimum(power / exponent, STEEPEST)
