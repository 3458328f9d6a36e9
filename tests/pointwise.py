"""The pointwise oracle: the exact definition asked for one number after the other.

For formats of few values, whatever their family. Nothing of qsim is used but ``exact``.
"""

from fractions import Fraction
from itertools import pairwise

import numpy as np

from qsim.numbers import exact
from qsim.numbers.formats import Format
from tests.intervals import LAYOUTS, Layout
from tests.remembered import remembered
from tests.unchecked import unchecked


def finite(fmt: Format) -> list[Fraction]:
    """The finite values in ascending order."""
    with unchecked():
        found = {Fraction(v) for v in exact.values(fmt) if abs(v) < exact.INF}
    return sorted(v for v in found if v >= fmt.lowest)


def telling(fmt: Format, layout: str = "float32", around: int = 2) -> np.ndarray:
    """Patterns of every value, every tie and what lies beyond, of both signs, with neighbours."""
    kind, values = LAYOUTS[layout], finite(fmt)
    with unchecked():
        middles = [(low + high) / 2 for low, high in pairwise(values)]
        ties = [exact.gap_at(fmt, middle).tie for middle in middles]
        step = Fraction(2) ** -1080
        for gap in (
            exact.gap_at(fmt, values[-1] + step),
            exact.gap_at(fmt, values[0] - step),
            exact.gap_at(fmt, -step),
        ):
            ties += [gap.tie, gap.far]
        near = [kind.at_least(abs(number)) for number in [*values, *ties]]
    extremes = [0, 1, 2, 1 << kind.mantissa_bits, kind.infinity, kind.nan, kind.sign - 1]
    steps = np.arange(-around, around + 1, dtype=object)
    found = np.array(near + extremes, dtype=object)[:, None] + steps
    magnitudes = np.unique(found.clip(0, kind.sign - 1).astype(kind.word))
    return np.concatenate([magnitudes, magnitudes | kind.word.type(kind.sign)])


def expected(
    patterns: np.ndarray, fmt: Format, rounding: str, overflow: str, *, random=None
) -> np.ndarray:
    """The patterns to which the numbers of patterns round, ``random`` being an integer for each."""
    kind = LAYOUTS[f"float{patterns.itemsize * 8}"]
    random = np.zeros(len(patterns), int) if random is None else random
    with remembered():
        results = [
            _expected(pattern, number, fmt, rounding, overflow, kind)
            for pattern, number in zip(patterns.tolist(), random.tolist(), strict=True)
        ]
    return np.array(results, kind.word)


def _expected(
    pattern: int, random: int, fmt: Format, rounding: str, overflow: str, kind: Layout
) -> int:
    number = kind.number(pattern)
    return kind.pattern(
        exact.round_exact(number, fmt, rounding=rounding, overflow=overflow, random=random)
    )
