"""The tensor sweep: one tensor, many formats, the mean squared error of each."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import qsim
from benchmarks import record, reference, timing
from benchmarks.peers import peers
from qsim.numbers.formats import Float

WARM, COLD = 10, 20  # times faster than the gfloat loop, and than our rounding jitted per format
SWEEP, MAP, LOOP = "qsim.sweep", "lax.map over qsim.stack", "loop, grid as an argument"
STATIC, YARDSTICK = "loop, qsim jitted once per format", "loop, gfloat, JAX in jit"

COLUMNS = {
    "name": "by",
    "cold": "cold, s",
    "cold_ratio": "times qsim.sweep",
    "milliseconds": "warm, ms",
    "ratio": "times qsim.sweep",
    "exact": "exact errors",
}


def formats(count: int) -> list[Float]:
    """The first ``count`` of the formats with 1 to 8 exponent bits and 1 to 8 mantissa bits."""
    sizes = [(e, m) for e in range(1, 9) for m in range(1, 9)]
    return [Float(exponent_bits=e, mantissa_bits=m) for e, m in sizes[-count:]]


def measured(count: int, size: int, repeats: int) -> tuple[dict, list[dict], list[dict]]:
    """The section, the targets, and the absent peers."""
    fmts = formats(count)
    height = max(1, size // 1024)
    values = np.random.default_rng(2).standard_normal((height, size // height), np.float32)
    x = jax.block_until_ready(jnp.asarray(values))
    makers = {name: (lambda make=make: make(fmts, x)) for name, make in OURS.items()}
    modes = {name: [(str(fmt), "saturate") for fmt in fmts] for name in OURS}
    rivals, absent = _rivals(fmts, values)
    makers |= {name: maker for name, (maker, _) in rivals.items()}
    modes |= {name: specs for name, (_, specs) in rivals.items()}
    for make in OURS.values():  # a process in which JAX has met all of this, on another shape
        jax.block_until_ready(make(fmts[:2], x[:1])())
    first = {name: timing.cold(make, tries=3) for name, make in makers.items()}
    runs = {name: run for name, (run, _) in first.items()}
    cold = {name: seconds for name, (_, seconds) in first.items()}
    taken = timing.interleave(runs, SWEEP, repeats=repeats)
    rows = [
        {
            "name": name,
            "cold": cold[name],
            "cold_ratio": cold[name] / cold[SWEEP],
            **taken[name].facts(),
            "exact": _right(run(), values, modes[name]),
        }
        for name, run in runs.items()
    ]
    by_name = {row["name"]: row for row in rows}
    targets = [
        record.target(
            f"{count} formats, cold: times faster than one jit per format",
            by_name[STATIC]["cold_ratio"],
            at_least=COLD,
        )
    ]
    if YARDSTICK in by_name:
        name = f"{count} formats, warm: times faster than gfloat in jit"
        targets.append(record.target(name, by_name[YARDSTICK]["ratio"], at_least=WARM))
    title = f"Tensor sweep: {size:,} float32, {count} formats, {count} mean squared errors"
    return record.section(title, COLUMNS, rows), targets, absent


def square_error(rounded, x):
    """The mean in two stages, so that both can be shared out over the cores."""
    return ((rounded - x) ** 2).mean(axis=-1).mean()


# --- contestants: functions that make a run anew --------------------------------------------


def _swept(fmts: list[Float], x) -> Callable:
    """A parameter that is stored in a format, and nothing else that a rule addresses."""
    policies = [f"stored weights={fmt}" for fmt in fmts]
    sweep = qsim.sweep(square_error, policies, params=0, devices=jax.local_devices()[:1])
    return lambda: sweep(x, x)


def _mapped(fmts: list[Float], x) -> Callable:
    grids = qsim.stack([qsim.lower(fmt) for fmt in fmts])
    errors = jax.jit(
        lambda x, grids: lax.map(lambda grid: square_error(qsim.quantize(x, grid), x), grids)
    )
    return lambda: errors(x, grids)


def _looped(fmts: list[Float], x) -> Callable:
    grids = [qsim.lower(fmt) for fmt in fmts]
    error = jax.jit(lambda x, grid: square_error(qsim.quantize(x, grid), x))
    return lambda: [error(x, grid) for grid in grids]


def _static(fmts: list[Float], x) -> Callable:
    errors = [jax.jit(lambda x, fmt=fmt: square_error(qsim.quantize(x, fmt), x)) for fmt in fmts]
    return lambda: [error(x) for error in errors]


OURS = {SWEEP: _swept, MAP: _mapped, LOOP: _looped, STATIC: _static}


def _rivals(fmts: list[Float], values: np.ndarray) -> tuple[dict, list[dict]]:
    """A maker for each peer that knows every format, with the specs it rounds to."""
    known: dict[str, list] = {}
    for fmt in fmts:
        found, absent = peers(fmt)
        for peer in found:
            known.setdefault(peer.name, []).append(peer)
    known = {name: each for name, each in known.items() if len(each) == len(fmts)}
    makers = {
        f"loop, {name}": (
            lambda each=each: _peer_loop(each, values),
            [(peer.spec, peer.overflow) for peer in each],
        )
        for name, each in known.items()
    }
    return makers, absent


def _peer_loop(each: list, values: np.ndarray) -> Callable:
    own = each[0].array(values.copy())
    errors = [lambda x, peer=peer: square_error(peer.round(x), x) for peer in each]
    if each[0].traced:
        errors = [jax.jit(error) for error in errors]
    return lambda: [error(own) for error in errors]


# --- accuracy -------------------------------------------------------------------------------


def _right(results, values: np.ndarray, specs: list[tuple[str, str]]) -> str:
    """How many errors are those of exact rounding, up to the summing in float32."""
    exact = [_exact_error(values, *spec) for spec in specs]
    close = np.isclose(np.asarray(results, np.float64), exact, rtol=1e-4)
    return f"{np.sum(close)} of {len(close)}"


_KNOWN: dict[tuple[str, str], float] = {}


def _exact_error(values: np.ndarray, spec: str, overflow: str) -> float:
    if (spec, overflow) not in _KNOWN:
        rounded = reference.rounded(values, qsim.parse(spec), overflow).astype(np.float64)
        _KNOWN[spec, overflow] = float(np.mean((rounded - values) ** 2))
    return _KNOWN[spec, overflow]
