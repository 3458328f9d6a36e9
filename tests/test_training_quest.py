"""QuEST: rotations, scales of least squared error for normal numbers, and trust in gradients.

Expected values come from scipy's Hadamard matrix, numerical integration, the published tables, and
the paper's formulas in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import hadamard as hadamard_of_scipy
from scipy.stats import norm

from qsim import lower, parse, stack
from qsim.training.gaussian import gaussian_clip, mid_rise
from qsim.training.hadamard import hadamard, hadamard_matrix
from qsim.training.quest import CLIPS, clip_of, quest
from tests.unchecked import unchecked

ROWS = np.float32(np.random.default_rng(31).standard_t(4, size=(12, 256)))
SLOPES = np.float32(np.random.default_rng(32).normal(size=(12, 256)))

# the optimum for 1 to 8 bits, of ternary numbers and of FP4, and the error there
OPTIMA = {
    1: (0.797885, 0.363380),
    "codebook(-1,0,1)": (1.224006, 0.190174),
    2: (1.493530, 0.118846),
    3: (2.051068, 0.037440),
    4: (2.514005, 0.011543),
    5: (2.916151, 0.003495),
    6: (3.277985, 0.001040),
    7: (3.611097, 0.000304),
    8: (3.922205, 0.0000877),
    "e2m1f": (2.922475, 0.012685),
}


def blocks(n, order):
    return np.kron(np.eye(n // order), hadamard_of_scipy(order) / np.sqrt(order))


# --- rotations ------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("order", [1, 2, 8, 128, 256])
def test_rotations_are_products_with_the_matrix(order):
    x = np.float64(ROWS)
    expected = x @ blocks(256, order)
    found = jax.jit(lambda x: hadamard(x, block=order))(ROWS)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(x).max())
    np.testing.assert_allclose(hadamard(found, block=order), x, atol=1e-5 * np.abs(x).max())
    matrix = hadamard_of_scipy(order) / np.sqrt(order)
    np.testing.assert_allclose(hadamard_matrix(order), matrix, rtol=1e-6)


def test_gradients_are_rotated_too():
    slopes = jax.grad(lambda x: jnp.sum(hadamard(x) * SLOPES))(jnp.asarray(ROWS))
    np.testing.assert_allclose(slopes, SLOPES @ blocks(256, 128), atol=1e-5)
    rows = jax.vmap(hadamard)(jnp.asarray(ROWS))
    np.testing.assert_array_equal(rows, hadamard(jnp.asarray(ROWS)))


# --- scales ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_published_clips_are_the_optimum(bits):
    assert gaussian_clip(mid_rise(bits)).clip == pytest.approx(CLIPS[bits], abs=1e-4)
    assert clip_of(bits) == CLIPS[bits]


def test_published_clips_of_more_bits_lie_below_it():
    assert all(gaussian_clip(mid_rise(bits)).clip > CLIPS[bits] + 1e-3 for bits in (6, 7, 8))


@pytest.mark.parametrize("fmt", OPTIMA, ids=str)
def test_clips_and_errors_of_the_table(fmt):
    clip, mse = gaussian_clip(mid_rise(fmt) if isinstance(fmt, int) else fmt)
    assert clip == pytest.approx(OPTIMA[fmt][0], abs=2e-6)
    assert mse == pytest.approx(OPTIMA[fmt][1], abs=1e-6)


def test_errors_are_integrals():
    """The error at the optimum, and beside it, by numerical integration over the cells."""
    levels = np.array([-5, -3, -1, 1, 3, 5, 7, -7]) / 7
    clip, mse = gaussian_clip(mid_rise(3))

    def error(clip):
        ties = np.concatenate([[-12], np.arange(-6, 7, 2) / 7 * clip, [12]])
        cells = zip(np.sort(levels) * clip, ties[:-1], ties[1:], strict=True)
        return sum(quad(lambda x: (x - v) ** 2 * norm.pdf(x), a, b)[0] for v, a, b in cells)  # noqa: B023

    assert error(clip) == pytest.approx(mse, abs=1e-9)
    assert min(error(clip * 1.001), error(clip / 1.001)) > mse


def test_other_formats_have_clips():
    """Of many values, those of a float: within a factor of two of the largest normal numbers."""
    assert 2 < gaussian_clip("int4sym").clip < 3
    assert gaussian_clip("e4m3fn").mse < 1e-3


# --- rounding -------------------------------------------------------------------------------


def by_hand(x, bits, order):
    """The paper's formulas: rotated values, rounded ones, the step, and the deviations of rows."""
    z = np.float64(x) @ blocks(256, order) if order else np.float64(x)
    deviation = np.sqrt(np.mean(z**2, axis=1, keepdims=True))
    s = CLIPS[bits] * deviation
    step = 2 * s / (2**bits - 1)
    index = np.round(np.clip(z, -s, s) / step + 0.5) - 0.5
    return (
        z,
        np.clip(index, -(2 ** (bits - 1)) + 0.5, 2 ** (bits - 1) - 0.5) * step,
        step,
        deviation,
    )


