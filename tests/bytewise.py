"""Comparison of results byte by byte."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["same"]


def same(a: Any, b: Any) -> bool:
    """Whether two pytrees have leaves of the same shapes, dtypes and bytes; prints differences."""
    pairs = zip(map(_array, jax.tree.leaves(a)), map(_array, jax.tree.leaves(b)), strict=True)
    differences = [text for x, y in pairs if (text := _difference(x, y))]
    for text in differences:
        print(text, file=sys.stderr)
    return not differences


def _array(x: Any) -> np.ndarray:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def _difference(x: np.ndarray, y: np.ndarray) -> str:
    """Where two arrays differ, of which pytest shows the corners only; nothing if they do not."""
    if x.shape != y.shape or x.dtype != y.dtype:
        return f"{x.dtype}{list(x.shape)} is not {y.dtype}{list(y.shape)}"
    if x.tobytes() == y.tobytes():
        return ""
    unlike = np.array([a.tobytes() != b.tobytes() for a, b in zip(x.flat, y.flat, strict=True)])
    shown = [(int(n), x.flat[n], y.flat[n]) for n in np.flatnonzero(unlike)[:8]]
    return f"{unlike.sum()} of {x.size} numbers of {list(x.shape)} differ: {shown}"
