"""The weights: CTranslate2's tensors under the names of our modules.

    {encoder,decoder}/layer_I             -> {encoder,decoder}/block_I
        self_attention/linear_0           -> query, key, value of attention or self_attention
        self_attention/linear_1           -> ../out
        attention/linear_{0,1,2}          -> cross_attention/query, ../key and ../value, ../out
        ffn/linear_{0,1}                  -> mlp/up, mlp/down
        */layer_norm/{gamma,beta}         -> *_norm/{scale,bias}
    {encoder,decoder}/layer_norm          -> ../norm
    ../position_encodings/encodings       -> ../position
    encoder/conv{1,2}                     -> encoder/conv{1,2}
    decoder/embeddings/weight             -> decoder/embed/embedding

Kernels go from output, input to input, output, those of the convolutions from output, input, width
to width, input, output. The rows of queries, keys and values lie one below the other in one tensor.
Keys have no bias in Whisper; here it is stored as zeros, which is checked and left out.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from models.whisper_tiny import ctranslate_file, files
from models.whisper_tiny.model import Config

Arrays = dict[str, np.ndarray]


def load() -> dict[str, Any]:
    """Returns {"params": ...} in float32, as `Whisper` names them.

    Raises FileNotFoundError when the package is missing, and ValueError when its file is not the
    one that was checked.
    """
    return variables(ctranslate_file.read(files.weights()).tensors)


def variables(tensors: Arrays, layers: int = Config().layers) -> dict[str, Any]:
    """Returns the Linen variables made of the file's tensors."""
    flat = {"decoder/embed/embedding": tensors["decoder/embeddings/weight"]}
    for conv in ("encoder/conv1", "encoder/conv2"):
        flat[f"{conv}/kernel"] = tensors[f"{conv}/weight"].transpose(2, 1, 0)
        flat[f"{conv}/bias"] = tensors[f"{conv}/bias"]
    for side in ("encoder", "decoder"):
        flat[f"{side}/position"] = tensors[f"{side}/position_encodings/encodings"]
        flat |= norm(tensors, f"{side}/layer_norm", f"{side}/norm")
        for i in range(layers):
            flat |= block(tensors, f"{side}/layer_{i}", f"{side}/block_{i}")
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in flat.items()}
    return {"params": traverse_util.unflatten_dict(arrays, sep="/")}


def block(tensors: Arrays, source: str, target: str) -> Arrays:
    """Returns the arrays of one layer of the encoder or of the decoder."""
    is_decoder = source.startswith("decoder")
    own = "self_attention" if is_decoder else "attention"
    parts = {"self_attention": own, "ffn": "mlp"}
    if is_decoder:
        parts["attention"] = "cross_attention"
    flat = {}
    for theirs, ours in parts.items():
        flat |= norm(tensors, f"{source}/{theirs}/layer_norm", f"{target}/{ours}_norm")
    theirs, ours = f"{source}/self_attention/linear", f"{target}/{own}"
    flat |= dense(tensors, f"{theirs}_0", ours, "query", "key", "value")
    flat |= dense(tensors, f"{theirs}_1", ours, "out")
    if is_decoder:
        theirs, ours = f"{source}/attention/linear", f"{target}/cross_attention"
        flat |= dense(tensors, f"{theirs}_0", ours, "query")
        flat |= dense(tensors, f"{theirs}_1", ours, "key", "value")
        flat |= dense(tensors, f"{theirs}_2", ours, "out")
    flat |= dense(tensors, f"{source}/ffn/linear_0", f"{target}/mlp", "up")
    flat |= dense(tensors, f"{source}/ffn/linear_1", f"{target}/mlp", "down")
    return flat


def norm(tensors: Arrays, source: str, target: str) -> Arrays:
    """Returns the two arrays of one layer norm."""
    return {
        f"{target}/scale": tensors[f"{source}/gamma"],
        f"{target}/bias": tensors[f"{source}/beta"],
    }


def dense(tensors: Arrays, source: str, target: str, *names: str) -> Arrays:
    """Returns the kernels and biases of the dense layers `names`, stored as one.

    Raises ValueError when keys have a bias.
    """
    flat = {}
    weights = np.split(tensors[f"{source}/weight"], len(names))
    biases = np.split(tensors[f"{source}/bias"], len(names))
    for name, weight, bias in zip(names, weights, biases, strict=True):
        flat[f"{target}/{name}/kernel"] = weight.T
        if name != "key":
            flat[f"{target}/{name}/bias"] = bias
        elif bias.any():
            raise ValueError(f"{source}: keys have a bias")
    return flat
