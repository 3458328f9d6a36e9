"""Unit scaling: constant factors with which activations, weights and gradients all have size one.

A factor in the forward pass and another one in the backward pass, chosen for independent inputs
and gradients of unit variance::

    operation        output           gradients
    linear           fan_in**-1/2     fan_out**-1/2 of x, batch**-1/2 of w
    readout          fan_in**-1       the same
    matmul           K**-1/2          N**-1/2, M**-1/2
    add              2**-1/2          those of broadcast operands: copies**-1/2
    softmax of N     N / sqrt(e - 1)  N / sqrt(e)
    cross entropy    none             V / sqrt(V - 1), of the sum over a batch

With factors that differ, gradients are no longer those of the function, which is harmless for
weights and at the ends of a network. Elsewhere a constraint makes them one number.

Sources: C. Blake, D. Orr and C. Luschi, Unit scaling: Out-of-the-box low-precision training,
arXiv:2303.11257, 4 and appendix; C. Blake et al., u-muP, arXiv:2407.17465 (readout, residuals,
constraints); graphcore-research/unit-scaling. The factors of softmax are those of long rows of
unit logits: the deviation of exp(x) / exp(1/2), and its root mean square.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from qsim.numbers.modes import require_one_of
from qsim.numbers.records import require

__all__ = [
    "CONSTRAINTS",
    "add",
    "constrained",
    "cross_entropy",
    "elementwise",
    "linear",
    "matmul",
    "readout",
    "residual_add",
    "residual_split",
    "scaled",
    "softmax",
]

# what becomes of the factors of an output and of gradients
CONSTRAINTS: dict[str, Callable[..., float]] = {
    "none": lambda output, *gradients: math.nan,  # all stay as they are
    "to_output_scale": lambda output, *gradients: output,
    "to_gradient_scale": lambda output, first, *others: first,
    "gmean": lambda *factors: math.prod(factors) ** (1 / len(factors)),
    "hmean": lambda *factors: len(factors) / sum(1 / factor for factor in factors),
    "amean": lambda *factors: sum(factors) / len(factors),
}

Factor = float | Float[Array, ""]


def scaled(x: Float[Array, "..."], *, forward: Factor = 1.0, backward: Factor = 1.0) -> Array:
    """``x * forward``, whose gradient is multiplied by ``backward`` instead.

    Factors are not differentiated. There is no forward-mode derivative.

    >>> y, pull_back = jax.vjp(lambda x: scaled(x, forward=2.0, backward=0.5), jnp.ones(2))
    >>> y.tolist(), pull_back(jnp.ones(2))[0].tolist()
    ([2.0, 2.0], [0.5, 0.5])
    """
    return _scaled(x, *(jnp.asarray(factor, x.dtype) for factor in (forward, backward)))


@jax.custom_vjp
def _scaled(x: Array, forward: Array, backward: Array) -> Array:
    return x * forward


_scaled.defvjp(
    lambda x, forward, backward: (x * forward, backward),
    lambda backward, gradient: (gradient * backward, None, None),
)


def constrained(constraint: str, output: float, *gradients: float) -> tuple[float, ...]:
    """The factors of an output and of gradients, after a constraint has made them one.

    Args:
        constraint: a key of ``CONSTRAINTS``.
        output, gradients: factors, above zero.

    Raises:
        ValueError: for an unknown constraint.

    >>> constrained("gmean", 0.25, 4.0), constrained("to_output_scale", 0.25, 4.0)
    ((1.0, 1.0), (0.25, 0.25))
    """
    require_one_of("constraint", constraint, CONSTRAINTS)
    factors = (output, *gradients)
    if constraint == "none":
        return factors
    return (CONSTRAINTS[constraint](*factors),) * len(factors)


# --- contractions ---------------------------------------------------------------------------


def linear(
    x: Float[Array, "... fan_in"],
    w: Float[Array, "fan_in fan_out"],
    *,
    constraint: str = "to_output_scale",
) -> Float[Array, "... fan_out"]:
    """``x @ w`` at unit scale.

    Args:
        x, w: of unit variance: weights are drawn from N(0, 1).
        constraint: a key of ``CONSTRAINTS``, for the output and the gradient of ``x``.

    Raises:
        ValueError: for an unknown constraint.

    >>> linear(jnp.ones((1, 4)), jnp.ones((4, 2))).tolist()
    [[2.0, 2.0]]
    """
    return _linear(x, w, w.shape[0] ** -0.5, constraint)


def readout(
    x: Float[Array, "... fan_in"],
    w: Float[Array, "fan_in fan_out"],
    *,
    constraint: str = "none",
) -> Float[Array, "... fan_out"]:
    """``x @ w`` divided by ``fan_in``, as the last layer of u-muP; otherwise as ``linear``.

    >>> readout(jnp.ones((1, 4)), jnp.ones((4, 2))).tolist()
    [[1.0, 1.0]]
    """
    return _linear(x, w, 1 / w.shape[0], constraint)


def _linear(x: Array, w: Array, output: float, constraint: str) -> Array:
    batch = max(x.size // w.shape[0], 1)
    forward, backward = constrained(constraint, output, w.shape[1] ** -0.5)
    w = scaled(w, backward=batch**-0.5)
    return scaled(scaled(x, backward=backward) @ w, forward=forward)


def matmul(
    a: Float[Array, "... m k"], b: Float[Array, "... k n"], *, constraint: str = "to_output_scale"
) -> Float[Array, "... m n"]:
    """``a @ b`` of two activations at unit scale.

    Args:
        a, b: of unit variance.
        constraint: a key of ``CONSTRAINTS``, for the output and both gradients.

    Raises:
        ValueError: for an unknown constraint.

    >>> matmul(jnp.ones((1, 4)), jnp.ones((4, 2))).tolist()
    [[2.0, 2.0]]
    """
    (m, k), n = a.shape[-2:], b.shape[-1]
    forward, of_a, of_b = constrained(constraint, k**-0.5, n**-0.5, m**-0.5)
    return scaled(scaled(a, backward=of_a) @ scaled(b, backward=of_b), forward=forward)


# --- sums -----------------------------------------------------------------------------------


def add(
    a: Float[Array, "..."], b: Float[Array, "..."], *, constraint: str = "none"
) -> Float[Array, "..."]:
    """``a + b`` at unit scale.

    Args:
        a, b: of unit variance, of shapes that broadcast.
        constraint: a key of ``CONSTRAINTS``, for the output and both gradients.

    Raises:
        ValueError: for an unknown constraint.

    >>> add(jnp.array([1.0, -1.0]), jnp.array([1.0, 1.0])).round(3).tolist()
    [1.4140000343322754, 0.0]
    """
    size = math.prod(jnp.broadcast_shapes(a.shape, b.shape))
    copies = [max(size // max(x.size, 1), 1) for x in (a, b)]
    forward, of_a, of_b = constrained(constraint, 2**-0.5, *(n**-0.5 for n in copies))
    return scaled(scaled(a, backward=of_a) + scaled(b, backward=of_b), forward=forward)


def residual_split(x: Float[Array, "..."], tau: float) -> tuple[Array, Array]:
    """The beginnings of a residual branch and of its skip connection.

    The factors of ``residual_add`` apply here in the backward pass, so that gradients within the
    branch have unit scale, and in all are those of the function.

    Args:
        x: what goes into both.
        tau: the ratio of the size of the branch to that of the skip connection, above zero.

    Raises:
        ValueError: for a ratio that is not above zero.

    >>> branch, skip = residual_split(jnp.ones(1), tau=1.0)
    >>> residual_add(branch, skip, tau=1.0).round(3).tolist()
    [1.4140000343322754]
    """
    of_branch, of_skip = _weights(tau)
    return scaled(x, backward=of_branch), scaled(x, backward=of_skip)


def residual_add(
    branch: Float[Array, "..."], skip: Float[Array, "..."], tau: float
) -> Float[Array, "..."]:
    """``(tau * branch + skip) / sqrt(1 + tau**2)``, with gradients of one for both.

    Arguments and errors as for ``residual_split``.

    >>> residual_add(jnp.array([5.0]), jnp.array([0.0]), tau=0.75).tolist()
    [3.0]
    """
    of_branch, of_skip = _weights(tau)
    return scaled(branch, forward=of_branch) + scaled(skip, forward=of_skip)


def _weights(tau: float) -> tuple[float, float]:
    require(tau > 0, f"tau weighs a residual branch and is above zero, got {tau}: 1.0 is even")
    return tau / math.sqrt(1 + tau**2), 1 / math.sqrt(1 + tau**2)


# --- functions ------------------------------------------------------------------------------


def elementwise(
    fn: Callable,
    x: Float[Array, "..."],
    *,
    output: float,
    gradient: float,
    constraint: str = "to_output_scale",
) -> Float[Array, "..."]:
    """``fn(x)`` with these factors of its output and its gradient.

    Args:
        fn: a function of one array.
        x: of unit variance.
        output, gradient: one over the deviation of ``fn(x)``, and over the root mean square of
            its derivative: 1 / 0.588 and 1 / 0.675 for GELU.
        constraint: a key of ``CONSTRAINTS``.

    Raises:
        ValueError: for an unknown constraint.

    >>> elementwise(jax.nn.relu, jnp.array([-1.0, 2.0]), output=1.5, gradient=1.4).tolist()
    [0.0, 3.0]
    """
    forward, backward = constrained(constraint, output, gradient)
    return scaled(fn(scaled(x, backward=backward)), forward=forward)


def softmax(
    x: Float[Array, "..."], *, axis: int = -1, constraint: str = "to_output_scale"
) -> Float[Array, "..."]:
    """The softmax along an axis at unit scale: its mean is 0.76, and its deviation near 1.

    Raises:
        ValueError: for an unknown constraint.

    >>> softmax(jnp.zeros(4)).round(4).tolist()
    [0.7628999948501587, 0.7628999948501587, 0.7628999948501587, 0.7628999948501587]
    """
    n = x.shape[axis]
    factors = {"output": n / math.sqrt(math.e - 1), "gradient": n / math.sqrt(math.e)}
    return elementwise(lambda x: jax.nn.softmax(x, axis), x, **factors, constraint=constraint)


def cross_entropy(logits: Float[Array, "... v"], labels: Int[Array, "..."]) -> Float[Array, ""]:
    """The mean cross entropy over a batch, whose gradients have unit scale at even logits.

    Args:
        logits: of v classes, two or more.
        labels: classes.

    Gradients are those of the sum over the batch, times ``v / sqrt(v - 1)``.

    Raises:
        ValueError: for fewer classes than two.

    >>> slope = jax.grad(cross_entropy)(jnp.zeros((1, 2)), jnp.array([0]))
    >>> slope.tolist()
    [[-1.0, 1.0]]
    """
    v = logits.shape[-1]
    require(v >= 2, f"a cross entropy is of two classes or more, got logits of {v}")
    log_p = jax.nn.log_softmax(scaled(logits, backward=v / math.sqrt(v - 1)))
    losses: Any = -jnp.take_along_axis(log_p, labels[..., None], axis=-1)
    return scaled(losses.sum(), forward=1 / max(losses.size, 1))
