"""Loss scaling: exact factors, halving and skipping, doubling, and gradients in binary16.

Expected values are those of a loop in Python and of NumPy's float16.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsim import lower, parse
from qsim.training.loss_scaling import (
    adjusted,
    loss_scale,
    loss_scaled,
    scaled_value_and_grad,
    unscaled,
)
from qsim.training.skipped_steps import all_finite, selected, skip_if_not_finite
from qsim.training.underflow import exponent_counts, flushed_fraction, zero_fraction
from tests.lenient import lenient
from tests.unchecked import unchecked


def quadratic(w, x):
    return jnp.sum(jnp.square(w - x))


def by_hand(flags, scale, period, factor, least, most):
    """The scales of a run, one for each flag, in Python floats."""
    scales, good = [], 0
    for finite in flags:
        if not finite:
            scale, good = max(scale / factor, least), 0
        else:
            good += 1
            if good == period:
                scale, good = min(scale * factor, most), 0
        scales.append(scale)
    return scales


@pytest.mark.parametrize("period, factor", [(1, 2.0), (3, 2.0), (4, 4.0)])
def test_scale_follows_the_rule(period, factor):
    flags = np.random.default_rng(0).random(300) > 0.15
    bounds = {"least": 0.5, "most": 2.0**12}

    def step(state, finite):
        state = adjusted(state, finite, period=period, factor=factor, **bounds)
        return state, state.scale

    _, scales = jax.jit(lambda flags: jax.lax.scan(step, loss_scale(64.0), flags))(flags)
    expected = by_hand(flags, 64.0, period, factor, **bounds)
    assert scales.tolist() == expected
    assert min(expected) == 0.5 or max(expected) == 2.0**12


def test_periods_are_data():
    def last(period):
        state, _ = jax.lax.scan(
            lambda state, finite: (adjusted(state, finite, period=period), None),
            loss_scale(1.0),
            jnp.ones(12, bool),
        )
        return state.scale

    scales = jax.vmap(last)(jnp.array([1, 2, 3, 5]))
    assert scales.tolist() == [2.0**12, 2.0**6, 2.0**4, 2.0**2]


def test_gradients_are_those_without_a_scale():
    w, x = jnp.array([0.1, -2.0, 3.5]), jnp.array([1.0, 0.25, -1.0])
    state = loss_scale(2.0**15)
    loss, gradients = jax.jit(scaled_value_and_grad(quadratic))(state, w, x)
    expected = 2 * (np.float32(w) - np.float32(x))
    assert loss == quadratic(w, x)
    np.testing.assert_array_equal(gradients, expected * 2.0**15)
    np.testing.assert_array_equal(unscaled(gradients, state), expected)


def test_auxiliary_results_come_along():
    def fn(w):
        return w**2, {"twice": 2 * w}

    (loss, aux), slope = scaled_value_and_grad(fn, has_aux=True)(loss_scale(4.0), jnp.float32(3))
    assert (loss, aux["twice"], slope) == (9, 6, 24)


def test_small_gradients_survive_in_binary16():
    """A gradient of 2^-26 passes a float16 network with a scale, and vanishes without."""
    small, x = 2.0**-26, jnp.float16(1)

    def loss(w):
        return (w * x).astype(jnp.float32) * small

    for scale, expected in [(1.0, 0.0), (2.0**10, small)]:
        state = loss_scale(scale)
        _, gradient = scaled_value_and_grad(loss)(state, jnp.float16(0.5))
        assert gradient.dtype == jnp.float16
        assert unscaled(gradient, state) == expected


def test_what_is_not_finite_is_skipped():
    optimizer = loss_scaled(lenient(optax.adam(0.1)), scale=2.0**10, period=2)
    params = {"w": jnp.ones(3), "b": jnp.zeros(())}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    good = {"w": jnp.full(3, 2.0**10), "b": jnp.array(1.0)}
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        updates, after = update({**good, "b": jnp.array(bad)}, state, params)
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(updates))
        jax.tree.map(np.testing.assert_array_equal, after.inner, state.inner)
        assert after.loss_scale.scale == 2.0**9
    updates, after = update(good, state, params)
    for leaf, gradient in [("w", 1.0), ("b", 2.0**-10)]:  # the first step of Adam
        np.testing.assert_allclose(updates[leaf], -0.1 * gradient / (gradient + 1e-8), rtol=2e-5)
    assert (after.loss_scale.scale, after.loss_scale.good_steps) == (2.0**10, 1)


def test_a_static_scale_stays():
    optimizer = loss_scaled(optax.sgd(1.0), scale=8.0, dynamic=False)
    state = optimizer.init(jnp.zeros(()))
    for gradient in (jnp.inf, 8.0, 8.0):
        update, state = optimizer.update(jnp.array(gradient), state)
        assert state.loss_scale.scale == 8.0
    assert update == -1.0


def test_trees_are_selected_by_a_flag():
    new, old = {"a": jnp.array([jnp.nan, 1.0])}, {"a": jnp.zeros(2)}
    assert selected(jnp.bool_(False), new, old)["a"].tolist() == [0.0, 0.0]
    assert not all_finite(new) and all_finite(old) and all_finite({"n": jnp.arange(3)})
    update, _ = skip_if_not_finite(optax.sgd(1.0)).update(new, optax.sgd(1.0).init(old), old)
    assert update["a"].tolist() == [0.0, 0.0]


def test_flushed_fraction_is_that_of_float16():
    """Below 2^-24 values vanish, half of the smallest subnormal included."""
    x = np.float32(np.exp2(np.random.default_rng(1).uniform(-34, -14, 4001)))
    x[:3] = 2.0**-24, 2.0**-25, np.nextafter(np.float32(2.0**-25), np.float32(1))
    grid = lower(parse("binary16"))
    fractions = []
    for scale in (1.0, 2.0**6, 2.0**12):
        expected = np.mean(np.float16(x * np.float32(scale)) == 0)
        found = jax.jit(flushed_fraction)(jnp.asarray(x), grid, scale=scale)
        assert found == np.float32(expected)
        fractions.append(expected)
    assert fractions[0] > 0.4 and fractions[2] == 0
    zeros = jnp.zeros(4001)
    assert flushed_fraction([jnp.asarray(x), zeros], "binary16") == pytest.approx(fractions[0] / 2)


def test_zeros_are_counted():
    """Subnormal numbers are no zeros, other arrays are left out."""
    x = np.random.default_rng(2).choice(np.float32([0, -0.0, 1e-45, 1.0, np.nan]), (7, 11))
    tree = {"x": jnp.asarray(x), "half": jnp.float16([0, 6e-8]), "n": jnp.zeros(5, jnp.int32)}
    expected = (np.sum(x == 0) + 1) / (x.size + 2)
    assert jax.jit(zero_fraction)(tree) == np.float32(expected)


def test_exponents_are_counted():
    x = np.float32([2.0**k * sign for k in range(-130, 100) for sign in (1, -1)])
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), np.float32([0, np.inf, np.nan])])
    finite = x[np.isfinite(x) & (x != 0)]
    exponents = np.clip(np.frexp(finite.astype(np.float64))[1] - 1, -126, 90)
    expected = np.bincount(exponents + 126, minlength=217)
    found = jax.jit(lambda x: exponent_counts([x], lowest=-126, highest=90))(x)
    np.testing.assert_array_equal(found, expected)


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="above zero, got 0"):
            loss_scale(0.0)
        with pytest.raises(ValueError, match="got period=0"):
            adjusted(loss_scale(), True, period=0)
        with pytest.raises(ValueError, match=r"factor above 1, got 1\.0"):
            loss_scaled(optax.sgd(0.1), factor=1.0)
        with pytest.raises(ValueError, match=r"least=2\.0 and most=1\.0"):
            adjusted(loss_scale(), True, least=2.0, most=1.0)
        with pytest.raises(ValueError, match=r"within 1\.0 \.\. 16777216\.0, but begins with 0\.5"):
            loss_scaled(optax.sgd(0.1), scale=0.5)
        with pytest.raises(ValueError, match="no fraction of no numbers"):
            flushed_fraction({"n": jnp.arange(3)}, "binary16")
        with pytest.raises(ValueError, match="no fraction of no numbers"):
            zero_fraction([])
        with pytest.raises(ValueError, match="lowest exponent 3 is above"):
            exponent_counts(jnp.ones(2), lowest=3, highest=2)
