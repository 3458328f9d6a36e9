"""Whisper, a transformer that reads thirty seconds of speech and writes the words.

The encoder sees a log-mel spectrogram, the decoder the tokens so far and the encoder's answer:

    a_0     = gelu(conv2(gelu(conv1(mel)))) + P_audio              conv2 has stride 2
    a_{i+1} = a_i + Attention(norm(a_i)), then + MLP(norm(.))      from all to all
    h_0     = E[token] + P_text
    h_{i+1} = h_i + Attention(norm(h_i)), then + Attention(norm(.), a), then + MLP(norm(.))
    logits  = norm(h_n) E^T

Text can be written in one go or step by step. A step gets the keys and values of what went before
as its argument, the cache, and returns them with its own; nothing is kept elsewhere. The cache is
{"block_0": {"self_attention": KeyValue, "cross_attention": KeyValue}, ...}.

Shape suffixes: B batch, T frames, C mel bins, L and M positions (query and key), A positions of the
audio, D width, H heads, K head width, F hidden width of the MLP, V vocabulary.

Sources: Radford et al. 2022, section 2.2; Vaswani et al. 2017 (attention), Ba et al. 2016 (layer
norm), Press and Wolf 2017 (tied embedding).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

MASKED = -1e4  # finite, and inside the range of float16, so that no format turns it into a NaN


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes of one model, by default those of tiny.en. `width` is `heads * head_width`."""

    bins: int = 80
    frames: int = 3000
    vocabulary: int = 51_864
    context: int = 448
    layers: int = 4
    heads: int = 6
    head_width: int = 64
    expansion: int = 4

    @property
    def width(self) -> int:
        """The width D of the residual streams."""
        return self.heads * self.head_width


class KeyValue(NamedTuple):
    """The keys and the values of one attention, each [B, M, H, K]."""

    key: jax.Array
    value: jax.Array


Cache = dict[str, dict[str, KeyValue]]


def norm(name: str) -> nn.LayerNorm:
    """Returns (x - mean) / sqrt(variance + eps) * scale + bias, over the last axis."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


def split(x_BxLxD: jax.Array, config: Config) -> jax.Array:
    """Returns the D = H K features head by head, [B, L, H, K]."""
    return x_BxLxD.reshape(*x_BxLxD.shape[:2], config.heads, config.head_width)


def write(cache: KeyValue, new: KeyValue, position: Any) -> KeyValue:
    """Returns the cache with the keys and values of `position` and after replaced by new ones."""
    start = (0, position, 0, 0)
    return KeyValue(
        jax.lax.dynamic_update_slice(cache.key, new.key, start),
        jax.lax.dynamic_update_slice(cache.value, new.value, start),
    )


def later(position: Any, length: int, others: int) -> jax.Array:
    """Returns which of [0, others) follow each of [position, position + length), [L, M]."""
    return jnp.arange(others)[None, :] > position + jnp.arange(length)[:, None]


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K) + mask) v, per head, then a projection."""

    config: Config

    @nn.compact
    def __call__(
        self,
        x_BxLxD: jax.Array,
        source_BxMxD: jax.Array | None = None,
        cache: KeyValue | None = None,
        position: Any = None,
    ) -> tuple[jax.Array, KeyValue]:
        """Returns ([B, L, D], the keys and values that were attended to).

        Keys and values are those of the source or of the cache; given both, the cache's with the
        source's written in from `position` on. With a position, x stands there and after, and
        attends to nothing that follows; without one, it attends to everything.
        """
        c = self.config
        q_BxLxHxK = split(nn.Dense(c.width, name="query")(x_BxLxD), c) * c.head_width**-0.5
        if source_BxMxD is None:
            assert cache is not None
            k_BxMxHxK, v_BxMxHxK = cache
        else:
            k_BxMxHxK = split(nn.Dense(c.width, use_bias=False, name="key")(source_BxMxD), c)
            v_BxMxHxK = split(nn.Dense(c.width, name="value")(source_BxMxD), c)
            if cache is not None:
                k_BxMxHxK, v_BxMxHxK = write(cache, KeyValue(k_BxMxHxK, v_BxMxHxK), position)

        score_BxHxLxM = jnp.einsum("BLHK,BMHK->BHLM", q_BxLxHxK, k_BxMxHxK)
        if position is not None:
            hidden_LxM = later(position, *score_BxHxLxM.shape[2:])
            score_BxHxLxM = jnp.where(hidden_LxM[None, None], MASKED, score_BxHxLxM)
        att_BxHxLxM = nn.softmax(score_BxHxLxM)
        out_BxLxHxK = jnp.einsum("BHLM,BMHK->BLHK", att_BxHxLxM, v_BxMxHxK)
        out_BxLxD = nn.Dense(c.width, name="out")(out_BxLxHxK.reshape(x_BxLxD.shape))
        return out_BxLxD, KeyValue(k_BxMxHxK, v_BxMxHxK)


