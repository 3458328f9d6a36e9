"""Integer-only arithmetic, as Python's integers, NumPy's int64 and fractions tell."""

import math
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsim.arithmetic.bit_serial import bit_planes, bit_serial_matmul, table_matmul
from qsim.arithmetic.dynamic_fixed import DFP, dfp, dfp_matmul, dfp_value, down_convert
from qsim.arithmetic.integers import integer_matmul
from qsim.arithmetic.requantization import dyadic, requantize
from tests.bytewise import same
from tests.unchecked import unchecked

WIDTHS = np.arange(2, 33, dtype=np.int32)
OVERFLOWS = ("wrap", "saturate")
HALF = Fraction(1, 2)


def more(*values: int, mark: pytest.MarkDecorator = pytest.mark.t1) -> list:
    """Cases of a slower tier: each compiles anew."""
    return [pytest.param(value, marks=mark) for value in values]


def integers(shape: tuple[int, ...], dtype: str = "int16", seed: int = 0) -> np.ndarray:
    """Random integers of all magnitudes that a dtype holds, the ends of its range among them."""
    random, ends = np.random.default_rng(seed), np.iinfo(dtype)
    x = random.integers(ends.min, ends.max, shape, endpoint=True)
    x = x >> random.integers(0, ends.bits, shape)
    x[random.random(shape) < 0.1] = ends.min
    return x.astype(dtype)


def wrapped(s: int, bits: int) -> int:
    return (s + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def added_up(products, bits: int, overflow: str) -> tuple[int, int]:
    """The sum of Python integers in an accumulator, and how many additions went beyond it."""
    lowest, largest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    s = count = 0
    for p in products:
        s += p
        count += not lowest <= s <= largest
        s = wrapped(s, bits) if overflow == "wrap" else min(max(s, lowest), largest)
    return s, count


def expected_sums(a: np.ndarray, b: np.ndarray, bits: int, overflow: str) -> list[np.ndarray]:
    rows, columns = a.tolist(), b.T.tolist()
    found = [
        [added_up([x * y for x, y in zip(r, c, strict=True)], bits, overflow) for c in columns]
        for r in rows
    ]
    both = np.array(found, np.int32).reshape(len(rows), len(columns), 2)
    return [both[..., 0], both[..., 1]]


def int32_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32)


# --- accumulators -------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("count", [0, 1, 3, 17, 1000, *more(2, 16, 33)])
def test_sums_and_overflows_of_every_width(count, overflow):
    a, b = integers((3, count)), integers((count, 2), seed=1)
    found = jax.vmap(lambda bits: integer_matmul(a, b, bits=bits, overflow=overflow))(WIDTHS)
    for n, bits in enumerate(WIDTHS.tolist()):
        assert same([x[n] for x in found], expected_sums(a, b, bits, overflow)), bits


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("dtypes", [("int8", "int8"), ("uint8", "int8"), ("int16", "uint16")])
def test_operands_of_every_dtype(dtypes, overflow):
    a, b = integers((2, 40), dtypes[0]), integers((40, 3), dtypes[1], seed=1)
    for bits in (12, 20, 31, 32):
        found = integer_matmul(a, b, bits=bits, overflow=overflow)
        assert same(list(found), expected_sums(a, b, bits, overflow)), bits


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_the_largest_products(overflow):
    ends = np.array([[-(2**15)] * 5, [2**15 - 1] * 5], np.int32)
    products = np.array([[2**31 - 1, -(2**31), 1, -(2**31), -(2**31)]], np.int32)
    for bits in (2, 16, 30, 31, 32):
        found = integer_matmul(ends, ends.T, bits=bits, overflow=overflow)
        assert same(list(found), expected_sums(ends, ends.T, bits, overflow)), bits
        ones = np.ones((5, 1), np.int32)
        found = integer_matmul(products, ones, bits=bits, overflow=overflow)
        assert same(list(found), expected_sums(products, ones, bits, overflow)), bits


def test_what_saturates_comes_back_from_the_end():
    a, ones = np.array([[100, 100, -100, -100]], np.int8), np.ones((4, 1), np.int8)
    for overflow, expected in [("saturate", (127 - 200, 1)), ("wrap", (0, 2))]:
        sums, overflows = integer_matmul(a, ones, bits=8, overflow=overflow)
        assert (sums.item(), overflows.item()) == expected


