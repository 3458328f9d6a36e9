"""The transformation, against the same programs written by hand with rounded contractions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import qsim
from tests.bytewise import same
from tests.unchecked import unchecked

HIGHEST = lax.Precision.HIGHEST
dot = partial(jnp.dot, precision=HIGHEST)
FORMATS = ["e4m3", "e2m1f", "int4"]


def rounded_dot(fmt, a, b):
    return dot(qsim.quantize(a, fmt), qsim.quantize(b, fmt))


def contractions(fn, *args, **kwargs):
    return [site for site in qsim.sites(fn, *args, **kwargs) if site.kind == "contraction"]


@pytest.fixture
def data():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"a": (8, 8), "b": (8, 8)}
    weights = {
        name: jax.random.normal(key, shapes[name]) for key, name in zip(keys, shapes, strict=False)
    }
    return weights, jax.random.normal(keys[2], (4, 8))


# --- programs, written for any contraction ----------------------------------------------------


def plain(times, p, x):
    return times(jnp.tanh(times(x, p["a"])), p["b"])


def jitted(times, p, x):
    return jax.jit(lambda x: times(x, p["a"]) + 1)(x)


def scanned(times, p, x):
    def step(carry, w):
        carry = jnp.tanh(times(carry, w))
        return carry, carry.sum()

    return lax.scan(step, x, jnp.stack([p["a"], p["b"], p["a"]]), reverse=True)


def looped(times, p, x):
    def body(state):
        count, x = state
        return count + 1, jnp.tanh(times(x, p["a"]))

    def unfinished(state):
        return (state[0] < 5) & (times(state[1], p["b"]).sum() < 1e6)

    return lax.while_loop(unfinished, body, (jnp.int32(0), x))


def branched(times, p, x):
    return lax.cond(x.sum() > 0, lambda x: times(x, p["a"]), lambda x: times(x, p["b"]), x)


def switched(times, p, x):
    branches = [lambda x, w=w: times(x, w) for w in (p["a"], p["b"], p["a"] + 1.0)]
    return lax.switch(jnp.int32(x.sum() > 0) + 1, branches, x)


def rematerialised(times, p, x):
    return jax.checkpoint(lambda x: jnp.sin(times(x, p["a"])))(x)


def nested(times, p, x):
    def step(carry, w):
        inner = jax.checkpoint(lambda c: lax.cond(c.sum() > 0, lambda c: times(c, w), jnp.sin, c))
        return jax.jit(inner)(carry), None

    return lax.scan(step, x, jnp.stack([p["a"], p["b"]]))[0]


def with_custom_jvp(times, p, x):
    @jax.custom_jvp
    def f(x, w):
        return times(x, w)

    @f.defjvp
    def _(primals, tangents):
        return f(*primals), 3 * tangents[0]

    return f(x, p["a"])


def with_custom_vjp(times, p, x):
    @jax.custom_vjp
    def f(x, w):
        return times(x, w)

    f.defvjp(lambda x, w: (f(x, w), (x, w)), lambda saved, g: (5 * g, jnp.zeros_like(saved[1])))
    return f(x, p["a"])


PROGRAMS = [plain, jitted, scanned, looped, branched, switched, rematerialised, nested]
CUSTOM = [with_custom_jvp, with_custom_vjp]


@pytest.mark.t1
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("program", [*PROGRAMS, *CUSTOM], ids=lambda program: program.__name__)
@pytest.mark.every(2)
def test_equals_the_program_with_rounded_contractions(program, fmt, data):
    by_hand = jax.jit(partial(program, partial(rounded_dot, fmt)))(*data)
    simulated = qsim.simulate(partial(program, jnp.dot), fmt)
    assert same(jax.jit(simulated)(*data), by_hand)
    if program is not looped:  # a loop that runs one operation at a time is slow, not different
        assert jax.tree.structure(simulated(*data)) == jax.tree.structure(by_hand)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_without_quantizers_nothing_changes(program, data):
    fn = partial(program, dot)
    assert same(jax.jit(qsim.simulate(fn, None))(*data), jax.jit(fn)(*data))


@pytest.mark.t1
@pytest.mark.parametrize("program", [plain, jitted, branched, rematerialised, nested])
def test_gradient_is_that_of_the_program_with_rounded_contractions(program, data):
    def total(fn):
        return jax.jit(jax.grad(lambda p, x: jnp.sum(fn(p, x) ** 2)))(*data)

    by_hand = total(partial(program, partial(rounded_dot, "e4m3")))
    simulated = total(qsim.simulate(partial(program, dot), "e4m3"))
    flat = zip(jax.tree.leaves(simulated), jax.tree.leaves(by_hand), strict=True)
    for found, expected in flat:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("program, factor", [(with_custom_jvp, 3.0), (with_custom_vjp, 5.0)])
def test_derivative_rules_of_the_user_stay_in_force(program, factor, data):
    p, x = data
    simulated = qsim.simulate(partial(program, dot), "e2m1f")
    assert same(jax.grad(lambda x: simulated(p, x).sum())(x), jnp.full_like(x, factor))


def test_roles_choose_the_quantizer(data):
    p, x = data
    q = partial(qsim.quantize, fmt="e2m1f")

    def attention(p, x):
        h = dot(x, p["a"])
        return dot(h, h.T)

    only_weights = qsim.simulate(attention, qsim.policy(weights="e2m1f"))(p, x)
    h = dot(x, q(p["a"]))
    assert same(only_weights, dot(h, h.T))
    only_activations = qsim.simulate(attention, qsim.policy(activations="e2m1f"))(p, x)
    h = dot(q(x), p["a"])
    assert same(only_activations, dot(q(h), q(h.T)))
    outputs = qsim.simulate(attention, qsim.policy(outputs="e2m1f"))(p, x)
    h = q(dot(x, p["a"]))
    assert same(outputs, q(dot(h, h.T)))


def test_what_is_computed_from_parameters_is_a_weight(data):
    p, x = data
    by_hand = dot(x, qsim.quantize((p["a"] - p["a"].mean()).T, "e2m1f"))

    def standardised(p, x):
        return dot(x, (p["a"] - p["a"].mean()).T)

    weights = qsim.policy(weights="e2m1f")
    assert same(qsim.simulate(standardised, weights)(p, x), by_hand)
    captured = qsim.simulate(lambda x: standardised(p, x), weights)
    assert same(captured(x), by_hand)
    swapped = qsim.simulate(lambda x, p: standardised(p, x), weights, params=1)
    assert same(swapped(x, p), by_hand)


def test_a_carried_value_that_meets_data_is_an_activation(data):
    p, x = data

    def run(p, x):
        def step(state, row):
            return jnp.tanh(dot(state, p["a"]) + row), None

        return lax.scan(step, jnp.zeros(8), x)[0]

    found = [site.roles for site in contractions(run, p, x)]
    assert found == [("activation", "weight")]


def test_convolution_with_groups_and_dilation(data):
    keys = jax.random.split(jax.random.key(1))
    x, kernel = jax.random.normal(keys[0], (2, 9, 9, 4)), jax.random.normal(keys[1], (3, 3, 1, 8))

    def conv(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (2, 1), "SAME", rhs_dilation=(1, 2), feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=HIGHEST,
        )  # fmt: skip

    expected = conv(qsim.quantize(x, "e4m3"), qsim.quantize(kernel, "e4m3"))
    found = qsim.simulate(lambda p, x: conv(x, p["k"]), "e4m3")({"k": kernel}, x)
    assert same(found, expected)
    [site] = contractions(lambda p, x: conv(x, p["k"]), {"k": kernel}, x)
    assert site.flops == 2 * expected.size * 3 * 3 * 1
    assert site.roles == ("activation", "weight") and site.path == "k"


class Perceptron(nn.Module):
    """A model whose call has an argument that is no array."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8, name="up")(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.gelu(x))
        return nn.remat(nn.Dense)(2, name="down")(x)


