"""Operations are the exact real result, rounded once, byte for byte.

Expected values come from fractions. Of all pairs of codes each real result is found once, rounded
to odd to binary64 by the rule written here, and looked up in the exact table of its class: binary64
has so many more bits than the formats here that values and ties keep their distance. Second
witnesses are NumPy, whose float16 and float32 operations are correctly rounded, and SoftFloat.
"""

import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import softfloatpy as softfloat

import qsim
from qsim import arithmetic, parse
from qsim.arithmetic import exact, room
from qsim.numbers.codebooks import Codebook
from qsim.numbers.exact import decode, round_exact
from qsim.numbers.grid import CARRIERS
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import random_words
from tests.intervals import DETERMINISTIC, LAYOUTS, POLICIES, intervals
from tests.scalars import scalars
from tests.unchecked import unchecked

SINGLE, DOUBLE = LAYOUTS["float32"], LAYOUTS["float64"]

ARITY = {"add": 2, "subtract": 2, "multiply": 2, "divide": 2, "sqrt": 1, "fma": 3}
PAIRS = ("add", "subtract", "multiply", "divide")
PIECE = 1 << 14  # the same for all, so that they share what is compiled
SIX_MODES = ("ties_to_even", "ties_to_away", "up", "down", "toward_zero", "to_odd")

# all but codebooks, for which the look-up of classes is not made, and what is too precise
HELD = [
    name
    for name, entry in scalars().items()
    if not isinstance(entry.format, Codebook)
    and room.spare_bits(entry.format, CARRIERS["float32"]) > 1
]
NARROW = [name for name in HELD if parse(name).bits <= 6]
BYTES = [name for name in HELD if 6 < parse(name).bits <= 8]
SLOWER = ["ocp_e4m3", "ocp_e8m0"]
ROOTS = ["ocp_e2m1", "ocp_e5m2", "e5m2fnuz", "nv_ue4m3", "ocp_e8m0", "int8", "posit8", "hif8"]


def tiers(first: list[str], second: list[str], third: list[str] = ()) -> list:
    """Each name once, with the mark of its tier."""
    marks = {name: pytest.mark.t2 for name in third}
    marks |= dict.fromkeys(second, pytest.mark.t1) | dict.fromkeys(first, ())
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


# --- the oracle -------------------------------------------------------------------------------


def real(name: str, operands, down: bool):
    """The exact result of an operation on exact numbers."""
    match name:
        case "add":
            return exact.total(*operands, down=down)
        case "subtract":
            return exact.total(operands[0], exact.negated(operands[1]), down=down)
        case "multiply":
            return exact.product(*operands)
        case "divide":
            return exact.quotient(*operands)
        case "sqrt":
            return exact.root(*operands)
        case _:
            return exact.total(exact.product(*operands[:2]), operands[2], down=down)


def to_odd(x) -> int:
    """The binary64 pattern of a number rounded to odd."""
    if isinstance(x, float):
        return DOUBLE.pattern(x)
    above = DOUBLE.at_least(abs(x))
    if above % 2 == 0 and DOUBLE.magnitude(above) != abs(x):
        above -= 1
    return above | (DOUBLE.sign if x < 0 else 0)


def results(name: str, numbers: list, down: bool) -> np.ndarray:
    """The binary64 patterns of the real results, rounded to odd, of tuples of exact numbers."""
    known, patterns = {}, []
    for operands in numbers:
        value = real(name, operands, down)
        key = repr(value) if isinstance(value, float) else value
        if key not in known:
            known[key] = to_odd(value)
        patterns.append(known[key])
    return np.array(patterns, np.uint64)


def with_zeros_when_down(name: str, numbers: list, patterns: np.ndarray) -> np.ndarray:
    """``patterns`` of ``results`` as they are when rounding down, which only changes zeros."""
    zeros, changed = np.flatnonzero(patterns == 0), patterns.copy()
    changed[zeros] = results(name, [numbers[i] for i in zeros], True)
    return changed


