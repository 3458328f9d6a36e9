"""SmolLM2-135M, a causal transformer of the Llama family, in the order of its equations.

For L tokens x the model gives p(x_{l+1} | x_0 .. x_l) for every l at once:

    h_0     = E[x]
    a_i     = h_i + Attention(RMSNorm(h_i))
    h_{i+1} = a_i + MLP(RMSNorm(a_i))
    logits  = RMSNorm(h_n) E^T

Queries have nine heads, keys and values three: three heads of queries share one of keys.

Shape suffixes: B batch, L and M positions (query and key), D width, G heads of keys and values,
R heads of queries for each of those, H = G R all heads of queries, K head width, F hidden width of
the MLP, V vocabulary.

Sources: Allal et al. 2025 (SmolLM2), Touvron et al. 2023 (Llama), Ainslie et al. 2023 (grouped
queries), Su et al. 2021, section 3.4 (rotary positions), Shazeer 2020 (SwiGLU).
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
    """The sizes of one model. `width` is `key_heads * queries_per_key * head_width`."""

    vocabulary: int = 49152
    layers: int = 30
    key_heads: int = 3
    queries_per_key: int = 3
    head_width: int = 64
    hidden: int = 1536
    rotary_base: float = 100_000.0
    eps: float = 1e-5

    @property
    def heads(self) -> int:
        """The heads of queries."""
        return self.key_heads * self.queries_per_key

    @property
    def width(self) -> int:
        """The width D of the residual stream."""
        return self.heads * self.head_width


def linear(features: int, *, name: str) -> nn.Dense:
    """Returns x W without a bias."""
    return nn.Dense(features, use_bias=False, name=name)


def rotate(x_BxLxHxK: jax.Array, base: float) -> jax.Array:
    """Returns x with the pair (k, k + K/2) at position l turned by the angle l base^(-2k/K)."""
    _, length, _, width = x_BxLxHxK.shape
    rate_K2 = base ** (-np.arange(0, width, 2) / width)
    angle_1xLx1xK2 = np.arange(length)[None, :, None, None] * rate_K2
    cos, sin = np.float32(np.cos(angle_1xLx1xK2)), np.float32(np.sin(angle_1xLx1xK2))
    a, b = jnp.split(x_BxLxHxK, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class RMSNorm(nn.Module):
    """g x / sqrt(mean(x^2) + eps), over the last axis."""

    eps: float

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
        queries = (batch, length, c.heads, c.head_width)
        keys = (batch, length, c.key_heads, c.head_width)
        q_BxLxHxK = linear(c.heads * c.head_width, name="query")(x_BxLxD).reshape(queries)
        k_BxMxGxK = linear(c.key_heads * c.head_width, name="key")(x_BxLxD).reshape(keys)
        v_BxMxGxK = linear(c.key_heads * c.head_width, name="value")(x_BxLxD).reshape(keys)

        k_BxMxGxK = rotate(k_BxMxGxK, c.rotary_base)
        q_BxLxHxK = rotate(q_BxLxHxK, c.rotary_base) * c.head_width**-0.5
        q_BxLxGxRxK = q_BxLxHxK.reshape(batch, length, c.key_heads, -1, c.head_width)
        score_BxGxRxLxM = jnp.einsum("BLGRK,BMGK->BGRLM", q_BxLxGxRxK, k_BxMxGxK)
        causal_1x1x1xLxM = np.tri(length, dtype=bool)[None, None, None]
        att_BxGxRxLxM = nn.softmax(jnp.where(causal_1x1x1xLxM, score_BxGxRxLxM, MASKED))
        out_BxLxGxRxK = jnp.einsum("BGRLM,BMGK->BLGRK", att_BxGxRxLxM, v_BxMxGxK)
        return linear(width, name="out")(out_BxLxGxRxK.reshape(x_BxLxD.shape))


class MLP(nn.Module):
    """(SiLU(x W_gate) * x W_up) W_down."""

    config: Config

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        gate_BxLxF = linear(self.config.hidden, name="gate")(x_BxLxD)
        up_BxLxF = linear(self.config.hidden, name="up")(x_BxLxD)
        return linear(x_BxLxD.shape[-1], name="down")(nn.silu(gate_BxLxF) * up_BxLxF)


class Layer(nn.Module):
    """One layer: h + Attention(RMSNorm(h)), then the same with the MLP."""

    config: Config

    @nn.compact
    def __call__(self, h_BxLxD: jax.Array) -> jax.Array:
        c = self.config
        norm_BxLxD = RMSNorm(c.eps, name="attention_norm")(h_BxLxD)
        h_BxLxD = h_BxLxD + Attention(c, name="attention")(norm_BxLxD)
        norm_BxLxD = RMSNorm(c.eps, name="mlp_norm")(h_BxLxD)
        return h_BxLxD + MLP(c, name="mlp")(norm_BxLxD)


class SmolLM2(nn.Module):
    """Next-token logits, float32 [B, L, V], of tokens given as integers [B, L]."""

    config: Config = Config()

    @nn.compact
    def __call__(self, token_BxL: jax.Array) -> jax.Array:
        c = self.config
        embed = nn.Embed(c.vocabulary, c.width, name="embed")
        h_BxLxD = embed(token_BxL)
        for i in range(c.layers):
            h_BxLxD = Layer(c, name=f"layer_{i}")(h_BxLxD)
        return embed.attend(RMSNorm(c.eps, name="final_norm")(h_BxLxD))


def apply(variables: Any, token_BxL: jax.Array) -> jax.Array:
    """Returns the next-token logits, float32 [B, L, 49152]: the model as a pure function."""
    return cast(jax.Array, SmolLM2().apply(variables, token_BxL))
