"""When a training run counts as diverged.

With L(t) the loss of step t, F = |L(0)| and B(t) the least loss up to t, a run diverges at the
first step t at which

- L(t) is no finite number, or
- the loss has been above ``factor`` max(B, ``floor`` F) at each of the last ``patience`` steps.

A best loss below ``floor`` times the first one counts as that much, so that a run that has learned
all there is to learn does not diverge because its loss of 1e-6 becomes one of 1e-5.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qsim.numbers.pytrees import pytree
from qsim.numbers.records import shown

__all__ = ["NEVER", "Divergence", "Watch"]

NEVER = -1


@pytree
@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a detector remembers of a run.

    Attributes:
        first, best: float32, the loss of the first step, and the least of all.
        above: int32, for how many steps the loss has been too large.
        diverged: int32, the step at which the run diverged, -1 if it has not.
    """

    first: Any
    best: Any
    above: Any
    diverged: Any

    @classmethod
    def fresh(cls, count: int) -> "Watch":
        """That of some runs that have not begun."""
        return cls(
            first=np.zeros(count, np.float32),
            best=np.full(count, np.inf, np.float32),
            above=np.zeros(count, np.int32),
            diverged=np.full(count, NEVER, np.int32),
        )


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """The rule by which runs diverge; see ``qsim.training.divergence``.

    Attributes:
        factor: how many times its best a loss must be to be too large.
        patience: for how many steps in a row it must be.
        floor: the least that a best loss counts as, in units of the first loss.

    Raises:
        ValueError: for a factor of 1 or less, a patience below 1, or a negative floor.

    >>> Divergence(factor=3.0).patience
    20
    """

    factor: float = 2.0
    patience: int = 20
    floor: float = 0.1

    def __post_init__(self):
        _require("factor", self.factor, self.factor > 1, "above 1")
        _require("patience", self.patience, self.patience >= 1, "at least 1")
        _require("floor", self.floor, self.floor >= 0, "at least 0")

    def observe(self, watch: Watch, loss: Float[Array, ""], step: Int[Array, ""]) -> Watch:
        """What is known after the loss of one more step of one run."""
        loss = loss.astype(jnp.float32)
        first = jnp.where(step == 0, loss, watch.first)
        best = jnp.minimum(watch.best, loss)
        limit = self.factor * jnp.maximum(best, self.floor * jnp.abs(first))
        above = jnp.where(loss > limit, watch.above + 1, 0)
        now = ~jnp.isfinite(loss) | (above >= self.patience)
        diverged = jnp.where(now & (watch.diverged == NEVER), step, watch.diverged)
        return Watch(first=first, best=best, above=above, diverged=diverged)


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {shown(value)}, but it must be {rule}")