def narrowed(patterns: np.ndarray) -> np.ndarray:
    """binary64 patterns as those of binary32, whose numbers they all are."""
    return patterns.view(np.float64).astype(np.float32).view(np.uint32)


def arrays(numbers: list) -> list[np.ndarray]:
    """float32 arrays, one for each operand."""
    once = {id(x): x for operands in numbers for x in operands}
    patterns = {name: SINGLE.pattern(x) for name, x in once.items()}
    table = [[patterns[id(x)] for x in operands] for operands in numbers]
    return list(np.array(table, np.uint32).view(np.float32).T.copy())


def values(name: str) -> list:
    """The values of a format, each once."""
    fmt = parse(name)
    return list({repr(v): v for v in (decode(fmt, c) for c in range(2**fmt.bits))}.values())


def computed(name: str, operands, fmt, **modes) -> np.ndarray:
    """The patterns that the operation gives; arrays travel in pieces of one length."""
    found = []
    for start in range(0, len(operands[0]), PIECE):
        pieces = [a[start : start + PIECE] for a in operands]
        padded = [np.pad(piece, (0, PIECE - len(piece))) for piece in pieces]
        result = getattr(arithmetic, name)(*padded, fmt, **modes)
        found.append(np.asarray(result).view(np.uint32)[: len(pieces[0])])
    return np.concatenate(found)


def assert_exact(name: str, numbers: list, fmt, modes, policies) -> None:
    """All modes and policies give the bytes of the exact definition."""
    with unchecked():
        operands, oracle = arrays(numbers), intervals(fmt, "float64")
        nearly = results(name, numbers, False)
        reals = {False: nearly, True: with_zeros_when_down(name, numbers, nearly)}
    for rounding, overflow in itertools.product(modes, policies):
        actual = computed(name, operands, fmt, rounding=rounding, overflow=overflow)
        patterns = reals[rounding == "down"]
        expected = narrowed(oracle.expected(patterns, rounding, overflow))
        wrong = np.flatnonzero(actual != expected)
        assert not len(wrong), (
            f"{len(wrong)} of {len(numbers)} differ in {name} {fmt} {rounding} {overflow}, the "
            f"first at {numbers[wrong[0]]}: {actual[wrong[0]]:#x} for {expected[wrong[0]]:#x}"
        )


# --- every pair of codes ----------------------------------------------------------------------


# sums of 2**-127 and 2**127 are long fractions
LONG = [("ocp_e8m0", "add"), ("ocp_e8m0", "subtract")]


@pytest.mark.t1
@pytest.mark.parametrize(
    ("spec", "name"),
    [
        pytest.param(*values, name, marks=pytest.mark.t2 if (*values, name) in LONG else marks)
        for (values, marks, _), name in itertools.product(tiers(["ocp_e3m2"], SLOWER, BYTES), PAIRS)
    ],
)
@pytest.mark.every(2)
def test_every_pair_of_codes(spec, name):
    numbers = list(itertools.product(values(spec), repeat=2))
    assert_exact(name, numbers, parse(spec), SIX_MODES, ("saturate", "ieee"))


@pytest.mark.parametrize("spec", tiers(["ocp_e2m1"], ["e2m2i", "int4"], ["ue2m2"]))
def test_every_pair_of_few_bits_in_every_mode_and_policy(spec):
    numbers = list(itertools.product(values(spec), repeat=2))
    for name in PAIRS:
        assert_exact(name, numbers, parse(spec), DETERMINISTIC, POLICIES)


@pytest.mark.parametrize("spec", tiers(["ocp_e4m3"], ROOTS, NARROW + BYTES))
def test_the_root_of_every_code(spec):
    numbers = [(value,) for value in values(spec)]
    assert_exact("sqrt", numbers, parse(spec), SIX_MODES, ("ieee",))


@pytest.mark.parametrize("spec", ["ocp_e2m1", pytest.param("ocp_e2m3", marks=pytest.mark.t2)])
def test_every_triple_of_codes(spec):
    numbers = list(itertools.product(values(spec), repeat=3))
    assert_exact("fma", numbers, parse(spec), SIX_MODES, ("ieee",))


