"""Optimizer states and parameters on formats: momentum and weights rounded after every step.

Expected values come from loops in NumPy with the types of ml_dtypes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import qsim
from qsim import lower, parse, stack
from qsim.simulate.quantizer import Precision
from qsim.training.expansion import Expansion, contract, expand
from qsim.training.states import master_weights, rounded_states
from tests.lenient import lenient
from tests.unchecked import unchecked

MOMENTUM = optax.sgd(0.25, momentum=0.5)
ADAM = lenient(optax.adam(0.1))
PARAMS = {"nu": {"kernel": jnp.ones((2, 4))}, "bias": jnp.zeros(4)}


def run(optimizer, params, gradients):
    """The parameters and states after some steps, in one scan."""

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), state

    return jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), gradients))()


def drawn(steps, size, seed=14):
    return np.float32(np.random.default_rng(seed).normal(size=(steps, size)))


@pytest.mark.parametrize("scale", ["none", "absmax"])
def test_momentum_is_rounded_after_every_step(scale):
    """The parameters of a step are updated before its momentum is rounded."""
    gradients = drawn(20, 33) * np.float32(1e-2 if scale == "absmax" else 1)
    optimizer = rounded_states(MOMENTUM, {"trace": "e5m2"}, scale=scale)
    (params, state), _ = run(optimizer, jnp.zeros(33), gradients)
    momentum = weights = np.zeros(33, np.float32)
    for gradient in gradients:
        momentum = gradient + np.float32(0.5) * momentum
        weights = weights - np.float32(0.25) * momentum
        s = np.abs(momentum).max() / np.float32(57344) if scale == "absmax" else np.float32(1)
        if np.abs(momentum).max() / s > 57344:
            s = np.nextafter(s, np.float32(1))
        momentum = (momentum / s).astype(ml_dtypes.float8_e5m2).astype(np.float32) * s
    np.testing.assert_array_equal(state.inner[0].trace, momentum)
    np.testing.assert_allclose(params, weights, rtol=1e-6, atol=1e-6)
    assert state.step == 20


def on(x, spec, **modes):
    """Whether all numbers are values of a format."""
    return np.array_equal(x, qsim.quantize(jnp.asarray(x), spec, **modes))


@pytest.mark.t1
def test_rules_go_by_path():
    """A whole path, a name in it, none; the first that matches counts, and counters stay."""
    rules = {"0/nu/nu/kernel": "none", "0/mu/.*": "e4m3", "nu": "e8m2"}
    state = rounded_states(ADAM, rules, scale="none").init(PARAMS)
    gradients = jax.tree.map(lambda leaf: leaf * 0 + jnp.float32(0.3), PARAMS)
    optimizer = rounded_states(ADAM, rules, scale="none")
    _, state = optimizer.update(gradients, state, PARAMS)
    adam = state.inner[0]
    _, plain = ADAM.update(gradients, ADAM.init(PARAMS), PARAMS)
    assert on(adam.mu["bias"], "e4m3") and not on(plain[0].mu["bias"], "e4m3")
    assert on(adam.mu["nu"]["kernel"], "e4m3")
    assert on(adam.nu["bias"], "e8m2") and not on(plain[0].nu["bias"], "e8m2")
    np.testing.assert_array_equal(adam.nu["nu"]["kernel"], plain[0].nu["nu"]["kernel"])
    assert adam.count == 1 and adam.count.dtype == jnp.int32


@pytest.mark.t1
def test_blocks_expansions_and_quantizers_are_targets():
    x = drawn(1, 256)[0] ** 2
    scaled = Precision.parse("e4m3 power_of_two").lower()
    targets = [
        ("int8[64]", partial(qsim.quantize, fmt="int8[64]")),
        (Expansion(group=64), lambda x: contract(expand(x, group=64))),
        (scaled, scaled),
        (parse("e4m3"), partial(qsim.quantize, fmt="e4m3")),
        (lower(parse("e4m3")), partial(qsim.quantize, fmt="e4m3")),
    ]
    for target, expected in targets:
        scale = "absmax" if isinstance(target, str | Expansion) else "none"
        optimizer = rounded_states(MOMENTUM, {"trace": target}, scale=scale)
        _, state = optimizer.update(jnp.asarray(x), optimizer.init(jnp.zeros(256)))
        np.testing.assert_array_equal(state.inner[0].trace, expected(jnp.asarray(x)))


def test_formats_are_data():
    """A stack of grids: one training run for each."""
    specs = ["e4m3", "e3m2", "e5m2"]
    gradients = drawn(5, 8)

    def final(grid):
        (params, _), _ = run(
            rounded_states(MOMENTUM, {"trace": grid}, scale="none"), jnp.zeros(8), gradients
        )
        return params

    rows = jax.vmap(final)(stack([lower(parse(spec)) for spec in specs]))
    for row, spec in zip(rows, specs, strict=True):
        np.testing.assert_array_equal(row, final(lower(parse(spec))))


@pytest.mark.t1
@pytest.mark.parametrize("key", [qsim.counter_key(3), jax.random.key(3)], ids=["counter", "jax"])
def test_stochastic_states_draw_anew(key):
    """Every step and every state draws its own bits; a mean of 4000 is within 4 deviations."""
    optimizer = rounded_states(
        MOMENTUM, {"trace": "e4m3"}, rounding="stochastic", scale="none", key=key
    )
    gradients = {name: jnp.full((3, 2000), 1.04) for name in "ab"}
    params = {name: jnp.zeros(2000) for name in "ab"}
    update = jax.jit(optimizer.update)
    state = optimizer.init(params)
    seen = []
    for step in range(2):
        at = jax.tree.map(lambda g: g[0], gradients)
        _, state = update(at, optimizer.init(params)._replace(step=jnp.int32(step)))
        seen += [state.inner[0].trace[name] for name in "ab"]
    for i, x in enumerate(seen):
        assert set(np.unique(x)) == {1.0, 1.125}
        deviation = 0.125 * np.sqrt(0.32 * 0.68 / 2000)
        assert abs(np.mean(x) - 1.04) < 4 * deviation
        assert all(np.any(x != other) for other in seen[:i])


# --- master weights -------------------------------------------------------------------------


def test_updates_below_half_a_unit_vanish_without_a_master():
    """1 + 1000 * 2^-9 in bfloat16 stays 1; with a float32 master it is 2.953."""
    gradients = jnp.full((1000, 1), -(2.0**-9))
    sgd = optax.sgd(1.0)
    for master, expected in [("bfloat16", 1.0), ("none", 2.953125)]:
        optimizer = master_weights(sgd, "bfloat16", master=master)
        (params, state), _ = run(optimizer, jnp.ones(1), gradients)
        rounded = np.float32(ml_dtypes.bfloat16(expected))
        assert params[0] == state.params[0] == rounded
        assert state.master[0] == expected


def test_masters_and_parameters_have_their_formats():
    """A loop in NumPy: parameters of 8 bits, master weights in binary16."""
    gradients = drawn(30, 17) * np.float32(0.01)
    optimizer = master_weights(optax.sgd(1.0), "e4m3fn", master="binary16")
    start = drawn(1, 17, seed=15)[0]
    (params, state), _ = run(optimizer, jnp.asarray(start), gradients)
    master = start.astype(np.float16)
    for gradient in gradients:
        master = (master.astype(np.float32) - gradient).astype(np.float16)
    np.testing.assert_array_equal(state.master, master.astype(np.float32))
    rounded = master.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(state.params, rounded)
    np.testing.assert_array_equal(params, rounded)


def test_parameters_go_by_path():
    optimizer = master_weights(MOMENTUM, {"kernel": "e4m3", ".*": "none"})
    start = jax.tree.map(lambda leaf: leaf + jnp.float32(0.3), PARAMS)
    state = optimizer.init(start)
    assert on(state.params["nu"]["kernel"], "e4m3")
    np.testing.assert_array_equal(state.params["bias"], start["bias"])
    updates, state = optimizer.update(jax.tree.map(jnp.ones_like, start), state)
    assert updates["bias"][0] == -0.25


def test_mistakes_are_named():
    with unchecked():
        with pytest.raises(ValueError, match="no path matches 'nuu'; did you mean 'nu'"):
            rounded_states(ADAM, {"nuu": "e4m3"}).init(PARAMS)
        with pytest.raises(ValueError, match=r"'\(nu' is no regular expression"):
            rounded_states(ADAM, {"(nu": "e4m3"})
        with pytest.raises(ValueError, match="no format 'e4x3'"):
            rounded_states(ADAM, {"nu": "e4x3"})
        with pytest.raises(ValueError, match="needs a random key"):
            rounded_states(ADAM, {"nu": "e4m3"}, rounding="stochastic")
        with pytest.raises(ValueError, match="takes no key"):
            rounded_states(ADAM, {"nu": "e4m3"}, key=jax.random.key(0))
        with pytest.raises(TypeError, match="trace is bfloat16: keep it in float32"):
            rounded_states(MOMENTUM, {"trace": "e4m3"}).init(jnp.zeros(2, jnp.bfloat16))
        with pytest.raises(ValueError, match="no path matches 'kernal'; did you mean 'kernel'"):
            master_weights(MOMENTUM, {"kernal": "e4m3"}).init(PARAMS)
