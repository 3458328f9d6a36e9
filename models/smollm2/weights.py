"""The weights: tensors of the GGUF file under the names of our modules.

    token_embd                                -> embed, twice: the head is tied
    blk.I.attn_norm, blk.I.ffn_norm           -> layer_I/attention_norm, layer_I/mlp_norm
    blk.I.attn_q, attn_k, attn_v, attn_output -> layer_I/attention/query, key, value, out
    blk.I.ffn_gate, ffn_up, ffn_down          -> layer_I/mlp/gate, up, down
    output_norm                               -> final_norm

Kernels go from output, input to input, output. GGUF puts the two numbers that rotary positions turn
together side by side, (2k, 2k + 1); the model has them at (k, k + K/2), as it was trained.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from models.smollm2.gguf_file import Tensor, values
from models.smollm2.model import Config

Flat = dict[tuple[str, ...], np.ndarray]
KERNELS = {
    "attn_v": ("attention", "value"),
    "attn_output": ("attention", "out"),
    "ffn_gate": ("mlp", "gate"),
    "ffn_up": ("mlp", "up"),
    "ffn_down": ("mlp", "down"),
}
NORMS = {"attn_norm": "attention_norm", "ffn_norm": "mlp_norm"}


def variables(tensors: dict[str, Tensor], config: Config) -> dict[str, Any]:
    """Returns {"params": ...} in float32, as `SmolLM2` names them.

    Raises ValueError when a tensor is missing.
    """
    try:
        flat = {("embed", "embedding"): values(tensors["token_embd.weight"])}
        for i in range(config.layers):
            flat |= layer(tensors, i, config)
        flat["final_norm", "gain"] = values(tensors["output_norm.weight"])
    except KeyError as error:
        raise ValueError(f"tensor {error} is missing") from error
    arrays = {name: jnp.asarray(array) for name, array in flat.items()}
    return {"params": traverse_util.unflatten_dict(arrays)}


def layer(tensors: dict[str, Tensor], i: int, config: Config) -> Flat:
    """Returns the nine arrays of layer `i`."""
    own = {part: values(tensors[f"blk.{i}.{part}.weight"]) for part in (*KERNELS, *NORMS)}
    flat = {(*path, "kernel"): own[part].T for part, path in KERNELS.items()}
    flat |= {(path, "gain"): own[part] for part, path in NORMS.items()}
    for part, name, heads in (("q", "query", config.heads), ("k", "key", config.key_heads)):
        weight = values(tensors[f"blk.{i}.attn_{part}.weight"])
        flat["attention", name, "kernel"] = halves(weight, heads).T
    return {(f"layer_{i}", *path): array for path, array in flat.items()}


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Returns the rows of `weight` [heads * K, D], in each head the even ones before the odd."""
    split = weight.reshape(heads, -1, 2, weight.shape[1])
    return split.swapaxes(1, 2).reshape(weight.shape)
