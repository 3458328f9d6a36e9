"""A traced program as a list of operations that know where they stand and what flows through them.

The *direction* of an operation says which pass of a training step it belongs to: ``forward``;
``input_gradient`` and ``weight_gradient``, the two products of a layer's backward pass;
``backward``, all else in it; ``update``, what is done with gradients afterwards, and with states.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qsim.simulate.flow import Flow, input_flows, joined, operation_flows
from qsim.simulate.jaxprs import ClosedJaxpr, JaxprEqn, Literal, Traced, scope, scope_marks, trace
from qsim.simulate.primitives import class_of
from qsim.simulate.regions import Region, regions

__all__ = [
    "DIRECTIONS",
    "Inner",
    "Node",
    "Program",
    "annotate",
    "evaluate",
    "is_over_layers",
    "join_scopes",
    "program",
]

UPDATED = ("weight", "state", "cache")
DIRECTIONS = ("forward", "backward", "input_gradient", "weight_gradient", "update")


@dataclass(frozen=True)
class Node:
    """One equation of a program.

    Attributes:
        eqn: the equation.
        scope: the name scopes around it.
        path: the same, or where there are none the path of the parameter that feeds it.
        kind: the class of its primitive.
        direction: one of ``DIRECTIONS``.
        inputs: the flows of its operands.
        repeats: how often one run of the program runs it; loops of unknown length count once.
        number: how many operations of the same path and primitive come before it.
        inner: the programs that it holds.
    """

    eqn: JaxprEqn
    scope: str
    path: str
    kind: str
    direction: str
    inputs: tuple[Flow, ...]
    repeats: int
    number: int
    inner: tuple["Inner", ...]

    @property
    def name(self) -> str:
        """The name of its primitive."""
        return self.eqn.primitive.name


@dataclass(frozen=True)
class Inner:
    """A program inside an equation: the region that it is, and its operations."""

    region: Region
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Program:
    """A traced function with its operations.

    Attributes:
        traced: the traced function.
        flows: of its inputs.
        nodes: its operations, in program order.
    """

    traced: Traced
    flows: tuple[Flow, ...]
    nodes: tuple[Node, ...]

    def __iter__(self):
        """All operations in program order, those inside others after them."""
        return _all(self.nodes)


def _all(nodes: Sequence[Node]):
    for node in nodes:
        yield node
        for inner in node.inner:
            yield from _all(inner.nodes)


def program(fn: Callable, args: tuple, kwargs: dict, roles: Mapping) -> Program:
    """A function traced at its arguments, its operations annotated.

    Args:
        fn, args, kwargs: the function and its arguments.
        roles: as for ``input_flows``.
    """
    return annotate(trace(fn, args, kwargs), roles)


def annotate(traced: Traced, roles: Mapping) -> Program:
    """The operations of a traced function, annotated."""
    flows = input_flows(traced, roles)
    nodes, _ = _walk(traced.jaxpr, flows, _Where(), _Book())
    return Program(traced, tuple(flows), tuple(nodes))


def evaluate(jaxpr: ClosedJaxpr, nodes: Sequence[Node], values: Sequence, run: Callable) -> list:
    """The outputs of a program at some values.

    Args:
        jaxpr, nodes: the program, and its operations.
        values: of the inputs.
        run: ``run(node, values)`` gives the results of an operation.
    """
    inner = jaxpr.jaxpr
    known = dict(zip(inner.invars, values, strict=True))
    known.update(zip(inner.constvars, jaxpr.consts, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else known[atom]

    for node in nodes:
        results = run(node, [read(atom) for atom in node.eqn.invars])
        known.update(zip(node.eqn.outvars, results, strict=True))
    return [read(atom) for atom in inner.outvars]


# --- walking ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Where:
    """What the equations of a jaxpr have in common."""

    scope: str = ""
    transposed: bool = False
    repeats: int = 1


@dataclass(frozen=True)
class _Use:
    """A product of the forward pass, as its operands see it: what stands on the other side."""

    path: str
    scope: str
    other: str
    shape: tuple[int, ...]


@dataclass
class _Book:
    """What has been seen on the way: products of the forward pass, gradients, and counts."""

    uses: dict[int | None, list[_Use]] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    has_gradients: bool = False
    seeds: set[int] = field(default_factory=set)
    origins: Iterator[int] = field(default_factory=lambda: itertools.count(-1, -1))

    def number(self, path: str, primitive: str) -> int:
        """How many operations of a path and primitive have asked before."""
        count = self.counts.get((path, primitive), 0)
        self.counts[path, primitive] = count + 1
        return count

    def with_seeds(self, kind: str, inputs: list[Flow]) -> list[Flow]:
        """The operands of an operation in a backward pass, seeds being gradients.

        Without a gradient before, the operand of a product that no product of the forward pass has
        is the seed that a caller of ``jax.vjp`` gave.
        """
        roles = [flow.role for flow in inputs[:2]]
        if kind == "contraction" and not self.has_gradients and "gradient" not in roles:
            new = [flow.origin for flow in inputs[:2] if flow.origin not in {None, *self.uses}]
            self.seeds.update(new if len(new) == 1 else ())
        return [
            replace(flow, role="gradient") if flow.origin in self.seeds else flow for flow in inputs
        ]

    def enter(self, eqn: JaxprEqn, inputs: Sequence[Flow], scope: str, path: str) -> None:
        """Notes a product of the forward pass."""
        for this, other in ((0, 1), (1, 0)):
            shape = tuple(eqn.invars[other].aval.shape)
            use = _Use(path, scope, inputs[other].role, shape)
            self.uses.setdefault(inputs[this].origin, []).append(use)

    def origin_of(self, flow: Flow, scope: str, shape: tuple[int, ...]) -> _Use | None:
        """The product whose other operand the derivative of this shape belongs to."""

        def fits(use: _Use) -> bool:
            return sorted(use.shape) == sorted(shape)

        by_value = self.uses.get(flow.origin, []) if flow.origin is not None else []
        everything = [use for uses in self.uses.values() for use in uses]
        by_scope = [use for use in everything if scope and use.scope == scope]
        for candidates in (
            [use for use in by_value if use.scope == scope and fits(use)],
            [use for use in by_value if fits(use)],
            [use for use in by_scope if fits(use)],
            [use for use in everything if fits(use)],
        ):
            if candidates:
                return candidates[-1]
        return None


def _walk(
    jaxpr: ClosedJaxpr, flows: Sequence[Flow], where: _Where, book: _Book
) -> tuple[list[Node], list[Flow]]:
    """The nodes of a jaxpr, and the flows of its outputs. Captured arrays count as parameters."""
    known = dict(zip(jaxpr.jaxpr.invars, flows, strict=True))
    known.update({var: Flow("weight", origin=id(var)) for var in jaxpr.jaxpr.constvars})

    def read(atom) -> Flow:
        return Flow() if isinstance(atom, Literal) else known[atom]

    nodes = []
    for eqn in jaxpr.jaxpr.eqns:
        node, outputs = _node(eqn, [read(atom) for atom in eqn.invars], where, book)
        nodes.append(node)
        known.update(zip(eqn.outvars, outputs, strict=True))
    return nodes, [read(atom) for atom in jaxpr.jaxpr.outvars]


def _node(eqn: JaxprEqn, inputs: list[Flow], where: _Where, book: _Book) -> tuple[Node, list[Flow]]:
    """An equation annotated, and the flows of its results."""
    marks = scope_marks(eqn)
    transposed = (where.transposed or marks.transposed) and not marks.recomputed
    here = replace(where, scope=join_scopes(where.scope, scope(eqn)), transposed=transposed)
    kind, held = class_of(eqn.primitive.name), regions(eqn)
    if transposed:
        inputs = book.with_seeds(kind, inputs)
    direction, path = _direction(eqn, kind, inputs, here, book)
    if kind == "contraction" and not transposed:
        book.enter(eqn, inputs, here.scope, path)
    number = book.number(path, eqn.primitive.name)
    if held:
        inner, outputs = _enter(eqn, held, inputs, here, book)
    else:
        begins = not book.has_gradients
        inner, outputs = (), operation_flows(eqn, inputs, transposed, begins, book.origins)
        book.has_gradients |= any(flow.role == "gradient" for flow in outputs)
    node = Node(
        eqn, here.scope, path, kind, direction, tuple(inputs), here.repeats, number, tuple(inner)
    )
    return node, outputs


def _direction(
    eqn: JaxprEqn, kind: str, inputs: Sequence[Flow], where: _Where, book: _Book
) -> tuple[str, str]:
    """The direction of an equation, and its path."""
    path = where.scope or _path_of_argument(inputs)
    if not where.transposed:
        return ("update" if joined(inputs) in ("state", "gradient") else "forward"), path
    if kind != "contraction":
        return "backward", path
    others = [flow for flow in inputs[:2] if flow.role != "gradient"]
    if len(others) != 1 or others[0].role in ("weight", "constant"):
        return "input_gradient", path
    use = book.origin_of(others[0], where.scope, tuple(eqn.outvars[0].aval.shape))
    if use is None:
        return "input_gradient", path
    direction = "weight_gradient" if use.other in ("weight", "constant") else "input_gradient"
    return direction, path or use.path


def _path_of_argument(inputs: Sequence[Flow]) -> str:
    """The path of the argument that feeds an operation without name scopes.

    It goes without the last part that all layers share (``kernel``), if there is another.
    """
    fed_by = next((flow.path for flow in inputs if flow.path), "")
    parts = fed_by.split("/")
    shared = len(parts) > 1 and parts[-1] in ("kernel", "embedding", "w")
    return join_scopes(*(parts[:-1] if shared else parts))


def _enter(eqn: JaxprEqn, held: list[Region], inputs: list[Flow], where: _Where, book: _Book):
    """The programs inside an equation, and the flows of its results."""
    results: list[Flow | None] = [None] * len(eqn.outvars)
    if eqn.primitive.name == "cond":  # the results depend on the choice of the branch
        results = [Flow(inputs[0].role)] * len(results)
    found = []
    for region in held:
        inside = replace(where, repeats=where.repeats * region.repeats)
        starts = _settled(region, inputs, inside)
        nodes, outputs = _walk(region.jaxpr, starts, inside, book)
        found.append(Inner(region, tuple(nodes)))
        for index, flow in zip(region.outputs, outputs, strict=True):
            if index is not None:
                before = results[index]
                results[index] = flow if before is None else before.join(flow)
    return found, [flow or Flow() for flow in results]


def _settled(region: Region, inputs: Sequence[Flow], where: _Where) -> list[Flow]:
    """The flows of a region's inputs, what a loop carries back included."""
    flows = [inputs[index] for index in region.inputs]
    while region.feedback:
        _, outputs = _walk(region.jaxpr, flows, where, _Book())
        merged = list(flows)
        for out, into in region.feedback:
            before, after = merged[into], outputs[out]
            both = before.join(after)
            if before.role in UPDATED and after.role == "gradient":
                both = before  # an updated parameter is a parameter
            origin = id(region.jaxpr.jaxpr.invars[into]) if both.origin is None else both.origin
            merged[into] = replace(both, origin=origin)
        if merged == flows:
            break
        flows = merged
    return flows


def is_over_layers(node: Node) -> bool:
    """Whether an operation is a scan over layers: over weights, or with no scan inside that is.

    A loop over batches, or over time, may be as long as a model is deep.
    """
    scanned = [node.inputs[n].role for inner in node.inner for n in inner.region.scanned]
    if "weight" in scanned:
        return True
    lengths = {inner.region.repeats for inner in node.inner}
    inside = [other for inner in node.inner for other in _all(inner.nodes)]
    return not any(
        inner.region.repeats in lengths and is_over_layers(other)
        for other in inside
        if other.name == "scan"
        for inner in other.inner
    )


def join_scopes(*scopes: str) -> str:
    """Name scopes, one inside the other.

    >>> join_scopes("", "model", "up")
    'model/up'
    """
    return "/".join(part for part in scopes if part)
