"""Published arithmetic of hardware: its definitions, and what its authors say of it."""

import itertools
import math
from fractions import Fraction

import jax.numpy as jnp
import ml_dtypes
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

# text: mantissa bits, the offset's exponent, and whether no carry is added to the exponent
LMULS = {
    "lmul1": (1, 1, False),
    "lmul2": (2, 2, False),
    "lmul3": (3, 3, False),
    "lmul4": (4, 3, False),
    "lmul5": (5, 4, False),
    "lmul6": (6, 4, False),
    "lmul7": (7, 4, False),
    "lmul4offset4": (4, 4, False),
    "lmul3formula": (3, 3, True),
    "lmul7formula": (7, 4, True),
}
LONG = {"lmul10": (10, 4, False), "lmul23": (23, 4, False), "lmul22formula": (22, 4, True)}


def lmul_products(text: str, x, y):
    carrier = CARRIERS["float32"]
    made = Multiplier.of(LMul.parse(text), carrier)(jnp.asarray(x), jnp.asarray(y), carrier)
    return np.asarray(made, np.float64)


def exact_lmul(f: Fraction, g: Fraction, offset: int, formula: bool) -> Fraction:
    """``(1 + f) * (1 + g)`` by an addition: the paper's formula, or an adder that carries."""
    extra = f + g + Fraction(1, 2**offset)
    carry = 0 if formula else math.floor(extra)
    return (1 + extra - carry) * 2**carry


def all_pairs(bits: int) -> list[tuple[Fraction, Fraction]]:
    fractions = [Fraction(i, 2**bits) for i in range(2**bits)]
    return list(itertools.product(fractions, fractions))


@pytest.mark.t1
@pytest.mark.parametrize("text", LMULS)
def test_lmul_of_all_pairs_of_mantissas(text):
    bits, offset, formula = LMULS[text]
    pairs = all_pairs(bits)
    x, y = (np.float32([1 + float(pair[n]) for pair in pairs]) for n in (0, 1))
    expected = [float(exact_lmul(f, g, offset, formula)) for f, g in pairs]
    assert lmul_products(text, x, y).tolist() == expected


def relative_errors(text: str) -> tuple[float, float]:
    """Mean and root mean square over all pairs of mantissas, in percent."""
    bits, offset, formula = LMULS[text]
    errors = [
        exact_lmul(f, g, offset, formula) / ((1 + f) * (1 + g)) - 1 for f, g in all_pairs(bits)
    ]
    squares = sum(float(error) ** 2 for error in errors)
    return 100 * float(sum(errors)) / len(errors), 100 * math.sqrt(squares / len(errors))


def test_the_offset_of_four_bits_is_that_of_the_least_bias():
    """The paper's l(4) is 3, which leaves a bias as of three bits; 4 has hardly any."""
    (three, _), (four, rms), (other, less) = map(
        relative_errors, ("lmul3", "lmul4", "lmul4offset4")
    )
    assert min(three, four) > 4 * abs(other) and rms > 1.5 * less


def rounded_significands(x, bits: int):
    """Significands from 1 to 2 of so many bits after the point, to even, and powers of two."""
    m, e = np.frexp(np.abs(x.astype(np.float64)))
    return np.rint(np.ldexp(m, bits + 1)) / 2.0**bits, np.ldexp(np.sign(x), e - 1)


def float64_lmul(x, y, bits: int, offset: int, formula: bool):
    """The definition again, in float64, in which all of it is exact."""
    (m, up), (n, more) = (rounded_significands(z, bits) for z in (x, y))
    m, up = np.where(m == 2, 1, m), np.where(m == 2, 2 * up, up)
    n, more = np.where(n == 2, 1, n), np.where(n == 2, 2 * more, more)
    extra = (m - 1) + (n - 1) + 2.0**-offset
    carry = 0 if formula else np.floor(extra)
    return (1 + extra - carry) * 2.0**carry * up * more


NORMALS = [np.float32(np.random.default_rng(n).standard_normal(1 << 18)) for n in (2, 3)]


@pytest.mark.parametrize("text", [*LMULS, *LONG])
def test_lmul_of_normal_numbers(text):
    x, y = NORMALS
    expected = float64_lmul(x, y, *{**LMULS, **LONG}[text])
    np.testing.assert_array_equal(lmul_products(text, x, y), expected)


def test_lmul_beside_formats_of_8_bits():
    """The paper says: 3 bits beat e5m2, 4 bits are like e4m3. The second needs another offset."""
    x, y = (z.astype(np.float64) for z in NORMALS)

    def error(products) -> float:
        return ((products - x * y) ** 2).mean() / ((x * y) ** 2).mean()

    def of_format(dtype) -> float:
        return error(x.astype(dtype).astype(np.float64) * y.astype(dtype).astype(np.float64))

    lmul = {text: error(lmul_products(text, *NORMALS)) for text in LMULS}
    e5m2, e4m3 = (of_format(t) for t in (ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn))
    assert lmul["lmul3"] < e5m2
    assert lmul["lmul4"] > 2 * e4m3 and lmul["lmul4offset4"] < e4m3


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
