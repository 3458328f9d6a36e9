"""Subjects: models with weights and labelled data, named ``package.module:attribute``.

Any object with the attributes of ``Subject`` is one; the attribute may also be a function without
arguments that returns it, so that weights are read only when they are needed.
"""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from qsim.numbers.modes import suggest
from qsim.sweeps.scores import SCORES

__all__ = ["Subject", "first_batch", "found_at", "load"]


@runtime_checkable
class Subject(Protocol):
    """What a subject has.

    Attributes:
        name: one word, for tables and file names.
        apply: ``apply(variables, inputs) -> logits [..., classes]``, pure, for one batch; with the
            score ``"similarity"``, embeddings ``[batch, width]``.
        variables: a pytree of float32 arrays.
        inputs: an array ``[batches, batch, ...]``, or a pytree of such arrays.
        labels: integers ``[batches, batch, ...]`` of the logits' leading shape, -1 where an answer
            is not scored; with ``"similarity"``, ratings ``[batches, batch, batch]`` of pairs of a
            batch, NaN where a pair is not rated.
        score: a key of ``scores.SCORES``.
    """

    name: str
    apply: Callable[..., Any]
    variables: Any
    inputs: Any
    labels: Any
    score: str


def load(name: str) -> Subject:
    """The subject named ``package.module:attribute``, found as Python finds modules or from here.

    Raises:
        ValueError: if the name has another form, names nothing, or names no subject; the message
            says which.

    >>> load("models.byte_lm")
    Traceback (most recent call last):
    ValueError: subject 'models.byte_lm' has no attribute part: write package.module:attribute, \
for example models.byte_lm:subject
    """
    return _checked(found_at(name, "subject", "models.byte_lm:subject", "apply"), name)


def found_at(name: str, kind: str, example: str, attribute_of: str) -> Any:
    """What ``package.module:attribute`` names, or what that gives if it is a function.

    Args:
        name: the name.
        kind, example: for messages.
        attribute_of: an attribute by which a callable thing is known to be no such function.

    Raises:
        ValueError: if the name has another form or names nothing, or if the function fails.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute:
        raise ValueError(
            f"{kind} {name!r} has no attribute part: write package.module:attribute, for example "
            f"{example}"
        )
    if not re.fullmatch(r"[A-Za-z_][\w.]*", module_name) or not attribute.isidentifier():
        raise ValueError(f"{kind} {name!r} is not of the form package.module:attribute")
    module = _import(module_name)
    if not hasattr(module, attribute):
        public = [word for word in dir(module) if not word.startswith("_")]
        raise ValueError(f"{module_name} has no {attribute!r}; {suggest(attribute, public)}")
    found = getattr(module, attribute)
    if not callable(found) or hasattr(found, attribute_of):
        return found
    try:
        return found()
    except FileNotFoundError:
        raise  # says itself what is missing
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name}() fails: {_named(error)}") from error


def _import(name: str):
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing here shadows an installed module
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        hint = "; the bundled models are in a checkout" if name.startswith("models.") else ""
        raise ValueError(f"cannot import {name}: {_named(error)}{hint}") from error


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def first_batch(subject: Subject) -> Any:
    """The first batch of a subject's inputs: what ``apply`` takes."""
    return jax.tree.map(lambda leaf: leaf[0], subject.inputs)


def _checked(found: Any, name: str) -> Subject:
    missing = [word for word in Subject.__annotations__ if not hasattr(found, word)]
    if missing:
        raise ValueError(f"{name} is no subject: it lacks {', '.join(missing)}")
    if found.score not in SCORES:
        raise ValueError(f"{name} has the score {found.score!r}; it must be one of {[*SCORES]}")
    _check_batches(found, name)
    outputs = _outputs(found, name)
    fault = SCORES[found.score].fault(outputs, np.asarray(found.labels))
    if fault is not None:
        raise ValueError(f"{name} {fault}")
    return found


def _check_batches(found: Any, name: str) -> None:
    """Inputs and labels are arrays with the same number of batches."""
    inputs = jax.tree.leaves(found.inputs)
    kinds = [type(leaf).__name__ for leaf in inputs if not hasattr(leaf, "dtype")]
    if kinds or not inputs:
        raise ValueError(
            f"{name} has inputs that are no array but {', '.join(kinds) or 'empty'}; give an array "
            "[batches, batch, ...] or a tree of such arrays"
        )
    if not hasattr(found.labels, "dtype"):
        kind = type(found.labels).__name__
        raise ValueError(
            f"{name} has labels that are no array but {kind}; give an array [batches, batch, ...]"
        )
    shapes, labels = [jnp.shape(leaf) for leaf in inputs], jnp.shape(found.labels)
    if not labels or 0 in labels or any(shape[:1] != labels[:1] for shape in shapes):
        raise ValueError(
            f"{name} has inputs of shape {', '.join(map(str, shapes))} and labels of shape "
            f"{labels}; all need the same number of batches first, and at least one"
        )


def _outputs(found: Any, name: str) -> tuple[int, ...]:
    """The shape of the model's outputs for one batch, which must be one array of floats."""
    shape_of = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)  # noqa: E731
    try:
        outputs = jax.eval_shape(found.apply, found.variables, jax.tree.map(shape_of, found.inputs))
    except Exception as error:
        raise ValueError(f"{name} cannot be applied to a batch: {_named(error)}") from error
    if not hasattr(outputs, "shape") or not jnp.issubdtype(outputs.dtype, jnp.floating):
        kind = getattr(outputs, "dtype", type(outputs).__name__)
        raise ValueError(
            f"{name} gives {kind} for a batch, not one array of floating-point logits or embeddings"
        )
    return outputs.shape
