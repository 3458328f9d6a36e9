"""A causal transformer in munit scaling, as plain functions of its weights.

With products P(x, W) = fan_in^(-1/2) e4m3(x) e4m3(W), of hidden layers, and norms without gains:

    h_0     = E[text]
    a_i     = sqrt(1 - tau) h_i + sqrt(tau) norm(P(attention(P(h_i, W_qkv)), W_out))
    h_{i+1} = sqrt(1 - tau) a_i + sqrt(tau) norm(P(gelu(P(a_i, W_up)), W_down))
    logits  = norm(h_n) W_head / width

Source: S. Narayan et al., munit Scaling: Simple and scalable FP8 LLM training, arXiv:2502.05967.
Shape suffixes: B batch, L and M positions, D width, H heads, K head width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from models.byte_lm.model import MASKED, rotate
from qsim.training.munit_scaling import fixed_residual, output_multiplier, static_matmul

K, V, TAU = 32, 256, 0.4
LAYERS = {"embed": "input", "head": "head", ".*": "hidden"}  # by paths of weights


def init(key: jax.Array, width: int, layers: int = 2) -> dict[str, Any]:
    """Returns weights, all of N(0, 1)."""
    shapes = {"qkv": (width, 3 * width), "out": (width, width)}
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    tree = {"embed": (V, width), "layers": [shapes] * layers, "head": (width, V)}
    leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(key, shape) for key, shape in zip(keys, leaves, strict=True)]
    return structure.unflatten(drawn)


def logits(
    weights: dict[str, Any],
    text_BxL: jax.Array,
    forward: Any = "e4m3fn",
    backward: Any = "e5m2",
    softmax: Callable = jax.nn.softmax,
) -> tuple[jax.Array, jax.Array]:
    """Returns logits [B, L, V], and the root mean squares of what hidden products give."""
    sizes = []

    def product(x, w):
        y = static_matmul(x, w, forward=forward, backward=backward)
        sizes.append(jnp.sqrt(jnp.square(y).mean()))
        return y

    def attention(qkv):
        q, k, v = jnp.split(qkv.reshape(*text_BxL.shape, -1, 3 * K), 3, axis=-1)
        score_BxHxLxM = jnp.einsum("BLHK,BMHK->BHLM", rotate(q), rotate(k)) * K**-0.5
        causal_LxM = np.tri(text_BxL.shape[1], dtype=bool)
        att_BxHxLxM = softmax(jnp.where(causal_LxM, score_BxHxLxM, MASKED))
        out_BxLxHxK = jnp.einsum("BHLM,BMHK->BLHK", att_BxHxLxM, v)
        return out_BxLxHxK.reshape(*text_BxL.shape, -1)

    h_BxLxD = weights["embed"][text_BxL]
    for w in weights["layers"]:
        branch = product(attention(product(h_BxLxD, w["qkv"])), w["out"])
        h_BxLxD = fixed_residual(h_BxLxD, norm(branch), tau=TAU)
        branch = product(jax.nn.gelu(product(h_BxLxD, w["up"])), w["down"])
        h_BxLxD = fixed_residual(h_BxLxD, norm(branch), tau=TAU)
    multiplier = output_multiplier("head", h_BxLxD.shape[-1])
    return multiplier * (norm(h_BxLxD) @ weights["head"]), jnp.stack(sizes)


def norm(x: jax.Array) -> jax.Array:
    """x over its root mean square along the last axis."""
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
