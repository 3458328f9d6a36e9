"""Floats beyond the usual ones: subnormals, special codes, biases and ranges of every kind.

Expected values are written out here, computed by formulas of the tests' own, or given by the exact
definition; the definitions of what is done with subnormals are tested on numbers worked by hand.
"""

import math
from dataclasses import replace
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim import Float, parse
from qsim.numbers import exact
from qsim.numbers.floats import SUBNORMALS
from tests.compiled import round_patterns
from tests.intervals import DETERMINISTIC, LAYOUTS, intervals, telling_gaps
from tests.remembered import remembered
from tests.test_rounding_exact import SIXTEEN_BIT_INPUTS, assert_rounds_exactly
from tests.test_stochastic_rounding import rounded, words
from tests.unchecked import unchecked

INF, NAN = math.inf, math.nan

# every treatment of subnormals with every kind of special value, and grids that reach the
# subnormals of float32
SMALL = [
    *("e2m1f_absent", "e2m2_flush_after", "e2m2fn_flush_before", "ue2m2n_read_as_zero"),
    *("e3m1nuz_absent", "ue3m1f_flush_after", "e3m2b128f_flush_after", "e3m2b128f_absent"),
    *("e2m3b128fnuz_flush_before", "e1m3f_flush_after", "e2m1f_flush_after", "e2m3b126_absent"),
    *("e0m3", "ue0m4fn", "e0m2fnuz", "e0m3b124", "e2m0_zero", "e3m0nuz_zero", "ue3m0n_zero"),
    *("ue2m2_no_zero", "ue3m1n_no_zero", "ue2m2b127fn_no_zero", "e2m2f_one_zero"),
    *("e3m2_emax1", "e2m2f_emax1", "e3m1nuz_emax-1_absent", "e3m2_nan=1f", "e3m1_inf=f.1f_nan=10"),
    "e3m1_inf=9.1c_nan=10_emax1",
]
# values off the binary grid, and missing ones
IRREGULAR = ["e2m1b1.3f", "e2m1_nan=3.c", "e2m1b0.25_nan=3.c"]
MORE_IRREGULAR = [
    *(
        "e2m2b1.3f",
        "ue2m2b-2.7fn_absent",
        "e3m0b0.5_zero",
        "e7m0b63.5",
        "e3m1_inf=9.1c_nan=1.10_emax1",
    ),
    *("e2m2_nan=2.3.4.12", "e2m2_nan=5_normalised"),
]
LARGER = [
    *(f"e4m3fn_{treatment}" for treatment in SUBNORMALS if treatment[0] in "far"),
    *(f"e5m2b127nuz_{treatment}" for treatment in SUBNORMALS if treatment[0] in "far"),
    *("e5m10_flush_after", "e8m7_flush_before", "e8m10_absent", "e8m7_read_as_zero"),
    *("binary8p1se", "binary8p1ue", "binary8p1sf", "binary8p1uf", "binary6p1ue", "binary8p8ue"),
    *("p1", "p3", "p11", "e5m10_emax7", "e8m23_flush_after", "e8m23_absent", "e0m7", "e8m0_zero"),
    *("e4m3b7.3", "e5m10b3.25", "e4m3_nan=10.20.7f"),
]
AT_FIRST = ["e4m3fn_flush_after", "e8m10_absent", "binary8p1ue"]


# kernels of their own, which take long to compile for every mode: some modes at first
APART = ["e2m2f_normalised", "ue2m3n_normalised", "e3m1nuz_normalised", "e3m2b127f_normalised"]
WIDE_APART = ["e6m9fn_normalised"]
SOME_MODES = ("ties_to_even", "ties_to_odd", "up", "to_odd")

TIERS = [
    *(pytest.param(name, DETERMINISTIC) for name in SMALL[::3]),
    *(
        pytest.param(name, DETERMINISTIC, marks=pytest.mark.t1)
        for name in SMALL
        if name not in SMALL[::3]
    ),
    *(
        pytest.param(name, SOME_MODES, marks=pytest.mark.t1)
        for name in [*APART, *WIDE_APART, *IRREGULAR]
    ),
    *(pytest.param(name, DETERMINISTIC, marks=pytest.mark.t1) for name in AT_FIRST),
    *(
        pytest.param(name, DETERMINISTIC, marks=pytest.mark.t2)
        for name in [*APART, *WIDE_APART, *IRREGULAR, *MORE_IRREGULAR, *LARGER]
        if name not in AT_FIRST
    ),
]


# --- rounding -----------------------------------------------------------------------------------


def oracle_of(fmt):
    return intervals(fmt) if fmt.bits <= 8 else intervals(fmt, gaps=telling_gaps(fmt)[:400])


