"""Stochastic rounding moves up with exactly the probability that its definition gives.

Of the 2**N values of R, a fraction of a gap moves up for as many as it has units of 2**-N: cut off
(``stochastic``), rounded half up (``_b``) or rounded to nearest even (``_c``). ``_equal`` moves it
up for half of them. Here every R is counted.
"""

import math
from fractions import Fraction
from functools import cache, partial

import gfloat
import gfloat.formats
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gfloat import RoundMode

import qsim
from qsim import Float, lower, parse, stack
from qsim.numbers import exact
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import random_words
from tests.intervals import DETERMINISTIC, LAYOUTS, POLICIES, grid_point, magnitudes
from tests.remembered import remembered
from tests.unchecked import unchecked

FORMATS = [
    *("ocp_e4m3", "ocp_e5m2", "ocp_e2m1", "e4m3fnuz", "nv_ue4m3", "ocp_e8m0", "e7m0b64"),
    *("int8", "mx_int8", "bfloat16", "binary16", "tf32", "e3m2b128f"),
]


@partial(jax.jit, static_argnames=("rounding", "overflow"))
def rounded(x, grid, random, *, rounding, overflow):
    mode = Rounding.parse(rounding)
    return grid.round(x, mode=mode, policy=overflow, random=random)


def later(*values, mark=pytest.mark.t1):
    """Parameters for the slower runs only."""
    return (pytest.param(value, marks=mark) for value in values)


T2 = pytest.mark.t2


def words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """The random words of the integers R, which stand in the top bits."""
    return (numbers.astype(np.uint64) << np.uint64(32 - bits)).astype(np.uint32)


