"""Arithmetic in emulated formats: the exact real result of an operation, rounded once.

Each operation here is, for numbers a and b of any formats and a result format F::

    operation(a, b, F) = round_to_F(the real number a operation b)

The operands are arrays whose elements are taken for exact numbers, as they are. The real result
is rounded to odd in the carrier (``qsim.arithmetic.odd``) and then to the format, which is as good
as one rounding where the format's gaps are wide enough: see ``require_room``. Zeros, infinities
and NaNs follow IEEE 754; what the result format lacks of them is the overflow policy's affair.

Source: IEEE 754-2019, 5.1 and 5.4.1 (operations as if to infinite precision, then rounded).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.arithmetic import odd
from qsim.arithmetic.room import require_room
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Grid
from qsim.numbers.modes import Rounding, check_overflow
from qsim.numbers.random_bits import Key
from qsim.numbers.rounding import quantize, require_float, widen
from qsim.numbers.specs import format_of

__all__ = ["add", "divide", "fma", "multiply", "sqrt", "subtract"]

Operand = Float[ArrayLike, "..."]
Result = Float[Array, "..."]

# name: the result rounded to odd, and the function whose derivative is the operation's
OPERATIONS = {
    "add": (odd.total, jnp.add),
    "subtract": (odd.difference, jnp.subtract),
    "multiply": (odd.product, jnp.multiply),
    "divide": (odd.quotient, jnp.divide),
    "sqrt": (odd.root, jnp.sqrt),
    "fma": (odd.fused, lambda a, b, c: a * b + c),
}


def add(a: Operand, b: Operand, fmt: str | Format | Grid, **modes) -> Result:
    """``a + b`` rounded once to a format.

    Args:
        a, b: floating-point arrays, broadcast against each other. A Python float takes the dtype
            of the other operand.
        fmt: the result's format: a spec string, a ``Format``, a ``Grid`` or a stacked ``Grid``,
            which adds its leading axes in front.
        modes: ``rounding``, ``overflow``, ``key`` and ``gradient`` as for ``qsim.quantize``.

    The result is float32, or float64 for float64 operands. An exact zero from numbers of unlike
    signs is plus zero, but minus zero when rounding down. Infinity less infinity is NaN. The
    derivative is that of the real function, passed on as ``gradient`` says.

    Raises:
        TypeError: for operands that are no floats, or float64 beside narrower ones.
        ValueError: for an unknown mode, or a format too precise for the carrier: see
            ``require_room``.

    >>> add(jnp.array([1.0, 240.0]), jnp.array([0.0625, 240.0]), "e4m3").tolist()
    [1.0, 240.0]
    """
    return _rounded("add", (a, b), fmt, **modes)


def subtract(a: Operand, b: Operand, fmt: str | Format | Grid, **modes) -> Result:
    """``a - b`` rounded once to a format; arguments and errors as for ``add``.

    >>> subtract(jnp.array([1.0]), jnp.array([0.03125]), "e4m3", rounding="down").tolist()
    [0.9375]
    """
    return _rounded("subtract", (a, b), fmt, **modes)


def multiply(a: Operand, b: Operand, fmt: str | Format | Grid, **modes) -> Result:
    """``a * b`` rounded once to a format; arguments and errors as for ``add``.

    Zero times infinity is NaN.

    >>> multiply(jnp.array([1.125, 2.0**-6]), jnp.array([1.125, 0.125]), "e4m3").tolist()
    [1.25, 0.001953125]
    """
    return _rounded("multiply", (a, b), fmt, **modes)


def divide(a: Operand, b: Operand, fmt: str | Format | Grid, **modes) -> Result:
    """``a / b`` rounded once to a format; arguments and errors as for ``add``.

    A number other than zero, divided by zero, is infinite; zero by zero and infinity by infinity
    are NaN.

    >>> divide(jnp.array([1.0, 1.0]), jnp.array([3.0, -0.0]), "e4m3", overflow="ieee").tolist()
    [0.34375, -inf]
    """
    return _rounded("divide", (a, b), fmt, **modes)


def sqrt(a: Operand, fmt: str | Format | Grid, **modes) -> Result:
    """The square root of ``a`` rounded once to a format; arguments and errors as for ``add``.

    That of minus zero is minus zero; below zero it is NaN.

    >>> sqrt(jnp.array([2.0, 9.0]), "e4m3").tolist()
    [1.375, 3.0]
    """
    return _rounded("sqrt", (a,), fmt, **modes)


def fma(a: Operand, b: Operand, c: Operand, fmt: str | Format | Grid, **modes) -> Result:
    """``a * b + c`` rounded once to a format, the product being exact; otherwise as ``add``.

    >>> fma(jnp.array([1.125]), jnp.array([1.125]), jnp.array([-1.25]), "e4m3").tolist()
    [0.015625]
    """
    return _rounded("fma", (a, b, c), fmt, **modes)


def _rounded(
    name: str,
    operands: tuple,
    fmt: str | Format | Grid,
    *,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    key: Key | None = None,
    gradient: str = "clipped",
) -> Result:
    mode, policy = Rounding.parse(rounding), check_overflow(overflow)
    carried = _carried(operands)
    carrier = CARRIERS[carried[0].dtype.name]
    if not isinstance(fmt, Grid):
        fmt = format_of(fmt)
    _check_policy(policy)
    require_room(fmt, mode, carrier)
    # what is beyond the carrier's range overflows for sure, and not with a probability
    certain = mode.is_stochastic and policy in ("ieee", "p3109")
    huge = "infinity" if certain else "largest"
    exact = _to_odd(name, mode.mode == "down", huge, *jnp.broadcast_arrays(*carried))
    return quantize(exact, fmt, rounding=rounding, overflow=overflow, key=key, gradient=gradient)


def _check_policy(policy: str) -> None:
    if policy == "wrap":
        raise ValueError(
            "overflow='wrap' keeps the lowest bits of a result, which may be beyond those that the "
            "carrier holds: compute with the codes, qsim.encode(a, fmt), which wrap by themselves"
        )


def _carried(operands: tuple) -> list[Array]:
    """The operands in one carrier."""
    arrays = [widen(require_float(x)) for x in operands if type(x) is not float]
    names = {x.dtype.name for x in arrays}
    if len(names) > 1:
        raise TypeError(
            "operands are float64 and narrower ones: cast all to float64, since back ends flush "
            "float32 subnormals when they convert"
        )
    if not names:
        return [require_float(x) for x in operands]
    dtype = arrays[0].dtype
    return [
        jnp.asarray(x, dtype) if type(x) is float else widen(require_float(x)) for x in operands
    ]


# --- the derivative -------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1, 2))
def _to_odd(name: str, down: bool, huge: str, *operands):
    """One call also where nothing else is compiled."""
    return _differentiable(name, down, huge, *operands)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _differentiable(name: str, down: bool, huge: str, *operands):
    return OPERATIONS[name][0](*map(odd.operand, operands), down=down, huge=huge)


@_differentiable.defjvp
def _jvp(name: str, down: bool, huge: str, primals, tangents):
    real = OPERATIONS[name][1]
    return _differentiable(name, down, huge, *primals), jax.jvp(real, primals, tangents)[1]
