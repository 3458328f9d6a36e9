"""Claim: bits taken from bfloat16 make training less stable, and logits get sharp before it fails.

J. Lee et al., To FP8 and back again: Quantifying the effects of reducing precision on LLM training
stability, arXiv:2405.18710. Operands of all products of a small byte model are masked: mantissa
bits are cut off, exponents beyond a narrower range are clamped or become zero. A run fails when it
diverges (its loss is 1.5 times its best for 20 steps; even guesses have twice the best loss) or
ends above 1.1 times the best held-out loss; a rate is usable when fewer than half of its runs fail.

    python -m benchmarks.papers.to_fp8_and_back [--steps N] [--seeds S] [--out DIR]
"""

from typing import cast

import jax
import numpy as np
import optax
from scipy import stats

from benchmarks.papers import paper
from benchmarks.record import target
from models.byte_lm.model import ByteLM, Config
from models.byte_lm.task import task
from qsim.training.divergence import Divergence
from qsim.training.sharpness import logit_sharpness

FORMATS = {"float32": "binary32", "E8M7": "e8m7", "E8M5": "e8m5", "E8M3": "e8m3"}
FORMATS |= {f"E{n}M7": f"e{n}m7_flush_after" for n in (7, 6, 5)}
CHAINS = (0, 1, 2, 3), (0, 1, 4, 5, 6)  # of ever fewer bits
POLICIES = [f"operands={fmt} toward_zero" for fmt in FORMATS.values()]
RATES = (1e-3, 3e-3, 1e-2, 3e-2)  # that of the task, and from small to too large
SMALL = Config(context=32, layers=2, heads=2, head_width=16)
WINDOW, RULE = 50, Divergence(factor=1.5)


def sharpness(weights, batch):
    logits = cast(jax.Array, ByteLM(SMALL).apply(weights, batch[0]))
    return {"sharpness": logit_sharpness(logits, batch[1])}


def rises(sharpness: np.ndarray, ends: np.ndarray) -> float:
    """The median rank correlation of sharpness with time in the last steps before the ends."""
    last = [x[max(end - WINDOW, 0) : end] for x, end in zip(sharpness, ends, strict=True)]
    found = [stats.spearmanr(np.arange(len(x)), x)[0] for x in last if len(x) > 2]
    return float(np.median(found or [np.nan]))


def measured(steps: int, seeds: int) -> dict:
    sizes = {"seeds": range(seeds), "steps": steps, "divergence": RULE, "measure": sharpness}
    adams = [optax.adam(rate) for rate in RATES]
    runs = [paper.trained(task(SMALL), POLICIES, optimizer=adam, **sizes) for adam in adams]
    heldout = np.stack([paper.heldout(each) for each in runs], 1)  # [policies, rates, seeds]
    stopped = np.stack([each.diverged for each in runs], 1)
    sharp = np.stack([each.metrics["sharpness"] for each in runs], 1)
    diverged, failed = stopped >= 0, heldout > 1.1 * heldout.min()
    share, usable = failed.mean((1, 2)), failed.mean(2) < 0.5
    falls = sum(int((np.diff(share[[*chain]]) < 0).sum()) for chain in CHAINS)
    lost = usable[0].sum() - usable[[chain[-1] for chain in CHAINS]].sum(1).max()
    before = rises(sharp[diverged], stopped[diverged] - RULE.patience)
    others = rises(sharp[~diverged], np.full((~diverged).sum(), steps))
    columns = {
        "operands": list(FORMATS),
        "diverged, %": 100 * diverged.mean((1, 2)),
        "failed, %": 100 * share,
        "usable rates": [", ".join(f"{r:g}" for r in np.array(RATES)[each]) for each in usable],
        "held-out loss, median": np.median(heldout, (1, 2)),
    }
    found = [{"before divergence": before, "at the end of other runs": others}]
    tables = [paper.table(f"Runs of {seeds} seeds at {len(RATES)} learning rates", columns)]
    tables += [paper.findings(f"Rank correlation of sharpness and time, {WINDOW} steps", found)]
    goals = [
        target("times that fewer bits fail less often", falls, at_most=0),
        target("usable rates that E8M3 and E5M7 lose, at least", int(lost), at_least=1),
        target("rank correlation before divergence", before, at_least=0.6),
    ]
    return {"sections": tables, "targets": goals}


if __name__ == "__main__":
    paper.reproduce("to-fp8-and-back", __doc__, measured, steps=150, seeds=8)
