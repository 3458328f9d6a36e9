"""What flows through a program whose scales are propagated.

An array of floats is a ``ScaledArray``; or a ``Uniform``, whose one number is known when the
program is traced, so that it takes whatever scale it meets. Everything else is what it was.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from qsim.scales.scaled import ScaledArray, unscaled, wide

__all__ = ["Uniform", "Value", "at_scale", "is_floating", "plain", "scaled", "sized", "together"]

EXTREME = 64  # exponents beyond which a number is taken for a mask or a guard, not for data


@dataclass(frozen=True)
class Uniform:
    """An array of floats all of which are one number, known when the program is traced.

    Attributes:
        number: a NumPy scalar of the array's dtype.
        shape: of the array.
    """

    number: Any
    shape: tuple[int, ...] = ()

    @property
    def dtype(self) -> Any:
        """The dtype."""
        return self.number.dtype

    @property
    def exponent(self) -> int | None:
        """Of the largest power of two at or below its magnitude; None for what has no size.

        Zeros have none, infinities and NaNs, and what is so large or small that it stands for them.
        """
        number = float(self.number)
        if number == 0 or not math.isfinite(number):
            return None
        exponent = math.frexp(number)[1] - 1
        return exponent if abs(exponent) <= EXTREME else None


Value = ScaledArray | Uniform | Array


def is_floating(value: Any) -> bool:
    """Whether a value has a scale, or can have one."""
    return isinstance(value, ScaledArray | Uniform)


def sized(data: Array, scale: Any) -> ScaledArray:
    """Data and a scale, which is not differentiated."""
    return ScaledArray(data, lax.stop_gradient(jnp.asarray(scale, jnp.float32)))


def plain(value: Value) -> Array:
    """The array that a value stands for."""
    if isinstance(value, Uniform):
        return jnp.full(value.shape, value.number)
    return unscaled(value)


def scaled(value: Value) -> Any:
    """A value whose floats are a ``ScaledArray``.

    A constant has the power of two below it as its scale, zeros have the scale 0.
    """
    if isinstance(value, Uniform):
        exponent = value.exponent
        if exponent is None:
            return sized(plain(value), 0.0 if value.number == 0 else 1.0)
        number = np.ldexp(np.float64(value.number), -exponent).astype(value.dtype)
        return sized(jnp.full(value.shape, number), 2.0**exponent)
    if isinstance(value, ScaledArray) or not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return sized(value, 1.0)


def at_scale(value: Value, scale: Array) -> Array:
    """The data that a value has at another scale; infinities and NaNs stay what they are."""
    if isinstance(value, Uniform):
        if value.number == 0 or not math.isfinite(float(value.number)):
            return plain(value)
        value = scaled(value)
    value = scaled(value)
    ratio = value.scale / jnp.where(scale > 0, scale, 1)
    kind = wide(value)
    return (value.data.astype(kind) * ratio.astype(kind)).astype(value.dtype)


def together(values: Sequence[Value]) -> tuple[list[Array], Array]:
    """The data of values at one scale, the largest, and that scale; constants take any."""
    given = [scaled(value) for value in values if not isinstance(value, Uniform)]
    if not given:
        given = [scaled(value) for value in values]
    scale = given[0].scale
    for value in given[1:]:
        scale = jnp.maximum(scale, value.scale)
    return [at_scale(value, scale) for value in values], scale
