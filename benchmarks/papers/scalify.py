"""Claim: with scales propagated, float16 holds all of a training step, Adam's state included.

P. Balanca et al., Scalify: scale propagation for efficient low-precision LLM training,
arXiv:2407.17353. The whole step (forward, backward, Adam) of the byte model computes in float16,
once as it is and once on scaled arrays; in float32 scale propagation changes nothing.

    python -m benchmarks.papers.scalify [--steps N] [--seeds S] [--out DIR]
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import qsim
from benchmarks import record
from benchmarks.papers import paper
from models.byte_lm.task import task

HALF = "all=binary16 ieee"
BYTES = task()
ADAM = optax.adam(BYTES.rate)
START, STEP = paper.trainer(BYTES.loss, ADAM, BYTES.init)


def rescaled(weights, states, batch):
    loss, slope = jax.value_and_grad(BYTES.loss)(weights, batch)
    updates, states = ADAM.update(qsim.rescale(slope), states)
    return optax.apply_updates(weights, updates), qsim.rescale(states), {"loss": loss}


def on_scaled_arrays(policy):
    """``init`` and ``step`` whose weights and states are scaled arrays."""
    propagated = qsim.scale_propagation(rescaled, policy, params=0, states=1)

    def step(weights, states, batch):
        weights, states, metrics = propagated(weights, states, batch)
        return weights, states, qsim.unscaled(metrics)

    return lambda key: qsim.as_scaled(START(key), by="l2"), step


def measured(steps: int, seeds: int) -> dict:
    in_half = START, qsim.simulate(STEP, HALF, params=0, states=1)
    ways = {"float32": (START, STEP), "float32, scaled": on_scaled_arrays(None)}
    ways |= {"float16": in_half, "float16, scaled": on_scaled_arrays(HALF)}
    evaluate = paper.heldout_loss(BYTES, lambda w, batch: BYTES.loss(qsim.unscaled(w), batch))
    options = {"seeds": range(seeds), "steps": steps, "evaluate": evaluate}
    runs = {name: paper.trained(BYTES, [None], way=way, **options) for name, way in ways.items()}
    losses = {name: float(paper.heldout(run).mean()) for name, run in runs.items()}
    above = {name: 100 * (loss / losses["float32"] - 1) for name, loss in losses.items()}
    trees = [run.params for run in runs.values()]
    leaves = jax.tree.leaves(trees, is_leaf=lambda x: isinstance(x, qsim.ScaledArray))
    scales = [x.scale.ravel() for x in leaves if isinstance(x, qsim.ScaledArray)]
    powers = np.frexp(np.concatenate(scales))[0] == 0.5
    shown = {"held-out loss, nats": losses, "above float32's, %": above}
    shown = {name: [f"{x:.4f}" for x in column.values()] for name, column in shown.items()}
    limit = record.target
    return {
        "sections": [paper.table("The byte model", {"whole step in": losses, **shown})],
        "targets": [
            limit("gradients in float32, largest relative difference", apart(), at_most=1e-6),
            limit("float16, scaled: loss above float32's, %", above["float16, scaled"], at_most=1),
            limit("float16 as it is: loss above float32's, %", above["float16"], at_least=5),
            limit("scales that are powers of two", float(powers.mean()), at_least=1.0),
        ],
    }


def apart() -> float:
    """The largest difference of a gradient, relative to the largest number of its array."""
    weights, batch = (jax.jit(f)(jax.random.key(0)) for f in (BYTES.init, BYTES.draw))
    ways = [jax.grad(BYTES.loss), qsim.scale_propagation(jax.grad(BYTES.loss))]
    plain, scaled = jax.jit(lambda *given: [way(*given) for way in ways])(weights, batch)
    differ = lambda a, b: float(jnp.abs(a - b).max() / jnp.abs(a).max())  # noqa: E731
    return max(jax.tree.leaves(jax.tree.map(differ, plain, qsim.unscaled(scaled))))


if __name__ == "__main__":
    paper.reproduce("scalify", __doc__, measured, steps=100, seeds=2)
