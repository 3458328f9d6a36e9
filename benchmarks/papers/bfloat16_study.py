"""Claim: training in bfloat16 ends where float32 does, with the same hyperparameters.

D. Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, arXiv:1905.12322: operands of
products in bfloat16, sums and weights in float32, no loss scaling; truncation beside rounding to
nearest, and float16 without loss scaling.

    python -m benchmarks.papers.bfloat16_study [--steps N] [--seeds S] [--out DIR]
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

import qsim
from benchmarks import record
from benchmarks.papers import paper
from models.byte_lm.task import task

POLICIES = {
    "float32": None,
    "bfloat16": "operands=bfloat16 ieee",
    "bfloat16, truncated": "operands=bfloat16 ieee toward_zero",
    "float16, no loss scale": "operands=binary16 ieee",
}


def measured(steps: int, seeds: int) -> dict:
    runs = paper.trained(task(), list(POLICIES.values()), seeds=range(seeds), steps=steps)
    losses = paper.heldout(runs)
    mean, ratios = losses.mean(1), (losses / losses[:1]).mean(1)
    above = lambda a, b: 100 * float((losses[b] / losses[a] - 1).mean())  # noqa: E731
    nearest, random = sums()
    shown = {"held-out loss, nats": mean, "times float32": ratios}
    shown = {name: [f"{value:.4f}" for value in column] for name, column in shown.items()}
    added = {"rounding": ["to nearest", "random"], "sum": [nearest, random]}
    return {
        "sections": [
            paper.table("The byte model", {"operands": POLICIES, **shown}),
            paper.table("1 + 1000 * 2^-9, added up in bfloat16", added),
        ],
        "targets": [
            record.target("bits that differ from ml_dtypes", differing(), at_most=0),
            record.target("bfloat16: loss above float32's, %", above(0, 1), at_most=0.3),
            record.target("float16: loss above bfloat16's, %", above(1, 3), at_least=0.0),
            record.target("sum to nearest stays at", nearest, at_most=1.0),
            record.target("random sum, distance from 2.953", abs(random - 2.953125), at_most=0.04),
        ],
    }


def differing() -> int:
    """Numbers that ml_dtypes rounds to bfloat16 otherwise: all upper halves, a million others."""
    words = np.random.default_rng(0).integers(0, 2**32, 10**6, np.uint32)
    words = np.concatenate([np.arange(2**16, dtype=np.uint32) << 16, words])
    x = words.view(np.float32)
    ours = np.asarray(qsim.quantize(x, "bfloat16", overflow="ieee"))
    theirs = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    return int((~same).sum())


def sums(trials: int = 200) -> tuple[float, float]:
    def total(key, rounding):
        def step(s, number):
            noise = qsim.fold_in(key, number) if rounding.startswith("stochastic") else None
            return qsim.quantize(s + 2.0**-9, "bfloat16", rounding=rounding, key=noise), None

        return jax.lax.scan(step, jnp.float32(1), jnp.arange(1000, dtype=jnp.uint32))[0]

    keys = jax.random.split(jax.random.key(0), trials)
    random = jax.jit(jax.vmap(lambda key: total(key, "stochastic:16")))(keys)
    return float(total(keys[0], "ties_to_even")), float(random.mean())


if __name__ == "__main__":
    paper.reproduce("bfloat16-study", __doc__, measured, steps=300, seeds=3)
