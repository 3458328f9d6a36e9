"""Claim: activations saved in 8 bits for the backward pass train as exact ones do.

Z. Pan et al., Mesa: A memory-saving training framework for Transformers, arXiv:2111.11124. What the
linear layers of the byte model save for their backward passes is rounded to integers of few bits,
with a scale for a tensor or for each head; forward passes, and what other operations save, are
exact. The paper's running estimates of ranges are not used.

    python -m benchmarks.papers.mesa [--steps N] [--seeds S] [--out DIR]
"""

from functools import partial

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

from benchmarks.papers import paper
from benchmarks.record import target
from models.byte_lm.task import SMALL, task
from qsim.training.residuals import low_bit_residuals

TEXT, BITS = task(), (8, 4, 2)
WAYS = {"exact": None} | {f"{bits} bits, for a tensor": f"int{bits}sym[tensor]" for bits in BITS}
WAYS |= {f"{bits} bits, for a head": f"int{bits}sym[channel@2]" for bits in BITS}


def saving(fmt):
    """The loss of the byte model whose linear layers save their inputs on a format."""

    def product(x, kernel):
        heads = x.reshape(*x.shape[:-1], SMALL.heads, -1)
        whole = low_bit_residuals(lambda h, w: h.reshape(x.shape) @ w, fmt, scale="none")
        return whole(heads, kernel)

    def loss(weights, batch):
        with paper.layers_by({} if fmt is None else {nn.Dense: product}):
            return TEXT.loss(weights, batch)

    return loss


@partial(jax.jit, static_argnums=(0, 1))
def trained(fmt, steps, key):
    """The weights, and the loss of held-out data, after training."""
    adam = optax.adam(optax.cosine_decay_schedule(TEXT.rate, steps, 0.01))
    weights, _ = paper.run(paper.trainer(saving(fmt), adam, TEXT.init), TEXT.draw, steps, key)
    return weights, paper.heldout_loss(TEXT)(weights, None)["heldout"]


@partial(jax.jit, static_argnums=0)
def first_gradient(fmt, weights, batch):
    loss, slope = jax.value_and_grad(saving(fmt))(weights, batch)
    return loss, ravel_pytree(slope)[0]


def measured(steps: int, seeds: int) -> dict:
    keys = jax.random.split(jax.random.key(0), seeds)
    runs = [[trained(fmt, steps, key) for key in keys] for fmt in WAYS.values()]
    losses = np.array([[loss for _, loss in row] for row in runs]).mean(1)
    given = trained(None, max(1, steps // 2), keys[0])[0], TEXT.draw(keys[0])  # half-trained
    found = [first_gradient(fmt, *given) for fmt in WAYS.values()]
    forward, slopes = {float(loss) for loss, _ in found}, np.array([g for _, g in found])
    cosines = slopes @ slopes[0] / np.linalg.norm(slopes, axis=1) / np.linalg.norm(slopes[0])
    above, gain = 100 * (losses / losses[0] - 1), (cosines[2 + len(BITS)] - cosines[2]).item()
    columns = {"saved in": WAYS, "held-out loss": losses, "above, %": above, "cosine": cosines}
    return {
        "sections": [paper.table("The byte model, losses in nats, gradients", columns)],
        "targets": [
            target("losses of forward passes that differ", len(forward) - 1, at_most=0),
            target("8 bits: cosine of the gradient", cosines[1], at_least=0.999),
            target("8 bits: loss above exact, %", above[1], at_most=0.5),
            target("4 bits: cosine, heads less tensor", gain, at_least=0),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("mesa", __doc__, measured, steps=300, seeds=3)