@pytest.mark.t1
@pytest.mark.parametrize(("name", "modes"), TIERS)
@pytest.mark.every(2)
def test_floats_of_every_kind_round_exactly(name, modes):
    """All values, midpoints and their neighbours, in every policy."""
    fmt = parse(name)
    oracle = oracle_of(fmt)
    patterns = oracle.points()
    if fmt.bits <= 8:
        patterns = np.concatenate([patterns, SIXTEEN_BIT_INPUTS[:: 1 if fmt.bits > 6 else 17]])
    assert_rounds_exactly(fmt, patterns, oracle, modes)


@pytest.mark.t1
@pytest.mark.parametrize("name", [*SMALL, *APART, *IRREGULAR])
def test_floats_of_every_kind_round_stochastically_as_defined(name, bits=3):
    """About every value, with every R."""
    fmt, layout = parse(name), LAYOUTS["float32"]
    points = intervals(fmt).points(around=1)
    points = np.random.default_rng(0).choice(points, 64)
    every = np.arange(2**bits, dtype=np.uint32)
    mode = f"stochastic:{bits}"
    with remembered():
        expected = [
            layout.pattern(
                exact.round_exact(
                    layout.number(int(p)), fmt, rounding=mode, overflow="ieee", random=int(r)
                )
            )
            for p in points
            for r in every
        ]
    x = np.repeat(points, len(every)).view(np.float32)
    random = np.tile(words(every, bits), len(points))
    found = rounded(x, qsim.lower(fmt), random, rounding=mode, overflow="ieee")
    assert np.asarray(found).view(np.uint32).tolist() == expected


# e2m2 has the gap 1/4 below 2; its smallest normal value is 1, its smallest gap 1/4
ONE_EIGHTH = Fraction(1, 8)
BY_HAND = {  # treatment: (number, mode): result
    "gradual": {
        (1 - ONE_EIGHTH, "ties_to_even"): 1,
        (1 - ONE_EIGHTH, "ties_to_zero"): Fraction(3, 4),
        (ONE_EIGHTH / 2, "up"): Fraction(1, 4),
    },
    "flush_after": {
        (1 - ONE_EIGHTH, "ties_to_even"): 1,
        (1 - ONE_EIGHTH, "ties_to_zero"): 0,
        (1 - ONE_EIGHTH, "to_odd"): 0,
        (1 - ONE_EIGHTH / 2, "toward_zero"): 0,
        (1 - ONE_EIGHTH / 2, "up"): 1,
        (Fraction(3, 4), "up"): 0,
        (ONE_EIGHTH / 2, "up"): 0,
        (-ONE_EIGHTH, "ties_to_even"): -0.0,
    },
    "flush_before": {
        (1 - ONE_EIGHTH, "ties_to_even"): 0,
        (1 - ONE_EIGHTH / 64, "up"): 0,
        (1 - ONE_EIGHTH / 64, "away_from_zero"): 0,
        (1 + ONE_EIGHTH, "ties_to_even"): 1,
    },
    "absent": {
        (Fraction(1, 2), "ties_to_even"): 0,
        (Fraction(1, 2), "ties_to_away"): 1,
        (Fraction(1, 2), "ties_to_odd"): 1,
        (Fraction(1, 2) + ONE_EIGHTH / 64, "ties_to_even"): 1,
        (ONE_EIGHTH / 64, "up"): 1,
        (ONE_EIGHTH / 64, "to_odd"): 1,
        (-ONE_EIGHTH / 64, "up"): -0.0,
    },
    "read_as_zero": {
        (1 - ONE_EIGHTH, "ties_to_even"): 1,
        (Fraction(3, 4), "ties_to_even"): 0,
    },
    "normalised": {  # the smallest value is 1/2 * (1 + 1/4), in the place of the subnormal 1/4
        (Fraction(5, 16), "ties_to_even"): 0,
        (Fraction(5, 16), "ties_to_away"): Fraction(5, 8),
        (Fraction(11, 16), "ties_to_even"): Fraction(3, 4),
        (ONE_EIGHTH / 64, "up"): Fraction(5, 8),
    },
}


@pytest.mark.parametrize("treatment", SUBNORMALS)
def test_what_is_done_with_subnormals_by_hand(treatment):
    fmt = Float(exponent_bits=2, mantissa_bits=2, bias=1, subnormals=treatment)
    for (number, mode), result in BY_HAND[treatment].items():
        found = exact.round_exact(number, fmt, rounding=mode)
        assert repr(found) == repr(result if isinstance(result, float) else Fraction(result))


