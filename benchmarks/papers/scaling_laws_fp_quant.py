"""Claim: exponent bits are worth slightly more than mantissa bits, by a law that fits.

X. Sun et al., Scaling Laws for Floating Point Quantization Training, arXiv:2501.02423. The law's
published constants give the published layouts and critical sizes of data; a sweep of formats for
the weights of both passes and the activations of the backward pass gives the law's exponents at
the scale of the byte model.

    python -m benchmarks.papers.scaling_laws_fp_quant [--steps N] [--seeds S] [--out DIR]
"""

import itertools

import numpy as np
from scipy import optimize

from benchmarks import record
from benchmarks.papers import paper
from models.byte_lm.task import task

# L = n/N^a + d/D^b + e + D^b/N^a log2(B) / (g (E + .5)^delta (M + .5)^nu)
ALPHA, D, BETA, GAMMA, DELTA, NU = 0.2368, 68973.0621, 0.5162, 11334.5197, 3.1926, 2.9543
PUBLISHED = "0.0 1.0 1.1 2.1 2.2 3.2 3.3 4.3 4.4 5.4 5.5 6.5 6.6 7.6 7.7 8.7"
CRITICAL = {"bfloat16": (8, 7, 1730e12), "e4m3": (4, 3, 27e12), "e2m1": (2, 1, 0.4e12)}
POLICY = "weights={f} absmax ties_to_away; weight_gradient activations={f} absmax ties_to_away"


def layout(bits: int) -> str:
    """The best exponent and mantissa bits of a width, one bit being the sign."""
    worth = lambda e: (e + 0.5) ** DELTA * (bits - 1 - e + 0.5) ** NU  # noqa: E731
    best = max(range(bits), key=worth)
    return f"{best}.{bits - 1 - best}"


def critical(exponent: int, mantissa: int, weights: float = 1e9, block: int = 128) -> float:
    """The size of data beyond which more data make the loss larger."""
    worth = (exponent + 0.5) ** DELTA * (mantissa + 0.5) ** NU
    return (D * GAMMA * weights**ALPHA * worth / np.log2(block)) ** (1 / (2 * BETA))


def measured(steps: int, seeds: int) -> dict:
    layouts = [layout(bits) for bits in range(1, 17)]
    errors = [abs(critical(e, m) / found - 1) for e, m, found in CRITICAL.values()]
    grid = list(itertools.product((2, 3, 4, 5), (0, 1, 2)))
    # special codes reclaimed; without mantissa bits, signs and zero are named
    specs = [f"e{e}m{m}f" + ("" if m else "_zero") for e, m in grid]
    policies = [None, *(POLICY.format(f=spec) for spec in specs)]
    losses = paper.heldout(paper.trained(task(), policies, seeds=range(seeds), steps=steps))
    lost = (losses[1:] - losses[:1]).mean(1)

    def law(x, size, delta, nu):
        return size / ((x[0] + 0.5) ** delta * (x[1] + 0.5) ** nu)

    x = np.array(grid, float).T
    constants, _ = optimize.curve_fit(law, x, lost, p0=(0.1, 1, 1), maxfev=10_000)
    (_, delta, nu), fitted = constants, law(x, *constants)
    quality = 1 - ((lost - fitted) ** 2).sum() / ((lost - lost.mean()) ** 2).sum()
    rows = [
        {"format": spec, "loss above float32, nats": found, "by the fitted law": by_law}
        for spec, found, by_law in zip(specs, lost, fitted, strict=True)
    ]
    table = lost.reshape(4, 3)  # by exponent and mantissa bits
    rises = sum(int((np.diff(table, axis=axis) > 0).sum()) for axis in (0, 1))
    equal = sum(a == b for a, b in zip(layouts, PUBLISHED.split(), strict=True))
    return {
        "sections": [paper.findings("The byte model, weights and stored activations", rows)],
        "targets": [
            record.target("published layouts of 1 to 16 bits, equal", equal, at_least=16),
            record.target("critical sizes of data, largest error", max(errors), at_most=0.02),
            record.target("exponent of E, delta", delta, at_least=0),
            record.target("exponent of M, nu", nu, at_least=0),
            record.target("times that one more bit makes the loss larger", rises, at_most=0),
            record.target("R^2 of the fit", quality, at_least=0.9),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("scaling-laws-fp-quant", __doc__, measured, steps=300, seeds=2)
