"""all-MiniLM-L6-v2, an encoder of 22.56 million parameters that gives a text a direction.

A BERT of six layers, each normalised after the addition:

    h = LayerNorm(word + position + segment)
    h = LayerNorm(h + Attention(h))
    h = LayerNorm(h + MLP(h))           six times these two

The embedding of a text is the mean of h over its tokens, at length 1, so that the cosine of the
angle between two texts is the product of their embeddings.

Shape suffixes: B batch, L length, M length (of keys and values), H heads, K width of a head, D
width (H x K), F width of the MLP.

Sources: Devlin et al. 2019; Wang et al. 2020 (MiniLM); Reimers and Gurevych 2019 (mean pooling).
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

MASKED = -1e4  # finite, and inside the range of float16, so that no format turns it into a NaN
PADDING = 0  # the token that fills a batch's shorter texts


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes of the model. `width` is `heads * head_width`."""

    vocabulary: int = 30_522
    context: int = 512
    layers: int = 6
    heads: int = 12
    head_width: int = 32
    expansion: int = 4

    @property
    def width(self) -> int:
        """The width D of the residual stream."""
        return self.heads * self.head_width


def norm(name: str) -> nn.LayerNorm:
    """Returns gain (x - mean) / deviation + bias, over the last axis."""
    return nn.LayerNorm(epsilon=1e-12, use_fast_variance=False, name=name)


class Embedding(nn.Module):
    """The sum of a token's vector, its position's and that of the only segment, normalised."""

    config: Config

    @nn.compact
    def __call__(self, token_BxL: jax.Array) -> jax.Array:
        c = self.config
        word_BxLxD = nn.Embed(c.vocabulary, c.width, name="word")(token_BxL)
        position_1xL = np.arange(token_BxL.shape[1], dtype=np.int32)[None]
        position_1xLxD = nn.Embed(c.context, c.width, name="position")(position_1xL)
        segment_D = self.param("segment", nn.initializers.normal(0.02), (c.width,))
        return norm("norm")(word_BxLxD + position_1xLxD + segment_D[None, None])


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K), padding left out) v, per head, then a projection."""

    config: Config

    @nn.compact
    def __call__(self, h_BxLxD: jax.Array, real_BxL: jax.Array) -> jax.Array:
        c = self.config
        heads = (*h_BxLxD.shape[:2], c.heads, c.head_width)
        q_BxLxHxK = nn.Dense(c.width, name="query")(h_BxLxD).reshape(heads)
        k_BxMxHxK = nn.Dense(c.width, name="key")(h_BxLxD).reshape(heads)
        v_BxMxHxK = nn.Dense(c.width, name="value")(h_BxLxD).reshape(heads)

        q_BxLxHxK = q_BxLxHxK * c.head_width**-0.5
        score_BxHxLxM = jnp.einsum("BLHK,BMHK->BHLM", q_BxLxHxK, k_BxMxHxK)
        real_Bx1x1xM = real_BxL[:, None, None, :]
        att_BxHxLxM = nn.softmax(jnp.where(real_Bx1x1xM, score_BxHxLxM, MASKED))
        out_BxLxHxK = jnp.einsum("BHLM,BMHK->BLHK", att_BxHxLxM, v_BxMxHxK)
        return nn.Dense(c.width, name="out")(out_BxLxHxK.reshape(h_BxLxD.shape))


class MLP(nn.Module):
    """GELU(x W_up + b_up) W_down + b_down, with the exact GELU."""

    config: Config

    @nn.compact
    def __call__(self, h_BxLxD: jax.Array) -> jax.Array:
        c = self.config
        up_BxLxF = nn.Dense(c.expansion * c.width, name="up")(h_BxLxD)
        return nn.Dense(c.width, name="down")(nn.gelu(up_BxLxF, approximate=False))


class Block(nn.Module):
    """One layer: LayerNorm(h + Attention(h)), then the same with the MLP."""

    config: Config

    @nn.compact
    def __call__(self, h_BxLxD: jax.Array, real_BxL: jax.Array) -> jax.Array:
        attended_BxLxD = Attention(self.config, name="attention")(h_BxLxD, real_BxL)
        h_BxLxD = norm("attention_norm")(h_BxLxD + attended_BxLxD)
        return norm("mlp_norm")(h_BxLxD + MLP(self.config, name="mlp")(h_BxLxD))


class MiniLM(nn.Module):
    """Embeddings, float32 [B, D] of length 1, of texts given as tokens [B, L], 0 behind the end."""

    config: Config = Config()

    @nn.compact
    def __call__(self, token_BxL: jax.Array) -> jax.Array:
        real_BxL = token_BxL != PADDING
        h_BxLxD = Embedding(self.config, name="embedding")(token_BxL)
        for i in range(self.config.layers):
            h_BxLxD = Block(self.config, name=f"block_{i}")(h_BxLxD, real_BxL)
        return direction(jnp.sum(jnp.where(real_BxL[..., None], h_BxLxD, 0.0), axis=1))


def direction(x_BxD: jax.Array) -> jax.Array:
    """Returns x / |x|; the mean over the tokens has the direction of their sum."""
    return x_BxD / jnp.sqrt(jnp.sum(jnp.square(x_BxD), axis=-1, keepdims=True))


def apply(variables: Any, token_BxL: jax.Array) -> jax.Array:
    """Returns the embeddings, float32 [B, 384]: the default model as a pure function."""
    return cast(jax.Array, MiniLM().apply(variables, token_BxL))
