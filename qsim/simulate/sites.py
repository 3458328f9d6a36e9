"""Sites: the operations of a traced function that a policy can address, with what they cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qsim.simulate.contractions import product_count
from qsim.simulate.flow import roles_of
from qsim.simulate.primitives import ROUNDED
from qsim.simulate.program import Node, program

__all__ = ["Site", "site_of", "sites"]


@dataclass(frozen=True)
class Site:
    """One operation of a function.

    Attributes:
        path: the name scopes around it, or the path of the parameter that feeds it.
        primitive: the name of its JAX primitive.
        kind: the primitive's class.
        direction: which pass of a training step it belongs to.
        roles: the roles of its operands: ``weight``, ``activation``, ``gradient``, ``state``,
            ``cache`` or ``constant``.
        shapes: the shapes of its operands and of its first result.
        dtype: the dtype of that result.
        flops: floating-point operations of one run of the function, loops counted; a
            multiplication and an addition are two. Loops of unknown length count once.
        bytes: what its operands and results take, loops counted.
        repeats: how often one run of the function runs it.
    """

    path: str
    primitive: str
    kind: str
    direction: str
    roles: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    flops: int
    bytes: int
    repeats: int


def sites(
    fn: Callable,
    *args,
    params: int | Sequence[int] | None = None,
    states: int | Sequence[int] | None = None,
    caches: int | Sequence[int] | None = None,
    **kwargs,
) -> list[Site]:
    """The operations of ``fn`` at ``args`` that can be rounded, in program order.

    Nothing is computed.

    Args:
        fn: any JAX function.
        args, kwargs: its arguments; ``jax.ShapeDtypeStruct`` may stand for arrays.
        params, states, caches: as for ``qsim.simulate``.

    >>> import jax.numpy as jnp
    >>> [site] = sites(lambda p, x: x @ p["w"], {"w": jnp.ones((3, 4))}, jnp.ones((2, 3)))
    >>> site.path, site.roles, site.flops, site.bytes
    ('w', ('activation', 'weight'), 48, 104)
    """
    found = program(fn, args, kwargs, roles_of(params, states, caches))
    return [site_of(node) for node in found if node.kind in ROUNDED]


def site_of(node: Node) -> Site:
    """An operation as it is listed."""
    eqn = node.eqn
    avals = [var.aval for var in (*eqn.invars, *eqn.outvars)]
    size = sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals)
    result = eqn.outvars[0].aval
    return Site(
        path=node.path,
        primitive=node.name,
        kind=node.kind,
        direction=node.direction,
        roles=tuple(flow.role for flow in node.inputs),
        shapes=tuple(tuple(var.aval.shape) for var in (*eqn.invars, eqn.outvars[0])),
        dtype=result.dtype.name,
        flops=node.repeats * _flops(node),
        bytes=node.repeats * size,
        repeats=node.repeats,
    )


def _flops(node: Node) -> int:
    """Floating-point operations of one run; a function of a number counts as one."""
    eqn = node.eqn
    size = math.prod(eqn.outvars[0].aval.shape)
    match node.kind:
        case "contraction":
            return 2 * size * product_count(eqn)
        case "elementwise" | "function":
            return size
        case "reduction":
            return math.prod(eqn.invars[0].aval.shape)
    return 0
