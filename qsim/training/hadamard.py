"""Hadamard transforms: rotations that spread each number over a block.

The matrix of order n, a power of two, is symmetric, orthonormal and its own inverse::

    H_1 = (1),   H_2n = (H_n  H_n; H_n  -H_n) / sqrt(2)

An outlier of a block becomes as many equal numbers as the block has, and sums of many independent
numbers are nearly normal. It is computed in log2(n) equal rounds of sums and differences in the
carrier, whose result depends on nothing else.

Sources: J. Sylvester, Phil. Mag. 34, 1867 (this order of rows); M. C. Pease, J. ACM 15(2), 1968
(equal rounds); S. Ashkboos et al., QuaRot, arXiv:2404.00456.
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from qsim.numbers.records import require

__all__ = ["hadamard", "hadamard_matrix"]


def hadamard(x: Float[Array, "..."], *, block: int = 128) -> Float[Array, "..."]:
    """``x`` with every block of the last axis multiplied by the Hadamard matrix.

    Args:
        x: floats ``[..., n]``.
        block: the length of a block, a power of two that divides n.

    Applied twice it gives ``x`` again, but for rounding in the carrier.

    Raises:
        ValueError: for a length that is no power of two, or does not divide the last axis.

    >>> hadamard(jnp.array([4.0, 0.0, 0.0, 0.0]), block=4).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    require(
        block >= 1 and block & (block - 1) == 0,
        f"a Hadamard matrix here has a power of two for its order, got block={block}: try 128",
    )
    require(
        x.ndim > 0 and x.shape[-1] % block == 0,
        f"blocks of {block} do not fill the last axis of an array of shape {x.shape}: give a "
        "power of two that divides its length",
    )
    blocks = x.reshape(-1, block)
    if block > 1:
        blocks, _ = lax.scan(_round, blocks, length=block.bit_length() - 1)
    return blocks.reshape(x.shape) * jnp.asarray(1 / math.sqrt(block), x.dtype)


def _round(x: Array, _: None) -> tuple[Array, None]:
    """Sums and differences of both halves of each block, side by side: the same in every round."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.stack([first + second, first - second], axis=-1).reshape(x.shape), None


def hadamard_matrix(order: int) -> Float[Array, "n n"]:
    """The orthonormal Hadamard matrix in float32.

    Raises:
        ValueError: for an order that is no power of two.

    >>> (hadamard_matrix(4) * 2).astype(int).tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    """
    return hadamard(jnp.eye(order, dtype=jnp.float32), block=order)
