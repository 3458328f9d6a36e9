"""Published facts of hardware arithmetic, reproduced."""

import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim.arithmetic import matmul
from qsim.arithmetic.multipliers import LMul, Multiplier
from qsim.numbers.grid import CARRIERS
from tests.bytewise import same


def test_a_geometric_series_stalls_in_binary16():
    """Higham and Pranesh's sum of 2.5e-6 * 0.99**k, of which binary16 loses the small end."""
    terms = np.float32(2.5e-6 * 0.99 ** np.arange(1000))
    ones = np.ones((1000, 1), np.float32)

    assert float(matmul(terms[None], ones, "e5m10")[0, 0]) == 2.0**-12
    assert float(matmul(terms[None], ones, "e5m10_flush_after")[0, 0]) == 0
    assert abs(float(terms.sum(dtype=np.float64)) - 2.499892e-4) < 1e-10


# --- L-Mul (H. Luo and W. Sun, arXiv:2410.00907) ------------------------------------------------


def lmul_products(text: str, x, y):
    carrier = CARRIERS["float32"]
    made = Multiplier.of(LMul.parse(text), carrier)(jnp.asarray(x), jnp.asarray(y), carrier)
    return np.asarray(made, np.float64)


MANTISSAS = [np.float32(np.random.default_rng(n).uniform(1, 2, 1 << 19)) for n in (0, 1)]
NORMALS = [np.float32(np.random.default_rng(n).standard_normal(1 << 21)) for n in (2, 3)]


@pytest.mark.parametrize(
    "text, rms, bias",
    [
        ("lmul3", 6.94, 4.85),
        ("lmul4", 6.12, 4.85),
        ("lmul4offset4", 3.58, 0.41),
        ("lmul5", 3.23, 0.41),
        ("lmul6", 3.13, 0.41),
        ("lmul7", 3.10, 0.41),
        ("lmul23", 3.10, 0.41),
        ("lmul22formula", 9.6, -6.4),
    ],
)
def test_relative_errors_of_lmul(text, rms, bias):
    x, y = MANTISSAS
    errors = lmul_products(text, x, y) / (x.astype(np.float64) * y) - 1
    assert np.sqrt((errors**2).mean()) * 100 == pytest.approx(rms, rel=0.01)
    assert errors.mean() * 100 == pytest.approx(bias, abs=0.04)


@pytest.mark.parametrize(
    "text, published",
    [("lmul3", 0.00484), ("lmul4", 0.00387), ("lmul4offset4", 0.0013), ("lmul5", 0.00107)],
)
def test_squared_errors_of_lmul_on_normal_numbers(text, published):
    x, y = NORMALS
    exact = x.astype(np.float64) * y
    error = ((lmul_products(text, x, y) - exact) ** 2).mean() / (exact**2).mean()
    assert error == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("fmt, published", [("e5m2", 0.00558), ("e4m3", 0.00141)])
def test_squared_errors_of_products_of_8_bits(fmt, published):
    """What L-Mul is compared with: 3 bits beat e5m2, 4 bits miss e4m3 with the published offset."""
    x, y = NORMALS
    exact = x.astype(np.float64) * y
    rounded = [np.asarray(qsim.quantize(z, fmt)) for z in (x, y)]
    error = ((rounded[0].astype(np.float64) * rounded[1] - exact) ** 2).mean() / (exact**2).mean()
    assert error == pytest.approx(published, rel=0.03)


def test_numbers_that_lmul_has_not():
    tiny, huge, inf = np.float32(2.0**-149), np.finfo(np.float32).max, np.float32(np.inf)
    x = np.array([tiny, 2.0**-80, huge, -huge, inf, 0, np.nan, -0.0, inf], np.float32)
    y = np.array([1.5, 2.0**-80, huge, huge, -2, inf, 1, 3, tiny], np.float32)
    found = lmul_products("lmul7", x, y)
    largest = float(np.float32(2.0**128 * (1 - 2.0**-8)))
    expected = [0, 0, largest, -largest, -inf, np.nan, np.nan, -0.0, np.nan]
    np.testing.assert_array_equal(found, expected)
    assert np.signbit(found[7])


# --- coarse normalisation (K. Alexandridis et al., arXiv:2408.11997) ----------------------------


def bfloat16_matrices(count: int):
    rng = np.random.default_rng(count)
    pair = rng.standard_normal((24, count)), rng.standard_normal((count, 24))
    return [np.asarray(qsim.quantize(np.float32(x), "bfloat16")) for x in pair]


def test_sums_without_leading_zeros_are_those_of_a_fused_multiply_add():
    a, b = map(np.abs, bfloat16_matrices(200))
    kinds = {"formats": ("bfloat16", "bfloat16")}
    fused = matmul(a, b, "e8m7 toward_zero", **kinds)
    for shifts in ("1-1", "1-2", "3-3"):
        assert same(matmul(a, b, f"e8m7 toward_zero normalise{shifts}", **kinds), fused)


def test_the_coarser_the_normaliser_the_larger_the_error():
    a, b = bfloat16_matrices(200)
    exact = a.astype(np.float64) @ b

    def error(text: str) -> float:
        found = np.asarray(matmul(a, b, f"e8m10 toward_zero{text}", formats=("bfloat16",) * 2))
        return float(np.sqrt(((found - exact) ** 2).mean()))

    fused, *errors = [error(text) for text in ("", *(f" normalise{n}-{n}" for n in (1, 2, 4)))]
    assert errors == sorted(errors)
    assert errors[0] > 0.99 * fused and errors[-1] > 1.2 * fused
