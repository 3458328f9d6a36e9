"""Rounding equals the exact definition, byte for byte.

Expected values come from ``qsim.numbers.exact`` through the interval oracle, and from ml_dtypes,
gfloat and the documents as second witnesses. Formats of up to 8 bits meet every one of their
values and midpoints with the float32 neighbours of each, the float32 extremes, and all bfloat16
and all float16 numbers, in every deterministic mode under every overflow policy.
"""

import math
from fractions import Fraction
from itertools import product

import gfloat
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from gfloat import RoundMode
from gfloat import formats as gformats

import qsim
from qsim import parse
from qsim.numbers import exact
from qsim.numbers.catalogue import catalogue
from qsim.numbers.formats import Float, Integer
from tests.compiled import round_patterns
from tests.intervals import (
    DETERMINISTIC,
    LAYOUTS,
    POLICIES,
    first_difference,
    intervals,
    telling_gaps,
)
from tests.remembered import remembered

NARROW = [
    name
    for name, entry in catalogue().items()
    if isinstance(entry.format, Float | Integer) and entry.format.bits <= 8
]

# what the catalogue does not have: every kind of special value with and without sign, precision 1
# with both parities, and grids that reach the float32 subnormals and the ends of float32
OTHERS = [
    *("e2m3f", "e3m4nuz", "e4m3n", "e2m2i", "ue3m2", "ue3m1b4n", "ue2m3i", "e1m2", "e1m1f"),
    *("fixed8.4", "ufixed6.3", "fixed8.4sym", "uint1", "e7m0f", "e7m0b64", "e3m0b127f"),
    *("e4m0b-100", "e3m2b128f", "e2m3b128fnuz", "e3m3b-120f", "fixed7.149", "e4m2b-112fn"),
]

# too many values to ask for each: gaps about zero and about the edges of binades
T2 = pytest.mark.t2
WIDE = ["binary16", "bfloat16", "tf32", "e5m7", "e6m9", "e8m13", "e2m20f", "e7m16nuz", "ue8m7"]
WIDE_INTEGERS = ["int16", "uint16", "fixed16.8", "int24", "fixed24.140"]

SIXTEEN_BIT_INPUTS = np.concatenate(
    [
        np.arange(2**16, dtype=np.uint32) << 16,
        np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32),
    ]
)


def _gaps_of_integer(fmt) -> tuple[int, ...]:
    last = int(max(fmt.largest, -fmt.lowest) / fmt.smallest)
    edges = [0, last, *(2**k for k in range(fmt.bits))]
    near = {gap for edge in edges for gap in range(edge - 3, edge + 3)}
    return tuple(sorted(gap for gap in near if 0 <= gap <= last))


def assert_rounds_exactly(fmt, patterns: np.ndarray, oracle, modes=DETERMINISTIC) -> None:
    """Every mode and policy gives the oracle's bytes."""
    patterns = np.unique(patterns)  # all bfloat16 and float16 numbers then fit one piece
    classes = oracle.classes(patterns)
    for rounding in modes:
        for overflow in POLICIES:
            actual = round_patterns(patterns, fmt, rounding, overflow)
            expected = oracle.table(rounding, overflow).reshape(-1)[classes]
            difference = first_difference(actual, expected, patterns)
            assert not difference, f"{fmt} {rounding} {overflow}: {difference}"


def _slower(names: list[str], limit: int = 6) -> list:
    """The names, of which those with more than ``limit`` bits are tests of the slower tier."""
    marks = {True: pytest.mark.t1, False: ()}
    return [pytest.param(name, marks=marks[parse(name).bits > limit]) for name in names]


# of the formats with 7 and 8 bits, those that differ most from each other
FIRST = ["ocp_e4m3", "ocp_e5m2", "e4m3fnuz", "ocp_e8m0", "int8", "nv_ue4m3", "e3m4nuz"]


@pytest.mark.t1
@pytest.mark.parametrize(
    "name",
    [FIRST[0], *_slower(FIRST[1:]), *_slower([n for n in NARROW + OTHERS if n not in FIRST])],
)
@pytest.mark.every(3)
def test_narrow_formats_round_exactly(name):
    fmt = parse(name)
    oracle = intervals(fmt)
    patterns = np.concatenate([oracle.points(), SIXTEEN_BIT_INPUTS])
    assert_rounds_exactly(fmt, patterns, oracle)


