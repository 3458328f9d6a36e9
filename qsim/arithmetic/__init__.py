"""What an operation does: the exact real result, rounded as the emulated hardware rounds it."""

from qsim.arithmetic.elementwise import add, divide, fma, multiply, sqrt, subtract
from qsim.arithmetic.error_free import fast_two_sum, grow, two_product, two_sum

__all__ = [
    "add",
    "divide",
    "fast_two_sum",
    "fma",
    "grow",
    "multiply",
    "sqrt",
    "subtract",
    "two_product",
    "two_sum",
]
