"""A small convolutional network for handwritten digits, 421,642 parameters, for inference.

Two convolutions with zero padding, each followed by ReLU and 2 x 2 max pooling, then two linear
layers:

    28 x 28 x 1 -> 14 x 14 x 32 -> 7 x 7 x 64 -> 128 -> 10

Shape suffixes: B batch, H height, W width, C channels, D features, N classes.
"""

from typing import Any, cast

import jax
from flax import linen as nn

IMAGE_SIZE = 28
CLASSES = 10


class Stage(nn.Module):
    """A 3 x 3 convolution, ReLU, and the largest of each 2 x 2 square."""

    channels: int

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        x_BxHxWxC = nn.Conv(self.channels, (3, 3), padding=1, name="conv")(x_BxHxWxC)
        return nn.max_pool(nn.relu(x_BxHxWxC), (2, 2), strides=(2, 2))


class MnistCNN(nn.Module):
    """Logits, float32 [B, N], of images [B, 28, 28, 1] that are scaled to mean 0, deviation 1."""

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        for i, channels in enumerate((32, 64)):
            x_BxHxWxC = Stage(channels, name=f"stage_{i}")(x_BxHxWxC)
        x_BxD = x_BxHxWxC.reshape(x_BxHxWxC.shape[0], -1)
        x_BxD = nn.relu(nn.Dense(128, name="hidden")(x_BxD))
        return nn.Dense(CLASSES, name="classifier")(x_BxD)


def apply(variables: Any, x_BxHxWxC: jax.Array) -> jax.Array:
    """Returns the logits, float32 [B, 10]: the model as a pure function."""
    return cast(jax.Array, MnistCNN().apply(variables, x_BxHxWxC))
