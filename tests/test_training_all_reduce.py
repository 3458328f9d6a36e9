"""Sums over replicas in FP8: every addition rounded, factors shared, mu that adjusts itself.

Expected values come from a loop in NumPy with the types of ml_dtypes.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from qsim import lower, parse, stack
from qsim.training.all_reduce import adjusted_mu, all_reduced
from tests.unchecked import unchecked

TYPES = {"e4m3fn": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2}


def by_hand(gradients, spec, mu):
    """The sum, its factor, the fractions of what vanished and of what is full."""
    largest = np.float32(ml_dtypes.finfo(TYPES[spec]).max)

    def rounded(x):
        return np.clip(x, -largest, largest).astype(TYPES[spec]).astype(np.float32)

    exponents = [np.floor(np.log2(largest / np.float64(np.abs(g).max()))) for g in gradients]
    factor = np.float32(2.0 ** min(exponents)) * np.float32(mu)
    q = rounded(gradients * factor)
    total = q[0]
    for row in q[1:]:
        total = rounded(total + row)
    return total / factor, factor, np.mean((q == 0) & (gradients != 0)), np.mean(total == largest)


def replicas(count, size, seed):
    """Gradients that agree in their largest numbers, of many magnitudes."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=size) * np.exp(2 * rng.normal(size=size))
    return np.float32(common + 0.2 * np.abs(common) * rng.normal(size=(count, size)))


@pytest.mark.t1
@pytest.mark.parametrize("spec", TYPES)
@pytest.mark.parametrize("mu", [1.0, 0.3, 1 / 8])
def test_sum_is_that_of_a_loop(spec, mu):
    gradients = np.abs(replicas(8, 1000, 5))
    found = jax.jit(lambda g, mu: all_reduced(g, spec, mu))(gradients, mu)
    total, factor, underflow, overflow = by_hand(gradients, spec, mu)
    np.testing.assert_allclose(found.total, total, rtol=2e-7)
    assert found.factor == factor
    np.testing.assert_allclose(found.underflow, underflow, rtol=1e-6)
    np.testing.assert_allclose(found.overflow, overflow, rtol=1e-6)


def test_replicas_without_amax_have_no_say():
    g = np.float32([[0, 0], [1, 0.5], [np.nan, 1]])
    found = all_reduced(jnp.asarray(g[:2]), "e4m3fn")
    assert (found.total.tolist(), found.factor) == ([1, 0.5], 256)
    found = all_reduced(jnp.asarray(g), "e4m3fn")
    assert found.factor == 256 and np.isnan(found.total[0])
    assert all_reduced(jnp.zeros((3, 4)), "e4m3fn", 0.5).factor == 0.5


def test_formats_and_factors_are_data():
    gradients = jnp.asarray(replicas(4, 100, 6))
    grids = stack([lower(parse(spec)) for spec in TYPES])
    both = jax.vmap(all_reduced, in_axes=(None, 0, 0))(gradients, grids, jnp.array([0.5, 0.25]))
    for row, (spec, mu) in enumerate(zip(TYPES, [0.5, 0.25], strict=True)):
        np.testing.assert_array_equal(both.total[row], all_reduced(gradients, spec, mu).total)


def test_mu_halves_and_doubles():
    mu, expected = jnp.float32(0.5), 0.5
    for full in [0.0, 0.0, 2e-5, 0.0, 1.0, 1e-6]:
        mu = adjusted_mu(mu, jnp.float32(full), window=4)
        expected = expected / 2 if full > 1e-5 else expected * 2**0.25
        assert mu == pytest.approx(expected, rel=1e-6)
    mu, _ = jax.lax.scan(
        lambda mu, _: (adjusted_mu(mu, jnp.float32(0)), None), jnp.float32(1), length=1000
    )
    assert mu == pytest.approx(2, rel=1e-4)


def test_mu_that_adjusts_itself_loses_least():
    """Scaling after the sum overflows, scaling before it underflows.

    The numbers of 32 replicas are uniform, but one in a hundred is so small that it just vanishes
    after a division by 32: 2^-13 * 256 / 32 is half of the smallest number.
    """
    rng = np.random.default_rng(7)
    uniform = rng.uniform(-1.75, 1.75, (32, 4096))
    uniform[0, 0] = 1.75
    gradients = jnp.float32(np.where(rng.random((32, 4096)) < 0.01, 2.0**-13, uniform))

    def lost(mu):
        reduced = all_reduced(gradients, "e4m3fn", mu)
        return reduced.underflow + reduced.overflow

    def step(mu, _):
        return adjusted_mu(mu, all_reduced(gradients, "e4m3fn", mu).overflow, window=20), None

    mu, _ = jax.lax.scan(step, jnp.float32(32**-0.5), length=60)
    after, before, best = jax.jit(jax.vmap(lost))(
        jnp.stack([jnp.float32(1), jnp.float32(1 / 32), mu])
    )
    assert best < 1e-3 < min(after, before), (best, after, before, mu)


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match=r"an axis of replicas in front, got the shape \(0, 3"):
            all_reduced(jnp.zeros((0, 3)), "e4m3fn")
        with pytest.raises(ValueError, match="e8m23 cannot be rounded once in float32"):
            all_reduced(jnp.zeros((2, 3)), "binary32")
        with pytest.raises(ValueError, match="one step or more, got window=0"):
            adjusted_mu(jnp.float32(1), jnp.float32(0), window=0)
