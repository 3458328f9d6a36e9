"""Logarithmic formats: values are powers of two to 24 bits, and rounding is exact."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qsim
from qsim import Logarithmic, lower, parse
from qsim.numbers import exact
from qsim.numbers.modes import Rounding
from qsim.numbers.records import exponent_of
from tests.compiled import draw_patterns, round_patterns
from tests.intervals import DETERMINISTIC, LAYOUTS, POLICIES, first_difference
from tests.pointwise import expected, finite, telling
from tests.unchecked import unchecked

LONGER = ("lns5.2", "lns5.1log")
SMALL = ("lns4.1", "lns5.2", "pot4", "ulns4.1b3", "lns5.1log", "pot4log", "ulns3.2b-1log")


def assert_exact(spec: str, rounding: str, overflow: str, layout: str = "float32"):
    fmt = parse(spec)
    patterns = telling(fmt, layout)
    wanted = expected(patterns, fmt, rounding, overflow)
    actual = round_patterns(patterns, lower(fmt, layout), rounding, overflow)
    difference = first_difference(actual, wanted, patterns, layout)
    assert not difference, difference


@pytest.mark.t1
@pytest.mark.parametrize("rounding", DETERMINISTIC)
def test_logarithmic_formats_round_as_defined(rounding):
    for spec in SMALL:
        assert_exact(spec, rounding, "ieee")


@pytest.mark.parametrize(
    "spec",
    [
        *(pytest.param(spec, marks=pytest.mark.t1) for spec in SMALL if spec not in LONGER),
        *(pytest.param(spec, marks=pytest.mark.t2) for spec in (*LONGER, "lns8.3", "lns8.5log")),
    ],
)
def test_logarithmic_formats_round_as_defined_in_every_mode_and_policy(spec):
    for rounding in DETERMINISTIC:
        for overflow in POLICIES:
            assert_exact(spec, rounding, overflow)


@pytest.mark.parametrize("spec", ["lns8.3", "lns8.3log"])
def test_eight_bits_round_as_defined(spec):
    assert_exact(spec, "ties_to_even", "saturate")


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["lns5.2", "pot4log"])
@pytest.mark.parametrize("rounding", ["stochastic:5", "stochastic_b:32"])
def test_stochastic_rounding_is_as_defined(spec, rounding):
    fmt, mode, generator = parse(spec), Rounding.parse(rounding), np.random.default_rng(0)
    patterns = np.resize(telling(fmt), 1024)
    patterns[:500] = generator.normal(size=500).astype(np.float32).view(np.uint32)
    random = generator.integers(0, 2**mode.random_bits, len(patterns))
    wanted = expected(patterns, fmt, rounding, "ieee", random=random)
    assert draw_patterns(patterns, random, fmt, rounding, "ieee").tolist() == wanted.tolist()


@pytest.mark.t1
def test_float64_carries_the_same_values():
    with jax.enable_x64(True):
        for rounding in DETERMINISTIC:
            assert_exact("lns4.1log", rounding, "ieee", "float64")
        wide, narrow = (
            qsim.decode(jnp.arange(32), "lns5.2", dtype=d) for d in ("float64", "float32")
        )
        assert np.array_equal(wide, narrow.astype(np.float64), equal_nan=True)


# --- the values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["lns8.3", "lns8.6", "ulns12.9b4", "pot6", "lns9.2b-5"])
def test_values_are_the_nearest_numbers_of_24_bits(spec):
    """A value v of 24 bits, with the neighbours v - u and v + u: ``v - u/2 < 2**(k/n) < v + u/2``.

    Both sides to the power of n are fractions.
    """
    fmt = parse(spec)
    n = 2**fmt.fraction_bits
    fields = range(1, fmt.top_field + 1, 1 if fmt.bits < 9 else 37)
    for field in fields:
        value, k = fmt.magnitude(field), field - fmt.bias * n
        if k % n == 0:
            assert value == Fraction(2) ** (k // n)
            continue
        half_unit = Fraction(2) ** (k // n - 24)
        assert (value / half_unit / 2).denominator == 1
        assert (value - half_unit) ** n < Fraction(2) ** k < (value + half_unit) ** n


@pytest.mark.parametrize("spec", ["lns5.2log", "lns8.3log", "pot4log", "ulns9.5log"])
def test_logarithms_tie_in_the_middle(spec):
    """The tie t: ``t**2 <= 2**(k/n) * 2**((k+1)/n)``, in the power of n; too long for a carrier."""
    fmt = parse(spec)
    n = 2**fmt.fraction_bits
    for field in range(0, fmt.top_field + 3, 1 if fmt.bits < 9 else 7):
        tie, k = fmt.tie(field), field - fmt.bias * n
        unit = Fraction(2) ** (exponent_of(tie) - 127)
        assert tie ** (2 * n) < Fraction(2) ** (2 * k + 1) < (tie + unit) ** (2 * n)
        assert tie.numerator.bit_length() > 53
        assert fmt.magnitude(field) < tie < fmt.magnitude(field + 1)


def test_codes_are_sign_and_logarithm():
    with unchecked():
        values = exact.values(parse("pot4b3"))
    positive = [0, Fraction(1, 4), Fraction(1, 2), 1, 2, 4, 8, 16]
    assert values[:8] == positive and values[9:] == [-value for value in positive[1:]]
    assert np.isnan(values[8])
    assert qsim.encode(jnp.array([-0.5, 0.0, 3.1, np.nan, 100.0]), "pot4b3").tolist() == [
        10,
        0,
        5,
        8,
        7,
    ]
    assert parse("log4") == parse("pot4b3")


def test_nearest_logarithm_is_not_nearest_value():
    """1.45 is nearer to 1, its logarithm 0.536 is nearer to that of 2."""
    x = jnp.float32(1.45)
    assert float(qsim.quantize(x, "pot4")) == 1
    assert float(qsim.quantize(x, "pot4log")) == 2


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["lns10.5", pytest.param("lns16.10", marks=pytest.mark.t2)])
def test_wide_formats_are_carried(spec):
    fmt = parse(spec)
    values = np.array([float(value) for value in finite(fmt)], np.float32)
    assert len(values) == 2**fmt.bits - 1 and (np.diff(values) > 0).all()
    assert np.asarray(qsim.quantize(values, fmt)).tobytes() == values.tobytes()


def test_a_stack_of_logarithmic_formats_is_each_of_them():
    specs = [spec for spec in SMALL if parse(spec).bits <= 4]
    x = jnp.linspace(-9, 9, 300)
    rows = [np.asarray(qsim.quantize(x, spec)) for spec in specs]
    stacked = qsim.stack([lower(parse(spec)) for spec in [*specs, "nf4"]])
    assert np.asarray(qsim.quantize(x, stacked))[:-1].tobytes() == np.stack(rows).tobytes()


# --- names and refusals ---------------------------------------------------------------------------


@given(st.integers(1, 15), st.integers(0, 14), st.integers(-300, 300), st.booleans(), st.booleans())
def test_strings_and_records_are_inverses(integer_bits, fraction_bits, bias, signed, logarithm):
    if signed + integer_bits + fraction_bits <= 16:
        with unchecked():
            fmt = Logarithmic(
                integer_bits=integer_bits,
                fraction_bits=fraction_bits,
                bias=bias,
                signed=signed,
                nearest="logarithm" if logarithm else "value",
            )
        assert parse(str(fmt)) == fmt


def test_powers_of_two_are_logarithms_without_fraction():
    assert str(parse("pot4")) == "lns4.0" and str(parse("upot5b2log")) == "ulns5.0b2log"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lns8.7", "integer_bits is 0, but a logarithm has at least 1; write 'lns8.3'"),
        ("pot1", "integer_bits is 0"),
        ("lns17.3", "the code would have 17 bits, but logarithmic formats have at most 16"),
        ("lns8.3b40000", "bias is 40000, but it must be within -32768..32768"),
    ],
)
def test_impossible_formats_say_which_rule_they_break(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_impossible_fields_say_which_rule_they_break():
    with unchecked(), pytest.raises(ValueError, match="fraction_bits is -1"):
        Logarithmic(integer_bits=2, fraction_bits=-1)
    with unchecked(), pytest.raises(ValueError, match="nearest is 'exponent', but must be 'value'"):
        Logarithmic(integer_bits=2, fraction_bits=1, nearest="exponent")
    with unchecked(), pytest.raises(TypeError, match=r"bias must be a Python int, got 1\.5"):
        Logarithmic(integer_bits=2, fraction_bits=1, bias=1.5)
    with pytest.raises(ValueError, match=r"lns8\.3b140 cannot be carried"):
        lower(parse("lns8.3b140"))


def test_layouts_hold_every_value():
    assert all(LAYOUTS["float32"].pattern(value) for value in finite(parse("lns8.3")) if value)
