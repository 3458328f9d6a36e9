"""Which rule of a policy counts where: decided once for a program, before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from qsim.simulate.jaxprs import place
from qsim.simulate.policy import Policy
from qsim.simulate.program import Node, Program
from qsim.simulate.slots import ACCUMULATOR, slots, stored_slots

__all__ = ["Choice", "Plan", "make_plan"]


@dataclass(frozen=True)
class Choice:
    """The rules for one operation, by their numbers in the policy; None where there is none.

    Attributes:
        operands: for each operand.
        result: for the results.
        accumulator: for how a contraction adds up.
    """

    operands: tuple[int | None, ...]
    result: int | None
    accumulator: int | None = None


@dataclass(frozen=True)
class Plan:
    """The rules for a program.

    Attributes:
        choices: of the operations for which there is a rule, by the identity of their node.
        touched: the identities of these nodes, and of those that hold them.
        stored: the rule for each argument.
    """

    choices: dict[int, Choice]
    touched: frozenset[int]
    stored: tuple[int | None, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is rounded."""
        return not self.touched and all(rule is None for rule in self.stored)


def make_plan(policy: Policy, program: Program) -> Plan:
    """The rules that a policy has for a program.

    Raises:
        NotImplementedError: where the policy asks for what cannot be done: an operation that is
            opaque or not known, or one with complex numbers.
    """
    choices: dict[int, Choice] = {}
    touched: set[int] = set()

    def visit(nodes: Sequence[Node], within: str | None = None) -> bool:
        found = False
        for node in nodes:
            here = place(node.eqn) or within
            choice = _choice(policy, node, here or "an unknown place")
            if choice is not None:
                choices[id(node)] = choice
            inside = [visit(inner.nodes, here) for inner in node.inner]
            if choice is not None or any(inside):
                touched.add(id(node))
                found = True
        return found

    if policy.rules:
        visit(program.nodes)
    stored = [None if slot is None else policy.find(slot) for slot in stored_slots(program)]
    gives = tuple(n if n is not None and policy.rules[n].to is not None else None for n in stored)
    return Plan(choices, frozenset(touched), gives)


def _choice(policy: Policy, node: Node, where: str) -> Choice | None:
    """The rules for an operation, which stands somewhere; None if there is none that rounds."""
    _refuse_hidden(policy, node, where)
    operands: list[int | None] = [None] * len(node.eqn.invars)
    result = accumulator = None
    for number, slot in slots(node):
        rule = policy.find(slot)
        if rule is None or policy.rules[rule].to is None:
            continue
        if slot.dtype.startswith("complex"):
            raise NotImplementedError(
                f"{node.name} at {where} has {slot.dtype} numbers, which qsim cannot "
                f"round; write it with real and imaginary parts, or begin with {node.name}=none"
            )
        if number is None:
            result = rule
        elif number == ACCUMULATOR:
            accumulator = rule
        else:
            operands[number] = rule
    if all(rule is None for rule in (*operands, result, accumulator)):
        return None
    return Choice(tuple(operands), result, accumulator)


def _refuse_hidden(policy: Policy, node: Node, where: str) -> None:
    """Operations that hide numbers from a policy must be named by it."""
    if node.kind not in ("opaque", "unknown"):
        return
    if any(policy.find(slot) is not None for _, slot in slots(node)) or not list(slots(node)):
        return
    if node.kind == "unknown":
        raise NotImplementedError(
            f"{node.name} at {where} is a primitive that qsim does not know: say what "
            f"it is with qsim.register({node.name!r}, 'function')"
        )
    raise NotImplementedError(
        f"{node.name} at {where} hides what it computes from qsim: write it with other "
        f"operations, or begin the policy with {node.name}=none to leave it as it is"
    )