def test_leading_axes_broadcast():
    a, b = integers((2, 1, 3, 5), "int8"), integers((4, 5, 2), "int8", seed=1)
    found = integer_matmul(a, b, bits=10)
    for n in range(2):
        for m in range(4):
            assert same([x[n, m] for x in found], expected_sums(a[n, 0], b[m], 10, "wrap"))


@pytest.mark.t1
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 3, 0), (0, 0, 0), (2, 0, 2)])
def test_empty_results_and_sums_of_nothing(shape):
    m, k, n = shape
    a, b = np.zeros((m, k), np.int8), np.zeros((k, n), np.int8)
    zeros = np.zeros((m, n), np.int32)
    assert same(list(integer_matmul(a, b, bits=4)), [zeros, zeros])
    assert same(bit_serial_matmul(a, b, bits=4), zeros)
    assert same(table_matmul(a, b, bits=4), zeros)
    found = dfp_matmul(DFP(a.astype(np.int16), 0), DFP(b.astype(np.int16), 0), chain=2)
    assert same(found.values, zeros.astype(np.float32))


@pytest.mark.t1
def test_rows_beyond_a_tile():
    a, b = integers((701, 3)), integers((3, 400), seed=1)
    assert same(integer_matmul(a, b).sums, int32_product(a, b))


# --- bit by bit ---------------------------------------------------------------------------------


def operands(bits: int, signed: bool, count: int = 21) -> tuple[np.ndarray, np.ndarray]:
    b = integers((count, 3), "int32", seed=bits) % 2**bits
    return integers((4, count)), b - (b >> (bits - 1) << bits) if signed else b


@pytest.mark.t1
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1, 4, 8, *more(2, 3), *more(5, 6, 7, mark=pytest.mark.t2)])
def test_bit_serial_products_and_tables_are_exact(bits, signed):
    a, b = operands(bits, signed)
    expected = int32_product(a, b)
    assert same(bit_serial_matmul(a, b, bits=bits, signed=signed), expected)
    assert same(table_matmul(a, b, bits=bits, signed=signed), expected)


@pytest.mark.t1
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [32, *more(16, 31)])
def test_wide_planes_wrap_as_int32_does(bits, signed):
    a, b = integers((4, 9), "int32"), integers((9, 3), "int32", seed=1)
    kept = b.astype(np.int64) % 2**bits
    kept = kept - (kept >> (bits - 1) << bits) if signed else kept
    expected = (a.astype(object) @ kept.astype(object)) % 2**32
    expected = expected.astype(np.uint32).view(np.int32)
    assert same(bit_serial_matmul(a, b, bits=bits, signed=signed), expected)
    assert same(table_matmul(a, b, bits=bits, signed=signed), expected)


@pytest.mark.parametrize("group", [1, 3, *more(2, 5, 8)])
def test_tables_of_every_size(group):
    a, b = operands(4, True)
    assert same(table_matmul(a, b, bits=4, group=group), int32_product(a, b))


def test_planes_are_the_bits_of_pythons_integers():
    x = np.arange(-128, 128, dtype=np.int8).reshape(2, 128)
    expected = [[[n >> j & 1 for n in row] for row in x.tolist()] for j in range(8)]
    assert same(bit_planes(x, 8), np.array(expected, np.int8))


def test_products_of_batches():
    a, b = integers((2, 1, 3, 5), "int8"), integers((4, 5, 2), "int8", seed=1)
    expected = int32_product(a, b)
    assert same(bit_serial_matmul(a, b, bits=8), expected)
    assert same(table_matmul(a, b, bits=8), expected)


# --- requantization -----------------------------------------------------------------------------


def requantized(z: int, multiplier: int, shift: int, bits: int, signed: bool) -> int:
    rounded = math.floor(Fraction(z * multiplier) / Fraction(2) ** shift + HALF)
    lowest, count = -(2 ** (bits - 1)) if signed else 0, 2**bits
    return min(max(rounded, lowest), lowest + count - 1)


