"""The signal-to-noise ratio is that of published tables, and of the integral it is defined by."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats

import qsim
from qsim.analysis.noise import DISTRIBUTIONS, sqnr
from tests.unchecked import unchecked

# FP8 formats with a real bias and all codes finite are eXmYf at a free scale; e1m6f is int8sym.
PUBLISHED = {
    "uniform": {"e1m6f": 48.13, "e2m5f": 44.49, "e3m4f": 38.66, "e4m3f": 32.74, "e5m2f": 26.91},
    "normal": {"e1m6f": 40.54, "e2m5f": 42.67, "e3m4f": 37.56, "e4m3f": 31.56, "e5m2f": 25.58},
    "student_t8": {"e1m6f": 34.39, "e2m5f": 38.43, "e3m4f": 37.52, "e4m3f": 31.54, "e5m2f": 25.56},
    "student_t3": {"e1m6f": 22.04, "e2m5f": 26.23, "e3m4f": 36.89, "e4m3f": 31.55, "e5m2f": 25.57},
}

DENSITIES = {
    "uniform": stats.uniform(-1, 2),
    "normal": stats.norm(),
    "laplace": stats.laplace(),
    "student_t8": stats.t(8),
    "student_t5": stats.t(5),
    "student_t3": stats.t(3),
}


@pytest.mark.ci
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_ratios_of_fp8_and_int8(name):
    """Of arXiv:2208.09225, at the range of the least error, to two digits."""
    for spec, decibels in PUBLISHED[name].items():
        assert sqnr(spec, name).decibels == pytest.approx(decibels, abs=0.01), spec
    assert sqnr("int8sym", name).decibels == pytest.approx(sqnr("e1m6f", name).decibels, abs=1e-6)


def test_the_published_ranges_of_the_normal_distribution():
    assert sqnr("int8sym", "normal").clip == pytest.approx(3.92, abs=0.01)
    assert sqnr("e2m5f", "normal").clip == pytest.approx(4.35, abs=0.01)


@pytest.mark.parametrize("levels, error", [(2, 0.3634), (4, 0.1188), (8, 0.03744), (16, 0.01154)])
def test_the_best_uniform_quantizers_of_a_normal_variable(levels, error):
    """J. Max, Quantizing for minimum distortion, IRE Trans. 1960, table II."""
    book = qsim.Codebook(values=tuple(range(1 - levels, levels, 2)))
    assert 10 ** (-sqnr(book, "normal").decibels / 10) == pytest.approx(error, rel=1e-3)


def test_unsigned_formats_get_magnitudes():
    noise = sqnr("e1m0b0f", "normal")  # the values 1 and 2
    levels = np.array([noise.scale, 2 * noise.scale])
    magnitudes = stats.halfnorm()
    error = integrate.quad(
        lambda x: np.min((x - levels) ** 2) * magnitudes.pdf(x), 0, 40, limit=500, points=levels
    )[0]
    assert noise.decibels == pytest.approx(-10 * math.log10(error), abs=1e-3)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_moments_are_the_integrals_of_the_density(name):
    limit = {"uniform": 1.0, "student_t3": 100.0}.get(name, math.inf)
    density, inside = DENSITIES[name], 2 * (DENSITIES[name].cdf(limit) - 0.5)
    for end in (0.01, 0.7, 3.0, 250.0, math.inf):
        found = DISTRIBUTIONS[name].moments(np.array([end]))
        for k, moment in enumerate(found):
            pieces = [0.0, *(p for p in (1.0, 20.0) if p < min(end, limit)), min(end, limit)]
            expected = sum(
                integrate.quad(lambda u, k=k: u**k * density.pdf(u), a, b)[0]
                for a, b in pairwise(pieces)
            )
            assert moment[0] == pytest.approx(expected / inside, rel=1e-6), (end, k)


@pytest.mark.parametrize("spec", ["e2m1f", "int4", "e4m3fn", "e3m2"])
def test_noise_is_that_of_rounded_numbers(spec):
    """The ratio over the quantiles of a normal variable, rounded at the scale that was found."""
    noise = sqnr(spec, "normal")
    x = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    with unchecked():
        rounded = noise.scale * np.asarray(
            qsim.quantize(np.float32(x / noise.scale), spec), np.float64
        )
    ratio = 10 * math.log10(np.mean(x**2) / np.mean((x - rounded) ** 2))
    assert noise.decibels == pytest.approx(ratio, abs=0.01)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no distribution 'normall'; did you mean 'normal'"):
        sqnr("int8", "normall")
    with pytest.raises(ValueError, match="e8m23 has 32 bits: the signal-to-noise"):
        sqnr("binary32", "normal")
    with pytest.raises(ValueError, match=r"e12m3 has values beyond 2\^1000"):
        sqnr("e12m3", "normal")
