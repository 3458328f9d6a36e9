"""Laws of rounding, over formats and modes: what holds whatever the definition's details are.

Small formats meet all their values, midpoints and float32 neighbours and all bfloat16 numbers;
larger ones random patterns, and by Hypothesis any format that float32 carries. The neighbours of
a number come from the sorted list of the format's exact values.
"""

import math
from dataclasses import replace
from fractions import Fraction
from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsim import Float, Integer, parse
from qsim.numbers import exact
from qsim.numbers.catalogue import catalogue
from qsim.numbers.grid import lower
from tests.compiled import round_patterns, rounded
from tests.intervals import DETERMINISTIC, LAYOUTS, POLICIES, first_difference, intervals
from tests.intervals import telling_gaps as gaps_of
from tests.unchecked import unchecked

NEAREST = ("ties_to_even", "ties_to_away", "ties_to_zero", "ties_to_odd")
MIRRORED = {"up": "down", "down": "up"}

SMALL = [
    *(
        name
        for name, entry in catalogue().items()
        if isinstance(entry.format, Float | Integer) and entry.format.bits <= 8
    ),
    *("e3m4nuz", "ue3m2", "e7m0b64", "fixed8.4", "e3m2b128f", "e2m1nuz"),
]
LARGE = ["binary16", "bfloat16", "tf32", "binary32", "e6m9", "e7m16nuz", "int16", "fixed24.140"]

# quick ones, each unlike the others; the rest are tests of the slower tier
FIRST = ["ocp_e4m3", "ocp_e2m1", "ocp_e8m0", "ue3m2", "e2m1nuz", "mx_int8", "binary16"]

SIGN, INFINITY = 0x80000000, 0x7F800000


@cache
def inputs(fmt) -> np.ndarray:
    """Bit patterns of float32 numbers, NaNs left out."""
    random = np.random.default_rng(3).integers(0, 2**32, 2**15, dtype=np.uint32)
    every = np.arange(2**16, dtype=np.uint32) << 16
    points = intervals(fmt).points() if fmt.bits <= 8 else np.zeros(0, np.uint32)
    patterns = np.concatenate([points, every, random])
    return patterns[(patterns & ~np.uint32(SIGN)) <= INFINITY]


def ordered(patterns: np.ndarray) -> np.ndarray:
    """Integers in the order of the numbers, the two zeros being equal."""
    signed = patterns.astype(np.int64)
    return np.where(signed >= SIGN, SIGN - signed, signed)


def law(*, names=(*SMALL, *LARGE), modes=DETERMINISTIC):
    """Runs a test ``law(fmt, mode, x)`` over formats and modes; x are patterns without NaN."""

    def over_all(check):
        def run(name, mode):
            fmt = parse(name)
            check(fmt, mode, inputs(fmt))

        run.__name__ = check.__name__
        run.__doc__ = check.__doc__
        run = pytest.mark.parametrize("mode", modes)(run)
        marks = {True: (), False: pytest.mark.t1}
        params = [pytest.param(name, marks=marks[name in FIRST]) for name in names]
        return pytest.mark.parametrize("name", params)(run)

    return over_all


def in_range(fmt, x: np.ndarray) -> np.ndarray:
    """Of the patterns, those of numbers between the lowest and the largest value."""
    number = x.view(np.float32).astype(np.float64)
    return x[(number >= float(fmt.lowest)) & (number <= float(fmt.largest))]


@cache
def values_of(fmt) -> tuple[exact.Value, ...]:
    """The finite values that rounding gives, zeros with their signs."""
    with unchecked():
        values = [v for v in exact.values(fmt) if not isinstance(v, float) or v == 0]
        return tuple(v for v in values if fmt.lowest <= v <= fmt.largest)


