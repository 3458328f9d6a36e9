"""All families of formats through the same doors: one ``quantize``, one ``sweep``.

The same bytes under every transformation, one trace for every kind of grid, straight-through
gradients.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qsim
from tests.unchecked import unchecked

FAMILIES = {
    "float": ["e4m3", "e5m2", "e3m2f", "e2m1f"],
    "integer": ["int8", "uint4", "fixed8.4"],
    "posit": ["posit8.1", "posit8.0", "posit16.1"],
    "hifloat": ["hif8"],
    "codebook": ["nf4", "sf4", "apot4"],
    "block": ["mxfp8_e4m3", "mxfp4", "nvfp4"],
    "components": ["2xe8m7"],
}
WHOLE = ("nvfp4",)  # one scale for the whole array: rows alone are other numbers
SPECS = [spec for specs in FAMILIES.values() for spec in specs]
SHAPE = (4, 64)


def inputs() -> jax.Array:
    """Numbers of both signs over twenty binades, zeros, subnormals and the largest float32."""
    random = np.random.default_rng(7)
    values = np.ldexp(random.standard_normal(SHAPE), random.integers(-12, 9, SHAPE))
    values = values.astype(np.float32)
    values[0, :6] = [0.0, -0.0, 1e-45, -1e-40, 3.4e38, -3.4e38]
    return jnp.asarray(values)


X = inputs()


def transformed(spec: str) -> dict[str, jax.Array]:
    """``X`` rounded to a format, under every transformation."""
    fmt = qsim.parse(spec)
    grid = qsim.lower(fmt)
    rounded = lambda x, grid: qsim.quantize(x, grid)  # noqa: E731
    rows = lambda x, grid: lax.scan(lambda c, row: (c, rounded(row, grid)), 0, x)[1]  # noqa: E731
    two = qsim.stack([grid, grid])
    results = {
        "eager, from the spec": qsim.quantize(X, spec),
        "eager": rounded(X, grid),
        "jit": jax.jit(rounded)(X, grid),
        "constant grid": jax.jit(lambda x: rounded(x, grid))(X),
        "vmap over formats": jax.jit(jax.vmap(rounded, in_axes=(None, 0)))(X, two)[1],
        "map over formats": jax.jit(lambda x, g: lax.map(lambda one: rounded(x, one), g))(X, two)[
            1
        ],
        "primal of grad": jax.vjp(lambda x: rounded(x, grid), X)[0],
        "donated": jax.jit(rounded, donate_argnums=0)(jnp.array(X), grid),
    }
    if spec not in WHOLE:
        results["vmap over data"] = jax.vmap(rounded, in_axes=(0, None))(X, grid)
        results["scan over data"] = jax.jit(rows)(X, grid)
    devices = jax.devices()
    if len(devices) > 1:
        mesh = jax.sharding.Mesh(np.array(devices[:2]), ("rows",))
        spec_of_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
        results["two devices"] = jax.jit(rounded)(jax.device_put(X, spec_of_rows), grid)
    return results


FIRST = [specs[0] for specs in FAMILIES.values()]  # of every family
TIERS = [FIRST[0]]
TIERS += [pytest.param(spec, marks=pytest.mark.t1) for spec in [*FIRST[1:], *WHOLE]]
TIERS += [
    pytest.param(spec, marks=pytest.mark.t2) for spec in SPECS if spec not in (*FIRST, *WHOLE)
]

ONE_OF_EACH = [
    pytest.param([*FIRST, *WHOLE], id="one of each family", marks=pytest.mark.t1),
    pytest.param(SPECS, id="all", marks=pytest.mark.t2),
]


@pytest.mark.t1
@pytest.mark.parametrize("spec", TIERS)
@pytest.mark.every(2)
def test_the_same_bytes_under_every_transformation(spec):
    results = transformed(spec)
    expected = np.asarray(results["eager"]).tobytes()
    differing = [name for name, y in results.items() if np.asarray(y).tobytes() != expected]
    assert not differing


FLAGS = {
    "no excess precision": "--xla_allow_excess_precision=false",
    "no FMA": "--xla_cpu_max_isa=AVX",
    "vectors of 512 bits": "--xla_cpu_prefer_vector_width=512",
}

BYTES = """
import hashlib, json, sys
import jax, numpy as np
from tests import test_families
print(json.dumps({spec: hashlib.sha256(
    np.asarray(jax.jit(lambda x: test_families.qsim.quantize(x, spec))(test_families.X)).tobytes()
).hexdigest() for spec in sys.argv[1:]}))
"""


def digests(flags: str, specs: list[str]) -> str:
    """The bytes of formats in a process with these compiler flags."""
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", BYTES, *specs]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=True)
    assert all(spec in done.stdout for spec in specs)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("specs", ONE_OF_EACH)
@pytest.mark.t2
def test_the_same_bytes_whatever_the_compiler_may_do(specs):
    plain = digests("", specs)
    differing = [name for name, flags in FLAGS.items() if digests(flags, specs) != plain]
    assert not differing


# --- one call for all -----------------------------------------------------------------------


def loss(params, x):
    """A contraction whose operands are rounded, and nothing else."""
    return x @ params["w"]


@pytest.mark.parametrize("specs", ONE_OF_EACH)
def test_one_sweep_takes_every_family(specs):
    """Each row is the product of operands rounded by ``quantize``, which equals the definition."""
    params, x = {"w": jnp.linspace(-2.0, 2.0, 64 * 3).reshape(64, 3)}, X[1:3] / 64
    swept = qsim.sweep(loss, specs)(params, x)
    assert swept.shape == (len(specs), 2, 3)
    dot = jax.jit(lambda a, b: lax.dot(a, b, precision=lax.Precision.HIGHEST))
    for spec, row in zip(specs, swept, strict=True):
        # blocks of weights run along the contracted axis, the first of this matrix
        weights = qsim.quantize(params["w"].T, spec).T
        np.testing.assert_array_equal(row, dot(qsim.quantize(x, spec), weights), err_msg=spec)


def exactly(x: float, spec: str) -> float:
    return float(qsim.numbers.exact.round_exact(qsim.numbers.exact.Fraction(x), qsim.parse(spec)))


@pytest.mark.t1
@pytest.mark.parametrize("spec", [s for s in SPECS if s not in FAMILIES["block"]])
def test_quantize_equals_the_exact_definition(spec):
    with unchecked():
        expected = [exactly(float(x), spec) for x in X.reshape(-1)]
    rounded = np.asarray(qsim.quantize(X, spec)).reshape(-1)
    np.testing.assert_array_equal(rounded, np.array(expected, np.float32))


@pytest.mark.parametrize("family", [f for f, specs in FAMILIES.items() if len(specs) > 1])
def test_a_family_is_traced_once(family):
    """Formats of one kind whose arrays have one shape share a compilation."""
    traces = []

    @jax.jit
    def rounded(x, grid):
        traces.append(grid)
        return qsim.quantize(x, grid)

    grids = [qsim.lower(qsim.parse(spec)) for spec in FAMILIES[family]]
    kinds = {
        (jax.tree.structure(grid), tuple(map(np.shape, jax.tree.leaves(grid)))) for grid in grids
    }
    for grid in grids:
        rounded(X, grid)
    assert len(traces) == len(kinds) == rounded._cache_size()
    if family in ("float", "integer", "posit", "codebook"):
        assert len(kinds) == 1


# --- gradients ------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("spec", TIERS)
def test_gradients_are_straight_through(spec):
    """One inside the range; outside zero or one, by choice; never NaN."""
    inside = jnp.asarray(np.linspace(-0.5, 0.5, 64, dtype=np.float32))
    total = lambda x, gradient: qsim.quantize(x, spec, gradient=gradient).sum()  # noqa: E731
    slopes = jax.grad(total)(inside, "identity")
    np.testing.assert_array_equal(slopes, 1.0)
    slopes = jax.grad(total)(X.at[1, 0].set(jnp.nan), "clipped")
    assert set(np.unique(slopes)) <= {0.0, 1.0}
    if qsim.parse(spec).lowest <= -0.5:
        np.testing.assert_array_equal(jax.grad(total)(inside, "clipped"), 1.0)
