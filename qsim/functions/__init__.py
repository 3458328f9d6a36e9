"""Functions step by step: programs in which ``qsim.simulate`` gives every intermediate a format."""

from qsim.functions.elementary import (
    exp,
    exp2,
    extended_exp,
    gelu,
    log,
    reciprocal,
    rsqrt,
    sigmoid,
    tanh,
)
from qsim.functions.norms import layer_norm, rms_norm
from qsim.functions.softmaxes import softmax

__all__ = [
    "exp",
    "exp2",
    "extended_exp",
    "gelu",
    "layer_norm",
    "log",
    "reciprocal",
    "rms_norm",
    "rsqrt",
    "sigmoid",
    "softmax",
    "tanh",
]
