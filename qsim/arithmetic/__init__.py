"""What an operation does: the exact real result, rounded as the emulated hardware rounds it."""

from qsim.arithmetic.accumulator import Accumulator
from qsim.arithmetic.contraction import matmul
from qsim.arithmetic.elementwise import add, divide, fma, multiply, sqrt, subtract
from qsim.arithmetic.error_free import fast_two_sum, grow, two_product, two_sum

__all__ = [
    "Accumulator",
    "add",
    "divide",
    "fast_two_sum",
    "fma",
    "grow",
    "matmul",
    "multiply",
    "sqrt",
    "subtract",
    "two_product",
    "two_sum",
]
