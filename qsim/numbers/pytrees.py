"""Dataclasses that are pytrees, told apart by their types.

``jax.tree_util.register_dataclass`` is not used: to jaxlib (0.10.2) the structures of all its
classes with as many leaves and equal static fields are equal, whatever the class. Their hashes
differ, so that most lookups in a cache go right by chance, but now and then ``jit`` runs for one
class what it compiled for another.
"""

from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, TypeVar

from jax.tree_util import GetAttrKey, register_pytree_with_keys

__all__ = ["pytree", "static"]

Record = TypeVar("Record")


def static(**default: Any) -> Any:
    """A field of a dataclass that is a pytree, which stays in Python and is no leaf."""
    return field(metadata={"static": True}, **default)


def pytree(cls: type[Record]) -> type[Record]:
    """A dataclass, registered as a pytree whose leaves are its fields but those of ``static``.

    >>> from dataclasses import dataclass
    >>> import jax
    >>> @pytree
    ... @dataclass
    ... class Scaled:
    ...     values: list
    ...     exponent: int = static(default=0)
    >>> jax.tree.map(lambda x: 2 * x, Scaled([1, 2], exponent=3))
    Scaled(values=[2, 4], exponent=3)
    """
    kept = [item.name for item in fields(cls) if item.metadata.get("static")]  # pyright: ignore
    names = [item.name for item in fields(cls) if item.name not in kept]  # pyright: ignore

    def flatten(record: Record) -> tuple[list, tuple]:
        statics = tuple(getattr(record, name) for name in kept)
        return [getattr(record, name) for name in names], statics

    def flatten_with_keys(record: Record) -> tuple[list, tuple]:
        leaves, statics = flatten(record)
        return list(zip(map(GetAttrKey, names), leaves, strict=True)), statics

    def unflatten(statics: tuple, leaves: Iterable) -> Record:
        return cls(**dict(zip([*names, *kept], [*leaves, *statics], strict=True)))

    register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
