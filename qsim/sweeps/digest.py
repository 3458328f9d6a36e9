"""Digests of trees of arrays, which tell whether two are the same to the last bit."""

import hashlib
from typing import Any

import jax
import numpy as np

__all__ = ["digest"]


def digest(tree: Any) -> str:
    """A digest of the arrays of a tree, their dtypes and shapes, and its structure.

    >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros(2)}), digest(1.0) == digest(2.0)
    (True, False)
    """
    found = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
