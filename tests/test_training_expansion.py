"""Dynamic range expansion: the formulas of COAT in float64, and what expansion is good for."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qsim import lower, parse, stack
from qsim.training.expansion import contract, expand, range_of
from tests.unchecked import unchecked

FP8 = {"e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}


def moments(rows, seed):
    """First and second moments of Adam, for gradients whose sizes differ by a few binades."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(60, rows, 128)) * np.exp2(rng.uniform(-14, -8, (rows, 128)))
    m, v = np.zeros((rows, 128)), np.zeros((rows, 128))
    for g in gradients:
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    return np.float32(m), np.float32(v)


def by_hand(x, ratio, steps):
    """k, c, t and what is rounded, of rows in float64; k in multiples of ``1 / steps`` if any."""
    x = np.float64(x)
    a, i = np.abs(x).max(1, keepdims=True), np.abs(x).min(1, keepdims=True)
    k = np.minimum(np.log(ratio) / np.log(a / i), 8)
    k = np.floor(k * steps) / steps if steps else k
    c = np.sqrt(a * i)
    t = (a / c) ** k / 448
    return k, c, t, np.sign(x) * (np.abs(x) / c) ** k / t


@pytest.mark.t1
@pytest.mark.parametrize(
    "form, ratio, steps", [("kernel", 448**2 / 2, 16), ("range", 448 * 512, 0)]
)
def test_formulas_of_the_paper(form, ratio, steps):
    assert 2 ** range_of("e4m3fn", form=form).tolist() == pytest.approx(ratio, rel=1e-5)
    for x in moments(40, 8):
        k, c, t, y = by_hand(x, ratio, steps)
        found = jax.jit(lambda x: expand(x, form=form))(x)
        np.testing.assert_allclose(found.exponent[:, None], k, rtol=1e-5)
        np.testing.assert_allclose(found.centre[:, None], c, rtol=1e-5)
        np.testing.assert_allclose(found.scale[:, None], t, rtol=1e-4)
        q = np.clip(y, -448, 448).astype(np.float32).astype(FP8["e4m3fn"]).astype(np.float64)
        apart = np.abs(found.values - y) > np.abs(q - y) * (1 + 1e-3) + 1e-4 * np.abs(y)
        assert not apart.any()  # as near as the nearest, but for ties and the last bits of powers


@pytest.mark.parametrize("form", ["kernel", "range"])
def test_contraction_is_the_inverse_formula(form):
    x, _ = moments(20, 9)
    e = expand(x, form=form)
    q, t, k, c = (np.float64(a) for a in (e.values, e.scale, e.exponent, e.centre))
    expected = np.sign(q) * (np.abs(q) * t[:, None]) ** (1 / k[:, None]) * c[:, None]
    np.testing.assert_allclose(contract(e), expected, rtol=2e-5)


def test_nothing_vanishes_or_changes_sign():
    """The ratio of the kernel leaves i at 448 / 100352, above the smallest number."""
    rng = np.random.default_rng(10)
    x = np.float32(rng.normal(size=(64, 128)) * np.exp2(rng.uniform(-60, 30, (64, 128))))
    x[:, ::5] = 0
    found = np.asarray(contract(expand(x)))
    np.testing.assert_array_equal(np.sign(found), np.sign(x))


def test_groups_without_range():
    for x in ([0.0, 0.0], [3.0, -3.0], [0.0, 5.0], [1e-38, 0.0], [2.0**100, 2.0**-90]):
        e = expand(jnp.array(x), group=2)
        assert np.isfinite(jax.tree.leaves(e)[0]).all() and 0 < e.exponent[0] <= 8
        np.testing.assert_allclose(contract(e), np.float32(x), rtol=0.5, atol=1e-30)
    assert contract(expand(jnp.zeros((0, 3)))).shape == (0, 3)


@pytest.mark.t1
def test_groups_are_consecutive_and_the_last_is_shorter():
    x = jnp.asarray(moments(3, 11)[0].ravel()[:300].reshape(3, 100))
    e = expand(x)
    assert e.values.shape == (3, 128) and not np.any(e.values[2, 44:])
    rows = [contract(expand(x.ravel()[start : start + 128])) for start in (0, 128, 256)]
    np.testing.assert_allclose(contract(e).ravel(), np.concatenate(rows), rtol=1e-6)


def test_expansion_lowers_the_error_of_the_update():
    """The mean square error of m / sqrt(v) with both in E4M3: at least 1.3 times less."""
    m, v = moments(200, 12)
    exact = m / np.sqrt(np.float64(v))

    def plain(x):
        scale = np.abs(x).max(1, keepdims=True) / 448
        return (x / scale).astype(FP8["e4m3fn"]).astype(np.float32) * scale

    def error(m, v):
        known = np.asarray(v) > 0
        ratio = np.asarray(m, np.float64)[known] / np.sqrt(np.asarray(v, np.float64)[known])
        return np.mean((ratio - exact[known]) ** 2)

    expanded = error(contract(expand(m)), contract(expand(v)))
    assert error(plain(m), plain(v)) > 1.3 * expanded


@pytest.mark.t1
def test_formats_are_data_and_rounding_draws():
    x = moments(2, 13)[0]
    specs = ["e4m3fn", "e5m2"]
    grids = stack([lower(parse(spec)) for spec in specs])
    rows = jax.jit(jax.vmap(lambda grid: contract(expand(x, grid))))(grids)
    for row, spec in zip(rows, specs, strict=True):
        np.testing.assert_allclose(row, contract(expand(x, spec)), rtol=1e-5)
    drawn = expand(x, rounding="stochastic:8", key=jax.random.key(0))
    assert np.mean(drawn.values != expand(x).values) > 0.2


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="no form 'kernal'; did you mean 'kernel'"):
            expand(jnp.ones(3), form="kernal")
        with pytest.raises(ValueError, match="one number or more, got group=0"):
            expand(jnp.ones(3), group=0)
