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

from qsim.numbers.modes import suggest

__all__ = ["Subject", "load"]

SCORES = ("bits_per_byte", "top1")


@runtime_checkable
class Subject(Protocol):
    """What a subject has.

    Attributes:
        name: one word, for tables and file names.
        apply: ``apply(variables, inputs) -> logits [..., classes]``, pure, for one batch.
        variables: a pytree of float32 arrays.
        inputs: array ``[batches, batch, ...]``.
        labels: integers ``[batches, batch, ...]`` of the logits' leading shape.
        score: ``"bits_per_byte"`` or ``"top1"``: what people look at.
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
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute:
        raise ValueError(
            f"subject {name!r} has no attribute part: write package.module:attribute, for example "
            "models.byte_lm:subject"
        )
    if not re.fullmatch(r"[A-Za-z_][\w.]*", module_name) or not attribute.isidentifier():
        raise ValueError(f"subject {name!r} is not of the form package.module:attribute")
    module = _import(module_name)
    if not hasattr(module, attribute):
        public = [word for word in dir(module) if not word.startswith("_")]
        raise ValueError(f"{module_name} has no {attribute!r}; {suggest(attribute, public)}")
    found = getattr(module, attribute)
    if callable(found) and not hasattr(found, "apply"):
        try:
            found = found()
        except FileNotFoundError:
            raise  # says itself what is missing
        except Exception as error:
            raise ValueError(f"{name}() fails: {_named(error)}") from error
    return _checked(found, name)


def _import(name: str):
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing here shadows an installed module
    try:
        return importlib.import_module(name)
    except Exception as error:
        hint = "; the bundled models are in a checkout" if name.startswith("models.") else ""
        raise ValueError(f"cannot import {name}: {_named(error)}{hint}") from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _checked(found: Any, name: str) -> Subject:
    missing = [word for word in Subject.__annotations__ if not hasattr(found, word)]
    if missing:
        raise ValueError(f"{name} is no subject: it lacks {', '.join(missing)}")
    if found.score not in SCORES:
        raise ValueError(f"{name} has the score {found.score!r}; it must be one of {SCORES}")
    for word in ("inputs", "labels"):
        if not hasattr(getattr(found, word), "dtype"):
            raise ValueError(f"{name} has {word} that are no array")
    inputs, labels = jnp.shape(found.inputs), jnp.shape(found.labels)
    if not inputs or not labels or inputs[0] != labels[0] or 0 in labels:
        raise ValueError(
            f"{name} has inputs of shape {inputs} and labels of shape {labels}; both need the same "
            "number of batches first, and at least one"
        )
    batch = jax.ShapeDtypeStruct(inputs[1:], found.inputs.dtype)
    try:
        logits = jax.eval_shape(found.apply, found.variables, batch)
    except Exception as error:
        raise ValueError(f"{name} cannot be applied to a batch: {_named(error)}") from error
    if not hasattr(logits, "shape") or not jnp.issubdtype(logits.dtype, jnp.floating):
        kind = getattr(logits, "dtype", type(logits).__name__)
        raise ValueError(f"{name} gives {kind} for a batch, not one array of floating-point logits")
    if logits.shape[:-1] != labels[1:]:
        raise ValueError(
            f"{name} gives logits of shape {logits.shape} for a batch, and the labels of a batch "
            f"have shape {labels[1:]}; the logits need those axes and one of classes"
        )
    low, high = int(jnp.min(found.labels)), int(jnp.max(found.labels))
    if low < 0 or high >= logits.shape[-1]:
        raise ValueError(
            f"{name} has labels from {low} to {high}, and its logits have {logits.shape[-1]} "
            "classes: labels count from 0"
        )
    return found
