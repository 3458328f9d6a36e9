"""Steps that are skipped: where a gradient is infinite or NaN, nothing changes.

With the updates u and states s' that an optimizer makes of gradients g and states s::

    (u, s') if all of g is finite, else (0, s)

Source: P. Micikevicius et al., Mixed precision training, arXiv:1710.03740, 3.2.
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, PyTree

__all__ = ["all_finite", "selected", "skip_if_not_finite"]


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether there is no infinity and no NaN in any floating-point leaf.

    >>> all_finite({"w": jnp.ones(3), "b": jnp.array(jnp.inf)}).tolist()
    False
    """
    flags = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if _is_float(leaf)]
    return reduce(jnp.logical_and, flags, jnp.bool_(True))


def selected(flag: Bool[ArrayLike, ""], new: PyTree, old: PyTree) -> PyTree:
    """``new`` if the flag is true, else ``old``; NaNs of the other one do no harm.

    >>> selected(False, {"w": jnp.array(jnp.nan)}, {"w": jnp.array(1.0)})["w"].tolist()
    1.0
    """
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)


def skip_if_not_finite(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that changes neither parameters nor states where a gradient is not finite.

    >>> optimizer = skip_if_not_finite(optax.sgd(0.1, momentum=0.9))
    >>> w = jnp.ones(2)
    >>> update, _ = optimizer.update(jnp.array([jnp.nan, 1.0]), optimizer.init(w), w)
    >>> update.tolist()
    [0.0, 0.0]
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def update(gradients: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        finite = all_finite(gradients)
        updates, new = optimizer.update(gradients, state, params, **extra)
        zeros = jax.tree.map(jnp.zeros_like, updates)
        return selected(finite, updates, zeros), selected(finite, new, state)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
