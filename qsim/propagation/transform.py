"""The transformation: a function all of whose tensors are pairs of data and scale.

The function is traced, and its jaxpr evaluated on scaled arrays by the rules of
``qsim.propagation.rules``. What a policy rounds is the data: sizes have moved to the scales.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.modes import require_one_of
from qsim.numbers.random_bits import Key
from qsim.propagation.rules import propagated
from qsim.propagation.values import Uniform, Value, at_scale, plain, scaled, sized, together
from qsim.propagation.watch import Watch
from qsim.scales.scaled import SCALE_ROUNDINGS, ScaledArray, unscaled
from qsim.simulate.flow import roles_of
from qsim.simulate.jaxprs import bind
from qsim.simulate.operation import Context, Operation
from qsim.simulate.plan import make_plan
from qsim.simulate.policy import Policy, as_policy
from qsim.simulate.program import Node, evaluate, program
from qsim.simulate.regions import CUSTOM, STRUCTURED, rebuild, where_rows
from qsim.simulate.transform import equation, in_steps, stored

__all__ = ["propagation", "scale_propagation"]

CALLED = ("jit", "closed_call")  # become part of their surroundings
BY_VALUE = ("custom_linear_solve", "shard_map")


def scale_propagation(
    fn: Callable,
    policy: Policy | str | Format | Grid | None = None,
    *,
    rounding: str = "down",
    params: int | Sequence[int] | None = None,
    states: int | Sequence[int] | None = None,
    caches: int | Sequence[int] | None = None,
    key: Key | None = None,
) -> Callable:
    """A function like ``fn`` that computes on data and scales, and returns scaled arrays.

    Args:
        fn: any JAX function: a loss, its gradient, a training step.
        policy: what the data of operands and results is rounded to, as for ``qsim.simulate``; None
            changes no value.
        rounding: of scales, one of ``qsim.SCALE_ROUNDINGS``. With ``down`` and ``up`` all scales
            are powers of two, and without a policy the values are those of ``fn`` wherever nothing
            over- or underflows.
        params, states, caches, key: as for ``qsim.simulate``.

    Arguments may be scaled arrays (see ``qsim.as_scaled``) or plain ones, whose scale is 1. Loops,
    branches, ``remat`` and functions with derivative rules of their own are entered. What is inside
    a ``shard_map`` or a linear solve computes on values, and its results have the scale 1.

    Scales are not differentiated: ``jax.grad`` of the result is that of ``fn``, and the gradient of
    a scaled array is in its ``data``, times its scale.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``qsim.simulate``, and for an unknown
            rounding.

    >>> from qsim.scales.scaled import as_scaled
    >>> x = as_scaled(jnp.array([96.0, -40.0]), by="max")
    >>> y = scale_propagation(lambda x: x * x)(x)
    >>> y.data.tolist(), y.scale.tolist()
    ([2.25, 0.390625], 4096.0)
    """
    roles = {"params": params, "states": states, "caches": caches}
    return propagation(fn, policy, rounding=rounding, key=key, **roles)


def propagation(
    fn: Callable,
    policy: Policy | str | Format | Grid | None = None,
    *,
    rounding: str = "down",
    key: Key | None = None,
    watch: Watch | None = None,
    **roles: Any,
) -> Callable:
    """As ``scale_propagation``, operations being watched."""
    require_one_of("rounding of scales", rounding, SCALE_ROUNDINGS)
    chosen = as_policy(policy).lower(alone=True)
    known = roles_of(*(roles.get(name) for name in ("params", "states", "caches")))

    @wraps(fn)
    def propagated(*args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs), is_leaf=_is_scaled)
        args, kwargs = jax.tree.map(_outline, (args, kwargs), is_leaf=_is_scaled)
        annotated = program(fn, args, kwargs, known)
        traced, plan = annotated.traced, make_plan(chosen, annotated)
        values = [leaf for leaf in leaves if _is_array(leaf)]
        data = [jnp.asarray(x.data if _is_scaled(x) else x) for x in values]
        if any(rule is not None for rule in plan.stored):
            data = stored(chosen, plan, annotated.flows, data, key)
        values = [
            sized(x, value.scale) if _is_scaled(value) else scaled(x)
            for x, value in zip(data, values, strict=True)
        ]
        context = Propagation(Context(chosen, key, plan), rounding, watch)
        results = evaluate(traced.jaxpr, annotated.nodes, values, context.equation)
        return jax.tree.unflatten(traced.out_tree, [_finished(x) for x in results])

    return propagated


def _is_scaled(x: Any) -> bool:
    return isinstance(x, ScaledArray)


def _is_array(x: Any) -> bool:
    return isinstance(x, ScaledArray | jax.Array | np.ndarray | np.generic)


def _outline(x: Any) -> Any:
    """An argument as ``fn`` is traced at it."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if _is_scaled(x) else x


