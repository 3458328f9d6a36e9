"""Tables of values round as the exact definition says, and as the grids of binades do.

Every value, every tie and their neighbours are compared by their bytes, in every mode and policy.
"""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qsim
from qsim import lower, parse
from qsim.numbers.grid import CARRIERS
from qsim.numbers.interpolation import reaches
from qsim.numbers.modes import Rounding
from qsim.numbers.tables import table_of
from tests.compiled import round_patterns
from tests.intervals import DETERMINISTIC, LAYOUTS, POLICIES, first_difference
from tests.pointwise import expected, telling

SMALL = ("e2m1fn", "e2m1", "ue2m2", "e2m1fnuz", "e3m0", "int4", "int4sym", "ufixed4.1")
WIDE = ("ocp_e4m3", "e5m2", "e4m3fnuz", "ocp_e8m0", "ocp_e2m3", "fixed8.4", "ue3m4")
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


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("spec", SMALL)
def test_a_table_is_the_exact_definition(spec, rounding):
    for overflow in ("saturate", "ieee"):
        assert_exact(spec, rounding, overflow)


@pytest.mark.t1
@pytest.mark.parametrize("spec", SMALL)
def test_a_table_is_the_exact_definition_in_every_policy(spec):
    for rounding in DETERMINISTIC:
        for overflow in POLICIES:
            assert_exact(spec, rounding, overflow)


def assert_equals_binades(spec: str, rounding: str, overflow: str):
    patterns = np.concatenate([telling(parse(spec)), ANYWHERE])
    wanted = round_patterns(patterns, lower(parse(spec)), rounding, overflow)
    assert_same(round_patterns(patterns, table(spec), rounding, overflow), wanted, patterns)


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
        for spec in ("e2m1", "e3m0b300", "fixed4.600"):
            patterns = telling(parse(spec), "float64")
            for rounding in DETERMINISTIC:
                wanted = expected(patterns, parse(spec), rounding, "ieee")
                actual = round_patterns(patterns, table(spec, "float64"), rounding, "ieee")
                assert_same(actual, wanted, patterns, "float64")


@pytest.mark.parametrize("spec", ["e2m1", "ue2m2", "int4", "ocp_e8m0", "ocp_e4m3"])
def test_inside_is_between_the_ends(spec):
    x = jnp.asarray(np.concatenate([telling(parse(spec)), ANYWHERE]).view(np.float32))
    assert (table(spec).inside(x) == lower(parse(spec)).inside(x)).all()


# --- stochastic rounding ------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("bits", "policy"))
def kernel(x, grid, words, *, bits: int, policy: str):
    return grid.round(x, mode=Rounding("stochastic", bits), policy=policy, random=words)


def stochastic(patterns, grid, words, bits: int, policy: str) -> np.ndarray:
    """The rounded patterns; arrays of one length share an executable."""
    padded = np.zeros((2, 1 << 13), np.uint32)
    padded[:, : len(patterns)] = patterns, words
    result = kernel(padded[0].view(np.float32), grid, padded[1], bits=bits, policy=policy)
    return np.asarray(result).view(np.uint32)[: len(patterns)]


@pytest.mark.parametrize("bits", [1, 7, 32])
@pytest.mark.parametrize("spec", ["e2m1", "e3m0", "int4", "ue2m2"])
def test_stochastic_rounding_is_the_exact_definition(spec, bits):
    patterns = np.concatenate([telling(parse(spec)), inner_numbers(parse(spec), 400)])
    random = SEED.integers(0, 2**bits, len(patterns))
    words = (random << (32 - bits)).astype(np.uint32)
    for policy in ("saturate", "ieee"):
        wanted = expected(patterns, parse(spec), f"stochastic:{bits}", policy, random=random)
        assert_same(stochastic(patterns, table(spec), words, bits, policy), wanted, patterns)


def inner_numbers(fmt, count: int) -> np.ndarray:
    """Numbers between the ends, of all magnitudes."""
    edge = float(max(fmt.largest, -fmt.lowest))
    numbers = SEED.uniform(-edge, edge, count) * 2.0 ** SEED.integers(-30, 1, count)
    return numbers.astype(np.float32).view(np.uint32)


@pytest.mark.parametrize("spec", ["e2m4", "ufixed6.4"])
def test_stochastic_rounding_equals_the_grid_of_binades(spec):
    patterns = [telling(parse(spec)), inner_numbers(parse(spec), 3000), ANYWHERE]
    patterns = np.concatenate(patterns)
    words = SEED.integers(0, 2**32, len(patterns), dtype=np.uint32)
    for policy in POLICIES:
        wanted = stochastic(patterns, lower(parse(spec)), words, 32, policy)
        assert_same(stochastic(patterns, table(spec), words, 32, policy), wanted, patterns)


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


reached_jit = jax.jit(reaches, static_argnames="carrier")


@given(st.data(), st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1]))
@pytest.mark.parametrize("layout", ["float32", "float64"])
def test_how_far_a_number_lies_between_two_others_is_exact(layout, data, random):
    x, near, far = data.draw(between(layout))
    kind, carrier = LAYOUTS[layout], CARRIERS[layout]
    with jax.enable_x64(layout == "float64"):
        words = [np.array(kind.pattern(number), kind.word) for number in (x, near, far)]
        word = np.array(random << (carrier.bits - 32), kind.word)
        reached = bool(reached_jit(*words, word, carrier=carrier))
    assert reached == ((x - near) / (far - near) >= 1 - Fraction(random, 2**32))


@given(st.data(), st.integers(0, 2**32 - 1))
def test_the_nearest_misses_are_told_apart(data, random):
    """x next to the number at which the sign of the sum changes."""
    _, near, far = data.draw(between("float32"))
    kind = LAYOUTS["float32"]
    change = near + (far - near) * (1 - Fraction(random, 2**32))
    sign = -1 if change < 0 else 1
    start = kind.at_least(abs(change))
    for pattern in range(max(start - 1, 0), start + 2):
        x = sign * kind.number(pattern) if pattern < kind.infinity else None
        if x is not None and min(near, far) <= x <= max(near, far):
            words = [np.array(kind.pattern(Fraction(n)), kind.word) for n in (x, near, far)]
            reached = reached_jit(*words, np.uint32(random), carrier=CARRIERS["float32"])
            assert bool(reached) == ((x - near) / (far - near) >= 1 - Fraction(random, 2**32))


# --- transformations ----------------------------------------------------------------------------


def test_all_transformations_give_the_same_bytes():
    specs = ("e2m1", "int4", "e3m0", "ue2m2")
    tables = [table(spec) for spec in specs]
    stacked = qsim.stack(tables)
    assert stacked.shape == (4,)
    x = jnp.asarray(np.concatenate([telling(parse("e2m1")), ANYWHERE]).view(np.float32))
    x = x[: len(x) // 8 * 8].reshape(8, -1)
    key = jax.random.key(0)
    for rounding, noise in (("ties_to_even", {}), ("to_odd", {}), ("stochastic:9", {"key": key})):
        settings = {"rounding": rounding, "overflow": "ieee", **noise}
        rows = [np.asarray(qsim.quantize(x, t, **settings)).tobytes() for t in tables]
        jitted = jax.jit(lambda x, g, s=settings: qsim.quantize(x, g, **s))
        assert [np.asarray(jitted(x, t)).tobytes() for t in tables] == rows
        assert np.asarray(qsim.quantize(x, stacked, **settings)).tobytes() == b"".join(rows)
        if not noise:
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
