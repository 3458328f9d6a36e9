"""One format everywhere, against the same models by hand with a rounding after each step."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Literal

import qsim
from tests.bytewise import same
from tests.programs import normal

FORMATS = [
    "bfloat16",
    "e4m3",
    *(pytest.param(spec, marks=pytest.mark.t2) for spec in ("e5m10", "posit16")),
]
X = normal(0, 4, 6, 8)


# --- models, and what they are with q after every operation ------------------------------------


def mlp(p, x):
    return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]


def mlp_by_hand(q, p, x):
    h = q(jnp.tanh(q(q(x @ p["a"]) + p["b"])))
    return q(h @ p["c"])


def mlp_loss(p, x):
    return (mlp(p, x) ** 2).sum()


def mlp_slopes_by_hand(q, p, x):
    h = q(jnp.tanh(q(q(x @ p["a"]) + p["b"])))
    y = q(h @ p["c"])
    dy = q(jnp.ones_like(y) * q(2 * y))
    rows, hidden = dy.reshape(-1, dy.shape[-1]), h.reshape(-1, h.shape[-1])
    dc = q(rows.T @ hidden).T
    dh = q(dy @ p["c"].T)
    slope = q(1 - h)  # of tanh: 1 - h**2 as (1 - h) * (1 + h), in the order of JAX's rule
    one = q(dh * slope)
    two = q(one * h)
    da = q(one + two)
    return {
        "a": q(da.reshape(-1, da.shape[-1]).T @ x.reshape(-1, x.shape[-1])).T,
        "b": q(da.sum((0, 1))),
        "c": dc,
    }


def attention(p, x):
    q, k, v = (x @ p[name] for name in ("q", "k", "v"))
    scores = q @ k.swapaxes(-1, -2) * 0.25
    scores = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    return (scores / scores.sum(-1, keepdims=True)) @ v


def attention_by_hand(r, p, x):
    q, k, v = (r(x @ p[name]) for name in ("q", "k", "v"))
    scores = r(r(q @ k.swapaxes(-1, -2)) * 0.25)
    scores = r(jnp.exp(r(scores - scores.max(-1, keepdims=True))))
    return r(r(scores / r(scores.sum(-1, keepdims=True))) @ v)


def layer_norm(p, x):
    centred = x - x.sum(-1, keepdims=True) / 8
    variance = (centred * centred).sum(-1, keepdims=True) / 8
    return centred * lax.rsqrt(variance + 1e-5) * p["scale"] + p["bias"]


def layer_norm_by_hand(q, p, x):
    centred = q(x - q(q(x.sum(-1, keepdims=True)) / 8))
    variance = q(q(q(centred * centred).sum(-1, keepdims=True)) / 8)
    scaled = q(centred * q(lax.rsqrt(q(variance + 1e-5))))
    return q(q(scaled * p["scale"]) + p["bias"])


PARAMETERS = {
    "a": normal(1, 8, 16),
    "b": normal(2, 16),
    "c": normal(3, 16, 3),
    "q": normal(4, 8, 8),
    "k": normal(5, 8, 8),
    "v": normal(6, 8, 8),
    "scale": normal(7, 8),
    "bias": normal(8, 8),
}
PAIRS = [(mlp, mlp_by_hand), (attention, attention_by_hand), (layer_norm, layer_norm_by_hand)]


@pytest.mark.t1
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_one_format_everywhere_is_the_model_with_a_rounding_after_every_operation(pair, fmt):
    model, by_hand = pair
    expected = by_hand(lambda x: qsim.quantize(x, fmt), PARAMETERS, X)
    simulated = qsim.simulate(model, f"all={fmt}")
    assert same(simulated(PARAMETERS, X), expected)
    assert same(jax.jit(simulated)(PARAMETERS, X), expected)
    assert not same(expected, model(PARAMETERS, X))


def run_with_rounding(q, fn, *arguments):
    """The jaxpr of a function, evaluated one primitive at a time with ``q`` after each that rounds.

    What is written here shares nothing with the transformation but the names of the primitives.
    """
    closed = jax.make_jaxpr(fn)(*arguments)
    exact = {
        *("broadcast_in_dim", "reshape", "transpose", "squeeze", "neg", "max", "reduce_max"),
        *("stop_gradient", "select_n", "eq", "copy", "convert_element_type", "copy_p"),
    }

    def run(jaxpr, consts, values):
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))
        for eqn in jaxpr.eqns:
            inputs = [a.val if isinstance(a, Literal) else known[a] for a in eqn.invars]
            if eqn.primitive.name == "jit":
                inner = eqn.params["jaxpr"]
                outputs = run(inner.jaxpr, inner.consts, inputs)
            else:
                outputs = eqn.primitive.bind(*inputs, **eqn.params)
                outputs = outputs if eqn.primitive.multiple_results else [outputs]
                if eqn.primitive.name not in exact:
                    outputs = [q(x) for x in outputs]
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [a.val if isinstance(a, Literal) else known[a] for a in jaxpr.outvars]

    return run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments))


@pytest.mark.t1
@pytest.mark.every(2)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_gradients_too(pair, fmt):
    slope = jax.grad(lambda p, x: (pair[0](p, x) ** 2).sum(), argnums=(0, 1))
    expected = run_with_rounding(lambda x: qsim.quantize(x, fmt), slope, PARAMETERS, X)
    simulated = qsim.simulate(slope, f"all={fmt}")
    assert same(simulated(PARAMETERS, X), expected)
    assert same(jax.jit(simulated)(PARAMETERS, X), expected)


@pytest.mark.t1
def test_gradients_of_a_perceptron_written_out():
    q = lambda x: qsim.quantize(x, "e4m3")  # noqa: E731
    slope = jax.grad(mlp_loss)
    found = qsim.simulate(slope, "all=e4m3")(PARAMETERS, X)
    for name, expected in mlp_slopes_by_hand(q, PARAMETERS, X).items():
        assert same(found[name], expected), name
        assert not same(found[name], slope(PARAMETERS, X)[name])
