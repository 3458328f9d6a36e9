"""Many trainings at once: a stack of policies times seeds through one compiled training loop.

A *run* is one policy with one seed. Policies of one structure are stacked as in ``qsim.sweep``,
and each of them is trained from every seed. All runs of a structure go through one executable,
shared out over the devices there are; on each device one run after the other, or ``batch`` at a
time under ``vmap``. The executable is called again and again, each time for ``every`` steps, and in
between there are progress and checkpoints.
"""

import hashlib
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qsim.numbers.random_bits import Key, counter_key
from qsim.numbers.records import shown
from qsim.simulate.policy import as_policy
from qsim.simulate.transform import simulate
from qsim.sweeps.digest import digest
from qsim.sweeps.plan import (
    AXIS,
    Alike,
    grouped,
    layout,
    mapped,
    pack,
    require_positive,
    shared_out,
    unpacker,
)
from qsim.training.checkpoint import Checkpoint
from qsim.training.divergence import Divergence
from qsim.training.loop import Loop, Progress, Shapes, require_scalars, shapes_of

__all__ = ["Runs", "train_sweep"]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Training runs that are done, in arrays of NumPy whose leading axes are policies and seeds.

    Attributes:
        policies: the text of every policy.
        seeds: the seeds.
        metrics: by name ``[policies, seeds, steps]``: what the step returned. After the step at
            which a run diverged it is NaN, or 0 for integers.
        diverged: int32 ``[policies, seeds]``, the step at which the run diverged, -1 if it did not.
        params, states: trees of arrays ``[policies, seeds, ...]``, as the last step left them.
        evaluated: by name ``[policies, seeds]``, what ``evaluate`` returned; empty without.
    """

    policies: tuple[str, ...]
    seeds: tuple[int, ...]
    metrics: dict[str, np.ndarray]
    diverged: np.ndarray
    params: Any
    states: Any
    evaluated: dict[str, np.ndarray]

    @property
    def loss(self) -> np.ndarray:
        """The loss, ``[policies, seeds, steps]``."""
        return self.metrics["loss"]


def train_sweep(
    init: Callable,
    step: Callable,
    policies: Sequence[Any],
    *,
    batches: Any,
    seeds: Sequence[int] = (0,),
    steps: int | None = None,
    evaluate: Callable | None = None,
    divergence: Divergence | None = Divergence(),
    every: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    checkpoint: Path | str | None = None,
    key: Key | None = None,
    batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Runs:
    """Trains from every seed under every policy, each structure of policies in one executable.

    Args:
        init: ``init(key)`` returns ``(params, states)``, any trees: what rules call weights, and
            what they call states, such as that of an optimizer. Called under ``jit``, once for
            each seed, with ``jax.random.key(seed)``.
        step: ``step(params, states, batch)`` returns ``(params, states, metrics)``, where metrics
            is a dict of single numbers with ``"loss"`` among them. It is what is simulated.
        policies: what ``qsim.simulate`` takes; None is plain float32.
        batches: a tree of arrays ``[steps, ...]``, the same for all runs; or a function
            ``batches(number, key)`` of the number of the step and of a key that depends on the
            seed and on this number. It is traced, and not simulated.
        seeds: integers in 0..2**32-1.
        steps: how many; by default as many as ``batches`` has.
        evaluate: ``evaluate(params, states)`` returns a dict of single numbers; simulated under
            every policy at the end of its runs.
        divergence: the rule by which a run counts as diverged and stops, see
            ``qsim.training.divergence``; None for none.
        every: steps between calls of ``progress`` and between checkpoints; by default a twentieth.
            It changes no bit of the results.
        progress: ``progress(done, total)`` is called with steps of all runs together.
        checkpoint: a folder. Runs that it holds are continued, to the same bytes as in one go.
        key: random key of stochastic rounding, by default ``qsim.counter_key(0)``, folded by seed,
            step and site.
        batch: how many runs are side by side under ``vmap``; by default one at a time on CPUs and
            eight on accelerators.
        devices: the devices to share the runs out over; by default all local ones.

    A run depends on its policy and its seed, and on no other run, whatever becomes of that.

    Raises:
        TypeError: if ``init`` or ``step`` return something else.
        ValueError: for no policies or no seeds, and for a checkpoint of other runs.

    >>> import jax.numpy as jnp
    >>> def init(key):
    ...     return {"w": jnp.zeros(())}, {}
    >>> def step(params, states, x):
    ...     loss, slope = jax.value_and_grad(lambda p: (p["w"] - x) ** 2)(params)
    ...     return {"w": params["w"] - 0.25 * slope["w"]}, states, {"loss": loss}
    >>> runs = train_sweep(init, step, [None, "all=e3m2"], batches=jnp.full(3, 0.7))
    >>> runs.loss.shape, runs.params["w"].ravel().tolist()
    ((2, 1, 3), [0.6124999523162842, 0.625])
    """
    groups = grouped(policies)
    loop = Loop(
        step=step,
        draw=batches if callable(batches) else None,
        divergence=divergence,
        key=counter_key(0) if key is None else key,
    )
    data = None if callable(batches) else jax.tree.map(np.asarray, batches)
    steps, seeds = _steps(steps, data), _seeds(seeds)
    every = math.ceil(steps / 20) if every is None else every
    require_positive("every", every)
    texts = [str(as_policy(policy)) for policy in policies]
    work = _Work(loop, shapes_of(init, loop, data), seeds, steps, every, data)
    parts = [_Part(work, alike, batch, devices) for alike in groups]
    saved = None if checkpoint is None else _checkpoint(Path(checkpoint), parts, texts)
    counter = _Counter(progress, len(texts) * len(seeds) * steps)
    begun = _Begun(init, seeds)
    done = []
    for number, part in enumerate(parts):
        found = part.train(number, begun, saved, counter)
        done.append((found, {} if evaluate is None else part.evaluate(evaluate, found)))
    return _assembled(texts, parts, done)


@dataclass(frozen=True)
class _Work:
    """What all parts have in common."""

    loop: Loop
    shapes: Shapes
    seeds: tuple[int, ...]
    steps: int
    every: int
    data: Any


# --- parts ----------------------------------------------------------------------------------


class _Part:
    """The runs of the policies of one structure: a row for each policy and seed, seeds fastest.

    There may be more rows, to fill the devices; these count as diverged and cost nothing.
    """

    def __init__(self, work: _Work, alike: Alike, batch, devices):
        self.work, self.places = work, alike.places
        self.count = len(alike.places) * len(work.seeds)
        self.how = layout(self.count, batch, devices)
        rows = math.ceil(self.count / self.how.width) * self.how.width
        run = np.minimum(np.arange(rows), self.count - 1)
        place, self.seed = np.divmod(run, len(work.seeds))
        packed = jax.tree.map(lambda leaf: leaf[place], pack(alike.policies))
        self.fixed = packed, np.array(work.seeds, np.uint32)[self.seed]
        self.unpack = unpacker(alike.policies[0])
        mesh = Mesh(np.array(self.how.devices), (AXIS,))
        self.split, self.whole = (
            NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((AXIS,), ())
        )

    @cached_property
    def lowered(self) -> Any:
        """The program that trains the rows up to some step, not yet compiled."""

        def share(rows, rest):
            def one(progress: Progress, fixed) -> Progress:
                (packed, seed), (stop, data) = fixed, rest
                return self.work.loop.advance(self.unpack(packed), seed, progress, stop, data)

            progress, fixed = rows
            return _in_place(one, progress, fixed, self.how.batch)

        run = shared_out(share, self.how.devices)

        def training(progress, fixed, stop, data):
            return run((progress, fixed), (stop, data))

        jitted = jax.jit(
            training,
            in_shardings=(self.split, self.split, self.whole, self.whole),
            out_shardings=self.split,
            donate_argnums=0,
        )
        return jitted.lower(self.like, self.fixed, np.int32(0), self.work.data)

    @property
    def like(self) -> Progress:
        """The shapes of the rows' progress."""
        shapes, rows = self.work.shapes, len(self.seed)
        params, states = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape), leaf.dtype),
            (shapes.params, shapes.states),
        )
        return shapes.unbegun(params, states, rows, self.work.steps)

    def train(
        self, number: int, begun: "_Begun", saved: Checkpoint | None, counter: "_Counter"
    ) -> Progress:
        """The rows after all steps, from where a checkpoint has them."""
        work = self.work
        progress = None if saved is None else saved.restore(number, self.like)
        step = 0 if saved is None or progress is None else saved.step(number)
        counter.add(step * self.count)
        if progress is None:
            progress = self._fresh(begun)
        if step == work.steps:
            return progress
        run = self.lowered.compile()
        progress, fixed = jax.device_put((progress, self.fixed), self.split)
        data = jax.device_put(work.data, self.whole)
        for stop in [*range(step + work.every, work.steps, work.every), work.steps]:
            progress = jax.block_until_ready(run(progress, fixed, np.int32(stop), data))
            if saved is not None:
                saved.save(number, stop, progress)
            counter.add((stop - step) * self.count)
            step = stop
        return jax.device_get(progress)

    def _fresh(self, begun: "_Begun") -> Progress:
        params, states = jax.tree.map(lambda leaf: leaf[self.seed], begun.stacked)
        progress = self.work.shapes.unbegun(params, states, len(self.seed), self.work.steps)
        progress.watch.diverged[self.count :] = 0
        return progress

    def evaluate(self, evaluate: Callable, progress: Progress) -> dict[str, np.ndarray]:
        """What a function says of the rows, under their policies."""

        def one(row):
            (packed, seed), params, states = row
            policy = self.unpack(packed)
            noise = self.work.loop.noise(policy, seed, self.work.steps)
            return simulate(evaluate, policy, params=0, states=1, key=noise)(params, states)

        def share(rows, _):
            return mapped(one, rows, len(jax.tree.leaves(rows)[0]), self.how.batch)

        run = shared_out(share, self.how.devices)
        jitted = jax.jit(run, in_shardings=(self.split, None), out_shardings=self.split)
        found = jax.device_get(jitted((self.fixed, progress.params, progress.states), ()))
        require_scalars("evaluate", jax.tree.map(lambda leaf: leaf[0], found))
        return found


