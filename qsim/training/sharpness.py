"""How sharp the loss of a language model is in its logits: a warning that training may diverge.

With logits z of a batch, their mean cross entropy L(z) and a box around each logit,

    sharpness = 100 (max L(z + d) - L(z)) / (1 + L(z)),   |d_i| <= epsilon (|z_i| + 1)

The cross entropy falls with the logit of the label and grows with all others, so its maximum lies
in a corner of the box that is known, and nothing has to be searched::

    d_i = -epsilon (|z_i| + 1) at the label, and +epsilon (|z_i| + 1) elsewhere

Sources: N. S. Keskar et al., On large-batch training for deep learning, arXiv:1609.04836, metric
2.1 (the box, the unit, in weights); J. Lee et al., To FP8 and back again, arXiv:2405.18710 (in
logits).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qsim.numbers.records import require

__all__ = ["logit_sharpness"]


def logit_sharpness(
    logits: Float[Array, "... v"], labels: Int[Array, "..."], *, epsilon: float = 5e-4
) -> Float[Array, ""]:
    """The sharpness of the mean cross entropy, in percent.

    Args:
        logits: of v classes.
        labels: classes.
        epsilon: half the width of the box, relative to logits and one; Keskar et al. have 5e-4.

    Raises:
        ValueError: for a box without width.

    >>> logits, labels = jnp.zeros((1, 2)), jnp.array([0])
    >>> logit_sharpness(logits, labels, epsilon=1.0).round(2).tolist()
    84.68000030517578
    """
    require(epsilon > 0, f"epsilon is above zero, got {epsilon}: try 5e-4")
    labelled = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    room = jnp.asarray(epsilon, logits.dtype) * (jnp.abs(logits) + 1)
    loss = _mean_cross_entropy(logits, labelled)
    largest = _mean_cross_entropy(jnp.where(labelled, logits - room, logits + room), labelled)
    return 100 * (largest - loss) / (1 + loss)


def _mean_cross_entropy(logits: Array, labelled: Array) -> Array:
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.where(labelled, log_p, 0), axis=-1).mean()