def numbers_to_requantize(count: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accumulators, multipliers and shifts: results of all sizes, ends and many ties."""
    random = np.random.default_rng(0)
    z, m = integers((count,), "int32", seed=2), integers((count,), "int32", seed=3)
    z[:400] = random.choice([-(2**31), 2**31 - 1, -1, 0, 1], 400)
    m[200:600] = random.choice([-(2**31), 2**31 - 1, 2**30, 0, 1], 400)
    size = np.log2(np.maximum(np.abs(z * m.astype(float)), 1)).astype(np.int32)
    shift = size - random.integers(-2, 34, count, np.int32)
    shift[::5] = random.integers(-40, 100, len(shift[::5]))
    shift[:4] = [-(2**31), 2**31 - 1, 63, 64]
    z[2:4] = m[2:4] = -(2**31)  # 2**62, which a shift by 63 rounds to 1
    z[600:1600], m[600:1600] = random.integers(-999, 999, 1000), 1  # with small shifts: ties
    shift[600:1600] = random.integers(1, 5, 1000)
    return z, m, shift


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8, 16, 31, 32])
def test_requantized_numbers_are_those_of_fractions(bits, signed):
    bits = bits if signed else bits - 1
    z, multiplier, shift = numbers_to_requantize()
    near = np.clip(shift, -200, 200).tolist()  # beyond, all is zero or the end of the range
    triples = zip(z.tolist(), multiplier.tolist(), near, strict=True)
    expected = [requantized(*triple, bits, signed) for triple in triples]
    found = requantize(z, multiplier, shift, bits=np.int32(bits), signed=signed)
    assert same(found, np.array(expected, np.int32))


def test_ties_go_up_also_below_zero():
    z = np.array([-5, -3, -1, 1, 3, 5], np.int32)
    assert requantize(z, 1, 1).tolist() == [-2, -1, 0, 1, 2, 3]
    assert requantize(z, -1, 1).tolist() == [3, 2, 1, 0, -1, -2]


def test_each_channel_has_its_own_factor():
    z = integers((5, 3), "int32")
    scales = np.float32([0.001, 2e-7, 3.0])
    expected = [
        [
            min(max(math.floor(n * Fraction(float(s)) + HALF), -128), 127)
            for n, s in zip(row, scales, strict=True)
        ]
        for row in z.tolist()
    ]
    assert requantize(z, *dyadic(scales)).tolist() == expected


def test_float32_scales_are_exactly_dyadic():
    random = np.random.default_rng(0)
    patterns = random.integers(0, 2**32, 2000, np.uint32)
    patterns[:6] = [0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 1 << 31]
    scales = patterns.view(np.float32)
    scales = scales[np.isfinite(scales)]
    multipliers, shifts = (x.tolist() for x in dyadic(scales))
    for scale, m, shift in zip(scales.tolist(), multipliers, shifts, strict=True):
        assert Fraction(m) / Fraction(2) ** shift == Fraction(scale)
        assert 2**30 <= abs(m) < 2**31 if scale else m == shift == 0


def test_python_floats_are_rounded_to_the_nearest_dyadic_number():
    values = [0.1, -0.1, 1.0, math.pi, 1 - 2.0**-40, -(1 - 2.0**-40), 1e300, 5e-324]
    values += [1 + 2.0**-31, 1 + 3 * 2.0**-31]  # ties: to even
    expected = [round(Fraction(x) / Fraction(2) ** (math.frexp(x)[1] - 31)) for x in values]
    for value, near in zip(values, expected, strict=True):
        m, shift = (int(x) for x in dyadic(value))
        unit = Fraction(2) ** (math.frexp(value)[1] - 31)
        assert m / Fraction(2) ** shift == near * unit and 2**30 <= abs(m) < 2**31
    assert [int(x) for x in dyadic(0.0)] == [0, 0]


# --- dynamic fixed point ------------------------------------------------------------------------


def tensors() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    drawn = [np.float32(random.normal(size=40) * 2.0**e) for e in (-148, -140, -126, -3, 0, 120)]
    ties = np.array([32768.0, 0.5, 1.5, 2.5, -0.5, -1.5, 65535.0, -65535.0, 3.0, 5.0], np.float32)
    rest = [ties, -ties[:6], np.float32([1.9999999, -1.9999999, 1e-30, 0.0])]
    return [*drawn, *(padded(x, 40) for x in rest)]


def padded(x: np.ndarray, length: int) -> np.ndarray:
    """Zeros behind, so that all have one shape and are compiled once."""
    return np.pad(x, (0, length - len(x)))


def in_dfp(x: np.ndarray, bits: int) -> tuple[list[int], int]:
    values = [Fraction(float(v)) for v in x]
    exponent = math.frexp(float(np.max(np.abs(x))))[1] - 1 - (bits - 2)
    largest = 2 ** (bits - 1) - 1
    rounded = [round(v / Fraction(2) ** exponent) for v in values]
    return [min(max(i, -largest), largest) for i in rounded], exponent


@pytest.mark.parametrize("bits", [2, 5, 8, 13, 16])
def test_mantissas_are_those_of_fractions(bits):
    for x in tensors():
        found, (mantissas, exponent) = dfp(x, bits=np.int32(bits)), in_dfp(x, bits)
        assert found.mantissas.dtype == np.int16 and found.mantissas.tolist() == mantissas
        assert int(found.exponent) == exponent
        values = np.array([float(i * Fraction(2) ** exponent) for i in mantissas], np.float32)
        assert same(dfp_value(found), values)


def test_values_that_float32_cannot_hold_are_rounded_once():
    mantissas = np.maximum(integers((300,)), -32767)
    for exponent in (-400, -190, -170, -164, -160, -150, -128, -3, 90, 112, 113, 127, 400):
        exact = np.float64(mantissas) * 2.0**exponent  # of 16 bits, so that float64 holds it
        with np.errstate(over="ignore", under="ignore"):
            expected = exact.astype(np.float32)
        assert same(dfp_value(DFP(mantissas, exponent)), expected), exponent


def test_records_of_other_mantissas_are_refused():
    good = DFP(I8.astype(np.int16), 0)
    for dtype in ("int8", "int32", "float32"):
        bad = DFP(I8.astype(dtype), 0)
        for make in (dfp_value, lambda x: dfp_matmul(x, good, chain=2)):
            with unchecked(), pytest.raises(TypeError, match=f"are int16, got {dtype}: make them"):
                make(bad)
    with unchecked(), pytest.raises(TypeError, match="are int16, got int32"):
        dfp_matmul(good, DFP(I8.astype(np.int32), 0), chain=2)
    with unchecked(), pytest.raises(TypeError, match="got ndarray: make one with dfp"):
        dfp_matmul(good, I8, chain=2)


def test_zeros_nothing_and_what_is_not_finite():
    assert same(dfp_value(dfp(np.zeros(3, np.float32))), np.zeros(3, np.float32))
    assert dfp_value(dfp(np.zeros((0, 2), np.float32))).shape == (0, 2)
    one = dfp(np.float32([[2.0**-100]]))
    for value in (np.inf, -np.inf, np.nan):
        bad = dfp(np.float32([[1.0], [value]]))
        assert np.isnan(dfp_value(bad)).all()
        assert np.isnan(dfp_matmul(bad, one, chain=2).values).all()


def in_chains(products: list[int], chain: int) -> tuple[np.float32, int]:
    """Chains in int32, their sums in float32, and how many additions overflowed."""
    total, count = np.float32(0), 0
    for start in range(0, len(products), chain):
        s, beyond = added_up(products[start : start + chain], 32, "wrap")
        total, count = total + np.float32(s), count + beyond
    return total, count


@pytest.mark.parametrize("chain", [1, 2, 3, 4, 7, 32, 100])
def test_chains_add_up_in_int32_and_their_sums_in_float32(chain):
    a, b = integers((3, 32)) | 1, integers((32, 2), seed=1) | 1
    a[0], b[:, 0] = 32767, 32767
    values, overflows = dfp_matmul(DFP(a, -20), DFP(b, -9), chain=np.int32(chain))
    for m in range(3):
        for n in range(2):
            products = (a[m].astype(int) * b[:, n].astype(int)).tolist()
            total, count = in_chains(products, chain)
            assert same(values[m, n], np.ldexp(total, -29))
            assert int(overflows[m, n]) == count


def test_two_products_fit_and_more_may_not():
    largest = dfp(np.full((1, 12), 1.9999999, np.float32))
    assert largest.mantissas.tolist() == [[32767] * 12]
    other = DFP(largest.mantissas.T, largest.exponent)
    exact = 12 * Fraction(32767, 2**14) ** 2
    for chain, overflows in [(1, 0), (2, 0), (3, 4), (4, 3), (12, 3)]:
        found = dfp_matmul(largest, other, chain=chain)
        assert found.overflows.item() == overflows
        near = abs(Fraction(found.values.item()) - exact) < exact / 2**22
        assert near == (overflows == 0)
    narrow = dfp(np.full((1, 64), 1.99, np.float32), bits=13)
    assert dfp_matmul(narrow, DFP(narrow.mantissas.T, 0), chain=64).overflows.item() == 0


@pytest.mark.parametrize("bits", [2, 8, 16])
def test_down_conversion_shifts_by_the_least_that_fits(bits):
    cases = [integers((50,), "int32") >> down for down in (0, 7, 15, 16, 17, 25, 30)]
    cases += [np.int32([-(2**31), 2**31 - 1, 3 << 15, 5 << 15]), np.int32([65535, 1, 3, -1, -3])]
    cases += [np.int32([0, 0]), np.int32([-(2**15), 0]), np.int32([2**15 - 1, 1])]
    for i in (padded(case, 50) for case in cases):
        numbers = [int(n) for n in i]
        largest = max(map(abs, numbers))
        down = next(r for r in range(32) if largest < 2 ** (r + bits - 1))
        end = 2 ** (bits - 1) - 1
        expected = [min(max(round(Fraction(n, 2**down)), -end), end) for n in numbers]
        found = down_convert(i, -7, bits=np.int32(bits))
        assert found.mantissas.dtype == np.int16 and found.mantissas.tolist() == expected
        assert int(found.exponent) == down - 7


# --- transformations ----------------------------------------------------------------------------

A, B = integers((4, 3, 20)), integers((4, 20, 2), seed=1)
X = np.random.default_rng(0).normal(size=(4, 3, 20)).astype(np.float32)
CASES = {
    "wrap": (partial(integer_matmul, bits=17), (A, B)),
    "saturate": (partial(integer_matmul, bits=17, overflow="saturate"), (A, B)),
    "bit_serial": (partial(bit_serial_matmul, bits=16), (A, B)),
    "table": (partial(table_matmul, bits=16), (A, B)),
    "dyadic": (dyadic, (X,)),
    "requantize": (lambda z, scale: requantize(z, *dyadic(scale)), (A, X)),
    "dfp": (lambda x: dfp_value(dfp(x, bits=9)), (X,)),
    "down_convert": (lambda i: down_convert(i, 0, bits=9), (A,)),
    "chains": (lambda a, b: dfp_matmul(DFP(a, -9), DFP(b, -140), chain=3), (A, B)),
}


@pytest.mark.t1
@pytest.mark.every(2)
@pytest.mark.parametrize("name", CASES)
def test_same_bytes_eager_jitted_and_mapped(name):
    f, args = CASES[name]
    eager = [f(*(x[n] for x in args)) for n in range(4)]
    jitted = jax.jit(f)
    for n in range(4):
        assert same(jitted(*(x[n] for x in args)), eager[n])
    assert same(jax.vmap(f)(*args), jax.tree.map(lambda *x: np.stack(x), *eager))


@pytest.mark.t1
@pytest.mark.every(3)
@pytest.mark.parametrize("name", CASES)
def test_same_bytes_with_x64(name):
    f, args = CASES[name]
    narrow = f(*(x[0] for x in args))
    with jax.enable_x64(True):
        assert same(f(*(x[0] for x in args)), narrow)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_widths_are_swept_in_one_compilation(overflow):
    traced = []

    @jax.jit
    @jax.vmap
    def swept(bits):
        traced.append(bits)
        return integer_matmul(A[0], B[0], bits=bits, overflow=overflow)

    for widths in (WIDTHS, WIDTHS[::-1].copy()):
        found = swept(widths)
        eager = [integer_matmul(A[0], B[0], bits=int(n), overflow=overflow) for n in widths[::6]]
        assert same([x[::6] for x in found], [np.stack(x) for x in zip(*eager, strict=True)])
    assert len(traced) == 1


@pytest.mark.t1
def test_chains_and_mantissas_are_swept_too():
    @jax.vmap
    def swept(bits, chain):
        a, b = dfp(X[0], bits=bits), dfp(X[1].T, bits=bits)
        return dfp_matmul(a, b, chain=chain)

    pairs = [(8, 100), (16, 2), (15, 9)]
    found = swept(*(np.array(x, np.int32) for x in zip(*pairs, strict=True)))
    for n, (bits, chain) in enumerate(pairs):
        alone = dfp_matmul(dfp(X[0], bits=bits), dfp(X[1].T, bits=bits), chain=chain)
        assert same([x[n] for x in found], list(alone))


# --- mistakes -----------------------------------------------------------------------------------

I8, F32 = np.ones((2, 2), np.int8), np.ones((2, 2), np.float32)
MISTAKES = {
    "floats": (lambda: integer_matmul(F32, I8), TypeError, "for integers, got float32: round and"),
    "booleans": (lambda: integer_matmul(I8 > 0, I8), TypeError, "for integers, got bool"),
    "unsigned": (
        lambda: integer_matmul(I8.astype(np.uint32), I8),
        TypeError,
        "int32 does not hold uint32: cast to int32 if",
    ),
    "long": (
        lambda: bit_planes(I8.astype(np.int64), 8),
        TypeError,
        "int32 does not hold int64: cast to int32 if",
    ),
    "products": (
        lambda: integer_matmul(I8.astype(np.uint16), I8.astype(np.uint16)),
        TypeError,
        "operands are uint16 and uint16, whose products int32 does not hold: cast both",
    ),
    "width": (
        lambda: integer_matmul(I8, I8, bits=33),
        ValueError,
        r"bits is 33, .* within 2\.\.32",
    ),
    "narrow": (lambda: integer_matmul(I8, I8, bits=1), ValueError, r"bits is 1, .* within 2\.\.32"),
    "real": (lambda: integer_matmul(I8, I8, bits=8.0), TypeError, "bits is 8.0, but it must be an"),
    "widths": (lambda: integer_matmul(I8, I8, bits=WIDTHS), ValueError, r"shape \[31\].*jax.vmap"),
    "overflow": (
        lambda: integer_matmul(I8, I8, overflow="ieee"),
        ValueError,
        "overflow is 'ieee', but an integer accumulator wraps or saturates: write",
    ),
    "shapes": (
        lambda: integer_matmul(I8, I8[:1]),
        ValueError,
        r"shapes \[2, 2\] and \[1, 2\], but a product is of \[..., m, k\]",
    ),
    "vectors": (lambda: integer_matmul(I8[0], I8), ValueError, "reshape vectors to matrices"),
    "batches": (
        lambda: integer_matmul(np.ones((2, 2, 2), np.int8), np.ones((3, 2, 2), np.int8)),
        ValueError,
        "whose leading axes do not broadcast: make them equal",
    ),
    "planes": (lambda: bit_planes(I8, 33), ValueError, r"bits is 33, .* integer within 1\.\.32"),
    "serial": (lambda: bit_serial_matmul(I8, I8, bits=0), ValueError, "bits is 0, but it must be"),
    "group": (lambda: table_matmul(I8, I8, bits=4, group=9), ValueError, r"group is 9.* 1\.\.8"),
    "z": (lambda: requantize(F32, 1, 0), TypeError, "for integers, got float32"),
    "unsigned32": (
        lambda: requantize(I8, 1, 0, bits=32, signed=False),
        ValueError,
        r"bits is 32, but it must be within 1\.\.31",
    ),
    "scale": (lambda: dyadic(math.inf), ValueError, "scale is inf, but only finite numbers"),
    "scales": (lambda: dyadic(I8), TypeError, "floating-point input, got int8"),
    "tensor": (lambda: dfp(I8), TypeError, "floating-point input, got int8"),
    "mantissas": (lambda: dfp(F32, bits=17), ValueError, r"bits is 17, .* within 2\.\.16"),
    "sums": (lambda: down_convert(I8, 0, bits=17), ValueError, r"bits is 17, .* within 2\.\.16"),
    "chain": (
        lambda: dfp_matmul(dfp(F32), dfp(F32), chain=0),
        ValueError,
        "chain is 0, but it counts products: give one number, 1 or more",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    mistake, error, message = MISTAKES[name]
    with unchecked(), pytest.raises(error, match=message):
        mistake()


def test_float64_is_refused():
    with jax.enable_x64(True):
        wide = jnp.ones((2, 2), jnp.float64)
        for make, message in [(dfp, "got float64: cast"), (dyadic, "float64: cast to float32")]:
            with unchecked(), pytest.raises(TypeError, match=message):
                make(wide)
