"""Scaling factors from largest magnitudes: just in time, or from a history of earlier steps.

A tensor is multiplied with its scaling factor sf before it is rounded to a narrow format, and
divided by it afterwards: ``sf = 1 / scale`` in the words of ``qsim.scales``. With ``amax``, the
largest magnitude, the two rules are::

    power_of_two:  sf = 2**(floor(log2(largest / amax)) - margin)
    absmax:        sf = largest / amax / 2**margin

An ``amax`` that is zero, infinite or NaN leaves the factor as it was. Exponents are read from bit
patterns: powers of two are exact, and so is which of them it is. Just in time, ``amax`` is that of
the tensor itself; delayed scaling takes the largest of a window of earlier steps.

Sources: H. Peng et al., FP8-LM: Training FP8 large language models, arXiv:2310.18313, 2, and
MS-AMP's ``ScalingMeta`` (power of two); NVIDIA Transformer Engine, ``DelayedScaling`` (absmax).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Grid
from qsim.numbers.modes import require_one_of
from qsim.numbers.pytrees import pytree
from qsim.numbers.records import require
from qsim.numbers.rounding import require_float, widen
from qsim.scales.arithmetic import absolute, floats, number, quotient, split_magnitude
from qsim.training.scaled_rounding import as_grid, quantize_at

__all__ = [
    "RULES",
    "DelayedScaling",
    "amax",
    "delayed_scaling",
    "observed",
    "quantize_delayed",
    "quantize_just_in_time",
    "scaling_factor",
]

RULES = {
    "power_of_two": "the largest power of two at which the format holds amax",
    "absmax": "amax becomes the largest value of the format",
}
SINGLE = CARRIERS["float32"]


def amax(x: Float[ArrayLike, "..."]) -> Float[Array, ""]:
    """The largest magnitude, in float32; NaN if there is a NaN, and 0 for an empty array.

    Raises:
        TypeError: for numbers that are not floats of at most 32 bits.

    >>> amax(jnp.array([1.0, -3.0])).tolist()
    3.0
    """
    x = widen(require_float(x))
    if x.dtype != jnp.float32:
        raise TypeError(f"scaling factors are of floats of at most 32 bits, got {x.dtype}")
    return floats(jnp.max(absolute(x, SINGLE), initial=0), SINGLE)


def scaling_factor(
    amax: Float[ArrayLike, "..."],
    fmt: str | Format | Grid,
    *,
    margin: int | Int[Array, ""] = 0,
    previous: float | Float[ArrayLike, "..."] = 1.0,
    rule: str = "power_of_two",
) -> Float[Array, "..."]:
    """What tensors of these largest magnitudes are multiplied with before they are rounded.

    Args:
        amax: float32 numbers.
        fmt: a spec string, a ``Format`` or a single ``Grid``.
        margin: how many binades are left empty at the top.
        previous: the factor where ``amax`` is zero, infinite or NaN.
        rule: a key of ``RULES``. Powers of two are limited to 2^-126 .. 2^126.

    Raises:
        ValueError: for an unknown rule or format.

    >>> scaling_factor(jnp.array([1.0, 7.0, 7.001]), "e4m3fn").tolist()
    [256.0, 64.0, 32.0]
    """
    require_one_of("rule", rule, RULES)
    grid = as_grid(fmt)
    magnitude = absolute(jnp.asarray(amax), SINGLE)
    exponent_x, fraction_x = split_magnitude(magnitude, SINGLE)
    exponent_f, fraction_f = split_magnitude(jnp.asarray(grid.largest), SINGLE)
    exponent = exponent_f - exponent_x - margin
    if rule == "power_of_two":
        exponent = exponent - (fraction_f < fraction_x).astype(jnp.int32)
    factor = number(jnp.clip(exponent, -126, 126), jnp.zeros_like(fraction_x), SINGLE)
    if rule == "absmax":
        zero = jnp.zeros_like(exponent)
        one_to_two = jnp.broadcast_to(
            number(jnp.zeros_like(exponent_f), fraction_f, SINGLE), zero.shape
        )
        factor = factor * quotient(one_to_two, number(zero, fraction_x, SINGLE), SINGLE)
    usable = (magnitude > 0) & (magnitude < SINGLE.infinity)
    return jnp.where(usable, factor, jnp.asarray(previous, jnp.float32))


def quantize_just_in_time(
    x: Float[ArrayLike, "..."],
    fmt: str | Format | Grid,
    *,
    margin: int | Int[Array, ""] = 0,
    rule: str = "power_of_two",
    **modes: Any,
) -> Float[Array, "..."]:
    """A tensor rounded with the scaling factor of its own largest magnitude.

    Args:
        x: float32 or narrower array; the result is float32.
        fmt, margin, rule: as for ``scaling_factor``.
        modes: ``rounding``, ``overflow``, ``key`` and ``gradient`` of ``qsim.quantize``.

    Raises:
        TypeError, ValueError: as ``amax``, ``scaling_factor`` and ``quantize_at``.

    >>> quantize_just_in_time(jnp.array([1.0, 0.3, 1e-4]), "e2m1f").tolist()
    [1.0, 0.25, 0.0]
    """
    factor = scaling_factor(amax(x), fmt, margin=margin, rule=rule)
    return quantize_at(x, _reciprocal(factor), fmt, **modes)


# --- a history ------------------------------------------------------------------------------


@pytree
@dataclass(frozen=True, kw_only=True)
class DelayedScaling:
    """The largest magnitudes of earlier steps, and the factor that follows from them.

    Attributes:
        history: float32 ``[window]``, the newest first; 0 where there was none.
        factor: float32 of shape ``[]``, for the next tensor.

    ``factor = scaling_factor(max(history))``.
    """

    history: Any
    factor: Any

    @property
    def scale(self) -> Float[Array, ""]:
        """One over the factor."""
        return _reciprocal(self.factor)


def delayed_scaling(window: int = 16) -> DelayedScaling:
    """Delayed scaling that has not seen a tensor: the factor is 1.

    Raises:
        ValueError: for a window shorter than one step.

    >>> delayed_scaling(4).history.shape
    (4,)
    """
    require(window >= 1, f"a window has one step or more, got {window}: 1 is the step before")
    return DelayedScaling(history=jnp.zeros(window, jnp.float32), factor=jnp.float32(1))


def observed(
    state: DelayedScaling,
    amax: Float[ArrayLike, ""],
    fmt: str | Format | Grid,
    *,
    margin: int | Int[Array, ""] = 0,
    rule: str = "power_of_two",
) -> DelayedScaling:
    """Delayed scaling for the step after one with this largest magnitude.

    An infinity or NaN keeps the factor as it is for as long as it is within the window.

    Raises:
        ValueError: as ``scaling_factor``.

    >>> state = observed(delayed_scaling(2), jnp.float32(7), "e4m3fn")
    >>> state.history.tolist(), state.factor.tolist()
    ([7.0, 0.0], 64.0)
    """
    history = jnp.concatenate([jnp.asarray(amax, jnp.float32)[None], state.history[:-1]])
    largest = floats(jnp.max(absolute(history, SINGLE)), SINGLE)
    factor = scaling_factor(largest, fmt, margin=margin, previous=state.factor, rule=rule)
    return DelayedScaling(history=history, factor=lax.stop_gradient(factor))


def quantize_delayed(
    x: Float[ArrayLike, "..."],
    state: DelayedScaling,
    fmt: str | Format | Grid,
    *,
    margin: int | Int[Array, ""] = 0,
    rule: str = "power_of_two",
    **modes: Any,
) -> tuple[Float[Array, "..."], DelayedScaling]:
    """A tensor rounded with the factor of earlier steps, and the state that has seen this one.

    Arguments and errors as for ``quantize_just_in_time``. What a larger tensor than those before
    has beyond the format's largest value is up to ``overflow``, and by default saturates.

    >>> state = delayed_scaling(2)
    >>> for x in (jnp.array([8.0]), jnp.array([8.0])):
    ...     y, state = quantize_delayed(x, state, "e2m1f")
    ...     print(y.tolist())
    [6.0]
    [8.0]
    """
    y = quantize_at(x, state.scale, fmt, **modes)
    largest = amax(lax.stop_gradient(jnp.asarray(x)))
    return y, observed(state, largest, fmt, margin=margin, rule=rule)


def _reciprocal(factor: Float[Array, "..."]) -> Float[Array, "..."]:
    return quotient(jnp.ones_like(factor), factor, SINGLE)
