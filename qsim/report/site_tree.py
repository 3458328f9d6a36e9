"""The operations of a program as a tree of paths, with what each branch costs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text
from rich.tree import Tree

from qsim.simulate.primitives import ROUNDED
from qsim.simulate.sites import Site

__all__ = ["site_tree"]


@dataclass
class _Branch:
    """A part of a path: what is below it, and the operations that stand there."""

    flops: int = 0
    bytes: int = 0
    below: dict[str, "_Branch"] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)


def site_tree(name: str, found: Sequence[Site]) -> Tree:
    """A tree of sites; operations of the same kind on the same path are added up."""
    root = _Branch()
    for site in found:
        branch = root
        _add(branch, site)
        for part in filter(None, site.path.split("/")):
            branch = branch.below.setdefault(part, _Branch())
            _add(branch, site)
        branch.sites.append(site)
    tree = Tree(_heading(f"{name}, {len(found)} sites", root))
    _grow(tree, root)
    return tree


def _add(branch: _Branch, site: Site) -> None:
    branch.flops += site.flops
    branch.bytes += site.bytes


def _grow(tree: Tree, branch: _Branch) -> None:
    for part, below in branch.below.items():
        _grow(tree.add(_heading(part, below)), below)
    counts = Counter(map(_line, branch.sites))
    order = {line: ROUNDED.index(site.kind) for site in branch.sites for line in [_line(site)]}
    for line in sorted(counts, key=lambda line: order[line]):
        here = [site for site in branch.sites if _line(site) == line]
        times = f"{counts[line]} x " if counts[line] > 1 else ""
        tree.add(Text(f"{times}{line}  {_cost(here)}", style="dim"))


def _line(site: Site) -> str:
    """An operation by its primitive, direction and operands."""
    operands = " · ".join(
        f"{role} {_shape(shape)}"
        for role, shape in zip(site.roles, site.shapes, strict=False)
        if site.kind == "contraction"
    )
    direction = "" if site.direction == "forward" else f" {site.direction}"
    return f"{site.primitive}{direction}{': ' if operands else ''}{operands}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _cost(found: Sequence[Site]) -> str:
    return _costs(sum(site.flops for site in found), sum(site.bytes for site in found))


def _heading(name: str, branch: _Branch) -> Text:
    return Text.assemble((name, "bold"), f"  {_costs(branch.flops, branch.bytes)}")


def _costs(flops: int, size: int) -> str:
    """Operations and bytes in units that people read.

    >>> _costs(52_428_800, 1_310_720)
    '52.4 Mflop, 1.31 MB'
    """
    return f"{_unit(flops)}flop, {_unit(size)}B"


def _unit(number: int) -> str:
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {letter}"
    return f"{number} "
