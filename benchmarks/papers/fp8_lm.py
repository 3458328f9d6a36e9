"""Claim: products, gradients, weights and Adam's first moment in FP8 train as bfloat16 does.

H. Peng et al., FP8-LM: Training FP8 large language models, arXiv:2310.18313. The levels O1 to O3
of MS-AMP on the linear layers of the byte model, and the second moment in FP8 too, which is too
much. Sums of gradients over replicas are in fp8_lm_sums.

    python -m benchmarks.papers.fp8_lm [--steps N] [--seeds S] [--out DIR]
"""

import optax

from benchmarks import record
from benchmarks.papers import paper
from models.byte_lm.task import task
from qsim.training.states import master_weights

LEVEL = """.*(attend|BLHK|BHLM).* operands=bfloat16; gradients=e5m2 power_of_two;
operands=e4m3fn power_of_two; weight_gradient outputs=e4m3fn power_of_two;
.*/mu/.* stored states={} power_of_two; .*/nu/.* stored states={} power_of_two;
.*master.* stored states=binary16 power_of_two; .*kernel.* stored weights={} power_of_two;
stored weights=binary16 power_of_two"""
LEVELS = {  # both moments, and the weights of linear layers
    "O1: products, gradients": ("binary32", "binary32", "binary16"),
    "O2: first moment too": ("e4m3fn", "binary16", "binary16"),
    "O3: weights too": ("e4m3fn", "binary16", "e4m3fn"),
    "O2, second moment too": ("e4m3fn", "e4m3fn", "binary16"),
}
ADAM = optax.adam(task().rate)


def measured(steps: int, seeds: int) -> dict:
    policies = ["operands=bfloat16", *(LEVEL.format(*formats) for formats in LEVELS.values())]
    optimizer = master_weights(ADAM, "none")
    runs = paper.trained(task(), policies, seeds=range(seeds), steps=steps, optimizer=optimizer)
    losses = paper.heldout(runs)
    above = 100 * (losses / losses[0] - 1)
    levels = {"in FP8": ["nothing", *LEVELS], "held-out loss, nats": losses.mean(1)}
    levels |= {"above bfloat16, %": above.mean(1), "least of the seeds": above.min(1)}
    levels["diverged"] = (runs.diverged >= 0).sum(1).tolist()
    worst, second = above[1:4].mean(1).max().item(), above[4].mean().item()
    return {
        "sections": [paper.table("The byte model", levels)],
        "targets": [
            record.target("O1 to O3, the worst, % above bfloat16", worst, at_most=1.0),
            record.target("second moment in FP8, the same", second, at_least=1.0),
            record.target("runs that diverged", (runs.diverged >= 0).sum(), at_most=0),
        ],
    }


if __name__ == "__main__":
    paper.reproduce("fp8-lm", __doc__, measured, steps=200, seeds=3)
