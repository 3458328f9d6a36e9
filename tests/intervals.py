"""The interval oracle: exact rounding of whole arrays, by comparing bit patterns.

For a deterministic mode the result of ``exact.round_exact`` is the same for every number of one
*class*: a grid point, the midpoint of a gap, an open half of a gap, everything beyond the grid,
infinity, NaN. So the exact definition is asked once per class, with a fraction that lies in it,
and an array is rounded by looking up the class of each element.

The bit patterns of non-negative IEEE numbers are ordered as the numbers are. A class is therefore
a range of patterns, found by exact arithmetic, and a look-up is a comparison of integers: no
floating-point operation can flush, contract or round anything here. Nothing of qsim is used but
``exact`` and the facts of a format.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np

from qsim.numbers import exact
from qsim.numbers.formats import Float, Format, Integer, power
from qsim.numbers.modes import OVERFLOWS, ROUNDINGS
from tests.remembered import remembered
from tests.unchecked import unchecked

DETERMINISTIC = tuple(mode for mode in ROUNDINGS if not mode.startswith("stochastic"))
POLICIES = tuple(policy for policy in OVERFLOWS if policy != "wrap")  # it is for integers only


@dataclass(frozen=True)
class Layout:
    """The bit patterns of an IEEE type: IEEE 754-2019, 3.4."""

    name: str
    bits: int
    mantissa_bits: int

    @property
    def word(self) -> np.dtype:
        return np.dtype(f"uint{self.bits}")

    @property
    def bias(self) -> int:
        return 2 ** (self.bits - self.mantissa_bits - 2) - 1

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def infinity(self) -> int:
        return (2 * self.bias + 1) << self.mantissa_bits

    @property
    def nan(self) -> int:
        return self.infinity | 1 << (self.mantissa_bits - 1)

    @cache  # noqa: B019  (there are four layouts)
    def at_least(self, value: Fraction) -> int:
        """The pattern of the smallest number that is not below ``value``, which is not negative."""
        if value == 0:
            return 0
        length = value.numerator.bit_length() - value.denominator.bit_length()
        exponent = length if power(length) <= value else length - 1
        binade = max(exponent, 1 - self.bias)
        count = math.ceil(value / power(binade - self.mantissa_bits))
        return min(((binade + self.bias - 1) << self.mantissa_bits) + count, self.infinity)

    def magnitude(self, pattern: int) -> Fraction:
        """The number whose pattern is given, the sign bit being clear."""
        field, fraction = divmod(pattern, 1 << self.mantissa_bits)
        implicit = (1 << self.mantissa_bits) if field else 0
        return (implicit + fraction) * power(max(field, 1) - self.bias - self.mantissa_bits)

    def number(self, pattern: int) -> exact.Value:
        """The exact number of a pattern: a fraction, or a float for what no fraction can be."""
        negative, size = pattern >= self.sign, pattern % self.sign
        if size > self.infinity:
            return math.nan
        if size == self.infinity:
            return -math.inf if negative else math.inf
        if negative and size == 0:
            return -0.0
        return -self.magnitude(size) if negative else self.magnitude(size)

    def pattern(self, value: exact.Value) -> int:
        """The pattern of an exact number, which must be one of this type."""
        if isinstance(value, Fraction):
            found = self.at_least(abs(value))
            assert self.magnitude(found) == abs(value), (value, self.name)
            return found | (self.sign if value < 0 else 0)
        if math.isnan(value):
            return self.nan
        sign = self.sign if math.copysign(1.0, value) < 0 else 0
        return sign | (self.infinity if math.isinf(value) else 0)


LAYOUTS = {
    "float16": Layout("float16", 16, 10),
    "bfloat16": Layout("bfloat16", 16, 7),
    "float32": Layout("float32", 32, 23),
    "float64": Layout("float64", 64, 52),
}


def magnitudes(fmt: Format) -> int:
    """How many grid points the larger side of a format has, zero counted; used to number gaps."""
    if isinstance(fmt, Float):
        return max(fmt.top_code, fmt.bottom_code) + 1 + (not fmt.has_zero)
    if isinstance(fmt, Integer):
        return int(max(fmt.largest, -fmt.lowest) / fmt.smallest) + 1
    return len(_listed(fmt)) - 1


def grid_point(fmt: Format, index: int) -> Fraction:
    """The magnitude of grid point ``index``, counted from zero and on beyond the largest value."""
    if isinstance(fmt, Float):
        return Fraction(0) if index == 0 else fmt.magnitude(index - (not fmt.has_zero))
    if isinstance(fmt, Integer):
        return index * fmt.smallest
    return _listed(fmt)[index]


@cache
def _listed(fmt: Format) -> list[Fraction]:
    """The grid points of a symmetric format that are not negative, and the next if there is one."""
    finite = {abs(value) for value in exact.values(fmt) if isinstance(value, Fraction)}
    return sorted(finite | {exact.gap_at(fmt, fmt.largest).far})


def tie_points(fmt: Format, low: Fraction, high: Fraction) -> list[Fraction]:
    """Where nearest changes within a gap: the middle, but where the format says otherwise."""
    middle = (low + high) / 2
    if isinstance(fmt, Integer) or (isinstance(fmt, Float) and fmt.is_regular):
        return [middle]
    found = {abs(exact.gap_at(fmt, sign * middle).tie) for sign in (1, -1)}
    return sorted(tie for tie in found if low < tie < high)


class Intervals:
    """The classes of a format as ranges of bit patterns, and the result of each class.

    Attributes:
        starts: ascending patterns of magnitudes; class ``i`` is ``starts[i] .. starts[i+1] - 1``.
        inside: representative of each class, an exact number; None outside the chosen gaps.

    Args:
        gaps: the indices of the gaps to cover; every gap by default. Numbers outside them have
            no expected result and must not be looked up.
    """

    def __init__(self, fmt: Format, layout: str = "float32", gaps: Iterable[int] | None = None):
        self.fmt, self.layout = fmt, LAYOUTS[layout]
        self.gaps = range(magnitudes(fmt)) if gaps is None else sorted(set(gaps))
        starts, inside = [], []
        with unchecked():
            self._fill(starts, inside)
        self.starts, self.inside = np.array(starts, self.layout.word), inside
        self._tables: dict[tuple[str, str], np.ndarray] = {}

    def _fill(self, starts: list[int], inside: list) -> None:
        for start, number in self._classes():
            if starts and start == starts[-1]:  # the class before holds no number of the layout
                inside[-1] = number
            else:
                starts.append(start)
                inside.append(number)

    def _classes(self):
        """Pairs of the first pattern of a class and a number in it, ascending."""
        end = 0
        for gap in self.gaps:
            low, high = grid_point(self.fmt, gap), grid_point(self.fmt, gap + 1)
            if low > end:
                yield self.layout.at_least(end), None
            points = [low, *tie_points(self.fmt, low, high), high]
            for point, following in pairwise(points):
                yield from self._point_and_above(point, (point + following) / 2)
            end = high
        if len(self.gaps) and self.gaps[-1] == magnitudes(self.fmt) - 1:
            yield from self._point_and_above(end, 2 * end)
        else:
            yield self.layout.at_least(end), None
        yield self.layout.infinity, math.inf
        yield self.layout.infinity + 1, math.nan

    def _point_and_above(self, point: Fraction, above: Fraction):
        first = self.layout.at_least(point)
        if first < self.layout.infinity and self.layout.magnitude(first) == point:
            yield first, point
            first += 1
        if first < self.layout.infinity:
            yield first, above

    def classes(self, patterns: np.ndarray) -> np.ndarray:
        """The row and column of ``table`` for each pattern, as one flat index."""
        negative = (patterns >> (self.layout.bits - 1)).astype(np.int64)
        magnitude = patterns & self.layout.word.type(self.layout.sign - 1)
        column = np.searchsorted(self.starts, magnitude, side="right") - 1
        return negative * len(self.starts) + column

    def table(self, rounding: str, overflow: str) -> np.ndarray:
        """The patterns of the results, of shape [sign, class]."""
        if (rounding, overflow) not in self._tables:
            with remembered():
                self._tables[rounding, overflow] = self._table(rounding, overflow)
        return self._tables[rounding, overflow]

    def _table(self, rounding: str, overflow: str) -> np.ndarray:
        if overflow == "saturate":
            rows = [[self._result(x, s, rounding, overflow) for x in self.inside] for s in (1, -1)]
            return np.array(rows, self.layout.word)
        # the policy has a say only beyond the largest and the lowest value
        table = self.table(rounding, "saturate").copy()
        for row, sign, edge in ((0, 1, self.fmt.largest), (1, -1, -self.fmt.lowest)):
            for column, number in enumerate(self.inside):
                if number is not None and not number <= edge:
                    table[row, column] = self._result(number, sign, rounding, overflow)
        return table

    def _result(self, number: exact.Value | None, sign: int, rounding: str, overflow: str) -> int:
        if number is None:
            return 0
        signed = (-0.0 if number == 0 else -number) if sign < 0 else number
        value = exact.round_exact(signed, self.fmt, rounding=rounding, overflow=overflow)
        return self.layout.pattern(value)

    def expected(self, patterns: np.ndarray, rounding: str, overflow: str) -> np.ndarray:
        """The pattern to which the number of each pattern rounds."""
        return self.table(rounding, overflow).reshape(-1)[self.classes(patterns)]

    def expected_range(self, first: int, count: int, rounding: str, overflow: str) -> np.ndarray:
        """As ``expected``, of the ``count`` patterns from ``first`` on, all of one sign."""
        row, magnitude = divmod(first, self.layout.sign)
        assert magnitude + count <= self.layout.sign, "a range of patterns keeps its sign"
        ends = np.append(self.starts[1:].astype(np.int64), self.layout.sign)
        clipped = np.clip(ends, magnitude, magnitude + count)
        lengths = np.diff(clipped, prepend=magnitude)
        return np.repeat(self.table(rounding, overflow)[row], lengths)

    def points(self, around: int = 2) -> np.ndarray:
        """Every grid point, midpoint and extreme of both signs, with ``around`` patterns about it.

        Only numbers inside the chosen gaps are given.
        """
        extremes = [0, 1, 2, self.layout.infinity, self.layout.nan]
        extremes += [self.layout.infinity + 1, self.layout.sign - 1]  # signalling, full payload
        smallest_normal = 1 << self.layout.mantissa_bits
        extremes += [smallest_normal, 3 * smallest_normal >> 1, smallest_normal >> 1]
        near = np.concatenate([self.starts.astype(np.int64), np.array(extremes, np.int64)])
        steps = np.arange(-around - 1, around + 1)  # an open class begins one beyond its point
        found = np.unique((near[:, None] + steps).clip(0, self.layout.sign - 1))
        known = np.array([number is not None for number in self.inside])
        patterns = found.astype(self.layout.word)
        patterns = patterns[known[self.classes(patterns)]]
        return np.concatenate([patterns, patterns | self.layout.word.type(self.layout.sign)])


@cache
def intervals(fmt: Format, layout: str = "float32", gaps: tuple[int, ...] | None = None):
    """The ``Intervals`` of a format, made once."""
    return Intervals(fmt, layout, gaps)


def telling_gaps(fmt: Float, around: int = 3) -> tuple[int, ...]:
    """Gaps about zero, the subnormal edge, every binade's edge and the largest value."""
    last, binade = magnitudes(fmt) - 1, 1 << fmt.mantissa_bits
    edges = [0, last, *range(binade, last, binade), *range(binade // 2, last, binade)]
    near = {gap for edge in edges for gap in range(edge - around, edge + around)}
    return tuple(sorted(gap for gap in near if 0 <= gap <= last))


def first_difference(actual, expected, patterns, layout: str = "float32") -> str:
    """A readable account of the first element that differs; empty if the bytes are equal."""
    different = np.flatnonzero(actual != expected)
    if not len(different):
        return ""
    kind, at = LAYOUTS[layout], different[0]
    shown = [
        f"{name} {int(words[at]):#x} = {kind.number(int(words[at]))}"
        for name, words in (("input", patterns), ("got", actual), ("expected", expected))
    ]
    return f"{len(different)} of {len(expected)} differ, the first: " + ", ".join(shown)
