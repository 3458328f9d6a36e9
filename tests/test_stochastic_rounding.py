"""Stochastic rounding moves up with exactly the probability that its definition gives.

With N random bits R, a magnitude that lies ``fraction`` of a gap above its lower neighbour moves
up if ``floor(fraction * 2**N) + R >= 2**N``. Of the 2**N values of R that is so for exactly
``floor(fraction * 2**N)``, which is counted here for every R.
"""

import math
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim import Float, lower, parse, stack
from qsim.numbers import exact
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import random_words
from tests.intervals import LAYOUTS, POLICIES, grid_point, intervals, magnitudes
from tests.unchecked import unchecked

FORMATS = [
    *("ocp_e4m3", "ocp_e5m2", "ocp_e2m1", "e4m3fnuz", "nv_ue4m3", "ocp_e8m0", "e7m0b64"),
    *("int8", "mx_int8", "bfloat16", "binary16", "tf32", "e3m2b128f"),
]


@partial(jax.jit, static_argnames=("rounding", "overflow"))
def rounded(x, grid, random, *, rounding, overflow):
    mode = Rounding.parse(rounding)
    return grid.round(x, mode=mode, policy=overflow, random=random)


def words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """The random words of the integers R, which stand in the top bits."""
    return (numbers.astype(np.uint64) << np.uint64(32 - bits)).astype(np.uint32)


def telling_gaps(fmt) -> list[int]:
    """The first gap, the last subnormal and the first normal one, one in the middle, the last."""
    last = magnitudes(fmt) - 2 if isinstance(fmt, Float) else int(fmt.largest / fmt.smallest) - 1
    edge = 1 << getattr(fmt, "mantissa_bits", 3)
    start = 0 if fmt.has_zero else 1
    inside = {start, edge - 1, edge, last // 2, last - 1, last}
    return sorted(gap for gap in inside if start <= gap <= last)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", FORMATS)
def test_probability_is_exact(name, bits):
    """Over all R, for fractions in steps of a quarter of 2**-N, in both signs."""
    fmt, layout = parse(name), LAYOUTS["float32"]
    steps = 2 ** (bits + 2)
    fractions = [Fraction(k, steps) for k in range(steps)]
    every = words(np.arange(2**bits), bits)
    for gap in telling_gaps(fmt):
        low, high = grid_point(fmt, gap), grid_point(fmt, gap + 1)
        numbers = [low + f * (high - low) for f in fractions]
        held = [(f, x) for f, x in zip(fractions, numbers, strict=True) if _is_float32(x)]
        x = np.array([layout.pattern(number) for _, number in held], np.uint32)
        # of one length, so that one executable serves
        x = np.resize(x, steps)
        up = np.array([math.floor(f * 2**bits) for f, _ in held])
        for sign in (0, layout.sign) if fmt.signed else (0,):
            inputs = (x | np.uint32(sign)).view(np.float32)[:, None]
            result = rounded(
                np.broadcast_to(inputs, (steps, 2**bits)),
                lower(fmt),
                np.broadcast_to(every, (steps, 2**bits)),
                rounding=f"stochastic:{bits}",
                overflow="saturate",
            )
            found = np.asarray(result).view(np.uint32)[: len(held)]
            kept = sign if low or fmt.has_negative_zero else 0
            lower_one, upper_one = layout.pattern(low) | kept, layout.pattern(high) | sign
            assert np.isin(found, [lower_one, upper_one]).all()
            assert (found == upper_one).sum(axis=1).tolist() == up.tolist()


def _is_float32(x: Fraction) -> bool:
    layout = LAYOUTS["float32"]
    return layout.magnitude(layout.at_least(x)) == x


def assert_as_defined(fmt, x, random, bits: int, overflow: str, carrier: str) -> None:
    """The bytes of ``exact.round_exact`` with each number's own R."""
    layout = LAYOUTS[carrier]
    mode = f"stochastic:{bits}"
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


@pytest.mark.parametrize("bits", [1, 3, 8, 23, 32])
@pytest.mark.parametrize("name", FORMATS)
def test_any_number_with_any_random_bits_rounds_as_defined(name, bits):
    """Also beyond the largest value, under every overflow policy."""
    fmt, random = parse(name), np.random.default_rng(bits)
    for seed, overflow in enumerate(POLICIES):
        x = some_inputs(fmt, "float32", 64, seed)
        numbers = random.integers(0, 2**bits, 64, dtype=np.uint64)
        assert_as_defined(fmt, x, numbers, bits, overflow, "float32")


@pytest.mark.t1
@pytest.mark.parametrize("bits", [1, 8, 32])
@pytest.mark.parametrize("name", ["ocp_e4m3", "bfloat16", "binary32", "e11m20", "e8m24", "int8"])
def test_any_number_of_float64_rounds_as_defined(name, bits):
    fmt, random = parse(name), np.random.default_rng(bits)
    with jax.enable_x64(True):
        x = some_inputs(fmt, "float64", 64, bits)
        numbers = random.integers(0, 2**bits, 64, dtype=np.uint64)
        assert_as_defined(fmt, x, numbers, bits, "ieee", "float64")


@pytest.mark.parametrize("name", FORMATS)
def test_values_never_move(name):
    """Whatever R is, here none and all of its bits."""
    fmt = parse(name)
    known = [x for x in intervals(fmt).inside if x is not None] if fmt.bits <= 8 else []
    if fmt.bits > 8:
        gaps = telling_gaps(fmt)
        known = [grid_point(fmt, gap) for gap in (*gaps, gaps[-1] + 1)]
    sizes = [x for x in known if isinstance(x, Fraction) and _is_value(fmt, x)]
    sizes = np.array([LAYOUTS["float32"].pattern(x) for x in sizes], np.uint32)
    x = np.resize(sizes, 512).view(np.float32)
    for number in (0, 2**8 - 1):
        random = words(np.full(512, number), 8)
        found = rounded(x, lower(fmt), random, rounding="stochastic:8", overflow="ieee")
        assert np.asarray(found).tobytes() == x.tobytes()


def _is_value(fmt, x: Fraction) -> bool:
    try:
        return exact.encode(fmt, x) >= 0
    except ValueError:
        return False


def test_a_fraction_below_the_resolution_never_moves_up():
    """The definition's bias: with one bit, 0.3 of a gap stays below for both values of R."""
    x = np.full(2, 1 + 0.3 * 2**-3, np.float32)
    random, choice = words(np.arange(2), 1), {"rounding": "stochastic:1", "overflow": "saturate"}
    found = rounded(x, lower(parse("e4m3")), random, **choice)
    assert np.asarray(found).tolist() == [1.0, 1.0]


# --- random keys ----------------------------------------------------------------------------------

COUNT = 2**16


@pytest.mark.parametrize("bits", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9])
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


@pytest.mark.parametrize("bits", [0, 33, 9999])
def test_bits_outside_one_to_thirty_two_are_refused(bits):
    with pytest.raises(ValueError, match=f"draws 1 to 32 random bits, got {bits}"):
        qsim.quantize(X, "e4m3", rounding=f"stochastic:{bits}", key=jax.random.key(0))


def test_a_key_is_needed_and_only_here():
    with pytest.raises(ValueError, match=r"rounding='stochastic' needs a random key: pass key=jax"):
        qsim.quantize(X, "e4m3", rounding="stochastic")
    with pytest.raises(ValueError, match=r"rounding='ties_to_even' takes no key"):
        qsim.quantize(X, "e4m3", key=jax.random.key(0))
