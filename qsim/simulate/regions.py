"""The structure of equations that hold other programs: how values flow in and out, and rebuilding.

With ``jaxprs`` the only module that knows the parameters of primitives. Everything else in
``qsim.simulate`` sees ``Region`` records.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from qsim.simulate.jaxprs import ClosedJaxpr, JaxprEqn, bind, closed, inner_jaxprs, jaxpr_as_fun

__all__ = ["CUSTOM", "STRUCTURED", "Region", "rebuild", "regions", "where_rows"]


@dataclass(frozen=True)
class Region:
    """A jaxpr inside an equation, and how values flow in and out of it.

    Attributes:
        jaxpr: the inner jaxpr.
        inputs: for each of its inputs, the index of the equation's input it starts from.
        outputs: for each of its outputs, the index of the equation's output, or None.
        feedback: pairs (output, input) of the inner jaxpr: what loops carry.
        repeats: how often one run of the equation runs it (1 where that is unknown).
        scanned: the indices of the equation's inputs of which each run gets a slice.
    """

    jaxpr: ClosedJaxpr
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    feedback: tuple[tuple[int, int], ...] = ()
    repeats: int = 1
    scanned: tuple[int, ...] = ()


CALLS = ("jit", "closed_call", "remat2")
CUSTOM = ("custom_jvp_call", "custom_vjp_call")
MANUAL = "newly_manual_axes"  # "manual_axes" in JAX 0.10.0
SOLVE = "custom_linear_solve"
STRUCTURED = (*CALLS, *CUSTOM, SOLVE, "scan", "while", "cond", "shard_map")


def regions(eqn: JaxprEqn) -> list[Region]:
    """The jaxprs inside an equation; none unless its primitive is one of ``STRUCTURED``."""
    name, params = eqn.primitive.name, eqn.params
    inputs, outputs = tuple(range(len(eqn.invars))), tuple(range(len(eqn.outvars)))
    if name == "scan":
        body, consts, carry = params["jaxpr"], params["num_consts"], params["num_carry"]
        feedback = tuple((index, consts + index) for index in range(carry))
        return [Region(body, inputs, outputs, feedback, params["length"], inputs[consts + carry :])]
    if name == "while":
        first, second = params["cond_nconsts"], params["body_nconsts"]
        carry = inputs[first + second :]
        feedback = tuple((index, second + index) for index in range(len(carry)))
        test, body = params["cond_jaxpr"], params["body_jaxpr"]
        return [
            Region(body, inputs[first : first + second] + carry, outputs, feedback),
            Region(test, inputs[:first] + carry, (None,)),
        ]
    if name == "cond":
        return [Region(branch, inputs[1:], outputs) for branch in params["branches"]]
    if name == SOLVE:
        _, _, solving, _ = _in_turn(inputs, params["const_lengths"])
        right = inputs[sum(params["const_lengths"]) :]
        return [Region(params["jaxprs"].solve, solving + right, outputs)]
    if name in STRUCTURED:
        return [Region(closed(jaxpr), inputs, outputs) for jaxpr in inner_jaxprs(eqn)]
    return []


# --- rebuilding -----------------------------------------------------------------------------


def where_rows(rows, new, old):
    """``new`` in the rows (the leading axes) that are chosen, ``old`` in the others."""
    return jnp.where(jnp.expand_dims(rows, tuple(range(rows.ndim, new.ndim))), new, old)


def rebuild(
    eqn: JaxprEqn,
    values: list[Any],
    run: Callable[..., list[Any]],
    state: Any,
    step: bool,
    *,
    choose: Callable = where_rows,
):
    """The results of a structured equation with its regions run by ``run``.

    Args:
        eqn: an equation whose primitive is one of ``STRUCTURED``.
        values: its inputs.
        run: ``run(state, region_number, step, *inputs)`` gives the outputs of a region.
        state: the arrays besides the inputs that ``run`` needs, as a pytree: functions with
            derivative rules of their own may not capture them.
        step: whether ``run`` wants to know the number of the loop's iteration, which is then
            not None. Of a scan it is the place in what is scanned.
        choose: ``choose(rows, new, old)`` gives the new value in some rows, else the old one.
    """
    name = eqn.primitive.name
    if name in CUSTOM:
        return _custom(eqn, values, run, state)
    if name == "shard_map":
        return _shard_map(eqn.params, values, run, state)
    run = partial(run, state)
    if name == SOLVE:
        return _solve(eqn.params, values, run)
    if name == "scan":
        return _scan(eqn.params, values, run, step)
    if name == "while":
        return _while(eqn.params, values, run, step, choose)
    if name == "cond":
        index, *rest = values
        count = len(eqn.params["branches"])
        branches = [lambda *inputs, n=n: run(n, None, *inputs) for n in range(count)]
        return lax.switch(index, branches, *rest)

    def called(*inputs):
        return run(0, None, *inputs)

    if name == "remat2":
        options = {"policy": eqn.params["policy"], "prevent_cse": eqn.params["prevent_cse"]}
        if eqn.params["differentiated"] and options["prevent_cse"]:
            values = lax.optimization_barrier(values)  # what is computed again is not shared
        return jax.checkpoint(called, **options)(*values)
    return called(*values)  # what was compiled on its own becomes part of its surroundings


def _scan(params: dict, values: list[Any], run: Callable, step: bool) -> list[Any]:
    consts, carry = params["num_consts"], params["num_carry"]
    fixed, initial, scanned = (
        values[:consts],
        values[consts : consts + carry],
        values[consts + carry :],
    )

    def body(state, slices):
        number, *carried = state
        place = params["length"] - 1 - number if params["reverse"] else number
        outputs = run(0, place if step else None, *fixed, *carried, *slices)
        return [number + 1, *outputs[:carry]], outputs[carry:]

    options = {"length": params["length"], "reverse": params["reverse"], "unroll": params["unroll"]}
    (_, *final), stacked = lax.scan(body, [jnp.int32(0), *initial], scanned, **options)
    return [*final, *stacked]


def _while(
    params: dict, values: list[Any], run: Callable, step: bool, choose: Callable
) -> list[Any]:
    first, second = params["cond_nconsts"], params["body_nconsts"]
    of_test, of_body, initial = (
        values[:first],
        values[first : first + second],
        values[first + second :],
    )

    def unfinished(number, carried):
        return run(1, number if step else None, *of_test, *carried)[0]

    def test(state):
        number, *carried = state
        return jnp.any(unfinished(number, carried))

    def body(state):
        number, *carried = state
        new = run(0, number if step else None, *of_body, *carried)
        if params["cond_jaxpr"].out_avals[0].shape:  # of a vmapped loop only some rows go on
            goes_on = unfinished(number, carried)
            new = [choose(goes_on, *pair) for pair in zip(new, carried, strict=True)]
        return [number + 1, *new]

    return lax.while_loop(test, body, [jnp.int32(0), *initial])[1:]


def _shard_map(params: dict, values: list[Any], run: Callable, state: Any) -> list[Any]:
    """On every device its part; the state is the same on all."""

    def part(state, values):
        return run(state, 0, None, *values)

    shared = jax.tree.map(lambda _: PartitionSpec(), state)
    return jax.shard_map(
        part,
        mesh=params["mesh"],
        in_specs=(shared, list(params["in_specs"])),
        out_specs=list(params["out_specs"]),
        axis_names=set(params[MANUAL if MANUAL in params else "manual_axes"]),
        check_vma=params["check_vma"],
    )(state, values)


def _solve(params: dict, values: list[Any], run: Callable) -> list[Any]:
    """The solver is run anew; the operator, of which derivatives are made, stays as it is."""
    lengths, jaxprs = params["const_lengths"], params["jaxprs"]
    of_operator, _, of_solver, of_transposed = _in_turn(values, lengths)

    def transposed(_, right):
        return jaxpr_as_fun(jaxprs.transpose_solve)(*of_transposed, *right)

    return lax.custom_linear_solve(
        lambda x: jaxpr_as_fun(jaxprs.matvec)(*of_operator, *x),
        values[sum(lengths) :],
        lambda _, right: run(0, None, *of_solver, *right),
        transposed if jaxprs.transpose_solve else None,
    )


def _in_turn(values: Sequence, lengths: Sequence[int]) -> list[Sequence]:
    """The first values cut into sequences of these lengths."""
    ends = list(itertools.accumulate(lengths))
    return [values[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _custom(eqn: JaxprEqn, values: list[Any], run: Callable, state: Any) -> list[Any]:
    """A function with a derivative rule of its own: the value is run anew, the rule is kept."""

    def original(*inputs):
        return bind(eqn, inputs)

    def value(state, *inputs):
        return run(state, 0, None, *inputs)

    if eqn.primitive.name == "custom_jvp_call":
        forward = jax.custom_jvp(value)

        @forward.defjvp
        def _(primals, tangents):
            return forward(*primals), jax.jvp(original, primals[1:], tangents[1:])[1]

        return forward(state, *values)

    forward = jax.custom_vjp(value)
    forward.defvjp(
        lambda state, *inputs: (forward(state, *inputs), inputs),
        lambda inputs, cotangents: (None, *jax.vjp(original, *inputs)[1](cotangents)),
    )
    return forward(state, *values)
