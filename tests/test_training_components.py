"""Collage: AdamW in bfloat16 with pairs, bit for bit as a loop in float64 that rounds every step.

The loop rounds with ``numpy.frexp``. Sums and products of two bfloat16 numbers are exact in
float64; quotients and roots have more than twice the digits there.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim import lower, parse, stack
from qsim.training.collage import collage, realised
from qsim.training.components import edq, lost_update, pair_of, product
from tests.unchecked import unchecked

RATE, B1, B2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 0.01


def bf16(x):
    """To the nearest number of 8 significant bits, ties to even."""
    mantissa, exponent = np.frexp(np.float64(x))
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


def fast(a, b):
    s = bf16(a + b)
    return s, bf16(b - bf16(s - a))


def grown(x, d, a):
    s, e = fast(x, a)
    return fast(s, bf16(d + e))


def times(x, d, y, f):
    p = bf16(x * y)
    cross = bf16(bf16(x * f) + bf16(d * y))
    return fast(p, bf16(bf16(x * y - p) + cross))


def loop(variant, start, gradients):
    """The final value, residue and moments, and the lost fraction of every step."""
    x = bf16(start)
    d = bf16(start - x) if variant != "plain" else np.zeros_like(x)
    m, v, dv = np.zeros((3, *x.shape))
    lost = []
    for t, g in enumerate(gradients, 1):
        g = bf16(g)
        m = bf16(bf16(bf16(B1) * m) + bf16(bf16(1 - B1) * g))
        new = bf16(bf16(1 - B2) * bf16(g * g))
        if variant == "plus":
            v, dv = grown(*times(v, dv, bf16(B2), bf16(B2 - bf16(B2))), new)
        else:
            v = bf16(bf16(bf16(B2) * v) + new)
        mean, square = bf16(m / bf16(1 - B1**t)), bf16(v / bf16(1 - B2**t))
        ratio = bf16(mean / bf16(bf16(np.sqrt(square)) + bf16(EPS)))
        change = bf16(-bf16(RATE) * bf16(ratio + bf16(bf16(DECAY) * x)))
        lost.append(np.mean((bf16(x + change) == x) & (change != 0)))
        x, d = (bf16(x + change), d) if variant == "plain" else grown(x, d, change)
    return x, d, m, v, dv, lost


@cache
def runner(variant):
    """60 steps of 40 parameters: the last state, its parameters, and metrics of every step."""
    optimizer = collage(RATE, b1=B1, b2=B2, eps=EPS, weight_decay=DECAY, variant=variant)

    def step(carry, gradient):
        params, state = carry
        updates, new = optimizer.update(gradient, state, params)
        lost = lost_update(state.value, new.intended, "bfloat16")
        quality = edq(new.intended, realised(state, new)) / edq(new.intended, new.intended)
        return (params + updates, new), (lost, quality)

    @jax.jit
    def run(start, gradients):
        state = optimizer.init(start)
        return jax.lax.scan(step, (state.value, state), gradients)

    return run


START, GRADIENTS = (
    np.float32(np.random.default_rng(16).normal(size=shape)) for shape in (40, (60, 40))
)


@pytest.mark.t1
@pytest.mark.parametrize("variant", ["plain", "light", "plus"])
def test_every_operation_is_rounded_once(variant):
    (params, state), (lost, _) = runner(variant)(START, GRADIENTS)
    *expected, expected_lost = loop(variant, START.astype(np.float64), np.float64(GRADIENTS))
    found = (state.value, state.residue, state.mu, state.nu, state.nu_residue)
    for part, numbers in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part, numbers.astype(np.float32))
    np.testing.assert_array_equal(params, state.value)
    np.testing.assert_allclose(lost, expected_lost, rtol=1e-6)


def test_pairs_lose_no_update():
    """Of parameters of 30, an update of 0.001 is no more than the pure format loses."""
    _, (lost, plain) = runner("plain")(START + np.float32(30), GRADIENTS)
    assert np.mean(lost) > 0.99 and np.mean(plain) < 0.05
    _, (lost, plain) = runner("plain")(START, GRADIENTS)
    assert np.mean(lost) > 0.3 and np.mean(plain) < 0.9
    for variant in ("light", "plus"):
        for start in (START, START + np.float32(30)):
            _, (_, pairs) = runner(variant)(start, GRADIENTS)
            assert np.mean(pairs) == pytest.approx(1, abs=0.01)


def test_second_moments_decay_only_as_pairs():
    """After a large gradient comes none: the moment of the variant light never shrinks."""
    gradients = np.zeros_like(GRADIENTS)
    gradients[0] = 1
    (_, plus), _ = runner("plus")(START, gradients)
    (_, light), _ = runner("light")(START, gradients)
    assert np.all(light.nu == np.float32(bf16(1 - 0.999)))
    total = np.float64(plus.nu) + np.float64(plus.nu_residue)
    np.testing.assert_allclose(total, 0.001 * 0.999**59, rtol=0.01)


def test_the_decay_of_bfloat16_is_one():
    assert qsim.quantize(0.999, "bfloat16") == 1
    pair = pair_of(jnp.float32(0.999), "bfloat16")
    assert (pair.value, pair.residue) == (1, -0.00099945068359375)


def test_metrics_are_their_formulas():
    rng = np.random.default_rng(18)
    u, v = ({"a": rng.normal(size=5), "b": rng.normal(size=(2, 3))} for _ in range(2))
    flat_u, flat_v = (np.concatenate([t["a"], t["b"].ravel()]) for t in (u, v))
    expected = flat_u @ flat_v / np.sqrt(flat_u @ flat_u)
    u, v = jax.tree.map(jnp.float32, (u, v))
    assert edq(u, v) == pytest.approx(expected, rel=1e-5)
    assert edq(jax.tree.map(jnp.zeros_like, u), v) == 0


@pytest.mark.parametrize("spec", ["e5m10", "e4m3", "e3m2"])
def test_products_of_pairs_are_nearly_exact(spec):
    """Within a few units of the second number's last place, where nothing underflows."""
    rng = np.random.default_rng(19)
    x, y = (np.float32(rng.uniform(1, 2, 200)) for _ in range(2))
    a, b = pair_of(x, spec), pair_of(y, spec)
    found = product(a, b, spec)
    exact = (np.float64(a.value) + a.residue) * (np.float64(b.value) + b.residue)
    ulp = 2.0 ** -(parse(spec).precision - 1)
    quantum = float(parse(spec).smallest)
    error = np.abs(np.float64(found.value) + found.residue - exact)
    assert np.all(error <= 8 * max(ulp * ulp, quantum))
    for part in (*a, *found):
        np.testing.assert_array_equal(part, qsim.quantize(part, spec))


