"""The evaluations of a study: every combination of its axes, each with its policy, each once."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from qsim.arithmetic.accumulator import Accumulator
from qsim.numbers.formats import Float, Format
from qsim.numbers.modes import require_one_of
from qsim.numbers.records import shown
from qsim.numbers.specs import parse
from qsim.scales.blocks import Block
from qsim.simulate.policy import Policy
from qsim.simulate.policy import policy as read_policy
from qsim.simulate.sites import sites
from qsim.studies.result import Coordinate, key_of
from qsim.studies.study import EACH, Study
from qsim.sweeps.subject import Subject, first_batch

__all__ = ["TARGETS", "Evaluation", "evaluations", "facts_of", "layers", "policies_from"]

NONE = "none"  # the accumulator of native sums
TARGETS = {
    "weights": ("weights",),
    "activations": ("activations",),
    "both": ("weights", "activations"),
}


class Evaluation(NamedTuple):
    """A point on the axes of a study, and what is simulated there.

    Attributes:
        point: its coordinates, see ``qsim.studies.result.AXES``.
        fmt: the format, if it has one.
        policy: what is simulated.
    """

    point: dict[str, Coordinate]
    fmt: Format | None
    policy: Policy

    @property
    def key(self) -> str:
        """The key of its point."""
        return key_of(self.point)


def evaluations(study: Study, subject: Subject) -> list[Evaluation]:
    """Every evaluation of a study, in the order of its axes.

    A policy that draws no random bits is evaluated once, whatever seeds there are, and a block
    format once, whatever scales, as it has its own.

    Raises:
        ValueError: for combinations that cannot be; the message names one.
    """
    found: dict[str, Evaluation] = {}
    for point, fmt, made in _combined(study, subject):
        for seed in study.seeds if made.is_stochastic else (None,):
            whole = point if seed is None else {**point, "seed": seed}
            evaluation = Evaluation(whole, fmt, made)
            found.setdefault(evaluation.key, evaluation)
    return list(found.values())


def facts_of(fmt: Format | None) -> dict[str, int | float | None]:
    """What tables say of a format; bits are those of a value, with its share of a block's scale.

    >>> facts_of(parse("e4m3")), facts_of(parse("mxfp4"))["bits"]
    ({'bits': 8, 'exponent_bits': 4, 'mantissa_bits': 3}, 4.25)
    """
    is_float = isinstance(fmt, Float)
    return {
        "bits": _bits(fmt),
        "exponent_bits": fmt.exponent_bits if is_float else None,
        "mantissa_bits": fmt.mantissa_bits if is_float else None,
    }


def _bits(fmt: Format | None) -> int | float | None:
    if not isinstance(fmt, Block):
        return fmt and fmt.bits
    bits = fmt.bits_per_value
    return bits.numerator if bits.denominator == 1 else float(bits)


def layers(subject: Subject) -> list[str]:
    """The paths of a subject's contractions with weights, in the order of the program."""
    found = sites(subject.apply, subject.variables, first_batch(subject))
    contractions = [site for site in found if site.kind == "contraction"]
    return list(dict.fromkeys(site.path for site in contractions if "weight" in site.roles))


def _combined(
    study: Study, subject: Subject
) -> Iterator[tuple[dict[str, Coordinate], Format | None, Policy]]:
    """Points without seeds, their formats and policies."""
    formats = [(name, parse(name)) for name in study.formats] or [(None, None)]
    for (name, fmt), way in itertools.product(formats, _ways(study, subject)):
        own = {**way, "scale": "none"} if isinstance(fmt, Block) and "scale" in way else way
        for accumulator in study.accumulators or (None,):
            point = {**({} if name is None else {"format": name}), **own}
            if accumulator is not None:
                point["accumulator"] = accumulator
            try:
                made = _by_text(fmt, **own) if "policy" in own else _by_modes(fmt, **own)
                if accumulator not in (None, NONE):
                    Accumulator.parse(accumulator)  # no rules besides
                    adding = _lowerable(read_policy(f"accumulators={accumulator}"))
                    made = Policy((*adding.rules, *made.rules))
            except (ValueError, TypeError) as error:
                said = ", ".join(f"{axis} {value}" for axis, value in point.items())
                raise ValueError(f"{said}: {error}") from None
            yield point, fmt, made


def _ways(study: Study, subject: Subject) -> list[dict[str, str]]:
    """Coordinates besides the format and the accumulator."""
    if study.policies:
        return [{"policy": text} for text in study.policies]
    modes = {
        "target": study.targets,
        "path": _paths(study, subject),
        "rounding": study.roundings,
        "overflow": study.overflows,
        "scale": study.scales,
    }
    chosen = itertools.product(*(values for values in modes.values() if values))
    names = [name for name, values in modes.items() if values]
    return [dict(zip(names, values, strict=True)) for values in chosen]


def _paths(study: Study, subject: Subject) -> tuple[str, ...]:
    if EACH not in study.paths:
        return study.paths
    found = [re.escape(path) for path in layers(subject)]
    if not found:
        raise ValueError(
            f"axes.paths has {EACH!r}, every layer, but {subject.name} has no contraction with "
            "weights: 'qsim sites' shows its operations"
        )
    others = [path for path in study.paths if path != EACH]
    return tuple(dict.fromkeys([*found, *others]))


def policies_from(formats: Sequence[Format], text: str) -> list[Policy]:
    """A policy for each format, from a text in which ``{}`` stands for it.

    Raises:
        ValueError: for a text without ``{}``, or one that is no policy.

    >>> [str(found) for found in policies_from([parse("e4m3")], "weights={}; outputs=bfloat16")]
    ['weights=e4m3; contraction=e8m7']
    """
    return [_by_text(fmt, policy=text) for fmt in formats]


def _by_text(fmt: Format | None, *, policy: str) -> Policy:
    if fmt is not None and "{}" not in policy:
        raise ValueError(
            f"policy {shown(policy)} has no {{}}, which stands for the format: weights={{}}"
        )
    return _lowerable(read_policy(policy.replace("{}", str(fmt))))


def _by_modes(fmt: Format | None, *, target: str, path: str | None = None, **modes) -> Policy:
    """A policy for operands of contractions, where a path leads."""
    require_one_of("target", target, TARGETS)
    made = _lowerable(read_policy(**dict.fromkeys(TARGETS[target], fmt), **modes))
    if path is None:
        return made
    return Policy(
        tuple(replace(rule, select=replace(rule.select, path=path)) for rule in made.rules)
    )


def _lowerable(made: Policy) -> Policy:
    """A policy as it is, once it is known that its formats can be carried."""
    made.lower()
    return made
