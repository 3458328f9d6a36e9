"""The cheap grids of formats with the carrier's exponents round as the general ones do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim.numbers.cut import CutGrid, lower_alone
from qsim.numbers.modes import OVERFLOWS

CUT = ["bfloat16", "p2", "p11", "p23", "binary32"]
REST = ["e4m3", "e8m6fnuz", "e8m7_flush_after", "ue8m7", "int8", "e7m7", "mxfp4", "posit8"]


def inputs() -> np.ndarray:
    """All upper halves of float32 patterns with lower halves around the ties."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    low = np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    return (high[:, None] | low).view(np.float32).ravel()


@pytest.mark.t1
@pytest.mark.parametrize("overflow", [policy for policy in OVERFLOWS if policy != "wrap"])
@pytest.mark.parametrize("spec", CUT)
def test_the_bytes_are_those_of_the_general_grid(spec, overflow):
    x, grid = jnp.asarray(inputs()), lower_alone(qsim.parse(spec))
    assert isinstance(grid, CutGrid)
    for rounding in ("ties_to_even", "up"):
        modes = {"rounding": rounding, "overflow": overflow}
        found, expected = (
            qsim.quantize(x, g, **modes) for g in (grid, qsim.lower(qsim.parse(spec)))
        )
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("spec", REST)
def test_other_formats_have_no_such_grid(spec):
    assert not isinstance(lower_alone(qsim.parse(spec)), CutGrid)


def test_float64_has_such_formats_too():
    with jax.enable_x64(True):
        grid = lower_alone(qsim.parse("e11m20"), "float64")
        x = jnp.asarray(np.random.default_rng(0).normal(size=1000) * 2.0 ** np.arange(-500, 500))
        assert isinstance(grid, CutGrid)
        found, expected = qsim.quantize(x, grid), qsim.quantize(x, "e11m20")
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()