class Twin(nnx.Module):
    """The same model in NNX."""

    def __init__(self):
        self.up, self.down = (nnx.Linear(a, b, rngs=nnx.Rngs(0)) for a, b in ((8, 8), (8, 2)))

    def __call__(self, x):
        return self.down(nnx.gelu(self.up(x)))


@pytest.fixture
def twins(data):
    _, x = data
    model = Perceptron()
    variables = model.init(jax.random.key(0), x)
    graph, state = nnx.split(Twin())
    replaced = jax.tree.map(lambda leaf: leaf, state)
    for layer in ("up", "down"):
        for name in ("kernel", "bias"):
            replaced[layer][name] = replaced[layer][name].replace(variables["params"][layer][name])

    return model, variables, (lambda state, x: nnx.merge(graph, state)(x)), replaced


@pytest.mark.t1
@pytest.mark.parametrize("scale", ["none", "absmax", "power_of_two"])
def test_linen_and_nnx_models_alike(twins, data, scale):
    model, variables, apply, state = twins
    policy = qsim.policy(weights="e2m1f", activations="e4m3", outputs="e5m7", scale=scale)
    linen = qsim.simulate(model.apply, policy)
    assert same(linen(variables, data[1]), qsim.simulate(apply, policy)(state, data[1]))
    assert not same(linen(variables, data[1]), model.apply(variables, data[1]))
    assert same(linen(variables, data[1], train=False), linen(variables, data[1]))


