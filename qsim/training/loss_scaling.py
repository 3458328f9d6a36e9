"""Loss scaling: small gradients are kept above the smallest number of a narrow format.

With the scale S and the parameters w, gradients are taken of a larger loss, and made smaller again
where they are accumulated in a wide format::

    g = (d (S * loss) / dw) / S

A static scale stays. A dynamic one is halved where a gradient is infinite or NaN, and that step is
skipped; after a number of clean steps in a row it is doubled.

Sources: P. Micikevicius et al., Mixed precision training, arXiv:1710.03740, 3.2 (static, and
skipped steps); NVIDIA Apex and ``tf.mixed_precision`` (dynamic: 2000 clean steps, 1 to 2^24).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from qsim.numbers.pytrees import pytree
from qsim.numbers.records import require
from qsim.numbers.rounding import widen
from qsim.training.skipped_steps import all_finite, skip_if_not_finite

__all__ = [
    "LossScale",
    "LossScaled",
    "adjusted",
    "loss_scale",
    "loss_scaled",
    "scaled_value_and_grad",
    "unscaled",
]

LEAST, MOST = 1.0, 2.0**24  # bounds of a dynamic scale


@pytree
@dataclass(frozen=True, kw_only=True)
class LossScale:
    """A loss scale and how long it has been good.

    Attributes:
        scale: float32 of shape ``[]``, above zero.
        good_steps: int32 of shape ``[]``, steps since the scale changed, all with finite gradients.

    ``scaled loss = loss * scale``.
    """

    scale: Any
    good_steps: Any


def loss_scale(scale: float | Float[Array, ""] = 2.0**16) -> LossScale:
    """A loss scale at the beginning of a run.

    Args:
        scale: above zero; with a power of two, scaling is exact. An array is not checked.

    Raises:
        ValueError: for a number that is not above zero, or infinite.

    >>> loss_scale(1024.0).scale.tolist()
    1024.0
    """
    if isinstance(scale, float | int):
        require(
            0 < scale < float("inf"),
            f"a loss scale is a finite number above zero, got {scale}: try 2.0**16",
        )
    return LossScale(scale=jnp.asarray(scale, jnp.float32), good_steps=jnp.int32(0))


def scaled_value_and_grad(
    fn: Callable, argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False
) -> Callable:
    """A function of a ``LossScale`` and of what ``fn`` takes: the loss, and gradients times S.

    Args:
        fn: returns a loss, a floating-point scalar, or with ``has_aux`` the loss and anything.
        argnums: as for ``jax.value_and_grad``, counted without the loss scale.
        has_aux: as for ``jax.value_and_grad``.

    The loss is returned as it is, in float32 at least; ``unscaled`` takes the factor off the
    gradients, and ``loss_scaled`` gives an optimizer that does so.

    >>> loss, slope = scaled_value_and_grad(lambda w: w * w)(loss_scale(8.0), jnp.float32(3))
    >>> loss.tolist(), slope.tolist()
    (9.0, 48.0)
    """

    def with_scale(state: LossScale, *args: Any) -> tuple[Any, Any]:
        def scaled_loss(*args: Any) -> tuple[Array, Any]:
            found = fn(*args)
            loss = widen(found[0] if has_aux else found)
            return loss * state.scale.astype(loss.dtype), (loss, found[1] if has_aux else None)

        gradient = jax.grad(scaled_loss, argnums, has_aux=True)
        gradients, (loss, aux) = gradient(*args)
        return ((loss, aux) if has_aux else loss), gradients

    return with_scale


def unscaled(gradients: PyTree, state: LossScale) -> PyTree:
    """Gradients divided by the loss scale, in float32 where they were narrower.

    >>> unscaled(jnp.float16([6.0]), loss_scale(4.0)).tolist()
    [1.5]
    """

    def divided(gradient: Array) -> Array:
        gradient = widen(gradient)
        return gradient / state.scale.astype(gradient.dtype)

    return jax.tree.map(divided, gradients)


def adjusted(
    state: LossScale,
    finite: Bool[ArrayLike, ""],
    *,
    period: int | Int[Array, ""] = 2000,
    factor: float | Float[Array, ""] = 2.0,
    least: float = LEAST,
    most: float = MOST,
) -> LossScale:
    """The loss scale for the next step.

    Args:
        state: that of this step.
        finite: whether all gradients were.
        period: clean steps in a row after which the scale grows.
        factor: by which it grows then, and by which it shrinks at once where gradients were not
            finite.
        least, most: bounds of the scale.

    Raises:
        ValueError: for a period below 1, a factor not above 1, or bounds that are none. Arrays
            are not checked.

    >>> state = adjusted(loss_scale(8.0), False)
    >>> state.scale.tolist(), adjusted(state, True, period=1).scale.tolist()
    (4.0, 8.0)
    """
    _require_rule(period, factor, least, most)
    finite = jnp.asarray(finite)
    good = jnp.where(finite, state.good_steps + 1, 0)
    due = good >= period
    wanted = jnp.where(due, state.scale * factor, state.scale)
    wanted = jnp.where(finite, wanted, state.scale / factor)
    return LossScale(scale=jnp.clip(wanted, least, most), good_steps=jnp.where(due, 0, good))


def _require_rule(period: Any, factor: Any, least: float, most: float) -> None:
    if isinstance(period, int):
        require(period >= 1, f"the scale grows after 1 or more clean steps, got period={period}")
    if isinstance(factor, float | int):
        require(factor > 1, f"a loss scale changes by a factor above 1, got {factor}: try 2.0")
    require(
        0 < least <= most < float("inf"),
        f"bounds of a loss scale are finite, above zero and in order, got least={least} and "
        f"most={most}",
    )


# --- as an optimizer ------------------------------------------------------------------------


class LossScaled(NamedTuple):
    """The state of ``loss_scaled``.

    Attributes:
        loss_scale: of the next step: it scales the next loss.
        inner: the state of the optimizer.
    """

    loss_scale: LossScale
    inner: Any


def loss_scaled(
    optimizer: optax.GradientTransformation,
    *,
    scale: float | Float[Array, ""] = 2.0**16,
    dynamic: bool = True,
    **rule: Any,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer for gradients of a scaled loss; what is not finite is skipped.

    Args:
        optimizer: sees gradients without the scale, in float32 at least.
        scale: to begin with.
        dynamic: whether ``adjusted`` changes the scale after each step.
        rule: ``period``, ``factor``, ``least``, ``most`` of ``adjusted``.

    Raises:
        ValueError: as ``loss_scale`` and ``adjusted``.

    >>> optimizer = loss_scaled(optax.sgd(0.5), scale=4.0, period=1)
    >>> w = jnp.float32(1.0)
    >>> state = optimizer.init(w)
    >>> _, slope = scaled_value_and_grad(lambda w: w * w)(state.loss_scale, w)
    >>> update, state = optimizer.update(slope, state, w)
    >>> update.tolist(), state.loss_scale.scale.tolist()
    (-1.0, 8.0)
    """
    begun = loss_scale(scale)
    adjusted(begun, True, **rule)  # checks the rule
    if dynamic and isinstance(scale, float | int):
        least, most = rule.get("least", LEAST), rule.get("most", MOST)
        require(
            least <= scale <= most,
            f"a dynamic loss scale stays within {least} .. {most}, but begins with {scale}: change "
            "least or most, or begin within them",
        )
    careful = skip_if_not_finite(optimizer)

    def init(params: Any) -> LossScaled:
        return LossScaled(replace(begun), careful.init(params))

    def update(
        gradients: Any, state: LossScaled, params: Any = None, **extra: Any
    ) -> tuple[Any, LossScaled]:
        finite = all_finite(gradients)
        wide = unscaled(gradients, state.loss_scale)
        updates, inner = careful.update(wide, state.inner, params, **extra)
        scale = adjusted(state.loss_scale, finite, **rule) if dynamic else state.loss_scale
        return updates, LossScaled(scale, inner)

    return optax.GradientTransformationExtraArgs(init, update)
