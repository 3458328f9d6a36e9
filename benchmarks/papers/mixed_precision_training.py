"""Claim: float16 trains as float32 does, with a scaled loss and a float32 copy of the weights.

P. Micikevicius et al., Mixed precision training, arXiv:1710.03740: operands and results of
products, weights and gradients in float16. The loss of the byte model is multiplied by 2^-12, as
one loss of many would be, and so is Adam's epsilon. The learning rate falls to a hundredth.

    python -m benchmarks.papers.mixed_precision_training [--steps N] [--seeds S] [--out DIR]
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import qsim
from benchmarks.papers import paper
from benchmarks.record import target
from models.byte_lm.task import task
from qsim.training.components import lost_update
from qsim.training.loss_scaling import loss_scaled, scaled_value_and_grad
from qsim.training.underflow import zero_fraction

TEXT, FACTOR = task(), 2.0**-12
HALF = "operands=binary16 ieee; outputs=binary16 ieee"
WIDE, NARROW = (qsim.lower(qsim.parse(name)) for name in ("binary32", "binary16"))
RUNS = {  # policy, scale, by what it changes, weights and gradients, what updates are added to
    "float32": (None, 1.0, 1.0, WIDE, WIDE),
    **{f"scale 2^{n}": (HALF, 2.0**n, 1.0, NARROW, WIDE) for n in (0, 4, 8, 12, 16)},
    "scale from 2^24, dynamic": (HALF, 2.0**24, 2.0, NARROW, WIDE),
    "scale 2^12, no float32 copy": (HALF, 2.0**12, 1.0, NARROW, NARROW),
}


def trained(policy, steps, key, scale, factor, narrow, wide) -> tuple:
    """The held-out loss; percentages: gradients of zero, updates that float16 loses, by time."""
    adam = optax.adam(optax.cosine_decay_schedule(TEXT.rate, steps, 0.01), eps=1e-8 * FACTOR)
    optimizer = loss_scaled(adam, scale=scale, factor=factor, period=50)
    loss = scaled_value_and_grad(lambda weights, batch: FACTOR * TEXT.loss(weights, batch))

    def once(state, number):
        (weights, states), batch = state, TEXT.draw(jax.random.fold_in(key, number))
        here, slope_of = paper.rounded(weights, narrow), qsim.simulate(loss, policy, params=1)
        slope = paper.rounded(slope_of(states.loss_scale, here, batch)[1], narrow)
        updates, states = optimizer.update(slope, states)
        lost = lost_update(paper.rounded(weights, NARROW), updates, NARROW)
        weights = paper.rounded(optax.apply_updates(weights, updates), wide)
        return (weights, states), (100 * zero_fraction(slope), 100 * lost)

    weights = paper.rounded(TEXT.init(key), wide)
    state, (zero, lost) = jax.lax.scan(once, (weights, optimizer.init(weights)), jnp.arange(steps))
    loss = paper.heldout_loss(TEXT)(paper.rounded(state[0], narrow), None)["heldout"]
    tenth = -(-steps // 10)
    return loss, zero.mean(), lost[:tenth].mean(), lost[-tenth:].mean()


def measured(steps: int, seeds: int) -> dict:
    run, keys = jax.jit(trained, static_argnums=(0, 1)), jax.random.split(jax.random.key(0), seeds)
    runs = [[run(how, steps, key, *facts) for key in keys] for how, *facts in RUNS.values()]
    losses, zero, early, late = np.array(runs, np.float64).mean(1).T.tolist()
    above = [100 * (loss / losses[0] - 1) for loss in losses]
    columns = {
        "run": RUNS,
        "held-out loss, nats": [f"{loss:.4f}" for loss in losses],
        "gradients of zero, %": zero,
        "updates lost in float16, first tenth of steps, %": early,
        "last tenth, %": late,
    }
    return {
        "sections": [paper.table("The byte model, its loss times 2^-12", columns)],
        "targets": [
            target("no scale: gradients of zero, %", zero[1], at_least=20.0),
            target("no scale: % above float32", above[1], at_least=0.5),
            target("scales from 2^8 on, the worst: % above float32", max(above[3:6]), at_most=0.5),
            target("no float32 copy: late updates lost, %", late[-1], at_least=50.0),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("mixed-precision-training", __doc__, measured, steps=300, seeds=3)