def _finished(value: Any) -> Any:
    return scaled(value if isinstance(value, ScaledArray | Uniform) else jnp.asarray(value))


@dataclass(frozen=True)
class Propagation:
    """An evaluation on scaled values.

    Attributes:
        context: that of the roundings.
        rounding: of scales.
        watch: what looks at the results of operations.
    """

    context: Context
    rounding: str
    watch: Watch | None = None

    def equation(self, node: Node, values: list) -> list:
        """The results of one equation."""
        values = [_constant(x, atom) for x, atom in zip(values, node.eqn.invars, strict=True)]
        if node.name in BY_VALUE:
            return list(map(scaled, equation(self.context, node, list(map(_array, values)))))
        if node.name in STRUCTURED:
            return self._structure(node, values)
        choice = self.context.plan.choices.get(id(node))

        def compute(arrays, between=lambda results: results):
            if choice is None:
                return between(bind(node.eqn, arrays))
            operation = Operation(self.context, choice, node)
            if operation.has_steps:
                return between([in_steps(operation, arrays[0])])
            return operation(arrays, between)

        results = propagated(self.rounding, node.eqn, values, compute)
        if self.watch is not None:
            self.watch.see(node, results)
        return results

    # --- equations that hold programs -----------------------------------------------------------

    def _structure(self, node: Node, values: list) -> list:
        """The results of an equation that holds other programs, which are entered."""
        state = self.context.policy, self.context.key
        if node.name in CALLED:
            return self._inner(node, 0, None, values, state, self.watch)
        values = list(map(scaled, values))
        if node.name == "scan" and self.watch is not None and node.eqn.params["length"]:
            return self._unrolled(node, values, state, self.watch)

        def run(state, number: int, step, *inputs):
            return list(map(scaled, self._inner(node, number, step, inputs, state)))

        if node.name in CUSTOM:
            return _custom(node, values, run, state)
        steps = self.context.counts_steps
        if node.name != "scan":
            return rebuild(node.eqn, values, run, state, steps, choose=_where_rows)
        first, carry = _scan_counts(node)
        values = [*values[:first], *map(_sliced, values[first:])]
        results = rebuild(node.eqn, values, run, state, steps)
        return [*results[:carry], *map(_stacked, results[carry:])]

    def _inner(self, node: Node, number: int, step: Any, inputs, state, watch=None) -> list:
        region = node.inner[number]
        context = self.context.within(node, number, step, *state)
        inside = replace(self, context=context, watch=watch)
        return evaluate(region.region.jaxpr, region.nodes, inputs, inside.equation)

    def _unrolled(self, node: Node, values: list, state: tuple, watch: Watch) -> list:
        """The results of a scan, one iteration after the other."""
        params, (first, carry) = node.eqn.params, _scan_counts(node)
        fixed, carried = values[: first - carry], values[first - carry : first]
        rows = []
        places = range(params["length"])
        for place in reversed(places) if params["reverse"] else places:
            slices = [
                replace(x, data=x.data[place]) if _is_scaled(x) else x[place]
                for x in values[first:]
            ]
            step = jnp.int32(place) if self.context.counts_steps else None
            inputs = [*fixed, *carried, *slices]
            outputs = self._inner(node, 0, step, inputs, state, watch.iteration(place))
            outputs = list(map(scaled, outputs))
            carried = outputs[:carry]
            rows.append(outputs[carry:])
        rows = rows[::-1] if params["reverse"] else rows
        columns = zip(*rows, strict=True)
        stacks = [jax.tree.map(lambda *x: jnp.stack(x), *column) for column in columns]
        return [*carried, *map(_stacked, stacks)]


