"""Multi-component floats: each component is nearest to what those before it leave.

The values are found by trying all codes of the components. Rounding is compared with the exact
definition at every value and every tie, and with ml_dtypes and NumPy.
"""

import itertools
import math
from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import qsim
from qsim import Components, Float, arithmetic, parse
from qsim.numbers import exact
from tests.compiled import round_patterns
from tests.intervals import DETERMINISTIC, LAYOUTS, Intervals, first_difference
from tests.unchecked import unchecked

SINGLE = LAYOUTS["float32"]

SMALL = ["2xe2m1f", "2xe3m1nuz"]
MIDDLE = ["2xe3m2fn"]
LARGE = [
    "2xe3m2",
    "3xe3m1f",
    "2xe3m2fnuz",
    "2xe4m3",
    "2xe4m3fn",
    "2xe5m2",
    "2xe3m2b128f",
    "3xe3m2f",
]
TIERS = [
    SMALL[0],
    *(pytest.param(spec, marks=pytest.mark.t1) for spec in [*SMALL[1:], *MIDDLE]),
    *(pytest.param(spec, marks=pytest.mark.t2) for spec in LARGE),
]
CHOICES = [
    *((mode, "ieee") for mode in DETERMINISTIC),
    *((mode, policy) for mode in ("ties_to_even", "to_odd") for policy in ("saturate", "p3109")),
]


TRANSFORMED = [
    *(("2xbfloat16", mode) for mode in ("ties_to_even", "stochastic:8")),
    *(("2xe4m3fn", "up"), ("3xe4m3", "ties_to_even")),
]


def finite(fmt: Float) -> list[Fraction]:
    """The finite values of a format, ascending."""
    every = {Fraction(v) for v in exact.values(fmt) if math.isfinite(v)}
    return sorted(every)


@cache
def magnitudes(spec: str) -> list[Fraction]:
    """The sums that are their own components, from zero up to the largest."""
    fmt = parse(spec)
    with unchecked():
        values = finite(fmt.component)
        sums = {sum(parts) for parts in itertools.product(values, repeat=fmt.count)}
        own = {x for x in sums if 0 <= x <= fmt.largest and nearest_of(x, fmt, values)}
    return sorted(own)


def nearest_of(x: Fraction, fmt: Components, values: list[Fraction]) -> bool:
    """Whether components, each the nearest of all values, give ``x`` back."""
    rest = x
    for _ in range(fmt.count):
        part = exact.round_exact(rest, fmt.component)
        if not isinstance(part, Fraction):
            part = Fraction(0)
        beyond = abs(rest) > fmt.component.largest + _half_a_gap(fmt.component)
        if beyond:
            return False
        rest -= part
    return rest == 0


def _half_a_gap(fmt: Float) -> Fraction:
    return (fmt.magnitude(fmt.top_code + 1) - fmt.largest) / 2


class SumIntervals(Intervals):
    """The classes of a format whose values are listed: each value, tie, and what lies between."""

    def __init__(self, spec: str):
        self.points_of = magnitudes(spec)
        super().__init__(parse(spec), "float32", ())

    def _classes(self):
        for low, high in itertools.pairwise(self.points_of):
            quarter = (high - low) / 4
            yield from self._point_and_above(low, low + quarter)
            yield from self._point_and_above(low + 2 * quarter, low + 3 * quarter)
        # beyond the largest value the grid goes on as the definition says
        last = self.points_of[-1]
        gap = exact.gap_at(self.fmt, last + self.fmt.smallest / 1024)
        yield from self._point_and_above(last, (3 * last + gap.far) / 4)
        yield from self._point_and_above(gap.tie, (last + 3 * gap.far) / 4)
        yield from self._point_and_above(gap.far, 2 * gap.far)
        yield self.layout.infinity, math.inf
        yield self.layout.infinity + 1, math.nan


@pytest.mark.ci
@pytest.mark.parametrize("spec", TIERS)
@pytest.mark.every(2)
def test_every_value_and_tie_rounds_exactly(spec):
    oracle = SumIntervals(spec)
    patterns = oracle.points()
    for rounding, overflow in CHOICES:
        actual = round_patterns(patterns, parse(spec), rounding, overflow)
        expected = oracle.expected(patterns, rounding, overflow)
        difference = first_difference(actual, expected, patterns)
        assert not difference, f"{spec} {rounding} {overflow}: {difference}"


