"""Where the values of a program come from: what role they have, and whose value they are.

The *role* of a value says what it is to the program:

- ``constant``: depends on no argument;
- ``weight``: depends on parameters only;
- ``state``: depends on an optimizer's state, and at most on weights besides;
- ``cache``: is kept from one call to the next, such as keys and values of attention;
- ``activation``: depends on data;
- ``gradient``: is a derivative of the loss, or depends on one.

A value that is an argument itself, perhaps transposed or reshaped, keeps the argument's path. What
an update leaves of parameters is a gradient to the rest of the program; but a loop that carries
parameters or states from step to step carries them as such.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qsim.simulate.jaxprs import JaxprEqn, Traced
from qsim.simulate.primitives import class_of

__all__ = ["ROLES", "WRITES", "Flow", "input_flows", "joined", "operation_flows", "roles_of"]

ROLES = ("constant", "weight", "state", "cache", "activation", "gradient")  # the last one wins

WORDS = {"weight": "params", "state": "states", "cache": "caches"}

# operations whose result holds elements of their first operand, perhaps in another dtype
SAME_VALUES = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "dynamic_slice",
    "gather",
    "name",
    "pvary",
    "reduce_precision",
    "reshape",
    "rev",
    "sharding_constraint",
    "slice",
    "split",
    "squeeze",
    "stop_gradient",
    "transpose",
}
# the first operand with some elements replaced, by those of the operand of this number
WRITES = {"dynamic_update_slice": 1, "scatter": 2}


@dataclass(frozen=True)
class Flow:
    """The origin of a value.

    Attributes:
        role: one of ``ROLES``.
        path: of the argument that it is, if any.
        origin: what tells it apart from other values of its role, however it is moved about.
    """

    role: str = "constant"
    path: str | None = None
    origin: int | None = None

    def join(self, other: "Flow") -> "Flow":
        """The origin of a value that may come from either."""
        path = self.path if self.path == other.path else None
        origin = self.origin if self.origin == other.origin else None
        return Flow(max(self.role, other.role, key=ROLES.index), path, origin)


def joined(flows: Sequence[Flow]) -> str:
    """The role of what is computed from several values.

    >>> joined([Flow("weight"), Flow("activation"), Flow()])
    'activation'
    """
    return max((flow.role for flow in flows), key=ROLES.index, default="constant")


def roles_of(
    params: int | Sequence[int] | None,
    states: int | Sequence[int] | None,
    caches: int | Sequence[int] | None,
) -> dict[str, int | Sequence[int] | None]:
    """The positions of arguments by role, as ``input_flows`` takes them."""
    return {"weight": params, "state": states, "cache": caches}


def input_flows(traced: Traced, roles: Mapping[str, int | Sequence[int] | None]) -> list[Flow]:
    """The flows of a traced function's inputs.

    Args:
        traced: the traced function.
        roles: for ``weight``, ``state`` and ``cache`` the positions of the arguments that have
            that role. Without any of weights it is the first argument, if that is a container of
            arrays; an array by itself is data, and so is what comes by keyword.

    Raises:
        ValueError: if a position is that of no positional argument, or has two roles.
    """
    role_of: dict[int, str] = {}
    for role, positions in roles.items():
        for position in _positions(role, positions):
            _check_position(traced, role, position, role_of)
            role_of[position] = role
    if roles.get("weight") is None and any(at == 0 and path for at, path in traced.paths):
        role_of.setdefault(0, "weight")
    return [
        Flow(role_of.get(at, "activation"), (path or None) if at in role_of else None, number)
        for number, (at, path) in enumerate(traced.paths)
    ]


def _positions(role: str, given: object) -> list[int]:
    """The positions that a user gave for a role, without repetitions."""
    if given is None:
        return []
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if any(isinstance(n, bool) or not isinstance(n, int | np.integer) for n in several):
        raise ValueError(
            f"{WORDS[role]}={given!r}, but the positions of arguments are integers: "
            f"{WORDS[role]}=0, or {WORDS[role]}=(0, 1)"
        )
    return sorted({int(n) for n in several})


def _check_position(traced: Traced, role: str, position: int, taken: Mapping[int, str]) -> None:
    word = WORDS[role]
    if not 0 <= position < traced.positional:
        raise ValueError(
            f"{word}={position}, but the function got {traced.positional} positional arguments; "
            f"count them from 0, and pass {word} by position"
        )
    if position in taken:
        raise ValueError(f"argument {position} is said to be {taken[position]} and {role}")


def operation_flows(
    eqn: JaxprEqn, inputs: Sequence[Flow], transposed: bool, begins: bool, origins: Iterator[int]
) -> list[Flow]:
    """The flows of the results of an operation that holds no other program.

    Args:
        eqn, inputs: the operation, and the flows of its operands.
        transposed: whether the operation is part of a backward pass.
        begins: whether there was no gradient before it.
        origins: for values that are new.
    """
    name, role = eqn.primitive.name, joined(inputs)
    if inputs and name in SAME_VALUES and role == inputs[0].role != "constant":
        return [inputs[0]] * len(eqn.outvars)
    if name in WRITES and inputs[0].role == "cache" and role != "gradient":
        return [inputs[0]]
    if name == "optimization_barrier":
        return list(inputs)
    if transposed and class_of(name) != "logic" and _is_seeded(eqn, inputs, begins):
        role = "gradient"
    return [Flow(role, origin=next(origins)) for _ in eqn.outvars]


def _is_seeded(eqn: JaxprEqn, inputs: Sequence[Flow], begins: bool) -> bool:
    """Whether an operation of a backward pass has the seed of the gradients as an operand.

    The seed depends on nothing, as the 1 of ``jax.grad`` does, or is the caller's own: then the
    first operation on two values has it.
    """
    roles = [flow.role for flow in inputs]
    if "gradient" in roles:
        return True
    literals = [getattr(atom, "val", None) for atom in eqn.invars]
    is_seed = [
        role == "constant" and (value is None or np.all(np.asarray(value) == 1))
        for role, value in zip(roles, literals, strict=True)
    ]
    return set(roles) <= {"constant"} or any(is_seed) or (begins and len(roles) > 1)