def _in_place(one: Callable, progress: Progress, fixed: Any, batch: int) -> Progress:
    """``one`` on every row, or on ``batch`` at a time; results take the place of what was there."""
    count = len(progress.step) // batch
    alone = batch == 1
    run = one if alone else jax.vmap(one)

    def part(tree, number):
        take = partial(lax.dynamic_slice_in_dim, start_index=number * batch, slice_size=batch)
        parts = jax.tree.map(take, tree)
        return jax.tree.map(lambda leaf: leaf[0], parts) if alone else parts

    def each(number, progress):
        def put(all, some):
            some = some[None] if alone else some
            return lax.dynamic_update_slice_in_dim(all, some, number * batch, 0)

        return jax.tree.map(put, progress, run(part(progress, number), part(fixed, number)))

    return lax.fori_loop(0, count, each, progress)


# --- before and after -----------------------------------------------------------------------


class _Begun:
    """Parameters and states before the first step, made when they are asked for."""

    def __init__(self, init: Callable, seeds: tuple[int, ...]):
        self._init, self._seeds = init, seeds

    @cached_property
    def stacked(self) -> Any:
        """Those of every seed, one after the other: however many, each is the same."""
        init = jax.jit(lambda seed: self._init(jax.random.key(seed)))
        each = [jax.device_get(init(np.uint32(seed))) for seed in self._seeds]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *map(tuple, each))