@pytest.mark.parametrize("spec", [*SMALL, "2xe3m2fn"])
def test_neighbours_are_consecutive_values(spec):
    """The definition's gap is one between two sums that are their own components."""
    fmt, points = parse(spec), magnitudes(spec)
    with unchecked():
        for low, high in itertools.pairwise(points):
            for x in ((3 * low + high) / 4, (low + high) / 2, (low + 3 * high) / 4):
                assert exact.gap_at(fmt, x)[:3] == (low, high, (low + high) / 2)
                assert exact.gap_at(fmt, -x)[:3] == (-low, -high, -(low + high) / 2)
            assert exact.round_exact(low, fmt, rounding="away_from_zero") == low


def any_patterns(fmt: Components, count: int, seed: int = 0) -> np.ndarray:
    """float32 numbers of few and of many bits, most of them in the format's range."""
    rng = np.random.default_rng(seed)
    edges = SINGLE.at_least(fmt.smallest / 8), SINGLE.at_least(fmt.largest) + 2**22
    inside = rng.integers(*edges, count).astype(np.uint32)
    inside |= rng.integers(0, 2, count, dtype=np.uint32) << np.uint32(31)
    anywhere = rng.integers(0, 2**32, count, dtype=np.uint32)
    few = inside & np.uint32(2**32 - 2**8) | np.uint32(0)
    fewer = (inside & np.uint32(2**32 - 2**14)) + rng.integers(0, 3, count, dtype=np.uint32)
    return np.choose(rng.integers(0, 4, count), [inside, anywhere, few, fewer])


@pytest.mark.parametrize(
    "spec",
    [
        "2xbfloat16",
        *(pytest.param(spec, marks=pytest.mark.t1) for spec in ("3xe5m2", "4xe4m3")),
        *(pytest.param(spec, marks=pytest.mark.t2) for spec in ("2xe5m10", "2xtf32", "2xe6m9")),
    ],
)
def test_any_number_rounds_exactly(spec):
    fmt, rng = parse(spec), np.random.default_rng(1)
    patterns = any_patterns(fmt, 4000)
    for rounding in DETERMINISTIC:
        actual = round_patterns(patterns, fmt, rounding, "ieee")
        for place in rng.choice(len(patterns), 40, replace=False):
            with unchecked():
                x = SINGLE.number(int(patterns[place]))
                value = exact.round_exact(x, fmt, rounding=rounding, overflow="ieee")
            assert actual[place] == SINGLE.pattern(value), (x, rounding)


@pytest.mark.ci
def test_ml_dtypes_agrees_on_pairs_of_bfloat16():
    """Where nothing is subnormal, and NumPy's float32 difference is exact."""
    rng = np.random.default_rng(2)
    patterns = rng.integers(0x10000000, 0x7F000000, 2**17, dtype=np.uint32)
    x = np.where(rng.random(2**17) < 0.5, 1, -1).astype(np.float32) * patterns.view(np.float32)
    high = x.astype(ml_dtypes.bfloat16).astype(np.float32)
    low = (x - high).astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.asarray(qsim.quantize(x, "2xbfloat16")).tobytes() == (high + low).tobytes()
    # a sum that is a tie of the first component belongs to the even one of its neighbours
    first = (high + low).astype(ml_dtypes.bfloat16).astype(np.float32)
    parts = np.stack([first, high + low - first])
    assert np.asarray(qsim.split(x, "2xbfloat16")).tobytes() == parts.tobytes()


def test_numpy_agrees_on_pairs_of_binary32():
    rng = np.random.default_rng(3)
    x = rng.standard_normal(2**15) * 2.0 ** rng.integers(-30, 30, 2**15)
    high = x.astype(np.float32).astype(np.float64)
    low = (x - high).astype(np.float32).astype(np.float64)
    with jax.enable_x64(True):
        assert np.asarray(qsim.quantize(x, "2xbinary32")).tobytes() == (high + low).tobytes()


