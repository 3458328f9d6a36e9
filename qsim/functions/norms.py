"""Normalisations as hardware computes them, by programs that differ in how they find the variance.

Each is a JAX function of float32 numbers; under ``qsim.simulate(fn, "all=bfloat16")`` every step is
rounded.

Sources: J. L. Ba et al., Layer normalization, arXiv:1607.06450; B. Zhang and R. Sennrich, Root mean
square layer normalization, arXiv:1910.07467; T. F. Chan, G. H. Golub and R. J. LeVeque, Algorithms
for computing the sample variance, The American Statistician 37(3), 1983 (the three programs).
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.functions.elementary import rsqrt
from qsim.numbers.modes import require_one_of
from qsim.numbers.rounding import require_single

__all__ = ["VARIANCES", "layer_norm", "rms_norm"]

Operand = Float[ArrayLike, "..."]
Result = Float[Array, "..."]


def layer_norm(
    x: Operand,
    scale: Operand | None = None,
    bias: Operand | None = None,
    *,
    eps: float = 1e-5,
    how: str = "two_pass",
) -> Result:
    """``(x - mean) * rsqrt(variance + eps) * scale + bias`` along the last axis.

    Args:
        x: floats of at most 32 bits, [..., n].
        scale, bias: [n], or a number; None for none.
        eps: what is added to the variance, at least 0.
        how: a name of ``VARIANCES``:

            - ``two_pass``: the mean, then the mean of the squares of what is above it;
            - ``one_pass``: the mean of the squares less the square of the mean, which cancel where
              the mean is large; below zero it is taken for zero;
            - ``welford``: mean and squares brought up to date by one element after the other.

    Raises:
        TypeError: for other numbers.
        ValueError: for a program that is none, no elements to take the mean of, a scale or a bias
            of another length, or an ``eps`` below zero.

    >>> layer_norm(jnp.array([1.0, 2.0, 3.0]), eps=0.0).tolist()
    [-1.2247447967529297, 0.0, 1.2247447967529297]
    """
    require_one_of("layer norm", how, VARIANCES)
    x = _rows(x, eps)
    mean, variance = VARIANCES[how](x)
    return _finished((x - mean) * rsqrt(variance + eps), scale, bias)


def rms_norm(x: Operand, scale: Operand | None = None, *, eps: float = 1e-6) -> Result:
    """``x * rsqrt(mean(x * x) + eps) * scale`` along the last axis; otherwise as ``layer_norm``.

    >>> rms_norm(jnp.array([3.0, 4.0, 0.0, 0.0]), eps=0.0).tolist()
    [1.2000000476837158, 1.600000023841858, 0.0, 0.0]
    """
    x = _rows(x, eps)
    return _finished(x * rsqrt(_mean(x * x) + eps), scale, None)


def _rows(x: Operand, eps: float) -> Result:
    x = require_single(x, "these programs")
    if isinstance(eps, (int, float)) and not 0 <= eps < math.inf:  # or it is traced
        raise ValueError(f"eps is {eps}, but it is added to a variance: at least 0, such as 1e-5")
    if not x.ndim or not x.shape[-1]:
        raise ValueError(
            f"an array of shape {list(x.shape)} has no elements along its last axis: there is no "
            "mean of nothing"
        )
    return x


def _mean(x: Result) -> Result:
    return x.sum(-1, keepdims=True) * (1.0 / x.shape[-1])


def _two_pass(x: Result) -> tuple[Result, Result]:
    mean = _mean(x)
    apart = x - mean
    return mean, _mean(apart * apart)


def _one_pass(x: Result) -> tuple[Result, Result]:
    mean = _mean(x)
    return mean, jnp.maximum(_mean(x * x) - mean * mean, 0.0)


def _welford(x: Result) -> tuple[Result, Result]:
    columns = jnp.moveaxis(x, -1, 0)
    # constants: a float that counts would be rounded, and in bfloat16 stop at 256
    shares = 1.0 / np.arange(1, len(columns) + 1, dtype=np.float32)

    def add(state, element):
        (mean, squares), (column, share) = state, element
        apart = column - mean
        mean = mean + apart * share
        return (mean, squares + apart * (column - mean)), None

    nothing = jnp.zeros_like(columns[0])
    (mean, squares), _ = lax.scan(add, (nothing, nothing), (columns, jnp.asarray(shares)))
    return mean[..., None], squares[..., None] * (1.0 / x.shape[-1])


def _finished(x: Result, scale: Operand | None, bias: Operand | None) -> Result:
    x = x if scale is None else x * _along(scale, x, "scales")
    return x if bias is None else x + _along(bias, x, "biases")


def _along(factors: Operand, x: Result, what: str) -> Result:
    factors = require_single(factors, what)
    if factors.shape not in ((), x.shape[-1:]):
        raise ValueError(
            f"{what} are of shape {list(factors.shape)}, but rows have {x.shape[-1]} elements: "
            f"give an array of shape [{x.shape[-1]}], or a number"
        )
    return factors


VARIANCES = {"two_pass": _two_pass, "one_pass": _one_pass, "welford": _welford}
