"""Jaxprs: tracing a function, reading its equations and running them.

The only module that touches ``jax.extend.core``; written for JAX 0.10.
"""

import contextlib
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jax.tree_util import GetAttrKey

__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Marks",
    "Traced",
    "Var",
    "alone",
    "bind",
    "closed",
    "inner_jaxprs",
    "jaxpr_as_fun",
    "join_arguments",
    "place",
    "scope",
    "scope_marks",
    "split_arguments",
    "trace",
    "varying_axes",
]

RECOMPUTED = "rematted_computation"  # JAX's name scope

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
    if not callable(fn):
        raise TypeError(
            f"expected a function, got {type(fn).__name__}: pass model.apply, or a loss"
        )
    arrays, rest = split_arguments(args, kwargs)

    def flat(*arrays):
        args, kwargs = join_arguments(arrays, rest)
        return fn(*args, **kwargs)

    jaxpr, shape = jax.make_jaxpr(flat, return_shape=True)(*arrays)
    keyed, _ = jax.tree_util.tree_flatten_with_path((args, kwargs))
    stems = Counter(keys[:-1] for keys, _ in keyed)
    paths = [_argument_path(keys, stems[keys[:-1]]) for keys, leaf in keyed if _is_array(leaf)]
    return Traced(jaxpr, arrays, paths, len(args), jax.tree.structure(shape))


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _argument_path(keys: tuple[Any, ...], siblings: int) -> tuple[int, str]:
    """The position of an argument (-1 for keywords) and the path of a leaf inside it.

    The attribute in which a variable of NNX keeps its array, alone, is no part of the path.
    """
    first, position, *inner = keys
    if inner and isinstance(inner[-1], GetAttrKey) and inner[-1].name == "value" and siblings == 1:
        inner = inner[:-1]
    parts = [
        str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in inner
    ]
    return (position.idx if first.idx == 0 else -1), "/".join(parts)


def scope(eqn: JaxprEqn) -> str:
    """The name scopes of an equation inside its jaxpr, without the marks of transformations.

    >>> strip_transformations("transpose(jvp(Model))/up")
    'Model/up'
    """
    return strip_transformations(str(eqn.source_info.name_stack))


class Marks(NamedTuple):
    """What the name stack of an equation says of its part in a derivative.

    Attributes:
        transposed: it is of a backward pass.
        recomputed: it is the forward pass once more, within a backward pass (``jax.checkpoint``).
    """

    transposed: bool
    recomputed: bool


def scope_marks(eqn: JaxprEqn) -> Marks:
    """The marks of an equation."""
    stack = str(eqn.source_info.name_stack)
    return Marks("transpose(" in stack, RECOMPUTED in stack)


def strip_transformations(name: str) -> str:
    """A name stack without ``jvp(...)``, ``vmap(...)`` and the like around its scopes."""
    before = None
    while name != before:
        before, name = name, re.sub(r"\b[a-z_]+\(([^()]*)\)", r"\1", name)
    return "/".join(part for part in name.split("/") if part not in ("", "checkpoint", RECOMPUTED))


def place(eqn: JaxprEqn) -> str | None:
    """Where in the user's program an equation stands, as ``file:line``, if that is known."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else []:
        if name := _users_file(frame.file_name):
            return f"{name}:{frame.line_num}"
    return None


@cache
def _users_file(path: str) -> str | None:
    """The name of a file, if it is the user's."""
    file = Path(path)
    return None if any(map(file.is_relative_to, _libraries())) else file.name


@cache
def _libraries() -> list[Path]:
    """The folders whose code is not the user's."""
    found = [importlib.util.find_spec(name) for name in ("jax", "jaxlib", "flax", "jaxtyping")]
    folders = [Path(spec.origin).parent for spec in found if spec and spec.origin]
    return [*folders, Path(__file__).parents[1], Path(contextlib.__file__).parent]


# --- equations ------------------------------------------------------------------------------


def inner_jaxprs(eqn: JaxprEqn) -> list[ClosedJaxpr | Jaxpr]:
    """Every jaxpr among an equation's parameters."""
    found = []
    for value in eqn.params.values():
        candidates = value if isinstance(value, tuple | list) else [value]
        found += [each for each in candidates if isinstance(each, ClosedJaxpr | Jaxpr)]
    return found


def closed(jaxpr: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    """A jaxpr without captured arrays as a closed one."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def bind(eqn: JaxprEqn, values: Sequence[Any], **changed: Any) -> list[Any]:
    """The results of an equation at values, some of its parameters changed."""
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*values, **{**params, **changed})
    return list(results) if eqn.primitive.multiple_results else [results]


def alone(run: Callable, values: Sequence[Any]) -> list[Any]:
    """``run(values)``, compiled apart from its surroundings.

    The order in which numbers are added up is then that of the operation on its own; fused with
    what comes before, the CPU's compiler takes another one.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(run)(list(values))


def varying_axes(value: Any) -> list[str]:
    """The axes of a mesh along which devices have different values, within a ``shard_map``."""
    kind = getattr(jax.typeof(value), "manual_axis_type", None)
    return sorted(getattr(kind, "varying", ()))