@pytest.mark.t1
def test_constants_of_collage():
    """arXiv:2405.03637: beta_2 = 0.999 as a pair of bfloat16, in which it is 1 otherwise."""
    assert qsim.quantize(jnp.float32(0.999), "bfloat16") == 1
    assert qsim.split(jnp.float32(0.999), "2xbfloat16").tolist() == [1, -0.00099945068359375]


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "rounding"),
    [
        pytest.param(*choice, marks=pytest.mark.t1 if choice in TRANSFORMED else pytest.mark.t2)
        for choice in itertools.product(
            ["2xbfloat16", "2xe4m3fn", "3xe4m3"], ["ties_to_even", "up", "stochastic:8"]
        )
    ],
)
def test_eager_jit_and_vmap_give_the_same_bytes(spec, rounding):
    x = any_patterns(parse(spec), 512).view(np.float32).reshape(8, 64)
    key = jax.random.key(0) if rounding.startswith("stochastic") else None
    how = {"rounding": rounding, "overflow": "ieee", "key": key}
    eager = qsim.quantize(x, spec, **how)
    jitted = jax.jit(lambda x, grid: qsim.quantize(x, grid, **how))(x, qsim.lower(parse(spec)))
    stack = qsim.stack([qsim.lower(parse(s)) for s in (spec, f"{spec[0]}xe5m2")])
    assert eager.tobytes() == jitted.tobytes()
    assert qsim.quantize(x, stack, **how)[0].tobytes() == eager.tobytes()
    if key is None:
        by_row = jax.vmap(lambda row: qsim.quantize(row, spec, **how))(x)
        assert by_row.tobytes() == eager.tobytes()


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["2xbfloat16", "2xe3m2", "3xe4m3fn"])
def test_rounding_is_monotone_idempotent_and_between_its_neighbours(spec):
    fmt = parse(spec)
    x = np.sort(any_patterns(fmt, 20000).view(np.float32))
    x = x[np.isfinite(x)]
    results = {}
    for rounding in ("ties_to_even", "up", "down", "toward_zero", "away_from_zero"):
        words = round_patterns(x.view(np.uint32), fmt, rounding, "saturate")
        y = results[rounding] = words.view(np.float32)
        assert (np.diff(y) >= 0).all()
        assert (round_patterns(words, fmt, rounding, "saturate") == words).all()
    within = np.abs(x) <= np.float32(fmt.largest)
    assert (results["down"][within] <= x[within]).all()
    assert (results["up"][within] >= x[within]).all()
    assert (np.abs(results["toward_zero"]) <= np.abs(x)).all()
    for nearer in ("up", "down"):
        apart = [
            np.abs(results[r].astype(np.float64) - x)[within] for r in ("ties_to_even", nearer)
        ]
        assert (apart[0] <= apart[1]).all()


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["2xbfloat16", "3xe5m2", "2xe4m3fnuz"])
@pytest.mark.parametrize("rounding", ["ties_to_even", "down"])
def test_components_are_nearest_and_sum_to_the_value(spec, rounding):
    fmt = parse(spec)
    patterns = any_patterns(fmt, 300, seed=4)
    x = patterns.view(np.float32)
    parts = np.asarray(qsim.split(x, spec, rounding=rounding)).view(np.uint32)
    rounded = np.asarray(qsim.quantize(x, spec, rounding=rounding)).view(np.uint32)
    with unchecked():
        for value, *own in zip(rounded, *parts, strict=True):
            number, numbers = SINGLE.number(int(value)), [SINGLE.number(int(p)) for p in own]
            if not math.isfinite(number):
                assert repr(numbers[0]) == repr(number) and not any(numbers[1:])
            else:
                assert numbers == fmt.parts(Fraction(number))


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["2xbfloat16", "2xe4m3fn", "3xe3m2f", "4xe4m3", "2xe4m3nuz"])
def test_codes_and_values_are_inverse(spec):
    fmt = parse(spec)
    patterns = any_patterns(fmt, 3000, seed=5)
    x = patterns.view(np.float32)[~np.isnan(patterns.view(np.float32))]
    rounded = np.asarray(qsim.quantize(x, spec, overflow="saturate_propagate"))
    codes = np.asarray(qsim.encode(rounded, spec, overflow="saturate_propagate", nan=0))
    assert np.asarray(qsim.decode(codes, spec)).tobytes() == rounded.tobytes()
    with unchecked():
        for value, code in zip(rounded.view(np.uint32)[:200], codes[:200], strict=True):
            number = SINGLE.number(int(value))
            assert exact.encode(fmt, number) == code
            assert repr(exact.decode(fmt, int(code))) == repr(number)


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["2xe2m1f", "2xe3m1nuz", "2xe3m1"])
def test_every_code_decodes_exactly(spec):
    fmt = parse(spec)
    decoded = np.asarray(qsim.decode(np.arange(2**fmt.bits, dtype=np.uint16), spec))
    with unchecked():
        values = exact.values(fmt)
        assert decoded.view(np.uint32).tolist() == [SINGLE.pattern(value) for value in values]
    assert sum(value != value for value in values) == fmt.nan_count
    assert fmt.nan_code is None or exact.decode(fmt, fmt.nan_code) != 0


def test_a_sum_that_the_carrier_cannot_hold_decodes_to_nan():
    one_and_tiny = 0x3F80 << 16 | 1
    assert exact.decode(parse("2xbfloat16"), one_and_tiny) == 1 + Fraction(1, 2**133)
    assert jnp.isnan(qsim.decode(jnp.array([one_and_tiny], jnp.uint32), "2xbfloat16"))


