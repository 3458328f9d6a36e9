"""Claim: with munit scaling FP8 needs no scales, and the best learning rate holds at any width.

S. Narayan et al., munit Scaling: Simple and scalable FP8 LLM training, arXiv:2502.05967. Byte
models of three widths with static casts, to E4M3 forward and E5M2 backward, whose loss has
gradients of unit size; beside them the byte model in the standard parametrisation, cast alike.

    python -m benchmarks.papers.munit_scaling [--steps N] [--seeds S] [--out DIR]
"""

from functools import partial

import jax
import numpy as np
import optax

from benchmarks.papers import munit_network, paper
from benchmarks.record import target
from models.byte_lm.task import task
from qsim.training.munit_scaling import scale_learning_rates, sqrt_softmax
from qsim.training.scaled_rounding import as_grid
from qsim.training.unit_scaling import cross_entropy

WIDTHS, RATES = (64, 128, 256), [2.0**-n for n in range(3, -2, -1)]
FP8, BF16 = [*map(as_grid, ("e4m3fn", "e5m2"))], [*map(as_grid, ("bfloat16", "bfloat16"))]
LINEAR = ".*block.*/(query|key|value|out|up|down) "
STANDARD = [f"{LINEAR} operands=bfloat16", f"{LINEAR} gradients=e5m2; {LINEAR} operands=e4m3fn"]
TEXT = task(batch=4)


@partial(jax.jit, static_argnames=("width", "steps"))
def trained(key: jax.Array, rate: float, formats: list, width: int, steps: int) -> jax.Array:
    """The held-out loss of a network of munit scaling."""
    adam = optax.chain(optax.adam(rate), scale_learning_rates(munit_network.LAYERS, WIDTHS[0]))

    def loss(weights, batch):
        return cross_entropy(munit_network.logits(weights, batch[0], *formats)[0], batch[1])

    way = paper.trainer(loss, adam, partial(munit_network.init, width=width))
    weights, _ = paper.run(way, TEXT.draw, steps, key)
    return paper.heldout_loss(TEXT, loss)(weights, None)["heldout"]


def spread(width: int, softmax=jax.nn.softmax) -> list[float]:
    """The least and the largest root mean square of a hidden product before the first step."""
    weights, (text, _) = munit_network.init(jax.random.key(0), width), TEXT.draw(jax.random.key(1))
    _, sizes = munit_network.logits(weights, text, softmax=softmax)
    return [float(sizes.min()), float(sizes.max())]


def measured(steps: int, seeds: int) -> dict:
    def mean(*how):
        return np.mean([trained(jax.random.key(n), *how, steps) for n in range(seeds)]).item()

    losses = np.array([[mean(rate, FP8, width) for width in WIDTHS] for rate in RATES])
    best = losses.argmin(0).tolist()
    wide = [mean(RATES[place], BF16, width) for place, width in zip(best, WIDTHS, strict=True)]
    above = 100 * (losses.min(0) / wide - 1)
    sizes = np.array([[spread(d), spread(d, sqrt_softmax)] for d in WIDTHS])
    runs = paper.trained(task(), STANDARD, seeds=range(seeds), steps=steps)
    exact, static = paper.heldout(runs).mean(1).tolist()
    columns: dict = {"width": WIDTHS}
    columns |= {f"2^{np.log2(r):.0f}": x for r, x in zip(RATES, losses.round(3), strict=True)}
    columns |= {"over bfloat16, %": above, "least size": sizes[:, 0, 0], "largest": sizes[:, 0, 1]}
    columns |= {"with roots of softmax": sizes[:, 1, 0], "their largest": sizes[:, 1, 1]}
    least, largest = sizes[:, 0, 0].min().item(), sizes[:, 0, 1].max().item()
    return {
        "sections": [paper.table("Held-out loss in FP8, nats, by learning rate", columns)],
        "targets": [
            target("least size of a hidden product before training", least, at_least=0.5),
            target("largest size", largest, at_most=2.0),
            target("places between the best rates", max(best) - min(best), at_most=0),
            target("FP8 over bfloat16, the worst width, %", above.max().item(), at_most=0.5),
            target("standard parametrisation, %", 100 * (static / exact - 1), at_least=3.0),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("munit-scaling", __doc__, measured, steps=120, seeds=2)
