"""Where the numbers of a tree lie, and how many of them a format makes zero.

Of gradients this tells which loss scale they need: binary16 rounds magnitudes of at most 2^-25 to
zero.

Source: P. Micikevicius et al., Mixed precision training, arXiv:1710.03740, 3.2 and figure 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Grid
from qsim.numbers.records import require
from qsim.numbers.rounding import quantize, widen
from qsim.scales.arithmetic import absolute, split_magnitude

__all__ = ["exponent_counts", "flushed_fraction", "zero_fraction"]


def flushed_fraction(
    tree: PyTree, fmt: str | Format | Grid, *, scale: float | Float[Array, ""] = 1.0
) -> Float[Array, ""]:
    """The fraction of all numbers that are not zero, and are once scaled and rounded to a format.

    Args:
        tree: float32 or narrower arrays; others are left out.
        fmt: a spec string, a ``Format`` or a ``Grid``.
        scale: a factor before rounding, such as a loss scale.

    Raises:
        TypeError, ValueError: as ``qsim.quantize``; also for a tree without numbers.

    >>> flushed_fraction(jnp.array([1.0, 2.0**-26, 0.0, -(2.0**-20)]), "binary16").tolist()
    0.25
    """
    leaves = [widen(leaf) for leaf in jax.tree.leaves(tree) if _is_float(leaf)]
    count = _size(leaves)

    def flushed(x: Array) -> Array:
        rounded = quantize(x * jnp.asarray(scale, x.dtype), fmt)
        return jnp.sum((rounded == 0) & (absolute(x, CARRIERS[x.dtype.name]) > 0))

    return sum(flushed(leaf).astype(jnp.float32) for leaf in leaves) / count


def zero_fraction(tree: PyTree) -> Float[Array, ""]:
    """The fraction of all numbers that are zero; subnormal ones are not.

    Args:
        tree: floating-point arrays of any shapes; others are left out.

    Raises:
        ValueError: for a tree without numbers.

    >>> zero_fraction({"w": jnp.array([0.0, 1.0, -0.0]), "b": jnp.float32(1e-40)}).tolist()
    0.5
    """
    leaves = [widen(leaf) for leaf in jax.tree.leaves(tree) if _is_float(leaf)]
    zeros = [jnp.sum(absolute(x, CARRIERS[x.dtype.name]) == 0) for x in leaves]
    return sum(count.astype(jnp.float32) for count in zeros) / _size(leaves)


def exponent_counts(tree: PyTree, *, lowest: int = -40, highest: int = 16) -> Int[Array, " bins"]:
    """How many numbers have each exponent ``floor(log2(|x|))`` from the lowest to the highest.

    Args:
        tree: arrays; those that hold no floats are left out, as are zeros, infinities and NaNs.
        lowest, highest: exponents below or above are counted with these.

    Raises:
        ValueError: if ``lowest`` is above ``highest``.

    >>> exponent_counts(jnp.array([1.0, 3.0, -2.0, 0.0, 0.01]), lowest=-2, highest=2).tolist()
    [1, 0, 1, 2, 0]
    """
    require(lowest <= highest, f"the lowest exponent {lowest} is above the highest one, {highest}")
    counts = jnp.zeros(highest - lowest + 1, jnp.int32)
    for leaf in jax.tree.leaves(tree):
        if not _is_float(leaf):
            continue
        x = widen(leaf)
        magnitude = absolute(x, CARRIERS[x.dtype.name])
        exponent, _ = split_magnitude(magnitude, CARRIERS[x.dtype.name])
        counted = (magnitude > 0) & jnp.isfinite(x)
        place = jnp.clip(exponent, lowest, highest) - lowest
        counts = counts.at[place.ravel()].add(counted.ravel().astype(jnp.int32))
    return counts


def _size(leaves: list[Array]) -> int:
    count = sum(leaf.size for leaf in leaves)
    require(count > 0, "there is no fraction of no numbers: give a tree with floating-point arrays")
    return count


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
