"""Posits, takums and HiFloat8 round as their exact definitions say, and code as their tables do.

The carrier's neighbours of every value and of every tie point (the code of one bit more between
two neighbours) are rounded in every mode under every policy, and compared with ``exact`` byte for
byte. en_dtypes is a second witness, and so is SoftPosit, whose answers are written down here as
digests, and asked anew where it is installed: ``pip install softposit``.
"""

import hashlib
import math
from fractions import Fraction
from functools import partial

import en_dtypes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim import lower, parse, stack
from qsim.numbers import exact
from qsim.numbers.grid import CARRIERS
from qsim.numbers.modes import ROUNDINGS, Rounding
from qsim.numbers.random_bits import random_words
from qsim.numbers.tables import table_of
from qsim.numbers.tapered import TaperedGrid
from tests.compiled import round_patterns, rounded
from tests.intervals import DETERMINISTIC, LAYOUTS, POLICIES, first_difference, intervals
from tests.remembered import remembered
from tests.unchecked import unchecked

IN_FLOAT32 = ["posit8", "posit8_0", "hifloat8"]
ODD_ONES = ["posit2.0", "posit2.5", "posit3.0", "posit3.6", "posit4.3", "posit5.1", "posit7.4"]
IN_FLOAT64 = ["takum8", "takum6", "takum7", "posit8", "posit7.6", "hifloat8"]
SIXTEEN = ["posit16", "posit16_1"]

QUICK = [("ties_to_even", "saturate"), ("ties_to_away", "ieee"), ("to_odd", "saturate")]
CHOICES = [(mode, policy) for mode in DETERMINISTIC for policy in POLICIES]

MIXED = np.random.default_rng(1).integers(0, 2**32, 4096, dtype=np.uint32).view(np.float32)
MIXED = np.concatenate([MIXED, np.random.default_rng(2).normal(size=4096).astype(np.float32)])


def later(slower, slowest) -> list:
    """Names for the second and for the third tier."""
    marks = dict.fromkeys(slower, pytest.mark.t1) | dict.fromkeys(slowest, pytest.mark.t2)
    return [pytest.param(name, marks=mark) for name, mark in marks.items()]


def assert_rounds_exactly(name: str, layout: str, choices) -> None:
    fmt = parse(name)
    oracle = intervals(fmt, layout)
    patterns = oracle.points()
    for rounding, overflow in choices:
        actual = round_patterns(patterns, fmt, rounding, overflow)
        expected = oracle.expected(patterns, rounding, overflow)
        difference = first_difference(actual, expected, patterns, layout)
        assert not difference, f"{fmt} {rounding} {overflow}: {difference}"


# --- rounding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_nearest_and_to_odd_are_exact(name):
    assert_rounds_exactly(name, "float32", QUICK)


@pytest.mark.t1
@pytest.mark.parametrize("name", [*IN_FLOAT32, *ODD_ONES])
def test_every_mode_and_policy_is_exact(name):
    assert_rounds_exactly(name, "float32", CHOICES)


@pytest.mark.parametrize("name", ["takum8"])
def test_nearest_is_exact_in_float64(name):
    with jax.enable_x64(True):
        assert_rounds_exactly(name, "float64", QUICK[:1])


@pytest.mark.ci
@pytest.mark.parametrize("name", IN_FLOAT64)
def test_every_mode_and_policy_is_exact_in_float64(name):
    with jax.enable_x64(True):
        assert_rounds_exactly(name, "float64", CHOICES)


