"""Claim: at two bits and at one, rotation and trusted gradients beat straight-through training.

A. Panferov et al., QuEST: Stable training of LLMs with 1-bit weights and activations,
arXiv:2502.05003, 3: weights and activations of the byte model's linear layers, all with the same
scales, in blocks of 64, as wide as the model. The plain ways do not rotate; their gradients pass
everywhere, or between the lowest and the largest value.

    python -m benchmarks.papers.quest [--steps N] [--seeds S] [--out DIR]
"""

import itertools
from functools import partial

import jax
import numpy as np
import optax
from flax import linen as nn

import qsim
from benchmarks.papers import paper
from benchmarks.record import target
from models.byte_lm.task import task
from qsim.training.gaussian import gaussian_clip, mid_rise
from qsim.training.quest import CLIPS, clip_of, quest

TEXT, BITS, FP4 = task(), (4, 2, 1), "e2m1f"
STACK = qsim.stack([qsim.lower(mid_rise(bits)) for bits in BITS])  # of one structure
GRIDS = {bits: jax.tree.map(lambda x, n=n: x[n], STACK) for n, bits in enumerate(BITS)}
GRIDS[FP4] = qsim.lower(qsim.parse(FP4))
WAYS = {"QuEST": ("trust", 64), "clipped": ("clipped", None)}  # estimator, block
WAYS["straight through"] = "identity", None
ONE_BIT = "clipped", 64  # the gap between two values tells nothing about trust


def in_few_bits(how, grid, clip):
    """The loss of the byte model whose ``nn.Dense`` multiply rounded rows by rounded columns."""
    rounded = partial(quest, clip=clip, estimator=how[0], block=how[1], rotate_back=False)

    def product(x, kernel):
        return rounded(x, grid) @ rounded(kernel.T, grid).T

    def loss(weights, batch):
        with paper.layers_by({nn.Dense: product}):
            return TEXT.loss(weights, batch)

    return loss


def trained(steps, how, grid, clip, key):
    """The held-out loss after training."""
    loss = TEXT.loss if how is None else in_few_bits(how, grid, clip)
    adam = optax.adam(optax.cosine_decay_schedule(TEXT.rate, steps, 0.01))
    weights, _ = paper.run(paper.trainer(loss, adam, TEXT.init), TEXT.draw, steps, key)
    return paper.heldout_loss(TEXT, loss)(weights, None)["heldout"]


def measured(steps: int, seeds: int) -> dict:
    run, keys = jax.jit(trained, static_argnums=(0, 1)), jax.random.split(jax.random.key(0), seeds)
    runs = {"float32": (None, None, None), "FP4, QuEST": (WAYS["QuEST"], GRIDS[FP4], clip_of(FP4))}
    for bits in BITS:
        runs |= {f"W{bits}A{bits}, {way}": (WAYS[way], GRIDS[bits], clip_of(bits)) for way in WAYS}
    runs["W1A1, QuEST"] = ONE_BIT, GRIDS[1], clip_of(1)
    losses = {name: np.array([run(steps, *how, key) for key in keys]) for name, how in runs.items()}
    columns: dict = {"linear layers": losses}
    columns["held-out loss, nats"] = [f"{each.mean():.4f}" for each in losses.values()]
    columns["by seed"] = [" ".join(f"{x:.4f}" for x in each) for each in losses.values()]
    goals = []
    for bits, (low, high) in itertools.product((2, 1), itertools.pairwise(WAYS)):
        wins = losses[f"W{bits}A{bits}, {low}"] < losses[f"W{bits}A{bits}, {high}"]
        goals += [target(f"W{bits}A{bits}, {low} below {high}: seeds", wins.sum(), at_least=seeds)]
    gap = (losses["FP4, QuEST"] - losses["W4A4, QuEST"]).mean()
    goals += [target("FP4's loss less that of W4A4, both QuEST, nats", gap, at_least=0.0)]
    off = max(abs(CLIPS[bits] - gaussian_clip(mid_rise(bits)).clip) for bits in range(1, 6))
    goals += [target("published clips to 5 bits, off the optimum by", off, at_most=1e-4)]
    absent = [{"peer": "effective parameters of published runs", "reason": "not stored here"}]
    return {"sections": [paper.table("Byte model", columns)], "targets": goals, "absent": absent}


if __name__ == "__main__":
    paper.reproduce("quest", __doc__, measured, steps=300, seeds=3)
