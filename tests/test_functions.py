"""Functions step by step: their errors as float32 programs, and with every step rounded."""

import re
from fractions import Fraction
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import qsim
from qsim import functions
from qsim.functions import double_word
from qsim.functions.elementary import EXP, extended_exp
from qsim.functions.norms import VARIANCES, layer_norm, rms_norm
from qsim.functions.softmaxes import SOFTMAXES, softmax
from qsim.numbers.exact import round_exact
from tests.bytewise import same

COUNT = 1500

# The most units in the last place that a result is off, as docs/functions.md says: of functions ..
UNITS = {
    "exp": 1.1,
    "exp2": 1.0,
    "log": 0.8,
    "reciprocal": 1.3,
    "rsqrt": 1.2,
    "tanh": 1.3,
    "sigmoid": 2.1,
    "gelu_tanh": 55,
}
# .. of softmax
SOFTMAX_UNITS = {
    "three_pass": 6,
    "two_pass": 5,
    "base2": 80,
    "online": 5,
    "three_pass_compensated": 1,
    "two_pass_compensated": 1,
}
ROUNDED_DIFFERENCES = 70  # units of the programs that round x - max, where that is not exact


def real_gelu_tanh(x):
    u = mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(44715) / 10**6 * x**3)
    return x * (1 + mpmath.tanh(u)) / 2


REAL = {
    "exp": mpmath.exp,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log": mpmath.log,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "gelu_tanh": real_gelu_tanh,
}


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def arguments(name: str) -> np.ndarray:
    """Those of which results are no subnormal numbers."""
    rng = random(sorted(REAL).index(name))
    every = 2.0 ** rng.uniform(-148, 127, COUNT)  # subnormal numbers too
    match name:
        case "exp":
            x = rng.uniform(-87, 88.7, COUNT)
        case "exp2":
            x = rng.uniform(-126, 127.9, COUNT)
        case "log":
            x = np.concatenate([every, rng.uniform(0.5, 2, COUNT)])
        case "reciprocal":
            x = 2.0 ** rng.uniform(-125, 125, COUNT) * rng.choice([-1, 1], COUNT)
        case "rsqrt":
            x = every
        case "tanh":
            x = rng.standard_normal(COUNT) * 3
        case "sigmoid":
            x = rng.standard_normal(COUNT) * 10
        case _:
            x = rng.uniform(-6, 8, COUNT)
    return x.astype(np.float32)


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


@pytest.mark.every(2)
@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("name", UNITS)
def test_errors_of_elementary_functions(name, compiled):
    fn, x = getattr(functions, name), arguments(name)
    with mpmath.workprec(100):
        expected = [REAL[name](mpmath.mpf(float(v))) for v in x]
        errors = units((jax.jit(fn) if compiled else fn)(x), expected)
    assert errors.max() <= UNITS[name]


SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 3e38, -(2.0**-149), -(2.0**-127)], np.float32
)


@pytest.mark.parametrize("name", ["exp", "exp2", "log", "reciprocal", "rsqrt", "tanh", "sigmoid"])
def test_special_arguments(name):
    with np.errstate(all="ignore"):
        x = SPECIAL.astype(np.float64)
        sigmoid = 1 / (1 + np.exp(-x))
        known = {"reciprocal": 1 / x, "rsqrt": 1 / np.sqrt(x), "sigmoid": sigmoid}
        expected = (known[name] if name in known else getattr(np, name)(x)).astype(np.float32)
    found = np.asarray(jax.jit(getattr(functions, name))(SPECIAL))
    odd = name not in ("log", "exp", "exp2", "sigmoid")
    finite, zero = np.isfinite(expected), expected == 0
    np.testing.assert_array_equal(np.signbit(found[zero]), np.signbit(expected[zero]))
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    np.testing.assert_allclose(found[finite], expected[finite], rtol=3e-7, atol=1e-37)
    assert not odd or np.array_equal(np.signbit(found[:2]), [False, True])


def test_exponentials_do_not_overflow():
    x = random(0).uniform(-40000, 40000, COUNT).astype(np.float32)
    significands, exponents = jax.jit(extended_exp)(x)
    with mpmath.workprec(100):
        for v, m, n in zip(x, np.asarray(significands), np.asarray(exponents), strict=True):
            ratio = mpmath.ldexp(mpmath.mpf(float(m)), int(n)) / mpmath.exp(mpmath.mpf(float(v)))
            assert abs(ratio - 1) < 1.1 * 2.0**-23, v


@pytest.mark.t1
@pytest.mark.parametrize("name", UNITS)
def test_derivatives_are_those_of_the_real_functions(name):
    real = {**JAX_FUNCTIONS, "sigmoid": jax.nn.sigmoid, "gelu_tanh": jax.nn.gelu}
    real["reciprocal"] = jnp.reciprocal
    x = jnp.array([0.3, 0.7, 2.5])
    slope = lambda fn: jax.jit(jax.grad(lambda x: fn(x).sum()))(x)  # noqa: E731
    expected = slope(real[name])
    assert same(slope(getattr(functions, name)), expected)
    np.testing.assert_allclose(
        slope(qsim.simulate(getattr(functions, name), "all=e8m22")), expected, rtol=1e-6
    )


