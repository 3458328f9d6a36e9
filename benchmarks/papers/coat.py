"""Claim: Adam's moments train in FP8, and better so if each group's range is that of the format.

H. Xi et al., COAT: Compressing optimizer states and activation for memory-efficient FP8 training,
arXiv:2410.19313, 4: groups of 128 numbers in E4M3, with a scale, or a scale and an exponent that
spreads them over the format's range. The byte model with Adam; its moments are one array.

    python -m benchmarks.papers.coat [--steps N] [--seeds S] [--out DIR]
"""

import jax.numpy as jnp
import numpy as np
import optax

import qsim
from benchmarks.papers import paper
from benchmarks.record import target
from models.byte_lm.task import task
from qsim.training.expansion import Expansion
from qsim.training.states import rounded_states

TEXT, ADAM = task(), optax.flatten(optax.adam(task().rate))
FORMATS = {  # first moments, second moments
    "E4M3, E4M3": ("e4m3fn[128,short]", "e4m3fn[128,short]"),
    "E4M3, E4M3, expanded": (Expansion(), Expansion()),
    "E4M3, E4M3, expanded as the paper writes it": (Expansion(form="range"),) * 2,
    "E4M3, E5M2": ("e4m3fn[128,short]", "e5m2[128,short]"),
    "E4M3, E5M2, expanded": (Expansion(), Expansion(fmt="e5m2")),
}


def ratio(mu, nu):
    """By what Adam multiplies its rate, but for the corrections of bias."""
    return mu / (jnp.sqrt(nu) + 1e-8)


def error(mu, nu, formats) -> float:
    """The mean squared error of m / sqrt(v)."""
    rounded = (
        fmt(x) if isinstance(fmt, Expansion) else qsim.quantize(x, fmt)
        for x, fmt in zip((mu, nu), formats, strict=True)
    )
    return float(jnp.square(ratio(*rounded) - ratio(mu, nu)).mean())


def measured(steps: int, seeds: int) -> dict:
    def trained(optimizer):
        return paper.trained(TEXT, [None], seeds=range(seeds), steps=steps, optimizer=optimizer)

    plain = trained(ADAM)
    moments = [*zip(plain.states[0].mu[0], plain.states[0].nu[0], strict=True)]  # of each seed
    losses, errors = [paper.heldout(plain).mean()], [0.0]
    for mu, nu in FORMATS.values():
        runs = trained(rounded_states(ADAM, {"mu": mu, "nu": nu}))
        losses.append(paper.heldout(runs).mean())
        errors.append(np.mean([error(*each, (mu, nu)) for each in moments]).item())
    above = [100 * float(loss / losses[0] - 1) for loss in losses]
    columns = {
        "m, v": ["float32, float32", *FORMATS],
        "squared error of m / sqrt(v)": errors,
        "held-out loss, nats": [f"{loss:.4f}" for loss in losses],
        "above float32, %": [f"{x:.2f}" for x in above],
    }
    return {
        "sections": [paper.table("The byte model", columns)],
        "targets": [
            target(
                "squared error without over with expansion",
                errors[1] / errors[2],
                at_least=1.3,
            ),
            target("E4M3 expanded: loss above float32's, %", above[2], at_most=0.5),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("coat", __doc__, measured, steps=300, seeds=3)
