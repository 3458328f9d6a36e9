"""One operation of a program under the rules of a policy: operands rounded, computed, rounded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qsim.arithmetic.accumulation import LOWEST, Accumulation
from qsim.arithmetic.aligned import least_exponent
from qsim.arithmetic.contraction import accumulated
from qsim.arithmetic.extents import Extent
from qsim.numbers.random_bits import Key, fold_in
from qsim.scales.tensor import rescaled
from qsim.simulate.contractions import contracted_axes
from qsim.simulate.jaxprs import JaxprEqn, Literal, alone, bind, varying_axes
from qsim.simulate.matrices import as_matrices
from qsim.simulate.plan import Choice, Plan
from qsim.simulate.policy import Policy, site_key
from qsim.simulate.program import Node, is_over_layers
from qsim.simulate.quantizer import Quantizer

__all__ = ["Context", "Operation", "on_device"]

# functions that back ends compute in many steps, and in others when fused with what is around
SERIES = {"digamma", "lgamma", "polygamma", "zeta"}


@dataclass(frozen=True)
class Context:
    """What stays the same through an evaluation.

    Attributes:
        policy: with grids; inside a scan over layers those of one layer.
        key: the random key, already folded by the iterations of the loops around.
        plan: which rule counts where.
        rounded: operands that have been rounded here already, by what they are and by which rule,
            with themselves: the three products of attention round their operand once.
    """

    policy: Policy
    key: Key | None
    plan: Plan
    rounded: dict[tuple, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def counts_steps(self) -> bool:
        """Whether it matters which iteration of a loop something is in."""
        return self.key is not None or self.policy.has_layers

    def within(self, node: Node, number: int, step: Any, policy: Policy, key: Key | None):
        """The context in a program that a node holds.

        Args:
            node, number: the node, and which of its programs.
            step: the number of the iteration; None if it does not matter.
            policy, key: those around it.
        """
        if step is not None:
            key = None if key is None else fold_in(key, step)
            if is_over_layers(node):
                policy = policy.layer(step, node.inner[number].region.repeats)
        return Context(policy, key, self.plan)

    def quantizer(self, rule: int) -> Quantizer:
        """What a rule for numbers gives."""
        given = self.policy.rules[rule].to
        assert isinstance(given, Quantizer)
        return given


@dataclass(frozen=True)
class Operation:
    """An operation and the rules for it.

    Attributes:
        context: of the evaluation.
        choice: the rules.
        node: the operation.
    """

    context: Context
    choice: Choice
    node: Node

    @property
    def name(self) -> str:
        """Its path, or else its primitive."""
        return self.node.path or self.node.name

    @property
    def has_steps(self) -> bool:
        """Whether it is a function that a rule wants step by step."""
        rule = self.choice.result
        return (
            self.node.kind == "function" and rule is not None and self.context.quantizer(rule).steps
        )

    def __call__(self, values: Sequence[Any], between: Callable = lambda results: results) -> list:
        """The results at some values.

        Args:
            values: the operands.
            between: what is done with the results before they are rounded.
        """
        eqn = self.node.eqn
        values = [
            jnp.asarray(value, atom.aval.dtype) if isinstance(atom, Literal) else value
            for value, atom in zip(values, eqn.invars, strict=True)
        ]
        operands = [
            value if rule is None else self._operand(rule, value, n)
            for n, (rule, value) in enumerate(zip(self.choice.operands, values, strict=True))
        ]
        with jax.named_scope(self.name):
            results = between(self._computed(operands, values))
            if self.choice.result is not None:
                results = [self._result(result, n) for n, result in enumerate(results)]
        return [
            result.astype(var.aval.dtype) for result, var in zip(results, eqn.outvars, strict=True)
        ]

    def key(self, *names: object) -> Key | None:
        """The random key of a part of the operation."""
        node = self.node
        return site_key(self.context.key, node.path, node.name, node.number, *names)

    # --- rounding -------------------------------------------------------------------------------

    def _operand(self, rule: int, value: Any, n: int) -> Any:
        """An operand rounded; with an accumulator, numbers and the scale of a tensor apart."""
        axes = contracted_axes(self.node.eqn) if self.node.kind == "contraction" else ()
        along = axes[n] if n < len(axes) else None
        apart = self.choice.accumulator is not None
        if self.context.key is not None:
            return self._rounded(rule, value, n, along, apart)
        known, same = self.context.rounded, (id(value), rule, along, apart)
        if same not in known:
            known[same] = value, self._rounded(rule, value, n, along, apart)
        return known[same][1]

    def _result(self, result: Any, n: int) -> Any:
        if not jnp.issubdtype(result.dtype, jnp.floating):
            return result
        assert self.choice.result is not None
        return self._rounded(self.choice.result, result, f"result{n}" if n else "output")

    def _rounded(self, rule: int, value: Any, word: object, along=None, apart: bool = False) -> Any:
        key = on_device(self.key(word), value)
        quantizer = self.context.quantizer(rule)
        try:
            return (quantizer.apart if apart else quantizer)(value, key, along)
        except ValueError as error:
            raise self._blamed(rule, error) from error

    def _blamed(self, rule: int, error: ValueError) -> ValueError:
        """An error that names the rule and the operation."""
        select = self.context.policy.rules[rule].select
        return ValueError(f"rule {str(select)!r}, {self.name} ({self.node.name}): {error}")

    # --- computing ------------------------------------------------------------------------------

    def _computed(self, operands: list[Any], values: list[Any]) -> list[Any]:
        """The results of rounded operands, not yet rounded; ``values`` are those before."""
        node, eqn = self.node, self.node.eqn
        if self.choice.accumulator is not None:
            return [self._accumulated(operands)]
        if node.kind == "contraction":
            return _contracted(eqn, operands)
        operands = _as_before(operands, values)
        if self.choice.result is not None and (node.kind == "reduction" or node.name in SERIES):
            return alone(partial(bind, eqn), operands)
        return bind(eqn, operands)

    def _accumulated(self, operands: list[Any]) -> Any:
        """A contraction added up as an accumulator does, scales of tensors left out."""
        rule = self.choice.accumulator
        assert rule is not None
        how = self.context.policy.rules[rule].to
        assert isinstance(how, Accumulation)
        numbers, factors, extents, least = [], [], [], []
        for given, value in zip(self.choice.operands[:2], operands, strict=False):
            number, factor = (value, None) if given is None else value
            quantizer = None if given is None else self.context.quantizer(given)
            known = quantizer.extent if quantizer else Extent.of_dtype(number.dtype.name)
            numbers.append(number.astype(how.carrier))
            factors.append(factor)
            extents.append(known or Extent.of_dtype(how.carrier))
            least.append(LOWEST if quantizer is None else least_exponent(quantizer.grid))
        key = on_device(self.key("sum"), numbers[0])
        run = partial(accumulated, how=how, extents=tuple(extents), least=tuple(least), key=key)
        try:
            result = as_matrices(self.node.eqn, numbers[0], numbers[1], operands[2:], run)
        except ValueError as error:
            raise self._blamed(rule, error) from error
        for factor in factors:
            result = rescaled(result, factor)
        return result


def on_device(key: Key | None, value: Any) -> Key | None:
    """The key of what a device of a ``shard_map`` has: of its own, if other devices have others."""
    if key is not None:
        for axis in varying_axes(value):
            key = fold_in(key, lax.axis_index(axis))
    return key


def _as_before(operands: list, values: list) -> list:
    """Operands in the dtypes that the operation was traced with."""
    return [
        now if now is before else now.astype(jnp.asarray(before).dtype)
        for now, before in zip(operands, values, strict=True)
    ]


def _contracted(eqn: JaxprEqn, operands: list[Any]) -> list:
    """A contraction in at least float32, at the highest precision of the back end."""
    floating = [x for x in operands if jnp.issubdtype(x.dtype, jnp.floating)]
    operands = lax.optimization_barrier(operands)  # or a transposition becomes part of the product
    if eqn.primitive.name == "scaled_dot" or len(floating) < 2:
        return bind(eqn, operands)
    kinds = {x.dtype for x in floating}
    widest = _wide({*kinds, eqn.outvars[0].aval.dtype})
    if len(kinds) > 1 or jnp.finfo(floating[0].dtype).bits < 16:
        operands = [*(x.astype(_wide(kinds)) for x in operands[:2]), *operands[2:]]
    changed: dict[str, Any] = {"preferred_element_type": widest}
    if eqn.params.get("precision") in (None, (lax.Precision.DEFAULT, lax.Precision.DEFAULT)):
        changed["precision"] = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    return bind(eqn, operands, **changed)


def _wide(dtypes: set) -> Any:
    """float64, if it is among some dtypes, else float32."""
    return jnp.dtype("float64" if jnp.dtype("float64") in dtypes else "float32")
