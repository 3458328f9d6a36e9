"""Functions step by step: their errors as float32 programs, and with every step rounded."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import qsim
from qsim import functions
from qsim.functions.elementary import EXP, ROOT_2_OVER_PI, extended_exp
from qsim.functions.norms import VARIANCES, layer_norm, rms_norm
from qsim.functions.softmaxes import SOFTMAXES, softmax
from tests.bytewise import same

COUNT = 1500
RNG = np.random.default_rng(0)
WIDE = 2.0 ** RNG.uniform(-125, 125, COUNT)
EVERY = 2.0 ** RNG.uniform(-148, 127, COUNT)  # subnormal numbers too

# the real function, arguments, and the most units in the last place that a result is off
ELEMENTARY = {
    "exp": (mpmath.exp, RNG.uniform(-87, 88.7, COUNT), 1.1),
    "exp2": (lambda x: mpmath.mpf(2) ** x, RNG.uniform(-126, 127.9, COUNT), 1.0),
    "log": (mpmath.log, np.concatenate([EVERY, RNG.uniform(0.5, 2, COUNT)]), 0.8),
    "reciprocal": (lambda x: 1 / x, WIDE * RNG.choice([-1, 1], COUNT), 1.3),
    "rsqrt": (lambda x: 1 / mpmath.sqrt(x), EVERY, 1.2),
    "tanh": (mpmath.tanh, RNG.standard_normal(COUNT) * 3, 1.3),
    "sigmoid": (lambda x: 1 / (1 + mpmath.exp(-x)), RNG.standard_normal(COUNT) * 10, 2.1),
}


JAX_FUNCTIONS = {
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "log": jnp.log,
    "logistic": jax.nn.sigmoid,
    "rsqrt": jax.lax.rsqrt,
    "tanh": jnp.tanh,
}


def units(found, real) -> np.ndarray:
    """Errors in units in the last place of float32, of results that are no subnormal numbers."""
    errors = []
    for y, t in zip(np.asarray(found, np.float64).ravel(), real, strict=True):
        exponent = int(mpmath.floor(mpmath.log(abs(t), 2)))
        errors.append(float(abs(mpmath.mpf(y) - t) / mpmath.ldexp(1, exponent - 23)))
    return np.array(errors)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("name", ELEMENTARY)
def test_errors_of_elementary_functions(name, compiled):
    real, x, limit = ELEMENTARY[name]
    fn = getattr(functions, name)
    x = x.astype(np.float32)
    with mpmath.workprec(100):
        expected = [real(mpmath.mpf(float(v))) for v in x]
        errors = units((jax.jit(fn) if compiled else fn)(x), expected)
    assert errors.max() <= limit


def test_errors_of_gelu():
    x = RNG.uniform(-4, 8, COUNT).astype(np.float32)
    wide = x.astype(np.float64)
    expected = 0.5 * wide * (1 + np.tanh(ROOT_2_OVER_PI * (wide + 0.044715 * wide**3)))
    np.testing.assert_allclose(functions.gelu(x), expected, rtol=2e-6)


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 3e38], np.float32)


@pytest.mark.parametrize("name", ["exp", "exp2", "log", "reciprocal", "rsqrt", "tanh", "sigmoid"])
def test_special_arguments(name):
    with np.errstate(all="ignore"):
        x = SPECIAL.astype(np.float64)
        sigmoid = 1 / (1 + np.exp(-x))
        known = {"reciprocal": 1 / x, "rsqrt": 1 / np.sqrt(x), "sigmoid": sigmoid}
        expected = (known[name] if name in known else getattr(np, name)(x)).astype(np.float32)
    found = np.asarray(jax.jit(getattr(functions, name))(SPECIAL))
    odd = name not in ("log", "exp", "exp2", "sigmoid")
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    np.testing.assert_allclose(found[finite], expected[finite], rtol=3e-7, atol=1e-37)
    assert not odd or np.array_equal(np.signbit(found[:2]), [False, True])


def test_exponentials_do_not_overflow():
    x = RNG.uniform(-40000, 40000, COUNT).astype(np.float32)
    significands, exponents = jax.jit(extended_exp)(x)
    with mpmath.workprec(100):
        for v, m, n in zip(x, np.asarray(significands), np.asarray(exponents), strict=True):
            ratio = mpmath.ldexp(mpmath.mpf(float(m)), int(n)) / mpmath.exp(mpmath.mpf(float(v)))
            assert abs(ratio - 1) < 1.1 * 2.0**-23, v


@pytest.mark.parametrize("name", [*ELEMENTARY, "gelu"])
def test_derivatives_are_those_of_the_real_functions(name):
    real = {**JAX_FUNCTIONS, "sigmoid": jax.nn.sigmoid, "gelu": jax.nn.gelu}
    real["reciprocal"] = jnp.reciprocal
    x = jnp.array([0.3, 0.7, 2.5])
    slope = lambda fn: jax.jit(jax.grad(lambda x: fn(x).sum()))(x)  # noqa: E731
    expected = slope(real[name])
    assert same(slope(getattr(functions, name)), expected)
    np.testing.assert_allclose(
        slope(qsim.simulate(getattr(functions, name), "all=e8m22")), expected, rtol=1e-6
    )


@pytest.mark.parametrize("how", ["layer_norm", "rms_norm", *SOFTMAXES])
def test_derivatives_of_rows(how):
    x = jnp.array([0.3, 0.7, -2.5])
    weights = jnp.array([1.0, -2.0, 0.5])
    if how in SOFTMAXES:
        program, real = (lambda x: softmax(x, how=how)), jax.nn.softmax
    elif how == "rms_norm":
        program, real = rms_norm, lambda x: x / jnp.sqrt((x * x).mean() + 1e-6)
    else:
        program, real = layer_norm, lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5)
    slope = lambda fn: jax.jit(jax.grad(lambda x: (fn(x) * weights).sum()))(x)  # noqa: E731
    np.testing.assert_allclose(slope(program), slope(real), rtol=1e-4, atol=1e-6)


def test_special_results_are_rounded_too():
    zero = jnp.zeros(1)
    assert qsim.simulate(functions.log, "all=e4m3fn")(zero).tolist() == [-448.0]
    assert qsim.simulate(functions.rsqrt, "all=e4m3fn")(zero).tolist() == [448.0]


# --- softmax ------------------------------------------------------------------------------------


def exact_softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def in_units(difference, real):
    normal = real > 1e-37
    return (np.abs(difference) / np.spacing(real.astype(np.float32)))[normal].max()


def rows(width: float, count: int):
    """Multiples of 2**-10, whose differences from the maximum are exact."""
    rng = np.random.default_rng(count)
    return (np.round(rng.uniform(-1, 1, (2, count)) * width * 1024) / 1024).astype(np.float32)


@pytest.mark.parametrize("width, count", [(1, 100), (1e4, 1000), (30, 300)])
def test_softmax_in_two_passes_is_as_near_as_in_three(width, count):
    x = rows(width, count)
    real = exact_softmax(x)
    two, three = (
        np.asarray(jax.jit(lambda x, how=how: softmax(x, how=how))(x), np.float64)
        for how in ("two_pass", "three_pass")
    )
    assert in_units(two - real, real) <= 4
    assert in_units(two - three, real) <= 6
    np.testing.assert_allclose(two.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("how", SOFTMAXES)
def test_softmax_of_long_rows_and_large_numbers_does_not_overflow(how):
    x = rows(1e4, 100_000)
    real = exact_softmax(x)
    found = np.asarray(jax.jit(lambda x: softmax(x, how=how))(x), np.float64)
    assert in_units(found - real, real) <= (80 if how == "base2" else 4)
    naive = jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)
    assert not np.isfinite(naive).all() and np.isfinite(found).all()


@pytest.mark.t1
@pytest.mark.every(2)
@pytest.mark.parametrize("lanes", [1, 3, 16, 1000])
@pytest.mark.parametrize("how", ["two_pass", "online"])
def test_softmax_with_any_number_of_sums(how, lanes):
    x = RNG.standard_normal((5, 37, 2)).astype(np.float32)
    real = np.moveaxis(exact_softmax(np.moveaxis(x, 1, -1)), -1, 1)
    np.testing.assert_allclose(softmax(x, axis=1, how=how, lanes=lanes), real, rtol=1e-6)


@pytest.mark.parametrize("how", SOFTMAXES)
def test_softmax_of_masked_rows(how):
    inf = np.float32(np.inf)
    x = np.array([[-inf, 0, 0], [-inf, -inf, 5], [-inf] * 3, [0, inf, 0], [0, np.nan, 0]])
    found = softmax(x.astype(np.float32), how=how)
    np.testing.assert_array_equal(found[:2], [[0, 0.5, 0.5], [0, 0, 1]])
    assert np.isnan(found[2:]).all(axis=1).all()


def test_softmax_in_binary16_is_finite_where_exponentials_are_not():
    x = RNG.uniform(-30, 30, (4, 64)).astype(np.float32)
    real = exact_softmax(x)

    def naive(x):
        e = jnp.exp(x)
        return e / e.sum(-1, keepdims=True)

    def worst(fn):
        found = jax.jit(qsim.simulate(fn, "all=e5m10 ieee"))(x)
        return float(np.nan_to_num(np.abs(found - real), nan=np.inf).max())

    assert worst(naive) == np.inf
    assert worst(lambda x: softmax(x, how="two_pass")) < 0.05


# --- normalisations -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", VARIANCES)
def test_layer_norm(how):
    x = RNG.standard_normal((4, 100)).astype(np.float32) + 1
    scale, bias = RNG.standard_normal((2, 100)).astype(np.float32)
    wide = x.astype(np.float64)
    apart = wide - wide.mean(-1, keepdims=True)
    expected = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-5) * scale + bias
    found = jax.jit(lambda x: layer_norm(x, scale, bias, how=how))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_one_pass_cancels_where_the_mean_is_large():
    x = RNG.standard_normal((4, 100)).astype(np.float32) + 1000
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    error = {how: np.abs(layer_norm(x, eps=0.0, how=how) - expected).max() for how in VARIANCES}
    assert error["one_pass"] > 20 * max(error["two_pass"], error["welford"])


def test_rms_norm():
    x = RNG.standard_normal((4, 100)).astype(np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rms_norm(x), expected, rtol=1e-6)


# --- every step in a format ---------------------------------------------------------------------


def exp2_by_hand(q, x):
    n = q(jnp.round(x))
    t = q(q(x - n) * 0.6931471805599453)
    total = jnp.full_like(x, EXP[0])
    for coefficient in EXP[1:]:
        total = q(q(total * t) + coefficient)
    m = q(1.0 + q(t + q(q(t * t) * total)))
    half = jnp.floor(n / 2)
    return q(q(m * 2.0**half) * 2.0 ** (n - half))


@pytest.mark.parametrize("fmt", ["e5m10", "bfloat16"])
def test_every_step_is_rounded(fmt):
    x = qsim.quantize(jnp.linspace(-9, 9, 201), fmt)
    found = qsim.simulate(functions.exp2, f"all={fmt}")(x)
    assert same(found, exp2_by_hand(lambda v: qsim.quantize(v, fmt), x))


PROGRAMS = {
    **{name: getattr(functions, name) for name in (*ELEMENTARY, "gelu")},
    **{how: (lambda x, how=how: softmax(x, how=how)) for how in SOFTMAXES},
    **{f"layer norm {how}": (lambda x, how=how: layer_norm(x, how=how)) for how in VARIANCES},
    "rms norm": rms_norm,
}


@pytest.mark.t1
@pytest.mark.every(5)
@pytest.mark.parametrize("name", PROGRAMS)
def test_simulated_programs_have_the_same_bytes_however_they_run(name):
    x = jnp.abs(jax.random.normal(jax.random.key(0), (3, 20))) + 0.01
    simulated = qsim.simulate(PROGRAMS[name], "all=bfloat16")
    expected = simulated(x)
    assert same(jax.jit(simulated)(x), expected)
    assert same(jax.vmap(simulated)(x), expected)
    assert same(qsim.quantize(expected, "bfloat16"), expected)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: softmax(x, how="three"), "no softmax 'three'; did you mean 'three_pass'"),
        (lambda x: softmax(x, axis=2), "axis is 2, but the array has 1 axes"),
        (lambda x: softmax(x, lanes=0), "lanes is 0, but there is at least one sum"),
        (lambda x: layer_norm(x, how="welfrod"), "did you mean 'welford'"),
        (lambda x: rms_norm(x[:0]), "there is no mean of nothing"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.ones(3))


@pytest.mark.parametrize("name", ["exp", "log", "tanh"])
def test_integers_are_refused(name):
    with pytest.raises(TypeError):
        getattr(functions, name)(jnp.ones(3, jnp.int32))


@pytest.mark.t1
@pytest.mark.every(3)
@pytest.mark.parametrize("name", functions.PROGRAMS)
def test_a_rule_asks_for_steps(name):
    x = jnp.abs(jax.random.normal(jax.random.key(1), (40,))) + 0.01
    expected = qsim.simulate(functions.PROGRAMS[name], "all=bfloat16")(x)
    simulated = qsim.simulate(JAX_FUNCTIONS[name], f"{name}=bfloat16 steps")
    assert same(simulated(x), expected)
    assert same(jax.jit(simulated)(x), expected)
    assert not same(qsim.simulate(JAX_FUNCTIONS[name], f"{name}=bfloat16")(x), expected)


def test_steps_in_policies():
    assert str(qsim.policy("exp=e4m3 ieee steps; all=e5m10")) == "exp=e4m3 ieee steps; all=e5m10"
    with pytest.raises(ValueError, match="no program of steps for erf, only for exp"):
        qsim.simulate(jax.lax.erf, "all=e5m10 steps")(jnp.ones(3))
    policies = [qsim.policy(f"all={f} steps").lower() for f in ("e5m10", "e5m7")]
    formats = jax.tree.map(lambda *leaves: jnp.stack(leaves), *policies)
    x = jnp.linspace(-2, 2, 5)
    found = jax.vmap(lambda p: qsim.simulate(jnp.tanh, p)(x))(formats)
    assert same(found[0], qsim.simulate(jnp.tanh, "all=e5m10 steps")(x))


def test_the_errors_in_the_docs_are_those_of_the_tests():
    text = (Path(__file__).parents[1] / "docs" / "functions.md").read_text(encoding="utf-8")
    for name, (_, _, limit) in ELEMENTARY.items():
        assert re.search(rf"\| `{name}` \|.*\| {limit} \|", text), (name, limit)
