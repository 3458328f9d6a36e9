"""Looking at the results of operations while a program is evaluated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from qsim.scales.scaled import ScaledArray
from qsim.simulate.primitives import ROUNDED
from qsim.simulate.program import Node

__all__ = ["Watch"]


@dataclass(frozen=True)
class Watch:
    """A function of scaled arrays, and what it gave for the first result of every operation.

    Attributes:
        look: the function.
        seen: what it gave, by the site's name.
        within: the iterations of scans around.
    """

    look: Callable[[ScaledArray], Any]
    seen: dict[str, Any] = field(default_factory=dict)
    within: str = ""

    def see(self, node: Node, results: list) -> None:
        """Looks at the results of an operation."""
        if node.kind not in ROUNDED or not results or not isinstance(results[0], ScaledArray):
            return
        name = f"{node.path}/{node.name}" if node.path else node.name
        number = f" {node.number}" if node.number else ""
        self.seen[name + number + self.within] = self.look(results[0])

    def iteration(self, number: int) -> "Watch":
        """The same in an iteration of a scan."""
        return Watch(self.look, self.seen, f"{self.within}[{number}]")
