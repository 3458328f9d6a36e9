"""Claim: integers of 16 bits train as float32 does, if their sums are kept from overflowing.

D. Das et al., Mixed precision training of convolutional neural networks using integer operations,
arXiv:1802.00930. All products of the digits' network, forward and backward, are in dynamic fixed
point: int16 mantissas, int32 sums of two products or of all, float32 sums of these; or 8 bits.

    python -m benchmarks.papers.dfp_int16 [--steps N] [--seeds S] [--out DIR]
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.papers import paper
from benchmarks.record import target
from models.digits import task
from models.digits.model import DigitsCNN
from qsim.training.dynamic_fixed import PRODUCTS, dfp_convolution, dfp_product

DIGITS, ADAM = task(), optax.adam(task().rate)
RUNS = {  # bits, products in a chain
    "float32": (None, None),
    "16 bits, chains of 2": (16, 2),
    "16 bits, one chain": (16, 1 << 20),
    "8 bits": (8, 1 << 20),
}


def in_integers(tally, bits, chain):
    """A context in which layers multiply in dynamic fixed point."""
    if bits is None:
        return paper.layers_by({})
    options = {"tally": tally, "bits": bits, "chain": chain}
    products = {nn.Conv: dfp_convolution, nn.Dense: dfp_product}
    return paper.layers_by({kind: partial(fn, **options) for kind, fn in products.items()})


def trained(steps, key, bits, chain):
    """The held-out accuracy in percent, and how often sums overflowed in which product."""

    def loss(weights, tally, batch):
        with in_integers(tally, bits, chain):
            return DIGITS.loss(weights, batch)

    def step(weights, states, batch):
        slope, overflows = jax.grad(loss, (0, 1))(weights, jnp.zeros(3), batch)
        updates, states = ADAM.update(slope, states)
        return optax.apply_updates(weights, updates), states, overflows

    way = paper.trainer(DIGITS.loss, ADAM, DIGITS.init)[0], step
    weights, overflows = paper.run(way, DIGITS.draw, steps, key)
    with in_integers(None, bits, chain):
        best = jax.lax.map(lambda x: DigitsCNN().apply(weights, x).argmax(-1), DIGITS.heldout[0])
    return jnp.array([100 * (best == DIGITS.heldout[1]).mean(), *overflows.sum(0)])


def measured(steps: int, seeds: int) -> dict:
    run, keys = jax.jit(trained, static_argnums=0), jax.random.split(jax.random.key(0), seeds)
    found = np.array([[run(steps, key, *how) for key in keys] for how in RUNS.values()])
    accuracy, counts = found[..., 0].mean(1), found[..., 1:].sum(1)
    columns = {"products": RUNS, "accuracy, %": [f"{each:.2f}" for each in accuracy]}
    columns |= {f"overflows, {name}": of for name, of in zip(PRODUCTS, counts.T, strict=True)}
    goals = [
        target("16 bits: points below float32", accuracy[0] - accuracy[1], at_most=0.5),
        target("8 bits: the same", accuracy[0] - accuracy[3], at_least=2.0),
        target("chains of 2: overflows", counts[1].sum(), at_most=0),
        target("one chain: overflows", counts[2].sum(), at_least=1),
    ]
    return {"sections": [paper.table("The digits", columns)], "targets": goals}


if __name__ == "__main__":
    paper.reproduce("dfp-int16", __doc__, measured, steps=300, seeds=3)
