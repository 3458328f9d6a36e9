"""What the loops of accumulators begin with."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

__all__ = ["varying", "zero"]


def zero(a: Array, b: Array) -> Array:
    """Zeros of the shape of the sums of products ``a[k] * b[k]``.

    A compiler does not know them: it would take ``0 + x`` for ``x``, also for -0.
    """
    zeros = jnp.zeros(jnp.broadcast_shapes(a.shape[1:], b.shape[1:]), a.dtype)
    return lax.optimization_barrier(varying(zeros, a[0] * b[0]))


def varying(tree: Any, x: Array) -> Any:
    """A tree as it is, which varies over a mesh if ``x`` does, as ``shard_map`` asks of loops."""
    return jax.tree.map(lambda leaf: jnp.where(jnp.isnan(x), leaf, leaf), tree)
