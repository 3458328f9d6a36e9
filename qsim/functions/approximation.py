"""Approximations of functions of one variable: tables, and polynomials on equal segments.

The range of a function is cut into n equal segments; an argument, clamped to the range, lies at
the position p of one of them::

    p = (clamp(x, low, high) - low) * (n / (high - low))        i = floor(p), at most n - 1

    a table, nearest entry       e[round(p)]                    n + 1 entries, at the ends too
    a table, interpolated        e[i] + (p - i) * (e[i+1] - e[i])
    a piecewise polynomial       c[i, 0] + t * (c[i, 1] + t * (c[i, 2] + ...)),   t = p - i - 1/2

What is fitted is fitted in float64, what is computed is computed in float32, as an ordinary JAX
program of gathers, products and sums, whose every result ``qsim.simulate`` can round. Then
positions are rounded as well: a format of few bits tells few segments apart.

Source: J.-M. Muller, Elementary Functions: Algorithms and Implementation, 3rd ed. (2016), chapters
on polynomial approximations and on table-based methods.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.records import shown
from qsim.numbers.rounding import quantize, require_float, require_single

__all__ = ["Piecewise", "Table"]

MAX_DEGREE = 15  # beyond which float32 has nothing to gain, and the fit in float64 becomes inexact
MAX_SIZE = 1 << 20  # of entries and segments: their positions keep three bits of fraction

LEAST, MOST = 2.0**-100, 2.0**127  # of widths, by which float32 divides

Function = Callable[[np.ndarray], np.ndarray]
End = float | int


@pytree
@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A function's values at equally distant points, and what lies between them.

    Attributes:
        entries: float32 array of shape ``[size]``; the first is that at ``low``, the last that at
            ``high``. A stack of tables has leading axes more.
        low, high: the ends of the range, float32 arrays of shape ``[]``, or of those leading axes.
        interpolate: whether the value between two entries lies on the line through them; otherwise
            it is that of the nearest point, and of two equally near ones that of even number.

    The record's meaning: ``entries[k] = fn(low + k * (high - low) / (size - 1))``, rounded.

    >>> square = Table.of(lambda x: x * x, 0, 4, 5)
    >>> square(jnp.array([1.0, 2.5, 7.0])).tolist()
    [1.0, 6.5, 16.0]
    """

    entries: Any
    low: Any
    high: Any
    interpolate: bool = static(default=True)

    @classmethod
    def of(
        cls, fn: Function, low: End, high: End, size: int, *, interpolate: bool = True
    ) -> "Table":
        """The table of a function.

        Args:
            fn: from a NumPy array of float64 to another of the same shape, such as ``np.tanh``.
            low, high: the ends of the range, which are rounded to float32.
            size: how many entries there are, at least 2.
            interpolate: as the attribute.

        Raises:
            TypeError: for a function, an end or a size that is none, or results not of float64.
            ValueError: for an empty range, sizes below 2 or beyond ``2**20``, and functions whose
                results have another shape, or are not finite in float32, or whose neighbours'
                differences are not.

        >>> Table.of(np.exp2, 0, 3, 4).entries.tolist()
        [1.0, 2.0, 4.0, 8.0]
        """
        low, high = _range(low, high)
        points = np.linspace(low, high, _count(size, "size", 2))
        values = _sampled(fn, points)
        entries = jnp.asarray(_finite32(values, points))
        if interpolate:
            _finite32(np.diff(values), points)
        return cls(
            entries=entries, low=jnp.float32(low), high=jnp.float32(high), interpolate=interpolate
        )

    @property
    def size(self) -> int:
        """How many entries there are."""
        return jnp.shape(self.entries)[-1]

    def rounded(self, fmt: str | Format | Grid, **modes) -> "Table":
        """The table with its entries rounded to a format.

        Args:
            fmt: as for ``qsim.quantize``. Of a stacked ``Grid`` comes a stack of tables, one for
                each format: ``jax.vmap(lambda table: table(x))(table.rounded(grids))``.
            modes: ``rounding``, ``overflow``, ``key`` and ``gradient`` as for ``qsim.quantize``.

        >>> Table.of(np.exp, 0, 1, 3).rounded("e4m3").entries.tolist()
        [1.0, 1.625, 2.75]
        """
        entries, low, high = _rounded(self.entries, self.low, self.high, fmt, modes)
        return replace(self, entries=entries, low=low, high=high)

    def __call__(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """The function's approximation, computed in float32, in the shape and dtype of ``x``.

        Arguments outside the range count as its ends. NaN stays NaN.

        Raises:
            TypeError: for what is no float array, and for float64.
            ValueError: for a stack of tables.
        """
        x = require_float(x)
        _require_one(jnp.ndim(self.entries) - 1, "table")
        return _looked_up(self, require_single(x, "approximations")).astype(x.dtype)


@pytree
@dataclass(frozen=True, kw_only=True, eq=False)
class Piecewise:
    """A function as one polynomial on each of equal segments.

    Attributes:
        coefficients: float32 array of shape ``[segments, degree + 1]``, that of ``t**k`` at k. A
            stack has leading axes more.
        low, high: the ends of the range, float32 arrays of shape ``[]``, or of those leading axes.

    The record's meaning: on segment i the function is ``sum(coefficients[i, k] * t**k)``, where t
    runs from -1/2 to 1/2.

    >>> cube = Piecewise.of(lambda x: x**3, 0, 4, segments=2, degree=3)
    >>> cube(jnp.array([0.5, 3.0, 9.0])).tolist()
    [0.125, 27.0, 64.0]
    """

    coefficients: Any
    low: Any
    high: Any

    @classmethod
    def of(cls, fn: Function, low: End, high: End, segments: int, degree: int) -> "Piecewise":
        """The polynomials that equal a function at the Chebyshev nodes of every segment.

        Their error is at most ``2 * (w / 4)**n * max|f^(n)| / n!`` where segments have the width w
        and n is ``degree + 1``. Where two segments meet they differ by as much.

        Args:
            fn: from a NumPy array of float64 to another of the same shape, such as ``np.tanh``.
            low, high: the ends of the range, which are rounded to float32.
            segments: how many there are.
            degree: of the polynomials, 0 to 15.

        Raises:
            TypeError: for a function, an end or a number that is none, or results not of float64.
            ValueError: for an empty range, other degrees, no segments or more than ``2**20``, and
                functions whose results have another shape, or polynomials that are not finite in
                float32.

        >>> Piecewise.of(lambda x: x * x, 0, 2, segments=1, degree=2).coefficients.round(3).tolist()
        [[1.0, 4.0, 4.0]]
        """
        low, high = _range(low, high)
        nodes = _chebyshev(_count(degree, "degree", 0, MAX_DEGREE) + 1)
        middles = np.arange(_count(segments, "segments", 1)) + 0.5
        points = low + (high - low) * (middles[:, None] + nodes) / len(middles)
        fitted = np.polynomial.polynomial.polyfit(nodes, _sampled(fn, points).T, len(nodes) - 1).T
        coefficients = jnp.asarray(_finite32(fitted, points))
        return cls(coefficients=coefficients, low=jnp.float32(low), high=jnp.float32(high))

    @property
    def segments(self) -> int:
        """How many segments there are."""
        return jnp.shape(self.coefficients)[-2]

    @property
    def degree(self) -> int:
        """The degree of the polynomials."""
        return jnp.shape(self.coefficients)[-1] - 1

    def rounded(self, fmt: str | Format | Grid, **modes) -> "Piecewise":
        """The same with its coefficients rounded to a format; arguments as ``Table.rounded``.

        >>> line = Piecewise.of(lambda x: 0.3 * x, 0, 1, segments=1, degree=1)
        >>> line.rounded("e4m3").coefficients.tolist()
        [[0.15625, 0.3125]]
        """
        coefficients, low, high = _rounded(self.coefficients, self.low, self.high, fmt, modes)
        return replace(self, coefficients=coefficients, low=low, high=high)

    def __call__(self, x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
        """The function's approximation; as ``Table.__call__``."""
        x = require_float(x)
        _require_one(jnp.ndim(self.coefficients) - 2, "piecewise polynomial")
        return _polynomial(self, require_single(x, "approximations")).astype(x.dtype)


# --- evaluation -----------------------------------------------------------------------------


@jax.jit
def _looked_up(table: Table, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """One call also where nothing else is compiled."""
    entries, last = jnp.asarray(table.entries), table.size - 1
    position = _position(x, table.low, table.high, last)
    if not table.interpolate:
        nearest = entries[_index(jnp.round(position), last)]
        return jnp.where(jnp.isnan(x), x, nearest)
    whole = jnp.floor(position)
    index = _index(whole, last)
    entry, following = entries[index], entries[jnp.minimum(index + 1, last)]
    return entry + (position - whole) * (following - entry)


@jax.jit
def _polynomial(piecewise: Piecewise, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """By Horner's rule."""
    coefficients, count = jnp.asarray(piecewise.coefficients), piecewise.segments
    position = _position(x, piecewise.low, piecewise.high, count)
    whole = jnp.minimum(jnp.floor(position), count - 1)
    chosen, t = coefficients[_index(whole, count - 1)], (position - whole) - 0.5
    value = chosen[..., -1]
    for k in reversed(range(piecewise.degree)):
        value = value * t + chosen[..., k]
    return jnp.where(jnp.isnan(x), x, value)  # of degree 0 no NaN would come through


def _position(x: Float[Array, "..."], low: Array, high: Array, count: int) -> Float[Array, "..."]:
    """Where in the range an argument lies, from 0 to ``count``; NaN for NaN.

    At the end it is ``count``, however quotient and product are rounded.
    """
    inside = jnp.clip(x, low, high) - low
    position = jnp.minimum(inside * (count / (high - low)), count)
    return jnp.where(x >= high, jnp.float32(count), position)


def _index(whole: Float[Array, "..."], last: int) -> Array:
    """Integers in floats as indices; any of them for NaN."""
    return jnp.clip(whole.astype(jnp.int32), 0, last)


# --- rounding -------------------------------------------------------------------------------


def _rounded(leaf, low, high, fmt: str | Format | Grid, modes: dict[str, Any]) -> tuple:
    """A leaf rounded to a format, and the ends with the leading axes that a stack of them adds."""
    new = quantize(leaf, fmt, **modes)
    front = new.shape[: new.ndim - jnp.ndim(leaf)]
    return new, *(jnp.broadcast_to(end, (*front, *jnp.shape(end))) for end in (low, high))


# --- what may come in -----------------------------------------------------------------------


def _require_one(more: int, what: str) -> None:
    if more:
        raise ValueError(
            f"this is a stack of {what}s: map over it, jax.vmap(lambda f: f(x))(stack)"
        )


def _range(low: End, high: End) -> tuple[float, float]:
    """Both ends as float32 has them."""
    for name, end in (("low", low), ("high", high)):
        if isinstance(end, bool) or not isinstance(end, int | float | np.floating | np.integer):
            raise TypeError(f"{name} is {shown(end)}, but ends are numbers: write -8.0")
    with np.errstate(over="ignore"):
        first, last = float(np.float32(low)), float(np.float32(high))
    if not (np.isfinite(first) and LEAST <= last - first < MOST):
        raise ValueError(
            f"the range is {low} to {high}, but its width in float32 must be from 2**-100 to "
            "2**127: write -8.0, 8.0"
        )
    return first, last


def _count(value: int, name: str, least: int, most: int = MAX_SIZE) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}, but is an integer: write {least + 1}") from None
    if not least <= count <= most:
        raise ValueError(f"{name} is {count}: give one of {least} to {most}")
    return count


def _chebyshev(count: int) -> np.ndarray:
    """Chebyshev's nodes, from -1/2 to 1/2."""
    return -np.cos((np.arange(count) + 0.5) * np.pi / count) / 2


def _sampled(fn: Function, points: np.ndarray) -> np.ndarray:
    """A function's values at points, in float64."""
    if not callable(fn):
        raise TypeError(f"fn is {shown(fn)}, but is a function of a NumPy array: write np.tanh")
    with np.errstate(all="ignore"):  # what is not finite is refused below
        values = np.asarray(fn(points))
    if values.dtype != np.float64:
        raise TypeError(
            f"fn gives {values.dtype}, but is fitted in float64: give a NumPy function, or cast "
            "its results with np.float64"
        )
    if values.shape != points.shape:
        raise ValueError(
            f"fn gives the shape {values.shape} for points of the shape {points.shape}: give one "
            "that works elementwise, as np.vectorize(fn) does"
        )
    if not (finite := np.isfinite(values)).all():
        value, point = values[~finite][0], points[~finite][0]
        raise ValueError(f"fn is {value} at {point}, but must be finite: choose another range")
    return values


def _finite32(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values as float32."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        edge = float(np.abs(values).max())
        raise ValueError(
            f"fn needs {edge} between {points.min()} and {points.max()}, which is beyond float32: "
            "choose another range"
        )
    return narrow