class Gaps:
    """Every gap of a format of 16 bits, from ``exact.gap_at``, as patterns of magnitudes.

    A mode's choice depends only on the parity, the sign and the side of the tie point on which a
    number lies; so ``exact.round_exact`` is asked once for each of these, in one gap.
    """

    def __init__(self, fmt, layout: str):
        self.fmt, self.layout = fmt, LAYOUTS[layout]
        with unchecked():
            found = [exact.gap_at(fmt, exact.decode(fmt, code)) for code in range(fmt.top_code)]
            self.near, self.tie, self.far = (
                np.array([self.layout.pattern(point) for point in points], self.layout.word)
                for points in zip(*((g.near, g.tie, g.far) for g in found), strict=True)
            )
        self.even = np.array([gap.even for gap in found])
        self.sample = {gap.even: gap for gap in found[len(found) // 2 :][:2]}

    def points(self):
        """Patterns at, below and above each tie point and each value, their gap and their side."""
        one = self.layout.word.type(1)
        patterns, gaps, sides = [], [], []
        for found, side in (
            (self.near, "near"),
            (self.near + one, "below"),
            (self.tie - (self.tie > 0), "below"),
            (self.tie, "tie"),
            (self.tie + one, "above"),
            (self.far - one, "above"),
        ):
            patterns.append(found)
            gaps.append(np.arange(len(found)))
            sides += [side] * len(found)
        patterns, gaps, sides = np.concatenate(patterns), np.concatenate(gaps), np.array(sides)
        sides[patterns == self.near[gaps]] = "near"  # the gap at zero has its tie point there
        above = (self.tie[gaps] < patterns) & (patterns < self.far[gaps])
        sides[above] = "above"
        assert ((self.near[gaps] <= patterns) & (patterns < self.far[gaps])).all()
        return patterns.astype(self.layout.word), gaps, sides

    def expected(self, gaps, sides, negative: bool, rounding: str):
        far = np.zeros(len(gaps), bool)
        for even, gap in self.sample.items():
            numbers = {
                "near": gap.near,
                "below": (gap.near + gap.tie) / 2,
                "tie": gap.tie,
                "above": (gap.tie + gap.far) / 2,
            }
            for side, number in numbers.items():
                with unchecked():
                    signed = -number if negative else number
                    goes = exact.round_exact(signed, self.fmt, rounding=rounding)
                far[(sides == side) & (self.even[gaps] == even)] = abs(goes) == gap.far
        magnitude = np.where(far, self.far[gaps], self.near[gaps])
        sign = self.layout.word.type(self.layout.sign if negative else 0)
        return np.where(magnitude == 0, magnitude, magnitude | sign)


def assert_all_gaps_are_exact(fmt, layout: str, modes=DETERMINISTIC) -> None:
    """Every value and tie point with its neighbours, of both signs."""
    gaps = Gaps(fmt, layout)
    patterns, places, sides = gaps.points()
    for rounding in modes:
        for negative in (False, True):
            sign = gaps.layout.word.type(gaps.layout.sign if negative else 0)
            expected = gaps.expected(places, sides, negative, rounding)
            actual = round_patterns(patterns | sign, fmt, rounding, "saturate")
            difference = first_difference(actual, expected, patterns | sign, layout)
            assert not difference, f"{fmt} {rounding}: {difference}"


@pytest.mark.ci
@pytest.mark.parametrize("name", later(SIXTEEN[:1], SIXTEEN[1:]))
def test_every_gap_of_sixteen_bit_posits_is_exact(name):
    assert_all_gaps_are_exact(parse(name), "float32")


@pytest.mark.parametrize("name", later(["takum12", "takum13"], ["takum16"]))
def test_every_gap_of_takums_is_exact(name):
    with jax.enable_x64(True):
        assert_all_gaps_are_exact(parse(name), "float64")


@pytest.mark.parametrize("name", later(["posit32", "takum32"], ["posit24.3", "takum57"]))
def test_wide_formats_are_exact_about_their_regimes_and_at_random(name):
    fmt = parse(name)
    random = np.random.default_rng(5).integers(0, fmt.top_code, 40).tolist()
    edges = [(1 << k) + step for k in range(fmt.bits - 1) for step in (-1, 0, 1)]
    edges += [fmt.nan_code - (1 << k) + step for k in range(fmt.bits - 1) for step in (-1, 0)]
    with jax.enable_x64(True), unchecked():
        points = []
        for code in sorted({code for code in [*edges, *random] if 0 <= code < fmt.top_code}):
            gap = exact.gap_at(fmt, exact.decode(fmt, code))
            points += [LAYOUTS["float64"].pattern(p) for p in gap[:2]]
            points.append(LAYOUTS["float64"].at_least(gap.tie))
        steps = np.arange(-1, 2)
        patterns = np.unique((np.array(points)[:, None] + steps).clip(0)).astype(np.uint64)
        numbers = [LAYOUTS["float64"].number(p) for p in patterns.tolist()]
    with jax.enable_x64(True), remembered():
        for rounding in DETERMINISTIC:
            actual = round_patterns(patterns, fmt, rounding, "ieee")
            expected = [
                LAYOUTS["float64"].pattern(exact.round_exact(x, fmt, rounding=rounding))
                for x in numbers
            ]
            difference = first_difference(
                actual, np.array(expected, np.uint64), patterns, "float64"
            )
            assert not difference, f"{fmt} {rounding}: {difference}"


@pytest.mark.parametrize("name", later(["posit8"], ["hifloat8"]))
@pytest.mark.parametrize("mode", ["ties_to_odd", "down", "stochastic_c"])
def test_tables_of_the_values_round_alike(name, mode):
    """The other implementation: tables of values and tie points, for any format."""
    fmt, rounding = parse(name), Rounding.parse(mode)
    grids = lower(fmt), table_of(fmt, CARRIERS["float32"])
    x = np.concatenate([intervals(fmt).points(), MIXED.view(np.uint32)])
    x = np.resize(x, 16384).view(np.float32)
    words = random_words(jax.random.key(4), x.shape, Rounding.parse("stochastic"))
    words = words if rounding.is_stochastic else None
    x = jnp.asarray(x)
    turn = jax.jit(lambda grid: grid.round(x, mode=rounding, policy="ieee", random=words))
    ours, theirs = (np.asarray(turn(grid)).tobytes() for grid in grids)
    assert ours == theirs


# --- what the documents say ---------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("name", ["posit8", "posit16_1", "takum8"])
def test_nearest_gives_neither_zero_nor_nar_for_other_numbers(name):
    """Posit Standard 2022, rounding: to the smallest value, and to the largest, by the sign."""
    fmt = parse(name)
    carrier = "float64" if name == "takum8" else "float32"
    with jax.enable_x64(carrier == "float64"):
        least = np.nextafter(np.zeros((), carrier), np.ones((), carrier))
        x = np.array([least, -least, np.finfo(carrier).max, -np.finfo(carrier).max], carrier)
        found = qsim.quantize(x, fmt, overflow="ieee").tolist()
        assert found == [float(v) for v in (fmt.smallest, -fmt.smallest, fmt.largest, fmt.lowest)]
        infinite = np.array([np.inf, -np.inf], carrier)
        assert np.isnan(qsim.quantize(infinite, fmt, overflow="ieee")).all()
        for overflow in ("saturate", "saturate_propagate", "p3109"):
            found = qsim.quantize(infinite, fmt, overflow=overflow).tolist()
            assert found == [float(fmt.largest), float(fmt.lowest)]


def test_ties_are_the_posits_of_one_bit_more():
    """posit(8, 2) above 2**20, code 0x7e: its exponent bits are cut, and 0x7f is 2**24.

    So it is between 65536 and 262144, with the 9-bit posit 131072 between them.
    """
    between = np.array([131072, 144179.2], np.float32)
    assert qsim.quantize(between, "posit8").tolist() == [65536.0, 262144.0]
    x = np.array([2**22 - 1, 2**22, 2**22 + 1, 8 * 2**20 + 1], np.float32)
    assert qsim.quantize(x, "posit8").tolist() == [2.0**20, 2.0**20, 2.0**24, 2.0**24]
    assert qsim.quantize(x[:2], "posit8", rounding="ties_to_away").tolist() == [2.0**20, 2.0**24]


def test_posits_of_the_paper():
    """Gustafson and Yonemoto 2017: the values of posit(5, 1)."""
    texts = ["1/64", "1/16", "1/8", "1/4", "3/8", "1/2", "3/4", "1", "3/2", "2", "3", "4", "8"]
    above = [Fraction(text) for text in [*texts, "16", "64"]]
    values = exact.values(parse("posit5.1"))
    assert values[:16] == [0, *above] and math.isnan(values[16])
    assert values[17:] == [-value for value in reversed(above)]


def test_the_layout_of_hifloat8():
    """arXiv:2409.16626: 0x6e is the largest value, 0x6f infinity, 0x80 NaN."""
    table = {
        0x00: "0",
        0x01: "2^-22",
        0x07: "2^-16",
        0x08: "1",
        0x0F: "15/8",
        0x10: "2",
        0x17: "15/4",
        0x18: "1/2",
        0x20: "4",
        0x2F: "15",
        0x30: "1/4",
        0x38: "1/8",
        0x40: "16",
        0x4F: "7/4 * 2^7",
        0x50: "1/16",
        0x60: "2^8",
        0x6E: "2^15",
        0x70: "2^-8",
        0x7E: "2^-15",
        0x7F: "3/2 * 2^-15",
    }
    from tests.test_formats import number

    fmt = parse("hif8")
    for code, text in table.items():
        assert exact.decode(fmt, code) == number(text), hex(code)
        if code:
            assert exact.decode(fmt, code | 0x80) == -number(text), hex(code)
    assert exact.decode(fmt, 0x6F) == math.inf and exact.decode(fmt, 0xEF) == -math.inf
    assert math.isnan(exact.decode(fmt, 0x80))
    finite = {abs(v) for v in exact.values(fmt) if isinstance(v, Fraction) and v}
    binades = {math.floor(math.log2(v)) for v in finite}
    assert binades == set(range(-22, 16))


def test_linear_takums_of_the_definition():
    """arXiv:2404.18603: 1 is in the middle of the positive codes, the ends are 2**±255 beyond."""
    for bits in (8, 12, 16):
        fmt = qsim.Takum(bits=bits)
        assert exact.decode(fmt, 2 ** (bits - 2)) == 1
        assert exact.decode(fmt, 3 * 2 ** (bits - 2)) == -1
    values = exact.values(parse("takum8"))
    assert values[0x41:0x44] == [Fraction(9, 8), Fraction(10, 8), Fraction(11, 8)]
    assert values[0x48] == 2 and values[0x3C] == Fraction(3, 4)
    assert values[0x7F] == 2**239 and values[0x01] == Fraction(1, 2**239)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: qsim.Posit(bits=1), ValueError, "bits is 1, but must be within 2..64"),
        (lambda: qsim.Posit(bits=8, es=10), ValueError, "es is 10, but must be within 0..9"),
        (lambda: qsim.Takum(bits=5), ValueError, "bits is 5, but must be within 6..64: shorter"),
        (lambda: qsim.Posit(bits=8.0), TypeError, "Posit bits must be a Python int, got 8.0"),
        (lambda: qsim.Posit(bits=8, es=True), TypeError, "Posit es must be a Python int, got True"),
        (lambda: parse("posit65.2"), ValueError, "Posit bits is 65"),
        (lambda: lower(parse("posit32")), ValueError, "precision is 28 bits.*enable x64"),
        (lambda: lower(parse("takum8")), ValueError, "largest value is beyond the largest float32"),
    ],
)
def test_what_is_impossible_is_refused(make, error, message):
    with unchecked(), pytest.raises(error, match=message):
        make()


