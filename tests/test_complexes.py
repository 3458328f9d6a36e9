"""Complex numbers round to the root of unity of nearest phase, exactly."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qsim
from qsim import RootsOfUnity, parse
from tests.unchecked import unchecked

COUNTERCLOCKWISE = [1, 1j, -1, -1j]
PARTS = [0.0, 1.0, 1.5, 2.0**-149, 2.0**-126, 3.4e38, np.inf, np.nextafter(1, 2, dtype="float32")]


def root(x: complex) -> complex:
    """The root from its definition: phases from 45 degrees before it, which are its own, to after.

    A phase lies from 45 degrees before r on if ``(x / r) (1 + i)`` lies in the first quadrant, its
    imaginary axis left out: that is the quadrant turned back by 45 degrees.
    """
    a, b = (float(part) for part in (x.real, x.imag))
    if np.isinf(a) or np.isinf(b):  # the phase of infinity is that of its infinite parts
        a, b = (np.sign(part) if np.isinf(part) else 0.0 for part in (a, b))
    a, b = Fraction(a), Fraction(b)
    if a == b == 0:
        return 1
    for turned in COUNTERCLOCKWISE:
        if a + b > 0 and a - b <= 0 and turned == 1j:
            return turned
        if a - b > 0 and a + b >= 0 and turned == 1:
            return turned
        if a + b <= 0 and a - b < 0 and turned == -1:
            return turned
        if a - b >= 0 and a + b < 0 and turned == -1j:
            return turned
    raise AssertionError(x)


def grid_of(parts) -> np.ndarray:
    signed = np.array([*parts, *(-np.array(parts))], np.float32)
    return np.array([complex(a, b) for a in signed for b in signed], np.complex64)


def test_every_quadrant_diagonal_and_extreme():
    x = grid_of(PARTS)
    rounded = np.asarray(qsim.quantize(x, "roots4"))
    expected = np.array([root(complex(number)) for number in x], np.complex64)
    assert rounded.dtype == np.complex64
    assert (rounded + 0).tobytes() == (expected + 0).tobytes()


def test_diagonals_go_counterclockwise():
    x = jnp.array([1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j], jnp.complex64)
    assert qsim.quantize(x, "roots4").tolist() == [1j, -1, -1j, 1]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=32, max_size=32))
def test_any_number_has_the_nearest_phase(parts):
    x = np.array(parts, np.float32).view(np.complex64)
    expected = [root(complex(number)) for number in x]
    assert np.asarray(qsim.quantize(x, "roots4")).tolist() == expected


def test_zero_becomes_one_and_no_part_is_minus_zero():
    zeros = np.array([complex(a, b) for a in (0.0, -0.0) for b in (0.0, -0.0)], np.complex64)
    assert qsim.quantize(zeros, "roots4").tolist() == [1] * 4
    parts = np.asarray(qsim.quantize(grid_of(PARTS), "roots4")).view(np.uint32)
    assert 0x80000000 not in parts


@pytest.mark.parametrize("x", [complex(np.nan, 1), complex(1, np.nan), complex(np.inf, np.nan)])
def test_nan_stays_nan(x):
    parts = np.asarray(qsim.quantize(np.complex64(x)[None], "roots4")).view(np.uint32)
    assert parts.tolist() == [0x7FC00000] * 2


def test_all_transformations_give_the_same_bytes():
    x = jnp.asarray(grid_of(PARTS))
    alone = np.asarray(qsim.quantize(x, "roots4")).tobytes()
    quantize = lambda x: qsim.quantize(x, "roots4")  # noqa: E731
    assert np.asarray(jax.jit(quantize)(x)).tobytes() == alone
    assert np.asarray(jax.vmap(quantize)(x)).tobytes() == alone
    with jax.disable_jit():
        assert np.asarray(quantize(x)).tobytes() == alone


def test_complex128_with_x64():
    with jax.enable_x64(True):
        x = np.array([1 + 1.0000000000000002j, 1 - 1j, 1e-320 + 0j])
        rounded = qsim.quantize(x, "roots4")
        assert rounded.dtype == np.complex128 and rounded.tolist() == [1j, 1, 1]


def test_the_derivative_is_straight_through():
    x, tangent = jnp.array([1 + 3j, 2 - 1j]), jnp.array([0.5 + 2j, -1j])
    root_of, slope = jax.jvp(lambda x: qsim.quantize(x, "roots4"), (x,), (tangent,))
    assert root_of.tolist() == [1j, 1] and slope.tolist() == tangent.tolist()
    norm = lambda x: (qsim.quantize(x, "roots4") * (1 + 0j)).real.sum()  # noqa: E731
    assert jax.grad(norm)(x).tolist() == [1, 1]


def test_products_with_roots_are_exact():
    """Multiplying by a root swaps and negates parts, so that no product is rounded."""
    w = qsim.quantize(jnp.asarray(grid_of([0.3, 2.0, 0.7])), "roots4")
    assert set(np.asarray(w).tolist()) == {1, 1j, -1, -1j}
    x = np.complex64(0.1 + 0.7j)
    swapped = {1: x, 1j: complex(-x.imag, x.real), -1: -x, -1j: complex(x.imag, -x.real)}
    assert (np.asarray(w) * x).tolist() == [np.complex64(swapped[r]) for r in w.tolist()]


def test_the_format_has_a_name():
    assert parse("roots4") == RootsOfUnity() and str(parse(" ROOTS4 ")) == "roots4"
    assert parse("roots4").bits == 2


@pytest.mark.parametrize(
    ("x", "fmt", "fields", "error", "message"),
    [
        (np.ones(2, np.float32), "roots4", {}, TypeError, "roots4 rounds complex64.*got float32"),
        (1.0, "roots4", {}, TypeError, "complex64 arrays, got float: write x"),
        (np.ones(2, np.complex64), "e4m3", {}, TypeError, "'roots4' alone rounds complex numbers"),
        (np.ones(2, np.complex64), "nf4", {}, TypeError, "got complex64"),
        (np.ones(2), "roots4", {}, TypeError, "got float64"),
        (np.ones(2, np.complex128), "roots4", {}, TypeError, "complex128 would be truncated"),
        (np.ones(2, np.complex64), "roots4", {"rounding": "up"}, ValueError, "nearest phase"),
        (np.ones(2, np.complex64), "roots4", {"overflow": "wrap"}, ValueError, "wrap"),
    ],
)
def test_what_is_not_for_roots_is_refused(x, fmt, fields, error, message):
    with unchecked(), pytest.raises(error, match=message):
        qsim.quantize(x, fmt, **fields)


def test_roots_have_no_grid():
    for refused in (
        lambda: qsim.lower(parse("roots4")),
        lambda: qsim.policy(weights="roots4").lower(),
        lambda: qsim.decode(jnp.arange(4), "roots4"),
        lambda: qsim.numbers.exact.decode(parse("roots4"), 0),
    ):
        with pytest.raises(ValueError, match="roots4 has complex values"):
            refused()
