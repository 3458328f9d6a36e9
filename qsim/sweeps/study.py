"""A study: how a subject's answers change from format to format.

Every policy is judged on all of the subject's data, by the subject's score (``scores``), against
labels and against the subject's own float32 answers.
"""

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim.numbers.catalogue import short_name
from qsim.numbers.formats import Float, Format
from qsim.numbers.modes import suggest
from qsim.numbers.random_bits import fold_in
from qsim.numbers.records import shown
from qsim.scales.blocks import Block
from qsim.simulate.policy import Policy, policy
from qsim.simulate.transform import simulate
from qsim.sweeps.scores import SCORES
from qsim.sweeps.subject import Subject
from qsim.sweeps.sweep import stream_of

__all__ = [
    "TARGETS",
    "Reference",
    "Row",
    "judge",
    "on_the_map",
    "policies_for",
    "policies_from",
    "run",
    "versions",
]

TARGETS = {
    "weights": ("weights",),
    "activations": ("activations",),
    "both": ("weights", "activations"),
}


class Reference(NamedTuple):
    """A subject's float32 answers: their measures, and the answers themselves.

    The latter have the shape ``[batches, batch, ..., classes]``, or ``[batches, batch, width]``.
    """

    measures: Mapping[str, float]
    answers: jax.Array


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one format.

    Attributes:
        spec: the format, as ``qsim.parse`` reads it.
        bits: bits of its codes.
        exponent_bits, mantissa_bits: of a float; None for all others.
        measures: what the subject's score measures, by name; see ``scores`` for units.
        seconds: wall time, compilation not counted.
    """

    spec: str
    bits: int
    exponent_bits: int | None
    mantissa_bits: int | None
    measures: Mapping[str, float]
    seconds: float


def policies_from(formats: Sequence[Format], text: str) -> list[Policy]:
    """A policy for each format, from a text in which ``{}`` stands for it.

    Raises:
        ValueError: for a text without ``{}``, or one that is no policy.

    >>> from qsim.numbers.specs import parse
    >>> [str(found) for found in policies_from([parse("e4m3")], "weights={}; outputs=bfloat16")]
    ['weights=e4m3; contraction=e8m7']
    """
    if "{}" not in text:
        raise ValueError(
            f"policy {shown(text)} has no {{}}, which stands for the format: weights={{}}"
        )
    return [_lowerable(policy(text.replace("{}", str(fmt)))) for fmt in formats]


def _lowerable(made: Policy) -> Policy:
    """A policy as it is, once it is known that its formats can be carried."""
    made.lower()
    return made


def policies_for(formats: Sequence[Format], target: str, **modes: str) -> list[Policy]:
    """A policy for each format, on weights, activations or both.

    Args:
        formats: the formats.
        target: a key of ``TARGETS``.
        modes: rounding, overflow and scale, as for ``qsim.policy``; block formats have scales of
            their own.

    Raises:
        ValueError: for an unknown target or mode.
    """
    if target not in TARGETS:
        raise ValueError(f"no target {target!r}; {suggest(target, list(TARGETS))}")
    made = []
    for fmt in formats:
        own = modes | {"scale": "none"} if isinstance(fmt, Block) else modes
        made.append(_lowerable(policy(**dict.fromkeys(TARGETS[target], fmt), **own)))
    return made


def judge(subject: Subject) -> Reference:
    """The float32 answers of a subject, which others are held against."""
    score = SCORES[subject.score]

    @jax.jit
    def answers(variables, inputs):
        return lax.map(lambda batch: score.answers(subject.apply(variables, batch)), inputs)

    with jax.default_matmul_precision("highest"):
        reference = answers(subject.variables, subject.inputs)
    labels = jnp.asarray(subject.labels)
    observed = jax.jit(jax.vmap(score.observe))(reference, reference, labels)
    return Reference(score.measure(observed, np.asarray(labels)), reference)


def run(
    subject: Subject,
    reference: Reference,
    formats: Sequence[Format],
    policies: Sequence[Policy],
    *,
    key: Any = None,
    chunk: int = 2,
) -> Iterator[list[Row]]:
    """The rows of a sweep of a subject as they come: policies of one structure after another.

    Args:
        subject: the subject.
        reference: what ``judge`` says of it.
        formats: a format for each of ``policies``.
        policies: the policies; only what the model computes is simulated, not how it is judged.
        key: random key for stochastic rounding.
        chunk: about how many formats come at a time.
    """
    score, labels = SCORES[subject.score], jnp.asarray(subject.labels)

    def make(policy: Policy):
        """The subject's answers are simulated; how they are judged is not."""

        def observe(variables, data):
            def add(number, batch):
                inputs, labels, expected = batch
                noise = None if key is None else fold_in(key, number)
                outputs = simulate(subject.apply, policy, key=noise)(variables, inputs)
                return number + 1, score.observe(score.answers(outputs), expected, labels)

            return lax.scan(add, jnp.int32(0), data)[1]

        return observe

    streamed = stream_of(make, policies, chunk=chunk)
    data = (subject.inputs, labels, reference.answers)
    for places, observed, seconds in streamed(subject.variables, data):
        stacked = jax.device_get(observed)
        each = [{name: leaf[n] for name, leaf in stacked.items()} for n in range(len(places))]
        found = [score.measure(one, np.asarray(labels)) for one in each]
        yield [
            _row(formats[place], measures, seconds / len(places))
            for place, measures in zip(places, found, strict=True)
        ]


def on_the_map(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The floats that their exponent and mantissa bits alone describe, and all other formats."""
    floats = [row for row in rows if row.spec == f"e{row.exponent_bits}m{row.mantissa_bits}"]
    return floats, [row for row in rows if row not in floats]


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = {name: _version(name) for name in ("jax-qsim", "jax", "jaxlib", "flax", "numpy")}
    return {**packages, "python": platform.python_version(), "backend": jax.default_backend()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "checkout"


def _row(fmt: Format, measures: Mapping[str, float], seconds: float) -> Row:
    is_float = isinstance(fmt, Float)
    return Row(
        spec=short_name(fmt),
        bits=fmt.bits,
        exponent_bits=fmt.exponent_bits if is_float else None,
        mantissa_bits=fmt.mantissa_bits if is_float else None,
        measures=measures,
        seconds=seconds,
    )
