"""The transformation: a function whose operations compute on emulated formats.

The function is traced, and its jaxpr evaluated again with operands and results rounded as the
rules of a policy say. Equations in which nothing changes are run as they are, so that their
derivative rules, names and compilation stay what they were.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from qsim.arithmetic.accumulation import LOWEST, Accumulation
from qsim.arithmetic.aligned import least_exponent
from qsim.arithmetic.contraction import accumulated
from qsim.arithmetic.extents import Extent
from qsim.functions import PROGRAMS
from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.random_bits import Key, fold_in
from qsim.scales.tensor import rescaled
from qsim.simulate.contractions import contracted_axes
from qsim.simulate.flow import roles_of
from qsim.simulate.jaxprs import ClosedJaxpr, JaxprEqn, Literal, alone, bind, varying_axes
from qsim.simulate.matrices import as_matrices
from qsim.simulate.plan import Choice, Plan, make_plan
from qsim.simulate.policy import Policy, Rule, as_policy, site_key
from qsim.simulate.program import Node, is_over_layers, program
from qsim.simulate.quantizer import Quantizer
from qsim.simulate.regions import rebuild
from qsim.simulate.selector import Selector

__all__ = ["simulate"]

# functions that back ends compute in many steps, and in others when fused with what is around
SERIES = {"digamma", "lgamma", "polygamma", "zeta"}


def simulate(
    fn: Callable,
    policy: Policy | str | Format | Grid | None,
    *,
    params: int | Sequence[int] | None = None,
    states: int | Sequence[int] | None = None,
    caches: int | Sequence[int] | None = None,
    key: Key | None = None,
) -> Callable:
    """A function like ``fn`` whose operations compute on the formats of a policy.

    Every operand and result that a rule of the policy addresses is rounded; see
    ``qsim.simulate.policy`` for what rules can say. It reaches into ``jit``, ``custom_jvp``,
    ``custom_vjp``, ``remat``, ``scan``, ``while``, ``cond``, ``custom_linear_solve`` and
    ``shard_map``, and composes with ``jit``, ``vmap`` and ``grad`` in either order.

    Args:
        fn: any JAX function: a Flax ``apply``, a loss, the gradient of a loss, a training step.
        policy: from ``qsim.policy``, or its text form; a format or its spec string stands for
            that format on all operands of contractions; None changes nothing.
        params: positions of the arguments that hold parameters, whose values are *weights*. By
            default the first argument, if it is a container; captured arrays always are.
        states: positions of those that hold the state of an optimizer.
        caches: positions of those that are kept from call to call, such as keys and values.
        key: random key for stochastic rounding, of ``jax.random.key`` or ``qsim.counter_key``,
            folded by site, operand and loop iteration, and in a ``shard_map`` by device. The rows
            of a ``jax.vmap`` around the result share their random bits.

    Operations are computed in the dtype that they have and then rounded; contractions that a rule
    addresses in at least float32 (float64 for float64), at the highest precision of the back end
    unless the program asks for another. Integers are exact and stay as they are.

    Gradients of the result are straight-through; see ``gradient`` of ``qsim.quantize``. A
    derivative rule of the user's own (``custom_jvp``, ``custom_vjp``) stays in force as it was
    written, for the function without rounding; in ``simulate(jax.grad(fn), ...)`` it is part of
    the program, and rounded like the rest.

    Raises:
        TypeError: if ``policy`` is neither a policy nor a format.
        ValueError: for an unknown format name, or a policy with layers that addresses what is in
            no scan over them.
        NotImplementedError: for complex numbers where a rule would round them, and for primitives
            that are not known or hide what they do.

    >>> import jax.numpy as jnp
    >>> dot = lambda p, x: x @ p["w"]
    >>> simulate(dot, "e2m1f")({"w": jnp.array([[0.8]])}, jnp.array([[3.3]])).tolist()
    [[3.0]]
    >>> simulate(lambda x: jnp.exp(x) + 1, "function=e4m3; all=e5m10")(jnp.array([0.3])).tolist()
    [2.375]
    """
    chosen = as_policy(policy).lower(alone=True)
    roles = roles_of(params, states, caches)

    @wraps(fn)
    def simulated(*args, **kwargs):
        annotated = program(fn, args, kwargs, roles)
        traced, plan = annotated.traced, make_plan(chosen, annotated)
        if plan.is_empty:
            return fn(*args, **kwargs)
        arrays = [jnp.asarray(array) for array in traced.arrays]
        if any(rule is not None for rule in plan.stored):
            arrays = _stored(chosen, plan, annotated.flows, arrays, key)
        results = _evaluate(_Context(chosen, key, plan), traced.jaxpr, annotated.nodes, arrays)
        return jax.tree.unflatten(traced.out_tree, list(map(jnp.asarray, results)))

    return simulated


@dataclass(frozen=True)
class _Context:
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


def _evaluate(context: _Context, jaxpr: ClosedJaxpr, nodes: Sequence[Node], values) -> list:
    """The outputs of a jaxpr at values; ``nodes`` are its equations."""
    inner = jaxpr.jaxpr
    known = dict(zip(inner.invars, values, strict=True))
    known.update(zip(inner.constvars, jaxpr.consts, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else known[atom]

    for node in nodes:
        results = _equation(context, node, [read(atom) for atom in node.eqn.invars])
        known.update(zip(node.eqn.outvars, results, strict=True))
    return [read(atom) for atom in inner.outvars]


def _equation(context: _Context, node: Node, values: list) -> list:
    """The results of one equation, rounded as the plan says, within it too."""
    if id(node) not in context.plan.touched:
        return bind(node.eqn, values)
    if choice := context.plan.choices.get(id(node)):
        return _operation(context, choice, node, values)
    steps = context.key is not None or context.policy.has_layers

    def run(state, number: int, step, *inputs):
        policy, key = state
        if step is not None:
            key = None if key is None else fold_in(key, step)
            if is_over_layers(node):
                policy = policy.layer(step, node.inner[number].region.repeats)
        inside = _Context(policy, key, context.plan)
        region = node.inner[number]
        return _evaluate(inside, region.region.jaxpr, region.nodes, inputs)

    return rebuild(node.eqn, values, run, (context.policy, context.key), steps)


def _operation(context: _Context, choice: Choice, node: Node, values: list) -> list:
    """One operation: operands rounded, computed, results rounded."""
    eqn, name = node.eqn, node.path or node.name
    where = (node.path, node.name, node.number)
    axes = contracted_axes(eqn) if node.kind == "contraction" else ()

    def rounded(rule: int, value, word: object, along=None, *, apart: bool = False):
        key = on_device(site_key(context.key, *where, word), value)
        quantizer = _quantizer(context, rule)
        try:
            return (quantizer.apart if apart else quantizer)(value, key, along)
        except ValueError as error:
            select = context.policy.rules[rule].select
            raise ValueError(f"rule {str(select)!r}, {name} ({node.name}): {error}") from error

    def once(rule: int, value, n: int):
        along = axes[n] if n < len(axes) else None
        apart = choice.accumulator is not None
        if context.key is not None:
            return rounded(rule, value, n, along, apart=apart)
        same = (id(value), rule, along, apart)
        if same not in context.rounded:
            context.rounded[same] = value, rounded(rule, value, n, along, apart=apart)
        return context.rounded[same][1]

    values = [
        jnp.asarray(value, atom.aval.dtype) if isinstance(atom, Literal) else value
        for value, atom in zip(values, eqn.invars, strict=True)
    ]
    operands = [
        value if rule is None else once(rule, value, n)
        for n, (rule, value) in enumerate(zip(choice.operands, values, strict=True))
    ]
    if _has_steps(context, choice, node):
        return [_in_steps(context, choice, node, values[0])]
    with jax.named_scope(name):
        if choice.accumulator is not None:
            results = [_accumulated(context, choice, node, operands)]
        elif node.kind == "contraction":
            results = _contracted(eqn, operands)
        elif choice.result is not None and (node.kind == "reduction" or node.name in SERIES):
            results = alone(partial(bind, eqn), _as_before(operands, values))
        else:
            results = bind(eqn, _as_before(operands, values))
        if choice.result is not None:
            results = [
                rounded(choice.result, result, f"result{n}" if n else "output")
                if jnp.issubdtype(result.dtype, jnp.floating)
                else result
                for n, result in enumerate(results)
            ]
        return [
            result.astype(var.aval.dtype) for result, var in zip(results, eqn.outvars, strict=True)
        ]


def _has_steps(context: _Context, choice: Choice, node: Node) -> bool:
    """Whether an operation is a function that a rule wants step by step."""
    rule = choice.result
    return node.kind == "function" and rule is not None and _quantizer(context, rule).steps


def _in_steps(context: _Context, choice: Choice, node: Node, value: Any) -> Any:
    """A function by its program of ``qsim.functions``, every step of which is rounded."""
    assert choice.result is not None
    name, select = node.name, context.policy.rules[choice.result].select
    if name not in PROGRAMS:
        raise ValueError(
            f"rule {str(select)!r}, {node.path or name} ({name}): there is no program of steps for "
            f"{name}, only for {', '.join(PROGRAMS)}: begin the policy with a rule for {name}, "
            f"such as {name}=bfloat16"
        )
    once = replace(_quantizer(context, choice.result), steps=False)
    every = Policy((Rule(select=Selector.parse("all"), to=once),))
    key = site_key(context.key, node.path, node.name, node.number)
    found = simulate(PROGRAMS[name], every, key=key)(value)
    return found.astype(node.eqn.outvars[0].aval.dtype)


def on_device(key: Key | None, value) -> Key | None:
    """The key of what a device of a ``shard_map`` has: of its own, if other devices have others."""
    if key is not None:
        for axis in varying_axes(value):
            key = fold_in(key, lax.axis_index(axis))
    return key


def _quantizer(context: _Context, rule: int) -> Quantizer:
    given = context.policy.rules[rule].to
    assert isinstance(given, Quantizer)
    return given


def _as_before(operands: list, values: list) -> list:
    """Operands in the dtypes that the operation was traced with."""
    return [
        now if now is before else now.astype(jnp.asarray(before).dtype)
        for now, before in zip(operands, values, strict=True)
    ]


def _stored(policy: Policy, plan: Plan, flows, arrays: list, key: Key | None) -> list:
    """The arguments, those rounded that are stored in a format."""
    context = _Context(policy, key, plan)
    return [
        array
        if rule is None
        else _quantizer(context, rule)(array, site_key(key, "stored", number, flow.path)).astype(
            array.dtype
        )
        for number, (rule, flow, array) in enumerate(zip(plan.stored, flows, arrays, strict=True))
    ]


# --- contractions -------------------------------------------------------------------------------


def _accumulated(context: _Context, choice: Choice, node: Node, operands: list[Any]) -> Any:
    """A contraction that is added up as an accumulator does, scales of tensors left out."""
    assert choice.accumulator is not None
    how = context.policy.rules[choice.accumulator].to
    assert isinstance(how, Accumulation)
    numbers, factors, extents, least = [], [], [], []
    for rule, value in zip(choice.operands[:2], operands, strict=False):
        number, factor = (value, None) if rule is None else value
        quantizer = None if rule is None else _quantizer(context, rule)
        known = quantizer.extent if quantizer else Extent.of_dtype(number.dtype.name)
        numbers.append(number.astype(how.carrier))
        factors.append(factor)
        extents.append(known or Extent.of_dtype(how.carrier))
        least.append(LOWEST if quantizer is None else least_exponent(quantizer.grid))
    key = on_device(site_key(context.key, node.path, node.name, node.number, "sum"), numbers[0])
    run = partial(accumulated, how=how, extents=tuple(extents), least=tuple(least), key=key)
    try:
        result = as_matrices(node.eqn, numbers[0], numbers[1], operands[2:], run)
    except ValueError as error:
        select = context.policy.rules[choice.accumulator].select
        raise ValueError(f"rule {str(select)!r}, {node.path} ({node.name}): {error}") from error
    for factor in factors:
        result = rescaled(result, factor)
    return result


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