@pytest.mark.t1
@pytest.mark.parametrize("name", [*WIDE[:5], *(pytest.param(w, marks=T2) for w in WIDE[5:])])
@pytest.mark.every(2)
def test_wide_floats_round_exactly_about_the_edges_of_binades(name):
    fmt = parse(name)
    gaps = telling_gaps(fmt)
    oracle = intervals(fmt, "float32", gaps[:: max(1, len(gaps) // 300)])
    assert_rounds_exactly(fmt, oracle.points(), oracle)


@pytest.mark.t1
@pytest.mark.parametrize("name", WIDE_INTEGERS)
def test_wide_integers_round_exactly_about_powers_of_two(name):
    fmt = parse(name)
    oracle = intervals(fmt, "float32", _gaps_of_integer(fmt))
    assert_rounds_exactly(fmt, oracle.points(), oracle)


@pytest.mark.t2
@pytest.mark.parametrize("name", ["binary16", "bfloat16"])
def test_sixteen_bit_formats_round_exactly_in_every_gap(name):
    fmt = parse(name)
    oracle = intervals(fmt)
    patterns = np.concatenate([oracle.points(around=1), SIXTEEN_BIT_INPUTS])
    assert_rounds_exactly(fmt, patterns, oracle, modes=["ties_to_even"])


def _fits(fmt, dtype: str) -> bool:
    holder = parse({"float16": "binary16"}.get(dtype, dtype))
    edge = max(fmt.largest, -fmt.lowest)
    fine = fmt.precision <= holder.precision and fmt.quantum >= holder.quantum
    return fine and edge <= holder.largest


@pytest.mark.parametrize("dtype", [np.dtype("float16"), np.dtype(ml_dtypes.bfloat16)], ids=str)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.t1 if n in FIRST or n[-1] == "2" else T2) for n in NARROW],
)
@pytest.mark.every(2)
def test_sixteen_bit_inputs_round_exactly_in_their_own_dtype(name, dtype):
    fmt = parse(name)
    if not _fits(fmt, dtype.name):
        with pytest.raises(ValueError, match=f"has values that {dtype.name} cannot hold"):
            qsim.quantize(jnp.zeros(2, dtype), fmt)
        return
    x = np.arange(2**16, dtype=np.uint16).view(dtype)
    patterns, oracle = x.astype(np.float32).view(np.uint32), intervals(fmt)
    for rounding in DETERMINISTIC:
        for overflow in POLICIES:
            actual = qsim.quantize(jnp.asarray(x), fmt, rounding=rounding, overflow=overflow)
            actual = np.asarray(actual)
            assert actual.dtype == dtype
            expected = oracle.expected(patterns, rounding, overflow).view(np.float32)
            expected = expected.astype(dtype).view(np.uint16)
            difference = first_difference(
                actual.view(np.uint16), expected, x.view(np.uint16), dtype.name
            )
            assert not difference, f"{fmt} {rounding} {overflow}: {difference}"


# --- the oracle itself ------------------------------------------------------------------------


@pytest.mark.parametrize("name", _slower(["ue3m2", "e3m2b128f", "ocp_e4m3", "e8m0", "fixed8.4"]))
def test_the_oracle_equals_the_definition_number_by_number(name):
    """The look-up by classes adds nothing: 100 patterns are rounded one by one as fractions."""
    fmt, layout, random = parse(name), LAYOUTS["float32"], np.random.default_rng(0)
    oracle = intervals(fmt)
    patterns = np.concatenate(
        [
            random.choice(oracle.points(), 60),
            random.integers(0, 2**32, 20, dtype=np.uint32),
            random.choice(SIXTEEN_BIT_INPUTS, 20),
        ]
    )
    numbers = [layout.number(int(pattern)) for pattern in patterns]
    for choice in product(DETERMINISTIC, POLICIES):
        rounding, overflow = choice
        with remembered():
            one_by_one = [
                layout.pattern(exact.round_exact(x, fmt, rounding=rounding, overflow=overflow))
                for x in numbers
            ]
        assert oracle.expected(patterns, *choice).tolist() == one_by_one


