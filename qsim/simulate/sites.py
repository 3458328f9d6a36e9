"""Sites: the operations of a traced function that a policy can address."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qsim.simulate.flow import Flow, input_flows, join_scopes, walk
from qsim.simulate.jaxprs import JaxprEqn, trace

__all__ = ["CONTRACTIONS", "UNKNOWN_CONTRACTIONS", "Site", "contracted_axes", "site_path", "sites"]

CONTRACTIONS = ("dot_general", "conv_general_dilated")
UNKNOWN_CONTRACTIONS = (
    "ragged_dot_general",
    "scaled_dot",
    "scaled_matmul_wrapper",
    "dot_product_attention_fwd_wrapper",
)


@dataclass(frozen=True)
class Site:
    """One operation of a function.

    Attributes:
        path: the name scopes around it, or the path of the parameter that feeds it.
        primitive: the name of its JAX primitive.
        roles: the roles of its two operands: ``weight``, ``activation`` or ``constant``.
        shapes: the shapes of its two operands and of its result.
        dtype: the dtype of its result.
        flops: floating-point operations of one run of the function, loops counted; a
            multiplication and an addition are two. Loops of unknown length count once.
        repeats: how often one run of the function runs it.
    """

    path: str
    primitive: str
    roles: tuple[str, str]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    flops: int
    repeats: int


def sites(fn: Callable, *args, params: int | Sequence[int] | None = None, **kwargs) -> list[Site]:
    """The contractions of ``fn`` at ``args``, in program order; nothing is computed.

    Args:
        fn: any JAX function.
        args, kwargs: its arguments; ``jax.ShapeDtypeStruct`` may stand for arrays.
        params: positions of the arguments that hold parameters; see ``qsim.simulate``.

    >>> import jax.numpy as jnp
    >>> [site] = sites(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 4))}, jnp.ones((2, 3)))
    >>> site.path, site.roles, site.flops
    ('w', ('activation', 'weight'), 48)
    """
    traced = trace(fn, args, kwargs)
    found: list[Site] = []

    def visit(eqn: JaxprEqn, path: str, repeats: int, flows: list[Flow]) -> None:
        if eqn.primitive.name in CONTRACTIONS:
            found.append(_site(eqn, path, repeats, flows))

    walk(traced.jaxpr, input_flows(traced, params), visit)
    return found


def site_path(scope: str, flows: Sequence[Flow]) -> str:
    """The path of a site: its name scope, or else the parameter that feeds it.

    Where no scope names the operation, a parameter's own path does, without the last part that
    all layers share (``kernel``), if there is another.
    """
    fed_by = next((flow.path for flow in flows if flow.path), "")
    return scope or join_scopes(*_without_kernel(fed_by))


def _without_kernel(path: str) -> list[str]:
    parts = path.split("/")
    return parts[:-1] if len(parts) > 1 and parts[-1] in ("kernel", "embedding", "w") else parts


def _site(eqn: JaxprEqn, path: str, repeats: int, flows: list[Flow]) -> Site:
    operands = [var.aval for var in eqn.invars[:2]]
    result = eqn.outvars[0].aval
    return Site(
        path=site_path(path, flows),
        primitive=eqn.primitive.name,
        roles=(flows[0].role, flows[1].role),
        shapes=tuple(tuple(aval.shape) for aval in (*operands, result)),
        dtype=result.dtype.name,
        flops=2 * repeats * math.prod(result.shape) * _products(eqn),
        repeats=repeats,
    )


def _products(eqn: JaxprEqn) -> int:
    """How many products are added up for one element of the result."""
    lhs, rhs = (var.aval.shape for var in eqn.invars[:2])
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return math.prod(lhs[axis] for axis in contracted)
    kernel = eqn.params["dimension_numbers"].rhs_spec
    return math.prod(rhs[axis] for axis in kernel[1:])  # input features of a group, window


def contracted_axes(eqn: JaxprEqn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes over which a contraction sums, of either operand; of images only the features."""
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "dot_general":
        left, right = numbers[0]
        return tuple(sorted(left)), tuple(sorted(right))
    return (numbers.lhs_spec[1],), (numbers.rhs_spec[1],)
