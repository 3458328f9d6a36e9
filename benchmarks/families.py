"""Claim: block formats and codebooks of 16 values cost at most twice what plain rounding costs.

16 Mi normal float32 are rounded to posits, HiFloat8, codebooks and block formats, each by one
executable whose grid is an argument, beside plain rounding to e4m3fn in the same run.

    python -m benchmarks.families [--size N] [--repeats R] [--plain-allocator] [--out DIR]
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Callable, Iterator
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

import qsim
from benchmarks import record, timing
from qsim.numbers import exact

PLAIN, TWICE = "e4m3fn", 2.0
SPECS = (
    "posit8.1",
    "posit16.1",
    "hif8",
    "nf4",
    "dynamic8",
    "mxfp8_e4m3",
    "mxfp4",
    "nvfp4",
    "int4_g128",
)
LIMITED = ("nf4", "mxfp8_e4m3", "mxfp4", "nvfp4", "int4_g128")
SAMPLE, CHECKED = 2**16, 2**12  # values for peers that take them one by one; for the definition

COLUMNS = {
    "name": "rounding by",
    "milliseconds": "ms",
    "ratio": "times plain rounding",
    "compile": "compile, s",
    "differ": "inexact",
    "checked": "of",
}


def main() -> None:
    """Measures, prints and stores."""
    parser = record.arguments(__doc__)
    parser.add_argument("--size", type=int, default=2**24, help="float32 values to round")
    options = parser.parse_args()
    turn = lambda: measured(options.size, options.repeats)  # noqa: E731
    record.run("families", __doc__, options, turn, size=options.size)


def measured(size: int, repeats: int) -> dict:
    """The section, targets and absent peers of the record."""
    x = jnp.asarray(np.random.default_rng(3).standard_normal((size // 4096, 4096), np.float32))
    runs: dict[str, Callable] = {}
    facts: dict[str, dict] = {}
    shares: dict[str, float] = {}
    for spec in (PLAIN, *SPECS):
        grid = jax.tree.map(jnp.asarray, qsim.lower(qsim.parse(spec)))
        turn, seconds = timing.compile(qsim.quantize, x, grid)
        name = _ours(spec)
        runs[name] = lambda turn=turn, grid=grid: turn(x, grid)
        facts[name] = {"compile": seconds, **_accuracy(np.asarray(x), turn(x, grid), spec)}
    absent = []
    for name, make in PEERS.items():
        try:
            for kind, run, share in make(np.array(x)):
                runs[kind], facts[kind], shares[kind] = run, {}, share
        except Exception as error:
            absent.append(record.absent(name, error))
    taken = timing.interleave(runs, _ours(PLAIN), repeats=repeats)
    rows = []
    for name in runs:
        row = {"name": name, **taken[name].facts(), **facts[name]}
        for key in ("milliseconds", "ratio"):
            row[key] /= shares.get(name, 1)
        rows.append(row)
    ratios = {row["name"]: row["ratio"] for row in rows}
    targets = [
        record.target(f"{spec}: times plain rounding", ratios[_ours(spec)], at_most=TWICE)
        for spec in LIMITED
    ]
    title = f"{size:,} normal float32; one-by-one peers on {SAMPLE:,}, their times scaled up"
    return {
        "sections": [record.section(title, COLUMNS, rows)],
        "targets": targets,
        "absent": absent,
    }


def _ours(spec: str) -> str:
    return f"qsim, {spec}"


def _accuracy(x: np.ndarray, rounded: jax.Array, spec: str) -> dict:
    """How many results differ from the exact definition, where one number decides its own."""
    fmt = qsim.parse(spec)
    if isinstance(fmt, qsim.Block):
        return {}
    values, results = x.reshape(-1)[:CHECKED], np.asarray(rounded).reshape(-1)[:CHECKED]
    expected = [float(exact.round_exact(Fraction(float(v)), fmt)) for v in values]
    return {"differ": int(np.sum(results != np.array(expected, np.float32))), "checked": CHECKED}


# --- peers: the name, the run, and the share of the values that it takes --------------------


def _bitsandbytes(x: np.ndarray) -> Iterator[tuple]:
    import bitsandbytes.functional as bnb
    import torch

    own = torch.from_numpy(x)

    def nf4():
        return bnb.dequantize_4bit(*bnb.quantize_4bit(own, blocksize=64, quant_type="nf4"))

    def dynamic():
        return bnb.dequantize_blockwise(*bnb.quantize_blockwise(own))

    yield "bitsandbytes, NF4 in blocks of 64", nf4, 1
    yield "bitsandbytes, dynamic 8 bit in blocks", dynamic, 1


def _numpy(x: np.ndarray) -> Iterator[tuple]:
    values = np.array([float(v) for v in sorted(exact.values(qsim.parse("nf4")))], np.float32)
    middles = (values[1:] + values[:-1]) / 2
    yield "NumPy searchsorted, NF4", lambda: values[np.searchsorted(middles, x)], 1


def _softposit(x: np.ndarray) -> Iterator[tuple]:
    import softposit

    few = x.reshape(-1)[:SAMPLE].tolist()
    share = len(few) / x.size
    yield "softposit, posit8", lambda: [float(softposit.posit8(v)) for v in few], share
    yield "softposit, posit16", lambda: [float(softposit.posit16(v)) for v in few], share


def _gfloat(x: np.ndarray) -> Iterator[tuple]:
    import gfloat
    from gfloat import formats

    few = x.reshape(-1)[:SAMPLE].reshape(-1, 32)
    share = few.size / x.size
    kinds = {"mxfp8_e4m3": formats.format_info_mxfp8_e4m3, "mxfp4": formats.format_info_mxfp4_e2m1}
    for name, info in kinds.items():

        def turn(info=info):
            return [gfloat.quantize_block(info, row, gfloat.compute_scale_amax) for row in few]

        yield f"gfloat, {name}, NumPy", turn, share


def _qtorch(x: np.ndarray) -> Iterator[tuple]:
    import torch
    from qtorch.quant import block_quantize

    own = torch.from_numpy(x)
    turn = lambda: block_quantize(own, wl=8, dim=0, rounding="nearest")  # noqa: E731
    yield "QPyTorch, 8-bit blocks of a row", turn, 1


PEERS: dict[str, Callable[[np.ndarray], Iterator[tuple]]] = {
    "bitsandbytes": _bitsandbytes,
    "NumPy": _numpy,
    "softposit": _softposit,
    "gfloat": _gfloat,
    "QPyTorch": _qtorch,
}


if __name__ == "__main__":
    main()
