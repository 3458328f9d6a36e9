"""What the results of a study say together: configurations, intervals, the front, comparisons.

A *configuration* is a point without its seed: its results are those of all seeds, its measures
their means, and its intervals cover examples and seeds (``qsim.analysis.paired``). The *Pareto
front* of a measure has the configurations that no other one of as few bits beats.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsim.analysis.paired import Interval, Sample, against, estimate, samples
from qsim.report.picture import TITLES
from qsim.report.terminal import COLUMNS
from qsim.studies.result import AXES, Result
from qsim.sweeps.scores import SCORES

__all__ = [
    "MORE_IS_BETTER",
    "Comparison",
    "Configuration",
    "axes_of",
    "comparisons",
    "configurations",
    "front",
    "intervals",
    "measures_of",
    "title",
    "written",
]

MORE_IS_BETTER = frozenset({"top1", "pearson"})
LINEAR = {"bits_per_byte": ("loss", 1 / math.log(2))}  # sums of one measure are those of another
EVERYWHERE = ".*"  # as a path
LARGEST = 709.0  # whose exponential is still a number
RESAMPLES = 1999
COMPARISONS = 20_000  # at most, of a measure: all pairs of 141 configurations


@dataclass(frozen=True, kw_only=True, eq=False)
class Configuration:
    """What was evaluated with one or several seeds.

    Attributes:
        point: its coordinates, but the seed.
        label: those that differ in the study, in a few words; unique in it.
        results: one for each seed.
        measures: means over seeds; empty if all failed.
    """

    point: Mapping[str, str | int]
    label: str
    results: tuple[Result, ...]
    measures: Mapping[str, float]

    @property
    def facts(self) -> Mapping[str, int | float | None]:
        """Those of its format."""
        return self.results[0].facts

    @property
    def mean(self) -> Result:
        """The mean over seeds as a result, as maps of sweeps show it."""
        seconds = sum(result.seconds for result in self.results)
        error = self.results[0].error if self.state == "failed" else ""
        return Result(
            point=self.point,
            facts=self.facts,
            measures=self.measures,
            seconds=seconds,
            error=error,
        )

    @property
    def state(self) -> str:
        """``done``, or what became of the worst of its results."""
        states = {result.state for result in self.results}
        return next(state for state in ("failed", "diverged", "done") if state in states)


def axes_of(results: Sequence[Result]) -> dict[str, list[str | int]]:
    """The axes of results, with their values in the order of appearance; seeds in theirs."""
    found: dict[str, dict] = {}
    for result in results:
        for axis, value in result.point.items():
            found.setdefault(axis, {})[value] = None
    return {
        axis: sorted(found[axis]) if axis == "seed" else [*found[axis]]
        for axis in AXES
        if axis in found
    }


def configurations(results: Sequence[Result]) -> list[Configuration]:
    """Results by all coordinates but the seed, in the order of appearance."""
    axes = axes_of(results)
    told = [axis for axis, values in axes.items() if axis != "seed" and len(values) > 1]
    named = told if told else [axis for axis in ("format", "policy") if axis in axes]
    grouped: dict[tuple, list[Result]] = {}
    for result in results:
        place = tuple((axis, at) for axis, at in result.point.items() if axis != "seed")
        grouped.setdefault(tuple(sorted(place)), []).append(result)
    return [_configuration(some, named) for some in grouped.values()]


def _configuration(results: Sequence[Result], named: Sequence[str]) -> Configuration:
    point = {axis: value for axis, value in results[0].point.items() if axis != "seed"}
    words = [str(point[axis]) for axis in named if axis in point]
    known = [result.measures for result in results if result.measures]
    names = known[0] if known else {}
    means = {name: float(np.mean([each[name] for each in known])) for name in names}
    return Configuration(
        point=point,
        label=", ".join(words) or "all of it",
        results=tuple(results),
        measures=means,
    )


# --- measures -------------------------------------------------------------------------------


def measures_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The measures of a study, the headline first."""
    score = SCORES[manifest["score"]]
    asked = manifest.get("study", {}).get("measures", ())
    first = [name for name in asked if name in score.measures]
    return tuple(dict.fromkeys([*first, score.headline, *score.measures]))


def title(measure: str) -> str:
    """A measure's title, with its unit.

    >>> title("kl")
    'KL divergence from float32, nats'
    """
    return TITLES.get(measure, COLUMNS[measure][0])


def written(measure: str, value: float) -> str:
    """A measure's value, as tables have it.

    >>> written("top1", 0.5)
    '50.0 %'
    """
    return COLUMNS[measure][1](value)


