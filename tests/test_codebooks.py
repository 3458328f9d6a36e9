"""Codebooks: lists of values round exactly, ties and ends included, and hold what sources list."""

from fractions import Fraction
from itertools import pairwise
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qsim
from qsim import Codebook, lower, parse
from qsim.numbers import exact
from qsim.numbers.catalogue import catalogue, read
from qsim.numbers.modes import Rounding
from tests.compiled import draw_patterns, round_patterns
from tests.intervals import DETERMINISTIC, POLICIES, first_difference
from tests.pointwise import expected, telling
from tests.unchecked import unchecked

NAMED = [name for name, entry in catalogue().items() if isinstance(entry.format, Codebook)]
SMALL = [name for name in NAMED if parse(name).bits <= 4]
OTHERS = [
    "codebook(0.3,-2,7,-0.1)high",  # codes in another order than values, no zero
    "codebook(1,2,4,8,5)away",  # nothing below zero
    "codebook(-1,1e-44,-3e38)zero",  # float32 subnormals, unequal magnitudes about zero
    "codebook(0,-1)low",
]


def assert_exact(fmt, rounding: str, overflow: str, layout: str = "float32"):
    patterns = telling(fmt, layout)
    wanted = expected(patterns, fmt, rounding, overflow)
    with unchecked():
        grid = lower(fmt, layout)
    actual = round_patterns(patterns, grid, rounding, overflow)
    difference = first_difference(actual, wanted, patterns, layout)
    assert not difference, difference


# --- rounding -----------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("rounding", DETERMINISTIC)
def test_codebooks_round_as_defined(rounding):
    for name in ("nf4", "ternary", "binary", "bitmod_fp3_ea_neg", *OTHERS):
        for overflow in ("saturate", "ieee"):
            assert_exact(parse(name), rounding, overflow)


TELLING = ("nf4", "apot4", "ternary", "binary", "bitmod_fp4_ea_neg", *OTHERS)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.t1) for name in TELLING),
        *(pytest.param(name, marks=pytest.mark.t2) for name in SMALL if name not in TELLING),
    ],
)
@pytest.mark.every(2)
def test_codebooks_round_as_defined_in_every_mode_and_policy(name):
    for rounding in DETERMINISTIC:
        for overflow in POLICIES:
            assert_exact(parse(name), rounding, overflow)


@pytest.mark.t1
def test_a_codebook_of_256_values_rounds_as_defined():
    assert_exact(parse("dynamic8"), "ties_to_even", "saturate")


@pytest.mark.t1
@settings(max_examples=15)
@given(st.lists(st.fractions(max_denominator=1000), min_size=2, max_size=16, unique=True))
def test_any_list_rounds_as_defined(numbers):
    with unchecked():
        fmt = Codebook(values=[float(number) for number in numbers])
    assert_exact(fmt, "ties_to_even", "saturate")


@pytest.mark.ci
@settings(max_examples=8)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, unique=True)
)
def test_nearest_is_nearest(numbers):
    """Of all values of any list of float32 numbers, computed here from the distances."""
    with unchecked():
        fmt = Codebook(values=[*{Fraction(number) for number in [*numbers, 1.0, -1.0]}])
    x = telling(fmt).view(np.float32)
    x = x[np.isfinite(x)]
    rounded = np.asarray(qsim.quantize(x, fmt))
    for number, result in zip(x.tolist(), rounded.tolist(), strict=True):
        distances = [abs(Fraction(number) - value) for value in fmt.values]
        assert Fraction(result) in fmt.values
        assert abs(Fraction(number) - Fraction(result)) == min(distances)


@pytest.mark.t1
def test_float64_codebooks_round_as_defined():
    with jax.enable_x64(True):
        fmt = parse("codebook64(-1,0.1,1e-320,1e300,0)")
        for rounding in DETERMINISTIC:
            assert_exact(fmt, rounding, "saturate", "float64")


@pytest.mark.t1
@pytest.mark.parametrize("rounding", ["stochastic:5", "stochastic_b:9", "stochastic_c:32"])
@pytest.mark.parametrize("name", ["nf4", "binary", "codebook(1,2,4,8,5)away"])
def test_stochastic_rounding_is_as_defined(name, rounding):
    fmt, mode = parse(name), Rounding.parse(rounding)
    generator = np.random.default_rng(0)
    patterns = np.resize(telling(fmt), 2048)
    patterns[:1500] = generator.uniform(-1.2, 1.2, 1500).astype(np.float32).view(np.uint32)
    random = generator.integers(0, 2**mode.random_bits, len(patterns))
    wanted = expected(patterns, fmt, rounding, "saturate", random=random)
    actual = draw_patterns(patterns, random, fmt, rounding, "saturate")
    assert actual.tolist() == wanted.tolist()


