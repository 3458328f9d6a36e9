"""Claim: stochastic rounding costs at most twice what rounding to nearest costs.

16 Mi float32 are rounded to e4m3fn with 32 random bits each, drawn in the same compiled function by
every generator whose keys ``qsim.quantize`` takes. Rounding to nearest stands beside it, and the
drawing of the random bits alone, which is at least ten times as fast as with jax.random's keys.

    python -m benchmarks.stochastic [--size N] [--repeats R] [--plain-allocator] [--out DIR]
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import math
from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

import qsim
from benchmarks import record, timing
from benchmarks.peers import peers
from benchmarks.rounding import data
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import random_words

FORMAT, MODE = "e4m3fn", "stochastic"
TWICE, TENFOLD = 2.0, 10.0
FRACTION = 0.3  # of a gap, where the share of ups is counted
PLAIN = "qsim, to nearest"
KEYS: dict[str, Callable] = {
    "squares": lambda: qsim.counter_key(1),
    "triple32": lambda: qsim.counter_key(1, generator="triple32"),
    "threefry": lambda: jax.random.key(1),
}

COLUMNS = {
    "name": "stochastic rounding by",
    "milliseconds": "ms",
    "ratio": "times plain rounding",
    "compile": "compile, s",
    "format": "to",
    "deviations": "deviations",
    "moved": "values moved",
}
DRAWN = {
    "name": "32 random bits by",
    "milliseconds": "ms",
    "ratio": "times plain rounding",
    "compile": "compile, s",
}


def main() -> None:
    """Measures, prints and stores."""
    parser = record.arguments(__doc__)
    parser.add_argument("--size", type=int, default=2**24, help="float32 values to round")
    options = parser.parse_args()
    turn = lambda: measured(options.size, options.repeats)  # noqa: E731
    record.run("stochastic", __doc__, options, turn, size=options.size)


def measured(size: int, repeats: int) -> dict:
    """The sections, targets and absent peers of the record."""
    x, grid = data(size), jax.tree.map(jnp.asarray, qsim.lower(qsim.parse(FORMAT)))
    plain, seconds = timing.compile(qsim.quantize, x, grid)
    runs, facts = {PLAIN: lambda: plain(x, grid)}, {PLAIN: {"compile": seconds, "format": FORMAT}}
    ours, drawn = {}, {}
    for name, make in KEYS.items():
        ours[name], drawn[name] = f"qsim, {name}", f"bits alone, {name}"
        _enter(runs, facts, ours[name], rounded, x, grid, make())
        facts[ours[name]] |= _accuracy(jax.jit(lambda x, key=make(): rounded(x, grid, key)), size)
        _enter(runs, facts, drawn[name], lambda x, key: words(x, key), x, make())
    rivals, absent = peers(qsim.parse(FORMAT), stochastic=True)
    for rival in rivals:
        own = rival.array(np.array(x))
        runs[rival.name] = lambda rival=rival, own=own: rival.round(own)
        turn = lambda y, rival=rival: rival.round(rival.array(np.array(y)))  # noqa: E731
        facts[rival.name] = _accuracy(turn, size, rival.spec)
    taken = timing.interleave(runs, PLAIN, repeats=repeats)
    rows = {name: {"name": name, **taken[name].facts(), **facts[name]} for name in runs}
    alone = [rows.pop(name) for name in drawn.values()]
    sections = [
        record.section(f"{size:,} float32 to {FORMAT}", COLUMNS, list(rows.values())),
        record.section(f"{size:,} words of random bits", DRAWN, alone),
    ]
    targets = [
        record.target(f"{name}: times plain rounding", rows[ours[name]]["ratio"], at_most=TWICE)
        for name in ("squares", "triple32")
    ]
    ratios = {name: row["ratio"] for name, row in zip(drawn, alone, strict=True)}
    targets += [
        record.target(
            f"bits of {name}: times faster than threefry",
            ratios["threefry"] / ratios[name],
            at_least=TENFOLD,
        )
        for name in ("squares", "triple32")
    ]
    return {"sections": sections, "targets": targets, "absent": absent}


def rounded(x, grid, key):
    """``x`` rounded stochastically."""
    return qsim.quantize(x, grid, rounding=MODE, key=key)


def words(x, key):
    """The random bits that rounding ``x`` draws."""
    return random_words(key, x.shape, Rounding.parse(MODE))


def _enter(runs: dict, facts: dict, name: str, fn: Callable, *args) -> None:
    """Puts a compiled function among the contestants."""
    executable, seconds = timing.compile(fn, *args)
    runs[name], facts[name] = (lambda: executable(*args)), {"compile": seconds}


def _accuracy(turn: Callable, size: int, spec: str = FORMAT) -> dict:
    """Whether a contestant's probabilities are right: of one number, and of the values."""
    fmt, size = qsim.parse(spec), min(size, 2**22)
    gap = 2.0**-fmt.mantissa_bits
    x = np.float32(1 + FRACTION * gap)
    ups = int((np.asarray(turn(np.full(size, x, np.float32))) > 1).sum())
    share = float(Fraction(float(x)) - 1) / gap
    deviation = math.sqrt(size * share * (1 - share))
    values = np.asarray(qsim.decode(np.arange(2**fmt.bits), fmt), np.float32)
    values = np.resize(values[np.isfinite(values)], size)
    kept = np.asarray(turn(values)) == values
    return {
        "format": spec,
        "deviations": abs(ups - size * share) / deviation,
        "moved": int((~kept).sum()),
    }


if __name__ == "__main__":
    main()