@pytest.mark.t1
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


@pytest.mark.t1
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
    x = random(count).uniform(-1, 1, (2, count)) * width
    return (np.round(x * 1024) / 1024).astype(np.float32)


@pytest.mark.t1
@pytest.mark.parametrize("width, count", [(1, 100), (30, 300), (30, 1000), (1e4, 1000)])
def test_errors_of_softmax(width, count):
    x = rows(width, count)
    real = exact_softmax(x)
    found = {
        how: np.asarray(jax.jit(partial(softmax, how=how))(x), np.float64) for how in SOFTMAXES
    }
    for how, limit in SOFTMAX_UNITS.items():
        assert in_units(found[how] - real, real) <= limit, how
    np.testing.assert_allclose(found["two_pass"].sum(-1), 1, rtol=1e-6)


@pytest.mark.t1
@pytest.mark.every(4)
@pytest.mark.parametrize("run", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("count", [2, 10, 1000, 10**6])
@pytest.mark.parametrize("width", [1, 10, 100, 1e3, 1e4])
def test_two_passes_are_within_two_units_of_three(width, count, run):
    """Of any numbers; what is within 2 units of three passes is measured with both compensated."""
    x = (random(count).uniform(-width, width, (10**6 // count, count))).astype(np.float32)
    x = x[:: 1 if run is jax.jit else 100]
    real = exact_softmax(x)
    names = ("two_pass_compensated", "three_pass_compensated", "two_pass", "three_pass")
    two, three, plain_two, plain_three = (
        np.asarray(run(partial(softmax, how=how))(x), np.float64) for how in names
    )
    assert in_units(two - three, real) <= 2
    assert max(in_units(found - real, real) for found in (two, three)) <= 1
    assert in_units(plain_two - real, real) <= (4 if count == 10**6 else 6)
    assert in_units(plain_three - real, real) <= ROUNDED_DIFFERENCES


@pytest.mark.t1
@pytest.mark.parametrize("run", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_exponentials_in_two_words(run):
    x = random(3).uniform(-45000, 45000, 2000).astype(np.float32)
    x[0] = 34207.5078125  # beside which one plus the rest of a reduction is nearly a tie
    (high, low), n = run(double_word.exponential)(jnp.asarray(x), jnp.zeros(len(x)))
    with mpmath.workprec(150):
        for v, *parts, exponent in zip(*(np.float64(z) for z in (x, high, low, n)), strict=True):
            real = mpmath.exp(mpmath.mpf(v)) / mpmath.ldexp(1, int(exponent))
            assert abs(mpmath.fsum(map(mpmath.mpf, parts)) / real - 1) < 2.0**-25


@pytest.mark.t1
def test_compensation_helps_in_narrow_formats_too():
    x = (random(5).uniform(-4, 4, (8, 1000))).astype(np.float32)
    x = np.asarray(qsim.quantize(x, "bfloat16"))

    def error(how):
        found = jax.jit(qsim.simulate(partial(softmax, how=how), "all=bfloat16"))(x)
        return np.abs(np.asarray(found) / exact_softmax(x) - 1).mean()

    for how in ("two_pass", "three_pass"):
        assert error(f"{how}_compensated") < error(how)


@pytest.mark.parametrize("how", SOFTMAXES)
def test_softmax_of_long_rows_and_large_numbers_does_not_overflow(how):
    x = rows(1e4, 100_000)
    real = exact_softmax(x)
    found = np.asarray(jax.jit(partial(softmax, how=how))(x), np.float64)
    assert in_units(found - real, real) <= SOFTMAX_UNITS[how]
    naive = jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True)
    assert not np.isfinite(naive).all() and np.isfinite(found).all()


@pytest.mark.t1
@pytest.mark.every(3)
@pytest.mark.parametrize("lanes", [1, 3, 16, 1000])
@pytest.mark.parametrize("how", [how for how in SOFTMAXES if how not in ("three_pass", "base2")])
def test_softmax_with_any_number_of_sums(how, lanes):
    x = random(1).standard_normal((5, 37, 2)).astype(np.float32)
    real = np.moveaxis(exact_softmax(np.moveaxis(x, 1, -1)), -1, 1)
    np.testing.assert_allclose(softmax(x, axis=1, how=how, lanes=lanes), real, rtol=1e-6)


@pytest.mark.t1
@pytest.mark.parametrize("how", SOFTMAXES)
def test_softmax_of_no_rows(how):
    for shape in ((0, 3), (3, 0), (2, 3, 0)):
        assert softmax(np.ones(shape, np.float32), how=how).shape == shape
    assert softmax(np.ones((3, 0), np.float32), axis=0, how=how).shape == (3, 0)


@pytest.mark.t1
@pytest.mark.parametrize("how", SOFTMAXES)
def test_softmax_of_masked_rows(how):
    inf = np.float32(np.inf)
    x = np.array([[-inf, 0, 0], [-inf, -inf, 5], [-inf] * 3, [0, inf, 0], [0, np.nan, 0]])
    found = softmax(x.astype(np.float32), how=how)
    np.testing.assert_array_equal(found[:2], [[0, 0.5, 0.5], [0, 0, 1]])
    assert np.isnan(found[2:]).all(axis=1).all()


@pytest.mark.t1
@pytest.mark.parametrize("how", SOFTMAXES)
@pytest.mark.parametrize("low", [-np.inf, -1e9, -3e38])
def test_what_is_far_below_has_no_share_in_narrow_formats_either(low, how):
    x = np.array([0, 1, 2, low], np.float32)
    for run in (
        partial(softmax, how=how),
        qsim.simulate(partial(softmax, how=how), "all=bfloat16"),
    ):
        share = float(jax.jit(run)(x)[3])
        assert share == 0 and not np.signbit(share)


@pytest.mark.t1
def test_softmax_in_binary16_is_finite_where_exponentials_are_not():
    x = random(2).uniform(-30, 30, (4, 64)).astype(np.float32)
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
    rng = random(3)
    x = rng.standard_normal((4, 100)).astype(np.float32) + 1
    scale, bias = rng.standard_normal((2, 100)).astype(np.float32)
    wide = x.astype(np.float64)
    apart = wide - wide.mean(-1, keepdims=True)
    expected = apart / np.sqrt((apart**2).mean(-1, keepdims=True) + 1e-5) * scale + bias
    found = jax.jit(lambda x: layer_norm(x, scale, bias, how=how))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.t1
def test_one_pass_cancels_where_the_mean_is_large():
    x = random(4).standard_normal((4, 100)).astype(np.float32) + 1000
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    error = {how: np.abs(layer_norm(x, eps=0.0, how=how) - expected).max() for how in VARIANCES}
    assert error["one_pass"] > 20 * max(error["two_pass"], error["welford"])


def test_rms_norm():
    x = random(5).standard_normal((4, 100)).astype(np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rms_norm(x), expected, rtol=1e-6)


def welford_by_hand(x, fmt):
    """Mean and variance in fractions, every step rounded; shares are numbers of float32."""
    q = lambda v: round_exact(Fraction(v), qsim.parse(fmt))  # noqa: E731
    share = lambda n: Fraction(float(np.float32(1) / np.float32(n)))  # noqa: E731
    mean = squares = Fraction(0)
    for n, v in enumerate(map(Fraction, x.tolist()), 1):
        apart = q(v - mean)
        mean = q(mean + q(apart * share(n)))
        squares = q(squares + q(apart * q(v - mean)))
    return float(mean), float(q(squares * share(len(x))))


@pytest.mark.t1
def test_a_long_row_in_bfloat16_is_counted_to_its_end():
    x = qsim.quantize(random(6).standard_normal(1000).astype(np.float32) + 1, "bfloat16")
    mean, variance = qsim.simulate(VARIANCES["welford"], "all=bfloat16")(x)
    assert (float(mean[0]), float(variance[0])) == welford_by_hand(np.asarray(x), "bfloat16")


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


@pytest.mark.t1
@pytest.mark.parametrize("fmt", ["e5m10", "bfloat16"])
def test_every_step_is_rounded(fmt):
    x = qsim.quantize(jnp.linspace(-9, 9, 201), fmt)
    found = qsim.simulate(functions.exp2, f"all={fmt}")(x)
    assert same(found, exp2_by_hand(lambda v: qsim.quantize(v, fmt), x))


PROGRAMS = {
    **{name: getattr(functions, name) for name in UNITS},
    **{how: (lambda x, how=how: softmax(x, how=how)) for how in SOFTMAXES},
    **{f"layer norm {how}": (lambda x, how=how: layer_norm(x, how=how)) for how in VARIANCES},
    "rms norm": rms_norm,
}


@pytest.mark.t1
@pytest.mark.every(10)
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
        (lambda x: rms_norm(x, eps=-1.0), "eps is -1.0, but it is added to a variance"),
        (lambda x: layer_norm(x, x[:2]), r"of shape \[2\], but rows have 3 elements"),
        (lambda x: layer_norm(x, None, x[None]), r"give an array of shape \[3\], or a number"),
        (lambda x: functions.Table.of(lambda v: 6e38 * v - 3e38, 0, 1, 2), "beyond float32"),
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


@pytest.mark.t1
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
    for name, limit in {**UNITS, **SOFTMAX_UNITS}.items():
        assert re.search(rf"\| `{name}` \|.*\| {limit} \|", text), (name, limit)
    assert f"up to {ROUNDED_DIFFERENCES} units" in text


@pytest.mark.t1
def test_python_floats_are_float32_and_arrays_of_float64_none():
    with jax.enable_x64(True):
        assert functions.exp(0.5).dtype == np.float32
        x = jnp.ones(3, jnp.float32)
        assert layer_norm(x, 2.0, 1.0).dtype == np.float32
        for call in (lambda wide: layer_norm(wide), lambda wide: rms_norm(x, wide), softmax):
            with pytest.raises(TypeError, match="of float32, got float64"):
                call(jnp.ones(3, jnp.float64))
