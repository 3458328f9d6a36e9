"""Scores: how a model's answers are judged, against labels and against its float32 answers.

Two kinds of models, two kinds of answers. A model that gives logits is judged label by label, and a
label of -1 is not scored:

- *loss*: mean of -ln p(label), in nats, and *loss_difference*, the same less that of float32;
- *kl*: mean Kullback-Leibler divergence of the answers from float32's, in nats, which is zero only
  for the same answers and moves smoothly where the top-1 score jumps;
- *top1*: the share of labels that are the most likely class;
- *bits_per_byte* = loss / ln 2, for models of bytes; *perplexity* = e^loss, for models of tokens.

A model that gives embeddings ``[batch, width]`` is judged by directions:

- *cosine_distance*: mean of 1 - cos(answer, float32 answer);
- *pearson*: the correlation, over the rated pairs of a batch, of the cosine between their two
  embeddings with the rating that people gave. A pair whose rating is NaN is not rated.

Means are over all scored labels, or all embeddings, of all batches, however they are shared out.

A score names its ``measures`` in the order of tables, among them the ``headline``, which people
look at on maps, and the ``distance``, which is zero for the answers of float32. It is applied in
three steps: ``answers`` and ``observe`` are JAX functions of one batch, and ``measure`` takes what
was observed in all of them, with a leading axis, on the host in float64.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["MEASURES", "SCORES", "Likelihood", "Score", "Similarity"]

Observed = Mapping[str, Any]


@dataclass(frozen=True)
class Likelihood:
    """Logits ``[..., classes]``, judged at labels ``[...]`` that are classes, or -1.

    The headline is ``kl``, ``bits_per_byte`` or ``perplexity``; the last two are measures only
    where they are the headline.
    """

    headline: str = "kl"
    distance: str = "kl"

    @property
    def measures(self) -> tuple[str, ...]:
        """Names, in the order of tables."""
        own = ("loss", "loss_difference", "kl", "top1")
        return own if self.headline in own else (*own, self.headline)

    def answers(self, outputs: jax.Array) -> jax.Array:
        """Log-probabilities in float32, also of models that answer in fewer bits."""
        return jax.nn.log_softmax(outputs.astype(jnp.float32))

    def observe(self, answers: jax.Array, expected: jax.Array, labels: jax.Array) -> dict[str, Any]:
        """Sums over the scored labels of each example of a batch."""
        scored = labels >= 0
        place = jnp.where(scored, labels, 0)[..., None]
        taken, taken32 = (
            jnp.take_along_axis(each, place, axis=-1)[..., 0] for each in (answers, expected)
        )
        # a class that float32 excludes adds nothing
        surprise = jnp.where(expected == -jnp.inf, 0.0, expected - answers)
        correct = (jnp.argmax(answers, axis=-1) == labels).astype(jnp.float32)
        finite = ~jnp.any(jnp.isnan(answers), axis=-1)
        found = {
            "loss": -taken,
            "loss_difference": taken32 - taken,
            "kl": jnp.sum(jnp.exp(expected) * surprise, axis=-1),
            "top1": jnp.where(finite, correct, jnp.nan),
        }
        within = tuple(range(1, labels.ndim))
        return {name: jnp.sum(jnp.where(scored, each, 0.0), within) for name, each in found.items()}

    def examples(self, observed: Observed) -> dict[str, np.ndarray]:
        """The sums of measures over each example of all batches, float32 ``[examples]``."""
        return {name: np.ravel(observed[name]) for name in ("loss", "kl", "top1")}

    def counts(self, labels: np.ndarray) -> np.ndarray:
        """What the sums of each example are over: its scored labels."""
        return np.sum(labels >= 0, axis=tuple(range(2, labels.ndim))).ravel()

    def measure(self, observed: Observed, labels: np.ndarray) -> dict[str, float]:
        """Means over all scored labels."""
        count = np.sum(labels >= 0)
        means = {name: float(_total(sums) / count) for name, sums in observed.items()}
        match self.headline:
            case "bits_per_byte":
                means["bits_per_byte"] = means["loss"] / math.log(2)
            case "perplexity":
                with np.errstate(over="ignore"):
                    means["perplexity"] = float(np.exp(means["loss"]))
        return {name: means[name] for name in self.measures}

    def fault(self, outputs: tuple[int, ...], labels: np.ndarray) -> str | None:
        """What keeps labels from being classes of the logits."""
        if not np.issubdtype(labels.dtype, np.integer):
            return f"has labels of dtype {labels.dtype}; they must be integers, the classes"
        if outputs[:-1] != labels.shape[1:]:
            return (
                f"gives logits of shape {outputs} for a batch, and the labels of a batch have "
                f"shape {labels.shape[1:]}; the logits need those axes and one of classes"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high < 0 or high >= outputs[-1]:
            return (
                f"has labels from {low} to {high}, and its logits have {outputs[-1]} classes: "
                "labels count from 0, those of -1 are not scored, and some must be"
            )
        return None


@dataclass(frozen=True)
class Similarity:
    """Embeddings ``[batch, width]``, judged at ratings ``[batch, batch]`` of their pairs."""

    measures: tuple[str, ...] = ("cosine_distance", "pearson")
    headline: str = "cosine_distance"
    distance: str = "cosine_distance"

    def answers(self, outputs: jax.Array) -> jax.Array:
        """The embeddings' directions: vectors of length 1, NaN where an embedding is zero."""
        outputs = outputs.astype(jnp.float32)
        return outputs / jnp.sqrt(jnp.sum(outputs**2, axis=-1, keepdims=True))

    def observe(self, answers: jax.Array, expected: jax.Array, labels: jax.Array) -> dict[str, Any]:
        """1 - cos(a, b) = |a - b|^2 / 2 of each example, and the directions, for their pairs.

        The right-hand side keeps its precision where the answers are nearly those of float32.
        """
        return {"distance": jnp.sum((answers - expected) ** 2, -1) / 2, "directions": answers}

    def examples(self, observed: Observed) -> dict[str, np.ndarray]:
        """The distance of each example of all batches, float32 ``[examples]``."""
        return {"cosine_distance": np.ravel(observed["distance"])}

    def counts(self, labels: np.ndarray) -> np.ndarray:
        """What the distance of each example is a sum over: one."""
        return np.ones(math.prod(labels.shape[:2]), np.int64)

    def measure(self, observed: Observed, labels: np.ndarray) -> dict[str, float]:
        """The mean distance, and the correlation over the rated pairs of all batches."""
        directions = np.asarray(observed["directions"], np.float64)
        cosines = directions @ directions.swapaxes(-1, -2)
        rated = ~np.isnan(labels)
        return {
            "cosine_distance": float(
                _total(observed["distance"]) / math.prod(directions.shape[:-1])
            ),
            "pearson": _pearson(cosines[rated], labels[rated].astype(np.float64)),
        }

    def fault(self, outputs: tuple[int, ...], labels: np.ndarray) -> str | None:
        """What keeps labels from being ratings of the embeddings' pairs."""
        if not np.issubdtype(labels.dtype, np.floating):
            return f"has labels of dtype {labels.dtype}; ratings of pairs must be floats"
        if len(outputs) != 2 or labels.shape[1:] != (outputs[0], outputs[0]):
            return (
                f"gives {outputs} for a batch, and the labels of a batch have shape "
                f"{labels.shape[1:]}; similarity needs embeddings [batch, width] and ratings "
                "[batch, batch]"
            )
        ratings = labels[~np.isnan(labels)]
        if np.isinf(ratings).any() or len(np.unique(ratings)) < 2:
            return (
                f"has {len(ratings)} rated pairs, and their ratings correlate with nothing: "
                "at least two must differ, all be finite, and NaN stand for unrated"
            )
        return None


Score = Likelihood | Similarity

SCORES: dict[str, Score] = {
    "bits_per_byte": Likelihood("bits_per_byte"),
    "perplexity": Likelihood("perplexity"),
    "top1": Likelihood(),
    "similarity": Similarity(),
}
MEASURES = tuple(dict.fromkeys(name for score in SCORES.values() for name in score.measures))


def _total(sums: Any) -> np.float64:
    """The sum over the examples of all batches, in float64."""
    return np.sum(np.asarray(sums, np.float64))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of two samples; NaN if one does not vary."""
    x, y = x - np.mean(x), y - np.mean(y)
    with np.errstate(invalid="ignore"):
        return float(np.sum(x * y) / np.sqrt(np.sum(x**2) * np.sum(y**2)))
