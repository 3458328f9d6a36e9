"""Slots: what can be rounded in a program, each with what rules can ask of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp

from qsim.simulate.flow import WRITES
from qsim.simulate.primitives import ROUNDED
from qsim.simulate.program import Node, Program

__all__ = ["ACCUMULATOR", "Slot", "slots", "stored_slots"]

ACCUMULATOR = -1  # in the place of the number of an operand


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One thing that can be rounded: an operand or a result of an operation, or a stored value.

    Attributes:
        path: of the operation, or of the argument.
        primitive, kind: of the operation, empty for an argument.
        part: ``operand``, ``accumulator``, ``result`` or ``stored``.
        role: of the value; of results it is not asked.
        direction: of the operation.
        dtype: of the value.
    """

    path: str
    primitive: str
    kind: str
    part: str
    role: str
    direction: str
    dtype: str


def slots(node: Node) -> Iterator[tuple[int | None, Slot]]:
    """What can be rounded of an operation, each with the number of the operand.

    That is None for results, and ``ACCUMULATOR`` for how a contraction adds up.
    """

    def slot(part: str, role: str, dtype: str) -> Slot:
        return Slot(
            path=node.path,
            primitive=node.name,
            kind=node.kind,
            part=part,
            role=role,
            direction=node.direction,
            dtype=dtype,
        )

    written = WRITES.get(node.name)
    if written is not None and node.inputs[0].role == "cache":
        dtype = node.eqn.invars[written].aval.dtype
        if jnp.issubdtype(dtype, jnp.floating):
            yield written, slot("stored", "cache", dtype.name)
    if node.kind not in (*ROUNDED, "opaque", "unknown"):
        if _makes_numbers(node):
            yield None, slot("result", "", node.eqn.outvars[0].aval.dtype.name)
        return
    operands = node.kind in ROUNDED
    for number, (atom, flow) in enumerate(zip(node.eqn.invars, node.inputs, strict=True)):
        if operands and jnp.issubdtype(atom.aval.dtype, jnp.inexact):
            yield number, slot("operand", flow.role, atom.aval.dtype.name)
    sums = getattr(node.eqn.outvars[0].aval, "dtype", None) if node.kind == "contraction" else None
    if sums is not None and node.name != "scaled_dot" and jnp.issubdtype(sums, jnp.floating):
        yield ACCUMULATOR, slot("accumulator", "", sums.name)
    results = [dtype for var in node.eqn.outvars if (dtype := getattr(var.aval, "dtype", None))]
    inexact = [dtype for dtype in results if jnp.issubdtype(dtype, jnp.inexact)]
    if inexact:
        yield None, slot("result", "", inexact[0].name)


def _makes_numbers(node: Node) -> bool:
    """Whether what moves numbers makes some that a format need not have, of integers or parts."""
    if node.name not in ("abs", "convert_element_type", "iota"):
        return False
    if not jnp.issubdtype(node.eqn.outvars[0].aval.dtype, jnp.floating):
        return False
    before = [atom.aval.dtype for atom in node.eqn.invars]
    return not before or not jnp.issubdtype(before[0], jnp.floating)


def stored_slots(program: Program) -> list[Slot | None]:
    """The slot of each argument of a program; None for what is no floating-point array."""
    return [
        Slot(
            path=flow.path or "",
            primitive="",
            kind="",
            part="stored",
            role=flow.role,
            direction="forward",
            dtype=array.dtype.name,
        )
        if jnp.issubdtype(array.dtype, jnp.floating)
        else None
        for flow, array in zip(program.flows, program.traced.arrays, strict=True)
    ]
