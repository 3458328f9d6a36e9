"""EfficientNet-Lite0, an image classifier of 4.65 million parameters, for inference.

A stem, sixteen inverted bottlenecks in seven stages, a head, and a linear classifier:

    narrow -> expand 1x1 -> depthwise k x k -> project 1x1 -> narrow, plus the input if shapes agree

Every convolution is followed by a batch norm with stored statistics, and all but the projection by
ReLU6. Against EfficientNet-B0 the Lite models drop squeeze-and-excitation and the swish, so that
integer hardware can run them.

Shape suffixes: B batch, H height, W width, C channels, N classes.

Sources: Tan and Le 2019, table 1; the EfficientNet-Lite README of tensorflow/tpu.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

IMAGE_SIZE = 224
CLASSES = 1000


class Stage(NamedTuple):
    """A run of `repeats` bottlenecks; only the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def blocks() -> list[Stage]:
    """Returns the sixteen bottlenecks in order, each as a stage with one repeat."""
    return [
        stage._replace(repeats=1, stride=stage.stride if i == 0 else 1)
        for stage in STAGES
        for i in range(stage.repeats)
    ]


class ConvNorm(nn.Module):
    """A convolution with TensorFlow's SAME padding, then batch norm, then ReLU6 if `active`."""

    channels: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    active: bool = True

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        x_BxHxWxC = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding="SAME",
            feature_group_count=self.groups,
            use_bias=False,
            name="conv",
        )(x_BxHxWxC)
        x_BxHxWxC = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="norm")(x_BxHxWxC)
        return nn.relu6(x_BxHxWxC) if self.active else x_BxHxWxC


class Bottleneck(nn.Module):
    """The inverted bottleneck: expand, filter each channel by itself, project."""

    stage: Stage

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        s = self.stage
        wide = s.expansion * x_BxHxWxC.shape[-1]
        y_BxHxWxC = x_BxHxWxC
        if s.expansion > 1:
            y_BxHxWxC = ConvNorm(wide, name="expand")(y_BxHxWxC)
        depthwise = ConvNorm(wide, s.kernel, s.stride, groups=wide, name="depthwise")
        y_BxHxWxC = depthwise(y_BxHxWxC)
        y_BxHxWxC = ConvNorm(s.channels, active=False, name="project")(y_BxHxWxC)
        return x_BxHxWxC + y_BxHxWxC if x_BxHxWxC.shape == y_BxHxWxC.shape else y_BxHxWxC


class EfficientNetLite0(nn.Module):
    """Logits, float32 [B, N], of images [B, 224, 224, 3] with values in [-127/128, 1]."""

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        x_BxHxWxC = ConvNorm(32, kernel=3, stride=2, name="stem")(x_BxHxWxC)
        for i, stage in enumerate(blocks()):
            x_BxHxWxC = Bottleneck(stage, name=f"block_{i}")(x_BxHxWxC)
        x_BxHxWxC = ConvNorm(1280, name="head")(x_BxHxWxC)
        x_BxC = jnp.mean(x_BxHxWxC, axis=(1, 2))
        return nn.Dense(CLASSES, name="classifier")(x_BxC)


def apply(variables: Any, x_BxHxWxC: jax.Array) -> jax.Array:
    """Returns the logits, float32 [B, 1000]: the model as a pure function."""
    return cast(jax.Array, EfficientNetLite0().apply(variables, x_BxHxWxC))
