"""Where the values of a program come from: parameters, data, or neither.

The *role* of a value is ``activation`` if it depends on the data, ``weight`` if it depends on
parameters only, and ``constant`` if on neither. A value that is a parameter itself, perhaps
transposed or reshaped, keeps the parameter's path.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qsim.simulate.jaxprs import ClosedJaxpr, JaxprEqn, Literal, Traced, regions, scope

__all__ = ["Flow", "input_flows", "join_scopes", "nothing", "output_flows", "settle", "walk"]

ROLES = ("constant", "weight", "activation")

# operations whose result holds elements of their first operand, perhaps in another dtype
MOVEMENT = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "gather",
    "reshape",
    "rev",
    "slice",
    "squeeze",
    "stop_gradient",
    "transpose",
}


@dataclass(frozen=True)
class Flow:
    """The origin of a value: its role, and the path of the parameter that it is, if any."""

    role: str = "constant"
    path: str | None = None

    def join(self, other: "Flow") -> "Flow":
        """The origin of a value that may come from either."""
        role = max(self.role, other.role, key=ROLES.index)
        return Flow(role, self.path if self.path == other.path else None)


Visit = Callable[[JaxprEqn, str, int, list[Flow]], None]


def input_flows(traced: Traced, params: int | Sequence[int] | None) -> list[Flow]:
    """The flows of a traced function's inputs.

    Args:
        traced: the traced function.
        params: the positions of the arguments that hold parameters. By default that is the first
            argument, if it is a container of arrays; an array by itself is data, and so is what
            comes by keyword.

    Raises:
        ValueError: if ``params`` names no positional argument.
    """
    if params is None:
        positions = {0} if any(at == 0 and path for at, path in traced.paths) else set()
    else:
        positions = {params} if isinstance(params, int) else set(params)
        for position in positions:
            if not 0 <= position < traced.positional:
                count = traced.positional
                raise ValueError(
                    f"params={position}, but the function got {count} positional arguments; "
                    "count them from 0, and pass parameters by position"
                )
    return [
        Flow("weight", path or None) if at in positions else Flow("activation")
        for at, path in traced.paths
    ]


def walk(jaxpr: ClosedJaxpr, flows: Sequence[Flow], visit: Visit, prefix="", repeats=1):
    """The flows of a jaxpr's outputs; ``visit`` sees every equation once, in program order.

    ``visit(eqn, path, repeats, flows)`` gets the equation's full name scope, how often it runs
    and the flows of its inputs. Captured arrays count as parameters.
    """
    known = dict(zip(jaxpr.jaxpr.invars, flows, strict=True))
    known.update({var: Flow("weight") for var in jaxpr.jaxpr.constvars})

    def read(atom) -> Flow:
        return Flow() if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.jaxpr.eqns:
        path = join_scopes(prefix, scope(eqn))
        inputs = [read(atom) for atom in eqn.invars]
        visit(eqn, path, repeats, inputs)
        outputs = output_flows(eqn, inputs, visit, path, repeats)
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def output_flows(eqn, inputs: list[Flow], visit: Visit, path="", repeats=1) -> list[Flow]:
    """The flows of an equation's outputs; the equations inside it are visited."""
    inner = regions(eqn)
    if not inner:
        joined = joined_role(inputs)
        if eqn.primitive.name in MOVEMENT and joined.role == "weight":
            return [inputs[0]]
        return [joined] * len(eqn.outvars)
    results = [Flow() for _ in eqn.outvars]
    if eqn.primitive.name == "cond":  # the results depend on the choice of the branch
        results = [joined_role(inputs[:1])] * len(results)
    for region in inner:
        starts = settle(region, inputs)
        outs = walk(region.jaxpr, starts, visit, path, repeats * region.repeats)
        for index, flow in zip(region.outputs, outs, strict=True):
            if index is not None:
                first = results[index] == Flow()
                results[index] = flow if first else results[index].join(flow)
    return results


def settle(region, inputs: Sequence[Flow]) -> list[Flow]:
    """The flows of a region's inputs, what a loop carries back included."""
    flows = [inputs[index] for index in region.inputs]
    while region.feedback:
        outputs = walk(region.jaxpr, flows, nothing)
        merged = list(flows)
        for out, into in region.feedback:
            merged[into] = merged[into].join(outputs[out])
        if merged == flows:
            break
        flows = merged
    return flows


def joined_role(flows: Sequence[Flow]) -> Flow:
    """The role of what is computed from several values; it is no parameter itself."""
    return Flow(max((flow.role for flow in flows), key=ROLES.index, default="constant"))


def join_scopes(*scopes: str) -> str:
    """Name scopes, one inside the other.

    >>> join_scopes("", "model", "up")
    'model/up'
    """
    return "/".join(part for part in scopes if part)


def nothing(eqn: JaxprEqn, path: str, repeats: int, flows: list[Flow]) -> None:
    """A visit that looks at nothing."""