def _scan_counts(node: Node) -> tuple[int, int]:
    """Where what a scan goes through begins among its operands, and how much it carries."""
    params = node.eqn.params
    return params["num_consts"] + params["num_carry"], params["num_carry"]


def _constant(value: Any, atom: Any) -> Any:
    """A value; a number or an array of the program itself gets a scale."""
    dtype = getattr(atom.aval, "dtype", None)
    if isinstance(value, ScaledArray | Uniform) or not jnp.issubdtype(dtype, jnp.floating):
        known = isinstance(value, ScaledArray | Uniform | jax.Array)
        return value if known else jnp.asarray(value, dtype)
    if np.ndim(value) == 0 and not isinstance(value, jax.core.Tracer):
        return Uniform(np.asarray(value).astype(dtype)[()])
    return scaled(jnp.asarray(value, dtype))


def _array(value: Value) -> Any:
    return plain(value) if isinstance(value, ScaledArray | Uniform) else value


def _sliced(value: Any) -> Any:
    """What a scan goes through, the scale once for each step."""
    if not _is_scaled(value):
        return value
    return ScaledArray(value.data, jnp.broadcast_to(value.scale, value.shape[:1]))


def _stacked(value: Any) -> Any:
    """What the steps of a scan gave, at the largest of their scales."""
    if not _is_scaled(value):
        return value
    scale = value.scale.max(initial=0)
    return sized(jax.vmap(lambda x: at_scale(x, scale))(value), scale)


def _where_rows(rows: Any, new: Any, old: Any) -> Any:
    """``new`` in the rows that are chosen, ``old`` in the others, at one scale."""
    if not _is_scaled(new):
        return where_rows(rows, new, old)
    data, scale = together([new, old])
    return sized(where_rows(rows, *data), scale)


def _custom(node: Node, values: list, run: Callable, state: Any) -> list:
    """A function with a derivative rule of its own, which stays in force, on values."""

    def original(*inputs):
        return bind(node.eqn, list(map(unscaled, inputs)))

    def value(state, *inputs):
        return run(state, 0, None, *inputs)

    if node.name == "custom_jvp_call":
        forward = jax.custom_jvp(value)

        @forward.defjvp
        def _(primals, tangents):
            results = forward(*primals)
            slopes = jax.jvp(original, primals[1:], tangents[1:])[1]
            return results, list(map(_tangent, results, slopes))

        return forward(state, *values)

    def pulled_back(saved, cotangents):
        inputs, scales = saved
        given = list(map(_cotangent, cotangents, scales))
        return (None, *jax.vjp(original, *inputs)[1](given))

    def kept(state, *inputs):
        results = forward(state, *inputs)
        return results, (inputs, [x.scale if _is_scaled(x) else None for x in results])

    forward = jax.custom_vjp(value)
    forward.defvjp(kept, pulled_back)
    return forward(state, *values)


def _tangent(result: Any, slope: Any) -> Any:
    """The tangent of a result, of whose value it is given."""
    if not _is_scaled(result):
        return slope
    ratio = 1 / jnp.where(result.scale > 0, result.scale, 1)
    return ScaledArray(slope * ratio.astype(slope.dtype), jnp.zeros_like(result.scale))


def _cotangent(cotangent: Any, scale: Any) -> Any:
    """The cotangent of a value, given that of its data."""
    if scale is None:
        return cotangent
    ratio = 1 / jnp.where(scale > 0, scale, 1)
    return cotangent.data * ratio.astype(cotangent.data.dtype)