def test_flushing_after_and_before_differ_just_below_the_smallest_normal_value():
    """Where rounding reaches 2**emin: (1 - 2**-(t+1)) * 2**emin <= |x| < 2**emin."""
    emin, x = 2.0**-14, 2.0**-14 * (1 - 2.0**-12)
    after, before = (
        qsim.quantize(jnp.array([x, -x]), f"e5m10_{treatment}").tolist()
        for treatment in ("flush_after", "flush_before")
    )
    assert after == [emin, -emin]
    assert before == [0.0, 0.0] and math.copysign(1.0, before[1]) < 0


def test_bfloat16_of_avx512_is_as_its_manual_says():
    """Intel SDM, VCVTNEPS2BF16: subnormals are zeros of their sign, others rounded by adding."""
    x = np.random.default_rng(5).integers(0, 2**32, 2**16, dtype=np.uint32)
    x[:4096] >>= 8  # about the smallest normal number
    x = x[(x & 0x7FFFFFFF) <= 0x7F800000]
    rounded_by_adding = (x + 0x7FFF + (x >> 16 & 1)) & 0xFFFF0000
    expected = np.where(x & 0x7F800000, rounded_by_adding, x & 0x80000000)
    expected = np.where(x & 0x7FFFFFFF == 0x7F800000, x, expected)
    found = round_patterns(x, parse("avx512_bfloat16"), "ties_to_even", "ieee")
    assert found.tolist() == expected.tolist()


def test_formats_that_begin_within_a_binade_stack_with_their_like():
    alike = [qsim.lower(parse(name)) for name in ("dlfloat16", "e4m3fn_normalised")]
    x = jnp.linspace(-3.0, 3.0, 100)
    both = qsim.quantize(x, qsim.stack(alike))
    assert both.tobytes() == b"".join(qsim.quantize(x, grid).tobytes() for grid in alike)
    message = r"different kinds \(BinadeGrid, BinadeGrid that begins within a binade\)"
    with pytest.raises(ValueError, match=message):
        qsim.stack([*alike, qsim.lower(parse("e4m3"))])


def test_codes_that_read_as_zero_are_stored():
    fmt = "e4m3fn_read_as_zero"
    x = jnp.array([2.0**-9, 2.0**-7, -(2.0**-9), 2.0**-6])
    codes = qsim.encode(x, fmt)
    assert codes.tolist() == [1, 4, 0x81, 8]
    assert qsim.decode(codes, fmt).tobytes() == qsim.quantize(x, fmt).tobytes()
    assert qsim.quantize(x, fmt).tolist() == [0.0, 0.0, 0.0, 2.0**-6]


@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_a_format_whose_values_are_flushed_has_none_below_its_smallest(mode):
    for name in ("e3m2_flush_after", "e3m2_flush_before", "e3m2_absent", "e3m2_read_as_zero"):
        fmt = parse(name)
        result = round_patterns(SIXTEEN_BIT_INPUTS, fmt, mode, "saturate").view(np.float32)
        nonzero = np.abs(result[result != 0])
        assert np.nanmin(nonzero) == fmt.smallest == fmt.smallest_normal


# --- special codes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ({"nans": (0x7F, 0xFF), "infinities": False}, "e4m3fn"),
        ({"nans": (0xFF, 0x7F), "infinities": (0xFE, 0x7E)}, "e4m3n"),
        ({"nans": (0x80,), "infinities": False}, "e4m3b7fnuz"),
        ({"nans": (), "infinities": False}, "e4m3f"),
        ({"nans": (480.0, Fraction(-480)), "infinities": False}, "e4m3fn"),
        ({"nans": ("480", "-480"), "infinities": ("448", "-448")}, "e4m3n"),
        ({"nans": (-0.0,), "infinities": False}, "e4m3b7fnuz"),
        ({"nans": "top", "infinities": (0x7E, 0xFE)}, "e4m3n"),
        (
            {
                "nans": tuple(range(0x79, 0x80)) + tuple(range(0xF9, 0x100)),
                "infinities": (0x78, 0xF8),
            },
            "e4m3",
        ),
    ],
)
def test_listed_codes_that_have_a_name_are_that_format(listed, named):
    assert Float(exponent_bits=4, mantissa_bits=3, **listed) == parse(named)