def test_the_oracle_fills_ranges_as_it_looks_up():
    oracle = intervals(parse("ocp_e4m3"))
    for first in (0, 0x3C000000, 0x43E00000 - 500, 0x7F800000 - 500, 0x80000000, 0xFFFFF000):
        patterns = np.arange(first, first + 1000, dtype=np.uint32)
        filled = oracle.expected_range(first, 1000, "ties_to_even", "ieee")
        assert (filled == oracle.expected(patterns, "ties_to_even", "ieee")).all()


@pytest.mark.t1
@pytest.mark.parametrize("layout", ["float16", "bfloat16"])
def test_patterns_and_numbers_of_a_layout_are_inverse(layout):
    """NumPy's own reading of the same bits is the witness."""
    kind = LAYOUTS[layout]
    dtype = np.float16 if layout == "float16" else ml_dtypes.bfloat16
    patterns = np.arange(2**16, dtype=np.uint16)[::3]
    for pattern, value in zip(patterns.tolist(), patterns.view(dtype).tolist(), strict=True):
        number = kind.number(pattern)
        assert number == value or (number != number and value != value)
        assert kind.pattern(number) == (kind.nan if value != value else pattern)


# --- ml_dtypes --------------------------------------------------------------------------------


def _e8m0_differs(x: np.ndarray) -> np.ndarray:
    """Ties go up there, subnormals are misrounded, and what is not positive becomes NaN.

    Here a tie goes to the even code, zeros and numbers below the smallest value become it.
    """
    fraction, exponent = np.frexp(np.where(np.isnan(x), 0, x).astype(np.float64))
    goes_up_there = (fraction == 0.75) & (exponent % 2 == 0) & (x > 2.0**-126)
    below_normal = (x > 2.0**-127) & (x <= 1.5 * 2.0**-127)
    return (x == 0) | goes_up_there | below_normal


def _no_nan(x: np.ndarray) -> np.ndarray:
    """NaN becomes minus zero there, where the format has no NaN; here it stays NaN."""
    return np.isnan(x)


# name -> (the type of ml_dtypes, where it differs from ties_to_even with the policy "ieee")
ML_DTYPES = {
    "bfloat16": (ml_dtypes.bfloat16, None),
    "ieee_e4m3": (ml_dtypes.float8_e4m3, None),
    "ieee_e3m4": (ml_dtypes.float8_e3m4, None),
    "ocp_e4m3": (ml_dtypes.float8_e4m3fn, None),
    "ocp_e5m2": (ml_dtypes.float8_e5m2, None),
    "e4m3fnuz": (ml_dtypes.float8_e4m3fnuz, None),
    "e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, None),
    "e4m3b11fnuz": (ml_dtypes.float8_e4m3b11fnuz, None),
    "ocp_e3m2": (ml_dtypes.float6_e3m2fn, _no_nan),
    "ocp_e2m3": (ml_dtypes.float6_e2m3fn, _no_nan),
    "ocp_e2m1": (ml_dtypes.float4_e2m1fn, _no_nan),
    "ocp_e8m0": (ml_dtypes.float8_e8m0fnu, _e8m0_differs),
}