def test_vmap_outside_and_inside():
    """With numbers whose products sum up exactly, in whatever order."""
    a, b = (jnp.round(4 * jax.random.normal(jax.random.key(n), (8, 8))) / 4 for n in (0, 1))
    batch = jnp.stack([b, 2 * b])
    simulated = qsim.simulate(lambda p, x: dot(x, p["a"]), "e3m2f")
    each = jnp.stack([simulated({"a": a}, x) for x in batch])
    assert same(jax.jit(jax.vmap(simulated, (None, 0)))({"a": a}, batch), each)
    inside = qsim.simulate(jax.vmap(lambda p, x: dot(x, p["a"]), (None, 0)), "e3m2f")
    assert same(jax.jit(inside)({"a": a}, batch), each)


def test_sites_of_both(twins, data):
    model, variables, apply, state = twins
    linen, graph = (
        contractions(*each, data[1]) for each in ((model.apply, variables), (apply, state))
    )
    assert [site.roles for site in linen] == [("activation", "weight")] * 2
    assert [site.flops for site in linen] == [2 * 4 * 8 * 8, 2 * 4 * 8 * 2]
    assert [site.path for site in graph] == ["up", "down"]
    assert [site.path.rsplit("/", 1)[-1] for site in linen] == ["up", "down"]


def test_sites_count_the_runs_of_loops(data):
    [site] = contractions(partial(scanned, jnp.dot), *data)
    assert (site.repeats, site.flops) == (3, 3 * 2 * 4 * 8 * 8)


def test_sites_take_shapes_in_place_of_arrays(data):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), data)
    assert qsim.sites(partial(plain, jnp.dot), *shapes) == qsim.sites(
        partial(plain, jnp.dot), *data
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_models_are_summed_in_float32(dtype, data):
    p, x = jax.tree.map(lambda leaf: leaf.astype(dtype), data)
    wide = [qsim.quantize(leaf.astype(jnp.float32), "e4m3") for leaf in (x, p["a"])]
    found = qsim.simulate(lambda p, x: x @ p["a"], "e4m3")(p, x)
    assert found.dtype == dtype
    assert same(found, dot(*wide).astype(dtype))


def test_integer_contractions_stay_as_they_are():
    x = jnp.arange(6, dtype=jnp.int32).reshape(2, 3)
    assert same(qsim.simulate(lambda x: x @ x.T, "int4")(x), x @ x.T)


@pytest.mark.t1
def test_stochastic_rounding_is_keyed_by_site_operand_and_iteration(data):
    p, x = data
    policy = qsim.policy(weights="e2m1f", rounding="stochastic")

    def run(key, fn=plain):
        return jax.jit(qsim.simulate(partial(fn, dot), policy, key=key))(p, x)

    assert same(run(jax.random.key(1)), run(jax.random.key(1)))
    assert not same(run(jax.random.key(1)), run(jax.random.key(2)))
    twice = qsim.simulate(
        lambda p, x: (dot(x, p["a"]), dot(x, p["a"])), policy, key=jax.random.key(0)
    )
    assert not same(*twice(p, x))

    def repeated(p, x):
        return lax.scan(lambda c, _: (c, dot(x, p["a"])), 0, None, length=2)[1]

    first, second = qsim.simulate(repeated, policy, key=jax.random.key(0))(p, x)
    assert not same(first, second)


def test_simulations_nest(data):
    inner = qsim.simulate(partial(plain, dot), qsim.policy(weights="e4m3"))
    outer = qsim.simulate(inner, qsim.policy(activations="e4m3"))
    both = qsim.simulate(partial(plain, dot), "e4m3")
    assert same(jax.jit(outer)(*data), jax.jit(both)(*data))


def test_simulating_a_gradient_rounds_the_backward_products(data):
    p, x = data

    def loss(p, x):
        return dot(x, p["a"]).sum()

    found = qsim.simulate(jax.grad(loss), "e2m1f")(p, x)["a"]
    assert same(found, dot(qsim.quantize(x, "e2m1f").T, jnp.ones((4, 8))))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: qsim.simulate(jnp.dot, 3), "made by qsim.policy"),
        (lambda: qsim.simulate(jnp.dot, "e4m33x"), "no format 'e4m33x'"),
        (lambda: qsim.policy(weights="e4m3", scale="max"), "no scale 'max'; did you mean 'absmax'"),
        (lambda: qsim.policy(weights="e4m3", rounding="nearest"), "no rounding mode 'nearest'"),
        (lambda: qsim.policy(weights="e4m3", overflow="sat"), "no overflow policy 'sat'"),
        (lambda: qsim.policy(weights="e4m3", gradient="ste"), "no gradient 'ste'"),
        (lambda: qsim.simulate(jnp.dot, "weights=e11m52"), "cannot be carried in float32"),
    ],
)
def test_mistakes_are_named(make, message):
    with unchecked(), pytest.raises((TypeError, ValueError), match=message):
        make()