# --- what the sources say -----------------------------------------------------------------------

# where the comparison tree of bitsandbytes (csrc/kernels.cu, dQuantizeNF4) turns, ascending
TURNS = np.array(
    [
        *(-0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544),
        *(-0.23460740596055984, -0.13791173323988914, -0.045525018125772476),
        *(0.03979014977812767, 0.1202552504837513, 0.2035212516784668, 0.2920137718319893),
        *(0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011),
    ],
    np.float32,
)


def test_nf4_decides_as_bitsandbytes_does():
    """A number above a turn has the higher code, others the lower one.

    The turns are middles of values, rounded to float32. Only where one was rounded up is there a
    number on the other side of it than of the middle: the turn itself.
    """
    near = np.concatenate([TURNS, np.linspace(-1.1, 1.1, 999, dtype=np.float32)]).view(np.int32)
    x = (near[:, None] + np.arange(-3, 4)).astype(np.int32).reshape(-1).view(np.float32)
    x = x[np.isfinite(x)]
    theirs = np.searchsorted(TURNS, x, side="left")
    ours = np.asarray(qsim.encode(x, "nf4"))
    values = parse("nf4").values
    middles = [(low + high) / 2 for low, high in pairwise(values)]
    up = {float(t) for t, m in zip(TURNS, middles, strict=True) if Fraction(float(t)) > m}
    for number, their, our in zip(x.tolist(), theirs.tolist(), ours.tolist(), strict=True):
        assert our == their + (number in up)


def test_nf4_is_made_of_normal_quantiles():
    """QLoRA, section 3: the offset is 0.9677083; the 16 numbers are known to about 1e-7."""
    quantile, offset = NormalDist().inv_cdf, 0.9677083
    upper = [quantile(offset + (0.5 - offset) * k / 8) for k in range(8)]
    lower_half = [-quantile(offset + (0.5 - offset) * k / 7) for k in range(7)]
    made = np.sort(np.array([*upper, 0, *lower_half]) / max(upper))
    listed = np.array([float(value) for value in parse("nf4").values])
    assert np.abs(made - listed).max() < 2e-7


def test_dynamic8_is_made_of_decades():
    """Middles of equal parts of [0.1, 1], twice as many in each decade; in float32 there."""
    magnitudes = [
        (1 + 9 * Fraction(2 * k + 1, 2 ** (decade + 1))) / 10 ** (7 - decade)
        for decade in range(7)
        for k in range(2**decade)
    ]
    made = np.array(sorted([*magnitudes, *(-m for m in magnitudes), 0, 1]), np.float32)
    listed = np.array([float(value) for value in parse("dynamic8").values], np.float32)
    units = made.view(np.int32).astype(int) - listed.view(np.int32)
    assert len(listed) == 256 and np.abs(units).max() <= 1


def test_apot4_is_made_of_sums_of_powers_of_two():
    """APoT, equation 5, for 3 bits of magnitude: a term of each of two lists."""
    terms = ([0, "1/2", "1/4", "1/16"], [0, "1/8"])
    sums = {Fraction(a) + Fraction(b) for a in terms[0] for b in terms[1]}
    assert set(parse("apot4").values) == sums | {-number for number in sums}


@pytest.mark.parametrize(("name", "extras"), [("fp3", (3, 6)), ("fp4", (10, 16))])
def test_bitmod_adds_one_value_to_a_float(name, extras):
    """BitMoD's FP4 is E2M1 times two; its extra value has the code of minus zero."""
    doubled = {2 * Fraction(value) for value in exact.values(parse("e2m1f"))}
    floats = set(parse("fp3").values) if name == "fp3" else doubled
    for kind, extra in zip(("er", "ea"), extras, strict=True):
        for sign, factor in (("pos", 1), ("neg", -1)):
            values = parse(f"bitmod_{name}_{kind}_{sign}").values
            assert len(values) == len(floats) + 1
            assert set(values) - floats == {factor * extra}


# --- as any format ------------------------------------------------------------------------------


def test_codebooks_of_one_size_share_one_compilation():
    traced = 0

    @jax.jit
    def rounded(x, grid):
        nonlocal traced
        traced += 1
        return qsim.quantize(x, grid)

    x = jnp.linspace(-2, 2, 64)
    rows = [np.asarray(rounded(x, lower(parse(name)))) for name in SMALL]
    assert traced == 1
    stacked = np.asarray(qsim.quantize(x, qsim.stack([lower(parse(name)) for name in SMALL])))
    assert stacked.tobytes() == np.stack(rows).tobytes()