@pytest.mark.ci
def test_components_work_in_sweeps():
    x = jnp.array([[1.1, 2.7], [0.3, 0.999]])

    def product(p, x):
        return x @ p["w"]

    formats = ["bfloat16", "2xbfloat16", "2xe4m3", "3xe4m3"]
    results = qsim.sweep(product, formats)({"w": x.T}, x)
    for spec, result in zip(formats, results, strict=True):
        rounded = qsim.quantize(x, spec)
        np.testing.assert_array_equal(result, jnp.matmul(rounded, rounded.T, precision="highest"))


# --- error-free transformations ---------------------------------------------------------------


def pairs(spec: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([float(v) for v in finite(parse(spec))], np.float32)
    return tuple(a.ravel() for a in np.meshgrid(values, values))


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["e3m2", "e4m2", "e3m4"])
@pytest.mark.every(2)
def test_two_sum_is_exact(spec):
    """For all pairs whose sum does not overflow; float64 holds all these sums exactly."""
    a, b = pairs(spec)
    within = np.abs(a + b) <= float(parse(spec).largest)
    a, b = a[within], b[within]
    total, error = (np.asarray(x, np.float64) for x in arithmetic.two_sum(a, b, spec))
    assert (total + error == a.astype(np.float64) + b).all()
    assert (total == np.asarray(arithmetic.add(a, b, spec))).all()
    ordered = np.abs(a) >= np.abs(b)
    fast = [np.asarray(x) for x in arithmetic.fast_two_sum(a[ordered], b[ordered], spec)]
    assert (fast[0] == total[ordered]).all() and (fast[1] == error[ordered]).all()


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["e3m2", "e5m2", "e4m3"])
def test_two_product_is_exact_where_the_error_is_a_value(spec):
    fmt = parse(spec)
    a, b = pairs(spec)
    real = a.astype(np.float64) * b
    whole = real / 2.0**fmt.quantum
    held = (np.abs(real) <= float(fmt.largest)) & (whole == np.round(whole))
    result = arithmetic.two_product(a[held], b[held], spec)
    product, error = (np.asarray(x, np.float64) for x in result)
    assert held.sum() > 100 and (product + error == real[held]).all()


def test_a_pair_grows_by_what_its_first_component_would_lose():
    """Sixteen steps of 2**-12: all lost in bfloat16, all kept in a pair of them."""
    alone = high = jnp.ones(1)
    low = jnp.zeros(1)
    step = jnp.array([2.0**-12])
    for _ in range(16):
        alone = arithmetic.add(alone, step, "bfloat16")
        high, low = arithmetic.grow(high, low, step, "bfloat16")
    assert alone == 1
    assert (high + low).tolist() == [1 + 2.0**-8]


# --- errors -----------------------------------------------------------------------------------


def test_spec_strings_are_read_as_printed():
    for spec, printed in [
        ("2xbfloat16", "2xe8m7"),
        ("3XE4M3FN", "3xe4m3fn"),
        ("2xocp_e5m2", "2xe5m2"),
    ]:
        assert str(parse(spec)) == printed and parse(printed) == parse(spec)
    assert parse("2xe8m7") == Components(component=parse("bfloat16"))
    assert parse("3xe4m3") == Components(component="e4m3", count=3)


def test_impossible_components_are_refused():
    for spec, message in [
        ("1xe4m3", "count is 1, but there are at least 2 components"),
        ("2xint8", "needs a float format after the 'x'"),
        ("2xue4m3", "ue4m3 has not the same values on both sides"),
        ("5xe8m7", "would have 80 bits"),
        ("4xe2m1f", "2 of e2m1f hold all that its exponent range has room for"),
        ("2xe4m3q", "no format 'e4m3q'"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse(spec)
    with pytest.raises(ValueError, match="3xe8m7 cannot be carried in float32: its largest value"):
        qsim.quantize(jnp.ones(2), "3xbfloat16")
    with pytest.raises(ValueError, match="codes of 3xe5m5 have 33 bits, more than a float32"):
        qsim.encode(jnp.ones(2), "3xe5m5")
    with pytest.raises(TypeError, match="e4m3 has no components: write '2xe4m3'"):
        qsim.split(jnp.ones(2), "e4m3")
    with pytest.raises(TypeError, match="components are of a Float"), unchecked():
        Components(component=8)
    with pytest.raises(ValueError, match="2xe8m7 cannot be rounded once in float32"):
        arithmetic.add(jnp.ones(2), jnp.ones(2), "2xbfloat16")
