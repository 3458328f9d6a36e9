"""Scale propagation keeps every value, to the last bit, and every scale a power of two."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import qsim
from qsim.scales.scaled import norm, power_of_two
from tests.bytewise import same
from tests.programs import MODELS, OPERATIONS, SHAPE, composed, normal

X, Y = normal(0, *SHAPE), normal(1, *SHAPE)
SIZES = [(2.0**-10, 2.0**5), (8.0, 2.0**9)]


def scaled_inputs(sizes):
    return [qsim.ScaledArray(x, jnp.float32(s)) for x, s in zip((X, Y), sizes, strict=True)]


def scaled_leaves(tree):
    is_scaled = lambda x: isinstance(x, qsim.ScaledArray)  # noqa: E731
    return [x for x in jax.tree.leaves(tree, is_leaf=is_scaled) if is_scaled(x)]


def powers_of_two(tree) -> bool:
    """Whether all scales are, but those of zeros."""
    scaled = [x for x in scaled_leaves(tree) if x.scale or np.any(x.data)]
    return all(np.frexp(np.asarray(x.scale))[0] == 0.5 for x in scaled)


def eager(fn, *arguments):
    with jax.disable_jit():
        return fn(*arguments)


def keeps(fn, sizes, rounding="down"):
    """Whether a function of the inputs has the values of plain evaluation."""
    expected = eager(fn, X * sizes[0], Y * sizes[1])
    got = qsim.scale_propagation(fn, rounding=rounding)(*scaled_inputs(sizes))
    return same(qsim.unscaled(got), expected) and powers_of_two(got)


@pytest.mark.t1
@pytest.mark.every(5)
@pytest.mark.parametrize("rounding", ["down", "up"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_its_values(name, rounding):
    fn = lambda x, y: OPERATIONS[name](x, y)  # noqa: E731
    assert keeps(fn, SIZES[rounding == "up"], rounding)


STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 9), st.integers(0, 9)),
    min_size=2,
    max_size=6,
)


@pytest.mark.t1
@given(STEPS, st.sampled_from(SIZES), st.sampled_from(["down", "up"]))
@settings(max_examples=4, deadline=None)
def test_random_programs_keep_their_values(steps, sizes, rounding):
    with jax.debug_nans(False):
        assert keeps(composed(steps), sizes, rounding)


def network(w, x):
    h = jnp.tanh(x @ w) * 3
    h = jax.checkpoint(lambda h: jax.nn.relu(h) + h * h)(h)
    total, rows = lax.scan(lambda c, r: (c / 2 + r, c * r), jnp.zeros(h.shape[1]), h)
    return (total * rows).sum(0)


def loss(w, x):
    return jnp.mean(network(w, x))


W = normal(5, 6, 6)


@pytest.mark.t1
@pytest.mark.parametrize("rounding", ["down", "up"])
def test_gradients_inside_and_outside(rounding):
    inputs = W * 0.25, X * 16
    given = qsim.ScaledArray(W, jnp.float32(0.25)), qsim.ScaledArray(X, jnp.float32(16))
    slope = jax.grad(loss)
    got = qsim.scale_propagation(slope, rounding=rounding)(*given)
    assert same(qsim.unscaled(got), eager(slope, *inputs)) and powers_of_two(got)
    outside = lambda w, x: qsim.unscaled(  # noqa: E731
        qsim.scale_propagation(loss, rounding=rounding)(w, x)
    )
    assert same(eager(jax.grad(outside), *inputs), eager(slope, *inputs))
    of_scaled = eager(jax.grad(outside, allow_int=True), *given)
    assert same(of_scaled.data / given[0].scale, eager(slope, *inputs))


@pytest.mark.t1
def test_under_jit_and_vmap():
    run = qsim.scale_propagation(network)
    w, x = qsim.ScaledArray(W, jnp.float32(0.25)), qsim.ScaledArray(X, jnp.float32(16))
    values = lambda w, x: qsim.unscaled(run(w, x))  # noqa: E731
    np.testing.assert_allclose(jax.jit(values)(w, x), network(W * 0.25, X * 16), rtol=1e-5)
    many = qsim.ScaledArray(jnp.stack([X, X / 2]), jnp.array([16.0, 8.0]))
    got = jax.vmap(values, in_axes=(None, 0))(w, many)
    expected = jax.vmap(network, in_axes=(None, 0))(W * 0.25, jnp.stack([X * 16, X * 4]))
    assert got.shape == (2, 6)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    # one program for a batch has one scale for all of it
    batched = qsim.scale_propagation(jax.vmap(network, in_axes=(None, 0)))
    assert batched(w, jnp.stack([X, X])).scale.shape == ()


@pytest.mark.t1
@pytest.mark.parametrize(
    "name",
    ["mlp", *(pytest.param(n, marks=pytest.mark.t2) for n in ("attention", "lstm", "training"))],
)
def test_models_keep_their_values(name):
    fn, arguments = MODELS[name]()
    with jax.numpy_dtype_promotion("standard"):
        expected = eager(fn, *arguments)
        first = qsim.as_scaled(arguments[0], by="max")
        got = qsim.scale_propagation(fn)(first, *arguments[1:])
    assert same(qsim.unscaled(got), expected)
    assert powers_of_two(got)


def test_loops_of_a_vmap_keep_their_values():
    def halvings(x):
        return lax.while_loop(lambda s: s > 0.1, lambda s: s * 0.5, x)

    x = jnp.array([3.0, 0.7, 40.0])
    assert same(qsim.unscaled(qsim.scale_propagation(jax.vmap(halvings))(x)), jax.vmap(halvings)(x))


# --- what becomes of scales ---------------------------------------------------------------------


def scale_of(fn, *arguments, **options):
    return float(qsim.scale_propagation(fn, **options)(*arguments).scale)


def sized(scale, shape=(3,)):
    return qsim.ScaledArray(jnp.ones(shape), jnp.float32(scale))


def test_the_rules_of_scales():
    a, b = sized(8), sized(0.5)
    assert scale_of(jnp.multiply, a, b) == 4
    assert scale_of(jnp.divide, a, b) == 16
    assert scale_of(jnp.add, a, b) == 8
    assert scale_of(jnp.add, a, a, rounding="up") == 16  # sqrt(2) * 8 and up
    assert scale_of(jnp.add, a, a, rounding="none") == pytest.approx(8 * 2**0.5)
    assert scale_of(jnp.maximum, a, b) == 8
    assert scale_of(lambda x: x**3, a) == 512
    assert scale_of(jnp.sqrt, a) == 2  # and sqrt(2) in the data
    assert scale_of(lax.rsqrt, a) == 0.5
    assert scale_of(jnp.exp, b) == 1
    assert scale_of(lambda x: x.sum(0), sized(8, (17, 2))) == 32  # sqrt(17) down to 4
    assert scale_of(jnp.dot, sized(8, (2, 17)), sized(0.5, (17,))) == 16
    assert scale_of(jnp.sum, sized(8, (17,))) == 128  # a single number, 136
    assert scale_of(lambda x: x.astype(jnp.float16), a) == 8


def test_constants_take_the_scale_that_they_meet():
    a = sized(2.0**-20)
    assert scale_of(lambda x: jnp.maximum(x, 0.0), a) == 2.0**-20
    assert scale_of(lambda x: jnp.where(x > 1, x, -1e4), a) == 2.0**-20
    assert scale_of(lambda x: jnp.where(x > 1, x, -jnp.inf), a) == 2.0**-20
    assert scale_of(lambda x: x + jnp.zeros(3), a) == 2.0**-20
    assert scale_of(lambda x: x + 1e-30, a) == 2.0**-20  # a guard, not data
    assert scale_of(lambda x: x * 3, a) == 2.0**-19
    total = lambda x: lax.fori_loop(0, 3, lambda _, s: s + x, jnp.zeros(3))  # noqa: E731
    assert scale_of(total, a) == 2.0**-20


def test_a_policy_rounds_the_data():
    x = qsim.ScaledArray(jnp.array([1.3, -0.7, 1.9]), jnp.float32(2.0**-30))
    got = qsim.scale_propagation(lambda x: x[None] @ x, "e4m3")(x)
    data = np.asarray(qsim.quantize(x.data, "e4m3"))
    assert float(got.scale) == 2.0**-60  # sqrt(3) down to 1
    assert got.data.tolist() == [float(data @ data)]
    outputs = qsim.scale_propagation(lambda x: x * x, "elementwise=e4m3")(x)
    assert same(outputs.data, qsim.quantize(x.data**2, "e4m3"))
    by_role = qsim.scale_propagation(
        jax.grad(lambda w, x: (x @ w).sum()), "gradients=e5m2; weights=e2m1", params=0
    )
    assert by_role(W, X).data.shape == W.shape


def test_half_precision_data_that_its_format_alone_could_not_hold():
    x = qsim.ScaledArray(jnp.array([1.5, 2.0], jnp.float16), jnp.float32(2.0**-40))
    product = qsim.scale_propagation(lambda x: x * x * x)(x)
    assert product.dtype == jnp.float16
    assert product.data.tolist() == [3.375, 8.0]
    assert float(product.scale) == 2.0**-120


# --- dynamic scales -----------------------------------------------------------------------------


@pytest.mark.parametrize("by, size", [("max", 12.0), ("l1", 6.5), ("l2", 8.0)])
def test_rescaled_data_has_the_size_that_is_asked_for(by, size):
    x = jnp.array([12.0, 2.0, -4.0, 8.0])
    reference = {"max": 12.0, "l1": 26 / 4, "l2": (228 / 4) ** 0.5}[by]
    assert float(norm(x, by)) == pytest.approx(reference)
    got = qsim.scale_propagation(lambda x: qsim.rescale(x, by))(x)
    assert float(got.scale) == 2.0 ** np.floor(np.log2(reference))
    assert same(qsim.unscaled(got), x)
    assert same(qsim.rescale(x, by), x)


def test_gradients_are_rescaled_where_marked():
    slope = jax.grad(lambda x: (qsim.rescale_gradient(x, "max") * 96.0).sum())
    plain = qsim.scale_propagation(jax.grad(lambda x: (x * x * 96.0).sum()))(jnp.ones(3))
    assert float(plain.data.max()) > 2
    got = qsim.scale_propagation(slope)(jnp.ones(3))
    assert float(got.scale) == 64 and got.data.tolist() == [1.5] * 3
    assert same(jax.jit(slope)(jnp.ones(3)), jnp.full(3, 96.0))


def test_powers_of_two():
    numbers = np.float32([1e-45, 2.0**-126, 0.75, 1.0, 1.0000001, 3e38, 0.0])
    down = [2.0**-126, 2.0**-126, 0.5, 1.0, 1.0, 2.0**127, 0.0]
    up = [2.0**-126, 2.0**-126, 1.0, 1.0, 2.0, 2.0**127, 0.0]
    assert power_of_two(numbers).tolist() == down
    assert power_of_two(numbers, rounding="up").tolist() == up
    assert power_of_two(numbers[2:], rounding="none").tolist() == numbers[2:].tolist()


def test_as_scaled_and_back():
    tree = {"a": jnp.array([1e-30, -3e-31]), "n": jnp.arange(3), "z": jnp.zeros(2)}
    for by in (None, *qsim.NORMS):
        got = qsim.as_scaled(tree, by=by)
        assert same(qsim.unscaled(got), tree)
        assert powers_of_two(got)
    assert float(got["z"].scale) == 0
    assert qsim.as_scaled(got) is not None and same(qsim.as_scaled(got), got)


# --- the trace ----------------------------------------------------------------------------------


def test_a_trace_reads_every_site_of_training_steps():
    def step(w, x):
        with jax.named_scope("model"):
            y = lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=2)[0]
        return w - 2.0**-20 * (y.T @ y)

    run = jax.jit(qsim.scale_trace(step, ["e4m3", "e5m2"]))
    w, readings = W, []
    for _ in range(3):
        new, found = run(qsim.as_scaled(w), X)
        w = qsim.unscaled(new)
        readings.append(found)
    over_time = jax.tree.map(lambda *leaves: jnp.stack(leaves), *readings)
    assert {"model/dot_general[0]", "model/dot_general[1]", "mul", "sub"} <= set(over_time)
    product = over_time["mul"]
    assert product.scale.shape == (3,) and product.underflow.shape == (3, 2)
    plain = np.asarray(jnp.tanh(jnp.tanh(X @ W) @ W), np.float64)
    expected = np.sqrt(np.mean((2.0**-20 * plain.T @ plain) ** 2))
    sizes = product.rms * product.scale
    assert float(sizes[0]) == pytest.approx(expected, rel=1e-4)


def test_shares_that_a_format_loses():
    x = jnp.array([1.0, 2.0**-10, 2.0**-11, 300.0, 0.0])
    _, readings = qsim.scale_trace(lambda x: x * 1.0, ["e4m3", "e5m10"])(x)
    [reading] = readings.values()
    assert reading.underflow.tolist() == [0.5, 0.0]  # of four numbers that are not zero
    assert reading.overflow.tolist() == pytest.approx([0.2, 0.0])


# --- mistakes -----------------------------------------------------------------------------------


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"no rounding of scales 'dwn'; did you mean 'down'\?"):
        qsim.scale_propagation(jnp.sin, rounding="dwn")
    with pytest.raises(ValueError, match=r"no norm 'l3'; did you mean"):
        qsim.rescale(X, "l3")
    with pytest.raises(ValueError, match="no norm 'rms'"):
        qsim.as_scaled(X, by="rms")
