"""Tables of values round as the exact definition says, and as the grids of binades do.

Every value, every tie and their neighbours are compared by their bytes, in every mode and policy.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qsim
from qsim import lower, parse
from qsim.numbers import exact
from qsim.numbers.grid import CARRIERS
from qsim.numbers.interpolation import moves
from qsim.numbers.modes import Rounding
from qsim.numbers.tables import table_of
from tests.compiled import draw_patterns, round_patterns
from tests.intervals import DETERMINISTIC, LAYOUTS, POLICIES, first_difference
from tests.pointwise import expected, telling
from tests.unchecked import unchecked

SMALL = ("e2m1fn", "e2m1", "ue2m2", "e2m1fnuz", "e3m0", "int4", "int4sym", "ufixed4.1")
WIDE = ("ocp_e4m3", "e4m3fnuz", "ocp_e8m0", "ocp_e2m3", "fixed8.4")
SEED = np.random.default_rng(3)
ANYWHERE = SEED.integers(0, 2**32, 2000, dtype=np.uint32)


def table(spec: str, carrier: str = "float32"):
    return table_of(parse(spec), CARRIERS[carrier])


def assert_same(actual, wanted, patterns, layout="float32"):
    difference = first_difference(actual, wanted, patterns, layout)
    assert not difference, difference


# --- the deterministic modes --------------------------------------------------------------------


def assert_exact(spec: str, rounding: str, overflow: str):
    patterns = telling(parse(spec))
    wanted = expected(patterns, parse(spec), rounding, overflow)
    assert_same(round_patterns(patterns, table(spec), rounding, overflow), wanted, patterns)


@pytest.mark.t1
@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("spec", SMALL)
def test_a_table_is_the_exact_definition(spec, rounding):
    assert_exact(spec, rounding, "ieee")


@pytest.mark.t1
@pytest.mark.parametrize("spec", SMALL)
@pytest.mark.every(2)
def test_a_table_is_the_exact_definition_in_every_policy(spec):
    for rounding in DETERMINISTIC:
        for overflow in POLICIES:
            assert_exact(spec, rounding, overflow)


def assert_equals_binades(spec: str, rounding: str, overflow: str):
    patterns = np.concatenate([telling(parse(spec)), ANYWHERE])
    wanted = round_patterns(patterns, lower(parse(spec)), rounding, overflow)
    assert_same(round_patterns(patterns, table(spec), rounding, overflow), wanted, patterns)


@pytest.mark.t1
@pytest.mark.parametrize("spec", WIDE)
def test_a_table_equals_the_grid_of_binades(spec):
    """Two implementations that share nothing but the exact definition."""
    assert_equals_binades(spec, "ties_to_even", "saturate")
    assert_equals_binades(spec, "to_odd", "ieee")


@pytest.mark.t2
@pytest.mark.parametrize("spec", [*WIDE, "e4m7", "e8m2", "fixed11.140", "binary16"])
def test_a_table_equals_the_grid_of_binades_in_every_mode_and_policy(spec):
    for rounding in DETERMINISTIC:
        for overflow in POLICIES:
            assert_equals_binades(spec, rounding, overflow)


def test_a_table_in_float64_is_the_exact_definition():
    with jax.enable_x64(True):
        for spec in ("e2m1", "e3m0b300"):
            patterns = telling(parse(spec), "float64")
            for rounding in DETERMINISTIC:
                wanted = expected(patterns, parse(spec), rounding, "ieee")
                actual = round_patterns(patterns, table(spec, "float64"), rounding, "ieee")
                assert_same(actual, wanted, patterns, "float64")


@pytest.mark.parametrize("spec", ["e2m1", "ue2m2", "int4", "ocp_e8m0", "ocp_e4m3"])
def test_inside_is_between_the_ends(spec):
    patterns = np.concatenate([telling(parse(spec)), ANYWHERE])
    x = jnp.asarray(np.resize(patterns, 1 << 13).view(np.float32))
    inside = jax.jit(lambda x, grid: grid.inside(x))
    assert (inside(x, table(spec)) == inside(x, lower(parse(spec)))).all()


# --- stochastic rounding ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "bits"),
    [("stochastic", 7), ("stochastic_b", 3), ("stochastic_c", 32), ("stochastic_equal", 1)],
)
@pytest.mark.parametrize(
    "spec", ["e2m1", *(pytest.param(s, marks=pytest.mark.t1) for s in ("e3m0", "int4", "ue2m2"))]
)
def test_stochastic_rounding_is_the_exact_definition(spec, mode, bits):
    patterns = np.concatenate([telling(parse(spec)), inner_numbers(parse(spec), 400)])
    random, rounding = SEED.integers(0, 2**bits, len(patterns)), f"{mode}:{bits}"
    wanted = expected(patterns, parse(spec), rounding, "ieee", random=random)
    actual = draw_patterns(patterns, random, table(spec), rounding, "ieee")
    assert_same(actual, wanted, patterns)


def inner_numbers(fmt, count: int) -> np.ndarray:
    """Numbers between the ends, of all magnitudes."""
    edge = float(max(fmt.largest, -fmt.lowest))
    numbers = SEED.uniform(-edge, edge, count) * 2.0 ** SEED.integers(-30, 1, count)
    return numbers.astype(np.float32).view(np.uint32)


@pytest.mark.t1
@pytest.mark.parametrize("spec", ["e2m4", "ufixed6.4"])
def test_stochastic_rounding_equals_the_grid_of_binades(spec):
    patterns = [telling(parse(spec)), inner_numbers(parse(spec), 3000), ANYWHERE]
    patterns = np.concatenate(patterns)
    random = SEED.integers(0, 2**32, len(patterns))
    for policy in ("saturate", "p3109"):
        wanted = draw_patterns(patterns, random, parse(spec), "stochastic", policy)
        actual = draw_patterns(patterns, random, table(spec), "stochastic", policy)
        assert_same(actual, wanted, patterns)


def magnitudes(layout: str):
    """Patterns of finite magnitudes, those that are near in the order often near in size."""
    top = LAYOUTS[layout].infinity - 1
    anywhere = st.integers(0, top)
    close = st.builds(lambda a, b: min(a + b, top), st.integers(0, top), st.integers(0, 1 << 26))
    return anywhere | close


@st.composite
def between(draw, layout: str):
    """Patterns of x, near, far: x in between, ``near`` not of the larger magnitude."""
    kind = LAYOUTS[layout]
    low, high = sorted([draw(magnitudes(layout)), draw(magnitudes(layout))])
    high = min(max(high, low + 1), kind.infinity - 1)
    low = min(low, high - 1)
    straddles, negative = draw(st.booleans()), draw(st.booleans())
    near, far = kind.number(low) * (-1 if straddles else 1), kind.number(high)
    if straddles and draw(st.booleans()):
        x = -Fraction(kind.number(draw(st.integers(0, low))))
    else:
        x = Fraction(kind.number(draw(st.integers(0 if straddles else low, high))))
    sign = -1 if negative else 1
    return sign * x, Fraction(sign * near), Fraction(sign * far)


moved = jax.jit(moves, static_argnames=("mode", "carrier"))


def assert_moves_as_defined(x, near, far, random: int, mode: Rounding, layout: str):
    kind, carrier = LAYOUTS[layout], CARRIERS[layout]
    words = [np.array(kind.pattern(Fraction(n)), kind.word) for n in (x, near, far)]
    word = np.uint32(random << (32 - mode.random_bits))
    with jax.enable_x64(layout == "float64"):
        actual = bool(moved(*words, word, mode=mode, carrier=carrier))
    fraction = (x - near) / (far - near)
    with unchecked():
        drawn = 0 < fraction < 1 and exact._is_drawn_up(fraction, mode, random)
    assert actual == (drawn or fraction == 1)


STOCHASTIC = [
    Rounding(mode, bits)
    for mode in ("stochastic", "stochastic_b", "stochastic_c")
    for bits in (1, 5, 31, 32)
]


@given(st.data(), st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1]))
@pytest.mark.parametrize("layout", ["float32", pytest.param("float64", marks=pytest.mark.t1)])
def test_numbers_between_any_two_others_move_as_defined(layout, data, random):
    mode = data.draw(st.sampled_from(STOCHASTIC))
    random >>= 32 - mode.random_bits
    assert_moves_as_defined(*data.draw(between(layout)), random, mode, layout)


@given(st.data(), st.integers(0, 2**32 - 1))
def test_numbers_next_to_where_moving_begins_move_as_defined(data, random):
    """x next to the number at which the sign of the sum changes."""
    mode, kind = data.draw(st.sampled_from(STOCHASTIC)), LAYOUTS["float32"]
    random >>= 32 - mode.random_bits
    _, near, far = data.draw(between("float32"))
    half = Fraction(0 if mode.mode == "stochastic" else 1, 2)
    change = near + (far - near) * (1 - (random + half) / 2**mode.random_bits)
    sign, start = -1 if change < 0 else 1, kind.at_least(abs(change))
    for pattern in range(max(start - 1, 0), min(start + 2, kind.infinity)):
        x = sign * kind.magnitude(pattern)
        if min(near, far) <= x <= max(near, far):
            assert_moves_as_defined(x, near, far, random, mode, "float32")


# --- transformations ----------------------------------------------------------------------------


@pytest.mark.ci
def test_all_transformations_give_the_same_bytes():
    specs = ("e2m1", "int4", "e3m0", "ue2m2")
    tables = [table(spec) for spec in specs]
    stacked = qsim.stack(tables)
    assert stacked.shape == (4,)
    x = jnp.asarray(np.concatenate([telling(parse("e2m1")), ANYWHERE]).view(np.float32))
    x = x[: len(x) // 8 * 8].reshape(8, -1)
    key = jax.random.key(0)
    for rounding, noise in (("ties_to_even", {}), ("stochastic:9", {"key": key})):
        settings = {"rounding": rounding, "overflow": "ieee", **noise}
        rows = [np.asarray(qsim.quantize(x, t, **settings)).tobytes() for t in tables]
        jitted = jax.jit(lambda x, g, s=settings: qsim.quantize(x, g, **s))
        assert [np.asarray(jitted(x, t)).tobytes() for t in tables] == rows
        assert np.asarray(qsim.quantize(x, stacked, **settings)).tobytes() == b"".join(rows)
        if rounding == "ties_to_even":
            mapped = jax.vmap(jitted, in_axes=(0, None))
            assert [np.asarray(mapped(x, t)).tobytes() for t in tables] == rows
            with jax.disable_jit():
                assert np.asarray(qsim.quantize(x, tables[0], **settings)).tobytes() == rows[0]


def test_tables_of_one_size_share_one_compilation():
    traced = 0

    @jax.jit
    def rounded(x, grid):
        nonlocal traced
        traced += 1
        return qsim.quantize(x, grid)

    for spec in SMALL:
        rounded(jnp.ones(7), table(spec))
    assert traced == 1


def test_the_derivative_is_straight_through():
    slope = jax.grad(lambda x: qsim.quantize(x, table("e2m1f")).sum())
    assert slope(jnp.array([0.3, -6.0, 7.0])).tolist() == [1.0, 1.0, 0.0]


# --- what is refused ----------------------------------------------------------------------------


def test_formats_of_more_than_16_bits_are_refused():
    with pytest.raises(ValueError, match="e8m8 has 17 bits, but a table holds at most 16"):
        table("e8m8")


def test_formats_that_the_carrier_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="e3m0b300 cannot be carried in float32"):
        table("e3m0b300")
