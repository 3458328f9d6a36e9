"""1,024 x 1,024 x 1,024 products in binary16 sums: near a C loop's rate, 20 times other programs'.

Matrix products of E4M3 values, in an accumulator of binary16 where nothing else is said. Programs
that are slow multiply some of the rows only; all are compared by multiply-accumulates per second.
Products and sums rounded one after the other are the same sums in every program: before anything
is timed their bytes are compared, and the benchmark fails where they differ. Each size has its own
targets; small ones, whose calls cost more than their sums, miss some. Native sums are of operands
in bfloat16, as E4M3 values may be.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
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
    "qsim, native sums of 32, then rounded",
)
PLAIN_CHUNKS, PYCHOP = "float32 dots of 32, not rounded, XLA", "pychop BLAS"
OURS = {
    STEPS: f"{FORMAT} product={FORMAT}",
    FUSED: FORMAT,
    "qsim, fused, e8m13": "e8m13",
    "qsim, fused, e8m13:chunk128": "e8m13:chunk128",
    "qsim, pairwise": f"{FORMAT} pairwise",
    "qsim, kahan": f"{FORMAT} kahan",
    "qsim, hopper_fp8": "hopper_fp8",
    "qsim, native chunks of 32": f"{FORMAT} native chunk32 outer={FORMAT}",
    CHUNKS: f"{FORMAT} native group32",
}
COLUMNS = {
    "name": "summed by",
    "part": "of the result",
    "milliseconds": "ms",
    "rate": "GMAC/s",
    "against": "times the float32 dot's rate",
    "same": "bytes as qsim's",
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
        targets += targets_of(rows, size)
    return {"sections": sections, "targets": targets, "absent": absent}


def targets_of(rows: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """What is asked of a size: rates against those of the programs that are there."""
    asked = [
        (LOOP, STEPS, 0.8),
        ("CPFloat", STEPS, 20),
        ("APyTypes", STEPS, 50),
        (PYCHOP, STEPS, 50),
        (DOT, CHUNKS, 0.5),
    ]
    rates = {row["name"]: row["against"] for row in rows}  # of interleaved runs
    parts = {row["name"]: row["part"] for row in rows}
    return [
        record.target(
            f"{size}: rate of {mine}, times that of {name} on {parts[name]}",
            rates[mine] / rates[name],
            at_least=least,
        )
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
    few = {name: (max(size // 32, 1), size) for name in found if name != LOOP}
    few |= {name: (1, 2) for name in found if name == PYCHOP}
    made: dict[str, Product] = {DOT: jax.jit(lambda a, b: jnp.dot(a, b, precision="highest"))}
    made[PLAIN_CHUNKS] = _in_chunks
    made |= {
        name: lambda a, b, how=how: matmul(a, b, how, formats=(OPERANDS, OPERANDS))
        for name, how in OURS.items()
    }
    made |= found
    parts = {name: few.get(name, (size, size)) for name in made}
    runs = {
        name: partial(f, a[: parts[name][0]], _columns(b, parts[name])) for name, f in made.items()
    }
    alike = {name: runs[name] for name in (STEPS, *found)}
    _require_same(alike, parts)
    taken = timing.interleave(runs, DOT, repeats=repeats)
    rows = []
    for name in runs:
        facts, (height, width) = taken[name].facts(), parts[name]
        rate = height * width * size / facts["milliseconds"] / 1e6
        of_dot = facts["ratio"] * size**2 / (height * width)
        rows.append(
            {
                "name": name,
                "part": f"{height} x {width}",
                "rate": rate,
                "against": 1 / of_dot,
                "same": "yes" if name in alike else None,
                **facts,
            }
        )
    return rows, absent


def _require_same(runs: dict[str, Callable[[], Any]], parts: dict[str, tuple[int, int]]) -> None:
    """Checks that programs of one definition give the same bytes.

    Raises:
        RuntimeError: if one does not: then its time says nothing.
    """
    ours = np.asarray(runs[STEPS](), np.float32)
    for name, run in runs.items():
        height, width = parts[name]
        result = np.asarray(run(), np.float32)
        differ = result.view(np.uint32) != ours[:height, :width].view(np.uint32)
        if differ.any():
            raise RuntimeError(
                f"{name}: {differ.sum()} of {differ.size} sums are not those of qsim"
            )


def _columns(b: np.ndarray, part: tuple[int, int]) -> np.ndarray:
    return np.ascontiguousarray(b[:, : part[1]])


@jax.jit
def _in_chunks(a, b):
    """What the back end takes for the products of chunks and their plain float32 sum."""

    def step(s, chunk):
        return s + jnp.dot(*chunk, precision="highest"), None

    left = jnp.moveaxis(a.reshape(len(a), -1, 32), 1, 0)
    right = b.reshape(-1, 32, b.shape[1])
    return jax.lax.scan(step, jnp.zeros((a.shape[0], b.shape[1])), (left, right))[0]


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


def _pychop() -> Iterator[tuple[str, Product]]:
    """The loop of its ``gemm``, which itself fails: 0.6.2 reads names that are not defined."""
    import pychop

    pychop.backend("numpy")
    pychop.LightChop = pychop.Chop
    from pychop.np.blas_np import low_prec_mm

    fmt = qsim.parse(FORMAT)
    assert isinstance(fmt, qsim.Float)
    how = {"exp_bits": fmt.exponent_bits, "sig_bits": fmt.mantissa_bits, "rmode": 1}
    yield PYCHOP, lambda a, b: low_prec_mm(a, b, how)


def _mptorch() -> Iterator[tuple[str, Product]]:
    import mptorch.quant  # is in no package registry; used where somebody built it

    number = mptorch.FloatingPoint(exp=5, man=10, subnormals=True, saturate=False)
    yield "MPTorch", lambda a, b: mptorch.quant.float_gemm(a, b, number)


OTHERS = {
    "C": _in_c,
    "NumPy": _numpy,
    "CPFloat": _cpfloat,
    "APyTypes": _apytypes,
    "pychop": _pychop,
    "MPTorch": _mptorch,
}


if __name__ == "__main__":
    main()
