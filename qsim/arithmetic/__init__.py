"""What an operation does: the exact real result, rounded as the emulated hardware rounds it."""

from qsim.arithmetic.elementwise import add, divide, fma, multiply, sqrt, subtract

__all__ = ["add", "divide", "fma", "multiply", "sqrt", "subtract"]
