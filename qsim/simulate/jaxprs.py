"""Jaxprs: tracing a function, and the structure of equations that hold other jaxprs.

The only module that knows the layout of jaxprs and of the primitives' parameters; written for
JAX 0.10. Everything else in ``qsim.simulate`` sees equations, values and ``Region`` records.
"""

import contextlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

__all__ = [
    "STRUCTURED",
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Region",
    "Traced",
    "Var",
    "bind",
    "inner_jaxprs",
    "join_arguments",
    "place",
    "rebuild",
    "regions",
    "scope",
    "split_arguments",
    "trace",
]

# --- tracing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traced:
    """A function traced at some arguments.

    Attributes:
        jaxpr: the closed jaxpr over the array arguments.
        arrays: the array arguments, flat.
        paths: for each of them its position and its path, such as ``(0, "params/up/kernel")``;
            the position is -1 for keyword arguments.
        positional: the number of positional arguments.
        out_tree: the structure of the result.
    """

    jaxpr: ClosedJaxpr
    arrays: list[Any]
    paths: list[tuple[int, str]]
    positional: int
    out_tree: Any


class Rest(NamedTuple):
    """What is left of arguments without their arrays."""

    tree: Any
    dynamic: tuple[bool, ...]
    others: tuple[Any, ...]

    def key(self) -> tuple:
        """What tells arguments apart: 1, 1.0 and True, and the two zeros, are not the same."""
        exactly = tuple((type(o), repr(o) if isinstance(o, float) else o) for o in self.others)
        return self.tree, self.dynamic, exactly


def split_arguments(args: tuple, kwargs: dict) -> tuple[list[Any], Rest]:
    """The arrays among arguments, flat, and the rest: Python scalars, strings, None, structure.

    What is no array stays static; a new Python number means a new trace.
    """
    leaves, tree = jax.tree.flatten((args, kwargs))
    dynamic = tuple(map(_is_array, leaves))
    arrays = [leaf for leaf, is_array in zip(leaves, dynamic, strict=True) if is_array]
    others = tuple(leaf for leaf, is_array in zip(leaves, dynamic, strict=True) if not is_array)
    return arrays, Rest(tree, dynamic, others)


def join_arguments(arrays: Sequence[Any], rest: Rest) -> tuple[tuple, dict]:
    """The arguments that ``split_arguments`` took apart, with other arrays in them."""
    of_arrays, of_others = iter(arrays), iter(rest.others)
    leaves = [next(of_arrays if is_array else of_others) for is_array in rest.dynamic]
    return jax.tree.unflatten(rest.tree, leaves)


def trace(fn: Callable, args: tuple, kwargs: dict) -> Traced:
    """``fn`` traced at its array arguments; Python scalars, strings and None stay as they are."""
    arrays, rest = split_arguments(args, kwargs)

    def flat(*arrays):
        args, kwargs = join_arguments(arrays, rest)
        return fn(*args, **kwargs)

    jaxpr, shape = jax.make_jaxpr(flat, return_shape=True)(*arrays)
    keyed, _ = jax.tree_util.tree_flatten_with_path((args, kwargs))
    paths = [_argument_path(keys) for keys, leaf in keyed if _is_array(leaf)]
    return Traced(jaxpr, arrays, paths, len(args), jax.tree.structure(shape))


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _argument_path(keys: Sequence[Any]) -> tuple[int, str]:
    """The position of an argument (-1 for keywords) and the path of a leaf inside it."""
    first, position, *inner = keys
    parts = [
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in inner
    ]
    named = [part for part in parts if part not in ("value", ".value")]
    return (position.idx if first.idx == 0 else -1), "/".join(named)


def scope(eqn: JaxprEqn) -> str:
    """The name scopes of an equation inside its jaxpr, without the marks of transformations.

    >>> strip_transformations("transpose(jvp(Model))/up")
    'Model/up'
    """
    return strip_transformations(str(eqn.source_info.name_stack))


def strip_transformations(name: str) -> str:
    """A name stack without ``jvp(...)``, ``vmap(...)`` and the like around its scopes."""
    before = None
    while name != before:
        before, name = name, re.sub(r"\b[a-z_]+\(([^()]*)\)", r"\1", name)
    return "/".join(part for part in name.split("/") if part)


def place(eqn: JaxprEqn) -> str:
    """Where in the user's program an equation stands, as ``file:line``, for messages."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else []:
        path = Path(frame.file_name)
        if not any(path.is_relative_to(folder) for folder in _libraries()):
            return f"{path.name}:{frame.line_num}"
    return "an unknown place"


@cache
def _libraries() -> list[Path]:
    """The folders whose code is not the user's."""
    found = [importlib.util.find_spec(name) for name in ("jax", "jaxlib", "flax", "jaxtyping")]
    folders = [Path(spec.origin).parent for spec in found if spec and spec.origin]
    return [*folders, Path(__file__).parents[1], Path(contextlib.__file__).parent]


