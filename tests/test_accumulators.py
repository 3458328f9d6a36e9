"""Accumulators equal their exact definition, in every order."""

import itertools
import math
from fractions import Fraction
from functools import cache, partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import softfloatpy as softfloat

import qsim
from qsim.arithmetic import matmul
from qsim.arithmetic.accumulation import Accumulation, Steps
from qsim.arithmetic.accumulator import PROFILES, Accumulator
from qsim.arithmetic.contraction import canonical
from qsim.arithmetic.exact_sums import exact_dot
from qsim.arithmetic.extents import Extent
from qsim.numbers.exact import values
from qsim.numbers.grid import CARRIERS
from tests.bytewise import same

SIZES = (0, 1, 2, 3, 16, 17, 32, 33, 1000)
SPEAKING = (
    "e5m10",
    "e8m13",
    "binary32",
    "e5m10 product=e5m10",
    "e4m3 product=e5m2 saturate",
    "e5m10 toward_zero",
    "e5m10 up product=e5m7",
    "e4m3 down",
    "e5m10 to_odd",
    "e5m2 ties_to_away saturate",
    "e5m10 pairwise",
    "e4m3 pairwise product=e4m3",
    "e5m10 tree4",
    "e5m10 tree3 up",
    "e5m10 lanes4",
    "e5m7 lanes8 product=e5m10",
    "e5m10 kahan",
    "e5m10 neumaier",
    "e4m3 neumaier product=e4m3",
    "e5m10 exact",
    "binary32 exact",
    "e8m13:chunk16",
    "e4m3 chunk32 outer=e5m10",
    "e5m10 pairwise chunk4 outer=e5m7",
    "e5m10 exact chunk8 outer=e5m10",
    "e5m7 align9 group4",
    "e5m10 lmul4",
    "e5m10 lmul3formula pairwise",
    "e8m13 lmul10offset4 product=e5m7 chunk16",
    "e8m7 toward_zero normalise1-1",
    "e5m10 toward_zero normalise1-2",
    "e4m3 toward_zero normalise2-2 product=e5m7 saturate chunk16",
    *PROFILES,
)


def number(x) -> Fraction | float:
    """A float as the exact definitions have it."""
    x = float(x)
    return x if (x == 0 and math.copysign(1, x) < 0) or not math.isfinite(x) else Fraction(x)


def as_float(x) -> np.float32:
    return np.float32(float(x))


def expected(a, b, text, formats):
    """The product of two matrices, element by element."""
    acc, known = Accumulator.parse(text), tuple(map(qsim.parse, formats))
    rows, columns = a.shape[0], b.shape[1]
    found = np.zeros((rows, columns), np.float32)
    for i, j in itertools.product(range(rows), range(columns)):
        x, y = [number(v) for v in a[i]], [number(v) for v in b[:, j]]
        found[i, j] = as_float(exact_dot(x, y, acc, formats=known))
    return found


@cache
def finite_values(fmt: str):
    every = np.array([as_float(v) for v in values(qsim.parse(fmt))])
    return every[np.isfinite(every)]


