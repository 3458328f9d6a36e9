"""Sums in an emulated accumulator are as fast as a loop in C, and far faster than other programs'.

Matrix products of E4M3 values, in an accumulator of binary16 where nothing else is said. Programs
that are slow multiply some of the rows only; all are compared by multiply-accumulates per second,
and every result that is the same sum must have the same bytes.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

import qsim
from benchmarks import record, timing
from benchmarks.peers import peers
from qsim.arithmetic import matmul

SOURCE = Path(__file__).with_suffix(".c")
FORMAT, OPERANDS = "e5m10", "e4m3"
DOT, LOOP = "float32 dot, XLA", "a loop in C, OpenMP"
STEPS, FUSED, CHUNKS = (
    "qsim, product and sum rounded",
    "qsim, fused",
    "qsim, native chunks of 32, then rounded",
)
OURS = {
    STEPS: f"{FORMAT} product={FORMAT}",
    FUSED: FORMAT,
    "qsim, fused, e8m13": "e8m13",
    "qsim, fused, e8m13:chunk128": "e8m13:chunk128",
    "qsim, pairwise": f"{FORMAT} pairwise",
    "qsim, kahan": f"{FORMAT} kahan",
    "qsim, hopper_fp8": "hopper_fp8",
    CHUNKS: f"binary32 native chunk32 outer={FORMAT}",
}
COLUMNS = {
    "name": "summed by",
    "rows": "rows",
    "milliseconds": "ms",
    "rate": "GMAC/s",
    "against": "times the float32 dot's rate",
    "same": "bytes as the exact sums",
}
Product = Callable[[np.ndarray, np.ndarray], Any]


def main() -> None:
    parser = record.arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024], help="of the matrices")
    options = parser.parse_args()
    measured = lambda: _measured(options.sizes, options.repeats)  # noqa: E731
    record.run("accumulate", __doc__, options, measured, sizes=options.sizes)


def _measured(sizes: list[int], repeats: int) -> dict[str, Any]:
    sections, targets, absent = [], [], []
    for size in sizes:
        rows, absent = _rows(size, repeats)
        sections.append(record.section(f"{size} x {size} x {size}", COLUMNS, rows))
        targets = _targets({row["name"]: row["rate"] for row in rows}, size)
    return {"sections": sections, "targets": targets, "absent": absent}


def _targets(rates: dict[str, float], size: int) -> list[dict[str, Any]]:
    """What is asked of the largest size, of the programs that are there."""
    asked = [
        (LOOP, STEPS, 0.8),
        ("CPFloat", STEPS, 20),
        ("APyTypes", STEPS, 50),
        (DOT, CHUNKS, 0.5),
    ]
    return [
        record.target(f"{size}: {mine}, times {name}", rates[mine] / rates[name], at_least=least)
        for name, mine, least in asked
        if name in rates
    ]


def _rows(size: int, repeats: int) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    rng = np.random.default_rng(0)
    a, b = (
        np.array(qsim.quantize(rng.standard_normal((size, size)).astype(np.float32), OPERANDS))
        for _ in range(2)
    )
    found, absent = _others()
    few = {name: max(size // 32, 1) for name in found if name != LOOP}
    made: dict[str, Product] = {DOT: jax.jit(lambda a, b: jnp.dot(a, b, precision="highest"))}
    made |= {
        name: lambda a, b, how=how: matmul(a, b, how, formats=(OPERANDS, OPERANDS))
        for name, how in OURS.items()
    }
    made |= found
    runs = {name: lambda f=f, n=few.get(name, size): f(a[:n], b) for name, f in made.items()}
    truth = np.asarray(runs[STEPS]())
    taken = timing.interleave(runs, DOT, repeats=repeats)
    rows = []
    for name, run in runs.items():
        facts, count = taken[name].facts(), few.get(name, size)
        result = np.asarray(run(), np.float32)
        same = bool((result.view(np.uint32) == truth[:count].view(np.uint32)).all())
        rate = count * size * size / facts["milliseconds"] / 1e6
        of_dot = facts["ratio"] * size / count
        comparable = name == STEPS or name in found
        rows.append(
            {
                "name": name,
                "rows": count,
                "rate": rate,
                "against": 1 / of_dot,
                "same": ("yes" if same else "no") if comparable else None,
                **facts,
            }
        )
    return rows, absent


# --- other programs -------------------------------------------------------------------------


def _others() -> tuple[dict[str, Product], list[dict[str, str]]]:
    found: dict[str, Product] = {}
    absent = []
    for name, make in OTHERS.items():
        try:
            found |= dict(make())
        except Exception as error:
            absent.append(record.absent(name, error))
    return found, absent


def _in_c() -> Iterator[tuple[str, Product]]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "accumulate.so"
        flags = ["-O3", "-march=native", "-mprefer-vector-width=512", "-ffp-contract=off"]
        words = [compiler, *flags, "-fopenmp", "-shared", "-fPIC", str(SOURCE), "-o", str(library)]
        subprocess.run(words, check=True, capture_output=True)
        call = ctypes.CDLL(str(library)).accumulate
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C")
    call.argtypes = [pointer] * 3 + [ctypes.c_int] * 3 + [ctypes.c_uint32] * 4
    fmt = qsim.parse(FORMAT)
    assert isinstance(fmt, qsim.Float)
    up = 23 - fmt.mantissa_bits
    largest = int(np.float32(float(fmt.largest)).view(np.uint32))
    field = [(n << 23) for n in (fmt.emin + 127, 254 - up, up)]

    def product(a, b):
        c = np.empty((a.shape[0], b.shape[1]), np.float32)
        call(a, b, c, a.shape[0], *b.shape, *field, largest)
        return c

    yield LOOP, product


def _numpy() -> Iterator[tuple[str, Product]]:
    def product(a, b):
        a, b = a.astype(np.float16), b.astype(np.float16)
        total = np.zeros((a.shape[0], b.shape[1]), np.float16)
        for k in range(len(b)):
            total = total + a[:, k, None] * b[k]
        return total

    yield "NumPy float16", product


def _cpfloat() -> Iterator[tuple[str, Product]]:
    """CPFloat rounds arrays: each step is two operations of NumPy, each rounded by it."""
    fmt = qsim.parse(FORMAT)
    assert isinstance(fmt, qsim.Float)
    there, absent = peers(fmt)
    chosen = [peer for peer in there if peer.name.startswith("CPFloat")]
    if not chosen:
        raise FileNotFoundError(next(row["reason"] for row in absent if row["peer"] == "CPFloat"))

    def product(a, b):
        total = np.zeros((a.shape[0], b.shape[1]), np.float32)
        for k in range(len(b)):
            total = chosen[0].round(total + chosen[0].round(a[:, k, None] * b[k]))
        return total

    yield "CPFloat", product


def _apytypes() -> Iterator[tuple[str, Product]]:
    import apytypes

    fmt = qsim.parse(FORMAT)
    assert isinstance(fmt, qsim.Float)
    widths = {"exp_bits": fmt.exponent_bits, "man_bits": fmt.mantissa_bits}

    def product(a, b):
        a, b = (apytypes.APyFloatArray.from_float(x, **widths) for x in (a, b))
        mode = apytypes.QuantizationMode.TIES_EVEN
        with apytypes.APyFloatAccumulatorContext(**widths, quantization=mode):
            return (a @ b).to_numpy()

    yield "APyTypes", product


OTHERS = {"C": _in_c, "NumPy": _numpy, "CPFloat": _cpfloat, "APyTypes": _apytypes}


if __name__ == "__main__":
    main()