def test_special_codes_inside_the_range_leave_holes():
    """e2m1 without 1.5 (code 3) and -2 (code 12): neighbours on either side meet in the middle."""
    fmt = Float(exponent_bits=2, mantissa_bits=1, infinities=False, nans=(3, 12))
    assert [v for v in exact.values(fmt)[:8] if v == v] == [0, Fraction(1, 2), 1, 2, 3, 4, 6]
    assert str(fmt) == "e2m1_nan=3.c"
    cases = {1.5: 1, 1.51: 2, -2.0: -1.5, -2.24: -1.5, -2.25: -3, -2.26: -3}
    for x, result in cases.items():
        assert exact.round_exact(Fraction(str(x)), fmt) == result, x
    assert exact.round_exact(Fraction(3, 2), fmt, rounding="toward_zero") == 1
    assert exact.round_exact(Fraction(-2), fmt, rounding="down") == -3


def test_edges_of_the_two_signs_may_differ():
    fmt = parse("e4m3_nan=7f")
    assert (fmt.largest, fmt.lowest) == (448, -480)
    x = jnp.array([480.0, -480.0, 1e9, -1e9])
    assert qsim.quantize(x, fmt).tolist() == [448.0, -480.0, 448.0, -480.0]


def test_the_largest_exponent_may_be_limited():
    fmt = Float(exponent_bits=5, mantissa_bits=10, emax_limit=7)
    assert fmt.largest == Fraction(2047, 1024) * 2**7 and fmt.emax == 7
    assert str(fmt) == "e5m10_emax7"
    assert math.isnan(exact.decode(fmt, 0x5C00)) and exact.decode(fmt, 0x7C00) == INF
    assert qsim.quantize(jnp.array([255.875, 256.0]), fmt, overflow="ieee").tolist() == [
        255.875,
        INF,
    ]
    assert Float(exponent_bits=5, mantissa_bits=10, emax_limit=15) == parse("binary16")


@pytest.mark.parametrize(
    ("emin", "emax", "fields", "spec"),
    [
        (-14, 15, {}, "e5m2"),
        (-14, 16, {}, "e6m2b15_emax16"),
        (-14, 16, {"nans": "none", "infinities": False}, "e5m2f"),
        (-6, 8, {"nans": "top", "infinities": False}, "e4m2fn"),
        (-6, 3, {"subnormals": "absent"}, "e4m2_emax3_absent"),
        (3, 3, {}, "e2m2b-2_emax3"),
        (3, 3, {"nans": "none", "infinities": False}, "e1m2b-2f"),
    ],
)
def test_a_format_may_be_given_by_its_exponents(emin, emax, fields, spec):
    fmt = Float.between(mantissa_bits=2, emin=emin, emax=emax, **fields)
    assert str(fmt) == spec and (fmt.emin, fmt.emax) == (emin, emax)
    assert fmt.smallest_normal == Fraction(2) ** emin
    assert Fraction(2) ** emax <= fmt.largest < Fraction(2) ** (emax + 1)


def test_minus_zero_may_be_unused():
    fmt = parse("e2m1f_one_zero")
    assert not fmt.has_negative_zero and exact.values(fmt)[8] == 0
    result = qsim.quantize(jnp.array([-0.0, -0.1]), fmt)
    assert result.tobytes() == jnp.zeros(2).tobytes()
    assert qsim.encode(jnp.array([-0.0]), fmt).tolist() == [0]


# --- one bit of precision, no exponent, no zero ---------------------------------------------------


def test_one_bit_of_precision_with_sign_and_zero():
    values = [0, *(Fraction(2) ** k for k in range(-2, 4))]
    fmt = Float(exponent_bits=3, mantissa_bits=0)
    assert exact.values(fmt) == [*values, INF, -0.0, *(-v for v in values[1:]), -INF]
    assert parse("e3m0") != fmt and parse("e3m0_zero") == fmt


def test_without_an_exponent_field_values_are_evenly_spaced():
    fmt = parse("e0m3")
    values = [Fraction(k, 4) for k in range(8)]
    assert exact.values(fmt) == [*values, -0.0, *(-v for v in values[1:])]
    assert fmt.precision == 3 and fmt.quantum == -2
    # MXINT8 is the same but for the sign: OCP MX 1.0, 5.3.4
    assert parse("e0m7").largest == parse("mx_int8").largest


def test_without_zero_the_lowest_binade_is_an_ordinary_one():
    fmt = parse("ue2m1fn_no_zero")
    assert [float(v) for v in exact.values(fmt)] == pytest.approx(
        [0.5, 0.75, 1, 1.5, 2, 3, 4, NAN], rel=0, nan_ok=True
    )


# --- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "same"), [("p8", "bfloat16"), ("p11", "tf32"), ("p24", "binary32")]
)
def test_a_precision_has_the_range_of_its_carrier(spec, same):
    assert parse(spec) == parse(same)
    assert parse("p53") == parse("binary64") and parse("p25").exponent_bits == 11


