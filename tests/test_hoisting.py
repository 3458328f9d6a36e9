"""What no policy touches is done once, and the results are those of the whole function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qsim
from qsim.simulate.jaxprs import inner_jaxprs
from qsim.sweeps.hoisting import hoist

X = jnp.linspace(-2, 3, 24, dtype=jnp.float32).reshape(4, 6)
W = jnp.linspace(-1, 1, 36, dtype=jnp.float32).reshape(6, 6)


def plain(row, x):
    return jnp.tanh(x) * row


def untouched(row, x):
    return jnp.tanh(x).sum(), row


def over_batches(row, x):
    def body(number, batch):
        return number + 1, (jnp.exp(batch).sum() * row, jnp.sin(batch), batch * number)

    return lax.scan(body, jnp.int32(0).astype(jnp.float32), x)


def carried_late(row, x):
    """The first carry is early in the first iteration, and late in all others."""

    def body(carry, batch):
        a, b, c = carry
        return (a + b, b * row, jnp.cos(c)), (a, jnp.exp(c) + batch.sum())

    return lax.scan(body, (jnp.float32(1), jnp.float32(2), jnp.float32(3)), x)


def carried_early(row, x):
    """Carries that begin late and are early from the first iteration on."""
    body = lambda c, batch: ((jnp.exp(batch), 0.0), (c[0].sum(), c[1]))  # noqa: E731
    return lax.scan(body, (x[0] * row, row), x)


def backwards(row, x):
    scale = jnp.exp(x[0, 0])
    body = lambda c, batch: (jnp.cos(c) + scale, jnp.sqrt(jnp.abs(batch)) * c * row)  # noqa: E731
    return lax.scan(body, jnp.float32(1), x, reverse=True, unroll=2)


def nested(row, x):
    def outer(c, batch):
        inner = lambda d, one: (jnp.sin(d) + one, jnp.log1p(one * one) * row)  # noqa: E731
        return c + 1, lax.scan(inner, jnp.float32(0), batch)

    return lax.scan(outer, jnp.float32(0), x)


def branches(row, x):
    picked = lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)
    return lax.cond(row > 1, jnp.exp, jnp.abs, picked), lax.while_loop(
        lambda c: c < 5, lambda c: c * 2, jnp.abs(picked[0, 0]) + 1
    )


def calls(row, x):
    return jax.jit(lambda a: jax.nn.softmax(a) * row)(jax.jit(jnp.exp)(x)), jax.nn.relu(x)


ROW = jax.ShapeDtypeStruct((), jnp.float32)
PROGRAMS = [
    plain,
    untouched,
    over_batches,
    carried_late,
    carried_early,
    backwards,
    nested,
    branches,
    calls,
]


def flat(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda fn: fn.__name__)
def test_both_parts_together_are_the_function(fn):
    row = jnp.float32(1.5)
    parts = hoist(fn, ROW, X)
    kept = parts.early(X)
    found = parts.late(row, X, kept)
    assert jax.tree.structure(found) == jax.tree.structure(fn(row, X))
    assert flat(found) == flat(fn(row, X))
    rows = jnp.array([0.5, 1.5, 2.5], jnp.float32)

    @jax.jit
    def mapped(rows, x):
        kept = parts.early(x)
        return lax.map(lambda row: parts.late(row, x, kept), rows)

    expected = lax.map(lambda row: fn(row, X), rows)
    for one, other in zip(*map(jax.tree.leaves, (mapped(rows, X), expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def names(fn, *args):
    """The primitives of a function, those inside of scans and calls too."""
    found = []

    def read(jaxpr):
        for eqn in jaxpr.eqns:
            found.append(eqn.primitive.name)
            for inner in inner_jaxprs(eqn):
                read(getattr(inner, "jaxpr", inner))

    read(jax.make_jaxpr(fn)(*args).jaxpr)
    return found


EARLY = {
    plain: ["tanh"],
    over_batches: ["exp", "sin"],
    carried_late: ["cos", "exp"],
    backwards: ["exp", "sqrt", "cos"],
    nested: ["sin", "log1p"],
}


@pytest.mark.parametrize("fn", EARLY, ids=lambda fn: fn.__name__)
def test_work_that_no_row_touches_is_in_the_early_part(fn):
    parts = hoist(fn, ROW, X)
    first, second = names(parts.early, X), names(parts.late, ROW, X, parts.early(X))
    assert all((first.count(name), second.count(name)) == (1, 0) for name in EARLY[fn])


def test_what_is_larger_than_the_arguments_is_not_kept(monkeypatch):
    monkeypatch.setattr("qsim.sweeps.hoisting.SMALL", 100)
    large = lambda row, x: (jnp.exp(x[:, None] * jnp.arange(1000.0)) * row).sum()  # noqa: E731
    parts = hoist(large, ROW, X[0])
    assert not jax.tree.leaves(parts.early(X[0]))
    kept = parts.early(X[0])
    assert float(parts.late(jnp.float32(2), X[0], kept)) == float(large(jnp.float32(2), X[0]))


@pytest.mark.parametrize("layer", range(4))
def test_layers_below_the_one_in_question_run_once(layer):
    def layers(w, x):
        for n in range(4):
            with jax.named_scope(f"layer_{n}"):
                x = jnp.tanh(x @ w)
        return x

    def make(policy):
        return lambda arrays: qsim.simulate(layers, policy)(*arrays)

    policy = qsim.policy(f"layer_{layer} operands=e4m3").lower()
    parts = hoist(lambda p, arrays: make(p)(arrays), policy, (W, X))
    kept = parts.early((W, X))
    assert flat(parts.late(policy, (W, X), kept)) == flat(make(policy)((W, X)))
    assert names(parts.early, (W, X)).count("tanh") == layer
    assert names(parts.late, policy, (W, X), kept).count("tanh") == 4 - layer
