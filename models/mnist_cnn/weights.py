"""The weights: torch's state dict under the names of our modules.

    features.0, features.3       -> stage_0/conv, stage_1/conv
    classifier.0, classifier.2   -> hidden, classifier

Convolutions go from output, input, height, width to height, width, input, output. The hidden layer
sees torch's features in the order channel, height, width, and ours in the order height, width,
channel.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from models import torch_file
from models.files import packaged

PACKAGE = "ccexam"  # 1.0.0
FILE = "weights/mnist.pth"
SHA256 = "0e58754afd96763e49f52c14877b8441cc0fff38e04adce2d2247eab68a30e8a"


def load() -> dict[str, Any]:
    """Returns {"params": ...} in float32, as `MnistCNN` names them.

    Raises FileNotFoundError when the package is missing, and ValueError when its file is not the
    one that was checked.
    """
    return variables(torch_file.read(packaged(PACKAGE, FILE, SHA256)))


def variables(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the Linen variables made of the state dict's tensors."""
    features_NxCxHxW = tensors["classifier.0.weight"].reshape(128, 64, 7, 7)
    kernels = {
        "features.0": tensors["features.0.weight"].transpose(2, 3, 1, 0),
        "features.3": tensors["features.3.weight"].transpose(2, 3, 1, 0),
        "classifier.0": features_NxCxHxW.transpose(2, 3, 1, 0).reshape(-1, 128),
        "classifier.2": tensors["classifier.2.weight"].T,
    }
    layer = {
        name: {
            "kernel": jnp.asarray(kernel, jnp.float32),
            "bias": jnp.asarray(tensors[f"{name}.bias"], jnp.float32),
        }
        for name, kernel in kernels.items()
    }
    return {
        "params": {
            "stage_0": {"conv": layer["features.0"]},
            "stage_1": {"conv": layer["features.3"]},
            "hidden": layer["classifier.0"],
            "classifier": layer["classifier.2"],
        }
    }
