"""Marks at which scale propagation measures data, and moves its size to the scale.

Rules give scales of sums and products the size that independent numbers would have; the data of a
deep network drifts away from it. A program that runs as it is takes no notice of the marks.

Source: P. Balanca et al., arXiv:2407.17353, section 3 (dynamic rescaling).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import PyTree

from qsim.numbers.modes import require_one_of
from qsim.propagation.rules import MARK
from qsim.scales.scaled import NORMS

__all__ = ["rescale", "rescale_gradient"]


def rescale(tree: PyTree, by: str = "l2") -> PyTree:
    """The same arrays, whose data ``qsim.scale_propagation`` divides by its norm.

    The norm is rounded as all scales are, and is at least 2^-14 (that at or below 1e-4).

    Args:
        tree: arrays.
        by: ``"max"``, ``"l1"`` or ``"l2"``, see ``qsim.NORMS``.

    Raises:
        ValueError: for an unknown norm.

    >>> from qsim.propagation.transform import scale_propagation
    >>> y = scale_propagation(lambda x: rescale(x, "max"))(jnp.array([12.0, 2.0]))
    >>> y.data.tolist(), y.scale.tolist()
    ([1.5, 0.25], 8.0)
    """
    require_one_of("norm", by, NORMS)

    def marked(x: Any) -> Any:
        floats = jnp.issubdtype(jnp.result_type(x), jnp.floating)
        return checkpoint_name(x, MARK + by) if floats else x

    return jax.tree.map(marked, tree)


def rescale_gradient(tree: PyTree, by: str = "l2") -> PyTree:
    """The same arrays; what ``rescale`` does is done to their gradients.

    Raises:
        ValueError: for an unknown norm.

    >>> from qsim.propagation.transform import scale_propagation
    >>> slope = jax.grad(lambda x: (rescale_gradient(x, "max") * 12.0).sum())
    >>> scale_propagation(slope)(jnp.ones(2)).data.tolist()
    [1.5, 1.5]
    """
    require_one_of("norm", by, NORMS)
    return _of_gradient(by, tree)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_gradient(by: str, tree: PyTree) -> PyTree:
    return tree


_of_gradient.defvjp(
    lambda by, tree: (tree, None),
    lambda by, _, gradient: (rescale(gradient, by),),
)
