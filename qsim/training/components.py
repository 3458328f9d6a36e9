"""Pairs of numbers of one narrow format, and what updates lose to rounding.

A pair (x, d) stands for x + d, where d is what x has lost to rounding. With every operation rounded
once to the format, a number a is added by ``qsim.arithmetic.grow``, and two pairs are multiplied by
an exact product and its corrections::

    grow(x, d; a):    s, e = fast_two_sum(x, a);   fast_two_sum(s, d + e)
    (x, d) * (y, f):  p, e = two_product(x, y);    fast_two_sum(p, e + (x f + d y))

Source: T. Yu et al., Collage: Light-weight low-precision strategy for LLM training,
arXiv:2405.03637, 3, with the metrics of section 4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from qsim.arithmetic.elementwise import add, multiply, subtract
from qsim.arithmetic.error_free import fast_two_sum, two_product
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Grid
from qsim.numbers.records import require
from qsim.numbers.rounding import quantize, require_float, widen
from qsim.scales.arithmetic import absolute

__all__ = ["Pair", "edq", "lost_update", "pair_of", "product"]


class Pair(NamedTuple):
    """An unevaluated sum of two arrays of numbers of one format.

    Attributes:
        value: the number nearest to the sum.
        residue: what the value has lost.
    """

    value: Any
    residue: Any


def pair_of(x: Float[ArrayLike, "..."], fmt: str | Format | Grid) -> Pair:
    """The pair nearest to numbers: ``value = round(x)``, ``residue = round(x - value)``.

    Raises:
        TypeError, ValueError: as ``qsim.arithmetic.subtract``.

    >>> [x.tolist() for x in pair_of(jnp.float32(0.999), "bfloat16")]
    [1.0, -0.00099945068359375]
    """
    x = widen(require_float(x))
    value = quantize(x, fmt)
    return Pair(value, subtract(x, value, fmt))


def product(a: Pair, b: Pair, fmt: str | Format | Grid) -> Pair:
    """The product of two pairs, the product of both residues left out.

    Args:
        a, b: pairs of arrays of one shape, of numbers of the format.
        fmt: a spec string, a ``Format`` or a single ``Grid``.

    Raises:
        TypeError, ValueError: as ``qsim.arithmetic.multiply``.

    >>> decay = pair_of(jnp.float32(0.999), "bfloat16")
    >>> [x.tolist() for x in product(pair_of(jnp.float32(1.5), "bfloat16"), decay, "bfloat16")]
    [1.5, -0.001495361328125]
    """
    high, error = two_product(a.value, b.value, fmt)
    cross = add(multiply(a.value, b.residue, fmt), multiply(a.residue, b.value, fmt), fmt)
    return Pair(*fast_two_sum(high, add(error, cross, fmt), fmt))


# --- metrics --------------------------------------------------------------------------------


def lost_update(params: PyTree, updates: PyTree, fmt: str | Format | Grid) -> Float[Array, ""]:
    """The fraction of parameters that an update does not change, though it is not zero.

    Args:
        params, updates: trees of float32 arrays of numbers of the format; of ``collage``,
            ``state.value`` and the ``intended`` of the next state.
        fmt: a spec string, a ``Format`` or a single ``Grid``.

    Raises:
        TypeError, ValueError: as ``qsim.arithmetic.add``; for a tree without arrays.

    >>> lost_update(jnp.ones(2), jnp.array([2.0**-9, 2.0**-7]), "bfloat16").tolist()
    0.5
    """

    def bits(x: Array) -> Array:
        return absolute(x, CARRIERS[x.dtype.name])

    def lost(x: Array, change: Array) -> Array:
        return jnp.sum((bits(add(x, change, fmt)) == bits(x)) & (bits(change) > 0))

    counts = jax.tree.leaves(jax.tree.map(lost, params, updates))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    require(size > 0, "there is no fraction of no parameters: give a tree with arrays")
    return sum(count.astype(jnp.float32) for count in counts) / size


def edq(intended: PyTree, realised: PyTree) -> Float[Array, ""]:
    """The effective descent quality: the length of an update in the direction that was meant.

    ``<u / |u|, v>`` for the update u that was meant and v that became of it, over all arrays of
    both trees; where nothing is lost this is |u|. It is 0 if u is.

    >>> edq(jnp.array([3.0, 4.0]), jnp.array([3.0, 0.0])).tolist()
    1.7999999523162842
    """

    def inner(a: PyTree, b: PyTree) -> Array:
        terms = jax.tree.map(lambda x, y: jnp.sum(x * y, dtype=jnp.float32), a, b)
        return jnp.asarray(sum(jax.tree.leaves(terms)), jnp.float32)

    length = jnp.sqrt(inner(intended, intended))
    return jnp.where(length > 0, inner(intended, realised) / jnp.where(length > 0, length, 1), 0)
