"""Munit scaling: FP8 training with constant scales, whose learning rates hold at any width.

Weights are drawn from N(0, 1) and layers divide their outputs, so that all that a matrix product
sees has unit variance and is cast without a scale; what is too large is clipped::

    y = a * (e4m3(x) @ e4m3(w)),   gradients from e5m2(dy),   a = fan_in**-1/2
    x' = sqrt(1 - tau) * x + sqrt(tau) * norm(branch(x))

    layer    output       learning rate
    input    1            1
    hidden   fan_in**-1/2 (base / fan_in)**1/2
    head     1 / fan_in   1

Source: S. Narayan et al., munit Scaling: Simple and scalable FP8 LLM training, arXiv:2502.05967.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.modes import require_one_of
from qsim.numbers.records import require
from qsim.numbers.rounding import quantize
from qsim.training.paths import check_rule, first_match, named, require_all_match
from qsim.training.scaled_rounding import as_grid

__all__ = [
    "LAYERS",
    "fixed_residual",
    "learning_rate_multiplier",
    "output_multiplier",
    "scale_learning_rates",
    "sqrt_softmax",
    "static_matmul",
]

LAYERS = {
    "input": "an embedding, of which one row is taken",
    "hidden": "a matrix within the network",
    "head": "the matrix that makes logits",
}


def output_multiplier(layer: str, fan_in: int) -> float:
    """What the output of a layer is multiplied by.

    Args:
        layer: a key of ``LAYERS``.
        fan_in: numbers that are added up for each output.

    Raises:
        ValueError: for an unknown layer.

    >>> [output_multiplier(layer, 64) for layer in LAYERS]
    [1.0, 0.125, 0.015625]
    """
    match _checked(layer):
        case "hidden":
            return 1 / math.sqrt(fan_in)
        case "head":
            return 1 / fan_in
    return 1.0


def learning_rate_multiplier(layer: str, fan_in: int, base_fan_in: int) -> float:
    """By what the learning rate of a layer differs from that found at a base width.

    Args:
        layer: a key of ``LAYERS``.
        fan_in, base_fan_in: of this network, and of the one whose learning rate is known.

    Raises:
        ValueError: for an unknown layer.

    >>> learning_rate_multiplier("hidden", 256, 64), learning_rate_multiplier("head", 256, 64)
    (0.5, 1.0)
    """
    return math.sqrt(base_fan_in / fan_in) if _checked(layer) == "hidden" else 1.0


def scale_learning_rates(
    layers: Mapping[str, str], base_fan_in: int
) -> optax.GradientTransformation:
    """A last link of a chain of optax, by which updates get the learning rates of their layers.

    Args:
        layers: which parameters belong to which layer: rules as in ``qsim.training.paths``, with
            values of ``LAYERS``. The fan in of a matrix is the product of all its axes but the
            last; vectors keep their learning rate, as does what no rule addresses.
        base_fan_in: the width at which the learning rate was found.

    Raises:
        ValueError: for an unknown layer; at ``init``, for a rule that matches nothing.

    >>> rates = scale_learning_rates({"kernel": "hidden"}, base_fan_in=4)
    >>> updates = {"kernel": jnp.ones((16, 1)), "bias": jnp.ones(1)}
    >>> scaled, _ = rates.update(updates, rates.init(updates))
    >>> float(scaled["kernel"][0, 0]), float(scaled["bias"][0])
    (0.5, 1.0)
    """
    for rule, layer in layers.items():
        check_rule(rule)
        _checked(layer)

    def init(params: Any) -> optax.EmptyState:
        require_all_match(layers, [name for name, _ in named(params)])
        return optax.EmptyState()

    def multiplied(name: str, update: Array) -> Array:
        rule = first_match(layers, name)
        if rule is None or update.ndim < 2:
            return update
        fan_in = math.prod(update.shape[:-1])
        return update * learning_rate_multiplier(layers[rule], fan_in, base_fan_in)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves = [multiplied(name, leaf) for name, leaf in named(updates)]
        return jax.tree.unflatten(jax.tree.structure(updates), leaves), state

    return optax.GradientTransformation(init, update)


def _checked(layer: str) -> str:
    require_one_of("layer", layer, LAYERS)
    return layer


# --- the parts of a network -----------------------------------------------------------------


def static_matmul(
    x: Float[Array, "... fan_in"],
    w: Float[Array, "fan_in fan_out"],
    *,
    forward: str | Format | Grid = "e4m3fn",
    backward: str | Format | Grid = "e5m2",
    multiplier: float | None = None,
) -> Float[Array, "... fan_out"]:
    """``multiplier * (x @ w)`` of operands on a format, with a backward pass on another.

    Args:
        x, w: float32 arrays of unit variance, rounded without a scale; what is beyond the largest
            value is clipped to it.
        forward: the format of ``x`` and ``w``, here and in the backward pass.
        backward: that of the gradient of the result.
        multiplier: by default that of a hidden layer, ``fan_in**-1/2``.

    Both gradients are multiplied too. Rounding and clipping have the derivative 1.

    Raises:
        TypeError, ValueError: as ``qsim.quantize``.

    >>> static_matmul(jnp.array([[1.06, 500.0]]), jnp.array([[1.0], [0.5]]), multiplier=1.0)
    Array([[225.]], dtype=float32)
    """
    if multiplier is None:
        multiplier = output_multiplier("hidden", w.shape[0])
    factor = jnp.asarray(multiplier, x.dtype)
    return _static_matmul(as_grid(forward), as_grid(backward), factor, x, w)


@jax.custom_vjp
def _static_matmul(forward: Grid, backward: Grid, factor: Array, x: Array, w: Array) -> Array:
    return factor * (quantize(x, forward) @ quantize(w, forward))


def _static_forward(forward, backward, factor, x, w):
    x, w = quantize(x, forward), quantize(w, forward)
    return factor * (x @ w), (backward, factor, x, w)


def _static_backward(saved, gradient):
    backward, factor, x, w = saved
    gradient = quantize(gradient, backward)
    batch = tuple(range(x.ndim - 1))
    of_w = jnp.tensordot(x, gradient, axes=(batch, batch))
    return None, None, None, factor * (gradient @ w.T), factor * of_w


_static_matmul.defvjp(_static_forward, _static_backward)


def fixed_residual(
    x: Float[Array, "..."], branch: Float[Array, "..."], *, tau: float
) -> Float[Array, "..."]:
    """``sqrt(1 - tau) * x + sqrt(tau) * branch``, of unit variance if both are, and independent.

    Args:
        x: the residual stream.
        branch: what a layer adds, after a normalisation.
        tau: its share of the variance; 0.4 for four layers, less for deeper networks.

    Raises:
        ValueError: for a share outside 0..1.

    >>> fixed_residual(jnp.array([1.0]), jnp.array([2.0]), tau=0.25).round(3).tolist()
    [1.8660000562667847]
    """
    require(0 <= tau <= 1, f"tau is a share of the variance, 0 to 1, got {tau}: try 0.4")
    return math.sqrt(1 - tau) * x + math.sqrt(tau) * branch


def sqrt_softmax(scores: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    """The root of the softmax: sums of unit values that it weighs have unit variance.

    >>> sqrt_softmax(jnp.zeros(4)).tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    return jnp.exp(jax.nn.log_softmax(scores, axis) / 2)
