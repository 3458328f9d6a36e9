"""Elementary functions as hardware computes them: programs of additions, products and shifts.

Each is an ordinary JAX function of float32 numbers, in few steps: a reduction of the argument, a
polynomial or a seed that Newton's iteration improves, and an exponent that is put together from
bits. Under ``qsim.simulate(fn, "all=e5m10")`` the result of every step is rounded to a format;
constants, integers and the moving of bits are left as they are. On their own they are float32
programs, whose errors docs/functions.md lists; back ends flush results that are subnormal to zero.
Their derivatives are those of the real functions.

Sources: W. J. Cody and W. Waite, Software Manual for the Elementary Functions, 1980 (reductions);
J.-M. Muller, Elementary Functions, 3rd ed., 2016, chapters 4, 5 and 11; S. L. Moshier, Methods and
Programs for Mathematical Functions, 1989 (the polynomial of tanh); FreeBSD's ``e_logf.c`` (that of
log).
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from qsim.numbers.grid import CARRIERS
from qsim.numbers.rounding import require_single
from qsim.numbers.significands import unpacked

__all__ = [
    "ScaledNumber",
    "exp",
    "exp2",
    "extended_exp",
    "gelu_tanh",
    "log",
    "reciprocal",
    "rsqrt",
    "scaled",
    "sigmoid",
    "tanh",
]

Operand = Float[ArrayLike, "..."]
Result = Float[Array, "..."]

SINGLE = CARRIERS["float32"]
LOG2_E = float.fromhex("0x1.715476p+0")
# ln 2 in parts of eight bits, of which products with integers of 16 bits are exact, and the rest
LN2_PARTS = tuple(
    float.fromhex(part) for part in ("0x1.62p-1", "0x1.c8p-10", "0x1.7ep-20", "0x1.7d1cf8p-28")
)
# of (exp(t) - 1 - t) / t**2 for |t| <= ln(2) / 2, from the highest power down: fitted at Chebyshev
# nodes, by least squares of exp's own error, one coefficient after the other rounded to float32
EXP = tuple(
    float.fromhex(c)
    for c in ("0x1.6d56f2p-10", "0x1.124414p-7", "0x1.5554e0p-5", "0x1.555482p-3", "0x1p-1")
)
LN2_HIGH, LN2_LOW = float.fromhex("0x1.62E300p-1"), float.fromhex("0x1.2FEFA2p-17")
LOG = (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693)
TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
LEAST = SINGLE.quantum  # the exponent of the smallest subnormal number; that of zero is lower
MOST = 45000.0  # whose products with log2(e) are integers of 16 bits
SMALL = 0.625  # up to which tanh is a polynomial
ROOT_2_OVER_PI, CUBIC = 0.7978845608028654, 0.044715


def _with_derivative_of(real: Callable) -> Callable:
    """Gives a program of float32 numbers the derivative of a function; bits have none."""

    def decorate(program: Callable[[Result], Result]) -> Callable[[Operand], Result]:
        run = jax.custom_jvp(program)

        @run.defjvp
        def _(primals, tangents):
            return run(*primals), jax.jvp(real, primals, tangents)[1]

        @wraps(program)
        def function(x: Operand) -> Result:
            return run(_single(x))

        return function

    return decorate


class ScaledNumber(NamedTuple):
    """A number ``significand * 2**exponent`` whose exponent is a float, and cannot overflow.

    Attributes:
        significand, exponent: float32 arrays; exponents are integers.
    """

    significand: Array
    exponent: Array


@_with_derivative_of(jnp.exp)
def exp(x: Result) -> Result:
    """The exponential function.

    Args:
        x: floats of at most 32 bits.

    Raises:
        TypeError: for other numbers.

    >>> exp(jnp.array([0.0, 1.0, -200.0])).tolist()
    [1.0, 2.7182817459106445, 0.0]
    """
    x = jnp.clip(x, -104.0, 89.0)  # beyond, it is 0 and infinity anyway
    return scaled(*extended_exp(x))


@_with_derivative_of(jnp.exp2)
def exp2(x: Result) -> Result:
    """Two to a power; arguments and errors as for ``exp``.

    >>> exp2(jnp.array([-1.0, 0.5, 10.0])).tolist()
    [0.5, 1.4142135381698608, 1024.0]
    """
    x = jnp.clip(x, -151.0, 129.0)
    n = jnp.round(x)
    return scaled(_exp_near_zero((x - n) * 0.6931471805599453), n)


def extended_exp(x: Operand) -> ScaledNumber:
    """The exponential function without overflow, for arguments up to 45,000 in magnitude.

    Beyond that it is what it is at the end of that range. The reduction is exact but for its last
    step: see ``LN2_PARTS``. Arguments and errors as for ``exp``.

    Source: M. Dukhan and A. Ablavatski, arXiv:2001.04438, algorithm 4 (which reduces in two steps).

    >>> significand, exponent = extended_exp(jnp.array([1000.0]))
    >>> exponent.tolist()
    [1443.0]
    """
    x = jnp.clip(_single(x), -MOST, MOST)
    n = jnp.round(x * LOG2_E)
    t = x
    for part in LN2_PARTS:
        t = t - n * part
    return ScaledNumber(_exp_near_zero(t), n)


def scaled(significand: Result, exponent: Result) -> Result:
    """``significand * 2**exponent``, for exponents that are integers, in two exact factors or one.

    >>> scaled(jnp.array([1.5]), jnp.array([-3.0])).tolist()
    [0.1875]
    """
    n = jnp.clip(exponent, -252.0, 252.0).astype(jnp.int32)
    half = n >> 1
    return significand * _power_of_two(half) * _power_of_two(n - half)


@_with_derivative_of(jnp.log)
def log(x: Result) -> Result:
    """The natural logarithm; arguments and errors as for ``exp``.

    That of zero is minus infinity, below zero it is NaN.

    >>> log(jnp.array([1.0, 10.0, 0.0])).tolist()
    [0.0, 2.3025851249694824, -inf]
    """
    m, e, negative = _parts(x)
    low = m < 1.4142135381698608
    n = jnp.where(low, e, e + 1).astype(jnp.float32)
    f = jnp.where(low, m, m * 0.5) - 1.0
    s = f / (2.0 + f)
    z = s * s
    rest = z * horner(z, LOG)
    half = f * f * 0.5
    result = n * LN2_HIGH - ((half - (s * (half + rest) + n * LN2_LOW)) - f)
    result = jnp.where(jnp.isinf(x), x, result)
    result = jnp.where(negative | jnp.isnan(x), jnp.nan, result)
    return _chosen(jnp.where(e < LEAST, -jnp.inf, result))


@_with_derivative_of(jnp.reciprocal)
def reciprocal(x: Result) -> Result:
    """``1 / x`` by Newton's iteration; arguments and errors as for ``exp``.

    Of a zero it is infinite, of its sign.

    >>> reciprocal(jnp.array([4.0, -0.1, 0.0])).tolist()
    [0.25, -10.0, inf]
    """
    m, e, _ = _parts(x)
    r = 24 / 17 - 8 / 17 * m
    for _ in range(4):
        r = r + r * (1.0 - m * r)
    magnitude = scaled(r, -e.astype(jnp.float32))
    magnitude = jnp.where(e < LEAST, jnp.inf, jnp.where(jnp.isinf(x), 0.0, magnitude))
    return _chosen(jnp.where(jnp.isnan(x), x, jnp.copysign(magnitude, x)))


@_with_derivative_of(lax.rsqrt)
def rsqrt(x: Result) -> Result:
    """One over the square root, by Newton's iteration; arguments and errors as for ``exp``.

    Of a zero it is infinite, of its sign; below zero it is NaN.

    >>> rsqrt(jnp.array([4.0, 0.01, 0.0])).tolist()
    [0.5, 10.0, inf]
    """
    m, e, negative = _parts(x)
    odd = e & 1
    m = jnp.where(odd == 1, m * 2.0, m)
    pattern = lax.bitcast_convert_type(m, jnp.uint32)
    seed = lax.bitcast_convert_type(jnp.uint32(0x5F3759DF) - (pattern >> 1), jnp.float32)
    r = _chosen(seed)
    for _ in range(4):
        r = r + r * (0.5 - 0.5 * m * r * r)
    result = scaled(r, -((e - odd) >> 1).astype(jnp.float32))
    result = jnp.where(jnp.isinf(x), 0.0, result)
    result = jnp.where(negative | jnp.isnan(x), jnp.nan, result)
    return _chosen(jnp.where(e < LEAST, jnp.copysign(jnp.inf, x), result))


@_with_derivative_of(jnp.tanh)
def tanh(x: Result) -> Result:
    """The hyperbolic tangent; arguments and errors as for ``exp``.

    >>> tanh(jnp.array([-jnp.inf, 0.0, 0.5])).tolist()
    [-1.0, 0.0, 0.46211716532707214]
    """
    z = x * x
    small = x + x * (z * horner(z, TANH))
    large = 1.0 - 2.0 / (exp(2.0 * jnp.abs(x)) + 1.0)
    return jnp.copysign(jnp.where(jnp.abs(x) < SMALL, small, large), x)


@_with_derivative_of(jax.nn.sigmoid)
def sigmoid(x: Result) -> Result:
    """``1 / (1 + exp(-x))``; arguments and errors as for ``exp``.

    >>> sigmoid(jnp.array([0.0, 2.0, -jnp.inf])).tolist()
    [0.5, 0.8807970285415649, 0.0]
    """
    small = exp(-jnp.abs(x))
    return jnp.where(x < 0, small, 1.0) / (1.0 + small)


@_with_derivative_of(jax.nn.gelu)
def gelu_tanh(x: Result) -> Result:
    """The Gaussian error linear unit in its form with tanh; arguments and errors as for ``exp``.

    ``x * (1 + tanh(u)) / 2`` with ``u = sqrt(2/pi) * (x + 0.044715 x**3)``; not the form with erf,
    which ``qsim.functions.real`` has by the name of ``gelu``. With ``1 + tanh(u) = 2 sigmoid(2 u)``
    nothing cancels.

    Source: D. Hendrycks and K. Gimpel, arXiv:1606.08415, section 2.

    >>> gelu_tanh(jnp.array([1.0, -1.0])).tolist()
    [0.8411920070648193, -0.15880799293518066]
    """
    u = ROOT_2_OVER_PI * (x + CUBIC * (x * x * x))
    return jnp.maximum(x, -1e30) * sigmoid(2.0 * u)  # minus infinity by zero is none


# --- steps --------------------------------------------------------------------------------------


def _single(x: Operand) -> Result:
    """``x`` in float32.

    Raises:
        TypeError: if it is no float, or a float64.
    """
    return require_single(x, "these programs")


def _chosen(x: Result) -> Result:
    """``x`` as the result of an operation: a policy does not round what is chosen, nor bits."""
    return x * 1.0


def _exp_near_zero(t: Result) -> Result:
    return 1.0 + (t + t * t * horner(t, EXP))


def horner(x: Result, coefficients: tuple[float, ...]) -> Result:
    """A polynomial, from its highest coefficient down."""
    total = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def _power_of_two(n: Array) -> Result:
    """Two to an integer power that is a normal number."""
    return lax.bitcast_convert_type((n + SINGLE.bias) << SINGLE.mantissa_bits, jnp.float32)


class Parts(NamedTuple):
    """The parts of a number, from its bits: back ends take subnormal numbers for zeros.

    Attributes:
        significand: of its magnitude, float32 from 1 to 2.
        exponent: int32; of zero it is below ``LEAST``.
        negative: whether its sign bit is set.
    """

    significand: Array
    exponent: Array
    negative: Array


def _parts(x: Result) -> Parts:
    negative, _, exponent, significand = unpacked(x)
    fraction = significand & jnp.uint32((1 << SINGLE.mantissa_bits) - 1)
    one = jnp.uint32(SINGLE.bias << SINGLE.mantissa_bits)
    from_one_to_two = lax.bitcast_convert_type(fraction | one, jnp.float32)
    return Parts(from_one_to_two, exponent, negative)
