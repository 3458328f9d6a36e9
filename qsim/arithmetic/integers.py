"""Matrix products in integers only, with an accumulator of some bits, as integer hardware adds up.

For an accumulator of B bits in two's complement, and the products p[k] = a[k] * b[k]::

    s = 0;  for k = 0 .. K-1:  s = fit(s + p[k])

where fit leaves alone what is within ``-2**(B-1) .. 2**(B-1) - 1``, and beyond it keeps the lowest
B bits (``wrap``) or the nearer end of the range (``saturate``). How many of the additions went
beyond is part of the result: hardware hides it. Nothing here is wider than 32 bits.

Sources: R. Ni et al., WrapNet, arXiv:2007.13242 (accumulators that wrap); I. Colbert et al., A2Q,
arXiv:2308.13504 (accumulators of B bits).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int32, Integer

from qsim.numbers.records import shown

__all__ = ["IntegerSums", "by_rows", "int32_of", "integer_matmul", "matrices", "plus", "width_of"]

OVERFLOWS = ("wrap", "saturate")
TILE = 1 << 17  # elements of a result that are added up together, which a cache holds

Width = int | Integer[ArrayLike, ""]


class IntegerSums(NamedTuple):
    """Sums, and how often their accumulators overflowed.

    Attributes:
        sums: int32 [..., m, n], within the range of the accumulator.
        overflows: int32 [..., m, n], how many of the additions went beyond that range.
    """

    sums: Array
    overflows: Array


def integer_matmul(
    a: Integer[ArrayLike, "... m k"],
    b: Integer[ArrayLike, "... k n"],
    *,
    bits: Width = 32,
    overflow: str = "wrap",
) -> IntegerSums:
    """``a @ b`` of integers, added up one product after the other in an accumulator of some bits.

    Args:
        a, b: integer arrays [..., m, k] and [..., k, n], whose leading axes broadcast. Products
            have to be within int32. Those of 8-bit operands, and of int16 by int16 or uint16,
            always are; nobody checks those of int32 operands.
        bits: of the accumulator, 2 to 32; an array under ``jit`` and ``vmap``, where other widths
            do not compile anew, and are not checked.
        overflow: ``"wrap"`` or ``"saturate"``.

    Products are exact, and may be beyond the accumulator themselves. Without products the sum is 0.

    Raises:
        TypeError: for operands that are no integers, or whose dtypes have products beyond int32.
        ValueError: for shapes, bits or an overflow that are none of the above.

    >>> a, b = jnp.array([[100, 100, -100]], jnp.int8), jnp.ones((3, 1), jnp.int8)
    >>> [x.tolist() for x in integer_matmul(a, b, bits=8)]
    [[[100]], [[2]]]
    >>> [x.tolist() for x in integer_matmul(a, b, bits=8, overflow="saturate")]
    [[[27]], [[1]]]
    """
    left, right = matrices(a, b)
    _require_products(a, b)
    if overflow not in OVERFLOWS:
        raise ValueError(
            f"overflow is {shown(overflow)}, but an integer accumulator wraps or saturates: write "
            "overflow='wrap' or 'saturate'"
        )
    return _added_up(left, right, width_of(bits, 2, 32), overflow)


@partial(jax.jit, static_argnums=3)
def _added_up(a: Array, b: Array, bits: Array, overflow: str) -> IntegerSums:
    def run(row, right):
        zeros = jnp.zeros(jnp.broadcast_shapes(row.shape[1:], right.shape[1:]), jnp.int32)

        def step(state, operands):
            x, y = operands
            sums, beyond = plus(state.sums, x * y, bits, overflow)
            return IntegerSums(sums, state.overflows + beyond.astype(jnp.int32)), None

        return lax.scan(step, IntegerSums(zeros, zeros), (row, right))[0]

    return by_rows(run, a, b)


def plus(
    s: Int32[Array, "..."], p: Int32[Array, "..."], bits: Width, overflow: str
) -> tuple[Int32[Array, "..."], Bool[Array, "..."]]:
    """``s + p`` in an accumulator of some bits, and whether that is beyond its range.

    Args:
        s: what the accumulator holds, within its range.
        p: any int32 numbers, also beyond that range.
        bits, overflow: as for ``integer_matmul``.

    >>> [x.tolist() for x in plus(jnp.int32(7), jnp.int32(2), 4, "wrap")]
    [-7, True]
    """
    unused = 32 - bits
    total = s + p
    wrapped = total << unused >> unused
    # 32 bits overflow where the numbers have one sign and their sum has the other
    beyond = (wrapped != total) | ((s ^ total) & (p ^ total) < 0)
    if overflow == "wrap":
        return wrapped, beyond
    lowest = jnp.int32(-(2**31)) >> unused
    return jnp.where(beyond, jnp.where(p < 0, lowest, ~lowest), total), beyond


# --- what integer products have in common -------------------------------------------------------


def by_rows(run: Callable, a: Int32[Array, "... m k"], b: Int32[Array, "... k n"]) -> Any:
    """What ``run`` gives for all rows of ``a``, as many of them at a time as a cache holds.

    Args:
        run: gives a pytree of arrays [..., n] for a row [k, ..., 1] and ``b`` as [k, ..., n].
        a, b: matrices, whose leading axes broadcast.
    """
    rows = jnp.moveaxis(a, (-2, -1), (0, 1))[..., None]
    right = jnp.moveaxis(b, -2, 0)
    size = math.prod(jnp.broadcast_shapes(rows.shape[2:], right.shape[1:]))
    if size * rows.shape[0] <= TILE:
        found = jax.vmap(run, (0, None))(rows, right)
    else:
        found = lax.map(lambda row: run(row, right), rows, batch_size=max(TILE // size, 1))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), found)


def matrices(a: Any, b: Any) -> tuple[Array, Array]:
    """The operands of a product as int32 matrices.

    Raises:
        TypeError: if they are no integers.
        ValueError: if their shapes are not [..., m, k] and [..., k, n].
    """
    left, right = int32_of(a), int32_of(b)
    shapes = f"{list(left.shape)} and {list(right.shape)}"
    if min(left.ndim, right.ndim) < 2 or left.shape[-1] != right.shape[-2]:
        raise ValueError(
            f"operands have the shapes {shapes}, but a product is of [..., m, k] and [..., k, n]: "
            "reshape vectors to matrices, or transpose one"
        )
    try:
        jnp.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError:
        raise ValueError(
            f"operands have the shapes {shapes}, whose leading axes do not broadcast: make them "
            "equal, or 1"
        ) from None
    return left, right


def int32_of(x: Any) -> Int32[Array, "..."]:
    """``x`` as int32.

    Raises:
        TypeError: for what is no integer, or may be beyond int32.
    """
    try:
        x = jnp.asarray(x, jnp.int32) if type(x) is int else x
        x = x if hasattr(x, "dtype") else jnp.asarray(x)
    except OverflowError:
        raise TypeError(f"int32 does not hold {shown(x)}: scale it, or add up in parts") from None
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"integer arithmetic is for integers, got {x.dtype}: round and cast, such as "
            "jnp.round(x).astype(jnp.int8)"
        )
    if x.dtype.name in ("uint32", "int64", "uint64"):
        raise TypeError(f"int32 does not hold {x.dtype}: cast to int32 if the values are within it")
    return jnp.asarray(x, jnp.int32)


def width_of(bits: Any, least: int, most: int) -> Int32[Array, ""]:
    """A number of bits, within bounds if that is known.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it is an array of several, or beyond the bounds.
    """
    width = jnp.asarray(bits)
    if not jnp.issubdtype(width.dtype, jnp.integer):
        raise TypeError(f"bits is {shown(bits)}, but it must be an integer, such as {most}")
    if width.ndim:
        raise ValueError(
            f"bits has the shape {list(width.shape)}, but it is one number: map over several with "
            "jax.vmap"
        )
    if not isinstance(width, jax.core.Tracer) and not least <= int(width) <= most:
        raise ValueError(f"bits is {int(width)}, but it must be within {least}..{most}")
    return width.astype(jnp.int32)


def _require_products(a: Any, b: Any) -> None:
    """Checks that operands of narrow dtypes have products within int32."""
    first, second = jnp.asarray(a).dtype, jnp.asarray(b).dtype
    ends = [(int(jnp.iinfo(x).min), int(jnp.iinfo(x).max)) for x in (first, second)]
    narrow = max(first.itemsize, second.itemsize) < 4
    if narrow and max(x * y for x in ends[0] for y in ends[1]) >= 2**31:
        raise TypeError(
            f"operands are {first} and {second}, whose products int32 does not hold: cast both to "
            "int32 if the products are within it"
        )