def operands(fmt: str, count: int, seed: int, kind: str):
    """Matrices [2, count] and [count, 3] of values of a format."""
    rng = np.random.default_rng(seed)
    finite = finite_values(fmt)
    if kind == "normal":
        a, b = (rng.standard_normal(shape) for shape in ((2, count), (count, 3)))
        a, b = (np.asarray(qsim.quantize(x.astype(np.float32), fmt)) for x in (a, b))
    elif kind == "all values":
        a, b = (rng.choice(finite, shape) for shape in ((2, count), (count, 3)))
    elif kind == "small":
        few = finite[np.abs(finite) < 16 * np.min(np.abs(finite[finite != 0]))]
        a, b = (rng.choice(few, shape) for shape in ((2, count), (count, 3)))
    elif kind == "special":  # infinities of both signs and NaN, few enough that some sums have none
        a, b = (rng.choice(finite, shape) for shape in ((2, count), (count, 3)))
        for x in (a, b):
            few = rng.random(x.shape) < 1 / (2 * count + 2)
            x[few] = rng.choice([np.inf, -np.inf, np.nan], int(few.sum()))
        a[0] = np.abs(a[0])  # so that infinities of one sign meet
    elif kind == "overflow":  # on the way to a sum that is small
        largest = np.max(finite)
        a = np.stack([np.full(count, largest), rng.choice(finite, count)])
        b = np.repeat(np.where(np.arange(count) < count // 2, largest, -largest)[:, None], 3, 1)
    else:  # cancellation: what comes is taken back, in another order
        half = count // 2
        a = np.repeat(rng.choice(finite, (2, 1)), count, 1)
        b = rng.choice(finite, (count, 3))
        b[half : 2 * half] = -rng.permutation(b[:half])
    return a, b


KINDS = ("normal", "all values", "small", "cancellation", "special", "overflow")


def compared(text: str, count: int) -> None:
    """Sums of ``count`` products of every kind equal their definition, byte for byte."""
    pairs = [operands("e4m3", count, seed, kind) for seed, kind in enumerate(KINDS)]
    a, b = (np.stack(parts) for parts in zip(*pairs, strict=True))
    found = matmul(a, b, text, formats=("e4m3", "e4m3"))
    for n, (x, y) in enumerate(pairs):
        assert same(found[n], expected(x, y, text, ("e4m3", "e4m3"))), (count, KINDS[n])


@pytest.mark.t1
@pytest.mark.every(3)
@pytest.mark.parametrize("text", SPEAKING)
def test_sums_are_the_exact_ones(text):
    for count in (1, 17):
        compared(text, count)


@pytest.mark.t2
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("text", SPEAKING)
def test_sums_of_every_length_are_the_exact_ones(text, count):
    compared(text, count)


@pytest.mark.t1
@pytest.mark.every(3)
@pytest.mark.parametrize("overflow", ["wrap", "saturate"])
@pytest.mark.parametrize("accumulator", ["int23", "int24", "int32"])
@pytest.mark.parametrize("fmt", ["int8", "int16"])
def test_sums_of_integers_beyond_those_of_floats(fmt, accumulator, overflow):
    text, kinds = f"{accumulator} {overflow}", (fmt, fmt)
    for count, kind in itertools.product((1, 33, 600), ("all values", "overflow")):
        a, b = operands(fmt, count, 0, kind)
        assert same(matmul(a, b, text, formats=kinds), expected(a, b, text, kinds)), (count, kind)


@pytest.mark.ci
@pytest.mark.parametrize(
    "text", ["e8m7", "e8m7 toward_zero normalise1-2", "e8m7 pairwise product=e8m7"]
)
def test_sums_of_products_that_are_no_normal_numbers(text):
    a, b = operands("bfloat16", 33, 0, "normal")
    for scale in (1.0, 2.0**-66, 2.0**60):
        x, y = (np.float32(scale) * v for v in (a, b))
        found = matmul(x, y, text, formats=("bfloat16", "bfloat16"))
        assert same(found, expected(x, y, text, ("bfloat16", "bfloat16"))), scale


LEAN = ("e4m3fn", "e5m10", "e8m7", "e4m3 saturate", "e8m10 saturate")
CASTS = {"e4m3fn": ml_dtypes.float8_e4m3fn, "e5m10": np.float16, "e8m7": ml_dtypes.bfloat16}


@pytest.mark.t1
@pytest.mark.parametrize("text", LEAN)
def test_lean_rounding_is_the_rounding_of_the_grid(text):
    how = Accumulation.of(Accumulator.parse(text)).sums
    assert how.plain
    magnitudes = np.arange(0x00800000, 0x7F800000, 65521, dtype=np.uint32)  # normal numbers
    special = np.array([0, 0x7F800000, 0x7F7FFFFF, 0x7FC00000, 0x7FFFFFFF], np.uint32)
    bits = np.concatenate([magnitudes, magnitudes & 0xFFFF0000, special])
    x = jnp.asarray(np.concatenate([bits, bits | 0x80000000]).view(np.float32))
    lean, grid = (canonical(how(x, normal=normal)) for normal in (True, False))
    assert same(lean, grid)


def values_and_ties(fmt) -> np.ndarray:
    """Multiples of half a gap: of three binades, of the smallest numbers, and of the largest."""
    top = math.frexp(float(fmt.largest))[1] - 1
    steps = np.arange(2 << fmt.mantissa_bits, (4 << fmt.mantissa_bits) + 1)
    binades = [
        np.ldexp(np.float64(steps), e - fmt.mantissa_bits - 1) for e in (-1, 0, 1, fmt.emin, top)
    ]
    subnormal = np.ldexp(np.arange(2.0 * (1 << fmt.mantissa_bits)), fmt.quantum - 1)
    x = np.unique(np.concatenate([*binades, subnormal]))
    return x[x <= np.finfo(np.float32).max].astype(np.float32)


def nearest(x: np.ndarray, text: str) -> np.ndarray:
    """What other programs round to; for ``saturate`` the nearest multiple of the gap, to even."""
    if text in CASTS:
        with np.errstate(over="ignore"):
            return x.astype(CASTS[text]).astype(np.float32)
    fmt = qsim.parse(text.removesuffix(" saturate"))
    exponents = np.frexp(np.float64(x))[1] - 1  # in float64 all of this is exact
    gaps = np.ldexp(1.0, np.maximum(exponents - fmt.mantissa_bits, fmt.quantum))
    return np.clip(np.rint(x / gaps) * gaps, -float(fmt.largest), float(fmt.largest)).astype("f4")


@pytest.mark.t1
@pytest.mark.parametrize("text", LEAN)
def test_lean_rounding_of_values_ties_and_their_neighbours(text):
    how, fmt = Accumulation.of(Accumulator.parse(text)).sums, qsim.parse(text.split()[0])
    ties = values_and_ties(fmt)
    zero, infinity = np.array([0, np.inf], np.float32)
    x = np.concatenate([ties, *(np.nextafter(ties, end) for end in (zero, infinity))])
    x = np.unique(x[(x == 0) | (x >= np.finfo(np.float32).tiny)])  # no subnormal numbers
    x = np.concatenate([x, -x])
    lean = canonical(how(jnp.asarray(x), normal=True))
    assert same(lean, canonical(jnp.asarray(nearest(x, text))))


# --- SoftFloat ----------------------------------------------------------------------------------

MODES = {"ties_to_even": "NEAR_EVEN", "toward_zero": "MIN_MAG", "down": "MIN", "up": "MAX"}


def softfloat_sums(a, b, bits: int, fused: bool):
    """The products of two matrices, with SoftFloat's operations."""
    read = getattr(softfloat, f"Float{bits}").from_bytes
    add, multiply, fma = (getattr(softfloat, f"f{bits}_{n}") for n in ("add", "mul", "mul_add"))
    left, right = (
        [[read(int(p).to_bytes(bits // 8, "big")) for p in row] for row in x.view(f"u{bits // 8}")]
        for x in (a, np.ascontiguousarray(b.T))
    )
    found = []
    for row, column in itertools.product(left, right):
        s = read(bytes(bits // 8))
        for x, y in zip(row, column, strict=True):
            s = fma(x, y, s) if fused else add(s, multiply(x, y))
        found.append(np.frombuffer(s.to_bytes(), f">f{bits // 8}")[0])
    return np.array(found, np.float32).reshape(len(left), len(right))


@pytest.mark.t1
@pytest.mark.parametrize(
    "bits, rounding", [*((16, mode) for mode in MODES), (32, "ties_to_even"), (32, "toward_zero")]
)
def test_softfloat_agrees(bits, rounding):
    fmt = f"binary{bits}"
    softfloat.set_rounding_mode(softfloat.RoundingMode[MODES[rounding]])
    rng = np.random.default_rng(bits)
    shapes = (24, 16), (16, 24)
    patterns = [rng.integers(0, 1 << bits, shape).astype(f"u{bits // 8}") for shape in shapes]
    wild = [x.view(f"f{bits // 8}") for x in patterns]
    tame = [rng.standard_normal(shape).astype(f"f{bits // 8}") for shape in shapes]
    for (a, b), words in itertools.product((wild, tame), ("", f" product={fmt}")):
        expected = softfloat_sums(a, b, bits, fused=not words)
        found = np.asarray(matmul(a, b, f"{fmt} {rounding}{words}", formats=(fmt, fmt)))
        equal = found.view(np.uint32) == expected.view(np.uint32)
        assert (equal | (np.isnan(found) & np.isnan(expected))).all(), words


TIED = (
    "e5m2",
    "e5m2 kahan",
    "e8m2 pairwise",
    "e8m3 chunk3 outer=e8m3",
    "e5m10 chunk3 outer=e4m3",
    "e8m2_flush_after",
    "posit8",
    "posit8 kahan",
    "fixed16.8",
    "e5m10 product=e4m3",
)


@pytest.mark.t1
@pytest.mark.every(4)
@pytest.mark.parametrize("text", TIED)
@pytest.mark.parametrize("fmt", ["e5m2", "posit8", "e4m3", "e5m1", "fixed8.4"])
def test_products_that_are_ties_of_the_sum(fmt, text):
    """Beside such a product a small sum is lost in the carrier, and yet decides the rounding."""
    rng = np.random.default_rng(6)
    finite = finite_values(fmt)
    least = np.min(np.abs(finite[finite != 0]))
    a, b = (rng.choice(finite, (200, 6)) for _ in range(2))
    a[:150, 2:] = 0
    a[:150, 0] = least
    b[:150, 0] = rng.choice([-least, least], 150)
    found = matmul(a[:, None], b[..., None], text, formats=(fmt, fmt))
    pairs = [expected(a[n : n + 1], b[n : n + 1].T, text, (fmt, fmt)) for n in range(len(a))]
    assert same(found, np.stack(pairs))


def test_a_tie_is_known_by_the_narrowest_format_of_a_sweep():
    rounders = [Accumulation.of(Accumulator.parse(text)).sums for text in ("e8m2", "e8m9")]
    extent = Extent.of(qsim.parse("e5m2"))
    products = extent * extent
    for one, harmless in zip(rounders, (False, True), strict=True):
        assert products.adds_harmlessly(one.extent, CARRIERS["float32"], one.ties) == harmless
    both = rounders[1].among(rounders)
    assert not products.adds_harmlessly(both.extent, CARRIERS["float32"], both.ties)


@pytest.mark.t1
@pytest.mark.parametrize("text", SPEAKING)
def test_products_of_empty_matrices(text):
    for a, b in (((0, 5), (5, 3)), ((2, 5), (5, 0)), ((0, 2, 5), (5, 3)), ((2, 0), (0, 3))):
        found = matmul(jnp.ones(a), jnp.ones(b), text, formats=("e4m3", "e4m3"))
        assert same(found, np.matmul(np.ones(a, np.float32), np.ones(b, np.float32)))


@pytest.mark.t1
@pytest.mark.parametrize("rounding", ["ties_to_even", "toward_zero"])
@pytest.mark.parametrize("fmt", ["binary32", "e8m7"])
def test_finite_sums_that_saturate_do_not_become_infinite(fmt, rounding):
    largest = np.finfo(np.float32).max
    rows = [[largest, largest, -1], [largest, np.inf, 1], [-largest, -largest, largest]]
    a, b = np.array(rows, np.float32), np.ones((3, 1), np.float32)
    text = f"{fmt} saturate_propagate {rounding}"
    found = matmul(a, b, text)
    assert same(found, expected(a, b, text, ("binary32", "binary32")))
    assert np.isfinite(found).ravel().tolist() == [True, False, True]


@pytest.mark.t1
@pytest.mark.parametrize(
    "order", ["", "lanes2", "pairwise", "tree2", "tree3", "kahan", "neumaier", "exact"]
)
def test_no_two_roundings_draw_the_same_random_bits(order, monkeypatch):
    seen = []
    rounded = Steps.rounded

    def recorded(self, x, rounder, *numbers):
        seen.append(tuple(map(int, numbers)))
        return rounded(self, x, rounder, *numbers)

    monkeypatch.setattr(Steps, "rounded", recorded)
    text = f"e4m3 stochastic:8 product=e4m3 {order}"
    with jax.disable_jit():
        matmul(jnp.ones((1, 5)), jnp.ones((5, 1)), text, key=jax.random.key(0))
    assert len(seen) == len(set(seen))


@pytest.mark.t1
@pytest.mark.parametrize("fmt", ["e8m7", "e5m10", "binary32"])
def test_products_beyond_the_carrier_are_normalised_too(fmt):
    rng = np.random.default_rng(0)
    text = f"{fmt} toward_zero normalise1-2"
    a = np.ldexp(rng.choice([-1.0, 1.125], (50, 5)), rng.integers(40, 100, (50, 5)))
    a, b = a.astype(np.float32), np.ldexp(1.0, rng.integers(0, 70, (5, 1))).astype(np.float32)
    assert same(matmul(a, b, text), expected(a, b, text, ("binary32", "binary32")))


def test_operands_that_are_subnormal_count_as_zero_in_lmul():
    little, large = np.float32(2.0**-126 - 2.0**-149), np.float32(2.0**100)
    assert float(matmul(little[None, None], large[None, None], "e8m13 lmul4")[0, 0]) == 0


def test_the_nodes_of_a_tree_are_rounded_apart():
    x = jnp.array([[0.53125, 0.53125, -1.0625]])
    run = partial(matmul, x, jnp.ones((3, 1)), "e4m3 tree2 stochastic:8", formats=("e5m10", "e4m3"))
    keys = jax.random.split(jax.random.key(0), 200)
    found = jax.jit(jax.vmap(lambda key: run(key=key)))(keys)
    assert set(np.unique(found)) == {-0.125, 0.0, 0.125}


def test_a_lowering_is_for_one_carrier():
    how = Accumulation.of(Accumulator.parse("e8m13"))
    with jax.enable_x64(True), pytest.raises(TypeError, match="was lowered for float32"):
        matmul(jnp.ones((2, 2), jnp.float64), jnp.ones((2, 2), jnp.float64), how)


@pytest.mark.parametrize("text", ["e5m10", "e5m10 kahan", "e8m13 toward_zero align13 group4"])
def test_what_a_dtype_holds_is_known(text):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float16) for shape in ((3, 17), (17, 2)))
    wide = [x.astype(np.float32) for x in (a, b)]
    assert same(matmul(a, b, text), expected(*wide, text, ("binary32", "binary32")))


# --- native sums --------------------------------------------------------------------------------


def in_binary16(a, b, size):
    """Groups of products added up exactly, and the sums so far rounded by NumPy."""
    total = np.zeros((len(a), b.shape[1]), np.float16)
    for start in range(0, a.shape[1], size or max(a.shape[1], 1)):
        part = slice(start, start + (size or a.shape[1]))
        group = a[:, part].astype(np.float64) @ b[part].astype(np.float64)
        total = (total.astype(np.float64) + group).astype(np.float16)
    return total.astype(np.float32)


@pytest.mark.t1
@pytest.mark.every(3)
@pytest.mark.parametrize("formats", [None, ("e4m3", "e4m3"), ("e4m3", "e8m23")])
@pytest.mark.parametrize("size", [0, 1, 3, 32, 64])
@pytest.mark.parametrize("count", SIZES)
def test_native_sums_that_no_order_rounds_are_the_exact_ones(count, size, formats):
    rng = np.random.default_rng(count)
    shapes = (5, count), (count, 7)
    a, b = (rng.integers(-15, 16, shape).astype(np.float32) for shape in shapes)
    a[:, : count // 2] *= np.float32(-0.0) if count == 3 else 1
    text = f"e5m10 ieee native group{size}" if size else "e5m10 ieee native"
    run = partial(matmul, accumulator=text, formats=formats)
    expected = in_binary16(a, b, size)
    assert same(run(a, b), expected)
    assert same(jax.jit(run)(a, b), expected)
    assert same(jax.vmap(run)(a[None], b[None])[0], expected)


@pytest.mark.t1
@pytest.mark.parametrize("fmt", ["e4m3", "e5m2", "bfloat16"])
def test_native_sums_are_added_in_float32(fmt):
    rng = np.random.default_rng(1)
    shapes = (17, 1000), (1000, 33)
    a, b = (
        np.array(qsim.quantize(rng.standard_normal(shape).astype(np.float32), fmt))
        for shape in shapes
    )
    real = a.astype(np.float64) @ b.astype(np.float64)
    bound = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64) * 2**-24
    for formats in (None, (fmt, fmt)):
        found = np.asarray(matmul(a, b, "binary32 native", formats=formats), np.float64)
        assert (np.abs(found - real) <= 32 * bound).all()
    a[0, 0], a[1, 0] = np.inf, np.nan
    found = np.asarray(matmul(a, b, "binary32 native", formats=(fmt, fmt)))
    assert np.isinf(found[0]).all() and np.isnan(found[1]).all() and np.isfinite(found[2:]).all()


@pytest.mark.t1
@pytest.mark.parametrize(
    "text", [*SPEAKING[::3], "e5m10 native group4", "int24 wrap", "e5m10 kahan"]
)
def test_accumulators_within_shard_map(text):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()
    run = partial(matmul, accumulator=text, formats=("int4", "int4"))
    mapped = jax.shard_map(run, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    a, b = jnp.ones((4, 33)), jnp.ones((33, 3))
    assert same(jax.jit(mapped)(a, b), run(a, b))
