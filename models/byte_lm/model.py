"""A causal transformer over bytes, pre-norm and rotary, in the order of its equations.

For a text x of L bytes the model gives p(x_{l+1} | x_0 .. x_l) for every l at once:

    h_0     = E[x]
    a_i     = h_i + Attention(RMSNorm(h_i))
    h_{i+1} = a_i + MLP(RMSNorm(a_i))
    logits  = RMSNorm(h_n) E^T

Shape suffixes: B batch, L and M positions (query and key), D width, H heads, K head width,
F hidden width of the MLP, V vocabulary.

Sources: Vaswani et al. 2017 (attention), Su et al. 2021, section 3.4 (rotary positions),
Zhang and Sennrich 2019, equation 4 (RMSNorm), Press and Wolf 2017 (tied embedding).
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

MASKED = -1e4  # finite, and inside the range of float16, so that no format turns it into a NaN


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes of one model. `width` is `heads * head_width`."""

    vocabulary: int = 256
    context: int = 256
    layers: int = 4
    heads: int = 5
    head_width: int = 32
    expansion: int = 4

    @property
    def width(self) -> int:
        """The width D of the residual stream."""
        return self.heads * self.head_width


def linear(features: int, *, name: str, depth: int = 1) -> nn.Dense:
    """Returns x W without a bias; `depth` divides the variance of a residual branch's W."""
    scale = nn.initializers.variance_scaling(1 / depth, "fan_in", "normal")
    return nn.Dense(features, use_bias=False, kernel_init=scale, name=name)


def rotate(x_BxLxHxK: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Returns x with the pair (k, k + K/2) at position l turned by the angle l base^(-2k/K)."""
    _, length, _, width = x_BxLxHxK.shape
    rate_K2 = base ** (-np.arange(0, width, 2) / width)
    angle_1xLx1xK2 = np.arange(length)[None, :, None, None] * rate_K2
    cos, sin = np.float32(np.cos(angle_1xLx1xK2)), np.float32(np.sin(angle_1xLx1xK2))
    a, b = jnp.split(x_BxLxHxK, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class RMSNorm(nn.Module):
    """g x / sqrt(mean(x^2) + eps), over the last axis."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gain_D = self.param("gain", nn.initializers.ones, x_BxLxD.shape[-1:])
        gain_BxLxD = jnp.broadcast_to(gain_D, x_BxLxD.shape)
        square_BxLx1 = jnp.mean(jnp.square(x_BxLxD), axis=-1, keepdims=True)
        return x_BxLxD * jax.lax.rsqrt(square_BxLx1 + self.eps) * gain_BxLxD


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K) + causal mask) v, per head, then a projection."""

    config: Config

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        c = self.config
        batch, length, width = x_BxLxD.shape
        heads = (batch, length, c.heads, c.head_width)
        q_BxLxHxK = rotate(linear(width, name="query")(x_BxLxD).reshape(heads))
        k_BxMxHxK = rotate(linear(width, name="key")(x_BxLxD).reshape(heads))
        v_BxMxHxK = linear(width, name="value")(x_BxLxD).reshape(heads)

        q_BxLxHxK = q_BxLxHxK * c.head_width**-0.5
        score_BxHxLxM = jnp.einsum("BLHK,BMHK->BHLM", q_BxLxHxK, k_BxMxHxK)
        causal_1x1xLxM = np.tri(length, dtype=bool)[None, None]
        att_BxHxLxM = nn.softmax(jnp.where(causal_1x1xLxM, score_BxHxLxM, MASKED))
        out_BxLxHxK = jnp.einsum("BHLM,BMHK->BLHK", att_BxHxLxM, v_BxMxHxK)
        return linear(width, name="out", depth=2 * c.layers)(out_BxLxHxK.reshape(x_BxLxD.shape))


class MLP(nn.Module):
    """GELU(x W_up) W_down."""

    config: Config

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        c = self.config
        h_BxLxF = nn.gelu(linear(c.expansion * c.width, name="up")(x_BxLxD))
        return linear(c.width, name="down", depth=2 * c.layers)(h_BxLxF)


class Block(nn.Module):
    """One layer: h + Attention(RMSNorm(h)), then the same with the MLP."""

    config: Config

    @nn.compact
    def __call__(self, h_BxLxD: jax.Array) -> jax.Array:
        norm_BxLxD = RMSNorm(name="attention_norm")(h_BxLxD)
        h_BxLxD = h_BxLxD + Attention(self.config, name="attention")(norm_BxLxD)
        norm_BxLxD = RMSNorm(name="mlp_norm")(h_BxLxD)
        return h_BxLxD + MLP(self.config, name="mlp")(norm_BxLxD)


class ByteLM(nn.Module):
    """Next-byte logits, float32 [B, L, V], of bytes given as integers [B, L]."""

    config: Config = Config()

    @nn.compact
    def __call__(self, byte_BxL: jax.Array) -> jax.Array:
        c = self.config
        small = nn.initializers.normal(0.02)
        embed = nn.Embed(c.vocabulary, c.width, embedding_init=small, name="embed")
        h_BxLxD = embed(byte_BxL)
        for i in range(c.layers):
            h_BxLxD = Block(c, name=f"block_{i}")(h_BxLxD)
        return embed.attend(RMSNorm(name="final_norm")(h_BxLxD))


def apply(variables: Any, byte_BxL: jax.Array) -> jax.Array:
    """Returns the next-byte logits, float32 [B, L, 256]: the default model as a pure function."""
    return cast(jax.Array, ByteLM().apply(variables, byte_BxL))
