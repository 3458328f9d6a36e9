"""Unit scaling: factors forward and backward, and unit sizes of what they are for.

Expected values are products in NumPy with the factors of the table; sizes are those of independent
normal numbers, within four standard deviations of a mean of squares, sqrt(2 / n).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsim.training import unit_scaling as us
from tests.unchecked import unchecked

B, K, N = 96, 64, 256


def normal(*shape, seed=24):
    return jnp.float32(np.random.default_rng([seed, *shape]).normal(size=shape))


def passed(fn, *args):
    """The result, and the gradients for a unit gradient of the result."""
    y, pull_back = jax.vjp(fn, *args)
    return y, *pull_back(normal(*y.shape, seed=25))


def is_unit(x, smallest):
    """Whether the mean square is 1, for as many independent numbers as the smallest operand has."""
    return abs(np.mean(np.square(np.float64(x))) - 1) < 4 * math.sqrt(2 / smallest)


def test_factors_differ_forward_and_backward():
    y, slope = passed(lambda x: us.scaled(x, forward=3.0, backward=0.25), normal(7))
    np.testing.assert_allclose(y, 3 * normal(7), rtol=1e-6)
    np.testing.assert_allclose(slope, 0.25 * normal(7, seed=25), rtol=1e-6)
    many = jax.vmap(lambda f: jax.grad(lambda x: us.scaled(x, backward=f).sum())(jnp.ones(2)))
    assert many(jnp.array([1.0, 2.0])).tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("op, output", [(us.linear, K**-0.5), (us.readout, 1 / K)])
def test_linear_layers(op, output):
    x, w = normal(B, K), normal(K, N)
    y, of_x, of_w = passed(lambda x, w: op(x, w, constraint="none"), x, w)
    g = np.float64(normal(B, N, seed=25))
    np.testing.assert_allclose(y, np.float64(x) @ w * output, atol=1e-4)
    np.testing.assert_allclose(of_x, g @ np.float64(w).T * N**-0.5, atol=1e-4)
    np.testing.assert_allclose(of_w, np.float64(x).T @ g * B**-0.5, atol=1e-4)
    assert is_unit(of_x, K * B) and is_unit(of_w, K * B)
    assert is_unit(y * math.sqrt(K) if op is us.readout else y, K * B)


@pytest.mark.t1
def test_batches_have_any_number_of_axes():
    x, w = normal(2, 3, 16, K), normal(K, 8)
    y, of_x, of_w = passed(us.linear, x, w)
    assert y.shape == (2, 3, 16, 8) and of_x.shape == x.shape
    flat = passed(us.linear, x.reshape(B, K), w)
    np.testing.assert_allclose(y.reshape(B, 8), flat[0], rtol=1e-5, atol=1e-5)
    assert is_unit(of_w, 96 * 8)


def test_products_of_activations():
    a, b = normal(2, B, K), normal(2, K, N)
    y, of_a, of_b = passed(lambda a, b: us.matmul(a, b, constraint="none"), a, b)
    g = np.float64(normal(2, B, N, seed=25))
    np.testing.assert_allclose(of_a, g @ np.swapaxes(np.float64(b), 1, 2) / 16, atol=1e-4)
    np.testing.assert_allclose(of_b, np.swapaxes(np.float64(a), 1, 2) @ g * B**-0.5, atol=1e-4)
    assert is_unit(y, 2 * K * B) and is_unit(of_a, 2 * K * B) and is_unit(of_b, 2 * K * B)


def test_sums_and_their_broadcast_operands():
    x, bias = normal(B, N), normal(N)
    y, of_x, of_bias = passed(us.add, x, bias)
    np.testing.assert_allclose(y, (x + bias) / np.sqrt(2), rtol=1e-5, atol=1e-6)
    assert is_unit(of_x, B * N) and is_unit(of_bias, N)
    assert is_unit(passed(us.add, x, normal(B, N, seed=26))[0], B * N)


@pytest.mark.parametrize("tau", [0.25, 1.0, 3.0])
def test_residuals_are_those_of_the_function(tau):
    """Gradients within the branch are those of the result, and in all they are exact."""
    x = normal(50)

    def residual(x, probe):
        inner, skip = us.residual_split(x, tau)
        return us.residual_add(jnp.sin(inner + probe) * 2, skip, tau)

    y, slope, within = passed(residual, x, jnp.zeros(50))
    a, b = 1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)
    np.testing.assert_allclose(y, a * x + b * 2 * np.sin(x), rtol=1e-4, atol=1e-5)
    g = normal(50, seed=25)
    np.testing.assert_allclose(slope, (a + b * 2 * np.cos(x)) * g, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(within, 2 * np.cos(x) * g, rtol=1e-4, atol=1e-5)


def test_softmax_has_unit_deviation():
    """Of rows of 4096: the heavy tail of exp leaves a few per cent."""
    x = normal(200, 4096)
    y, slope = passed(lambda x: us.softmax(x, constraint="none"), x)
    p = np.exp(np.float64(x))
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(y, p * 4096 / 1.3108, rtol=1e-3)
    assert np.std(y) == pytest.approx(1, abs=0.02)
    assert np.sqrt(np.mean(np.square(slope))) == pytest.approx(1, abs=0.02)


@pytest.mark.t1
def test_cross_entropy_begins_with_unit_gradients():
    v = 50
    logits, labels = jnp.zeros((B, v)), jnp.arange(B) % v
    loss, slopes = jax.value_and_grad(us.cross_entropy)(logits, labels)
    assert loss == pytest.approx(math.log(v), rel=1e-6)
    expected = (np.full((B, v), 1 / v) - np.eye(v)[labels]) * v / math.sqrt(v - 1)
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)
    assert np.mean(np.square(slopes)) == pytest.approx(1, rel=1e-5)


def test_gelu_has_unit_size():
    x = normal(300, 300)
    gelu = lambda x: us.elementwise(  # noqa: E731
        lambda x: jax.nn.gelu(x, approximate=False),
        x,
        output=1 / 0.588,
        gradient=1 / 0.675,
        constraint="none",
    )
    y, slope = passed(gelu, x)
    assert np.std(y) == pytest.approx(1, abs=0.02) and is_unit(slope, 20000)


def test_constraints_are_means():
    factors = (0.5, 2.0, 4.0)
    expected = {
        "none": factors,
        "to_output_scale": (0.5,) * 3,
        "to_gradient_scale": (2.0,) * 3,
        "gmean": (4 ** (1 / 3),) * 3,
        "hmean": (3 / (2 + 0.5 + 0.25),) * 3,
        "amean": (6.5 / 3,) * 3,
    }
    assert set(expected) == set(us.CONSTRAINTS)
    for name, values in expected.items():
        assert us.constrained(name, *factors) == pytest.approx(values)
    x, w = normal(8, 4), normal(4, 9)
    y, of_x, _ = passed(lambda x, w: us.linear(x, w, constraint="gmean"), x, w)
    np.testing.assert_allclose(y, x @ w * (0.5 / 3) ** 0.5, rtol=1e-5, atol=1e-6)
    expected_x = normal(8, 9, seed=25) @ w.T * (0.5 / 3) ** 0.5
    np.testing.assert_allclose(of_x, expected_x, rtol=1e-5, atol=1e-5)


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="no constraint 'gmaen'; did you mean 'gmean'"):
            us.linear(normal(2, 3), normal(3, 4), constraint="gmaen")
        with pytest.raises(ValueError, match=r"above zero, got -0\.5"):
            us.residual_split(normal(2), -0.5)
        with pytest.raises(ValueError, match="two classes or more, got logits of 1"):
            us.cross_entropy(jnp.zeros((3, 1)), jnp.zeros(3, jnp.int32))
