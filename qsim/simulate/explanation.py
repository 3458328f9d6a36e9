"""Which rule of a policy counts where, as a table to read."""

from collections import Counter
from dataclasses import dataclass

__all__ = ["Explanation", "Place"]


@dataclass(frozen=True)
class Place:
    """Something that can be rounded, and the rule that counts for it.

    Attributes:
        path, primitive, direction: of the operation; of an argument the primitive is ``argument``.
        what: ``result``, or the role of an operand, or ``stored`` and the role.
        rule: the number of the rule in the policy; None if there is none.
    """

    path: str
    primitive: str
    direction: str
    what: str
    rule: int | None


@dataclass(frozen=True)
class Explanation:
    """What a policy does to a program.

    Attributes:
        rules: the rules of the policy, as text.
        places: all that it could address, in program order.
    """

    rules: tuple[str, ...]
    places: tuple[Place, ...]

    @property
    def unused(self) -> tuple[int, ...]:
        """The rules that count nowhere, by their numbers."""
        used = {place.rule for place in self.places}
        return tuple(n for n in range(len(self.rules)) if n not in used)

    def __str__(self) -> str:
        lines = []
        for number, rule in enumerate(self.rules):
            ruled = [place for place in self.places if place.rule == number]
            lines.append(f"{number}. {rule}: {_places(len(ruled))}")
            shown = Counter(
                f"   {place.path or '-'}  {place.primitive} {place.direction}, {place.what}"
                for place in ruled
            )
            lines += [line + f"  x {count}" * (count > 1) for line, count in shown.items()]
        left = sum(place.rule is None for place in self.places)
        return "\n".join([*lines, f"no rule: {_places(left)}"])


def _places(count: int) -> str:
    return f"{count} place" + "s" * (count != 1)
