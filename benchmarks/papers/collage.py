"""Claim: pairs of bfloat16 numbers train as float32 copies of weights and moments do.

T. Yu et al., Collage: Light-weight low-precision strategy for LLM training, arXiv:2405.03637. The
byte model with AdamW, its products in bfloat16, and all of the optimizer too: without pairs, with
pairs of weights (light), of second moments as well (plus), or with float32 copies of all. The
learning rate, a third of the model's and falling, makes updates near the last digit of weights.

    python -m benchmarks.papers.collage [--steps N] [--seeds S] [--out DIR]
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import qsim
from benchmarks.papers import paper
from benchmarks.record import target
from models.byte_lm.task import task
from qsim.training.collage import VARIANTS, collage, realised
from qsim.training.components import edq, lost_update
from qsim.training.states import MasterWeights, master_weights

TEXT, RATE, FACTS = task(), 1e-3, {"b1": 0.9, "b2": 0.999, "weight_decay": 0.1}
BF16 = "operands=bfloat16 ieee; outputs=bfloat16 ieee"


def weights_of(state):
    return state.params if isinstance(state, MasterWeights) else state.value


def changes(before, after) -> tuple:
    """The update that was meant and what became of it, which is the same in float32."""
    if isinstance(after, MasterWeights):
        return (jax.tree.map(jnp.subtract, after.master, before.master),) * 2
    return after.intended, realised(before, after)


def trained(variant, steps, key) -> tuple:
    """The held-out loss; the descent quality over the length of updates, and what they lose."""
    rate = optax.cosine_decay_schedule(RATE, steps, 0.1)
    copies = master_weights(optax.adamw(rate, **FACTS), "bfloat16")
    optimizer = collage(rate, variant=variant, **FACTS) if variant else copies
    slope = qsim.simulate(jax.grad(TEXT.loss), BF16, params=0)

    def once(state, number):
        batch = TEXT.draw(jax.random.fold_in(key, number))
        _, after = optimizer.update(slope(weights_of(state), batch), state)
        meant, done = changes(state, after)
        lost = lost_update(weights_of(state), paper.rounded(meant, "bfloat16"), "bfloat16")
        return after, (edq(meant, done) / optax.global_norm(meant), 100 * lost)

    state, parts = jax.lax.scan(once, optimizer.init(TEXT.init(key)), jnp.arange(steps))
    return paper.heldout_loss(TEXT)(weights_of(state), None)["heldout"], *(x.mean() for x in parts)


def measured(steps: int, seeds: int) -> dict:
    run, keys = jax.jit(trained, static_argnums=(0, 1)), jax.random.split(jax.random.key(0), seeds)
    runs = [[run(variant, steps, key) for key in keys] for variant in (*VARIANTS, None)]
    losses, quality, lost = np.array(runs, np.float64).mean(1).T.tolist()
    closed = 100 * (losses[0] - losses[2]) / (losses[0] - losses[3])
    columns = {
        "bfloat16, with": [*VARIANTS.values(), "float32 copies"],
        "held-out loss, nats": [f"{loss:.4f}" for loss in losses],
        "descent quality": [f"{x:.4f}" for x in quality],
        "updates that bfloat16 weights lose, %": lost,
    }
    return {
        "sections": [paper.table("The byte model", columns)],
        "targets": [
            target("0.999 in bfloat16", float(qsim.quantize(0.999, "bfloat16")), at_least=1.0),
            target("plus: quality (of float32: 1)", quality[2], at_least=0.99),
            target("no pairs: quality", quality[0], at_most=0.8),
            target("plus: gap of losses that it closes, %", closed, at_least=80.0),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("collage", __doc__, measured, steps=300, seeds=3)
