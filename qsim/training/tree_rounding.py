"""The rounding of trees: every array of floats to the format that a rule gives to its path.

Rules are those of ``qsim.training.paths``: of several that address a path the first counts.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Grid
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import Key, check_key, fold_in
from qsim.numbers.specs import format_of
from qsim.simulate.quantizer import Quantizer
from qsim.training.expansion import Expansion
from qsim.training.paths import check_rule, first_match, named, require_all_match
from qsim.training.scaled_rounding import as_quantizer

__all__ = ["Target", "TreeRounding", "by_path"]

Target = str | Format | Grid | Quantizer | Expansion  # where numbers are rounded to, and how


def by_path(formats: Target | Mapping[str, Target]) -> Mapping[str, Target]:
    """Formats by path: those given, or one for all.

    >>> by_path("e4m3")
    {'.*': 'e4m3'}
    """
    return formats if isinstance(formats, Mapping) else {".*": formats}


class TreeRounding:
    """The roundings of the leaves of trees, by their paths.

    >>> rounded = TreeRounding({"nu": "e4m3", "mu": "none"}, "ties_to_even", "none", None)
    >>> third = jnp.float32(1 / 3)
    >>> {name: x.tolist() for name, x in rounded({"mu": third, "nu": third}, 0).items()}
    {'mu': 0.3333333432674408, 'nu': 0.34375}
    """

    def __init__(
        self, formats: Mapping[str, Target], rounding: str, scale: str, key: Key | None
    ) -> None:
        """The roundings of formats, and of grids, by rule.

        Args:
            formats: by rule; ``"none"``, and arrays that no rule addresses, are left alone.
            rounding, scale: of formats and grids; other targets have their own.
            key: the random key that stochastic rounding needs.

        Raises:
            ValueError: for a rule that is no regular expression, unknown formats and modes, a
                missing or superfluous key.
        """
        self.formats, self.rounding, self.scale, self.key = formats, rounding, scale, key
        modes = [self._mode_of(rule, target) for rule, target in formats.items()]
        drawn = [mode for mode in modes if Rounding.parse(mode).is_stochastic]
        check_key(key, drawn[0] if drawn else "ties_to_even")

    def _mode_of(self, rule: str, target: Target) -> str:
        """The rounding mode of a rule, after a look at what it says."""
        check_rule(rule)
        if isinstance(target, Quantizer | Expansion):
            return target.rounding
        if target == "none":
            return "ties_to_even"
        if not isinstance(target, Grid):
            format_of(target)
        return self.rounding

    def __call__(self, tree: PyTree, step: Any) -> PyTree:
        """The tree, rounded after a step; random bits depend on it and on the leaf.

        Raises:
            TypeError: for arrays to be rounded that are neither float32 nor float64.
        """
        leaves = enumerate(named(tree))
        rounded = [self._rounded(name, leaf, step, number) for number, (name, leaf) in leaves]
        return jax.tree.unflatten(jax.tree.structure(tree), rounded)

    def _rounded(self, name: str, leaf: Any, step: Any, number: int) -> Any:
        if not _is_float(leaf):
            return leaf
        rule = first_match(self.formats, name)
        target = "none" if rule is None else self.formats[rule]
        carrier = jnp.result_type(leaf).name
        if carrier not in CARRIERS and target != "none":
            raise TypeError(
                f"{name} is {carrier}: keep it in float32, its format says how it is stored"
            )
        to = self._made(target, carrier)
        if to is None:
            return leaf
        return to(leaf, fold_in(fold_in(self.key, step), number) if to.is_stochastic else None)

    def _made(self, target: Target, carrier: str) -> Quantizer | Expansion | None:
        if isinstance(target, Expansion) or target == "none":
            return target if isinstance(target, Expansion) else None
        return as_quantizer(target, carrier, rounding=self.rounding, scale=self.scale)

    def require_all_match(self, tree: PyTree) -> None:
        """Checks that every rule addresses an array of floats.

        Raises:
            ValueError: if one does not.
        """
        require_all_match(self.formats, [name for name, leaf in named(tree) if _is_float(leaf)])


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
