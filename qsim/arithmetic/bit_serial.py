"""Integer products bit by bit: hardware that multiplies by one bit at a time, or looks sums up.

An integer b of B bits is a sum of bit planes, which are 0 or 1, with powers of two as weights; in
two's complement that of the highest plane is negative::

    b = sum over j of weight[j] * plane[j]         weight[j] = 2**j,  weight[B-1] = -2**(B-1)
    a @ b = sum over j of weight[j] * (a @ plane[j])

A product with a plane needs no multiplier. It may even do without additions of its own: of each G
activations all 2**G partial sums are tabulated once, and the bits of a plane say which one it is.
All sums are int32 and wrap, so that every order gives the same.

Sources: Y. Umuroglu, L. Rasnayake and M. Sjalander, BISMO, arXiv:1806.08862 (bit-serial products);
J. Wei et al., T-MAC, arXiv:2407.00088 (tables; here without halving them by symmetry).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int8, Int32, Integer

from qsim.arithmetic.integers import int32_of, matrices
from qsim.numbers.records import shown

__all__ = ["bit_planes", "bit_serial_matmul", "table_matmul"]

MAX_GROUP = 8  # a table of 256 sums


def bit_planes(x: Integer[ArrayLike, "..."], bits: int) -> Int8[Array, "bits ..."]:
    """The bits of integers in two's complement, the lowest plane first, as int8 zeros and ones.

    Args:
        x: integer array of any shape; bits beyond the width are ignored.
        bits: how many planes, 1 to 32.

    Raises:
        TypeError: for what is no integer.
        ValueError: for other widths.

    >>> bit_planes(jnp.array([1, 2, -1], jnp.int8), 3).tolist()
    [[1, 0, 1], [0, 1, 1], [0, 0, 1]]
    """
    x = int32_of(x)
    _require_within("bits", bits, 32)
    places = jnp.arange(bits, dtype=jnp.int32).reshape(-1, *([1] * x.ndim))
    return ((x[None] >> places) & 1).astype(jnp.int8)


def bit_serial_matmul(
    a: Integer[ArrayLike, "... m k"],
    b: Integer[ArrayLike, "... k n"],
    *,
    bits: int,
    signed: bool = True,
) -> Int32[Array, "... m n"]:
    """``a @ b`` as products with the bit planes of ``b``, shifted and added.

    Args:
        a, b: integer arrays [..., m, k] and [..., k, n], whose leading axes broadcast.
        bits: of ``b``, 1 to 32; bits beyond are ignored.
        signed: whether ``b`` is in two's complement; else it is from 0 to ``2**bits - 1``.

    The result equals ``integer_matmul(a, b).sums``, also where that wraps.

    Raises:
        TypeError: for operands that are no integers.
        ValueError: for other shapes and widths.

    >>> bit_serial_matmul(jnp.array([[3, -5]]), jnp.array([[7], [-8]]), bits=4).tolist()
    [[61]]
    """
    left, right = matrices(a, b)
    _require_within("bits", bits, 32)
    return _bit_serial(left, right, bits, signed)


@partial(jax.jit, static_argnums=(2, 3))
def _bit_serial(a: Array, b: Array, bits: int, signed: bool) -> Array:
    planes = bit_planes(b, bits).astype(jnp.int32)
    products = jax.vmap(partial(jnp.matmul, a))(planes)
    return jnp.tensordot(_weights(bits, signed), products, 1)


def table_matmul(
    a: Integer[ArrayLike, "... m k"],
    b: Integer[ArrayLike, "... k n"],
    *,
    bits: int,
    signed: bool = True,
    group: int = 4,
) -> Int32[Array, "... m n"]:
    """``a @ b`` by looking up the partial sums of ``group`` activations of ``a``.

    Args:
        a, b, bits, signed: as for ``bit_serial_matmul``.
        group: how many activations have a table, 1 to 8; it has ``2**group`` sums.

    The result equals ``integer_matmul(a, b).sums``, also where that wraps.

    Raises:
        TypeError, ValueError: as ``bit_serial_matmul``; and for other groups.

    >>> table_matmul(jnp.array([[3, -5]]), jnp.array([[7], [-8]]), bits=4, group=2).tolist()
    [[61]]
    """
    left, right = matrices(a, b)
    _require_within("bits", bits, 32)
    _require_within("group", group, MAX_GROUP)
    product = partial(_looked_up, bits=bits, signed=signed, group=group)
    return jnp.vectorize(product, signature="(m,k),(k,n)->(m,n)")(left, right)


@partial(jax.jit, static_argnames=("bits", "signed", "group"))
def _looked_up(a: Array, b: Array, *, bits: int, signed: bool, group: int) -> Array:
    """The product of two matrices by tables."""
    groups = -(-a.shape[1] // group)
    rest = groups * group - a.shape[1]
    a, b = jnp.pad(a, ((0, 0), (0, rest))), jnp.pad(b, ((0, rest), (0, 0)))
    tables = _tables(a.reshape(a.shape[0], groups, group))
    planes = bit_planes(b.reshape(groups, group, b.shape[1]), bits).astype(jnp.int32)
    chosen = jnp.einsum("jgin,i->gjn", planes, _weights(group, signed=False))

    def step(sums, operands):
        table, index = operands
        return sums + jnp.take(table, index, axis=1), None

    zeros = jnp.zeros((a.shape[0], bits, b.shape[1]), jnp.int32)
    sums = lax.scan(step, zeros, (tables, chosen))[0]
    return jnp.einsum("mjn,j->mn", sums, _weights(bits, signed))


def _tables(a: Int32[Array, "m groups group"]) -> Int32[Array, "groups m sums"]:
    """Of each group the partial sums: number t has those activations whose bits are set in t."""
    numbers = jnp.arange(1 << a.shape[-1], dtype=jnp.int32)
    return jnp.moveaxis(a @ bit_planes(numbers, a.shape[-1]).astype(jnp.int32), 1, 0)


def _weights(bits: int, signed: bool) -> Int32[Array, " bits"]:
    """What the planes count; modulo 2**32, where two's complement of 32 bits needs no sign."""
    weights = [1 << place for place in range(bits)]
    if signed:
        weights[-1] = -weights[-1]
    return jnp.asarray(np.array(weights, np.int64).astype(np.int32))


def _require_within(name: str, value: int, most: int) -> None:
    """Checks a number that the shape of arrays depends on."""
    if not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
        raise ValueError(f"{name} is {shown(value)}, but it must be an integer within 1..{most}")
