"""A small convolutional network for digits of 8 x 8 pixels, 6,090 parameters.

Two convolutions with zero padding, each followed by ReLU and 2 x 2 max pooling, and a linear layer:

    8 x 8 x 1 -> 4 x 4 x 16 -> 2 x 2 x 32 -> 10

Shape suffixes: B batch, H height, W width, C channels, D features, N classes.
"""

import jax
from flax import linen as nn

CLASSES = 10


class DigitsCNN(nn.Module):
    """Logits, float32 [B, N], of images [B, 8, 8, 1] with values from 0 to 1."""

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        for i, channels in enumerate((16, 32)):
            x_BxHxWxC = nn.Conv(channels, (3, 3), padding=1, name=f"conv_{i}")(x_BxHxWxC)
            x_BxHxWxC = nn.max_pool(nn.relu(x_BxHxWxC), (2, 2), strides=(2, 2))
        x_BxD = x_BxHxWxC.reshape(x_BxHxWxC.shape[0], -1)
        return nn.Dense(CLASSES, name="classifier")(x_BxD)
