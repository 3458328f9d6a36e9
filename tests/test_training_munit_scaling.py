"""Munit scaling: matrix products on FP8 without scales, unit sizes, and learning rates by width."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from qsim import lower, parse, stack
from qsim.training.munit_scaling import (
    LAYERS,
    fixed_residual,
    learning_rate_multiplier,
    output_multiplier,
    scale_learning_rates,
    sqrt_softmax,
    static_matmul,
)
from tests.unchecked import unchecked


def normal(*shape, seed=27):
    return jnp.float32(np.random.default_rng([seed, *shape]).normal(size=shape))


def on(x, dtype):
    """Rounded to nearest and clipped, in float64."""
    largest = float(ml_dtypes.finfo(dtype).max)
    return np.clip(np.float32(x), -largest, largest).astype(dtype).astype(np.float64)


@pytest.mark.t1
@pytest.mark.parametrize("batch", [(32,), (4, 8)])
def test_matrix_products_are_on_their_formats(batch):
    x, w = normal(*batch, 48) * 100, normal(48, 24)
    x = x.at[(0,) * len(batch)].set(1e4)  # is clipped to 448
    g = normal(*batch, 24, seed=28) * 3e4
    y, pull_back = jax.vjp(jax.jit(static_matmul), x, w)
    of_x, of_w = pull_back(g)
    x8, w8 = on(x, ml_dtypes.float8_e4m3fn), on(w, ml_dtypes.float8_e4m3fn)
    g8 = on(g, ml_dtypes.float8_e5m2)
    assert np.abs(x8).max() == 448 and np.abs(g8).max() == 57344
    a = 48**-0.5
    np.testing.assert_allclose(y, a * x8 @ w8, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(of_x, a * g8 @ w8.T, rtol=1e-4, atol=1)
    expected = a * x8.reshape(-1, 48).T @ g8.reshape(-1, 24)
    np.testing.assert_allclose(of_w, expected, rtol=1e-4, atol=1e2)


def test_formats_are_data():
    x, w = normal(4, 8), normal(8, 3)
    specs = ["e4m3fn", "e2m1f", "e5m2"]
    grids = stack([lower(parse(spec)) for spec in specs])

    def slopes(grid):
        return jax.grad(lambda w: static_matmul(x, w, forward=grid, backward=grid).sum())(w)

    rows = jax.jit(jax.vmap(slopes))(grids)
    for row, spec in zip(rows, specs, strict=True):
        np.testing.assert_allclose(row, slopes(lower(parse(spec))), rtol=1e-6)


@pytest.mark.t1
@pytest.mark.parametrize("width", [64, 128, 256])
def test_networks_keep_unit_size_at_any_width(width):
    """Of six residual layers the mean squares are 1 within 4 sqrt(2 / n) and FP8's rounding."""
    x, g = normal(512, width), normal(512, width, seed=29)
    layers = [normal(width, width, seed=30 + i) for i in range(6)]

    def network(x):
        for w in layers:
            branch = static_matmul(x, w)
            branch = branch / jnp.sqrt(jnp.mean(jnp.square(branch), -1, keepdims=True))
            x = fixed_residual(x, branch, tau=0.4)
        return x

    y, pull_back = jax.vjp(jax.jit(network), x)
    bound = 4 * math.sqrt(2 / (512 * width)) + 0.03
    assert abs(np.mean(np.square(y)) - 1) < bound
    assert 0.5 < np.sqrt(np.mean(np.square(pull_back(g)[0]))) < 2


def test_root_of_softmax_preserves_variance():
    weights = sqrt_softmax(normal(1000, 32) * 3)
    np.testing.assert_allclose(np.square(weights).sum(-1), 1, rtol=1e-5)
    sums = jnp.einsum("bn,bnd->bd", weights, normal(1000, 32, 40))
    assert np.mean(np.square(sums)) == pytest.approx(1, abs=4 * math.sqrt(2 / 40000))


def test_multipliers_are_those_of_the_table():
    assert [output_multiplier(layer, 100) for layer in LAYERS] == [1, 0.1, 0.01]
    assert [learning_rate_multiplier(layer, 400, 100) for layer in LAYERS] == [1, 0.5, 1]


def test_learning_rates_go_by_layer():
    params = {
        "embed": {"kernel": jnp.ones((100, 64))},
        "block": {"kernel": jnp.ones((4, 16, 8)), "bias": jnp.ones(8)},
        "head": {"kernel": jnp.ones((64, 100))},
    }
    rules = {"embed/.*": "input", "head/.*": "head", "kernel": "hidden", "bias": "hidden"}
    optimizer = optax.chain(optax.sgd(1.0), scale_learning_rates(rules, base_fan_in=16))
    updates, _ = jax.jit(optimizer.update)(params, optimizer.init(params))
    assert updates["embed"]["kernel"][0, 0] == -1
    assert updates["block"]["kernel"][0, 0, 0] == -0.5
    assert updates["block"]["bias"][0] == -1
    assert updates["head"]["kernel"][0, 0] == -1


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="no layer 'hiden'; did you mean 'hidden'"):
            output_multiplier("hiden", 4)
        with pytest.raises(ValueError, match="no layer 'body'"):
            scale_learning_rates({".*": "body"}, 64)
        with pytest.raises(ValueError, match="no path matches 'heads'; did you mean 'head'"):
            scale_learning_rates({"heads": "head"}, 64).init({"head": jnp.ones((2, 2))})
        with pytest.raises(ValueError, match=r"0 to 1, got 1\.5"):
            fixed_residual(normal(2), normal(2), tau=1.5)