NOISY = [
    CUSTOM[0],
    *(pytest.param(program, marks=pytest.mark.t1) for program in (CUSTOM[1], branched)),
    pytest.param(rematerialised, marks=pytest.mark.t2),
]


@pytest.mark.parametrize("program", NOISY)
def test_noise_does_not_depend_on_differentiation(program, data):
    policy = qsim.policy(weights="e2m1f", activations="e2m1f", rounding="stochastic")

    def loss(p, x):
        return program(dot, p, x).sum()

    simulated = qsim.simulate(loss, policy, key=jax.random.key(0))
    alone = jax.jit(simulated)(*data)
    assert same(alone, jax.jit(jax.value_and_grad(simulated))(*data)[0])
    assert same(alone, jax.value_and_grad(jax.jit(simulated))(*data)[0])


def test_policies_may_be_traced_around_derivative_rules(data):
    def loss(policy, p, x):
        def step(carry, _):
            return with_custom_vjp(dot, p, with_custom_jvp(dot, p, carry)), None

        fn = qsim.simulate(lambda p, x: lax.scan(step, x, None, length=2)[0].sum(), policy)
        return fn(p, x)

    grid = qsim.lower(qsim.parse("e4m3"))
    policy = qsim.policy(weights=grid, activations=grid)
    slope = jax.jit(jax.grad(loss, argnums=2))(policy, *data)
    assert slope.shape == (4, 8) and np.all(np.isfinite(slope))


def test_a_vmapped_loop_of_unequal_lengths(data):
    p, x = data

    def run(times, n, x):
        return lax.fori_loop(0, n, lambda _, c: jnp.tanh(times(c, p["a"])), x)

    lengths = jnp.array([1, 2, 0, 3])
    simulated = qsim.simulate(jax.vmap(partial(run, dot)), "e4m3")(lengths, x)
    by_hand = jax.vmap(partial(run, partial(rounded_dot, "e4m3")))(lengths, x)
    assert same(simulated, by_hand)


def test_a_looked_up_parameter_is_an_activation(data):
    p, _ = data
    for look in (lambda p, i: p["a"][i[0]] @ p["b"], lambda p, i: p["a"][i] @ p["b"]):
        [site] = contractions(look, p, jnp.arange(3))
        assert site.roles == ("activation", "weight")


@pytest.mark.parametrize("params", [5, -1, [0, 2]])
def test_positions_of_no_argument_are_refused(params, data):
    with pytest.raises(ValueError, match=r"the function got 2 positional arguments"):
        qsim.simulate(partial(plain, dot), "e4m3", params=params)(*data)


def test_a_stack_of_formats_is_refused(data):
    grids = qsim.stack([qsim.lower(qsim.parse(spec)) for spec in ("e4m3", "e5m2")])
    with pytest.raises(ValueError, match="one format is needed here, got a stack"):
        qsim.simulate(partial(plain, dot), grids)(*data)


def test_complex_contractions_are_refused(data):
    p, x = data

    def both(p, x):
        return x.astype(jnp.complex64) @ p["a"].astype(jnp.complex64)

    with pytest.raises(NotImplementedError, match="complex64 numbers"):
        qsim.simulate(both, "e4m3")(p, x)
    assert same(qsim.simulate(both, "dot_general operands=none; operands=e4m3")(p, x), both(p, x))


