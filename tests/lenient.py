"""Optimizers of optax under strict promotion: their own code mixes dtypes."""

from typing import Any

import jax
import optax


def lenient(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer, in whose own code dtypes are promoted as JAX does by default."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradients, state, params)

    return optax.GradientTransformation(optimizer.init, update)
