"""Paired comparisons: known distributions, cases small enough to enumerate, and verdicts."""

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from qsim.analysis.paired import against, better, estimate, judged, paired, samples

DRAWS = 300


def covered(make, truth: float, confidence: float = 0.95) -> int:
    """How many of 300 intervals hold the truth."""
    generator, found = np.random.default_rng(1), 0
    for number in range(DRAWS):
        _, low, high = paired(*make(generator), confidence=confidence, resamples=999, seed=number)
        found += low <= truth <= high
    return found


def within(found: int, share: float, deviations: float = 3) -> bool:
    """Whether a count of 300 is within so many standard deviations of its binomial."""
    return abs(found - DRAWS * share) <= deviations * np.sqrt(DRAWS * share * (1 - share))


@pytest.mark.t1
@pytest.mark.parametrize("confidence", [0.95, 0.8])
@pytest.mark.parametrize("examples", [12, 100])
def test_covers_the_difference_of_normals(confidence, examples):
    """Examples are hard or easy for both sides alike, which cancels."""

    def make(generator):
        shared = 10 * generator.normal(size=examples)
        b = shared + generator.normal(size=examples)
        return shared + 0.3 + generator.normal(size=examples), b

    assert within(covered(make, 0.3, confidence), confidence)


@pytest.mark.ci
def test_covers_a_ratio_of_sums():
    """Examples of 1 to 50 labels, whose label means vary around 0.2."""

    def make(generator):
        counts = generator.integers(1, 51, size=60)
        a = counts * 0.2 + np.sqrt(counts) * generator.normal(size=60)
        return a, np.zeros(60), counts

    assert within(covered(make, 0.2), 0.95)


@pytest.mark.ci
def test_covers_skewed_differences():
    """Exponential, of mean 1: the interval may be a little too narrow, as any of this kind."""
    found = covered(lambda generator: (generator.exponential(size=80), np.zeros(80)), 1.0)
    assert found >= 0.9 * DRAWS


@pytest.mark.t1
@pytest.mark.parametrize(
    ("seeds", "share"), [((2, 2), 0.88), ((3, 3), 0.92), ((5, 5), 0.94), ((5, 1), 0.95)]
)
@pytest.mark.parametrize("shift", [0.0, 2.0])
def test_covers_seeds_and_examples(seeds, share, shift):
    """Seeds that shift all examples by far more than examples differ, or by nothing.

    The former are held less often the fewer there are, as documented; the latter are held more
    often, as what an example does with one seed counts twice.
    """

    def make(generator):
        shared = generator.normal(size=40)
        return [
            shared
            + mean
            + shift * (seeds[side] > 1) * generator.normal(size=(seeds[side], 1))
            + generator.normal(size=(seeds[side], 40))
            for side, mean in enumerate((1.0, 0.0))
        ]

    found = covered(make, 1.0)
    assert within(found, share) if shift else found >= 0.95 * DRAWS


def test_seeds_widen_the_interval():
    generator = np.random.default_rng(0)
    shared, shifts = generator.normal(size=50), np.array([[-1.0], [0.0], [1.0]])
    still = paired(np.stack([shared] * 3), np.zeros(50), resamples=999)
    moved = paired(shared + shifts, np.zeros(50), resamples=999)
    assert moved.difference == pytest.approx(still.difference)
    assert moved.high - moved.low > 1.5 * (still.high - still.low)


def enumerated(sums: list[int], counts: list[int]) -> dict[float, Fraction]:
    """The exact distribution of the ratio over n - 1 of n examples drawn with replacement."""
    n, found = len(sums), Counter()
    for drawn in itertools.product(range(n), repeat=n - 1):
        found[sum(sums[k] for k in drawn) / sum(counts[k] for k in drawn)] += 1
    return {ratio: Fraction(times, n ** (n - 1)) for ratio, times in found.items()}


@pytest.mark.parametrize(
    ("sums", "counts"), [([0, 1, 5], [1, 1, 1]), ([0, 3, 4, 20], [1, 2, 3, 4]), ([2, 7], [1, 3])]
)
def test_resamples_have_the_enumerated_distribution(sums, counts):
    expected, total = enumerated(sums, counts), 20_000
    (found,) = samples([sums], counts, resamples=total)
    seen = Counter(np.round(found.draws, 9).tolist())
    assert set(seen) == {round(ratio, 9) for ratio in expected}
    for ratio, share in expected.items():
        p = float(share)
        assert abs(seen[round(ratio, 9)] - total * p) <= 4 * np.sqrt(total * p * (1 - p))