def telling(spec: str, random: int = 0) -> list:
    """Zeros, infinities, NaN and what lies about the edges of binades, with some random values."""
    every = values(spec)
    if len(every) > 2**8:
        every = every[:: len(every) // 2**8 + 1]
    fmt = parse(spec)
    special = [v for v in every if isinstance(v, float)]
    edge = [fmt.smallest, fmt.largest, fmt.lowest, Fraction(1), Fraction(3), Fraction(1, 2)]
    edge += [edge[0] * 3, Fraction(2) ** getattr(fmt, "emin", 1), Fraction(7, 4), -Fraction(5, 4)]
    drawn = np.random.default_rng(0).choice(len(every), random, replace=False) if random else []
    found = special + edge + [every[i] for i in drawn]
    return list({repr(v): v for v in found if _is_value(v, fmt)}.values())


def _is_value(v, fmt) -> bool:
    if isinstance(v, float):
        return True
    return round_exact(v, fmt, overflow="ieee") == v


@pytest.mark.parametrize("spec", tiers(["ocp_e4m3"], ["ocp_e5m2"], BYTES))
def test_telling_triples(spec):
    numbers = list(itertools.product(telling(spec, 12), repeat=3))
    assert_exact("fma", numbers, parse(spec), SIX_MODES, ("ieee",))


# --- any operands -----------------------------------------------------------------------------


def operands_near(name: str, count: int, seed: int = 0) -> list[np.ndarray]:
    """Any float32 numbers, some of few bits, of the extremes, and such that sums cancel."""
    rng = np.random.default_rng(seed)
    extremes = [0, 1, 2, 3, 0x7FFFFF, 0x800000, 0x3F800000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000]

    def drawn():
        any_of_them = rng.integers(0, 2**32, count, dtype=np.uint32)
        about_one = any_of_them & np.uint32(0x80FFFFFF) | np.uint32(0x3F000000)
        extreme = rng.choice(np.array(extremes, np.uint32), count) | any_of_them & np.uint32(
            1 << 31
        )
        kinds = [any_of_them, about_one, any_of_them & np.uint32(0xFFFF0000), extreme]
        return np.choose(rng.choice(4, count, p=(0.3, 0.3, 0.3, 0.1)), kinds)

    x = [drawn() for _ in range(ARITY[name])]
    cancels = rng.random(count) < 0.3
    steps = rng.integers(0, 4, count, dtype=np.uint32) ^ np.uint32(1 << 31)
    with np.errstate(all="ignore"):
        other = np.prod([p.view(np.float32) for p in x[:-1]], axis=0, dtype=np.float32)
    if name != "sqrt":
        x[-1] = np.where(cancels, other.view(np.uint32) ^ steps, x[-1])
    return [p.view(np.float32) for p in x]


def widened(x: list[np.ndarray]) -> list[np.ndarray]:
    """float32 arrays as float64; signalling NaNs give warnings."""
    with np.errstate(invalid="ignore"):
        return [a.astype(np.float64) for a in x]


ANY = [
    "bfloat16",
    "binary16",
    "e8m13",
    "e4m3fn",
    "e8m0",
    "int16",
    "e2m20f",
    "ue5m3",
    "fixed12.8",
    "posit16",
    "apot4",
]


@pytest.mark.t1
@pytest.mark.parametrize("name", tiers(["add"], list(ARITY)[1:]))
def test_any_operands_round_exactly(name):
    """Values that are on no grid, one by one."""
    rng, count = np.random.default_rng(1), 4000
    x = operands_near(name, count)
    patterns = np.stack([a.view(np.uint32) for a in x], axis=-1)
    for spec, rounding in itertools.product(ANY, SIX_MODES):
        fmt, how = parse(spec), {"rounding": rounding, "overflow": "ieee"}
        actual = computed(name, x, fmt, **how)
        for place in rng.choice(count, 25, replace=False):
            with unchecked():
                operands = [SINGLE.number(int(p)) for p in patterns[place]]
                value = getattr(exact, f"exact_{name}")(*operands, fmt, **how)
            assert actual[place] == SINGLE.pattern(value), (operands, spec, rounding)


@pytest.mark.parametrize("name", ARITY)
def test_numpy_agrees_on_binary16(name):
    """NumPy computes in float32, which is innocuous for all but fma: 24 >= 2 * 11 + 2."""
    rng = np.random.default_rng(2)
    x = [rng.integers(0, 2**16, 2**17, dtype=np.uint16).view(np.float16) for _ in range(2)]
    operands = x[: min(ARITY[name], 2)]
    with np.errstate(all="ignore"):
        match name:
            case "sqrt":
                theirs = np.sqrt(*operands)
            case "fma":  # a product has 22 bits; in binary64 their sum is exact but for large ones
                exact_product = operands[0].astype(np.float64) * operands[1].astype(np.float64)
                theirs = (exact_product + operands[0].astype(np.float64)).astype(np.float16)
                operands = [*operands, operands[0]]
            case _:
                theirs = getattr(np, name)(*operands)
    ours = getattr(arithmetic, name)(*operands, "binary16", overflow="ieee")
    ours = np.asarray(ours).astype(np.float16)
    same = (ours.view(np.uint16) == theirs.view(np.uint16)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all()


@pytest.mark.parametrize("name", [*PAIRS, "sqrt"])
def test_numpy_agrees_on_binary32_in_float64(name):
    x = operands_near(name, 2**16, seed=3)
    with np.errstate(all="ignore"):
        theirs = getattr(np, name)(*x)
        wide = widened(x)
    with jax.enable_x64(True):
        ours = getattr(arithmetic, name)(*wide, "binary32", overflow="ieee")
        ours = np.asarray(ours).astype(np.float32)
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    assert same.all()


@pytest.mark.parametrize("name", tiers(["add"], list(ARITY)[1:]))
def test_float64_operands_round_exactly(name):
    """Any float64 numbers, to formats of up to 51 bits of precision."""
    rng, count = np.random.default_rng(4), 300
    x = [rng.integers(0, 2**64, count, dtype=np.uint64) for _ in range(ARITY[name])]
    near = (np.uint64(0x801F << 48 | 2**48 - 1), np.uint64(0x3FE << 52))
    x = [np.where(rng.random(count) < 0.6, p & near[0] | near[1], p) for p in x]
    if len(x) > 1:
        x[-1] = np.where(rng.random(count) < 0.2, x[0] ^ np.uint64(1 << 63), x[-1])
    for spec, rounding in [("e11m50", "ties_to_even"), ("e8m23", "up"), ("e11m40", "to_odd")]:
        fmt = parse(spec)
        with jax.enable_x64(True):
            operands = [p.view(np.float64) for p in x]
            result = getattr(arithmetic, name)(*operands, fmt, rounding=rounding, overflow="ieee")
            actual = np.asarray(result).view(np.uint64)
        for place in range(count):
            with unchecked():
                numbers = [DOUBLE.number(int(p[place])) for p in x]
                function = getattr(exact, f"exact_{name}")
                value = function(*numbers, fmt, rounding=rounding, overflow="ieee")
                assert actual[place] == DOUBLE.pattern(value), (spec, numbers)


# --- SoftFloat --------------------------------------------------------------------------------

SOFTFLOAT_MODES = {
    "ties_to_even": "NEAR_EVEN",
    "ties_to_away": "NEAR_MAX_MAG",
    "toward_zero": "MIN_MAG",
    "down": "MIN",
    "up": "MAX",
}
SOFTFLOAT_NAMES = {
    "add": "add", "subtract": "sub", "multiply": "mul",
    "divide": "div", "sqrt": "sqrt", "fma": "mul_add",
}  # fmt: skip


@pytest.mark.t1
@pytest.mark.parametrize("name", ARITY)
def test_softfloat_agrees_on_binary16(name):
    rng, count = np.random.default_rng(5), 4000
    x = [rng.integers(0, 2**16, count, dtype=np.uint16) for _ in range(ARITY[name])]
    function = getattr(softfloat, f"f16_{SOFTFLOAT_NAMES[name]}")
    read = softfloat.Float16.from_bytes
    theirs_of = [[read(int(p).to_bytes(2, "big")) for p in patterns] for patterns in x]
    for rounding, their_mode in SOFTFLOAT_MODES.items():
        softfloat.set_rounding_mode(softfloat.RoundingMode[their_mode])
        found = [function(*operands).to_bytes() for operands in zip(*theirs_of, strict=True)]
        theirs = np.frombuffer(b"".join(found), ">u2").astype(np.uint16).view(np.float16)
        operands = [p.view(np.float16) for p in x]
        ours = getattr(arithmetic, name)(*operands, "binary16", rounding=rounding, overflow="ieee")
        ours = np.asarray(ours).astype(np.float16)
        same = ours.view(np.uint16) == theirs.view(np.uint16)
        assert (same | (np.isnan(ours) & np.isnan(theirs))).all(), rounding


@pytest.mark.t1
@pytest.mark.parametrize("name", ARITY)
def test_softfloat_agrees_on_binary32(name):
    x = operands_near(name, 3000, seed=6)
    function = getattr(softfloat, f"f32_{SOFTFLOAT_NAMES[name]}")
    read = softfloat.Float32.from_bytes
    theirs_of = [[read(int(p).to_bytes(4, "big")) for p in a.view(np.uint32)] for a in x]
    for rounding, their_mode in SOFTFLOAT_MODES.items():
        softfloat.set_rounding_mode(softfloat.RoundingMode[their_mode])
        found = [function(*operands).to_bytes() for operands in zip(*theirs_of, strict=True)]
        theirs = np.frombuffer(b"".join(found), ">u4").astype(np.uint32).view(np.float32)
        with jax.enable_x64(True):
            wide = widened(x)
            how = {"rounding": rounding, "overflow": "ieee"}
            ours = np.asarray(getattr(arithmetic, name)(*wide, "binary32", **how))
        ours = ours.astype(np.float32)
        same = ours.view(np.uint32) == theirs.view(np.uint32)
        assert (same | (np.isnan(ours) & np.isnan(theirs))).all(), rounding


# --- laws -------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["saturate", "ieee"])
@pytest.mark.parametrize("spec", ["e4m3", "bfloat16", "int8", "e8m0"])
@pytest.mark.parametrize(
    "mode",
    [
        "stochastic",
        *(pytest.param(f"stochastic_{name}", marks=pytest.mark.t1) for name in ("b", "c", "equal")),
    ],
)
@pytest.mark.every(2)
def test_stochastic_rounding_is_exact_for_each_random_number(mode, spec, overflow):
    fmt, key, bits, rng = parse(spec), jax.random.key(7), 8, np.random.default_rng(9)
    how = {"rounding": f"{mode}:{bits}", "overflow": overflow}
    words = random_words(key, (PIECE,), Rounding.parse(how["rounding"])) >> (32 - bits)
    for name in ARITY:
        x = operands_near(name, 300, seed=8)
        actual = computed(name, x, fmt, key=key, **how)
        for place in rng.choice(300, 40, replace=False):
            with unchecked():
                operands = [SINGLE.number(int(a.view(np.uint32)[place])) for a in x]
                function = getattr(exact, f"exact_{name}")
                value = function(*operands, fmt, random=int(words[place]), **how)
            assert actual[place] == SINGLE.pattern(value), operands


@pytest.mark.parametrize(
    "name", tiers(["add"], ["divide", "fma"], ["subtract", "multiply", "sqrt"])
)
def test_eager_jit_and_vmap_give_the_same_bytes(name):
    x = [a.reshape(8, 64) for a in operands_near(name, 512, seed=9)]
    formats = ["bfloat16", "e4m3", "e8m0", "int8"]
    stack = qsim.stack([qsim.lower(parse(spec)) for spec in formats])
    operation = getattr(arithmetic, name)

    def run(grid, *x):
        return operation(*x, grid, overflow="ieee")

    by_format = jax.jit(jax.vmap(run, in_axes=(0, *[None] * len(x))))(stack, *x)
    stacked = operation(*x, stack, overflow="ieee")
    assert stacked.tobytes() == by_format.tobytes()
    for spec, row in zip(formats, by_format, strict=True):
        eager = operation(*x, spec, overflow="ieee")
        by_row = jax.vmap(lambda *x, spec=spec: operation(*x, spec, overflow="ieee"))(*x)
        assert eager.tobytes() == row.tobytes() == by_row.tobytes()


def test_formats_are_traced():
    traces = []

    @jax.jit
    def run(a, b, grid):
        traces.append(1)
        return arithmetic.add(a, b, grid)

    for spec in ("e4m3", "bfloat16", "int8"):
        run(jnp.ones(3), jnp.ones(3), qsim.lower(parse(spec)))
    assert len(traces) == 1


@pytest.mark.t1
@pytest.mark.parametrize("rounding", ["ties_to_even", "down"])
def test_signs_of_zeros(rounding):
    """IEEE 754-2019, 6.3."""
    zero = -0.0 if rounding == "down" else 0.0
    one, plus, minus = (jnp.array([v]) for v in (1.0, 0.0, -0.0))

    def sign(result):
        assert result[0] == 0
        return math.copysign(1.0, float(result[0]))

    how = {"rounding": rounding}
    cancelled = math.copysign(1.0, zero)
    assert sign(arithmetic.add(one, -one, "e4m3", **how)) == cancelled
    assert sign(arithmetic.add(plus, minus, "e4m3", **how)) == cancelled
    assert sign(arithmetic.subtract(one, one, "e4m3", **how)) == cancelled
    assert sign(arithmetic.fma(one, one, -one, "e4m3", **how)) == cancelled
    assert sign(arithmetic.add(minus, minus, "e4m3", **how)) == -1
    assert sign(arithmetic.fma(plus, -one, minus, "e4m3", **how)) == -1
    assert sign(arithmetic.multiply(minus, one, "e4m3", **how)) == -1
    assert sign(arithmetic.sqrt(minus, "e4m3", **how)) == -1
    assert sign(arithmetic.add(minus, minus, "e4m3fnuz", **how)) == 1  # there is no other


def test_there_is_no_second_rounding():
    """Cases where computing in float32 first is wrong."""
    a, tiny = jnp.float32(1 + 2**-7), jnp.float32(2.0**-60)
    half = jnp.float32(2.0**-8)
    assert arithmetic.add(jnp.float32(1), half, "bfloat16") == 1
    assert arithmetic.fma(tiny, tiny, jnp.float32(1), "bfloat16", rounding="up") == a
    above_half = arithmetic.fma(tiny, tiny, half, "e8m20", rounding="to_odd")
    assert arithmetic.add(jnp.float32(1), above_half, "bfloat16") == a


def test_beyond_the_carrier():
    huge, small = jnp.float32(2.0**127), jnp.float32(2.0**-126)
    assert arithmetic.multiply(huge, huge, "bfloat16", rounding="toward_zero", overflow="ieee") == (
        jnp.float32(parse("bfloat16").largest)
    )
    assert jnp.isinf(arithmetic.multiply(huge, huge, "bfloat16", overflow="ieee"))
    least = parse("bfloat16").smallest
    up = arithmetic.multiply(small, small, "bfloat16", rounding="up")
    assert Fraction(float(np.asarray(up))) == least
    assert arithmetic.fma(huge, huge, -huge, "e4m3fn") == 448


def test_the_derivative_is_that_of_the_real_function():
    a, b, c = jnp.float32(1.3), jnp.float32(2.7), jnp.float32(0.4)
    gradient = jax.grad(lambda *x: arithmetic.fma(*x, "e4m3"), argnums=(0, 1, 2))(a, b, c)
    assert gradient == (b, a, 1)
    assert jax.grad(lambda a: arithmetic.sqrt(a, "e4m3"))(jnp.float32(4)) == 0.25
    assert jax.grad(lambda a: arithmetic.multiply(a, 500.0, "e4m3"))(a) == 0  # beyond the range
    kept = jax.grad(lambda a: arithmetic.multiply(a, 500.0, "e4m3", gradient="identity"))(a)
    assert kept == 500


# --- errors -----------------------------------------------------------------------------------


def test_too_precise_formats_are_refused():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="e8m22 cannot be rounded once in float32: 2 bits more"):
        arithmetic.add(x, x, "e8m22")
    with pytest.raises(
        ValueError, match="19 are there; use rounding='stochastic:18' or enable x64"
    ):
        arithmetic.add(x, x, "e5m4", rounding="stochastic", key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"33 bits more .* use rounding='stochastic_b:17' or"):
        arithmetic.add(x, x, "e5m4", rounding="stochastic_b:31", key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"codebook\(.* cannot be rounded once in float32"):
        arithmetic.add(x, x, "nf4")
    with pytest.raises(ValueError, match=r"fixed8\.148 cannot be rounded once"):
        arithmetic.add(x, x, "fixed8.148")
    with jax.enable_x64(True), pytest.raises(ValueError, match="no wider carrier exists"):
        arithmetic.add(np.ones(2), np.ones(2), "binary64")


@pytest.mark.parametrize(
    "spec",
    [
        "e4m3",
        "e5m2fnuz",
        "int8",
        "ue5m3",
        "e2m1f",
        "e8m3",
        "posit8",
        "posit8.0",
        "posit8.3",
        "hif8",
    ],
)
def test_room_is_the_same_found_by_precision_and_by_gaps(spec):
    fmt, carrier = parse(spec), CARRIERS["float32"]
    with unchecked():
        finite = sorted({Fraction(v) for v in values(spec) if math.isfinite(v)})
        by_gaps = min(room._spare_within(fmt, *p, carrier) for p in itertools.pairwise(finite))
    assert by_gaps == room.spare_bits(fmt, carrier)


def test_wrapping_is_refused():
    with pytest.raises(ValueError, match=r"compute with the codes, qsim\.encode"):
        arithmetic.add(jnp.ones(2), jnp.ones(2), "int8", overflow="wrap")


def test_operands_are_floats_of_one_carrier():
    with pytest.raises(TypeError, match="expects floating-point"), unchecked():
        arithmetic.add(jnp.ones(2, jnp.int32), jnp.ones(2, jnp.int32), "e4m3")
    with jax.enable_x64(True), pytest.raises(TypeError, match="cast all to float64"):
        arithmetic.add(np.ones(2), np.ones(2, np.float32), "e4m3")
    with pytest.raises(TypeError, match="lower the format to float64"), jax.enable_x64(True):
        arithmetic.add(np.ones(2), np.ones(2), qsim.lower(parse("e4m3")))
    with pytest.raises(ValueError, match="did you mean 'ties_to_even'"):
        arithmetic.add(jnp.ones(2), 1.0, "e4m3", rounding="tie_to_even")
    with pytest.raises(ValueError, match="needs a random key"):
        arithmetic.add(jnp.ones(2), 1.0, "e4m3", rounding="stochastic:4")


def test_sixteen_bit_operands_and_python_floats_are_carried_in_float32():
    x = jnp.ones((2, 1), jnp.bfloat16)
    result = arithmetic.add(x, jnp.ones(3, jnp.float16), "e4m3")
    assert result.dtype == jnp.float32 and result.shape == (2, 3)
    assert arithmetic.add(x, 0.5, "e4m3").tolist() == [[1.5], [1.5]]
    with jax.enable_x64(True):
        assert arithmetic.add(np.ones(2, np.float32), 0.5, "e4m3").dtype == np.float32
        assert arithmetic.add(1.0, 0.5, "e4m3").dtype == np.float64
