"""Layers of integers: a product and both products of its backward pass in dynamic fixed point.

With the gradient g of y, and ``dfp`` of the module of that name::

    y = dfp(x) @ dfp(w),   gradient of x = dfp(g) @ dfp(w).T,   gradient of w = dfp(x).T @ dfp(g)

Every tensor has one exponent, products are added up in int32 in chains, and sums of chains in
float32. The int16 mantissas are what is kept for the backward pass. How often int32 overflowed is
told as gradients are: by that of an argument on which nothing depends.

Source: D. Das et al., Mixed precision training of convolutional neural networks using integer
operations, arXiv:1802.00930.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Integer

from qsim.arithmetic.dynamic_fixed import DFP, chain_of, dfp, dfp_matmul
from qsim.arithmetic.integers import Width, width_of
from qsim.numbers.records import require
from qsim.numbers.rounding import require_single

__all__ = ["PRODUCTS", "dfp_convolution", "dfp_product"]

PRODUCTS = ("forward", "input gradient", "weight gradient")


def dfp_product(
    x: Float[ArrayLike, "... k"],
    w: Float[ArrayLike, "k n"],
    tally: Float32[ArrayLike, "..."] | None = None,
    *,
    bits: Width = 16,
    chain: int | Integer[ArrayLike, ""] = 2,
) -> Float32[Array, "... n"]:
    """``x @ w`` in dynamic fixed point, in float32, with gradients in dynamic fixed point.

    Args:
        x, w: float32, float16 or bfloat16; all of x has one exponent.
        tally: any three numbers, on which the result does not depend. Their gradient is how many
            additions overflowed in the three ``PRODUCTS``; one tally for several layers gives the
            sums over these.
        bits: of the mantissas of x, w and gradients, 2 to 16.
        chain: how many products are added up in int32, as for ``dfp_matmul``; 2 never overflow.

    Bits and chain may be arrays under ``jit`` and ``vmap``.

    Raises:
        TypeError: for operands that are no floats, or float64, and a chain that is no integer.
        ValueError: for other shapes, widths, and chains without products.

    >>> x, w = jnp.full((1, 3), 1.99999), jnp.full((3, 1), 1.99999)
    >>> def total(tally, chain):
    ...     return dfp_product(x, w, tally, chain=chain).sum()
    >>> jax.grad(total)(jnp.zeros(3), 2).tolist(), jax.grad(total)(jnp.zeros(3), 3).tolist()
    ([0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    """
    left, right = (require_single(each, "operands in dynamic fixed point") for each in (x, w))
    require(
        left.ndim > 0 and right.ndim == 2 and left.shape[-1] == right.shape[0],
        f"operands have the shapes {list(left.shape)} and {list(right.shape)}, but a layer takes "
        "[..., k] and [k, n]: reshape them",
    )
    counts = jnp.zeros(3, jnp.float32) if tally is None else jnp.asarray(tally)
    require(
        counts.shape == (3,), f"a tally is three numbers, got {list(counts.shape)}: pass zeros(3)"
    )
    rows = left.reshape(-1, left.shape[-1])
    y = _product(rows, right, counts, width_of(bits, 2, 16), chain_of(chain))
    return y.reshape(*left.shape[:-1], right.shape[-1])


def dfp_convolution(
    x: Float[ArrayLike, "batch height width channels"],
    kernel: Float[ArrayLike, "rows columns channels features"],
    tally: Float32[ArrayLike, "..."] | None = None,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: str = "SAME",
    bits: Width = 16,
    chain: int | Integer[ArrayLike, ""] = 2,
) -> Float32[Array, "batch height2 width2 features"]:
    """A convolution as the ``dfp_product`` of its patches, which are one tensor, and its kernel.

    Args:
        x: ``[batch, height, width, channels]``; gradients of a number's patches add up in float32.
        kernel: ``[rows, columns, channels, features]``.
        strides, padding: as for ``jax.lax.conv_general_dilated``.
        tally, bits, chain: as for ``dfp_product``.

    Raises:
        TypeError, ValueError: as ``dfp_product``, and for another padding.

    >>> x, kernel = jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.ones((2, 2, 1, 1))
    >>> dfp_convolution(x, kernel, padding="VALID").ravel().tolist()
    [8.0, 12.0, 20.0, 24.0]
    """
    values, matrix = (
        require_single(each, "operands in dynamic fixed point") for each in (x, kernel)
    )
    require(
        values.ndim == matrix.ndim == 4 and values.shape[-1] == matrix.shape[2],
        f"operands have the shapes {list(values.shape)} and {list(matrix.shape)}, but a "
        "convolution takes [batch, height, width, channels] and [rows, columns, channels, "
        "features]: reshape them",
    )
    patches = lax.conv_general_dilated_patches(
        values,
        matrix.shape[:2],
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )
    matrix = jnp.moveaxis(matrix, 2, 0)  # as in patches, channels come first
    matrix = matrix.reshape(-1, matrix.shape[-1])
    return dfp_product(patches, matrix, tally, bits=bits, chain=chain)


@jax.custom_vjp
def _product(x: Array, w: Array, tally: Array, bits: Any, chain: Any) -> Array:
    return dfp_matmul(dfp(x, bits=bits), dfp(w, bits=bits), chain=chain).values


def _forward(x, w, tally, bits, chain):
    a, b = dfp(x, bits=bits), dfp(w, bits=bits)
    y = dfp_matmul(a, b, chain=chain)
    return y.values, (a, b, y.overflows.sum(), bits, chain)


def _backward(saved, gradient):
    a, b, forward, bits, chain = saved
    g = dfp(gradient, bits=bits)
    of_x = dfp_matmul(g, _transposed(b), chain=chain)
    of_w = dfp_matmul(_transposed(a), g, chain=chain)
    counts = jnp.stack([forward, of_x.overflows.sum(), of_w.overflows.sum()])
    return of_x.values, of_w.values, counts.astype(jnp.float32), None, None


_product.defvjp(_forward, _backward)


def _transposed(x: DFP) -> DFP:
    return DFP(x.mantissas.T, x.exponent)