def test_ragged_contractions_are_rounded(data):
    p, x = data
    sizes, weights = jnp.array([1, 3], jnp.int32), jnp.stack([p["a"], p["b"]])
    found = qsim.simulate(lambda w, x: lax.ragged_dot(x, w, sizes), "e4m3", params=0)(weights, x)
    w, x = (qsim.quantize(leaf, "e4m3") for leaf in (weights, x))
    assert same(found, lax.ragged_dot(x, w, sizes, precision=HIGHEST))


def test_stochastic_rounding_without_a_key_is_refused(data):
    policy = qsim.policy(weights="e4m3", rounding="stochastic")
    with pytest.raises(ValueError, match="needs a random key"):
        qsim.simulate(partial(plain, dot), policy)(*data)


def test_wrapping_on_a_grid_that_cannot_is_refused(data):
    policy = qsim.policy(weights=qsim.lower(qsim.parse("nf4")), overflow="wrap")
    with pytest.raises(ValueError, match="overflow='wrap' is for integers and fixed point"):
        qsim.simulate(partial(plain, dot), policy)(*data)


def test_what_hides_its_numbers_is_named(data):
    def hidden(x):
        return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x) + 1

    with pytest.raises(NotImplementedError, match=r"pure_callback at test_simulate.py:\d+ hides"):
        qsim.simulate(hidden, "e4m3")(data[1])
    named = qsim.simulate(hidden, "pure_callback=none; all=e4m3")(data[1])
    assert same(named, qsim.quantize(data[1] + 1, "e4m3"))
    assert same(qsim.simulate(hidden, None)(data[1]), hidden(data[1]))


def test_solvers_are_rounded_and_their_operators_are_not():
    def solve(x, y):
        return lax.custom_linear_solve(lambda z: x * z, y, lambda _, y: y / x, lambda _, y: y / x)

    x, y = jnp.array([0.3, 0.7]), jnp.array([1.0, 5.0])
    simulated = qsim.simulate(solve, "div=e4m3")
    quotient, vjp = jax.vjp(jax.jit(simulated), x, y)
    assert same(quotient, qsim.quantize(y / x, "e4m3"))
    of_x, of_y = vjp(jnp.ones(2))
    assert same(of_y, 1 / x)  # by the operator that is transposed, as it was written
    assert same(of_x, -quotient * of_y)


@pytest.mark.t1
def test_parts_of_devices_are_entered(data):
    p, x = data
    mesh = Mesh(np.array(jax.devices()[:1]), ("i",))
    whole = PartitionSpec()

    def shared(times):
        specs = {"mesh": mesh, "in_specs": (whole, whole), "out_specs": whole}
        return jax.shard_map(lambda x, w: lax.psum(times(x, w), "i"), **specs)(x, p["a"])

    found = qsim.simulate(lambda p, x: shared(dot), "e4m3")(p, x)
    assert same(found, shared(partial(rounded_dot, "e4m3")))


def test_scaled_products_round_operands_and_results():
    x, w = jnp.linspace(-1, 1, 64).reshape(2, 32), jnp.linspace(-2, 2, 64).reshape(32, 2)
    scales = {"lhs_scale": jnp.ones((2, 1)), "rhs_scale": jnp.ones((1, 2))}

    def fn(p, x):
        return lax.scaled_dot(x, p, preferred_element_type=jnp.float32, **scales)

    found = qsim.simulate(fn, "operands=e4m3; contraction=e5m4", params=0)(w, x)
    by_hand = fn(qsim.quantize(w, "e4m3"), qsim.quantize(x, "e4m3"))
    assert same(found, qsim.quantize(by_hand, "e5m4"))


def test_fourier_transforms_are_refused_by_name_where_they_would_be_rounded(data):
    def fn(p, x):
        return jnp.abs(jnp.fft.rfft(x @ p["a"]))

    with pytest.raises(NotImplementedError, match=r"fft at .* begin with fft=none"):
        qsim.simulate(fn, "all=e5m10")(*data)
    found = qsim.simulate(fn, "operands=e4m3")(*data)
    assert same(found, jnp.abs(jnp.fft.rfft(rounded_dot("e4m3", data[1], data[0]["a"]))))