def test_the_interval_is_the_stretched_enumerated_one():
    """Of three examples two are drawn: 0, 1/2, 1, 3, 4 and 6 halves; 80 % leaves out 1/9 each."""
    differences = enumerated([0, 1, 11], [1, 1, 1])
    ordered, cumulated = (
        sorted(differences),
        np.cumsum([float(differences[key]) for key in sorted(differences)]),
    )
    low, high = (ordered[int(np.searchsorted(cumulated, tail))] for tail in (0.1, 0.9))
    mean, stretch = 4.0, stats.t.ppf(0.9, 2) / stats.norm.ppf(0.9)
    found = paired([2, 4, 15], [2, 3, 4], confidence=0.8)
    assert found == pytest.approx(
        (mean, mean + stretch * (low - mean), mean + stretch * (high - mean))
    )


def test_the_variance_is_that_of_the_mean():
    """Of the sample mean: s^2 / n, with n - 1 in s^2, also of two seeds."""
    generator = np.random.default_rng(3)
    sums = generator.normal(size=5)
    (found,) = samples([sums], resamples=100_000)
    assert found.draws.var() == pytest.approx(sums.var(ddof=1) / 5, rel=0.02)
    seeds = np.array([[1.0] * 5, [3.0] * 5])
    (found,) = samples([seeds], resamples=100_000)
    assert found.draws.var() == pytest.approx(seeds[:, 0].var(ddof=1) / 2, rel=0.02)


def test_a_seed_gives_the_same_interval_and_another_one_another():
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    assert paired(a, b, seed=5) == paired(a, b, seed=5) != paired(a, b, seed=6)


def test_sides_change_places():
    a, b = np.random.default_rng(0).normal(size=(2, 4, 30))
    there, back = paired(a, b), paired(b, a)
    assert there == pytest.approx((-back.difference, -back.high, -back.low))


def test_what_is_compared_together_is_compared_as_alone():
    stack = np.random.default_rng(0).normal(size=(3, 30))
    first, second, third = samples([*stack], resamples=500)
    together = against([first, second], third)
    for found, each in zip(together, stack[:2], strict=True):
        assert found == pytest.approx(paired(each, stack[2], resamples=500))
    assert estimate(first) == pytest.approx(paired(stack[0], np.zeros(30), resamples=500))


def test_many_examples_are_drawn_in_blocks(monkeypatch):
    a, b = np.random.default_rng(0).normal(size=(2, 30))
    whole = paired(a, b, resamples=500)
    monkeypatch.setattr("qsim.analysis.paired.CHUNK", 70)
    assert paired(a, b, resamples=500) == pytest.approx(whole)


def test_examples_without_labels_change_nothing():
    a, b, counts = [1.0, 4.0, 2.0], [2.0, 3.0, 0.5], [1, 2, 3]
    assert paired([*a, 9.0], [*b, 1.0], [*counts, 0]) == pytest.approx(paired(a, b, counts))


def test_verdicts_come_with_their_interval():
    low, high = np.linspace(1, 2, 20), np.linspace(1, 2, 20) + np.linspace(0.4, 0.6, 20)
    for more, words in ((False, ("better", "worse")), (True, ("worse", "better"))):
        found = better(low, high, more_is_better=more), better(high, low, more_is_better=more)
        assert tuple(each.word for each in found) == words
    noise = np.random.default_rng(0).normal(size=20)
    verdict = better(low + noise, low)
    assert verdict.word == "not told apart" and verdict.interval.low < 0 < verdict.interval.high
    assert better(low, low) == ("not told apart", (0.0, 0.0, 0.0))
    assert judged(verdict.interval) == verdict


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1.0, 2.0], [1.0]), {}, "shapes"),
        (([[[1.0, 2.0]]], [1.0, 2.0]), {}, "shapes"),
        (([1.0, np.nan], [1.0, 2.0]), {}, "diverged has no mean"),
        (([1.0], [2.0]), {}, "1 examples count"),
        (([1.0, 2.0], [1.0, 2.0], [0, 3]), {}, "1 examples count"),
        (([1.0, 2.0], [1.0, 2.0], [-1, 3]), {}, "0 or more"),
        (([1.0, 2.0], [1.0, 2.0], [1, 3, 4]), {}, "one per example"),
        (([1.0, 2.0], [1.0, 2.0]), {"confidence": 95.0}, "between 0 and 1"),
        (([1.0, 2.0], [1.0, 2.0]), {"resamples": 0}, "resamples"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        paired(*arguments, **options)
