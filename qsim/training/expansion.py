"""Dynamic range expansion: numbers whose range is narrower than a format's are spread over it.

In a group of numbers whose magnitudes above zero lie between i and a, with the centre c, the
exponent k and the scale t::

    c = sqrt(a * i),   k = log(R) / log(a / i),   t = (a / c)**k / largest
    q = round(sign(x) * (|x| / c)**k / t, to the format)
    x is about sign(q) * (|q| * t)**(1 / k) * c

so that the ratio a / i becomes R, the ratio that the format holds. Moments of Adam cover few
binades in a group, and gain precision. Two forms differ in R and k:

- ``"kernel"``, as the published code does it: R = largest**2 / 2, which is 100352 for E4M3, and k
  is rounded down to a multiple of 1/16;
- ``"range"``, as the paper writes it: R = largest / smallest, which is 229376, and k as it comes.

Sources: H. Xi et al., COAT: Compressing optimizer states and activation for memory-efficient FP8
training, arXiv:2410.19313, 4; NVlabs/COAT, its kernel and its test (k is at most 8, magnitudes are
at least 1e-30, zeros do not count for i).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.numbers.formats import Format
from qsim.numbers.grid import Carrier, Grid, carrier_of, word
from qsim.numbers.modes import Rounding, require_one_of
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.random_bits import Key, check_key
from qsim.numbers.records import require
from qsim.numbers.rounding import quantize, require_float, widen
from qsim.scales.arithmetic import absolute, number, split_magnitude
from qsim.training.scaled_rounding import as_grid, largest_of

__all__ = ["FORMS", "Expanded", "Expansion", "contract", "expand", "range_of"]

FORMS = {
    "kernel": "largest**2 / 2, and k rounded down to a multiple of 1/16",
    "range": "largest / smallest, and k as it comes",
}
LEAST = 1e-30  # added to magnitudes, lest their ratio be infinite
MOST = 8.0  # the largest exponent
STEPS = 16  # of the exponent in the form of the kernel


@pytree
@dataclass(frozen=True, kw_only=True)
class Expanded:
    """An array whose range is expanded, as it is stored.

    Attributes:
        values: ``[groups, group]``, values of the format; the last group is filled up with zeros.
        scale: ``[groups]``, t.
        exponent: ``[groups]``, k, above zero and at most 8.
        centre: ``[groups]``, c.
        shape: of the array, static.

    ``x is about sign(values) * (|values| * scale)**(1 / exponent) * centre``.
    """

    values: Any
    scale: Any
    exponent: Any
    centre: Any
    shape: tuple[int, ...] = static()


def expand(
    x: Float[ArrayLike, "..."],
    fmt: str | Format | Grid = "e4m3fn",
    *,
    group: int = 128,
    form: str = "kernel",
    rounding: str = "ties_to_even",
    key: Key | None = None,
) -> Expanded:
    """An array on a format, the range of every group expanded to that of the format.

    Args:
        x: floats of any shape; groups are consecutive numbers in row-major order.
        fmt: a spec string, a ``Format`` or a single ``Grid``.
        group: how many numbers share a scale, an exponent and a centre; the last ones may be
            fewer.
        form: a key of ``FORMS``.
        rounding, key: as for ``qsim.quantize``.

    Logarithms and powers are those of the back end, whose last bits differ among back ends.

    Raises:
        TypeError: as ``qsim.quantize``.
        ValueError: as ``qsim.quantize``; for an unknown form, or a group of no numbers.

    >>> expanded = expand(jnp.array([1.0, -1.1, 1.25, 0.0]), "e4m3fn", group=2)
    >>> expanded.values.tolist(), expanded.exponent.tolist()
    ([[208.0, -448.0], [448.0, 0.0]], [8.0, 8.0])
    """
    require(group >= 1, f"a group has one number or more, got group={group}: try 128")
    require_one_of("form", form, FORMS)
    x = widen(require_float(x))
    check_key(key, rounding)
    return _expanded(group, form, rounding, x, as_grid(fmt, x.dtype.name), key)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _expanded(group: int, form: str, rounding: str, x: Array, grid: Grid, key: Key | None):
    """One call also where nothing else is compiled."""
    count = -(-x.size // group)
    flat = jnp.pad(x.ravel(), (0, count * group - x.size)).reshape(count, group)
    magnitude = jnp.abs(flat)
    a = jnp.max(magnitude, axis=1) + LEAST
    i = jnp.min(jnp.where(magnitude > 0, magnitude, a[:, None]), axis=1) + LEAST
    centre = jnp.sqrt(a) * jnp.sqrt(i)
    exponent = _exponent(jnp.log2(a) - jnp.log2(i), grid, form)
    scale = (a / centre) ** exponent / largest_of(grid)
    expanded = jnp.sign(flat) * (magnitude / centre[:, None]) ** exponent[:, None]
    values = quantize(expanded / scale[:, None], grid, rounding=rounding, key=key)
    return Expanded(values=values, scale=scale, exponent=exponent, centre=centre, shape=x.shape)


@jax.jit
def contract(expanded: Expanded) -> Float[Array, "..."]:
    """The array that an expanded one stands for.

    >>> [round(x, 2) for x in contract(expand(jnp.array([3.0, -1.0, 0.0]))).tolist()]
    [3.0, -1.0, 0.0]
    """
    e = expanded
    magnitude = (jnp.abs(e.values) * e.scale[:, None]) ** (1 / e.exponent[:, None])
    flat = jnp.sign(e.values) * magnitude * e.centre[:, None]
    return flat.ravel()[: math.prod(e.shape)].reshape(e.shape)


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """How arrays are rounded to a format of expanded range: ``contract(expand(x))``.

    Attributes:
        fmt, group, form, rounding: as for ``expand``.

    >>> Expansion(group=2)(jnp.array([1.0, -1.0, 0.0])).tolist()
    [1.0, -1.0, 0.0]
    """

    fmt: str | Format | Grid = "e4m3fn"
    group: int = 128
    form: str = "kernel"
    rounding: str = "ties_to_even"

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return Rounding.parse(self.rounding).is_stochastic

    def __call__(self, x: Float[Array, "..."], key: Key | None = None) -> Float[Array, "..."]:
        """``x`` rounded; ``key`` is the random key that stochastic rounding needs.

        Raises:
            TypeError, ValueError: as ``expand``.
        """
        facts = {"group": self.group, "form": self.form, "rounding": self.rounding}
        return contract(expand(x, self.fmt, **facts, key=key))


def range_of(fmt: str | Format | Grid, *, form: str = "kernel") -> Float[Array, ""]:
    """The base two logarithm of the ratio R to which a format's groups are expanded.

    Raises:
        TypeError, ValueError: as ``expand``.

    >>> [round(2 ** range_of("e4m3fn", form=form).tolist()) for form in FORMS]
    [100352, 229376]
    """
    grid = fmt if isinstance(fmt, Grid) else as_grid(fmt)
    carrier = carrier_of(grid)
    largest = _log2(jnp.asarray(grid.largest), carrier)
    if form == "kernel":
        return 2 * largest - 1
    tiny = lax.bitcast_convert_type(word(1, carrier), jnp.dtype(carrier.name))
    smallest = grid.round(tiny, mode=Rounding("up"), policy="saturate")
    return largest - _log2(absolute(smallest, carrier), carrier)


def _exponent(log_ratio: Array, grid: Grid, form: str) -> Array:
    room = range_of(grid, form=form)
    exponent = jnp.where(log_ratio * MOST > room, room / log_ratio, MOST)
    return jnp.floor(exponent * STEPS) / STEPS if form == "kernel" else exponent


def _log2(magnitude: Array, carrier: Carrier) -> Array:
    """The logarithm of magnitudes, given as bit patterns, subnormal ones too."""
    exponent, fraction = split_magnitude(magnitude, carrier)
    one_to_two = number(jnp.zeros_like(exponent), fraction, carrier)
    return exponent.astype(one_to_two.dtype) + jnp.log2(one_to_two)