def neighbours(fmt, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest value not above and the smallest not below each number, as float64."""
    values = np.unique([float(abs(v) if v == 0 else v) for v in values_of(fmt)])
    number = x.view(np.float32).astype(np.float64)
    below = values[np.searchsorted(values, number, side="right") - 1]
    above = values[np.searchsorted(values, number, side="left")]
    return below, above


@pytest.mark.t1
@law()
def test_idempotent(fmt, mode, x):
    for overflow in POLICIES:
        once = round_patterns(x, fmt, mode, overflow)
        twice = round_patterns(once, fmt, mode, overflow)
        assert not first_difference(twice, once, once)


@law()
def test_monotone(fmt, mode, x):
    x = x[np.argsort(ordered(x), kind="stable")]
    for overflow in ("saturate", "saturate_propagate"):
        result = round_patterns(x, fmt, mode, overflow)
        assert (np.diff(ordered(result)) >= 0).all()


@law(names=SMALL)
def test_result_is_one_of_the_two_neighbours(fmt, mode, x):
    x = in_range(fmt, x)
    below, above = neighbours(fmt, x)
    result = round_patterns(x, fmt, mode, "ieee").view(np.float32)
    assert ((result == below) | (result == above)).all()


@law(names=SMALL, modes=NEAREST)
def test_nearest_is_nearest(fmt, mode, x):
    x = in_range(fmt, x)
    below, above = neighbours(fmt, x)
    number, middle = x.view(np.float32).astype(np.float64), (below + above) / 2
    result = round_patterns(x, fmt, mode, "ieee").view(np.float32)
    assert (result[number < middle] == below[number < middle]).all()
    assert (result[number > middle] == above[number > middle]).all()


@law()
def test_values_stay_where_they_are(fmt, mode, x):
    if fmt.bits > 8:
        x = round_patterns(x, fmt, "ties_to_even", "saturate")
    else:
        x = np.array([LAYOUTS["float32"].pattern(v) for v in values_of(fmt)], np.uint32)
    for overflow in POLICIES:
        assert not first_difference(round_patterns(x, fmt, mode, overflow), x, x)


@law()
def test_sign_symmetry(fmt, mode, x):
    """Rounding -x mirrors rounding x, the directed modes changing places."""
    if not fmt.signed:
        pytest.skip("an unsigned format has no negative values")
    if fmt.lowest != -fmt.largest:
        x = x[(x & ~np.uint32(SIGN)) < LAYOUTS["float32"].at_least(fmt.largest)]
    assert len(x)
    for overflow in POLICIES:
        here = round_patterns(x, fmt, mode, overflow)
        opposite = MIRRORED.get(mode, mode)
        there = round_patterns(x ^ np.uint32(SIGN), fmt, opposite, overflow)
        kept = SIGN if fmt.has_negative_zero else 0
        zero = (here & ~np.uint32(SIGN)) == 0
        nan = (here & ~np.uint32(SIGN)) > INFINITY
        flip = np.where(zero, kept, SIGN) * ~nan
        assert not first_difference(there, here ^ flip.astype(np.uint32), x)


@law(modes=["up"])
def test_up_is_not_below_and_down_not_above(fmt, mode, x):
    x = in_range(fmt, x)
    if not fmt.has_zero:
        x = x[ordered(x) >= LAYOUTS["float32"].at_least(fmt.smallest)]
    up = ordered(round_patterns(x, fmt, "up", "ieee"))
    down = ordered(round_patterns(x, fmt, "down", "ieee"))
    assert (down <= ordered(x)).all()
    assert (up >= ordered(x)).all()
    assert ((up == down) == (up == ordered(x))).all()  # equal just where x is a value


@law(modes=["toward_zero"])
def test_toward_zero_is_not_larger_and_away_from_zero_not_smaller(fmt, mode, x):
    x = in_range(fmt, x)
    if not fmt.has_zero:
        x = x[ordered(x) >= LAYOUTS["float32"].at_least(fmt.smallest)]
    inward = np.abs(ordered(round_patterns(x, fmt, "toward_zero", "ieee")))
    outward = np.abs(ordered(round_patterns(x, fmt, "away_from_zero", "ieee")))
    assert (inward <= np.abs(ordered(x))).all()
    assert (outward >= np.abs(ordered(x))).all()


@law(names=[n for n in (*SMALL, *LARGE) if parse(n).infinities and parse(n).signed])
def test_saturation_only_changes_what_is_infinite(fmt, mode, x):
    by_ieee = round_patterns(x, fmt, mode, "ieee")
    saturated = round_patterns(x, fmt, mode, "saturate")
    finite = (by_ieee & ~np.uint32(SIGN)) < INFINITY
    assert not first_difference(saturated[finite], by_ieee[finite], x[finite])
    largest = LAYOUTS["float32"].pattern(fmt.largest)
    assert ((saturated[~finite] & ~np.uint32(SIGN)) == largest).all()


def with_two_more_bits(fmt: Float) -> Float:
    """The format that keeps two more bits of every number, the range being kept."""
    return replace(fmt, mantissa_bits=fmt.mantissa_bits + 2, bias=fmt.bias)


@pytest.mark.parametrize("mode", DETERMINISTIC)
@pytest.mark.parametrize(
    "name",
    ["ocp_e4m3", "ocp_e5m2", "ocp_e2m1", "e4m3fnuz", "nv_ue4m3", "binary16", "bfloat16", "tf32"],
)
def test_rounding_to_odd_first_makes_a_second_rounding_safe(name, mode):
    """With two more bits, jamming loses nothing that a later rounding in any mode could see.

    S. Boldo and G. Melquiond, Emulation of FMA and correctly rounded sums, 2008, theorem 3.
    """
    fmt = parse(name)
    x = in_range(fmt, inputs(fmt))
    jammed = round_patterns(x, with_two_more_bits(fmt), "to_odd", "saturate")
    assert not first_difference(
        round_patterns(jammed, fmt, mode, "saturate"), round_patterns(x, fmt, mode, "saturate"), x
    )


def test_rounding_to_nearest_twice_is_not_safe():
    """The hazard that the law above avoids, shown on one number: a tie made by the first step."""
    x = np.array([1 + 2.0**-4 + 2.0**-9], np.float32).view(np.uint32)
    once = round_patterns(x, parse("e4m3"), "ties_to_even", "saturate")
    through = round_patterns(x, parse("e4m5"), "ties_to_even", "saturate")
    twice = round_patterns(through, parse("e4m3"), "ties_to_even", "saturate")
    assert once.view(np.float32) == 1.125 and twice.view(np.float32) == 1.0


# --- any format, by Hypothesis --------------------------------------------------------------------


def _carried(make, **fields):
    def build(**values):
        try:
            with unchecked():  # the run-time checks draw from Python's random numbers
                fmt = make(**values)
                lower(fmt)
        except ValueError:
            return None
        return fmt

    return st.builds(build, **fields).filter(lambda fmt: fmt is not None)


FORMATS = _carried(
    Float,
    exponent_bits=st.integers(1, 8),
    mantissa_bits=st.integers(0, 23),
    bias=st.none() | st.integers(-120, 130),
    signed=st.booleans(),
    infinities=st.booleans(),
    nans=st.sampled_from(["ieee", "top", "negative_zero", "none"]),
) | _carried(
    Integer,
    bits=st.integers(1, 25),
    fraction_bits=st.integers(0, 149),
    signed=st.booleans(),
    symmetric=st.booleans(),
)

PER_EXAMPLE = 32


def patterns_near(fmt, layout, drawn: list[int], anchors: list[int]) -> np.ndarray:
    """The drawn patterns, some of them moved to lie within two steps of a grid point or tie."""
    moved = []
    for word, anchor in zip(drawn, anchors, strict=True):
        size = word % layout.sign
        if anchor < 7 and 0 < size < layout.infinity:
            x = layout.magnitude(size)
            gap = exact.round_exact(x, fmt, rounding="away_from_zero", overflow="ieee")
            low = exact.round_exact(x, fmt, rounding="toward_zero", overflow="ieee")
            if isinstance(gap, Fraction) and isinstance(low, Fraction):
                point = [low, (low + gap) / 2, gap][anchor % 3]
                size = (layout.at_least(point) + anchor - 3) % layout.sign
        moved.append(size | (word & layout.sign))
    return np.array(moved, layout.word)


def assert_exact(fmt, x: np.ndarray, mode: str, overflow: str, carrier: str) -> None:
    layout = LAYOUTS[carrier]
    grid = lower(fmt, carrier)
    actual = rounded(x.view(carrier), grid, rounding=mode, overflow=overflow)
    with unchecked():
        results = [
            exact.round_exact(layout.number(int(word)), fmt, rounding=mode, overflow=overflow)
            for word in x
        ]
        expected = np.array([layout.pattern(value) for value in results], layout.word)
    difference = first_difference(np.asarray(actual).view(layout.word), expected, x, carrier)
    assert not difference, f"{fmt} {mode} {overflow}: {difference}"


def _words(bits: int):
    return st.lists(st.integers(0, 2**bits - 1), min_size=PER_EXAMPLE, max_size=PER_EXAMPLE)


ANCHORS = st.lists(st.integers(0, 9), min_size=PER_EXAMPLE, max_size=PER_EXAMPLE)


@pytest.mark.parametrize(
    "examples",
    [pytest.param(50, marks=pytest.mark.t1), pytest.param(250, marks=pytest.mark.t2)],
    ids="{} examples".format,
)
def test_any_format_rounds_exactly(examples):
    @settings(max_examples=examples)
    @given(FORMATS, st.sampled_from(DETERMINISTIC), st.sampled_from(POLICIES), _words(32), ANCHORS)
    def rounds_exactly(fmt, mode, overflow, drawn, anchors):
        x = patterns_near(fmt, LAYOUTS["float32"], drawn, anchors)
        assert_exact(fmt, x, mode, overflow, "float32")

    rounds_exactly()


# --- float64 --------------------------------------------------------------------------------------

IN_FLOAT64 = [
    *("binary32", "binary64", "ocp_e4m3", "ocp_e8m0", "e8m24fn", "e10m40nuz", "e9m3b700"),
    *("fixed50.20", "fixed8.1074"),
]
MORE_IN_FLOAT64 = ["bfloat16", "e11m20", "e8m24", "e11m0b1023", "e8m23f", "int53"]


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.t1) for name in IN_FLOAT64),
        *(pytest.param(name, marks=pytest.mark.t2) for name in MORE_IN_FLOAT64),
    ],
)
def test_formats_carried_in_float64_round_exactly(name):
    """Random patterns and patterns about points and ties, in every mode under every policy."""
    fmt, layout = parse(name), LAYOUTS["float64"]
    random = np.random.default_rng(4)
    size = len(DETERMINISTIC) * len(POLICIES) * PER_EXAMPLE
    # half of the numbers in the range of the format, where rounding has something to do
    first = layout.at_least(fmt.smallest / 4 if fmt.smallest > 2**-1070 else Fraction(0))
    last = layout.at_least(fmt.largest) + 2**53
    near = random.integers(first, min(last, layout.infinity), size, dtype=np.uint64)
    near |= random.integers(0, 2, size, dtype=np.uint64) << np.uint64(63)
    anywhere = random.integers(0, 2**64, size, dtype=np.uint64)
    drawn = np.where(random.random(size) < 0.7, near, anywhere)
    with unchecked():
        x = patterns_near(fmt, layout, drawn.tolist(), random.integers(0, 10, size).tolist())
    with jax.enable_x64(True):
        pieces = iter(x.reshape(-1, PER_EXAMPLE))
        for mode in DETERMINISTIC:
            for overflow in POLICIES:
                assert_exact(fmt, next(pieces), mode, overflow, "float64")


def test_a_narrow_format_rounds_alike_in_both_carriers():
    """float32 inputs, widened, give the same numbers in float64."""
    for name in ("ocp_e4m3", "bfloat16", "int8", "ocp_e8m0"):
        fmt = parse(name)
        x = inputs(fmt)
        narrow = round_patterns(x, fmt, "ties_to_even", "ieee").view(np.float32)
        with jax.enable_x64(True):
            wide = x.view(np.float32).astype(np.float64).view(np.uint64)
            result = round_patterns(wide, fmt, "ties_to_even", "ieee").view(np.float64)
        assert result.astype(np.float32).tobytes() == narrow.tobytes()


def test_telling_gaps_hold_the_edges():
    fmt = parse("binary16")
    gaps = gaps_of(fmt)
    assert {0, fmt.top_code, 1 << fmt.mantissa_bits} <= set(gaps)
    assert all(0 <= gap <= fmt.top_code for gap in gaps)
    assert not math.isnan(float(fmt.largest))
