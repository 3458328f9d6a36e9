"""Layers in dynamic fixed point: all three products are those of integers, overflows are counted.

Mantissas and exponents are taken from exact fractions, products from integers of Python.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsim.training.dynamic_fixed import dfp_convolution, dfp_product
from tests.test_integers import in_dfp
from tests.unchecked import unchecked


def exact(a: np.ndarray, b: np.ndarray, bits: int) -> np.ndarray:
    """The product of two matrices in dynamic fixed point, its sums being exact."""
    (i, e), (j, f) = in_dfp(a.ravel(), bits), in_dfp(b.ravel(), bits)
    product = np.array(i, object).reshape(a.shape) @ np.array(j, object).reshape(b.shape)
    return product.astype(np.float64) * 2.0 ** (e + f)


def operands(seed=30):
    rng = np.random.default_rng(seed)
    shapes = (2, 3, 7), (7, 5), (2, 3, 5)
    return [np.float32(rng.normal(size=shape) * 4.0**n) for n, shape in enumerate(shapes)]


@pytest.mark.parametrize("bits", [16, 8, 3])
@pytest.mark.parametrize("transform", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
def test_three_products_are_those_of_integers(bits, transform):
    x, w, g = operands()

    def weighed(x, w):
        y = dfp_product(x, w, bits=bits)
        return (y * g).sum(), y

    (of_x, of_w), y = transform(jax.grad(weighed, (0, 1), has_aux=True))(x, w)
    rows, slopes = x.reshape(6, 7), g.reshape(6, 5)
    for found, expected in [
        (y.reshape(6, 5), exact(rows, w, bits)),
        (of_x.reshape(6, 7), exact(slopes, w.T, bits)),
        (of_w, exact(rows.T, slopes, bits)),
    ]:
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), "SAME"), ((2, 1), "VALID")])
def test_convolutions_of_integers_are_exact(strides, padding):
    """Mantissas hold integers, so that values and gradients are those of float32 convolutions."""
    rng = np.random.default_rng(31)
    shapes = (2, 5, 6, 3), (3, 2, 3, 4)
    x, kernel = (np.float32(rng.integers(-9, 10, shape)) for shape in shapes)
    names = "NHWC", "HWIO", "NHWC"

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names)

    def ours(x, kernel):
        return dfp_convolution(x, kernel, strides=strides, padding=padding)

    y = plain(x, kernel)
    g = np.float32(rng.integers(-9, 10, y.shape))
    np.testing.assert_array_equal(jax.jit(ours)(x, kernel), y)
    expected, found = (jax.vjp(fn, x, kernel)[1](g) for fn in (plain, ours))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_overflows_are_told_by_product_and_added_up_over_layers():
    """Of n largest numbers in one chain, every second addition from the third on wraps int32."""
    x, w, g = (jnp.full(shape, 1.99999) for shape in ((6, 4), (4, 1), (6, 1)))

    def layers(tally, chain, count=1):
        return sum((dfp_product(x, w, tally, chain=chain) * g).sum() for _ in range(count))

    count = jax.jit(jax.grad(layers), static_argnums=2)
    assert count(jnp.zeros(3), 2).tolist() == [0, 0, 0]
    largest, sums = 32767**2, []
    for length in (4, 1, 6):
        s, beyond = 0, 0
        for _ in range(length):
            beyond += not -(2**31) <= s + largest < 2**31
            s = (s + largest + 2**31) % 2**32 - 2**31
        sums.append(beyond)
    once = [6 * sums[0], 24 * sums[1], 4 * sums[2]]
    assert once[0] > 0 and once[1] == 0 and once[2] > 0
    assert count(jnp.zeros(3), 100).tolist() == once
    assert count(jnp.zeros(3), 100, 3).tolist() == [3 * n for n in once]


def test_bits_and_chains_are_data():
    x, w, _ = operands()
    bits, chains = jnp.array([16, 8, 4]), jnp.array([2, 7, 3])
    rows = jax.vmap(lambda bits, chain: dfp_product(x, w, bits=bits, chain=chain))(bits, chains)
    for row, each, chain in zip(rows, (16, 8, 4), (2, 7, 3), strict=True):
        np.testing.assert_array_equal(row, dfp_product(x, w, bits=each, chain=chain))


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match=r"\[2, 3\] and \[2, 3\], but a layer takes"):
            dfp_product(jnp.ones((2, 3)), jnp.ones((2, 3)))
        with pytest.raises(ValueError, match=r"a convolution takes \[batch, height"):
            dfp_convolution(jnp.ones((2, 3, 3, 1)), jnp.ones((2, 2, 2, 1)))
        with pytest.raises(TypeError, match="got int32"):
            dfp_product(jnp.ones((2, 3), jnp.int32), jnp.ones((3, 2)))
        with pytest.raises(ValueError, match="bits is 17"):
            dfp_product(jnp.ones((2, 3)), jnp.ones((3, 2)), bits=17)
        with pytest.raises(ValueError, match=r"three numbers, got \[2\]"):
            dfp_product(jnp.ones((2, 3)), jnp.ones((3, 2)), jnp.zeros(2))
        with pytest.raises(ValueError, match="chain is 0"):
            dfp_product(jnp.ones((2, 3)), jnp.ones((3, 2)), chain=0)