def _same_numbers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equal float32 bytes, or both NaN (payloads and signs of NaNs are not compared)."""
    return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))


@pytest.mark.parametrize("name", ML_DTYPES)
def test_ml_dtypes_agrees_but_where_the_table_says(name):
    dtype, differs = ML_DTYPES[name]
    fmt, random = parse(name), np.random.default_rng(1)
    points = intervals(fmt).points() if fmt.bits <= 8 else np.zeros(0, np.uint32)
    some = random.integers(0, 2**32, 2**17, dtype=np.uint32)
    patterns = np.concatenate([points, SIXTEEN_BIT_INPUTS, some])
    x = patterns.view(np.float32)
    with np.errstate(all="ignore"):
        theirs = x.astype(dtype).astype(np.float32)
    ours = round_patterns(patterns, fmt, "ties_to_even", "ieee").view(np.float32)
    different = ~_same_numbers(ours, theirs)
    known = np.zeros(x.shape, bool) if differs is None else differs(x)
    assert (different == known).all(), x[different != known][:5]


# --- gfloat -----------------------------------------------------------------------------------

GFLOAT_MODES = {
    "ties_to_even": RoundMode.TiesToEven,
    "ties_to_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "up": RoundMode.TowardPositive,
    "down": RoundMode.TowardNegative,
}


def _p3109(bits: int, precision: int, extended: bool = True):
    domain = gfloat.Domain.Extended if extended else gfloat.Domain.Finite
    return gformats.format_info_p3109(bits, precision, domain=domain)


GFLOAT = {
    "ocp_e4m3": gformats.format_info_ocp_e4m3,
    "ocp_e5m2": gformats.format_info_ocp_e5m2,
    "ocp_e3m2": gformats.format_info_ocp_e3m2,
    "ocp_e2m3": gformats.format_info_ocp_e2m3,
    "ocp_e2m1": gformats.format_info_ocp_e2m1,
    "binary16": gformats.format_info_binary16,
    "bfloat16": gformats.format_info_bfloat16,
    "e5m2nuz": _p3109(8, 3),
    "e4m3nuz": _p3109(8, 4),
    "e2m1nuz": _p3109(4, 2),
    "e3m4fnuz": _p3109(8, 5, extended=False),
}


@pytest.mark.t1
@pytest.mark.parametrize("rounding", GFLOAT_MODES)
@pytest.mark.parametrize("name", GFLOAT)
def test_gfloat_agrees(name, rounding):
    """Its float64 arrays with the saturation flag; without it where some code takes the rest."""
    fmt, info, mode = parse(name), GFLOAT[name], GFLOAT_MODES[rounding]
    points = intervals(fmt).points() if fmt.bits <= 8 else np.zeros(0, np.uint32)
    patterns = np.concatenate([points, SIXTEEN_BIT_INPUTS])
    x = patterns.view(np.float32)
    patterns, x = patterns[~np.isnan(x)], x[~np.isnan(x)]
    policies = {"saturate": True}
    if fmt.infinities or fmt.has_nan:
        policies["ieee"] = False
    for overflow, saturates in policies.items():
        theirs = gfloat.round_ndarray(info, x.astype(np.float64), mode, saturates)
        ours = round_patterns(patterns, fmt, rounding, overflow).view(np.float32)
        same = _same_numbers(ours, theirs.astype(np.float32))
        assert same.all(), x[~same][:5]


# --- cases from the documents -------------------------------------------------------------------

INF, NAN = math.inf, math.nan
TINY = 2.0**-149


def above(x: float) -> float:
    return float(np.nextafter(np.float32(x), np.float32(INF)))


def below(x: float) -> float:
    return float(np.nextafter(np.float32(x), np.float32(-INF)))


# format, rounding, overflow, input, result. Overflow is decided after rounding on the grid that
# is continued beyond the largest value (OCP OFP8 1.0, 5.2; IEEE P3109, projection).
CASES = [
    ("ocp_e4m3", "ties_to_even", "ieee", 464.0, 448.0),
    ("ocp_e4m3", "ties_to_even", "ieee", above(464), NAN),
    ("ocp_e4m3", "ties_to_even", "saturate", above(464), 448.0),
    ("ocp_e4m3", "ties_to_even", "ieee", 465.0, NAN),
    ("ocp_e4m3", "ties_to_even", "ieee", -464.0, -448.0),
    ("ocp_e4m3", "ties_to_away", "ieee", 464.0, NAN),
    ("ocp_e4m3", "up", "ieee", above(448), NAN),
    ("ocp_e4m3", "down", "ieee", above(448), 448.0),
    ("ocp_e4m3", "ties_to_even", "saturate", INF, 448.0),
    ("ocp_e4m3", "ties_to_even", "saturate", -INF, -448.0),
    ("ocp_e4m3", "ties_to_even", "ieee", INF, NAN),
    ("ocp_e4m3", "ties_to_even", "saturate_propagate", INF, 448.0),
    ("ocp_e4m3", "ties_to_even", "p3109", INF, 448.0),
    ("ocp_e5m2", "ties_to_even", "ieee", 61440.0, INF),
    ("ocp_e5m2", "ties_to_even", "ieee", below(61440), 57344.0),
    ("ocp_e5m2", "toward_zero", "ieee", 1e9, 57344.0),
    ("ocp_e5m2", "toward_zero", "ieee", INF, INF),
    ("ocp_e5m2", "up", "ieee", -1e9, -57344.0),
    ("ocp_e5m2", "down", "ieee", -1e9, -INF),
    ("ocp_e5m2", "to_odd", "ieee", 58000.0, 57344.0),
    ("ocp_e5m2", "to_odd", "ieee", 1e9, 57344.0),
    ("ocp_e5m2", "ties_to_even", "saturate_propagate", INF, INF),
    ("ocp_e5m2", "ties_to_even", "saturate_propagate", 1e9, 57344.0),
    ("ocp_e5m2", "toward_zero", "saturate", 3 * 2.0**-18, 0.0),
    ("ocp_e5m2", "up", "saturate", 3 * 2.0**-18, 2.0**-16),
    ("ocp_e5m2", "down", "saturate", -3 * 2.0**-18, -(2.0**-16)),
    ("ocp_e2m1", "ties_to_even", "saturate", 5.0, 4.0),
    ("ocp_e2m1", "ties_to_even", "saturate", 7.0, 6.0),
    ("ocp_e2m1", "ties_to_even", "saturate", 0.25, 0.0),
    ("ocp_e2m1", "ties_to_even", "saturate", 0.75, 1.0),
    ("ocp_e2m1", "ties_to_even", "saturate", 1.25, 1.0),
    ("ocp_e2m1", "ties_to_even", "saturate", 1.75, 2.0),
    ("ocp_e2m1", "ties_to_even", "saturate", 2.5, 2.0),
    ("ocp_e2m1", "ties_to_even", "saturate", 3.5, 4.0),
    ("ocp_e2m1", "ties_to_even", "saturate", -0.25, -0.0),
    ("ocp_e2m1", "ties_to_even", "saturate", above(0.25), 0.5),
    ("ocp_e2m1", "ties_to_even", "ieee", INF, 6.0),
    # carries into the next binade, and from the subnormals to the first normal value
    ("ocp_e5m2", "ties_to_even", "saturate", 1.875, 2.0),
    ("ocp_e5m2", "ties_to_even", "saturate", 3.5 * 2.0**-16, 2.0**-14),
    ("ocp_e4m3", "ties_to_even", "saturate", 7.5 * 2.0**-9, 2.0**-6),
    # half of the smallest value, and anything above zero however small
    ("ocp_e4m3", "ties_to_even", "saturate", 2.0**-10, 0.0),
    ("ocp_e4m3", "ties_to_away", "saturate", 2.0**-10, 2.0**-9),
    ("ocp_e4m3", "ties_to_zero", "saturate", 2.0**-10, 0.0),
    ("ocp_e4m3", "ties_to_odd", "saturate", 2.0**-10, 2.0**-9),
    ("ocp_e4m3", "to_odd", "saturate", TINY, 2.0**-9),
    ("ocp_e4m3", "up", "saturate", TINY, 2.0**-9),
    ("ocp_e4m3", "away_from_zero", "saturate", -TINY, -(2.0**-9)),
    ("bfloat16", "to_odd", "saturate", TINY, 2.0**-133),
    ("bfloat16", "up", "saturate", TINY, 2.0**-133),
    ("bfloat16", "ties_to_even", "saturate", 2.0**-134, 0.0),
    ("bfloat16", "ties_to_even", "saturate", 3 * 2.0**-135, 2.0**-133),
    # no minus zero
    ("e4m3fnuz", "ties_to_even", "saturate", -0.0, 0.0),
    ("e4m3fnuz", "ties_to_even", "saturate", -TINY, 0.0),
    ("e5m2nuz", "up", "saturate", -TINY, 0.0),
    ("int8", "ties_to_even", "saturate", -0.25, 0.0),
    # the parity of codes in P3109 8p3se, 4p2se and 4p2ue
    ("e5m2nuz", "ties_to_even", "ieee", 53248.0, 49152.0),
    ("e5m2nuz", "ties_to_even", "ieee", above(53248), INF),
    ("e2m1nuz", "to_odd", "p3109", 2.01, INF),
    ("ue3m1b4n", "to_odd", "p3109", 8.0, 6.0),
    # precision 1: the code of 1.0 is 127 (odd) in E8M0, and 64 (even) with the bias 64
    ("e8m0", "ties_to_even", "saturate", 1.5, 2.0),
    ("e8m0", "ties_to_even", "saturate", 3.0, 2.0),
    ("e7m0b64", "ties_to_even", "saturate", 1.5, 1.0),
    ("e7m0b64", "ties_to_even", "saturate", 3.0, 4.0),
    # E8M0 has neither zero nor sign
    ("e8m0", "ties_to_even", "saturate", 0.0, 2.0**-127),
    ("e8m0", "toward_zero", "saturate", -0.0, 2.0**-127),
    ("e8m0", "down", "ieee", TINY, 2.0**-127),
    ("e8m0", "ties_to_even", "saturate", -1.0, 2.0**-127),
    ("e8m0", "ties_to_even", "ieee", -1.0, NAN),
    ("e8m0", "ties_to_even", "ieee", INF, NAN),
    ("e8m0", "ties_to_even", "saturate", INF, 2.0**127),
    ("e8m0", "ties_to_even", "saturate", above(1.5 * 2.0**-127), 2.0**-126),
    ("e8m0", "ties_to_even", "saturate", below(1.5 * 2.0**-127), 2.0**-127),
    # below zero in an unsigned format: what rounds to zero is zero, the rest overflows
    ("nv_ue4m3", "ties_to_even", "p3109", -(2.0**-11), 0.0),
    ("nv_ue4m3", "ties_to_even", "p3109", -1.0, NAN),
    ("nv_ue4m3", "ties_to_even", "saturate", -1.0, 0.0),
    ("uint8", "ties_to_even", "ieee", -1.0, 0.0),
    # two's complement reaches one further below zero
    ("int8", "ties_to_even", "saturate", 127.5, 127.0),
    ("int8", "ties_to_even", "saturate", -127.5, -128.0),
    ("int8", "ties_to_even", "saturate", -128.5, -128.0),
    ("int8sym", "ties_to_even", "saturate", -127.5, -127.0),
    ("mx_int8", "ties_to_even", "saturate", 2.0, 127 / 64),
    ("mx_int8", "ties_to_even", "saturate", -2.0, -2.0),
]


@pytest.mark.parametrize(("name", "rounding", "overflow", "x", "result"), CASES)
def test_documented_cases(name, rounding, overflow, x, result):
    fmt, layout = parse(name), LAYOUTS["float32"]
    pattern = np.array([x], np.float32).view(np.uint32)
    actual = round_patterns(pattern, fmt, rounding, overflow)
    assert actual.tolist() == np.array([result], np.float32).view(np.uint32).tolist()
    value = exact.round_exact(
        layout.number(int(pattern[0])), fmt, rounding=rounding, overflow=overflow
    )
    assert layout.pattern(value) == actual[0]


@pytest.mark.parametrize("pattern", [0x7F800001, 0xFFC00001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000])
@pytest.mark.parametrize("name", ["ocp_e4m3", "ocp_e2m1", "int8", "e7m0f", "binary32"])
def test_every_nan_becomes_the_one_quiet_nan(name, pattern):
    for overflow in POLICIES:
        actual = round_patterns(np.array([pattern], np.uint32), parse(name), "up", overflow)
        assert actual.tolist() == [0x7FC00000]


@pytest.mark.parametrize("pattern", [1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x80000000, 0x80000001])
def test_binary32_in_float32_is_the_identity(pattern):
    for rounding in DETERMINISTIC:
        word = np.array([pattern], np.uint32)
        assert round_patterns(word, parse("binary32"), rounding, "ieee") == word


def test_a_tie_of_an_odd_count_and_an_even_count_of_gaps():
    """Written out by hand: neighbours of 2.5 and 3.5 gaps in a format with the gap 1."""
    by_hand = {
        "ties_to_even": (2, 4),
        "ties_to_away": (3, 4),
        "ties_to_zero": (2, 3),
        "ties_to_odd": (3, 3),
        "up": (3, 4),
        "down": (2, 3),
        "toward_zero": (2, 3),
        "away_from_zero": (3, 4),
        "to_odd": (3, 3),
    }
    assert set(by_hand) == set(DETERMINISTIC)
    for rounding, results in by_hand.items():
        for x, result in zip((Fraction(5, 2), Fraction(7, 2)), results, strict=True):
            assert exact.round_exact(x, parse("int8"), rounding=rounding) == result
            mirrored = {"up": "down", "down": "up"}.get(rounding, rounding)
            assert exact.round_exact(-x, parse("int8"), rounding=mirrored) == -result


def test_the_narrow_formats_are_the_whole_catalogue_up_to_eight_bits():
    assert len(NARROW) >= 18
    assert all(isinstance(parse(name), Float) for name in WIDE)
