"""Names of the leaves of trees, and rules that address them.

The name of a leaf is its path, such as ``0/mu/dense/kernel``. A rule is a regular expression that
is the whole of a name, or of one of its parts, such as ``mu``; of several rules the first counts.
"""

import re
from collections.abc import Iterable
from typing import Any

import jax
from jaxtyping import PyTree

from qsim.numbers.modes import suggest
from qsim.numbers.records import shown

__all__ = ["check_rule", "first_match", "named", "require_all_match"]


def named(tree: PyTree) -> list[tuple[str, Any]]:
    """The leaves of a tree with their names.

    >>> named({"dense": {"kernel": 1}, "bias": 2})
    [('bias', 2), ('dense/kernel', 1)]
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    name = jax.tree_util.keystr
    return [(name(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def check_rule(rule: str) -> str:
    """``rule`` itself, if it is a regular expression.

    Raises:
        ValueError: if it is none.
    """
    try:
        re.compile(rule)
    except re.error as error:
        raise ValueError(f"{shown(rule)} is no regular expression: {error}") from None
    return rule


def first_match(rules: Iterable[str], name: str) -> str | None:
    """The first rule that addresses a name; None if none does.

    >>> first_match(["nu", "0/.*"], "0/mu/kernel")
    '0/.*'
    """
    return next((rule for rule in rules if _matches(rule, name)), None)


def require_all_match(rules: Iterable[str], names: Iterable[str]) -> None:
    """Checks that every rule addresses one of the names; ``.*`` may address nothing.

    Raises:
        ValueError: if one does not.
    """
    names = list(names)
    for rule in rules:
        if rule != ".*" and not any(_matches(rule, name) for name in names):
            parts = sorted({part for name in names for part in _parts(name)})
            raise ValueError(f"no path matches {shown(rule)}; {suggest(rule, parts)}")


def _matches(rule: str, name: str) -> bool:
    return any(re.fullmatch(rule, part) for part in _parts(name))


def _parts(name: str) -> list[str]:
    return [name, *name.split("/")]