def telling_gaps(fmt) -> list[int]:
    """The first gap, the last subnormal and the first normal one, one in the middle, the last."""
    last = last_gap(fmt)
    edge = 1 << getattr(fmt, "mantissa_bits", 3)
    start = 0 if fmt.has_zero else 1
    inside = {start, edge - 1, edge, last // 2, last - 1, last}
    return sorted(gap for gap in inside if start <= gap <= last)


def last_gap(fmt) -> int:
    return magnitudes(fmt) - 2 if isinstance(fmt, Float) else int(fmt.largest / fmt.smallest) - 1


COUNTS = {
    "stochastic": lambda fraction, bits: math.floor(fraction * 2**bits),
    "stochastic_b": lambda fraction, bits: math.floor(fraction * 2**bits + Fraction(1, 2)),
    "stochastic_c": lambda fraction, bits: round(fraction * 2**bits),  # ties to even
    "stochastic_equal": lambda fraction, bits: 2 ** (bits - 1) if fraction else 0,
}
ROWS = 2**16  # numbers in one call, so that all formats share the executables


@partial(jax.jit, static_argnames=("rounding",))
def counts(x, lower, upper, grid, every, *, rounding):
    """For how many R each number goes to its lower neighbour, and for how many to its upper one."""
    shape = (*x.shape, *every.shape)
    found = grid.round(
        jnp.broadcast_to(x[:, None], shape),
        mode=Rounding.parse(rounding),
        policy="saturate",
        random=jnp.broadcast_to(every, shape),
    ).view(jnp.uint32)
    return (found == lower[:, None]).sum(axis=1), (found == upper[:, None]).sum(axis=1)


def assert_counts(fmt, gaps: list[int], mode: str, bits: int) -> int:
    """Over all R, for fractions in steps of a quarter of 2**-N, in both signs; how many numbers."""
    layout, steps = LAYOUTS["float32"], 2 ** (bits + 2)
    expected = [COUNTS[mode](Fraction(k, steps), bits) for k in range(steps)]
    points = [grid_point(fmt, gap) for gap in gaps]
    widths = [grid_point(fmt, gap + 1) - low for gap, low in zip(gaps, points, strict=True)]
    low, width = (np.array([float(v) for v in values])[:, None] for values in (points, widths))
    numbers = low + width * (np.arange(steps) / steps)  # exact in float64
    with np.errstate(all="ignore"):
        patterns = numbers.astype(np.float32)
    held = patterns.astype(np.float64) == numbers
    ups = np.broadcast_to(np.array(expected), numbers.shape)[held]
    lower, upper = (
        np.broadcast_to([[layout.pattern(v)] for v in values], numbers.shape)[held]
        for values in (points, [a + b for a, b in zip(points, widths, strict=True)])
    )
    every = words(np.arange(2**bits), bits)
    for sign in (0, layout.sign) if fmt.signed else (0,):
        kept = np.where(lower > 0, sign, sign if fmt.has_negative_zero else 0)
        columns = [patterns[held].view(np.uint32) | sign, lower | kept, upper | sign]
        down, up = _counted(columns, lower_grid(fmt), every, f"{mode}:{bits}")
        assert up.tolist() == ups.tolist()
        assert (down + np.where(upper == lower, 0, up) == 2**bits).all()
    return held.sum()


def _counted(columns, grid, every, rounding):
    """``counts`` in pieces of one length."""
    rows = max(1, ROWS // len(every))
    x, *neighbours = (np.asarray(column).astype(np.uint32) for column in columns)
    found = []
    for start in range(0, len(x), rows):
        part = [np.resize(column[start : start + rows], rows) for column in (x, *neighbours)]
        x_part = part[0].view(np.float32)
        pair = counts(x_part, part[1], part[2], grid, every, rounding=rounding)
        found.append(np.stack(pair)[:, : len(x[start : start + rows])])
    return np.concatenate(found, axis=1)


@cache
def lower_grid(fmt):
    return lower(fmt)


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_probability_is_exact(name, mode):
    fmt = parse(name)
    for bits in (1, 4):
        assert assert_counts(fmt, telling_gaps(fmt), mode, bits) > 0


# 2**16 numbers for every gap are many
@pytest.mark.parametrize(
    ("bits", "mode"),
    [
        *(pytest.param(bits, m, marks=pytest.mark.t1) for bits in (1, 2, 3, 5) for m in COUNTS),
        pytest.param(8, "stochastic", marks=pytest.mark.t1),
        *(pytest.param(bits, m, marks=T2) for bits in (4, 6, 7) for m in COUNTS),
        *(pytest.param(8, m, marks=T2) for m in COUNTS if m != "stochastic"),
    ],
)
@pytest.mark.every(2)
def test_probability_is_exact_in_every_gap(bits, mode):
    for name in ("ocp_e4m3", "ocp_e5m2", "ocp_e3m2", "ocp_e2m1", "e4m3fnuz", "int8", "ocp_e8m0"):
        fmt = parse(name)
        gaps = list(range(0 if fmt.has_zero else 1, last_gap(fmt) + 1))
        held = assert_counts(fmt, gaps, mode, bits)
        assert held == len(gaps) * 2 ** (bits + 2)


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("bits", [1, 2, *later(3)])
@pytest.mark.parametrize("name", ["ocp_e2m1", "ocp_e8m0", "int4"])
def test_the_exact_definition_has_that_probability(name, bits, mode):
    """Every R is asked, in both signs."""
    fmt, steps = parse(name), 2 ** (bits + 2)
    rounding = f"{mode}:{bits}"
    with remembered():
        for gap in telling_gaps(fmt):
            low, high = grid_point(fmt, gap), grid_point(fmt, gap + 1)
            for k in range(steps):
                x = low + Fraction(k, steps) * (high - low)
                ups = COUNTS[mode](Fraction(k, steps), bits)
                for sign in (1, -1) if fmt.signed else (1,):
                    found = [
                        exact.round_exact(sign * x, fmt, rounding=rounding, random=number)
                        for number in range(2**bits)
                    ]
                    assert found.count(sign * high) == ups
                    assert len(found) - ups == sum(abs(value) == low for value in found)
                    chance = exact.probability(sign * x, fmt, rounding=rounding)
                    assert chance == Fraction(ups, 2**bits)


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("bits", [8, 23, 31, 32])
def test_probability_of_many_bits(bits, mode):
    fmt, random = parse("ocp_e4m3"), np.random.default_rng(bits)
    with unchecked():
        for numerator in random.integers(0, 2**40, 50):
            fraction = Fraction(int(numerator), 2**40)
            chance = exact.probability(1 + fraction / 8, fmt, rounding=f"{mode}:{bits}")
            assert chance == Fraction(COUNTS[mode](fraction, bits), 2**bits)


def test_deterministic_modes_have_probability_zero_or_one():
    fmt, x = parse("e4m3"), Fraction(17, 16)
    chances = {mode: exact.probability(x, fmt, rounding=mode) for mode in DETERMINISTIC}
    assert {mode for mode, chance in chances.items() if chance == 1} == {
        *("ties_to_away", "ties_to_odd", "up", "away_from_zero", "to_odd")
    }
    assert set(chances.values()) == {0, 1}
    assert exact.probability(-x, fmt, rounding="down") == 1


def assert_as_defined(fmt, x, random, mode: str, bits: int, overflow: str, carrier: str) -> None:
    """The bytes of ``exact.round_exact`` with each number's own R."""
    layout = LAYOUTS[carrier]
    mode = f"{mode}:{bits}"
    with unchecked():
        expected = [
            layout.pattern(
                exact.round_exact(
                    layout.number(int(p)), fmt, rounding=mode, overflow=overflow, random=int(r)
                )
            )
            for p, r in zip(x, random, strict=True)
        ]
    found = rounded(
        x.view(carrier), lower(fmt, carrier), words(random, bits), rounding=mode, overflow=overflow
    )
    assert np.asarray(found).view(layout.word).tolist() == expected


def some_inputs(fmt, carrier: str, count: int, seed: int) -> np.ndarray:
    """Patterns from the range of the format, from one beyond it, and from everywhere."""
    layout, random = LAYOUTS[carrier], np.random.default_rng(seed)
    last = layout.at_least(fmt.largest * 4)
    first = layout.at_least(fmt.smallest / 2**10)
    drawn = np.where(
        random.random(count) < 0.8,
        random.integers(first, last, count, dtype=np.uint64),
        random.integers(0, layout.sign, count, dtype=np.uint64),
    )
    signs = random.integers(0, 2, count, dtype=np.uint64) << np.uint64(layout.bits - 1)
    return (drawn | signs).astype(layout.word)


def some_numbers(bits: int, count: int, seed: int) -> np.ndarray:
    """Values of R, the extreme ones among them."""
    drawn = np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint64)
    return np.where(np.arange(count) % 4 == 0, drawn % 2 * (2**bits - 1), drawn)


@pytest.mark.t1
@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("bits", [3, *later(32)])
@pytest.mark.parametrize("name", FORMATS)
def test_any_number_with_any_random_bits_rounds_as_defined(name, bits, mode):
    """Also beyond the largest value; the policies take turns."""
    fmt, turn = parse(name), FORMATS.index(name) + bits
    overflow = POLICIES[turn % len(POLICIES)]
    x, numbers = some_inputs(fmt, "float32", 64, turn), some_numbers(bits, 64, bits)
    assert_as_defined(fmt, x, numbers, mode, bits, overflow, "float32")


def decisive(fmt, mode: str, bits: int, carrier: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers about multiples of half a unit of 2**-N, in the first gap and in others, and an R.

    R is the smallest that moves a number up, or the largest that does not.
    """
    layout, random = LAYOUTS[carrier], np.random.default_rng(seed)
    patterns, numbers = [], []
    for turn, gap in enumerate(random.choice([0, *telling_gaps(fmt)], 64)):
        low, high = grid_point(fmt, int(gap)), grid_point(fmt, int(gap) + 1)
        halves = int(random.integers(2 ** int(random.integers(0, bits + 2))))
        about = low + Fraction(halves, 2 ** (bits + 1)) * (high - low)
        pattern = layout.at_least(about) + max(int(random.integers(-1, 2)), -halves)
        between = exact.gap_at(fmt, layout.magnitude(pattern))
        fraction = layout.magnitude(pattern) - between.near
        fraction /= between.far - between.near or 1
        least = 2**bits - COUNTS[mode](fraction, bits)
        patterns.append(pattern | (layout.sign if turn % 2 else 0))
        numbers.append(min(max(least - turn // 2 % 2, 0), 2**bits - 1))
    return np.array(patterns, layout.word), np.array(numbers, np.uint64)


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("bits", [8, *later(1, 16, 31, 32), *later(2, 23, 30, mark=T2)])
def test_the_random_number_that_decides(bits, mode):
    for seed, name in enumerate(("ocp_e4m3", "e5m10", "int8", "ocp_e2m1", "ocp_e8m0", "bfloat16")):
        fmt = parse(name)
        with unchecked():
            x, numbers = decisive(fmt, mode, bits, "float32", seed)
        assert_as_defined(fmt, x, numbers, mode, bits, "ieee", "float32")


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("bits", [*later(1, 23, 32), *later(8, 31, mark=T2)])
def test_the_random_number_that_decides_in_float64(bits, mode):
    for seed, name in enumerate(("ocp_e4m3", "e5m10", "binary32", "e11m20")):
        fmt = parse(name)
        with jax.enable_x64(True):
            with unchecked():
                x, numbers = decisive(fmt, mode, bits, "float64", seed)
            assert_as_defined(fmt, x, numbers, mode, bits, "ieee", "float64")


@pytest.mark.t1
@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("bits", [1, 8, 32])
@pytest.mark.parametrize("name", ["ocp_e4m3", "bfloat16", "binary32", "e11m20", "e8m24", "int8"])
def test_any_number_of_float64_rounds_as_defined(name, bits, mode):
    fmt = parse(name)
    with jax.enable_x64(True):
        x, numbers = some_inputs(fmt, "float64", 64, bits), some_numbers(bits, 64, bits)
        assert_as_defined(fmt, x, numbers, mode, bits, "ieee", "float64")


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("name", FORMATS)
def test_values_never_move(name, mode):
    """Whatever R is, here none and all of its bits."""
    fmt, x = parse(name), np.resize(some_values(parse(name)), 512)
    for number in (0, 2**8 - 1):
        random = words(np.full(512, number), 8)
        found = rounded(x, lower(fmt), random, rounding=f"{mode}:8", overflow="ieee")
        assert np.asarray(found).tobytes() == x.tobytes()


@cache
def some_values(fmt) -> np.ndarray:
    """All finite values of a narrow format, those about the telling gaps of a wide one."""
    if fmt.bits <= 8:
        with unchecked():
            values = [value for value in exact.values(fmt) if isinstance(value, Fraction)]
        # the value -2**(n-1) of symmetric integers has a code, but rounding never gives it
        values = [value for value in values if fmt.lowest <= value <= fmt.largest]
    else:
        gaps = telling_gaps(fmt)
        values = [grid_point(fmt, gap) for gap in (*gaps, gaps[-1] + 1)]
    patterns = [LAYOUTS["float32"].pattern(value) for value in values]
    return np.array(patterns, np.uint32).view(np.float32)


def test_a_fraction_below_the_resolution_never_moves_up():
    """The definition's bias: with one bit, 0.3 of a gap stays below for both values of R."""
    x = np.full(2, 1 + 0.3 * 2**-3, np.float32)
    random, choice = words(np.arange(2), 1), {"rounding": "stochastic:1", "overflow": "saturate"}
    found = rounded(x, lower(parse("e4m3")), random, **choice)
    assert np.asarray(found).tolist() == [1.0, 1.0]


# gfloat names its modes by their cost; the one without an epithet rounds the fraction to nearest
GFLOAT = {
    "stochastic": RoundMode.StochasticFastest,
    "stochastic_b": RoundMode.StochasticFast,
    "stochastic_c": RoundMode.Stochastic,
}


@pytest.mark.parametrize("mode", GFLOAT)
@pytest.mark.parametrize("bits", [8, *later(1, 3, 16, 23)])
def test_gfloat_agrees(bits, mode):
    """An independent program, for finite numbers of e5m2 within its range."""
    fmt, x = parse("ocp_e5m2"), some_inputs(parse("ocp_e5m2"), "float32", 4096, bits)
    x = x.view(np.float32)
    x = x[np.abs(x) < 50000]
    numbers = some_numbers(bits, len(x), bits)
    theirs = gfloat.round_ndarray(
        gfloat.formats.format_info_ocp_e5m2,
        x.astype(np.float64),
        GFLOAT[mode],
        srbits=numbers.astype(np.int64),
        srnumbits=bits,
    )
    random = words(numbers, bits)
    ours = rounded(x, lower(fmt), random, rounding=f"{mode}:{bits}", overflow="saturate")
    assert np.asarray(ours).tobytes() == theirs.astype(np.float32).tobytes()


# --- random keys ----------------------------------------------------------------------------------

COUNT = 2**16


@pytest.mark.parametrize("bits", [2, 32])
@pytest.mark.parametrize("fraction", [0.3, 0.9])
def test_share_of_ups_is_binomial(bits, fraction):
    """Within three standard deviations of COUNT draws with p = floor(fraction * 2**N) / 2**N."""
    x = np.float32(1 + fraction * 2**-3)
    probability = math.floor(Fraction(float(x) - 1.0) * 8 * 2**bits) / 2**bits
    key = jax.random.key(100 + bits)
    result = qsim.quantize(jnp.full(COUNT, x), "e4m3", rounding=f"stochastic:{bits}", key=key)
    ups = int((result == 1.125).sum())
    deviation = math.sqrt(COUNT * probability * (1 - probability))
    assert ups + int((result == 1.0).sum()) == COUNT
    assert abs(ups - COUNT * probability) <= 3 * deviation


@pytest.mark.parametrize("bits", [1, 7, 32])
def test_random_words_use_just_their_top_bits(bits):
    drawn = np.asarray(random_words(jax.random.key(1), (4096,), Rounding("stochastic", bits)))
    used = (2**32 - 1) << (32 - bits) & (2**32 - 1)
    assert np.bitwise_or.reduce(drawn) == used
    ones = np.unpackbits(drawn.view(np.uint8)).sum()
    assert abs(ones - 4096 * bits / 2) <= 3 * math.sqrt(4096 * bits) / 2


X = jnp.linspace(-3.0, 3.0, 257)


def test_same_key_same_bytes():
    """Eagerly, under ``jit``, and for one row of a stack of formats."""
    key = jax.random.key(7)
    grids = stack([lower(parse(name)) for name in ("e4m3", "ocp_e2m1")])
    solo = qsim.quantize(X, "e4m3", rounding="stochastic:8", key=key)
    compiled = jax.jit(lambda x, k: qsim.quantize(x, "e4m3", rounding="stochastic:8", key=k))
    batch = qsim.quantize(X, grids, rounding="stochastic:8", key=key)
    assert solo.tobytes() == compiled(X, key).tobytes() == batch[0].tobytes()


def test_a_batch_of_keys_equals_each_key_alone():
    keys = jax.random.split(jax.random.key(8), 3)

    def noisy(key):
        return qsim.quantize(X, "e4m3", rounding="stochastic", key=key)

    batch = jax.jit(jax.vmap(noisy))(keys)
    assert batch.tobytes() == b"".join(noisy(key).tobytes() for key in keys)
    assert len({row.tobytes() for row in batch}) == 3


def test_formats_of_a_stack_see_the_same_noise():
    """Two rows with the same format are the same row."""
    grids = stack([lower(parse("e4m3"))] * 2)
    first, second = qsim.quantize(X, grids, rounding="stochastic", key=jax.random.key(9))
    assert first.tobytes() == second.tobytes()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", COUNTS)
@pytest.mark.parametrize("bits", [0, 33, 9999])
def test_bits_outside_one_to_thirty_two_are_refused(bits, mode):
    with pytest.raises(ValueError, match=f"draws 1 to 32 random bits, got {bits}"):
        qsim.quantize(X, "e4m3", rounding=f"{mode}:{bits}", key=jax.random.key(0))


@pytest.mark.parametrize("mode", COUNTS)
def test_a_key_is_needed_and_only_here(mode):
    with pytest.raises(ValueError, match=rf"rounding='{mode}' needs a random key: pass key=jax"):
        qsim.quantize(X, "e4m3", rounding=mode)
    with pytest.raises(ValueError, match=r"rounding='ties_to_even' takes no key"):
        qsim.quantize(X, "e4m3", key=jax.random.key(0))


@pytest.mark.parametrize("number", [-1, 8])
@pytest.mark.parametrize("mode", COUNTS)
def test_a_number_that_is_never_drawn_is_refused(number, mode):
    with pytest.raises(ValueError, match=rf"draws R from 0\.\.7, got {number}"):
        exact.round_exact(Fraction(1), parse("e4m3"), rounding=f"{mode}:3", random=number)
    with pytest.raises(ValueError, match="to_odd rounding draws no random bits, got R = 1"):
        exact.round_exact(Fraction(1), parse("e4m3"), rounding="to_odd", random=1)


@pytest.mark.parametrize("x", [math.inf, math.nan])
def test_what_has_no_neighbours_has_no_probability(x):
    with pytest.raises(ValueError, match=f"{x} has no neighbours on a grid"):
        exact.probability(x, parse("e4m3"), rounding="stochastic")
