"""A study: how a subject's answers change from format to format.

Every policy is judged on all of the subject's data against its own float32 answers:

- *loss*: mean cross-entropy at the labels, in nats, and its difference to float32;
- *KL*: mean Kullback-Leibler divergence of the answers from float32's, in nats, which is zero
  only for the same answers and moves smoothly where the top-1 score jumps;
- *top1*: the share of labels that are the most likely class;
- *bits_per_byte*: the loss over ln 2, for models of bytes.
"""

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qsim.numbers.formats import Float, Format
from qsim.numbers.modes import suggest
from qsim.scales.blocks import Block
from qsim.simulate.policy import Policy, policy
from qsim.sweeps.subject import Subject
from qsim.sweeps.sweep import stream

__all__ = [
    "TARGETS",
    "Measures",
    "Reference",
    "Row",
    "bits_per_byte",
    "judge",
    "on_the_map",
    "policies_for",
    "run",
    "versions",
]

TARGETS = {
    "weights": ("weights",),
    "activations": ("activations",),
    "both": ("weights", "activations"),
}


@dataclass(frozen=True)
class Measures:
    """What a subject scores under one policy; units as in this module's docstring."""

    loss: float
    kl: float
    top1: float


class Reference(NamedTuple):
    """A subject's float32 answers: their measures, and the log-probabilities themselves.

    The latter have the shape ``[batches, batch, ..., classes]``.
    """

    measures: Measures
    answers: jax.Array


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one format.

    Attributes:
        spec: the format, as ``qsim.parse`` reads it.
        bits: bits of its codes.
        exponent_bits, mantissa_bits: of a float; None for integers.
        loss, loss_difference, kl: in nats per label.
        top1: share of labels.
        bits_per_byte: None unless the subject is a model of bytes.
        seconds: wall time, compilation not counted.
    """

    spec: str
    bits: int
    exponent_bits: int | None
    mantissa_bits: int | None
    loss: float
    loss_difference: float
    kl: float
    top1: float
    bits_per_byte: float | None
    seconds: float


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
        made.append(policy(**dict.fromkeys(TARGETS[target], fmt), **own).lower())
    return made


def judge(subject: Subject) -> Reference:
    """The float32 answers of a subject, which others are held against."""

    @jax.jit
    def answers(variables, inputs):
        return lax.map(lambda batch: _log_softmax(subject.apply(variables, batch)), inputs)

    with jax.default_matmul_precision("highest"):
        reference = answers(subject.variables, subject.inputs)
    found = jax.jit(jax.vmap(_measure))(reference, reference, jnp.asarray(subject.labels))
    return Reference(_measures(jax.tree.map(jnp.mean, found)), reference)


def run(
    subject: Subject,
    reference: Reference,
    formats: Sequence[Format],
    policies: Sequence[Policy],
    *,
    key: Any = None,
    chunk: int = 2,
) -> Iterator[list[Row]]:
    """The rows of a sweep of a subject as they come, the formats' order being kept.

    Args:
        subject: the subject.
        reference: what ``judge`` says of it.
        formats: a format for each of ``policies``.
        policies: policies of one structure.
        key: random key for stochastic rounding.
        chunk: about how many formats come at a time.
    """
    data = (subject.inputs, jnp.asarray(subject.labels), reference.answers)

    def scores(variables, data):
        def add(_, batch):
            inputs, labels, expected = batch
            answers = _log_softmax(subject.apply(variables, inputs))
            return None, _measure(answers, expected, labels)

        return jax.tree.map(jnp.mean, lax.scan(add, None, data)[1])

    streamed = stream(scores, policies, key=key, chunk=chunk)
    for places, found, seconds in streamed(subject.variables, data):
        rows = [jax.tree.map(lambda leaf, n=n: leaf[n], found) for n in range(len(places))]
        yield [
            _row(formats[place], _measures(row), reference, subject.score, seconds / len(places))
            for place, row in zip(places, rows, strict=True)
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


def _log_softmax(logits) -> jax.Array:
    """Log-probabilities in float32, also of models that answer in fewer bits."""
    return jax.nn.log_softmax(logits.astype(jnp.float32))


def _measure(answers, expected, labels) -> dict[str, jax.Array]:
    """Means over a batch, from log-probabilities ``[..., classes]`` and labels ``[...]``."""
    taken = jnp.take_along_axis(answers, labels[..., None], axis=-1)
    # a class that float32 excludes adds nothing
    surprise = jnp.where(expected == -jnp.inf, 0.0, expected - answers)
    divergence = jnp.sum(jnp.exp(expected) * surprise, axis=-1)
    correct = (jnp.argmax(answers, axis=-1) == labels).astype(jnp.float32)
    finite = ~jnp.any(jnp.isnan(answers), axis=-1)
    return {
        "loss": -jnp.mean(taken),
        "kl": jnp.mean(divergence),
        "top1": jnp.mean(jnp.where(finite, correct, jnp.nan)),
    }


def _measures(found: dict[str, Any]) -> Measures:
    return Measures(**{name: float(np.asarray(value)) for name, value in found.items()})


def bits_per_byte(found: Measures, score: str) -> float | None:
    """The loss in bits, for models of bytes."""
    return found.loss / float(np.log(2)) if score == "bits_per_byte" else None


def _row(fmt: Format, found: Measures, reference: Reference, score: str, seconds: float) -> Row:
    is_float = isinstance(fmt, Float)
    return Row(
        spec=str(fmt),
        bits=fmt.bits,
        exponent_bits=fmt.exponent_bits if is_float else None,
        mantissa_bits=fmt.mantissa_bits if is_float else None,
        loss=found.loss,
        loss_difference=found.loss - reference.measures.loss,
        kl=found.kl,
        top1=found.top1,
        bits_per_byte=bits_per_byte(found, score),
        seconds=seconds,
    )
