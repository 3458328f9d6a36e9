"""What one evaluation of a study found.

An evaluation is a point on a study's axes: a format, how it rounds, what is rounded, the scale, the
accumulator, the seed. Its *key* is the text of that point, which tells evaluations apart for good.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["AXES", "STATES", "Result", "key_of", "on_the_map"]

# of evaluations, in the order of tables; an evaluation has those that its study names
AXES = (
    *("format", "policy", "target", "path", "rounding", "overflow", "scale", "accumulator"),
    "seed",
)
STATES = {
    "done": "every measure is a finite number",
    "diverged": "some measure is infinite or no number",
    "failed": "there are no measures: the program could not be made, or did not run",
}
Coordinate = str | int
WITHOUT = {"exponent_bits": None, "mantissa_bits": None}


def key_of(point: Mapping[str, Coordinate]) -> str:
    """The key of a point.

    >>> key_of({"seed": 0, "format": "e4m3"})
    '{"format":"e4m3","seed":0}'
    """
    ordered = {axis: point[axis] for axis in AXES if axis in point}
    assert len(ordered) == len(point), point
    return json.dumps(ordered, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What an evaluation found.

    Attributes:
        point: its coordinates by axis, see ``AXES``.
        facts: of the format: ``bits`` of a value, with its share of a block's scale, and of a
            float ``exponent_bits`` and ``mantissa_bits``, None for all others.
        measures: by name; empty if it failed.
        seconds: wall time, compilation not counted.
        batch: how many evaluations ran side by side under ``vmap``.
        error: why it failed, in a line; empty if it did not.
        examples: float32 ``[examples]`` by name, the sums of a measure over each example of the
            data, for comparisons example by example; empty where they are not kept.
    """

    point: Mapping[str, Coordinate]
    facts: Mapping[str, int | float | None]
    measures: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    batch: int = 1
    error: str = ""
    examples: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of its point."""
        return key_of(self.point)

    @property
    def spec(self) -> str:
        """The format, as ``qsim.parse`` reads it; without one the policy."""
        return str(self.point.get("format", self.point.get("policy", "")))

    @property
    def state(self) -> str:
        """A key of ``STATES``.

        >>> point, facts = {"format": "e4m3"}, {"bits": 8}
        >>> Result(point=point, facts=facts, measures={"loss": float("nan")}).state
        'diverged'
        """
        if self.error:
            return "failed"
        return "done" if all(map(math.isfinite, self.measures.values())) else "diverged"


def on_the_map(results: Sequence[Result]) -> tuple[list[Result], list[Result]]:
    """Those of floats that exponent and mantissa bits alone describe, and all others."""
    plain = [
        result.spec == "e{exponent_bits}m{mantissa_bits}".format(**WITHOUT | dict(result.facts))
        for result in results
    ]
    floats = [result for result, is_plain in zip(results, plain, strict=True) if is_plain]
    return floats, [result for result, is_plain in zip(results, plain, strict=True) if not is_plain]
