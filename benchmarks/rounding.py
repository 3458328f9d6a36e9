"""Claim: rounding to any format costs what copying the array costs.

16 Mi float32 are rounded to e4m3fn, e5m7 and bfloat16, at most 1.10 times as slow as a copy of the
same array (a product with a run-time number) in the same run, and exactly, subnormals and special
values included: by one executable whose grid is an argument, and by one each that knows its format,
as those of the peers do.

    python -m benchmarks.rounding [--size N] [--repeats R] [--plain-allocator] [--out DIR]
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")


from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import qsim
from benchmarks import record, reference, timing
from benchmarks.peers import Peer, peers

FORMATS = ("e4m3fn", "e5m7", "bfloat16")
LIMIT = 1.10
COPY = "copy: x * c in jit"
TRACED, CONSTANT = "qsim, grid as an argument", "qsim, format as a constant"

COLUMNS = {
    "name": "rounding by",
    "milliseconds": "ms",
    "ratio": "times the copy",
    "compile": "compile, s",
    "format": "to",
    "overflow": "overflow",
    "differ": "inexact",
    "zeros": "zeros of wrong sign",
}


def main() -> None:
    """Measures, prints and stores."""
    parser = record.arguments(__doc__)
    parser.add_argument("--size", type=int, default=2**24, help="float32 values to round")
    parser.add_argument("--variants", type=int, default=64, help="test inputs, in units of 2**16")
    options = parser.parse_args()

    def turn() -> dict:
        return measured(options.size, options.repeats, reference.inputs(options.variants))

    facts = {"size": options.size, "test_inputs": options.variants * 2**16}
    record.run("rounding", __doc__, options, turn, **facts)


def measured(size: int, repeats: int, tests: np.ndarray) -> dict:
    """The sections, targets and absent peers of the record."""
    x = data(size)
    copy, _ = timing.compile(lambda x, c: x * c, x, 1.0)
    turn, seconds = timing.compile(qsim.quantize, x, qsim.lower(qsim.parse(FORMATS[0])))
    sections, targets, absent = [], [], {}
    for spec in FORMATS:
        rivals, missing = peers(qsim.parse(spec))
        absent |= {entry["peer"]: entry for entry in missing}
        grid = jax.tree.map(jnp.asarray, qsim.lower(qsim.parse(spec)))
        runs, facts = {COPY: lambda: copy(x, 1.0)}, {COPY: {}}
        runs[TRACED] = lambda grid=grid: turn(x, grid)
        traced = np.asarray(jax.jit(qsim.quantize)(tests, grid))
        facts[TRACED] = {"compile": seconds, **_accuracy(traced, tests, spec, "saturate")}
        fixed = partial(qsim.quantize, fmt=spec)
        alone, own_seconds = timing.compile(fixed, x)
        runs[CONSTANT] = lambda alone=alone: alone(x)
        constant = np.asarray(jax.jit(fixed)(tests))
        facts[CONSTANT] = {"compile": own_seconds, **_accuracy(constant, tests, spec, "saturate")}
        for rival in rivals:
            runs[rival.name], facts[rival.name] = entered(rival, x, tests)
        taken = timing.interleave(runs, COPY, repeats=repeats)
        rows = [{"name": name, **taken[name].facts(), **facts[name]} for name in runs]
        title = f"{size:,} float32 to {spec}; accuracy on {len(tests):,} inputs"
        sections.append(record.section(title, COLUMNS, rows))
        limit = {"at_most": LIMIT}
        targets += [
            record.target(f"{spec}, {row['name']}: times the copy", row["ratio"], **limit)
            for row in rows[1:3]
        ]
    return {"sections": sections, "targets": targets, "absent": list(absent.values())}


def data(size: int) -> jax.Array:
    """Values over twenty binades, so that every format meets subnormals and overflow."""
    rng = np.random.default_rng(1)
    values = np.ldexp(rng.standard_normal(size, np.float32), rng.integers(-12, 9, size))
    return jnp.asarray(values.astype(np.float32))


def entered(peer: Peer, x: jax.Array, tests: np.ndarray) -> tuple:
    """A contestant of a peer: its run, and the facts that stand beside its time."""
    own, turn, checked, facts = peer.array(np.array(x)), peer.round, peer.round, {}
    if peer.traced:
        checked = jax.jit(peer.round)
        turn, facts["compile"] = timing.compile(peer.round, own)
    result = np.asarray(checked(peer.array(tests.copy())), np.float32)
    return (lambda: turn(own)), facts | _accuracy(result, tests, peer.spec, peer.overflow)


def _accuracy(result: np.ndarray, tests: np.ndarray, spec: str, overflow: str) -> dict:
    """To what the test inputs were rounded, and how many of them not exactly."""
    exact = reference.rounded(tests, qsim.parse(spec), overflow)
    return {"format": spec, "overflow": overflow, **reference.differences(result, exact)}


if __name__ == "__main__":
    main()
