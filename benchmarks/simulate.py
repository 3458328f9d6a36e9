"""Simulating a transformer takes at most twice the time to run, and several times that to compile.

The model is a 12-layer transformer over bytes. Every policy is compiled from nothing, tracing
included, and then run beside the model's own float32 forward.
"""

import os
import statistics
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

import qsim
from benchmarks import record, timing
from models.byte_lm.model import ByteLM, Config

PLAIN = "fp32 forward alone"
POLICIES = {
    "weights and activations e4m3": "weights=e4m3; activations=e4m3",
    "weights MXFP4, activations E4M3": "weights=mxfp4; activations=e4m3",
    "all operations bfloat16": "all=bfloat16",
    "all operations e5m10": "all=e5m10",
}
COMPILE, RUN = 2.5, 2.0  # at most, times the plain compile and the fp32 forward
COMPILED, RUNNING = "weights and activations e4m3", "all operations bfloat16"
COLUMNS = {
    "name": "by",
    "sites": "sites",
    "compile": "trace and compile, s",
    "times": "times plain",
    "milliseconds": "ms",
    "ratio": "times the fp32 forward",
}


def main() -> None:
    parser = record.arguments(__doc__)
    parser.add_argument("--layers", type=int, default=12, help="layers of the model")
    parser.add_argument("--heads", type=int, default=8, help="heads of 32 numbers each")
    parser.add_argument("--tokens", type=int, nargs=2, default=(8, 128), help="batch and length")
    options = parser.parse_args()
    sizes = {"layers": options.layers, "heads": options.heads, "tokens": list(options.tokens)}
    record.run("simulate", __doc__, options, lambda: _measured(sizes, options.repeats), **sizes)


def _measured(sizes: dict[str, Any], repeats: int) -> dict[str, Any]:
    config = Config(heads=sizes["heads"], layers=sizes["layers"], head_width=32)
    model, text = ByteLM(config), jnp.zeros(tuple(sizes["tokens"]), jnp.int32) + 65
    variables = jax.jit(model.init)(jax.random.key(0), text)
    made = {PLAIN: model.apply}
    made |= {name: qsim.simulate(model.apply, policy) for name, policy in POLICIES.items()}
    executables, seconds = {}, {name: [] for name in made}
    for _ in range(3):
        for name, fn in made.items():
            jax.clear_caches()
            executables[name], elapsed = timing.compile(fn, variables, text)
            seconds[name].append(elapsed)
    runs = {name: lambda e=e: e(variables, text) for name, e in executables.items()}
    taken = timing.interleave(runs, PLAIN, repeats=repeats, slow=float("inf"))
    plain = statistics.median(seconds[PLAIN])
    rows = [
        {
            "name": name,
            "sites": None if name == PLAIN else _sites(POLICIES[name], model, variables, text),
            "compile": statistics.median(seconds[name]),
            "times": statistics.median(seconds[name]) / plain,
            **taken[name].facts(),
        }
        for name in made
    ]
    found = {row["name"]: row for row in rows}
    targets = [
        record.target(
            f"{COMPILED}: times plain compile", found[COMPILED]["times"], at_most=COMPILE
        ),
        record.target(f"{RUNNING}: times the forward", found[RUNNING]["ratio"], at_most=RUN),
    ]
    title = f"{sizes['layers']} layers of width {32 * sizes['heads']}, {sizes['tokens']} bytes"
    return {"sections": [record.section(title, COLUMNS, rows)], "targets": targets, "absent": []}


def _sites(policy: str, model: ByteLM, variables: Any, text: jax.Array) -> int:
    """How many operands and results are rounded."""
    places = qsim.policy(policy).explain(model.apply, variables, text).places
    return sum(place.rule is not None for place in places)


if __name__ == "__main__":
    main()
