"""Tables and piecewise polynomials, correctly rounded functions and errors in ulps.

Expected are published bounds, NumPy's float64 with a margin, ml_dtypes, and cases worked by hand.
"""

import math
import sys
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qsim
from qsim.functions import real
from qsim.functions.approximation import Piecewise, Table
from qsim.functions.real import correctly_rounded
from qsim.functions.ulps import summary, ulp_errors
from tests.bytewise import same
from tests.unchecked import unchecked

FORMATS = ("e4m3", "e5m2", "e3m4", "e5m10")
NAMES = ("exp", "exp2", "log", "log2", "rsqrt", "reciprocal", "tanh", "sigmoid")
NAMES += ("gelu", "gelu_tanh")
TINY = 2.0**-149  # the smallest subnormal of binary32
BELOW_ONE = 1 - 2.0**-24

PLACES = np.linspace(-1, 1, 4001).astype(np.float32)
APPROXIMATIONS = {
    "nearest": Table.of(np.tanh, -3, 2, 41, interpolate=False),
    "interpolated": Table.of(np.tanh, -3, 2, 41),
    "piecewise": Piecewise.of(np.tanh, -3, 2, 10, 3),
}
every_kind = pytest.mark.parametrize("kind", APPROXIMATIONS)


@pytest.fixture
def mpmath():
    return pytest.importorskip("mpmath", reason="pip install mpmath")


def worst(approximation) -> float:
    """The largest error of an approximation of exp on -1..1."""
    found = np.asarray(approximation(PLACES), np.float64)
    return float(np.abs(found - np.exp(PLACES.astype(np.float64))).max())


# --- tables and polynomials ---------------------------------------------------------------------


def test_interpolation_errs_as_the_square_of_the_distance():
    sizes = [5, 9, 17, 33, 65]
    errors = [worst(Table.of(np.exp, -1, 1, size)) for size in sizes]
    for size, error in zip(sizes, errors, strict=True):
        bound = (2 / (size - 1)) ** 2 / 8 * math.e  # h**2 / 8 * max|f''|
        assert 0.75 * bound < error < bound + 4e-7
    assert all(3.4 < a / b < 4.6 for a, b in pairwise(errors))


def test_the_nearest_entry_errs_as_the_distance():
    sizes = [5, 9, 17, 33, 65]
    errors = [worst(Table.of(np.exp, -1, 1, size, interpolate=False)) for size in sizes]
    for size, error in zip(sizes, errors, strict=True):
        bound = 1 / (size - 1) * math.e  # h / 2 * max|f'|
        assert 0.75 * bound < error < bound + 4e-7
    assert all(1.7 < a / b < 2.3 for a, b in pairwise(errors))


def test_polynomials_err_as_the_bound_of_chebyshev_nodes():
    errors = [worst(Piecewise.of(np.exp, -1, 1, 4, degree)) for degree in range(6)]
    for degree, error in enumerate(errors):
        n = degree + 1
        bound = 2 * (0.5 / 4) ** n / math.factorial(n) * math.e
        assert error < bound + 5e-7
        assert degree > 3 or error > 0.75 * bound
    assert all(b < a / 8 for a, b in pairwise(errors[:4]))


