"""One training run: a step again and again, under one policy, from one seed.

    params(t+1), states(t+1), metrics(t) = step(params(t), states(t), batch(t))

with ``step`` simulated under the policy. The loop runs to a step that is an argument of the
compiled program, so that one executable serves for any number of steps at a time, and in however
many parts a run is done it has the same bytes. It ends early when the run diverges.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, UInt

from qsim.numbers.pytrees import pytree
from qsim.numbers.random_bits import Key, fold_in
from qsim.numbers.records import shown
from qsim.simulate.policy import Policy
from qsim.simulate.transform import simulate
from qsim.training.divergence import NEVER, Divergence, Watch

__all__ = ["Loop", "Progress", "Shapes", "require_scalars", "shapes_of"]

BATCHES = zlib.crc32(b"batches")  # folded into the key of a seed, for what draws batches
WANTED = "step(params, states, batch) returns (params, states, metrics)"


@pytree
@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, with a leading axis: some runs.

    Attributes:
        step: int32, steps done.
        params, states: what the next step is given.
        metrics: of all steps, ``[steps]`` each; NaN, or 0 for integers, where no step was done.
        watch: what the detector of divergence knows.
    """

    step: Any
    params: Any
    states: Any
    metrics: dict[str, Any]
    watch: Watch


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What all runs have in common.

    Attributes:
        step: the training step.
        draw: gives the batch of a step and a key, if batches are no arrays.
        divergence: when a run ends; None if it never does.
        key: of stochastic rounding.
    """

    step: Callable
    draw: Callable | None
    divergence: Divergence | None
    key: Key

    def advance(
        self,
        policy: Policy,
        seed: UInt[Array, ""],
        progress: Progress,
        stop: Int[Array, ""],
        data: Any,
    ) -> Progress:
        """A run after ``stop`` steps; ``data`` has the batches, if they are arrays."""

        def goes_on(progress: Progress):
            return (progress.step < stop) & (progress.watch.diverged == NEVER)

        def once(progress: Progress) -> Progress:
            return self._once(policy, seed, progress, data)

        return lax.while_loop(goes_on, once, progress)

    def _once(self, policy: Policy, seed, progress: Progress, data: Any) -> Progress:
        number = progress.step
        simulated = simulate(
            self.step, policy, params=0, states=1, key=self.noise(policy, seed, number)
        )
        batch = self.batch(seed, number, data)
        params, states, metrics = simulated(progress.params, progress.states, batch)
        watch = progress.watch
        if self.divergence is not None:
            watch = self.divergence.observe(watch, metrics["loss"], number)
        return Progress(
            step=number + 1,
            params=params,
            states=states,
            metrics=jax.tree.map(
                lambda all, one: all.at[number].set(jnp.asarray(one, all.dtype)),
                progress.metrics,
                metrics,
            ),
            watch=watch,
        )

    def noise(self, policy: Policy, seed, number) -> Key | None:
        """The key of a step's stochastic rounding; None for a policy that draws nothing."""
        if not policy.is_stochastic:
            return None
        return fold_in(fold_in(self.key, seed), number)

    def batch(self, seed, number, data: Any) -> Any:
        """The batch of a step."""
        if self.draw is None:
            return jax.tree.map(lambda leaf: leaf[number], data)
        key = jax.random.fold_in(jax.random.key(seed), BATCHES)
        return self.draw(number, jax.random.fold_in(key, number))


# --- shapes ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What a run is made of: trees of ``jax.ShapeDtypeStruct``."""

    params: Any
    states: Any
    metrics: dict[str, jax.ShapeDtypeStruct]

    def unbegun(self, params: Any, states: Any, count: int, steps: int) -> Progress:
        """So many runs that have not begun, with their parameters and states."""
        return Progress(
            step=np.zeros(count, np.int32),
            params=params,
            states=states,
            metrics={
                name: np.full((count, steps), _nothing(shape.dtype), shape.dtype)
                for name, shape in self.metrics.items()
            },
            watch=Watch.fresh(count),
        )


def _nothing(dtype) -> Any:
    return np.nan if jnp.issubdtype(dtype, jnp.floating) else 0


def shapes_of(init: Callable, loop: Loop, data: Any) -> Shapes:
    """The shapes of a run, after making sure that a step gives what it takes.

    Raises:
        TypeError: if it does not; the message names the leaf.
    """
    seed, number = (jax.ShapeDtypeStruct((), dtype) for dtype in (np.uint32, np.int32))
    begun = jax.eval_shape(lambda seed: init(jax.random.key(seed)), seed)
    params, states = _several(begun, 2, "init(key) returns (params, states)")
    batch = jax.eval_shape(loop.batch, seed, number, data)
    found = jax.eval_shape(loop.step, params, states, batch)
    new_params, new_states, metrics = _several(found, 3, WANTED)
    _require_same("params", params, new_params)
    _require_same("states", states, new_states)
    require_scalars("step", metrics)
    if "loss" not in metrics or not jnp.issubdtype(metrics["loss"].dtype, jnp.floating):
        raise TypeError(f"{WANTED}, and among metrics is a floating-point 'loss'")
    return Shapes(params=params, states=states, metrics=metrics)


def _several(found: Any, count: int, wanted: str) -> tuple:
    if not isinstance(found, tuple | list) or len(found) != count:
        raise TypeError(f"{wanted}, but this one returns {shown(jax.tree.structure(found))}")
    return tuple(found)


def _require_same(name: str, before: Any, after: Any) -> None:
    """A step leaves the structure, the shapes and the dtypes of what it changes as they are."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise TypeError(
            f"step changes the structure of {name}: it is given {jax.tree.structure(before)} and "
            f"returns {jax.tree.structure(after)}"
        )
    leaves, _ = jax.tree_util.tree_flatten_with_path(before)
    for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True):
        where = name + jax.tree_util.keystr(path)
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise TypeError(f"step turns {where} from {_said(old)} into {_said(new)}")
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{where} is a typed random key: keep its jax.random.key_data")


def _said(leaf: jax.ShapeDtypeStruct) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def require_scalars(name: str, metrics: Any) -> None:
    """Makes sure that what a function returns is a dict of single numbers.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(metrics, dict):
        raise TypeError(f"the metrics of {name} are a dict, not {type(metrics).__name__}")
    for key, leaf in metrics.items():
        if getattr(leaf, "shape", None) != ():
            raise TypeError(
                f"the metrics of {name} are single numbers, but {key!r} is {_said(leaf)}"
            )
