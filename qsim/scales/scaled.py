"""Arrays that carry their scale, and powers of two to scale by.

A ``ScaledArray`` is an array of numbers of moderate size and one number that they are all to be
multiplied with. What it stands for is::

    value = data * scale

Scales are float32 and, unless their rounding is switched off, powers of two between 2^-126 and
2^127, so that they are E8M0 numbers too and moving one from or to the data is exact. The scale 0
stands for zeros, which go with any other scale. Scales are not differentiated.

Source: P. Balanca et al., Scalify: scale propagation for efficient low-precision LLM training,
arXiv:2407.17353.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.numbers.grid import CARRIERS
from qsim.numbers.modes import require_one_of
from qsim.numbers.pytrees import pytree

__all__ = [
    "NORMS",
    "SCALE_ROUNDINGS",
    "ScaledArray",
    "as_scaled",
    "norm",
    "power_of_two",
    "unscaled",
    "wide",
]

SCALE_ROUNDINGS = {
    "down": "the power of two at or below",
    "up": "the power of two at or above",
    "none": "the number itself",
}
NORMS = {
    "max": "the largest magnitude",
    "l1": "the mean of the magnitudes",
    "l2": "the root of the mean of the squares",
}
BINARY32 = CARRIERS["float32"]


@pytree
@dataclass(frozen=True)
class ScaledArray:
    """An array and the number that all of it is multiplied with.

    Attributes:
        data: any array of floats.
        scale: a float32 number; in stacks an array of leading axes of ``data``.

    ``unscaled(x) == x.data * x.scale``.

    >>> x = ScaledArray(jnp.array([1.5, -1.0]), jnp.float32(0.25))
    >>> unscaled(x).tolist()
    [0.375, -0.25]
    """

    data: Any
    scale: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the data."""
        return np.shape(self.data)

    @property
    def dtype(self) -> Any:
        """The dtype of the data."""
        return self.data.dtype


def power_of_two(x: Float[ArrayLike, "..."], *, rounding: str = "down") -> Float[Array, "..."]:
    """Positive float32 numbers rounded to powers of two from 2^-126 to 2^127; 0 stays.

    Args:
        x: numbers that are not negative; subnormal ones count as 2^-126.
        rounding: one of ``SCALE_ROUNDINGS``.

    Raises:
        ValueError: for an unknown rounding.

    >>> power_of_two(jnp.array([0.0, 0.3, 1.0, 6.0])).tolist()
    [0.0, 0.25, 1.0, 4.0]
    >>> power_of_two(6.0, rounding="up").tolist()
    8.0
    """
    require_one_of("rounding", rounding, SCALE_ROUNDINGS)
    x = jnp.asarray(x, jnp.float32)
    if rounding == "none":
        return x
    one = BINARY32.word.type(1 << BINARY32.mantissa_bits)
    largest = BINARY32.word.type(BINARY32.infinity) - one
    bits = lax.bitcast_convert_type(x, BINARY32.word)
    if rounding == "up":
        bits = jnp.where(bits > 0, bits + (one - BINARY32.word.type(1)), bits)
    powers = jnp.clip(bits & ~(one - BINARY32.word.type(1)), one, largest)
    return lax.bitcast_convert_type(jnp.where(bits > 0, powers, bits), jnp.float32)


def norm(x: Float[Array, "..."], by: str) -> Float[Array, ""]:
    """How large the numbers of an array are, in float32; 0 for an empty array.

    Raises:
        ValueError: for an unknown norm.

    >>> [norm(jnp.array([3.0, -1.0]), by).tolist() for by in ("max", "l1")]
    [3.0, 2.0]
    """
    require_one_of("norm", by, NORMS)
    magnitudes = jnp.abs(x.astype(jnp.float32))
    if not x.size:
        return jnp.float32(0)
    match by:
        case "max":
            return magnitudes.max()
        case "l1":
            return magnitudes.mean()
        case _:
            largest = magnitudes.max()  # squares of what is divided by it are in range
            unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
            return jnp.sqrt(jnp.mean(jnp.square(magnitudes / unit))) * unit


def as_scaled(tree: Any, *, by: str | None = None, rounding: str = "down") -> Any:
    """A pytree whose arrays of floats are scaled arrays; what is one already stays.

    Args:
        tree: arrays.
        by: the norm that becomes the scale, which is 0 for zeros and 1 for a norm that is not
            finite; by default all scales are 1.
        rounding: of scales, one of ``SCALE_ROUNDINGS``.

    Raises:
        ValueError: for an unknown norm or rounding.

    >>> as_scaled(jnp.array([12.0, -3.0]), by="max")
    ScaledArray(data=Array([ 1.5  , -0.375], dtype=float32), scale=Array(8., dtype=float32))
    """
    if by is not None:
        require_one_of("norm", by, NORMS)
    require_one_of("rounding", rounding, SCALE_ROUNDINGS)

    def scaled(x: Any) -> Any:
        if isinstance(x, ScaledArray) or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            return x
        x = jnp.asarray(x)
        if by is None:
            return ScaledArray(x, jnp.float32(1))
        size = lax.stop_gradient(norm(x, by))
        scale = power_of_two(jnp.where(jnp.isfinite(size), size, 1), rounding=rounding)
        divisor = jnp.where(scale > 0, scale, 1).astype(wide(x))
        return ScaledArray((x.astype(divisor.dtype) / divisor).astype(x.dtype), scale)

    return jax.tree.map(scaled, tree, is_leaf=_is_scaled)


def unscaled(tree: Any) -> Any:
    """A pytree with the values of its scaled arrays, in their dtypes; the rest stays.

    >>> unscaled({"x": as_scaled(jnp.array([12.0, -3.0]), by="l2")})["x"].tolist()
    [12.0, -3.0]
    """

    def value(x: Any) -> Any:
        if not isinstance(x, ScaledArray):
            return x
        scale = lax.stop_gradient(x.scale).astype(wide(x.data))
        return (x.data.astype(scale.dtype) * scale).astype(x.data.dtype)

    return jax.tree.map(value, tree, is_leaf=_is_scaled)


def _is_scaled(x: Any) -> bool:
    return isinstance(x, ScaledArray)


def wide(x: Any) -> Any:
    """The dtype in which data is multiplied by scales: float32, or float64 for float64."""
    return jnp.dtype("float64" if x.dtype == jnp.float64 else "float32")
