"""Optimizers whose states, or parameters, live on emulated formats between the steps.

A step of the optimizer computes in its carrier on states that are numbers of a format; what it
leaves is rounded again::

    updates, s = optimizer.update(gradients, s(t));   s(t+1) = round(s)

so the update of a step is made from moments that are not rounded yet, as the kernels of 8-bit
optimizers do. With master weights the parameters are rounded copies of others::

    master(t+1) = round(master(t) + updates);   params(t+1) = round(master(t+1))

Sources: T. Dettmers et al., 8-bit optimizers via block-wise quantization, arXiv:2110.02861;
H. Peng et al., FP8-LM, arXiv:2310.18313, 2.2 (moments of two precisions, master weights of 16
bits); P. Micikevicius et al., arXiv:1710.03740, 3.1 (master weights).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qsim.numbers.random_bits import Key
from qsim.training.tree_rounding import Target, TreeRounding, by_path

__all__ = ["MasterWeights", "RoundedStates", "master_weights", "rounded_states"]


class RoundedStates(NamedTuple):
    """The state of ``rounded_states``.

    Attributes:
        inner: that of the optimizer, on its formats.
        step: int32 of shape ``[]``, steps done.
    """

    inner: Any
    step: Any


def rounded_states(
    optimizer: optax.GradientTransformation,
    formats: Mapping[str, Target],
    *,
    rounding: str = "ties_to_even",
    scale: str = "absmax",
    key: Key | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that keeps its floating-point states on formats.

    Args:
        optimizer: its states are float32, or float64 with x64.
        formats: what is rounded to what. A key is a regular expression that is the whole of a
            state's path, such as ``0/nu/dense/kernel``, or of one name in it, such as ``nu``; the
            first that matches counts. A value is a spec string, a ``Format`` or a ``Grid``; a
            ``Quantizer``, which has modes of its own; an ``Expansion``; or ``"none"``.
        rounding: of formats and grids, a mode of ``qsim.ROUNDINGS``.
        scale: of formats and grids, a rule of ``qsim.SCALES``: one scale for each array. Block
            formats have their own.
        key: the random key that stochastic rounding needs, folded by step and state.

    Raises:
        TypeError: for states in floats of 16 bits; the message says which.
        ValueError: at ``init``, for a key that matches no state; a missing or superfluous random
            key; unknown formats and modes.

    >>> optimizer = rounded_states(optax.sgd(1.0, momentum=0.5), {"trace": "e4m3"})
    >>> state = optimizer.init(jnp.zeros(2))
    >>> _, state = optimizer.update(jnp.array([240.0, 1.06]), state)
    >>> state.inner[0].trace.tolist()
    [240.0, 1.0]
    """
    optimizer = optax.with_extra_args_support(optimizer)
    rounded = TreeRounding(formats, rounding, scale, key)

    def init(params: Any) -> RoundedStates:
        inner = optimizer.init(params)
        rounded.require_all_match(inner)
        return RoundedStates(rounded(inner, jnp.int32(0)), jnp.int32(0))

    def update(
        gradients: Any, state: RoundedStates, params: Any = None, **extra: Any
    ) -> tuple[Any, RoundedStates]:
        updates, inner = optimizer.update(gradients, state.inner, params, **extra)
        step = state.step + 1
        return updates, RoundedStates(rounded(inner, step), step)

    return optax.GradientTransformationExtraArgs(init, update)


class MasterWeights(NamedTuple):
    """The state of ``master_weights``.

    Attributes:
        inner: that of the optimizer.
        master: the master weights.
        params: the parameters, which are the master weights rounded.
        step: int32 of shape ``[]``, steps done.
    """

    inner: Any
    master: Any
    params: Any
    step: Any


def master_weights(
    optimizer: optax.GradientTransformation,
    formats: Target | Mapping[str, Target],
    *,
    master: Target | Mapping[str, Target] = "none",
    rounding: str = "ties_to_even",
    scale: str = "none",
    key: Key | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer of master weights, of which the parameters are copies on formats.

    Args:
        optimizer: sees master weights, and gradients at the parameters.
        formats: those of the parameters: one for all, or by path as for ``rounded_states``.
        master: those of the master weights, rounded to nearest without a scale, unless they are
            a ``Quantizer`` or an ``Expansion``; by default they stay in their carrier. With the
            format of the parameters there is no second copy.
        rounding, scale, key: of the parameters, as for ``rounded_states``.

    ``init`` is given the weights that the master weights begin with; the parameters of the first
    step are ``state.params``. Updates lead from the parameters that ``update`` is given, or those
    of the state, to the next ones; where a parameter falls below 2^-16 of what it was, adding an
    update in float32 loses digits, and ``state.params`` has them all.

    Raises:
        TypeError, ValueError: as ``rounded_states``.

    >>> optimizer = master_weights(optax.sgd(1.0), "e4m3")
    >>> state = optimizer.init(jnp.array([1.0]))
    >>> for _ in range(2):  # a sixteenth is half a unit in the last place
    ...     updates, state = optimizer.update(jnp.array([-0.0625]), state)
    ...     print(updates.tolist(), state.params.tolist(), state.master.tolist())
    [0.0] [1.0] [1.0625]
    [0.125] [1.125] [1.125]
    """
    optimizer = optax.with_extra_args_support(optimizer)
    of_params = TreeRounding(by_path(formats), rounding, scale, key)
    of_master = TreeRounding(by_path(master), "ties_to_even", "none", None)

    def init(params: Any) -> MasterWeights:
        of_params.require_all_match(params)
        of_master.require_all_match(params)
        step = jnp.int32(0)
        kept = of_master(params, step)
        return MasterWeights(optimizer.init(kept), kept, of_params(kept, step), step)

    def update(
        gradients: Any, state: MasterWeights, params: Any = None, **extra: Any
    ) -> tuple[Any, MasterWeights]:
        changes, inner = optimizer.update(gradients, state.inner, state.master, **extra)
        step = state.step + 1
        kept = of_master(optax.apply_updates(state.master, changes), step)
        rounded = of_params(kept, step)
        before = state.params if params is None else params
        updates = jax.tree.map(jnp.subtract, rounded, before)
        return updates, MasterWeights(inner, kept, rounded, step)

    return optax.GradientTransformationExtraArgs(init, update)
