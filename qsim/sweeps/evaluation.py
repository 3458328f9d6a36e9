"""How a subject answers under policies, and how its answers are judged.

Every policy is judged on all of the subject's data, by the subject's score (``scores``), against
labels and against the subject's own float32 answers.
"""

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim.numbers.random_bits import fold_in
from qsim.simulate.policy import Policy
from qsim.simulate.transform import simulate
from qsim.sweeps.planner import Plan
from qsim.sweeps.scores import SCORES
from qsim.sweeps.streaming import Stream
from qsim.sweeps.subject import Subject
from qsim.sweeps.sweep import stream_of

__all__ = ["Judged", "Reference", "evaluate", "judge", "planned", "versions"]


class Reference(NamedTuple):
    """A subject's float32 answers: their measures, and the answers themselves.

    The latter have the shape ``[batches, batch, ..., classes]``, or ``[batches, batch, width]``;
    ``examples`` are the sums of measures over each example, float32 ``[examples]`` by name.
    """

    measures: Mapping[str, float]
    answers: jax.Array
    examples: Mapping[str, np.ndarray]


class Judged(NamedTuple):
    """What was found under one policy.

    Attributes:
        place: of the policy among those given.
        measures: what the subject's score measures, by name; see ``scores`` for units.
        examples: the sums of measures over each example, float32 ``[examples]`` by name.
        seconds: wall time, compilation not counted.
        batch: how many policies ran side by side under ``vmap``.
    """

    place: int
    measures: Mapping[str, float]
    examples: Mapping[str, np.ndarray]
    seconds: float
    batch: int


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
    measures = score.measure(observed, np.asarray(labels))
    return Reference(measures, reference, score.examples(observed))


def evaluate(
    subject: Subject,
    reference: Reference,
    policies: Sequence[Policy],
    *,
    seeds: Sequence[int] | None = None,
    **how: Any,
) -> Iterator[list[Judged]]:
    """What is found under policies, as it comes: those of one structure after another.

    Args:
        subject: the subject.
        reference: what ``judge`` says of it.
        policies: the policies; only what the model computes is simulated, not how it is judged.
        seeds: of stochastic rounding, one for each policy; by default 0.
        how: ``batch``, ``devices`` and ``chunk``, as for ``stream_of``.
    """
    score, labels = SCORES[subject.score], np.asarray(subject.labels)
    streamed = _streamed(subject, policies, seeds, how)
    for places, observed, seconds, batch in streamed(*_arguments(subject, reference)):
        stacked = jax.device_get(observed)
        each = [jax.tree.map(lambda leaf, n=n: leaf[n], stacked) for n in range(len(places))]
        yield [
            Judged(
                place,
                score.measure(one, labels),
                score.examples(one),
                seconds / len(places),
                batch,
            )
            for place, one in zip(places, each, strict=True)
        ]


def planned(
    subject: Subject,
    reference: Reference,
    policies: Sequence[Policy],
    *,
    seeds: Sequence[int] | None = None,
    timed: bool = True,
    **how: Any,
) -> Plan:
    """How ``evaluate`` would run these policies, and how long that takes; see there."""
    streamed = _streamed(subject, policies, seeds, how)
    return streamed.plan(*_arguments(subject, reference), timed=timed)


def _streamed(
    subject: Subject,
    policies: Sequence[Policy],
    seeds: Sequence[int] | None,
    how: Mapping[str, Any],
) -> Stream:
    own = np.array([0] * len(policies) if seeds is None else seeds, np.uint32)
    return stream_of(_observer(subject), policies, own=own, **how)


def _arguments(subject: Subject, reference: Reference) -> tuple:
    labels = jnp.asarray(subject.labels)
    return subject.variables, (subject.inputs, labels, reference.answers)


def _observer(subject: Subject):
    """What is simulated and observed under a policy, with random bits of a seed."""
    score = SCORES[subject.score]

    def make(policy: Policy, seed: jax.Array):
        key = jax.random.key(seed) if policy.is_stochastic else None

        def observe(variables, data):
            def add(number, batch):
                inputs, labels, expected = batch
                noise = None if key is None else fold_in(key, number)
                outputs = simulate(subject.apply, policy, key=noise)(variables, inputs)
                return number + 1, score.observe(score.answers(outputs), expected, labels)

            return lax.scan(add, jnp.int32(0), data)[1]

        return observe

    return make


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    packages = {name: _version(name) for name in ("jax-qsim", "jax", "jaxlib", "flax", "numpy")}
    return {**packages, "python": platform.python_version(), "backend": jax.default_backend()}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "checkout"
