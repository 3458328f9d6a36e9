"""One scale for a tensor: against exact rationals and NumPy's correctly rounded float32."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsim.numbers import exact
from qsim.numbers.grid import lower, stack
from qsim.numbers.modes import Rounding
from qsim.numbers.specs import parse
from qsim.scales.tensor import quantize_scaled
from tests.unchecked import unchecked

SPECS = ["e2m1f", "e4m3", "e4m3fn", "e5m2", "e5m7", "e7m2", "e4m3fnuz", "int4", "int8", "fixed8.4"]
WIDE = ["e8m7", "e8m3", "e8m10"]
MODES = [
    *("ties_to_even", "to_odd"),
    *(pytest.param(m, marks=pytest.mark.t1) for m in ("toward_zero", "away_from_zero", "up")),
]
EXPONENTS = [-140, -126, -60, -3, 0, 5, 60, 118]


def tensor(exponent: int, seed: int = 0) -> np.ndarray:
    """Normal numbers around ``2**exponent``, with zeros of both signs and tiny values."""
    drawn = np.random.default_rng(seed).normal(size=20) * 2.0**exponent
    return np.float32(np.concatenate([drawn, drawn * 2.0**-12, [0.0, -0.0]]))


@partial(jax.jit, static_argnames=("scale", "mode"))
def quantized(x, grid, scale, mode):
    return quantize_scaled(x, grid, scale=scale, mode=Rounding.parse(mode), policy="saturate")


def scaled(x, spec, scale, mode="ties_to_even"):
    return quantized(jnp.asarray(x, jnp.float32), lower(parse(spec)), scale, mode)


def same(found, expected) -> bool:
    return np.asarray(found).tobytes() == np.asarray(expected, np.float32).tobytes()


def fractions(x, unit: Fraction = Fraction(1)) -> list[exact.Value]:
    """The exact numbers ``x / unit``, zeros as floats with their signs."""
    return [float(value) if value == 0 else Fraction(float(value)) / unit for value in x]


def times(value: exact.Value, factor: Fraction) -> float:
    return value if isinstance(value, float) else float(value * factor)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", SPECS)
@unchecked()
def test_power_of_two_is_the_smallest_without_overflow(spec, mode):
    fmt = parse(spec)
    for exponent in EXPONENTS:
        x = tensor(exponent)
        amax = Fraction(float(np.max(np.abs(x))))
        quotient = amax / fmt.largest
        power = next(k for k in range(-400, 400) if quotient <= Fraction(2) ** k)
        power = max(power, -123 - fmt.quantum)  # the carrier limits the scale
        unit = Fraction(2) ** power
        values = [exact.round_exact(v, fmt, rounding=mode) for v in fractions(x, unit)]
        expected = [times(v, unit) for v in values]
        assert same(scaled(x, spec, "power_of_two", mode), expected), (spec, mode, exponent)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spec", SPECS)
@unchecked()
def test_absmax_divides_rounds_and_multiplies(spec, mode):
    fmt = parse(spec)
    for exponent in (-30, -3, 0, 5, 30):
        x = tensor(exponent)
        amax, largest = float(np.max(np.abs(x))), float(fmt.largest)
        (fx, ex), (fl, el) = np.frexp(np.float64(amax)), np.frexp(np.float64(largest))
        ratio, power = np.float32(fx) / np.float32(fl), int(ex - el)
        if fmt.quantum + power < -123:
            continue  # the carrier limits the scale there
        if np.float32(fx) / ratio > np.float32(fl):
            ratio = np.nextafter(ratio, np.float32(2))  # the largest magnitude stays in range
        unit = Fraction(2) ** power
        values = [exact.round_exact(v, fmt, rounding=mode) for v in fractions(x / ratio, unit)]
        expected = np.float32([times(v, unit) for v in values]) * ratio
        assert same(scaled(x, spec, "absmax", mode), expected), (spec, mode, exponent)


@pytest.mark.parametrize("scale", ["absmax", "power_of_two"])
@pytest.mark.parametrize("spec", SPECS)
def test_absmax_of_a_scaled_tensor_is_nearly_kept(spec, scale):
    x = tensor(6)  # e7m2 has no room for a smaller scale
    found = np.max(np.abs(scaled(x, spec, scale)))
    amax = np.max(np.abs(x))
    precision = 24 if scale == "absmax" else parse(spec).precision
    assert abs(found - amax) <= amax * 2.0 ** (1 - precision)


@pytest.mark.parametrize("spec", WIDE)
def test_formats_as_wide_as_the_carrier_are_not_scaled(spec):
    x = np.concatenate([tensor(0), tensor(-130), np.float32([3e38, 1e-44])])
    fmt = parse(spec)
    expected = [times(exact.round_exact(v, fmt), Fraction(1)) for v in fractions(x)]
    assert same(scaled(x, spec, "absmax"), expected)


@pytest.mark.parametrize("scale", ["absmax", "power_of_two"])
def test_zeros_stay_zeros_with_their_signs(scale):
    x = np.float32([0.0, -0.0, 0.0])
    assert same(scaled(x, "e4m3", scale), x)
    assert same(scaled(x, "int8", scale), [0.0, 0.0, 0.0])


@pytest.mark.parametrize("scale", ["absmax", "power_of_two"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_tensor_that_is_not_finite_has_no_scale(scale, value):
    assert np.all(np.isnan(scaled([1.0, value, 0.5], "e4m3", scale)))


@pytest.mark.parametrize("scale", ["absmax", "power_of_two"])
def test_empty_and_scalar_tensors(scale):
    assert scaled(np.zeros((0, 3), np.float32), "int4", scale).shape == (0, 3)
    assert scaled(np.float32(0.7), "int4", scale).shape == ()


@pytest.mark.parametrize("scale", ["none", "absmax", "power_of_two"])
def test_same_bytes_eager_jitted_and_mapped_over_formats(scale):
    mode = Rounding.parse("ties_to_even")

    def quantized(x, grid):
        return quantize_scaled(x, grid, scale=scale, mode=mode, policy="saturate")

    compiled = jax.jit(quantized)
    grids = [lower(parse(spec)) for spec in ("e2m1f", "e4m3fn", "int8", "e8m7")]
    for exponent in (-140, -3, 60):
        x = jnp.asarray(tensor(exponent))
        eager = [np.asarray(quantized(x, grid)) for grid in grids]
        jitted = [np.asarray(compiled(x, grid)) for grid in grids]
        mapped = np.asarray(jax.vmap(quantized, (None, 0))(x, stack(grids)))
        assert np.stack(eager).tobytes() == np.stack(jitted).tobytes() == mapped.tobytes()


def test_a_sum_does_not_absorb_the_product():
    x = jnp.asarray(tensor(0))
    bias = jnp.float32(0.3)

    def add(x):
        return scaled(x, "int8", "absmax") + bias

    assert same(jax.jit(add)(x), np.asarray(scaled(x, "int8", "absmax")) + np.float32(0.3))


def test_the_largest_magnitude_stays_in_range():
    def total(x, grid):
        options = {"scale": "absmax", "mode": Rounding.parse("up"), "policy": "ieee"}
        return quantize_scaled(x, grid, **options).sum()

    value = jax.jit(jax.vmap(jax.value_and_grad(total), (0, None)))
    x = np.float32(np.random.default_rng(0).uniform(1, 2, (4000, 1)))
    for spec in ("int8", "e4m3", "e4m3fn", "int4", "e5m2", "e3m2f"):
        found, slope = value(x, lower(parse(spec)))
        assert np.all(np.abs(found - x[:, 0]) <= np.spacing(x[:, 0])) and np.all(slope == 1)


def test_the_derivative_is_straight_through_and_zero_outside():
    x = jnp.asarray(np.float32([0.3, -0.7, 2.0, 9.0]))

    def total(x, scale, gradient):
        mode = Rounding.parse("ties_to_even")
        grid = lower(parse("e2m1f"))
        options = {"scale": scale, "mode": mode, "policy": "saturate", "gradient": gradient}
        return quantize_scaled(x, grid, **options).sum()

    assert jax.grad(total)(x, "none", "clipped").tolist() == [1, 1, 1, 0]
    assert jax.grad(total)(x, "none", "identity").tolist() == [1, 1, 1, 1]
    assert jax.grad(total)(x, "power_of_two", "clipped").tolist() == [1, 1, 1, 1]