# --- the structure of equations that hold jaxprs --------------------------------------------


@dataclass(frozen=True)
class Region:
    """A jaxpr inside an equation, and how values flow in and out of it.

    Attributes:
        jaxpr: the inner jaxpr.
        inputs: for each of its inputs, the index of the equation's input it starts from.
        outputs: for each of its outputs, the index of the equation's output, or None.
        feedback: pairs (output, input) of the inner jaxpr: what loops carry.
        repeats: how often one run of the equation runs it (1 where that is unknown).
    """

    jaxpr: ClosedJaxpr
    inputs: tuple[int, ...]
    outputs: tuple[int | None, ...]
    feedback: tuple[tuple[int, int], ...] = ()
    repeats: int = 1


CALLS = ("jit", "closed_call", "remat2")
CUSTOM = ("custom_jvp_call", "custom_vjp_call")
STRUCTURED = (*CALLS, *CUSTOM, "scan", "while", "cond")


def regions(eqn: JaxprEqn) -> list[Region]:
    """The jaxprs inside an equation; none for ordinary operations.

    The flow through a primitive that is not known here is taken to be that of a call, if the
    numbers of inputs and outputs fit.
    """
    name, params = eqn.primitive.name, eqn.params
    inputs, outputs = tuple(range(len(eqn.invars))), tuple(range(len(eqn.outvars)))
    if name == "scan":
        body, consts, carry = params["jaxpr"], params["num_consts"], params["num_carry"]
        feedback = tuple((index, consts + index) for index in range(carry))
        return [Region(body, inputs, outputs, feedback, params["length"])]
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
    return [
        Region(_closed(jaxpr), inputs, outputs)
        for jaxpr in inner_jaxprs(eqn)
        if len(_closed(jaxpr).jaxpr.invars) == len(inputs)
        and len(_closed(jaxpr).jaxpr.outvars) == len(outputs)
    ]


def inner_jaxprs(eqn: JaxprEqn) -> list[ClosedJaxpr | Jaxpr]:
    """Every jaxpr among an equation's parameters."""
    found = []
    for value in eqn.params.values():
        candidates = value if isinstance(value, tuple | list) else [value]
        found += [each for each in candidates if isinstance(each, ClosedJaxpr | Jaxpr)]
    return found


def _closed(jaxpr: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


# --- running equations ----------------------------------------------------------------------


def bind(eqn: JaxprEqn, values: Sequence[Any], **changed: Any) -> list[Any]:
    """The results of an equation at values, some of its parameters changed."""
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*values, **{**params, **changed})
    return list(results) if eqn.primitive.multiple_results else [results]


def rebuild(
    eqn: JaxprEqn, values: list[Any], run: Callable[..., list[Any]], state: Any, step: bool
):
    """The results of a structured equation with its regions run by ``run``.

    Args:
        eqn: an equation whose primitive is one of ``STRUCTURED``.
        values: its inputs.
        run: ``run(state, region_number, step, *inputs)`` gives the outputs of a region.
        state: the arrays besides the inputs that ``run`` needs, as a pytree: functions with
            derivative rules of their own may not capture them.
        step: whether ``run`` wants to know the number of the loop's iteration, which is then
            carried along; otherwise it gets None.
    """
    name = eqn.primitive.name
    if name in CUSTOM:
        return _custom(eqn, values, run, state)
    run = partial(run, state)
    if name == "scan":
        return _scan(eqn.params, values, run, step)
    if name == "while":
        return _while(eqn.params, values, run, step)
    if name == "cond":
        index, *rest = values
        count = len(eqn.params["branches"])
        branches = [lambda *inputs, n=n: run(n, None, *inputs) for n in range(count)]
        return lax.switch(index, branches, *rest)

    def called(*inputs):
        return run(0, None, *inputs)

    if name == "remat2":
        options = {"policy": eqn.params["policy"], "prevent_cse": eqn.params["prevent_cse"]}
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
        outputs = run(0, number if step else None, *fixed, *carried, *slices)
        return [number + 1, *outputs[:carry]], outputs[carry:]

    options = {"length": params["length"], "reverse": params["reverse"], "unroll": params["unroll"]}
    (_, *final), stacked = lax.scan(body, [jnp.int32(0), *initial], scanned, **options)
    return [*final, *stacked]


def _while(params: dict, values: list[Any], run: Callable, step: bool) -> list[Any]:
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
            new = [_where_rows(goes_on, *pair) for pair in zip(new, carried, strict=True)]
        return [number + 1, *new]

    return lax.while_loop(test, body, [jnp.int32(0), *initial])[1:]


def _where_rows(rows, new, old):
    """``new`` in the rows (the leading axes) that are chosen, ``old`` in the others."""
    return jnp.where(jnp.expand_dims(rows, tuple(range(rows.ndim, new.ndim))), new, old)


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
