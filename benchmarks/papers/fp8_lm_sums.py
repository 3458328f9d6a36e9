"""Claim: a factor that adjusts itself keeps sums of FP8 gradients over replicas within range.

H. Peng et al., FP8-LM: Training FP8 large language models, arXiv:2310.18313, 2.2. Gradients of the
linear layers of the byte model, summed over 8 replicas in E4M3 at a shared scale: with a factor of
each tensor that halves where numbers saturate and grows else, and with one that stays.

    python -m benchmarks.papers.fp8_lm_sums [--steps N] [--seeds S] [--replicas K] [--out DIR]
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks import record
from benchmarks.papers import paper
from models.byte_lm.task import task
from qsim.training.all_reduce import adjusted_mu, all_reduced

ADAM = optax.adam(task().rate)


def sums(replicas: int, steps: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Percentages of under- and overflow by factor: automatic, 1 / replicas, 1."""
    loss, draw, weights = task().loss, task().draw, task().init(jax.random.key(seed))
    sizes = np.array([w.size for w in kernels(weights)])

    def lost(gradients_and_factors):
        gradients, factors = gradients_and_factors
        found = jax.vmap(lambda mu: all_reduced(gradients, "e4m3fn", mu))(factors)
        return jnp.stack([found.underflow, found.overflow]) * max(sizes)

    def once(state, key):
        weights, states, factors = state  # each tensor has its own, as in MS-AMP
        batches = jax.vmap(draw)(jax.random.split(key, replicas))
        slopes = lax.map(lambda batch: jax.grad(loss)(weights, batch), batches)
        flat = [g.reshape(replicas, -1) for g in kernels(slopes)]
        flat = [jnp.pad(g, ((0, 0), (0, max(sizes) - g.shape[1]))) for g in flat]
        counts = lax.map(lost, (jnp.stack(flat), factors))
        mu = adjusted_mu(factors[:, 0], counts[:, 1, 0] / sizes)
        updates, states = ADAM.update(jax.tree.map(lambda g: g.mean(0), slopes), states)
        state = optax.apply_updates(weights, updates), states, factors.at[:, 0].set(mu)
        return state, counts.sum(0)

    factors = jnp.tile(jnp.array([replicas**-0.5, 1 / replicas, 1]), (len(sizes), 1))
    state, keys = (
        (weights, ADAM.init(weights), factors),
        jax.random.split(jax.random.key(seed + 1), steps),
    )
    counts = jax.jit(lambda state: lax.scan(once, state, keys)[1].mean(0))(state)
    under, over = 100 * np.asarray(counts, np.float64) / sizes.sum()
    return under, over


def kernels(tree) -> list[jax.Array]:
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [leaf for path, leaf in named if "kernel" in jax.tree_util.keystr(path)]


def measured(steps: int, seeds: int, replicas: int) -> dict:
    found = np.mean([sums(replicas, steps, seed) for seed in range(seeds)], axis=0)
    columns: dict = {"factor": ["automatic", f"1 / {replicas}", "1"]}
    columns |= {"underflow, %": found[0], "overflow, %": found[1]}
    automatic, *fixed = found.sum(0).tolist()
    return {
        "sections": [paper.table(f"Sums over {replicas} replicas", columns)],
        "targets": [
            record.target("automatic factor, under- and overflow, %", automatic, at_most=0.1),
            record.target(f"factor 1 / {replicas}, the same", fixed[0], at_least=0.1),
            record.target("factor 1, the same", fixed[1], at_least=0.1),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("fp8-lm-sums", __doc__, measured, steps=200, seeds=1, replicas=8)
