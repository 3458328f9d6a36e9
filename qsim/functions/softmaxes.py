"""The softmax function by programs that differ in how they keep exponentials from overflow.

Each is a JAX function of float32 numbers, made of the steps of ``qsim.functions.elementary``; under
``qsim.simulate(fn, "all=bfloat16")`` every step is rounded.

Sources: M. Dukhan and A. Ablavatski, The two-pass softmax algorithm, arXiv:2001.04438 (three and
two passes); M. Milakov and N. Gimelshein, Online normalizer calculation for softmax,
arXiv:1805.02867; J. R. Stevens et al., Softermax, arXiv:2103.09301 (base two). Compensated
programs: ``qsim.functions.double_word``.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.functions import double_word
from qsim.functions.double_word import DoubleWord
from qsim.functions.elementary import LOG2_E, ScaledNumber, exp, exp2, extended_exp, scaled
from qsim.numbers.modes import require_one_of
from qsim.numbers.records import shown
from qsim.numbers.rounding import require_single

__all__ = ["SOFTMAXES", "softmax"]

LOWEST = -100000.0  # an exponent below that of every exponential
RUN = 8  # elements that are added up one after the other where nothing else is said


def softmax(
    x: Float[ArrayLike, "..."], *, axis: int = -1, how: str = "three_pass", lanes: int | None = None
) -> Float[Array, "..."]:
    """``exp(x) / sum(exp(x))`` along an axis.

    Args:
        x: floats of at most 32 bits.
        axis: along which the results add up to one.
        how: a name of ``SOFTMAXES``:

            - ``three_pass``: the maximum, the exponentials of what is below it, the quotients;
            - ``two_pass``: exponentials as significands and exponents, which cannot overflow;
            - ``base2``: as three passes, of two to the power of ``x log2(e)``;
            - ``online``: the maximum and the sum in one pass, in which the sum is scaled anew
              wherever the maximum grows;
            - ``three_pass_compensated``, ``two_pass_compensated``: the programs of these names with
              what roundings lose kept in a second number, so that results are within a unit in the
              last place of exact ones, in rows of up to a million numbers with lanes by default.
        lanes: of all but ``three_pass`` and ``base2``, how many sums there are, of which element k
            goes to sum k modulo their number; they are joined two by two. By default there is one
            for every eight elements.

    Elements of minus infinity give zero; a row of nothing else, and one with NaN or infinity, NaN.
    Programs of two passes take numbers above 45,000 in magnitude for that.

    Raises:
        TypeError: for other numbers.
        ValueError: for a program that is none, an axis that there is not, or no lanes.

    >>> softmax(jnp.array([1000.0, 1000.0, -jnp.inf]), how="two_pass").tolist()
    [0.5, 0.5, 0.0]
    """
    require_one_of("softmax", how, SOFTMAXES)
    x = require_single(x, "these programs")
    axis, lanes = (_plain(n) for n in (axis, lanes))
    if not x.ndim or not isinstance(axis, int) or not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"axis is {shown(axis)}, but the array has {x.ndim} axes: write one of them, such as -1"
        )
    if lanes is not None and (not isinstance(lanes, int) or lanes < 1):
        raise ValueError(f"lanes is {shown(lanes)}, but there is at least one sum: write lanes=1")
    if not x.size:
        return x
    rows = jnp.moveaxis(x, axis, 0)
    lanes = -(-len(rows) // RUN) if lanes is None else min(lanes, len(rows))
    return jnp.moveaxis(SOFTMAXES[how](rows, lanes), 0, axis)


def _plain(number: Any) -> Any:
    """NumPy's integers as Python's."""
    return int(number) if isinstance(number, np.integer) else number


def _three_pass(x: Array, lanes: int) -> Array:
    shifted = exp(x - x.max(0))
    return shifted / shifted.sum(0)


def _base2(x: Array, lanes: int) -> Array:
    shifted = exp2((x - x.max(0)) * LOG2_E)
    return shifted / shifted.sum(0)


def _two_pass(x: Array, lanes: int) -> Array:
    """Exponentials are computed twice, so that none has to be kept."""

    def join(a: ScaledNumber, b: ScaledNumber) -> ScaledNumber:
        top = jnp.maximum(a.exponent, b.exponent)
        kept = scaled(a.significand, a.exponent - top)
        return ScaledNumber(kept + scaled(b.significand, b.exponent - top), top)

    total = _in_lanes(_extended, join, x, lanes)
    m, n = _extended(x)
    return scaled(m * (1.0 / total.significand), n - total.exponent)


def _extended(x: Array) -> ScaledNumber:
    """Exponentials, that of minus infinity being zero, and that of infinity NaN."""
    m, n = extended_exp(x)
    masked = x == -jnp.inf
    m = jnp.where(masked, 0.0, jnp.where(x == jnp.inf, jnp.nan, m))
    return ScaledNumber(m, jnp.where(masked, LOWEST, n))


class Running(NamedTuple):
    """A sum of exponentials of what is below the maximum so far, which is kept beside it."""

    top: Array
    total: Array


def _online(x: Array, lanes: int) -> Array:
    def join(a: Running, b: Running) -> Running:
        top = jnp.maximum(a.top, b.top)
        base = jnp.where(top == -jnp.inf, 0.0, top)  # of minus infinities alone nothing is added
        return Running(top, a.total * exp(a.top - base) + b.total * exp(b.top - base))

    found = _in_lanes(lambda one: Running(one, jnp.ones_like(one)), join, x, lanes)
    return exp(x - found.top) / found.total


class ScaledWord(NamedTuple):
    """The number ``significand * 2**exponent``, in three float32 arrays."""

    significand: DoubleWord
    exponent: Array


def _three_pass_compensated(x: Array, lanes: int) -> Array:
    """Three passes in which neither ``x - max`` nor a sum of exponentials is rounded."""

    def start(differences: DoubleWord) -> DoubleWord:
        one = _word(*differences)
        return _scaled(one.significand, one.exponent)

    differences = double_word.two_sum(x, -x.max(0))
    total = _in_lanes(start, double_word.plus, differences, lanes)
    one = _word(*differences)
    return scaled(double_word.quotient(one.significand, total), one.exponent)


def _two_pass_compensated(x: Array, lanes: int) -> Array:
    def join(a: ScaledWord, b: ScaledWord) -> ScaledWord:
        top = jnp.maximum(a.exponent, b.exponent)
        kept = (_scaled(one.significand, one.exponent - top) for one in (a, b))
        return ScaledWord(double_word.plus(*kept), top)

    start = lambda x: _word(x, jnp.zeros_like(x))  # noqa: E731
    one, total = start(x), _in_lanes(start, join, x, lanes)
    result = double_word.quotient(one.significand, total.significand)
    return scaled(result, one.exponent - total.exponent)


def _word(x: Array, rest: Array) -> ScaledWord:
    """Exponentials, that of minus infinity being zero, and that of infinity NaN."""
    finite = jnp.isfinite(x)
    m, n = double_word.exponential(x, rest)
    masked = x == -jnp.inf
    beyond = jnp.where(masked, 0.0, jnp.nan)
    m = DoubleWord(jnp.where(finite, m.high, beyond), jnp.where(finite, m.low, 0.0))
    return ScaledWord(m, jnp.where(masked, LOWEST, n))


def _scaled(x: DoubleWord, exponent: Array) -> DoubleWord:
    return DoubleWord(*(scaled(part, exponent) for part in x))


def _in_lanes(start: Callable, join: Callable, x: Any, lanes: int) -> Any:
    """The elements joined one after the other in some sums, and these two by two."""

    def split(x: Array) -> Array:
        absent = jnp.full((-len(x) % lanes, *x.shape[1:]), -jnp.inf)
        return jnp.concatenate([x, absent]).reshape(-1, lanes, *x.shape[1:])

    rows = jax.tree.map(split, x)
    first, others = (jax.tree.map(operator.itemgetter(n), rows) for n in (0, slice(1, None)))
    state, _ = lax.scan(lambda s, row: (join(s, start(row)), None), start(first), others)
    while lanes > 1:
        half, odd = lanes // 2, lanes % 2
        first, second, rest = (
            jax.tree.map(operator.itemgetter(part), state)
            for part in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        )
        state = jax.tree.map(lambda *z: jnp.concatenate(z), join(first, second), rest)
        lanes = half + odd
    return jax.tree.map(operator.itemgetter(0), state)


SOFTMAXES = {
    "three_pass": _three_pass,
    "two_pass": _two_pass,
    "base2": _base2,
    "online": _online,
    "three_pass_compensated": _three_pass_compensated,
    "two_pass_compensated": _two_pass_compensated,
}