def test_polynomials_are_exact_of_polynomials():
    def cubic(x):
        return 1 + x - 2 * x**2 + x**3 / 2

    found = Piecewise.of(cubic, -2, 2, 4, 3)
    whole = Piecewise.of(cubic, -1, 1, 1, 3)
    # on segment i, x = -3/2 + i + t, whose powers are expanded here
    for i, m in enumerate([-1.5, -0.5, 0.5, 1.5]):
        expected = [cubic(m), 1 - 4 * m + 1.5 * m**2, -2 + 1.5 * m, 0.5]
        np.testing.assert_allclose(found.coefficients[i], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(whole.coefficients[0], [1, 2, -8, 4], rtol=0, atol=1e-6)
    x = PLACES.astype(np.float64)
    np.testing.assert_allclose(found(PLACES), cubic(x), rtol=0, atol=2e-6)


def test_high_degrees_are_as_good_as_float32():
    assert worst(Piecewise.of(np.exp, -1, 1, 1, 15)) < 1e-6


def test_entries_are_the_function_at_equal_distances():
    table = Table.of(np.sin, -3, 5, 9)
    expected = np.array([math.sin(x) for x in range(-3, 6)]).astype(np.float32)
    assert np.asarray(table.entries).tobytes() == expected.tobytes()
    for interpolate in (True, False):  # and at them it is itself
        found = replace(table, interpolate=interpolate)(jnp.arange(-3, 6).astype(jnp.float32))
        assert np.asarray(found).tobytes() == expected.tobytes()


def test_the_nearest_of_two_points():
    table = Table.of(np.exp2, 0, 4, 5, interpolate=False)
    x = jnp.array([0.4375, 0.5625, 1.5, 2.5, 3.4375, 3.5625])
    assert table(x).tolist() == [1, 2, 4, 4, 8, 16]  # 1.5 and 2.5 go to 2, the even number


def test_ends_of_any_range_are_met_exactly():
    random = np.random.default_rng(0)
    for low, width in random.uniform(0.1, 9, (20, 2)).astype(np.float32):
        table = Table.of(np.cos, float(low), float(low + width), 12)
        ends = np.array([low, low + width], np.float64).astype(np.float32)
        expected = np.cos(ends.astype(np.float64)).astype(np.float32)
        assert np.asarray(table(ends)).tobytes() == expected.tobytes()


@every_kind
def test_arguments_outside_count_as_the_ends(kind):
    f = APPROXIMATIONS[kind]
    outside = f(jnp.array([-jnp.inf, -1e38, -3.0001, 2.0001, 1e38, jnp.inf]))
    ends = f(jnp.array([-3.0, 2.0]))
    assert outside.tolist() == [float(ends[0])] * 3 + [float(ends[1])] * 3
    np.testing.assert_allclose(ends, np.tanh([-3, 2]), atol=2e-3)


@every_kind
def test_nan_stays_nan(kind):
    f = APPROXIMATIONS[kind]
    assert np.isnan(f(jnp.array([jnp.nan, 1.0, -jnp.nan]))).tolist() == [True, False, True]
    assert jnp.isnan(Piecewise.of(np.tanh, -1, 1, 2, 0)(jnp.float32(jnp.nan)))


@every_kind
def test_shapes_and_dtypes_are_kept(kind):
    f = APPROXIMATIONS[kind]
    for dtype in ("bfloat16", "float16", "float32"):
        x = jnp.array([[0.5, -1.25, 7.0]], dtype)
        found = f(x)
        assert (found.shape, found.dtype) == (x.shape, dtype)
        expected = np.asarray(f(np.asarray(x, np.float32)))
        assert np.asarray(found).tobytes() == expected.astype(dtype).tobytes()
    assert f(0.5).shape == () and f(jnp.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("kind", ["interpolated", "piecewise"])
def test_the_derivative_is_that_of_the_pieces(kind):
    slope = jax.grad(APPROXIMATIONS[kind])
    for x in (-2.3, -0.07, 0.9):
        assert abs(float(slope(x)) - (1 - math.tanh(x) ** 2)) < 0.03
    assert float(slope(2.5)) == float(slope(-4.0)) == 0
    assert float(jax.grad(APPROXIMATIONS["nearest"])(0.3)) == 0


def test_entries_have_derivatives():
    table = Table.of(np.tanh, 0, 4, 5)
    weights = jax.grad(lambda entries: replace(table, entries=entries)(1.25))(table.entries)
    assert weights.tolist() == [0, 0.75, 0.25, 0, 0]


# --- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec, dtype", [("e4m3fn", "float8_e4m3fn"), ("bfloat16", "bfloat16")])
def test_rounded_are_the_values_nearest_to_the_entries(spec, dtype):
    narrow = np.dtype(getattr(ml_dtypes, dtype))
    table, piecewise = APPROXIMATIONS["interpolated"], APPROXIMATIONS["piecewise"]
    for before, after in (
        (table.entries, table.rounded(spec).entries),
        (piecewise.coefficients, piecewise.rounded(spec).coefficients),
    ):
        expected = np.asarray(before).astype(narrow).astype(np.float32)
        assert np.asarray(after).tobytes() == expected.tobytes()


def test_modes_of_rounding_are_passed_on():
    table = Table.of(lambda x: 0 * x + 0.3, 0, 1, 2)
    down, up = (table.rounded("e4m3", rounding=mode).entries[0] for mode in ("down", "up"))
    assert (float(down), float(up)) == (0.28125, 0.3125)


@pytest.mark.t1
@every_kind
def test_formats_are_swept_in_one_trace(kind):
    f, traces = APPROXIMATIONS[kind], []
    x = jnp.linspace(-4, 3, 50)

    @jax.jit
    def swept(grids, x):
        traces.append(1)
        return jax.vmap(lambda grid: f.rounded(grid)(x))(grids)

    grids = [qsim.lower(qsim.parse(spec)) for spec in FORMATS]
    rows = swept(qsim.stack(grids), x)
    swept(qsim.stack(grids[::-1]), x)
    assert len(traces) == 1
    assert same(rows, jnp.stack([jax.jit(f.rounded(spec))(x) for spec in FORMATS]))
    stacked = f.rounded(qsim.stack(grids))
    assert same(rows, jax.vmap(lambda one: one(x))(stacked))


@every_kind
def test_other_entries_do_not_compile_anew(kind):
    f, traces = APPROXIMATIONS[kind], []

    @jax.jit
    def run(f, x):
        traces.append(1)
        return f(x)

    for spec in FORMATS:
        run(f.rounded(spec), 0.5)
    assert len(traces) == 1


@pytest.mark.t1
@every_kind
def test_simulated_bytes_are_the_same_eagerly_jitted_and_mapped(kind):
    run = qsim.simulate(APPROXIMATIONS[kind], "all=bfloat16")
    x = jnp.linspace(-4, 3, 60).at[20].set(jnp.nan).reshape(6, 10)
    expected = run(x)
    assert np.isnan(expected).sum() == 1 and jnp.isnan(expected[2, 0])
    assert same(expected, jax.jit(run)(x)) and same(expected, jax.vmap(run)(x))


def bfloat16(x) -> np.ndarray:
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def bfloat16_places(x: np.ndarray, low: float, high: float, count: int):
    """The positions of arguments and their floors, every result rounded by ml_dtypes."""
    b, low, high = bfloat16, np.float32(low), np.float32(high)
    inside = b(np.clip(x, low, high) - low)
    position = np.minimum(b(inside * b(count / b(high - low))), np.float32(count))
    position = np.where(x >= high, np.float32(count), position)
    return position, b(np.floor(position))


@pytest.mark.t1
def test_simulated_tables_round_every_step():
    table, b = APPROXIMATIONS["interpolated"], bfloat16
    x = np.linspace(-4, 3, 301).astype(np.float32)
    position, whole = bfloat16_places(x, -3, 2, 40)
    i = whole.astype(int)
    entries = np.tanh(np.linspace(-3, 2, 41)).astype(np.float32)
    rise = b(entries[np.minimum(i + 1, 40)] - entries[i])
    expected = b(entries[i] + b(b(position - whole) * rise))
    assert same(qsim.simulate(table, "all=bfloat16")(x), jnp.asarray(expected))


@pytest.mark.t1
def test_simulated_polynomials_round_every_step():
    f, b = APPROXIMATIONS["piecewise"], bfloat16
    x = np.linspace(-4, 3, 301).astype(np.float32)
    position, whole = bfloat16_places(x, -3, 2, 10)
    whole = np.minimum(whole, 9)
    c, t = np.asarray(f.coefficients)[whole.astype(int)], b(b(position - whole) - np.float32(0.5))
    value = c[:, 3]
    for k in (2, 1, 0):
        value = b(b(value * t) + c[:, k])
    assert same(qsim.simulate(f, "all=bfloat16")(x), jnp.asarray(value))


@pytest.mark.parametrize(
    "mistake, error, message",
    [
        (lambda: Table.of("tanh", 0, 1, 3), TypeError, r"fn is 'tanh', .*: write np.tanh"),
        (lambda: Table.of(np.tanh, "0", 1, 3), TypeError, r"low is '0', .*: write -8.0"),
        (lambda: Table.of(np.tanh, 0, True, 3), TypeError, r"high is True, .*: write -8.0"),
        (lambda: Table.of(np.tanh, 1, 1, 3), ValueError, r"range is 1 to 1, .*: write -8.0, 8.0"),
        (lambda: Table.of(np.tanh, 0, math.nan, 3), ValueError, "range is 0 to nan"),
        (lambda: Table.of(np.tanh, -3e38, 3e38, 3), ValueError, "its width in float32 must be"),
        (lambda: Table.of(np.tanh, 0, 1, 1), ValueError, "size is 1: give one of 2 to 1048576"),
        (lambda: Table.of(np.tanh, 0, 1, 4.0), TypeError, "size is 4.0, .*: write 3"),
        (lambda: Table.of(np.log, 0, 1, 3), ValueError, "fn is -inf at 0.0, .*: choose another"),
        (lambda: Table.of(np.exp, 0, 99, 3), ValueError, "which is beyond float32: choose"),
        (lambda: Table.of(lambda x: 1.0, 0, 1, 3), ValueError, r"shape \(\) for .*np.vectorize"),
        (lambda: Table.of(jnp.exp, 0, 1, 3), TypeError, "fn gives float32, .*NumPy function"),
        (lambda: Piecewise.of(np.exp, 0, 1, 0, 3), ValueError, "segments is 0: give one of 1 to"),
        (lambda: Piecewise.of(np.exp, 0, 1, 4, 16), ValueError, "degree is 16: give one of 0 to"),
        (lambda: APPROXIMATIONS["nearest"](np.arange(3)), TypeError, "cast it explicitly"),
        (lambda: APPROXIMATIONS["nearest"].rounded("e4m3x"), ValueError, "no format"),
    ],
)  # fmt: skip
def test_mistakes_are_named(mistake, error, message):
    with unchecked(), pytest.raises(error, match=message) as raised:
        mistake()
    assert "\n" not in str(raised.value)


@every_kind
def test_stacks_are_to_be_mapped_over(kind):
    grids = qsim.stack([qsim.lower(qsim.parse(spec)) for spec in FORMATS])
    with pytest.raises(ValueError, match=r"is a stack of .*s: map over it, jax\.vmap"):
        APPROXIMATIONS[kind].rounded(grids)(0.5)


# --- correctly rounded --------------------------------------------------------------------------


def in_float64(name: str, x: np.ndarray) -> np.ndarray:
    """A function in float64, by NumPy and math, to a few units of its last place."""
    with np.errstate(all="ignore"):
        x = x.astype(np.float64)
        match name:
            case "rsqrt":
                return 1 / np.sqrt(x)
            case "reciprocal":
                return 1 / x
            case "sigmoid":
                return 1 / (1 + np.exp(-x))
            case "gelu":
                return np.array([v / 2 * math.erfc(-v / math.sqrt(2)) for v in x])
            case "gelu_tanh":
                return x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return getattr(np, name)(x)


def e4m3_values() -> np.ndarray:
    """The finite values of OCP's E4M3 from zero, in order, as its tables give them."""
    subnormal = [m / 8 * 2.0**-6 for m in range(8)]
    normal = [(1 + m / 8) * 2.0 ** (e - 7) for e in range(1, 16) for m in range(8)]
    return np.array(subnormal + normal[:-1])


def nearest_e4m3(y: float) -> float:
    """The nearest value of E4M3, from which ``y`` is told with a margin; NaN beyond the largest."""
    values = e4m3_values()
    if math.isnan(y) or abs(y) > 464:
        return math.nan
    at = min(int(np.searchsorted(values, abs(y))), len(values) - 1)
    below, above = (values[at - 1], values[at]) if at else (0.0, 0.0)
    tie = (below + above) / 2
    if abs(y) == tie:  # only where the value is exact
        return math.copysign(values[at - at % 2], y)
    assert abs(abs(y) - tie) > 1e-13 * tie
    return math.copysign(above if abs(y) > tie else below, y)


@pytest.mark.parametrize("name", NAMES)
def test_all_of_e4m3(name, mpmath):
    x = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    expected = np.array([nearest_e4m3(y) for y in in_float64(name, x)], np.float32)
    with unchecked():
        found = correctly_rounded(name, x, "e4m3fn")
    np.testing.assert_array_equal(found, expected)
    zero = found == 0
    assert (np.signbit(found) == np.signbit(expected))[zero].all()


@pytest.mark.parametrize("name", NAMES)
def test_binary32_is_float64_rounded_where_that_tells(name, mpmath):
    random = np.random.default_rng(1)
    x = (random.normal(size=300) * 2.0 ** random.integers(-12, 5, 300)).astype(np.float32)
    x = np.abs(x) if name in ("log", "log2", "rsqrt") else x
    wide = in_float64(name, x)
    rest = wide.view(np.uint64) & np.uint64((1 << 29) - 1)
    tells = np.abs(rest.astype(np.int64) - (1 << 28)) > 64  # units of float64 from a tie
    normal = (np.abs(wide) > 2.0**-126) & (np.abs(wide) < 2.0**127)
    if name == "tanh":
        normal &= np.abs(wide) < 1
    clear = tells & normal
    assert clear.mean() > 0.8
    with unchecked():
        found = correctly_rounded(name, x[clear])
    assert found.dtype == np.float32
    assert found.tobytes() == wide[clear].astype(np.float32).tobytes()


@pytest.mark.t1
@pytest.mark.every(4)
@pytest.mark.parametrize("name", ["exp", "log", "rsqrt", "tanh", "gelu"])
def test_bfloat16_everywhere(name, mpmath):
    x = np.arange(1 << 16, dtype=np.uint16)[::5].view(ml_dtypes.bfloat16).astype(np.float32)
    wide = in_float64(name, x)
    # between bfloat16 and float64 there is room for one rounding to odd, by hand
    clear = np.isfinite(wide) & (np.abs(wide) > 2.0**-120) & (np.abs(wide) < 2.0**127)
    rest = wide.view(np.uint64) & np.uint64((1 << 45) - 1)
    clear &= np.abs(rest.astype(np.int64) - (1 << 44)) > 64
    with unchecked():
        found = correctly_rounded(name, x[clear], "bfloat16")
    expected = wide[clear].astype(ml_dtypes.bfloat16).astype(np.float32)
    assert clear.mean() > 0.1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "name, at_minus_inf, at_minus_zero, at_zero, at_inf, below_zero_is_nan",
    [
        ("exp", 0.0, 1.0, 1.0, math.inf, False),
        ("exp2", 0.0, 1.0, 1.0, math.inf, False),
        ("log", math.nan, -math.inf, -math.inf, math.inf, True),
        ("log2", math.nan, -math.inf, -math.inf, math.inf, True),
        ("rsqrt", math.nan, -math.inf, math.inf, 0.0, True),
        ("reciprocal", -0.0, -math.inf, math.inf, 0.0, False),
        ("tanh", -1.0, -0.0, 0.0, 1.0, False),
        ("sigmoid", 0.0, 0.5, 0.5, 1.0, False),
        ("gelu", -0.0, -0.0, 0.0, math.inf, False),
        ("gelu_tanh", -0.0, -0.0, 0.0, math.inf, False),
    ],
)
def test_zeros_infinities_and_nan(
    name, at_minus_inf, at_minus_zero, at_zero, at_inf, below_zero_is_nan
):
    x = np.float32([-math.inf, -0.0, 0.0, math.inf, math.nan])
    found = correctly_rounded(name, x).tolist()
    assert repr(found) == repr([at_minus_inf, at_minus_zero, at_zero, at_inf, math.nan])
    if below_zero_is_nan:
        assert np.isnan(correctly_rounded(name, np.float32([-1, -TINY, -3e38]))).all()


@pytest.mark.parametrize(
    "name, x, expected",
    [
        ("exp2", [-149, -3, 10, 127, 128, -150], [TINY, 0.125, 1024, 2.0**127, math.inf, 0]),
        ("exp2", [-151, 3e38, -3e38], [0, math.inf, 0]),
        ("log2", [TINY, 1, 1024, 0.125, 2.0**127], [-149, 0, 10, -3, 127]),
        ("log", [1], [0]),
        ("rsqrt", [4, 9, 0.25, 36, 2.0**-148], [0.5, 1 / 3, 2, 1 / 6, 2.0**74]),
        ("reciprocal", [2, 3, -10, 2.0**127, TINY], [0.5, 1 / 3, -0.1, 2.0**-127, math.inf]),
        ("exp", [3e38, -3e38, 89, -104], [math.inf, 0, math.inf, 0]),
        ("tanh", [3e38, -3e38, TINY, 10, -10], [1, -1, TINY, 1, -1]),
        ("sigmoid", [3e38, -3e38, TINY], [1, 0, 0.5]),
        ("gelu", [3e38, -3e38, 100], [np.float32(3e38), -0.0, 100]),
        ("gelu_tanh", [3e38, -3e38, 100, -100, -1200], [np.float32(3e38), -0.0, 100, -0.0, -0.0]),
    ],
)
def test_exact_and_far_values(name, x, expected, mpmath):
    found = correctly_rounded(name, np.float32(x))
    assert repr(found.tolist()) == repr(np.float32(expected).tolist())


@pytest.mark.parametrize(
    "name, x, nearest, down, up",
    [
        ("exp", TINY, 1, 1, 1 + 2.0**-23),
        ("exp", -TINY, 1, BELOW_ONE, 1),
        ("exp", -3e38, 0, 0, TINY),
        ("exp", 3e38, math.inf, float(np.finfo(np.float32).max), math.inf),
        ("tanh", 40, 1, BELOW_ONE, 1),
        ("tanh", 1000, 1, BELOW_ONE, 1),
        ("tanh", -3e38, -1, -1, -BELOW_ONE),
        ("tanh", TINY, TINY, 0, TINY),
        ("sigmoid", 3e38, 1, BELOW_ONE, 1),
        ("sigmoid", -1e4, 0, 0, TINY),
        ("sigmoid", -TINY, 0.5, 0.5 - 2.0**-25, 0.5),
        ("exp2", 2.0**-149, 1, 1, 1 + 2.0**-23),
        # x / 2 + x**2 / sqrt(2 pi): a hair above ties of subnormals, told after 148 bits
        ("gelu", TINY, TINY, 0, TINY),
        ("gelu", 3 * TINY, 2 * TINY, TINY, 2 * TINY),
        ("gelu", 5 * TINY, 3 * TINY, 2 * TINY, 3 * TINY),
        ("gelu", -TINY, -0.0, -TINY, -0.0),
        ("gelu", -3 * TINY, -TINY, -2 * TINY, -TINY),
        ("gelu", 16, 16, float(np.nextafter(np.float32(16), np.float32(0))), 16),
        ("gelu", -1000, -0.0, -TINY, -0.0),
    ],
)
def test_hard_values_and_directed_modes(name, x, nearest, down, up, mpmath):
    modes = {"ties_to_even": nearest, "down": down, "up": up}
    for mode, expected in modes.items():
        found = float(correctly_rounded(name, np.float32(x), rounding=mode))
        assert repr(found) == repr(float(expected)), mode


def test_formats_beyond_float32_come_in_float64(mpmath):
    found = correctly_rounded("exp", np.float32([1.0, -700.0, 700.0]), "binary64")
    assert found.dtype == np.float64
    mpmath.mp.prec = 53
    assert found.tolist() == [float(mpmath.exp(x)) for x in (1, -700, 700)]


def test_overflow_is_a_policy(mpmath):
    x = np.float32([7, -0.0])
    for policy, expected in {"ieee": [math.nan, math.nan], "saturate": [448, -448]}.items():
        found = correctly_rounded("reciprocal", x[1:], "e4m3fn", overflow=policy)
        assert repr(found.tolist()) == repr([float(expected[1])])
        found = correctly_rounded("exp", x[:1], "e4m3fn", overflow=policy)
        assert repr(found.tolist()) == repr([float(expected[0])])


def test_every_family_of_formats(mpmath):
    x = np.float32([0.3, 1.7])  # exp(x) = 1.3498..., 5.4739...
    assert correctly_rounded("exp", x, "int8").tolist() == [1, 5]
    assert correctly_rounded("exp", x, "posit8").tolist() == [1.375, 5.5]
    assert correctly_rounded("exp", x, "e2m1f").tolist() == [1.5, 6]


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("name", NAMES)
def test_numpy_in_float64_is_right_to_half_a_unit(name, mpmath):
    random = np.random.default_rng(2)
    x = random.uniform(0.01, 20, 200).astype(np.float32)
    with unchecked():
        errors = ulp_errors(in_float64(name, x).astype(np.float32), name, x)
        wide = ulp_errors(in_float64(name, x), name, x)
        exact = ulp_errors(correctly_rounded(name, x), name, x)
    assert errors.dtype == np.float64 and errors.max() <= 0.5 + 2.0**-20
    assert wide.max() < 2.0**-24  # a few units of float64, of which one is 2**-29
    assert summary(exact).within_half == 1
    assert (
        name in ("tanh", "gelu", "gelu_tanh") or errors.max() > 0.3
    )  # which are flat at some of these


def test_numpy_in_float32_is_right_to_its_published_bounds(mpmath):
    x = np.random.default_rng(3).uniform(0.01, 20, 200).astype(np.float32)
    assert ulp_errors(np.exp(x), "exp", x).max() <= 4
    assert ulp_errors(np.log(x), "log", x).max() <= 4


def test_errors_worked_by_hand():
    def error(approx, name, x, fmt="binary32", **how):
        return float(ulp_errors(np.float64(approx), name, np.float32(x), fmt, **how))

    assert error(np.nan, "reciprocal", 0, "e4m3fn") == 0
    assert error(np.inf, "reciprocal", 0, "e4m3fn") == np.inf
    assert error(240, "reciprocal", 0, "e4m3", overflow="saturate") == 0

    assert error(0.5, "reciprocal", 2) == 0
    assert error(0.5 + 2.0**-24, "reciprocal", 2) == 1
    assert error(-0.5, "reciprocal", 2) == 2.0**24
    assert error(2.0**-127 + TINY, "reciprocal", 2.0**127) == 1  # subnormal
    assert error(0, "reciprocal", 2.0**127) == 2.0**22
    assert error(0.375, "reciprocal", 3, "e4m3") == float(Fraction(4, 3))
    assert error(0, "exp2", -12, "e4m3") == 0.125  # of the smallest value, 2**-9
    assert error(0, "exp2", -7, "e4m3_flush_before") == error(0, "exp2", -7, "e4m3") / 8 == 0.5
    assert error(440, "exp2", 9, "e4m3fn", overflow="saturate") == math.inf
    assert error(448, "exp2", 9, "e4m3fn", overflow="saturate") == 0
    assert error(math.nan, "exp2", 9, "e4m3fn") == 0
    assert error(448, "exp2", 9, "e4m3fn") == math.inf
    assert error(math.inf, "exp2", 128) == 0
    assert error(2.0**128, "exp2", 128) == math.inf


@pytest.mark.parametrize(
    "approx, name, x, expected",
    [
        (math.inf, "reciprocal", 0.0, 0),
        (-math.inf, "reciprocal", 0.0, math.inf),
        (math.nan, "log", -1, 0),
        (-math.inf, "log", 0, 0),
        (math.nan, "reciprocal", 2, math.inf),
        (math.inf, "reciprocal", 2, math.inf),
        (1, "log", -1, math.inf),
        (0.0, "tanh", -0.0, 0),
        (math.nan, "tanh", math.nan, 0),
    ],
)
def test_special_values_are_right_or_wrong_altogether(approx, name, x, expected):
    assert ulp_errors(np.float32(approx), name, np.float32(x)).tolist() == expected


def test_summaries_are_the_largest_the_mean_and_the_share():
    found = summary(np.array([0.25, 0.5, 0.75, 2.5]))
    assert found == (2.5, 1.0, 0.5) and found.within_half == 0.5
    assert summary(np.array([0.0, math.inf])) == (math.inf, math.inf, 0.5)


@pytest.mark.parametrize(
    "mistake, error, message",
    [
        (lambda: correctly_rounded("tan", 1.0), ValueError, "no function 'tan'; did you mean"),
        (lambda: correctly_rounded("exp", np.arange(3)), TypeError, "cast it explicitly"),
        (lambda: correctly_rounded("exp", np.arange(3.0)), ValueError, "cast it to float32"),
        (lambda: correctly_rounded("exp", 1.0, "e4m3x"), ValueError, "no format"),
        (lambda: correctly_rounded("exp", 1.0, "e12m50"), ValueError, "cannot be carried"),
        (lambda: correctly_rounded("exp", 1.0, rounding="stochastic:4"), ValueError,
         "stochastic:4 rounding is drawn by chance: give another"),
        (lambda: correctly_rounded("exp", 1.0, "int8", overflow="wrap"), ValueError,
         "overflow='wrap' keeps .*: give another"),
        (lambda: ulp_errors(np.zeros(2), "exp", np.zeros(3, np.float32)), ValueError,
         r"approx has the shape \(2,\), but x \(3,\)"),
        (lambda: ulp_errors(np.arange(2), "exp", np.zeros(2, np.float32)), TypeError,
         "expected an array of floats, got int64: cast"),
        (lambda: summary(np.zeros(0)), ValueError, "no errors to summarise: give at least one"),
    ],
)  # fmt: skip
def test_mistakes_with_ulps_are_named(mistake, error, message):
    with unchecked(), pytest.raises(error, match=message) as raised:
        mistake()
    assert "\n" not in str(raised.value)


def test_without_mpmath_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpmath", None)
    real._context.cache_clear()
    with pytest.raises(ImportError, match="pip install mpmath"):
        correctly_rounded("exp", 0.5)
    assert correctly_rounded("reciprocal", 0.5) == 2  # which needs none
    real._context.cache_clear()