def front(found: Sequence[Configuration], measure: str) -> list[Configuration]:
    """The Pareto front of bits and a measure, fewest bits first; of those that round everywhere.

    What rounds one layer is as good as it likes: it costs the bits of all others.
    """
    sign = -1 if measure in MORE_IS_BETTER else 1
    whole = [each for each in found if each.point.get("path", EVERYWHERE) == EVERYWHERE]
    known = [each for each in whole if each.state == "done" and each.facts.get("bits")]
    ordered = sorted(known, key=lambda each: (each.facts["bits"], sign * each.measures[measure]))
    kept: list[Configuration] = []
    for each in ordered:
        if not kept or sign * each.measures[measure] < sign * kept[-1].measures[measure]:
            kept.append(each)
    return kept


# --- intervals ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every configuration against a baseline.

    Attributes:
        baseline: place of a configuration; None is float32.
        intervals: of the difference from the baseline, for each configuration; None where there
            are no sums over examples.
    """

    baseline: int | None
    intervals: Sequence[Interval | None]


def intervals(
    found: Sequence[Configuration], measure: str, manifest: Mapping[str, Any]
) -> list[Interval | None]:
    """The interval of a measure of each configuration; None where it has none."""
    if measure == "perplexity":  # e^loss grows with the loss, and so do an interval's ends
        return [
            each and Interval(*(_exp(end) for end in each))
            for each in intervals(found, "loss", manifest)
        ]
    drawn = _samples(found, measure, manifest)
    return [None if each is None else estimate(each) for each in drawn[:-1]]


def _exp(value: float) -> float:
    return math.exp(value) if value < LARGEST else math.inf


def comparisons(
    found: Sequence[Configuration], measure: str, manifest: Mapping[str, Any]
) -> list[Comparison]:
    """Every configuration against float32, those of the Pareto front, and as many more as fit.

    The differences are paired, example by example. There are none where examples are not kept.
    """
    drawn = _samples(found, measure, manifest)
    if not (known := [n for n, each in enumerate(drawn[:-1]) if each is not None]):
        return []
    sign = -1 if measure in MORE_IS_BETTER else 1
    best = sorted(known, key=lambda n: sign * found[n].measures[measure])
    fronts = front([found[n] for n in known], measure)
    ordered = sorted(best, key=lambda n: found[n] not in fronts)  # stable: the best comes first
    baselines = [None] * (drawn[-1] is not None) + ordered
    compared = []
    for baseline in baselines[: max(2, COMPARISONS // max(1, len(known)))]:
        held = drawn[-1 if baseline is None else baseline]
        assert held is not None
        told = iter(against([each for each in drawn[:-1] if each is not None], held))
        each = [next(told) if one is not None else None for one in drawn[:-1]]
        compared.append(Comparison(baseline=baseline, intervals=each))
    return compared


def _samples(
    found: Sequence[Configuration], measure: str, manifest: Mapping[str, Any]
) -> list[Sample | None]:
    """A sample for each configuration that has sums over examples, and at the end for float32."""
    reference = manifest.get("reference_examples") or {}
    stacks = [
        _sums([result.examples for result in each.results], measure, reference) for each in found
    ]
    stacks.append(_sums([reference], measure, reference))
    known = {n: stack for n, stack in enumerate(stacks) if stack is not None}
    counts = manifest.get("counts")
    length = len(counts) if counts else max((each.shape[-1] for each in known.values()), default=0)
    alike = {n: stack for n, stack in known.items() if stack.shape[-1] == length}
    drawn: list[Sample | None] = [None] * len(stacks)
    if alike and length > 1:  # of one example there is no interval
        resampled = samples(list(alike.values()), counts, resamples=RESAMPLES)
        for n, sample in zip(alike, resampled, strict=True):
            drawn[n] = sample
    return drawn


def _sums(
    seeds: Sequence[Mapping[str, Any]], measure: str, reference: Mapping[str, Any]
) -> np.ndarray | None:
    """Sums of a measure ``[seeds, examples]``; None if a seed has none, or not all are finite."""
    source, factor = LINEAR.get(measure, (measure, 1.0))
    base = 0.0
    if measure == "loss_difference":
        source = "loss"
        if source not in reference:
            return None
        base = np.asarray(reference[source], np.float64)
    if not all(source in each for each in seeds):
        return None
    stack = np.stack([np.asarray(each[source], np.float64) for each in seeds])
    return factor * (stack - base) if np.isfinite(stack).all() else None