@pytest.mark.t1
@pytest.mark.parametrize("bits, order", [(1, None), (2, 16), (2, 128), (4, 128)])
def test_formulas_of_the_paper(bits, order):
    z, q, step, deviation = by_hand(ROWS, bits, order)
    fn = jax.jit(lambda x: quest(x, bits, block=order, estimator="trust", rotate_back=False))
    y, pull_back = jax.vjp(fn, jnp.asarray(ROWS))
    tie = np.abs((z / step + 0.5) % 1 - 0.5) < 1e-4
    np.testing.assert_allclose(np.where(tie, q, y), q, rtol=1e-4, atol=1e-6)
    assert tie.mean() < 0.01
    trust = np.abs(q - z) <= CLIPS[bits] / (2**bits - 1) * deviation
    edge = np.abs(np.abs(q - z) - step / 2) < 1e-3 * step
    rotated = trust * SLOPES
    slopes = pull_back(jnp.asarray(SLOPES))[0]
    back = np.asarray(slopes) @ blocks(256, order) if order else np.asarray(slopes)
    np.testing.assert_allclose(np.where(edge, rotated, back), rotated, atol=1e-4)


@pytest.mark.parametrize("estimator", ["identity", "clipped"])
def test_other_estimators(estimator):
    z, _, _, deviation = by_hand(ROWS, 2, 128)
    passes = np.abs(z) <= CLIPS[2] * deviation if estimator == "clipped" else np.ones_like(z)
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(quest(x, 2, estimator=estimator) * SLOPES)))(ROWS)
    matrix = blocks(256, 128)
    np.testing.assert_allclose(slopes, passes * (SLOPES @ matrix) @ matrix, atol=1e-4)


@pytest.mark.t1
def test_one_bit_is_clipped_by_default():
    def slope(**modes):
        return jax.jit(jax.grad(lambda x: jnp.sum(quest(x, 1, **modes) * SLOPES)))(ROWS)

    np.testing.assert_array_equal(slope(), slope(estimator="clipped"))
    assert np.any(slope() != slope(estimator="trust"))


def test_rotation_lowers_the_error_of_heavy_tails():
    x = ROWS.copy()
    x[:, ::64] *= 8
    errors = [np.mean((quest(jnp.asarray(x), 4, block=b) - x) ** 2) for b in (None, 128)]
    assert errors[1] < errors[0] / 2


def test_error_of_normal_rows_is_the_optimum():
    """Squared errors of 65536 numbers, whose deviation is about twice their mean: within 3%."""
    x = jnp.asarray(np.random.default_rng(34).normal(size=(64, 1024)), jnp.float32)
    for bits in (2, 4):
        error = np.mean(np.square(quest(x, bits) - x))
        assert error == pytest.approx(OPTIMA[bits][1], rel=0.03)


def test_products_need_no_rotation_back():
    w = jnp.asarray(np.random.default_rng(33).normal(size=(20, 256)), jnp.float32)
    full = quest(jnp.asarray(ROWS), 4) @ quest(w, 4).T
    half = quest(jnp.asarray(ROWS), 4, rotate_back=False) @ quest(w, 4, rotate_back=False).T
    np.testing.assert_allclose(half, full, atol=1e-3)


@pytest.mark.parametrize("spec, levels", [("e2m1f", 15), ("codebook(-1,0,1)", 3)])
def test_formats_beside_mid_rise(spec, levels):
    """FP4 and ternary numbers: the largest value is at the clip."""
    y = np.asarray(quest(jnp.asarray(ROWS), spec, block=None))
    deviation = np.sqrt(np.mean(np.float64(ROWS) ** 2, axis=1))
    np.testing.assert_allclose(np.abs(y).max(1), OPTIMA[spec][0] * deviation, rtol=1e-4)
    assert max(len(np.unique(row)) for row in y) <= levels


@pytest.mark.t1
def test_formats_are_data_and_rows_of_zeros_are_small():
    specs = ["e2m1f", "e3m2f"]
    clips = jnp.array([clip_of(spec) for spec in specs], jnp.float32)
    grids = stack([lower(parse(spec)) for spec in specs])
    both = jax.jit(jax.vmap(lambda grid, clip: quest(ROWS, grid, clip=clip)))(grids, clips)
    for row, spec in zip(both, specs, strict=True):
        np.testing.assert_allclose(row, quest(ROWS, spec), rtol=1e-5, atol=1e-5)
    assert np.all(np.abs(quest(jnp.zeros((1, 128)), 3)) < 1e-7)


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="a power of two for its order, got block=12"):
            hadamard(jnp.ones(24), block=12)
        with pytest.raises(ValueError, match="blocks of 128 do not fill the last axis"):
            quest(jnp.ones((2, 100)), 4)
        with pytest.raises(ValueError, match="the clip of a Grid"):
            quest(ROWS, lower(parse("e2m1f")))
        with pytest.raises(ValueError, match="no estimator 'ste'; known are trust"):
            quest(ROWS, 4, estimator="ste")
        with pytest.raises(ValueError, match="1 to 10 bits, got 0"):
            mid_rise(0)
        with pytest.raises(ValueError, match="codes of 16 bits: clips are found for at most 10"):
            gaussian_clip("binary16")
