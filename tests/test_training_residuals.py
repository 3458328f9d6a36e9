"""Residuals of few bits: the forward pass keeps its bytes, gradients are those at rounded inputs.

Gradients are compared with derivatives written out, at inputs that NumPy rounds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim import lower, parse, stack
from qsim.simulate.quantizer import Precision
from qsim.training.residuals import low_bit_residuals, running_range, running_residuals
from tests.unchecked import unchecked


def attention(q, k, v):
    """Of queries, keys and values [batch, heads, length, width]."""
    scores = jnp.einsum("bhld,bhmd->bhlm", q, k) / 4
    return jnp.einsum("bhlm,bhmd->bhld", jax.nn.softmax(scores), v)


def layer(params, x):
    hidden = jax.nn.gelu(x @ params["w"])
    return (hidden - hidden.mean(-1, keepdims=True)) * params["gain"]


def heads(seed=20):
    """Heads whose sizes differ by up to sixteen times."""
    rng = np.random.default_rng(seed)
    sizes = np.exp2(np.arange(4)).reshape(1, 4, 1, 1) / 4
    return [jnp.float32(rng.normal(size=(2, 4, 8, 16)) * sizes) for _ in range(3)]


def int_rounded(x, bits, axes=None):
    """Symmetric integers with one scale, or one along the axes that are kept."""
    largest = 2.0 ** (bits - 1) - 1
    amax = np.abs(x).max(axis=axes, keepdims=True)
    scale = (np.float32(amax) / np.float32(largest)).astype(np.float64)
    return np.round(x / scale) * scale


def cosine(a, b):
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_are_those_at_rounded_inputs(bits):
    x = np.random.default_rng(21).normal(size=(5, 7)).astype(np.float32)
    cube = low_bit_residuals(lambda x: x * x * x, f"int{bits}sym")
    np.testing.assert_array_equal(cube(x), x * x * x)
    slopes = jax.jit(jax.grad(lambda x: (2 * cube(x)).sum()))(x)
    np.testing.assert_allclose(slopes, 6 * int_rounded(x, bits) ** 2, rtol=1e-5)


@pytest.mark.t1
@pytest.mark.parametrize("transform", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_forward_keeps_its_bytes(transform):
    q, k, v = heads()
    exact = transform(attention)(q, k, v)
    rounded = low_bit_residuals(attention, "int2sym", argnums=(0, 1, 2))
    np.testing.assert_array_equal(transform(rounded)(q, k, v), exact)
    with_gradient = transform(lambda *args: jax.vjp(rounded, *args)[0])
    np.testing.assert_array_equal(with_gradient(q, k, v), exact)


@pytest.mark.t1
def test_more_bits_and_scales_of_heads_are_nearer():
    q, k, v = heads()
    slopes = jax.grad(lambda fn, *args: jnp.sum(jnp.sin(fn(*args))), argnums=(1, 2, 3))
    exact = jax.jit(slopes, static_argnums=0)(attention, q, k, v)
    found = {}
    for spec in ("int8sym", "int4sym", "int4sym[channel@1]", "uint4[channel@1,zero_point]"):
        fn = low_bit_residuals(attention, spec, argnums=(0, 1, 2))
        found[spec] = cosine(exact, jax.jit(slopes, static_argnums=0)(fn, q, k, v))
    assert found["int8sym"] > 0.999
    assert found["int4sym"] < found["int4sym[channel@1]"] < found["int8sym"]
    assert found["uint4[channel@1,zero_point]"] > found["int4sym"]


@pytest.mark.t1
def test_weights_stay_and_trees_are_arguments():
    rng = np.random.default_rng(22)
    params = {"w": jnp.float32(rng.normal(size=(6, 5))), "gain": jnp.ones(5)}
    x = jnp.float32(rng.normal(size=(3, 6)))
    for argnums, at in [
        (1, (params, qsim.quantize(x, "e3m2"))),
        (0, (jax.tree.map(lambda leaf: qsim.quantize(leaf, "e3m2"), params), x)),
    ]:
        fn = low_bit_residuals(layer, "e3m2", argnums=argnums, scale="none")
        found = jax.grad(lambda *args: fn(*args).sum(), (0, 1))(params, x)  # noqa: B023
        expected = jax.grad(lambda *args: layer(*args).sum(), (0, 1))(*at)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


@pytest.mark.t1
def test_integers_pass_by():
    def taken(x, index):
        return x[index] ** 2

    fn = low_bit_residuals(taken, "int8sym", argnums=(0, 1))
    slopes = jax.grad(lambda x: fn(x, jnp.array([0, 2])).sum())(jnp.array([1.0, 2.0, 127.0]))
    assert slopes.tolist() == [2.0, 0.0, 254.0]


@pytest.mark.t1
def test_formats_and_keys_are_data():
    x = jnp.linspace(-2, 2, 9)
    specs = ["e4m3", "e2m1", "e5m2"]

    def slopes(grid):
        fn = low_bit_residuals(jnp.square, grid, scale="none")
        return jax.grad(lambda x: fn(x).sum())(x)

    rows = jax.vmap(slopes)(stack([lower(parse(spec)) for spec in specs]))
    for row, spec in zip(rows, specs, strict=True):
        np.testing.assert_array_equal(row, 2 * qsim.quantize(x, spec))
    noisy = low_bit_residuals(jnp.square, Precision.parse("e2m1 stochastic:8").lower())
    for key in (jax.random.key(1), qsim.counter_key(1)):
        draw = jax.jit(jax.grad(lambda x, key: noisy(x, key=key).sum()))
        drawn = draw(jnp.full(4000, 1.2), key)
        assert set(np.unique(drawn)) == {2.0, 3.0}
        assert np.mean(drawn) == pytest.approx(2.4, abs=4 * np.sqrt(0.24 / 4000))


# --- running ranges -------------------------------------------------------------------------


def test_running_ranges_are_averages():
    """Over three batches, with a range for each head: a loop in NumPy."""
    rng = np.random.default_rng(23)
    batches = np.float32(rng.normal(size=(3, 2, 4, 5)) * np.array([1, 2, 4, 8]).reshape(1, 4, 1))
    fn = running_residuals(jnp.square, "uint8")

    def loss(x, seen):
        y, seen = fn(seen, x)
        return y.sum(), seen

    seen, low, high = running_range((2, 4, 5), axes=(1,)), None, None
    step = jax.jit(jax.grad(loss, has_aux=True))
    for x in batches:
        slopes, seen = step(x, seen)
        least, most = x.min((0, 2), keepdims=True), x.max((0, 2), keepdims=True)
        low = least if low is None else 0.9 * low + 0.1 * least
        high = most if high is None else 0.9 * high + 0.1 * most
        np.testing.assert_allclose(seen.low, low, rtol=1e-5)
        np.testing.assert_allclose(seen.high, high, rtol=1e-5)
        unit = (high - low) / 255
        saved = low + np.clip(np.round((x - low) / unit), 0, 255) * unit
        np.testing.assert_allclose(slopes, 2 * saved, atol=2.02 * unit.max())
        near = np.abs((x - low) / unit % 1 - 0.5) > 1e-3  # no tie
        expected = np.broadcast_to(2 * saved, x.shape)[near]
        np.testing.assert_allclose(np.asarray(slopes)[near], expected, rtol=1e-4, atol=1e-5)


def test_a_range_of_nothing_is_saved_exactly():
    fn = running_residuals(jnp.square)
    slopes = jax.grad(lambda x: fn(running_range((3,)), x)[0].sum())(jnp.full(3, 0.7))
    np.testing.assert_allclose(slopes, 1.4, rtol=1e-6)


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(
            ValueError, match="argument 2 is to be saved on a format, but there are 1"
        ):
            low_bit_residuals(jnp.square, "int8", argnums=2)(jnp.ones(2))
        with pytest.raises(ValueError, match="needs a random key"):
            low_bit_residuals(jnp.square, "int8", rounding="stochastic")(jnp.ones(2))
        with pytest.raises(ValueError, match=r"0 <= decay < 1, got 1\.0"):
            running_residuals(jnp.square, decay=1.0)
        with pytest.raises(ValueError, match="there is no axis 3 in an array of shape"):
            running_range((2, 3), axes=(3,))
