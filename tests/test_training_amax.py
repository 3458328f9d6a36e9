"""Scaling factors and scales that are given: exact powers of two, histories, rounding in between.

Expected values come from exact fractions, from NumPy, and from the types of ml_dtypes.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qsim import lower, parse, stack
from qsim.numbers.records import exponent_of, power
from qsim.training.amax import (
    amax,
    delayed_scaling,
    observed,
    quantize_delayed,
    quantize_just_in_time,
    scaling_factor,
)
from qsim.training.scaled_rounding import quantize_at
from tests.unchecked import unchecked

FORMATS = ["e4m3fn", "e5m2", "e4m3", "e2m1f", "int8sym", "binary16", "e3m2f"]


def around_powers(low: int, high: int) -> np.ndarray:
    """Powers of two, and 7/4 of them, with their neighbours."""
    exact = np.float32([m * 2.0**k for k in range(low, high) for m in (1, 1.75)])
    return np.concatenate([np.nextafter(exact, 0), exact, np.nextafter(exact, np.float32(np.inf))])


@pytest.mark.parametrize("spec", FORMATS)
def test_power_of_two_is_exact(spec):
    """No other power of two is as large and keeps amax within the format."""
    largest, amaxes = parse(spec).largest, around_powers(-100, 100)
    factors = jax.jit(lambda a, m: scaling_factor(a, spec, margin=m))(amaxes, 1)
    for factor, a in zip(factors.tolist(), amaxes.tolist(), strict=True):
        assert Fraction(factor) == power(exponent_of(largest / Fraction(a)) - 1), a


@pytest.mark.t1
def test_powers_stay_normal_numbers():
    amaxes = np.float32([1e-45, 2.0**-126, 3e38])
    assert scaling_factor(amaxes, "e4m3fn").tolist() == [2.0**126, 2.0**126, 2.0**-120]
    assert scaling_factor(np.float32([3e38]), "e2m1f", margin=20).tolist() == [2.0**-126]


@pytest.mark.parametrize("spec", FORMATS)
def test_absmax_is_the_rounded_quotient(spec):
    amaxes = around_powers(-90, 90)
    factors = jax.jit(lambda a: scaling_factor(a, spec, margin=2, rule="absmax"))(amaxes)
    expected = np.float32(float(parse(spec).largest)) / amaxes / np.float32(4)
    np.testing.assert_array_equal(factors, expected)


@pytest.mark.t1
def test_what_has_no_amax_keeps_the_factor():
    bad = jnp.array([0.0, jnp.inf, jnp.nan, 1.0])
    for rule, usual in (("power_of_two", 256.0), ("absmax", 448.0)):
        factors = scaling_factor(bad, "e4m3fn", previous=0.375, rule=rule)
        assert factors.tolist() == [0.375, 0.375, 0.375, usual]


def test_amax_sees_what_others_flush():
    """Also subnormal numbers, and NaN."""
    assert amax(jnp.array([0.0, 1e-40])).tolist() == np.float32(1e-40)
    assert amax(jnp.bfloat16([1.0, -3.0])).tolist() == 3.0
    assert np.isnan(amax(jnp.array([jnp.nan, jnp.inf])))
    assert amax(jnp.zeros((0, 3))).tolist() == 0.0


def fp8(x, dtype=ml_dtypes.float8_e4m3fn):
    """Rounded to nearest and saturated, by ml_dtypes."""
    largest = np.float32(ml_dtypes.finfo(dtype).max)
    return np.clip(x, -largest, largest).astype(dtype).astype(np.float32)


@pytest.mark.t1
def test_history_gives_the_factor():
    """A loop in NumPy: the factor of a step is that of the largest of the three before."""
    rng = np.random.default_rng(2)
    steps = np.float32(rng.normal(size=(40, 64)) * np.exp2(rng.uniform(-8, 8, (40, 1))))
    steps[11] = 0.0
    grid = lower(parse("e4m3fn"))

    def step(state, x):
        y, state = quantize_delayed(x, state, grid)
        return state, y

    _, found = jax.jit(lambda xs: jax.lax.scan(step, delayed_scaling(3), xs))(steps)
    factor, history = np.float32(1), []
    for x, y in zip(steps, found, strict=True):
        np.testing.assert_array_equal(y, fp8(x * factor) / factor)
        history = [*history, np.max(np.abs(x))][-3:]
        if max(history) > 0:
            factor = np.float32(2.0 ** exponent_of(448 / Fraction(float(max(history)))))


def test_an_infinity_freezes_the_factor():
    state = observed(delayed_scaling(2), jnp.float32(1), "e4m3fn")
    for a, factor in [(jnp.inf, 256.0), (4.0, 256.0), (4.0, 64.0), (jnp.nan, 64.0), (1.0, 64.0)]:
        state = observed(state, jnp.float32(a), "e4m3fn")
        assert state.factor == factor, a


@pytest.mark.t1
def test_just_in_time_never_saturates():
    x = np.float32(np.random.default_rng(3).normal(size=(17, 9)) * 1e4)
    factor = np.float32(2.0 ** exponent_of(57344 / Fraction(float(np.abs(x).max()))))
    found = jax.jit(lambda x: quantize_just_in_time(x, "e5m2"))(x)
    np.testing.assert_array_equal(found, fp8(x * factor, ml_dtypes.float8_e5m2) / factor)
    slopes = jax.grad(lambda x: quantize_just_in_time(x, "e5m2").sum())(x)
    np.testing.assert_array_equal(slopes, np.ones_like(x))


@pytest.mark.t1
def test_formats_are_data():
    specs = ["e4m3fn", "e5m2", "e2m1f"]
    grids = stack([lower(parse(spec)) for spec in specs])
    x = jnp.linspace(-3, 5, 33)
    rows = jax.jit(jax.vmap(lambda grid: quantize_just_in_time(x, grid)))(grids)
    for row, spec in zip(rows, specs, strict=True):
        np.testing.assert_array_equal(row, quantize_just_in_time(x, spec))


# --- rounding at a scale --------------------------------------------------------------------


def test_quantize_at_divides_rounds_and_multiplies():
    rng = np.random.default_rng(4)
    x = np.float32(rng.normal(size=(50, 8)) * 100)
    scale = np.float32(np.exp2(rng.uniform(-3, 3, (50, 1))))
    expected = fp8(x / scale) * scale
    for fn in (quantize_at, jax.jit(quantize_at, static_argnums=2)):
        np.testing.assert_array_equal(fn(x, scale, "e4m3fn"), expected)
    rows = jax.vmap(lambda x, s: quantize_at(x, s, lower(parse("e4m3fn"))))(x, scale)
    np.testing.assert_array_equal(rows, expected)


def test_quantize_at_one_keeps_subnormals():
    x = np.float32([1e-40, -3e-39, 1.17e-38])
    expected = x.astype(ml_dtypes.bfloat16).astype(np.float32).view(np.uint32)
    found = np.asarray(quantize_at(x, np.float32(1), "bfloat16")).view(np.uint32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("gradient, expected", [("clipped", [0, 1, 1, 0]), ("identity", [1] * 4)])
def test_gradients_are_straight_through(gradient, expected):
    x, scale = jnp.array([-13.0, -12.0, 0.3, 100.0]), jnp.float32(2)
    at = jax.grad(lambda x, s: quantize_at(x, s, "e2m1f", gradient=gradient).sum(), argnums=(0, 1))
    slopes, of_scale = at(x, scale)
    assert slopes.tolist() == expected
    assert of_scale == 0


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="no rule 'absmx'; did you mean 'absmax'"):
            scaling_factor(jnp.ones(2), "e4m3fn", rule="absmx")
        with pytest.raises(ValueError, match="a window has one step or more, got 0"):
            delayed_scaling(0)
        with pytest.raises(ValueError, match=r"scales of shape \(3, 1\) are more"):
            quantize_at(jnp.ones(4), jnp.ones((3, 1)), "e4m3fn")
        with pytest.raises(ValueError, match=r"use jax\.vmap over it"):
            quantize_at(jnp.ones(4), jnp.float32(1), stack([lower(parse("e4m3fn"))] * 2))
        with pytest.raises(TypeError, match="lower the format to float32"), jax.enable_x64(True):
            scaling_factor(jnp.ones(2, jnp.float32), lower(parse("e4m3fn"), "float64"))