class MLP(nn.Module):
    """gelu(x W_up + b_up) W_down + b_down, where gelu(x) = x Phi(x) with the exact Phi."""

    config: Config

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        c = self.config
        h_BxLxF = nn.Dense(c.expansion * c.width, name="up")(x_BxLxD)
        return nn.Dense(c.width, name="down")(nn.gelu(h_BxLxF, approximate=False))


class EncoderBlock(nn.Module):
    """One layer of the encoder: a + Attention(norm(a)), then the same with the MLP."""

    config: Config

    @nn.compact
    def __call__(self, a_BxAxD: jax.Array) -> jax.Array:
        norm_BxAxD = norm("attention_norm")(a_BxAxD)
        out_BxAxD, _ = Attention(self.config, name="attention")(norm_BxAxD, norm_BxAxD)
        a_BxAxD = a_BxAxD + out_BxAxD
        return a_BxAxD + MLP(self.config, name="mlp")(norm("mlp_norm")(a_BxAxD))


class Encoder(nn.Module):
    """What is heard, [B, A, D], of a log-mel spectrogram [B, T, C]; A is T / 2."""

    config: Config

    @nn.compact
    def __call__(self, mel_BxTxC: jax.Array) -> jax.Array:
        c = self.config
        conv1 = nn.Conv(c.width, (3,), padding=((1, 1),), name="conv1")
        conv2 = nn.Conv(c.width, (3,), padding=((1, 1),), strides=2, name="conv2")
        h_BxTxD = nn.gelu(conv1(mel_BxTxC), approximate=False)
        a_BxAxD = nn.gelu(conv2(h_BxTxD), approximate=False)
        shape = (c.frames // 2, c.width)
        a_BxAxD = a_BxAxD + self.param("position", nn.initializers.normal(0.02), shape)[None]
        for i in range(c.layers):
            a_BxAxD = EncoderBlock(c, name=f"block_{i}")(a_BxAxD)
        return norm("norm")(a_BxAxD)


class DecoderBlock(nn.Module):
    """One layer of the decoder: Attention to the text, Attention to the audio, MLP."""

    config: Config

    @nn.compact
    def __call__(
        self,
        h_BxLxD: jax.Array,
        audio_BxAxD: jax.Array | None,
        cache: dict[str, KeyValue],
        position: Any,
    ) -> tuple[jax.Array, dict[str, KeyValue]]:
        """Returns ([B, L, D], the layer's cache with the keys and values of this call)."""
        names = ("self_attention", "cross_attention")
        own, cross = (Attention(self.config, name=name) for name in names)
        norm_BxLxD = norm("self_attention_norm")(h_BxLxD)
        out_BxLxD, text = own(norm_BxLxD, norm_BxLxD, cache.get(names[0]), position)
        h_BxLxD = h_BxLxD + out_BxLxD
        norm_BxLxD = norm("cross_attention_norm")(h_BxLxD)
        out_BxLxD, audio = cross(norm_BxLxD, audio_BxAxD, cache.get(names[1]))
        h_BxLxD = h_BxLxD + out_BxLxD
        h_BxLxD = h_BxLxD + MLP(self.config, name="mlp")(norm("mlp_norm")(h_BxLxD))
        return h_BxLxD, dict(zip(names, (text, audio), strict=True))


class Decoder(nn.Module):
    """Next-token logits of tokens, given what is heard or a cache."""

    config: Config

    @nn.compact
    def __call__(
        self, token_BxL: jax.Array, audio_BxAxD: jax.Array | None, cache: Cache, position: Any
    ) -> tuple[jax.Array, Cache]:
        """Returns (logits [B, L, V], the cache with the keys and values of this call)."""
        c = self.config
        small = nn.initializers.normal(0.02)
        embed = nn.Embed(c.vocabulary, c.width, embedding_init=small, name="embed")
        place_NxD = self.param("position", small, (c.context, c.width))
        place_LxD = jax.lax.dynamic_slice_in_dim(place_NxD, position, token_BxL.shape[1])
        h_BxLxD = embed(token_BxL) + place_LxD[None]
        known = {}
        for i in range(c.layers):
            name = f"block_{i}"
            block = DecoderBlock(c, name=name)
            h_BxLxD, known[name] = block(h_BxLxD, audio_BxAxD, cache.get(name, {}), position)
        return embed.attend(norm("norm")(h_BxLxD)), known


class Whisper(nn.Module):
    """Next-token logits, float32 [B, L, V], of tokens [B, L] and a log-mel spectrogram [B, T, C].

    Given a cache, the tokens stand at `position` and after, and no spectrogram is needed.
    """

    config: Config = Config()

    @nn.compact
    def __call__(
        self,
        token_BxL: jax.Array,
        mel_BxTxC: jax.Array | None = None,
        cache: Cache | None = None,
        position: Any = 0,
    ) -> tuple[jax.Array, Cache]:
        """Returns (logits, the cache with the keys and values of this call)."""
        if mel_BxTxC is None and cache is None:
            raise ValueError("neither a spectrogram nor a cache: there is nothing to hear")
        audio_BxAxD = None
        if mel_BxTxC is not None:
            audio_BxAxD = Encoder(self.config, name="encoder")(mel_BxTxC)
        decoder = Decoder(self.config, name="decoder")
        return decoder(token_BxL, audio_BxAxD, cache or {}, position)


def apply(variables: Any, inputs: dict[str, jax.Array], config: Config = Config()) -> jax.Array:
    """Returns the next-token logits, float32 [B, L, V]: the model as a pure function.

    `inputs` is {"mel": float32 [B, 3000, 80], "tokens": int32 [B, L]}.
    """
    logits, _ = Whisper(config).apply(variables, inputs["tokens"], inputs["mel"])
    return logits


def start(
    variables: Any,
    token_BxL: jax.Array,
    mel_BxTxC: jax.Array,
    *,
    length: int,
    config: Config = Config(),
) -> tuple[jax.Array, Cache]:
    """Returns (logits [B, L, V] of the first tokens, a cache with room for `length` tokens)."""
    if not token_BxL.shape[1] <= length <= config.context:
        raise ValueError(
            f"length {length} is not from {token_BxL.shape[1]}, the tokens given, to "
            f"{config.context}, the context"
        )
    logits, cache = Whisper(config).apply(variables, token_BxL, mel_BxTxC)
    room = [(0, 0), (0, length - token_BxL.shape[1]), (0, 0), (0, 0)]
    for layer in cache.values():
        layer["self_attention"] = jax.tree.map(
            lambda known: jnp.pad(known, room), layer["self_attention"]
        )
    return logits, cache


def step(
    variables: Any,
    token_BxL: jax.Array,
    cache: Cache,
    position: jax.Array | int,
    *,
    config: Config = Config(),
) -> tuple[jax.Array, Cache]:
    """Returns (logits [B, L, V] of tokens that stand at `position` and after, the new cache)."""
    return Whisper(config).apply(variables, token_BxL, cache=cache, position=position)