class _Counter:
    """Steps of all runs together, as the user is told."""

    def __init__(self, tell: Callable[[int, int], None] | None, total: int):
        self._tell, self._total, self._done = tell, total, 0

    def add(self, steps: int) -> None:
        self._done += steps
        if self._tell is not None and steps:
            self._tell(self._done, self._total)


def _seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    several = isinstance(seeds, Sequence) and not isinstance(seeds, str)
    if not several or not all(isinstance(n, int) and not isinstance(n, bool) for n in seeds):
        raise TypeError(f"seeds are a list of integers such as [0, 1], got {shown(seeds)}")
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= n < 2**32 for n in seeds):
        raise ValueError(f"seeds are different integers in 0..2**32-1, got {shown(list(seeds))}")
    return tuple(seeds)


def _steps(steps: int | None, data: Any) -> int:
    """The number of steps, of which there is a batch for each."""
    if steps is not None:
        require_positive("steps", steps)
    if data is None:
        if steps is None:
            raise ValueError("batches are drawn by a function: say how many steps, steps=100")
        return steps
    lengths = sorted({np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"batches have a leading axis of steps, the same for all, got {lengths}")
    (held,) = lengths[0]
    if (steps or 1) > held:
        raise ValueError(f"{steps} steps need as many batches, but there are {held}")
    return held if steps is None else steps


def _checkpoint(folder: Path, parts: list[_Part], texts: list[str]) -> Checkpoint:
    """The checkpoint in a folder, whose runs have the bytes of ours.

    Raises:
        ValueError: if it has others.
    """
    work = parts[0].work
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    facts = {
        "seeds": list(work.seeds),
        "steps": work.steps,
        "policies": texts,
        "versions": versions | {"backend": jax.default_backend()},
        "formats": digest([part.fixed for part in parts]),
        "batches": "drawn" if work.data is None else digest(work.data),
        "parts": len(parts),
    }
    saved = Checkpoint(folder, facts)
    programs = [hashlib.sha256(part.lowered.as_text().encode()).hexdigest() for part in parts]
    saved.require({"programs (model, optimizer, devices, batch)": programs})
    return saved


def _assembled(texts: list[str], parts: list[_Part], done: list[tuple]) -> Runs:
    """The rows of all parts in the order of the policies."""
    seeds = parts[0].work.seeds
    order = np.argsort(np.concatenate([part.places for part in parts]))

    def axes(part: _Part, leaf) -> np.ndarray:
        leaf = np.asarray(leaf)[: part.count]
        return leaf.reshape(-1, len(seeds), *leaf.shape[1:])

    each = [
        jax.tree.map(partial(axes, part), found) for part, found in zip(parts, done, strict=True)
    ]
    progress, evaluated = jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *each)
    return Runs(
        policies=tuple(texts),
        seeds=seeds,
        metrics=progress.metrics,
        diverged=progress.watch.diverged,
        params=progress.params,
        states=progress.states,
        evaluated=evaluated,
    )