# --- real biases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [7.3, 0.5, -3.75, 100.999, 1e-6])
def test_a_real_bias_scales_every_value_by_one_float32_factor(bias):
    """One multiplication in float32 rounds the product to 24 bits: NumPy is the witness."""
    fmt = Float(exponent_bits=4, mantissa_bits=3, bias=bias, nans="none", infinities=False)
    whole = replace(fmt, scale=1)
    assert fmt.bias == math.floor(bias) and whole.scale == 1
    ideal = 2.0 ** (math.floor(bias) - bias)
    assert abs(float(fmt.scale) - ideal) <= 2.0**-25
    codes = range(128)
    factor = np.float32(float(fmt.scale))
    witness = [np.float32(float(whole.magnitude(code))) * factor for code in codes]
    assert [float(fmt.magnitude(code)) for code in codes] == [float(w) for w in witness]
    assert parse(str(fmt)) == fmt


@pytest.mark.parametrize(
    ("bias", "scale", "found"),
    [
        (7, 1, (7, 1)),
        (7.0, 1, (7, 1)),
        (Fraction(15, 2), 1, (7, Fraction(11863283, 2**24))),
        (7, 2, (6, 1)),
        (7, Fraction(3, 2), (6, Fraction(3, 4))),
        (7, 0.125, (10, 1)),
        (7.0000000001, 1, (7, 1)),
        (6.9999999999, 1, (7, 1)),
    ],
)
def test_a_bias_and_a_scale_are_kept_in_one_way(bias, scale, found):
    fmt = Float(exponent_bits=4, mantissa_bits=3, bias=bias, scale=scale)
    assert (fmt.bias, fmt.scale) == found


def test_the_largest_value_may_be_any_number_of_float32():
    """What a learned clipping range c needs: the scale c over the largest value."""
    plain = parse("e4m3f")
    for c in (3.14159, 1.0, 0.1, 447.99):
        largest = Fraction(float(np.float32(c)))
        scale = Fraction(float(np.float32(float(largest / plain.largest))))
        fmt = replace(plain, scale=scale)
        assert abs(fmt.largest - largest) <= largest / 2**23


# --- wrapping -------------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize(
    "name", ["int4", "uint4", "int8", "uint8", "fixed8.4", "ufixed6.3", "uint1"]
)
@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_integers_wrap_as_defined(name, mode):
    fmt, layout = parse(name), LAYOUTS["float32"]
    points = intervals(fmt).points(around=1)
    beyond = np.random.default_rng(1).uniform(-(2.0**40), 2.0**40, 200).astype(np.float32)
    near = np.random.default_rng(2).uniform(-1000, 1000, 200).astype(np.float32)
    patterns = np.concatenate([points[::3], beyond.view(np.uint32), near.view(np.uint32)])
    found = round_patterns(patterns, fmt, mode, "wrap")
    with unchecked():
        expected = [
            layout.pattern(
                exact.round_exact(layout.number(int(p)), fmt, rounding=mode, overflow="wrap")
            )
            for p in patterns
        ]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("name", "dtype"), [("int8", np.int8), ("uint8", np.uint8), ("int16", np.int16)]
)
def test_integers_wrap_as_numpy_does(name, dtype):
    x = np.random.default_rng(3).integers(-(2**23), 2**23, 1000)
    wrapped = qsim.quantize(x.astype(np.float32), name, overflow="wrap")
    assert np.asarray(wrapped).tolist() == x.astype(dtype).tolist()


def test_wrapping_is_refused_where_it_means_nothing():
    x = jnp.ones(3)
    for name in ("e4m3", "int8sym"):
        message = (
            f"overflow='wrap' is for integers and fixed point that use all their codes, and {name}"
        )
        with pytest.raises(ValueError, match=message):
            qsim.quantize(x, name, overflow="wrap")
        with pytest.raises(ValueError, match=message):
            qsim.policy(weights=name, overflow="wrap")
        with pytest.raises(ValueError, match=message):
            exact.round_exact(Fraction(1), parse(name), overflow="wrap")
    assert str(qsim.policy(weights="int8", overflow="wrap")) == "weights=int8 wrap"


def test_infinities_do_not_wrap():
    assert np.isnan(qsim.quantize(jnp.array([INF, -INF, NAN]), "int8", overflow="wrap")).all()
    # a grid does not say what it was made from, so what cannot wrap becomes NaN
    x = jnp.array([1.0, 1e6])
    assert np.isnan(qsim.quantize(x, qsim.lower(parse("e4m3")), overflow="wrap")).tolist() == [
        False,
        True,
    ]
