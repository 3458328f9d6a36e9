"""A subject as a user would write it: which arm of a spiral a point lies on.

The wheel is tested with it (`.ci/run`), from a folder that holds nothing else. The hidden layer has
random weights, the output layer is fitted by least squares, so that nothing needs training.
"""

from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn

ARMS, HIDDEN, BATCHES, BATCH = 3, 64, 4, 64


class Subject(NamedTuple):
    name: str
    apply: object
    variables: dict
    inputs: jax.Array
    labels: jax.Array
    score: str


class Spiral(nn.Module):
    """A perceptron with one hidden layer."""

    @nn.compact
    def __call__(self, points):
        hidden = nn.relu(nn.Dense(HIDDEN, name="hidden")(points))
        return nn.Dense(ARMS, name="logits")(hidden)


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `[count, 2]` along the arms, with noise, and the arm `[count]` of each."""
    random = np.random.default_rng(seed)
    radius, arm = random.uniform(0.2, 1, count), random.integers(0, ARMS, count)
    angle = 2 * np.pi * arm / ARMS + 3 * radius + random.normal(0, 0.3, count)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1), arm


def fitted() -> dict:
    """The variables of `Spiral`: random hidden weights, least-squares output weights."""
    random = np.random.default_rng(0)
    kernel, bias = 3 * random.normal(size=(2, HIDDEN)), random.normal(size=HIDDEN)
    inputs, arm = points(2000, seed=1)
    hidden = np.maximum(inputs @ kernel + bias, 0)
    design = np.concatenate([hidden, np.ones((len(hidden), 1))], axis=1)
    solution = np.linalg.lstsq(design, np.eye(ARMS)[arm])[0]
    layers = {
        "hidden": {"kernel": kernel, "bias": bias},
        "logits": {"kernel": solution[:-1], "bias": solution[-1]},
    }
    return {"params": jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, "float32"), layers)}


def subject() -> Subject:
    inputs, arm = points(BATCHES * BATCH, seed=2)
    return Subject(
        name="spiral",
        apply=Spiral().apply,
        variables=fitted(),
        inputs=jax.numpy.asarray(inputs.reshape(BATCHES, BATCH, 2), "float32"),
        labels=jax.numpy.asarray(arm.reshape(BATCHES, BATCH), "int32"),
        score="top1",
    )