@pytest.mark.t1
def test_formats_are_data():
    start, gradients = jnp.linspace(0.5, 2, 7), jnp.full((3, 7), 0.25)
    specs = ["e5m7", "e5m10"]

    def last(fmt):
        optimizer = collage(0.05, fmt=fmt, variant="plain")
        state = optimizer.init(start)
        return jax.lax.scan(lambda s, g: (optimizer.update(g, s)[1], None), state, gradients)[
            0
        ].value

    grids = [lower(parse(spec)) for spec in specs]
    rows, alone = jax.jit(jax.vmap(last))(stack(grids)), jax.jit(last)
    for row, grid, spec in zip(rows, grids, specs, strict=True):
        np.testing.assert_array_equal(row, alone(grid))
        np.testing.assert_array_equal(row, qsim.quantize(row, spec))


def test_schedules_see_the_steps_done():
    rate = lambda count: jnp.where(count == 0, 0.5, 0.0)  # noqa: E731
    optimizer = collage(rate, fmt="e5m10", variant="plain")
    state = optimizer.init(jnp.ones(1))
    for _ in range(2):
        updates, state = optimizer.update(jnp.ones(1), state)
    assert state.value == 0.5 and updates == 0


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="no variant 'lite'; did you mean 'light'"):
            collage(1e-3, variant="lite")
        with pytest.raises(ValueError, match=r"b2 is a decay in 0 <= b2 < 1, got 1\.0"):
            collage(1e-3, b2=1.0)
        with pytest.raises(ValueError, match="e8m23 cannot be rounded once in float32"):
            collage(1e-3, fmt="binary32")
        with pytest.raises(ValueError, match="no fraction of no parameters"):
            lost_update({}, {}, "bfloat16")
