"""Handwritten digits of 8 x 8 grey levels, and a small convolutional network to train on them.

The digits are a file in the package scikit-learn, which is located and checked, and not imported.
"""

import functools
import gzip
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.digits.model import DigitsCNN
from models.files import packaged
from models.task import Task

PACKAGE = "sklearn"
FILE = "datasets/data/digits.csv.gz"
SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
REMEDY = "pip install 'jax-qsim[models]'"
TRAINED = 1437  # of 1797 digits; the others were written by other people
BATCH, HELDOUT_BATCH = 32, 90


def load() -> tuple[np.ndarray, np.ndarray]:
    """Returns (digits, float32 [1797, 8, 8, 1] from 0 to 1, and their labels, int32 [1797]).

    Raises FileNotFoundError, with the remedy, when scikit-learn is missing.
    """
    with gzip.open(packaged(PACKAGE, FILE, SHA256, REMEDY)) as file:
        table = np.loadtxt(file, np.int32, delimiter=",")
    grey, labels = table[:, :-1], table[:, -1]
    return (grey.astype(np.float32) / 16).reshape(-1, 8, 8, 1), labels


@functools.cache
def task() -> Task:
    """Returns the task: batches of 32 digits drawn at random, judged on 360 that are held out."""
    images, labels = load()
    model = DigitsCNN()

    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros((1, 8, 8, 1)))

    def loss(variables: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        image_BxHxWxC, label_B = batch
        logits_BxN = model.apply(variables, image_BxHxWxC)
        return optax.softmax_cross_entropy_with_integer_labels(logits_BxN, label_B).mean()

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        which_B = jax.random.randint(key, (BATCH,), 0, TRAINED)
        return jnp.asarray(images)[which_B], jnp.asarray(labels)[which_B]

    heldout = images[TRAINED:], labels[TRAINED:]
    return Task(
        name="digits",
        init=init,
        loss=loss,
        draw=draw,
        heldout=tuple(each.reshape(-1, HELDOUT_BATCH, *each.shape[1:]) for each in heldout),
        unit="nats",
        scale=1.0,
        rate=5e-3,
        steps=200,
    )