# --- stochastic rounding ------------------------------------------------------------------------


STOCHASTIC = [mode for mode in ROUNDINGS if mode not in DETERMINISTIC]
DRAWN = [f"{mode}:{bits}" for mode in STOCHASTIC for bits in (1, 3, 32)]


@pytest.mark.parametrize("name", ["posit6.1", "hifloat8"])
def test_what_is_drawn_is_exact(name):
    assert_draws_are_exact(parse(name), "float32", ["stochastic:32", "stochastic_c:3"])


@pytest.mark.parametrize("name", later(["posit6.1", "hifloat8"], ["posit5.3", "posit4.5"]))
def test_every_variant_of_what_is_drawn_is_exact(name):
    assert_draws_are_exact(parse(name), "float32", DRAWN)


@pytest.mark.parametrize(
    "name", later(["takum6", "takum13", "posit5.6"], ["takum8", "takum20", "posit4.7"])
)
def test_what_is_drawn_is_exact_in_float64(name):
    with jax.enable_x64(True):
        assert_draws_are_exact(parse(name), "float64", DRAWN)


def assert_draws_are_exact(fmt, layout: str, modes) -> None:
    """The random bits that just suffice, and just do not, in gaps of every kind."""
    kind = LAYOUTS[layout]
    random = np.random.default_rng(7)
    codes = {0, 1, fmt.bits, *random.integers(0, 2 ** (fmt.bits - 1) - 2, 24).tolist()}
    for text in modes:
        mode = Rounding.parse(text)
        top = 2**mode.random_bits
        patterns, draws, expected = [], [], []
        with remembered():
            for code in sorted(codes):
                value = exact.decode(fmt, code)
                if not isinstance(value, Fraction):
                    continue
                gap = exact.gap_at(fmt, value)
                low, high = (kind.at_least(abs(point)) for point in gap[:2])
                between = [gap.near + (gap.far - gap.near) * k / 16 for k in (1, 3, 4, 8, 9, 12)]
                inside = [kind.at_least(point) for point in between]
                inside = [p for p in inside if low <= p < high]
                inside += [low, low + 1, high - 1, *random.integers(low, high, 3).tolist()]
                for pattern in inside:
                    fraction = (kind.magnitude(pattern) - gap.near) / (gap.far - gap.near)
                    enough = top - math.floor(fraction * top)
                    near = {0, 1, top // 2, top - 1, enough - 1, enough, enough + 1}
                    for chosen in sorted(r for r in near if 0 <= r < top):
                        number = kind.number(pattern)
                        result = exact.round_exact(number, fmt, rounding=text, random=chosen)
                        patterns.append(pattern)
                        draws.append(chosen << (32 - mode.random_bits))
                        expected.append(kind.pattern(result))
        patterns = np.array(patterns, kind.word)
        words = np.array(draws, np.uint64).astype(np.uint32)
        actual = draw(patterns, words, lower(fmt, layout), text)
        difference = first_difference(actual, np.array(expected, kind.word), patterns, layout)
        assert not difference, f"{fmt} {text}: {difference}"


@partial(jax.jit, static_argnames="rounding")
def drawn(x, words, grid, *, rounding: str):
    return grid.round(x, mode=Rounding.parse(rounding), policy="saturate", random=words)


def draw(patterns: np.ndarray, words: np.ndarray, grid, rounding: str) -> np.ndarray:
    """Rounded with given random words; of one length, so that one compilation serves all."""
    x, random = np.zeros(2048, patterns.dtype), np.zeros(2048, np.uint32)
    x[: len(patterns)], random[: len(words)] = patterns, words
    carrier = f"float{patterns.itemsize * 8}"
    result = drawn(x.view(carrier), random, grid, rounding=rounding)
    return np.asarray(result).view(patterns.dtype)[: len(patterns)]


# --- transformations ----------------------------------------------------------------------------

STACK = ["posit8", "posit8.0", "posit16.1", "posit28.2", "posit5.3", "hif8", "posit2.0"]


def test_all_kinds_are_one_stack_and_one_compilation():
    count = rounded._cache_size()
    grids = [lower(parse(name)) for name in STACK]
    assert {type(grid) for grid in grids} == {TaperedGrid}
    for grid in grids:
        rounded(MIXED[:64], grid, rounding="ties_to_odd", overflow="p3109")
    assert rounded._cache_size() == count + 1


@pytest.mark.t1
@pytest.mark.parametrize("mode", ["ties_to_even", "stochastic"])
def test_bytes_are_those_of_every_transformation(mode):
    """Eager, jit, vmap over the stack, vmap over the data, row by row."""
    rounding = Rounding.parse(mode)
    words = (
        random_words(jax.random.key(3), MIXED.shape, rounding) if rounding.is_stochastic else None
    )

    def turn(x, grid, random):
        return grid.round(x, mode=rounding, policy="ieee", random=random)

    grids = [lower(parse(name)) for name in STACK]
    solo = jax.jit(turn)
    alone = np.stack([solo(MIXED, grid, words) for grid in grids])
    eager = np.stack([turn(jnp.asarray(MIXED), grid, words) for grid in grids[:3]])
    stacked = jax.jit(jax.vmap(turn, in_axes=(None, 0, None)))(MIXED, stack(grids), words)
    shaped = [None if a is None else jnp.asarray(a).reshape(128, 64) for a in (MIXED, words)]
    rows = jax.vmap(turn, in_axes=(0, None, None if words is None else 0))
    mapped = [np.asarray(jax.jit(rows)(shaped[0], grid, shaped[1])).reshape(-1) for grid in grids]
    assert alone.tobytes() == np.asarray(stacked).tobytes() == np.stack(mapped).tobytes()
    assert alone[:3].tobytes() == eager.tobytes()


@pytest.mark.ci
def test_a_sweep_holds_tapered_formats_beside_floats():
    names = ["e4m3", "posit8", "int8", "hif8", "posit16.1", "e5m2"]
    policies = {name: qsim.policy(weights=name, activations=name, outputs=name) for name in names}
    x = jnp.asarray(MIXED[4096:5120].reshape(32, 32))
    model = lambda x: x @ x.T  # noqa: E731
    swept = np.asarray(qsim.sweep(model, list(policies.values()))(x))
    for row, (name, chosen) in zip(swept, policies.items(), strict=True):
        alone = jax.jit(qsim.simulate(model, chosen))(x)
        assert row.tobytes() == np.asarray(alone).tobytes(), name


def test_the_gradient_is_one_inside_the_range():
    slope = jax.grad(lambda x: qsim.quantize(x, "posit8.0").sum())
    assert slope(jnp.array([0.3, -64.0, 65.0, 1e-9])).tolist() == [1.0, 1.0, 0.0, 1.0]


# --- second witnesses ---------------------------------------------------------------------------


def witness_points(fmt, count: int) -> np.ndarray:
    """Float32 numbers: values and tie points with neighbours, and random ones."""
    random = np.random.default_rng(11)
    with unchecked():
        codes = random.integers(1, fmt.top_code, count) if fmt.bits > 8 else range(1, fmt.top_code)
        gaps = [exact.gap_at(fmt, exact.decode(fmt, int(code))) for code in codes]
        points = [LAYOUTS["float32"].at_least(p) for gap in gaps for p in gap[:3]]
    near = (np.array(points)[:, None] + np.arange(-1, 2)).reshape(-1).astype(np.uint32)
    wide = random.integers(1, 0x7F800000, count, dtype=np.uint32)
    found = np.unique(np.concatenate([near, wide]))
    return np.concatenate([found, found | np.uint32(2**31)]).view(np.float32)


# SHA-256 of what SoftPosit 0.3.4.4 says, as float32: it is built from source, so that not every
# machine can ask it anew
SOFTPOSIT_CODES = {
    ("posit8_0", "posit8"): "73d980fc31e4d8a5dd3d4adfc0323d2ca491a546217998e2798f2742175f551e",
    ("posit16_1", "posit16"): "befbebc08a8fa600b8c5be9148a950615a85f2977a737a6cf7783eaed3649882",
}
SOFTPOSIT_ROUNDINGS = {
    ("posit8_0", "posit8"): "ba80a014729e1ebc3d31f8882a036c72a729e7638145cf99568f1a15d2f8c810",
    ("posit16_1", "posit16"): "739ea172c3a5864307577bd411d7691ac6daea4bf63d16d818aab7cbb5339975",
    ("posit8", "posit_2"): "4aa4265f12e60a2a48fa97c5a395e0885a7de2fdcfec1914e6e9e3f9df6e9bc5",
    ("posit16", "posit_2"): "74fe52b5f1369c6856ccc37fee459a06055f0c0d497b095eeaca1d8d6fe7bd22",
}


def digest(values) -> str:
    """Of numbers as float32; all NaNs are alike."""
    values = np.asarray(values, np.float32)
    return hashlib.sha256(np.where(np.isnan(values), np.float32(np.nan), values)).hexdigest()


def codes_by_softposit(fmt, kind: str) -> list[float]:
    softposit = pytest.importorskip("softposit", reason="pip install softposit")
    values = [float(getattr(softposit, kind)(bits=code)) for code in range(2**fmt.bits)]
    values[fmt.nan_code] = math.nan  # which it calls infinity
    return values


def roundings_by_softposit(fmt, kind: str) -> list[float]:
    softposit = pytest.importorskip("softposit", reason="pip install softposit")
    width = (fmt.bits,) if kind == "posit_2" else ()
    numbers = witness_points(fmt, 1000).astype(np.float64).tolist()
    return [float(getattr(softposit, kind)(number, *width)) for number in numbers]


@pytest.mark.parametrize(("name", "kind"), SOFTPOSIT_CODES)
def test_softposit_agreed_on_every_code(name, kind):
    fmt = parse(name)
    assert digest(qsim.decode(np.arange(2**fmt.bits), fmt)) == SOFTPOSIT_CODES[name, kind]


@pytest.mark.parametrize(("name", "kind"), SOFTPOSIT_ROUNDINGS)
def test_softposit_agreed_on_rounding(name, kind):
    fmt = parse(name)
    ours = qsim.quantize(witness_points(fmt, 1000), fmt)
    assert digest(ours) == SOFTPOSIT_ROUNDINGS[name, kind]


@pytest.mark.parametrize(("name", "kind"), SOFTPOSIT_ROUNDINGS)
def test_softposit_says_what_is_written_here(name, kind):
    fmt = parse(name)
    if (name, kind) in SOFTPOSIT_CODES:
        assert digest(codes_by_softposit(fmt, kind)) == SOFTPOSIT_CODES[name, kind]
    assert digest(roundings_by_softposit(fmt, kind)) == SOFTPOSIT_ROUNDINGS[name, kind]


def test_en_dtypes_agrees_on_hifloat8():
    """Its codes and, for nearest with ties away from zero, every value and tie point."""
    theirs = np.arange(256, dtype=np.uint8).view(en_dtypes.hifloat8).astype(np.float32)
    ours = np.asarray(qsim.decode(np.arange(256), "hif8"))
    assert ours.view(np.uint32)[:128].tolist() == theirs.view(np.uint32)[:128].tolist()
    assert np.array_equal(ours, theirs, equal_nan=True)
    x = intervals(parse("hif8")).points().view(np.float32)
    x = x[~np.isnan(x)]
    rounded = np.asarray(qsim.quantize(x, "hif8", rounding="ties_to_away", overflow="ieee"))
    assert np.array_equal(rounded, x.astype(en_dtypes.hifloat8).astype(np.float32))
