"""The transformation: a function whose operations compute on emulated formats.

The function is traced, and its jaxpr evaluated again with operands and results rounded as the
rules of a policy say. Equations in which nothing changes are run as they are, so that their
derivative rules, names and compilation stay what they were.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp

from qsim.functions import PROGRAMS
from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.random_bits import Key
from qsim.simulate.flow import roles_of
from qsim.simulate.jaxprs import bind
from qsim.simulate.operation import Context, Operation
from qsim.simulate.plan import Plan, make_plan
from qsim.simulate.policy import Policy, Rule, as_policy, site_key
from qsim.simulate.program import Node, evaluate, program
from qsim.simulate.regions import rebuild
from qsim.simulate.selector import Selector

__all__ = ["equation", "in_steps", "simulate", "stored"]


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
            arrays = stored(chosen, plan, annotated.flows, arrays, key)
        run = partial(equation, Context(chosen, key, plan))
        results = evaluate(traced.jaxpr, annotated.nodes, arrays, run)
        return jax.tree.unflatten(traced.out_tree, list(map(jnp.asarray, results)))

    return simulated


def equation(context: Context, node: Node, values: list) -> list:
    """The results of one equation, rounded as the plan says, within it too."""
    if id(node) not in context.plan.touched:
        return bind(node.eqn, values)
    if choice := context.plan.choices.get(id(node)):
        operation = Operation(context, choice, node)
        return [in_steps(operation, values[0])] if operation.has_steps else operation(values)

    def run(state, number: int, step, *inputs):
        region = node.inner[number]
        inside = context.within(node, number, step, *state)
        return evaluate(region.region.jaxpr, region.nodes, inputs, partial(equation, inside))

    return rebuild(node.eqn, values, run, (context.policy, context.key), context.counts_steps)


def in_steps(operation: Operation, value: Any) -> Any:
    """A function by its program of ``qsim.functions``, every step of which is rounded."""
    context, node, rule = operation.context, operation.node, operation.choice.result
    assert rule is not None
    if node.name not in PROGRAMS:
        raise ValueError(
            f"rule {str(context.policy.rules[rule].select)!r}, {operation.name} ({node.name}): "
            f"there is no program of steps for {node.name}, only for {', '.join(PROGRAMS)}: begin "
            f"the policy with a rule for {node.name}, such as {node.name}=bfloat16"
        )
    once = replace(context.quantizer(rule), steps=False)
    every = Policy((Rule(select=Selector.parse("all"), to=once),))
    found = simulate(PROGRAMS[node.name], every, key=operation.key())(value)
    return found.astype(node.eqn.outvars[0].aval.dtype)


def stored(policy: Policy, plan: Plan, flows, arrays: list, key: Key | None) -> list:
    """The arguments, those rounded that are stored in a format."""
    context = Context(policy, key, plan)
    return [
        array
        if rule is None
        else context.quantizer(rule)(array, site_key(key, "stored", number, flow.path)).astype(
            array.dtype
        )
        for number, (rule, flow, array) in enumerate(zip(plan.stored, flows, arrays, strict=True))
    ]
