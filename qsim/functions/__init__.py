"""Functions step by step: programs in which ``qsim.simulate`` gives every intermediate a format."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from qsim.functions.approximation import Piecewise, Table
from qsim.functions.elementary import (
    exp,
    exp2,
    extended_exp,
    gelu_tanh,
    log,
    reciprocal,
    rsqrt,
    sigmoid,
    tanh,
)
from qsim.functions.norms import layer_norm, rms_norm
from qsim.functions.softmaxes import softmax

# by the names of JAX's primitives
PROGRAMS: Mapping[str, Callable] = MappingProxyType(
    {"exp": exp, "exp2": exp2, "log": log, "logistic": sigmoid, "rsqrt": rsqrt, "tanh": tanh}
)

__all__ = [
    "PROGRAMS",
    "Piecewise",
    "Table",
    "exp",
    "exp2",
    "extended_exp",
    "gelu_tanh",
    "layer_norm",
    "log",
    "reciprocal",
    "rms_norm",
    "rsqrt",
    "sigmoid",
    "softmax",
    "tanh",
]
