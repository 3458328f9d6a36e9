"""The parts of low-precision training in one step: under scan, and one run for each format."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qsim
from qsim import lower, parse, stack
from qsim.training.loss_scaling import loss_scaled, scaled_value_and_grad
from qsim.training.munit_scaling import static_matmul
from qsim.training.quest import quest
from qsim.training.residuals import low_bit_residuals
from qsim.training.states import master_weights, rounded_states
from tests.lenient import lenient

RNG = np.random.default_rng(35)
X = jnp.float32(RNG.normal(size=(64, 32)))
Y = jnp.sin(X @ jnp.float32(RNG.normal(size=(32, 1)) / 3))
START = {
    "first": jnp.float32(RNG.normal(size=(32, 32))),
    "last": jnp.float32(RNG.normal(size=(32, 1)) / 8),
}


def loss(params):
    first = quest(params["first"].T, 4, block=32).T
    hidden = low_bit_residuals(jax.nn.gelu, "int8sym[token]")(static_matmul(X, first))
    return jnp.mean(jnp.square(hidden @ params["last"] - Y))


def losses(weights, moments):
    """The loss of every step, with weights and moments on these grids."""
    key = qsim.counter_key(0)
    states = {"mu": moments, "nu": "e5m10"}
    adam = rounded_states(lenient(optax.adam(0.02)), states, scale="power_of_two")
    optimizer = loss_scaled(
        master_weights(adam, weights, rounding="stochastic:8", key=key), period=20
    )

    def step(carry, _):
        params, state = carry
        value, gradients = scaled_value_and_grad(loss)(state.loss_scale, params)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    state = optimizer.init(START)
    (_, state), values = jax.lax.scan(step, (state.inner.params, state), length=60)
    return values, state.loss_scale.scale


@pytest.mark.t1
def test_one_run_for_each_format():
    weights, moments = (
        stack([lower(parse(spec)) for spec in specs])
        for specs in (("e5m7", "e4m3"), ("e5m2", "e4m3fn"))
    )
    values, scales = jax.jit(jax.vmap(losses))(weights, moments)
    assert np.all(values[:, -1] < values[:, 0] / 4)
    assert scales.tolist() == [2.0**19, 2.0**19]