@pytest.mark.t1
def test_codebooks_are_swept_and_simulated_beside_floats():
    formats = ["nf4", "e2m1f", "ternary", "int4"]
    w = jax.random.normal(jax.random.key(0), (8, 8)) / 2
    x = jax.random.normal(jax.random.key(1), (3, 8))
    policies = [qsim.policy(weights=fmt, activations=fmt, scale="absmax") for fmt in formats]

    def product(w, x):
        return x @ w

    swept = qsim.sweep(product, policies)(w, x)
    alone = [qsim.simulate(product, policy)(w, x) for policy in policies]
    assert np.asarray(swept).tobytes() == np.stack(alone).tobytes()
    assert len({np.asarray(row).tobytes() for row in alone}) == len(formats)


def test_scales_bring_the_largest_magnitude_to_the_end():
    """Scale = absmax / largest magnitude of the list, also where that is a negative value."""
    assert float(lower(parse("bitmod_fp3_ea_neg")).largest.view(np.float32)) == 6
    assert float(lower(parse("nf4")).largest.view(np.float32)) == 1


def test_codes_are_places_in_the_list():
    fmt = parse("codebook(0.3,-2,7,-0.1)")
    assert qsim.encode(jnp.array([7.0, -2.0, 0.0, 0.3]), fmt).tolist() == [2, 1, 3, 0]
    assert qsim.decode(jnp.arange(4), fmt).tolist() == [np.float32(0.3), -2, 7, np.float32(-0.1)]
    assert np.isnan(qsim.decode(jnp.array(3), "ternary"))
    assert qsim.encode(jnp.array([np.nan, -1]), "ternary").tolist() == [3, 0]


def test_strings_and_records_are_inverses():
    for name in [*NAMED, *OTHERS, "codebook64(0.1,1e-300)"]:
        assert parse(str(parse(name))) == parse(name)
        assert hash(parse(str(parse(name)))) == hash(parse(name))
    assert str(parse("nf4")).endswith(",1)low")


def test_numbers_of_a_list_are_read_as_written():
    with unchecked():
        fmt = Codebook(values=[1, "-2.5", 0.1, "1/3", Fraction(3, 4), np.float32(0.7), np.int8(-7)])
    nearest = [Fraction(float(np.float32(number))) for number in (0.1, 1 / 3, 0.7)]
    assert fmt.values == (1, Fraction(-5, 2), *nearest[:2], Fraction(3, 4), nearest[2], -7)


def test_a_list_of_ones_own_is_read_from_a_file():
    text = """
    [mine]
    family = "codebook"
    values = [0, 1, "1/4", -1.5]
    ties = "high"
    title = "Mine"
    source = "me"
    [mine.landmarks]
    """
    (entry,) = read(text)
    assert entry.format == Codebook(values=(0, 1, Fraction(1, 4), Fraction(-3, 2)), ties="high")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"values": [1]}, ValueError, "a codebook has 2 to 65536 values, got 1"),
        ({"values": range(65537)}, ValueError, "got 65537"),
        ({"values": [0, 1, 0.0]}, ValueError, r"values 0 and 2 .* are both 0 .* leave one out"),
        ({"values": [0.1, 0.1 + 1e-12]}, ValueError, "values 0 and 1 .* are both 0.1 in float32"),
        ({"values": [1, 2**24 + 1]}, ValueError, "16777217 is no number of float32.*'float64'"),
        ({"values": [1, Fraction(1, 3)]}, ValueError, "1/3 is no number of float32; give it as a"),
        ({"values": [1, "1e39"]}, ValueError, "1e39 is beyond the largest float32"),
        ({"values": [1, float("inf")]}, ValueError, "finite numbers, got inf"),
        ({"values": [1, "1/0"]}, ValueError, "1/0 divides by zero"),
        (
            {"values": [1, "one"]},
            TypeError,
            "or '1/3', of at most 400 digits, got 'one'",
        ),
        ({"values": [1, True]}, TypeError, "a codebook holds numbers, got True"),
        ({"values": [1, None]}, TypeError, "got None"),
        ({"values": "1,2"}, TypeError, "values must be a list of numbers, got '1,2'"),
        ({"values": [1, 2], "ties": "up"}, ValueError, "ties is 'up', but must be one of even"),
        ({"values": [1, 2], "carrier": "float16"}, ValueError, "carrier is 'float16', but"),
    ],
)
def test_impossible_codebooks_say_which_rule_they_break(fields, error, message):
    with unchecked(), pytest.raises(error, match=message):
        Codebook(**fields)


def test_a_carrier_that_cannot_hold_a_codebook_refuses_it():
    with pytest.raises(
        ValueError, match=r"cannot be carried in float32: its precision is 5\d bits"
    ):
        qsim.quantize(jnp.ones(2), "codebook64(0.1,1)")
