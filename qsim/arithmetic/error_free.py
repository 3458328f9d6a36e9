"""Error-free transformations: an operation in an emulated format, and what its rounding took away.

With every operation rounded to nearest in the format of the operands, and no overflow::

    s, e = two_sum(a, b)       s = round(a + b),  s + e = a + b
    p, e = two_product(a, b)   p = round(a * b),  p + e = a * b, if e is a value of the format

They are what arithmetic on multi-component floats is made of. Operands are values of the format.

Sources: D. E. Knuth, The Art of Computer Programming 2, 4.2.2 (two_sum); T. J. Dekker, Numer. Math.
18, 1971 (fast_two_sum); T. Ogita, S. M. Rump and S. Oishi, SIAM J. Sci. Comput. 26(6), 2005
(two_product by fused multiply-add); Collage, arXiv:2405.03637 (grow).
"""

from functools import partial

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.arithmetic.elementwise import add, fma, multiply, subtract
from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid

__all__ = ["fast_two_sum", "grow", "two_product", "two_sum"]

Operand = Float[ArrayLike, "..."]
Pair = tuple[Float[Array, "..."], Float[Array, "..."]]


def two_sum(
    a: Operand, b: Operand, fmt: str | Format | Grid, *, overflow: str = "saturate"
) -> Pair:
    """The rounded sum and its error, in six operations, for operands of any magnitudes.

    Args:
        a, b: arrays of values of the format.
        fmt: the format of operands, sum and error.
        overflow: as for ``qsim.quantize``; a sum that overflows has no meaningful error.

    Raises:
        TypeError, ValueError: as ``qsim.arithmetic.add``.

    >>> import jax.numpy as jnp
    >>> [x.tolist() for x in two_sum(jnp.array([1.0]), jnp.array([0.001953125]), "e4m3")]
    [[1.0], [0.001953125]]
    """
    plus, minus = (partial(f, fmt=fmt, overflow=overflow) for f in (add, subtract))
    total = plus(a, b)
    of_b = minus(total, a)
    of_a = minus(total, of_b)
    return total, plus(minus(a, of_a), minus(b, of_b))


def fast_two_sum(
    a: Operand, b: Operand, fmt: str | Format | Grid, *, overflow: str = "saturate"
) -> Pair:
    """The rounded sum and its error, in three operations, where no ``b`` is larger than its ``a``.

    Arguments and errors as for ``two_sum``.

    >>> import jax.numpy as jnp
    >>> [x.tolist() for x in fast_two_sum(jnp.array([16.0]), jnp.array([0.5]), "e4m3")]
    [[16.0], [0.5]]
    """
    total = add(a, b, fmt, overflow=overflow)
    of_b = subtract(total, a, fmt, overflow=overflow)
    return total, subtract(b, of_b, fmt, overflow=overflow)


def two_product(
    a: Operand, b: Operand, fmt: str | Format | Grid, *, overflow: str = "saturate"
) -> Pair:
    """The rounded product and its error, by a fused multiply-add.

    Arguments and errors as for ``two_sum``.

    >>> import jax.numpy as jnp
    >>> [x.tolist() for x in two_product(jnp.array([1.125]), jnp.array([1.125]), "e4m3")]
    [[1.25], [0.015625]]
    """
    product = multiply(a, b, fmt, overflow=overflow)
    return product, fma(a, b, -product, fmt, overflow=overflow)


def grow(
    high: Operand, low: Operand, a: Operand, fmt: str | Format | Grid, *, overflow: str = "saturate"
) -> Pair:
    """The pair ``high + low`` after ``a``, not larger than ``high``, was added to it.

    Arguments and errors as for ``two_sum``.

    >>> import jax.numpy as jnp
    >>> high, low = jnp.array([1.0]), jnp.array([0.0])
    >>> [x.tolist() for x in grow(high, low, jnp.array([0.015625]), "e4m3")]
    [[1.0], [0.015625]]
    """
    total, error = fast_two_sum(high, a, fmt, overflow=overflow)
    return fast_two_sum(total, add(low, error, fmt, overflow=overflow), fmt, overflow=overflow)