def test_effects_pass(data, capfd):
    def fn(p, x):
        jax.debug.print("the first is {}", x[0, 0])
        return x @ p["a"]

    assert same(
        qsim.simulate(fn, "all=e4m3; operands=e4m3")(*data),
        qsim.quantize(rounded_dot("e4m3", data[1], data[0]["a"]), "e4m3"),
    )
    jax.effects_barrier()
    assert "the first is" in capfd.readouterr().out


def test_random_bits_are_not_rounded_but_what_is_made_of_them_is():
    def fn(x):
        return x + jax.random.normal(jax.random.key(0), x.shape)

    found = qsim.simulate(fn, "all=e4m3")(jnp.zeros(8))
    assert same(found, qsim.quantize(found, "e4m3")) and len(set(found.tolist())) > 3


def test_layers_are_those_of_the_scan_over_weights():
    layers, x = jax.random.normal(jax.random.key(1), (3, 5, 5)), jnp.ones((3, 2, 5))

    def model(p, x):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p)[0]

    simulated = partial(qsim.simulate, policy="weights=e4m3|e5m2|e2m1f", params=0)
    expected = simulated(model)(layers, x[0])
    batched = simulated(lambda p, xs: lax.map(lambda x: model(p, x), xs))(layers, x)
    assert same(batched, jnp.stack([expected] * 3))


@pytest.mark.t1
@pytest.mark.parametrize("shape", [(33, 65, 33), (100, 50, 200), (200, 200, 200)])
def test_transposed_operands_are_added_up_in_one_order(shape):
    m, k, n = shape
    x, y = (jax.random.normal(jax.random.key(rows), (rows, k)) for rows in (m, n))
    for fn in (lambda x, y: x @ y.T, lambda x, y: (x @ y.T) @ y, lambda x, y: x.T @ x):
        simulated = qsim.simulate(fn, "all=binary32 ieee", params=())
        assert same(jax.jit(simulated)(x, y), simulated(x, y))


def test_literals_and_narrow_floats_are_operands_too():
    power = qsim.simulate(lambda x: lax.pow(x, 2.0), "all operands=e4m3")
    assert same(power(jnp.array([1.1])), jnp.array([1.125]) ** 2)
    w, x = jnp.ones((3, 2), jnp.float8_e5m2), jnp.ones((4, 3), jnp.float8_e4m3fn)
    dot = lambda w, x: lax.dot_general(  # noqa: E731
        x, w, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    assert same(qsim.simulate(dot, "weights=e2m1f", params=0)(w, x), jnp.full((4, 2), 3.0))


def test_results_that_depend_on_nothing_are_arrays(data):
    found = qsim.simulate(lambda p, x: (x @ p["a"], 3, jnp.zeros(())), "e4m3")(*data)
    assert all(isinstance(each, jax.Array) for each in found)


def test_what_is_computed_again_stays_apart():
    w, x = jnp.ones((8, 6)), jnp.ones((4, 8))
    layer = jax.checkpoint(lambda p, x: jnp.tanh(jnp.tanh(x @ p) @ p.T))
    gradient = jax.grad(lambda p, x: layer(p, layer(p, x)).sum())
    barriers = [
        jax.jit(fn).lower(w, x).as_text().count("optimization_barrier")
        for fn in (gradient, qsim.simulate(gradient, "function=e4m3", params=0))
    ]
    assert barriers[0] == barriers[1] > 0


def test_channels_of_a_kernel_are_its_outputs():
    x, kernel = jnp.ones((1, 4, 4, 2)), jax.random.normal(jax.random.key(0), (3, 3, 1, 2))
    dimensions = ("NHWC", "HWIO", "NHWC")

    def depthwise(p, x):
        return lax.conv_general_dilated(
            x, p, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=2
        )

    rounded = jnp.moveaxis(
        qsim.quantize(jnp.moveaxis(kernel, 3, 0).reshape(2, 9), "int2[token]"), 0, 1
    )
    found = qsim.simulate(depthwise, "weights=int2[channel]", params=0)(kernel, x)
    assert same(found, depthwise(rounded.reshape(kernel.shape), x))
    assert not same(found, depthwise(kernel, x))


def test_what_does_not_fit_names_its_rule_and_place(data):
    with pytest.raises(ValueError, match=r"rule 'weights', a \(dot_general\): blocks of 32 do not"):
        qsim.simulate(partial(plain, dot), "weights=mxfp4")(*data)
