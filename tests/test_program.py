"""Roles, paths and directions: what an annotated program knows of its operations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

import qsim
from tests.unchecked import unchecked


def products(fn, *args, **kwargs):
    """Path, direction and roles of every contraction."""
    found = qsim.sites(fn, *args, **kwargs)
    return [(s.path, s.direction, s.roles) for s in found if s.kind == "contraction"]


FORWARD = ("forward", ("activation", "weight"))
BY_INPUT = ("input_gradient", ("gradient", "weight"))
BY_WEIGHT = ("weight_gradient", ("gradient", "activation"))
X = jnp.ones((5, 3))
PLAIN = {"l1": {"kernel": jnp.ones((3, 4))}, "l2": {"kernel": jnp.ones((4, 2))}}


def plain(p, x):
    return ((jnp.tanh(x @ p["l1"]["kernel"]) @ p["l2"]["kernel"]) ** 2).sum()


def scanned(p, x):
    def layer(h, w):
        return jnp.tanh(h @ w["a"]) @ w["b"], None

    return lax.scan(layer, x, p)[0].sum()


def rematerialised(p, x):
    def layer(h, w):
        return jnp.tanh(h @ w["a"]) @ w["b"], None

    return lax.scan(jax.checkpoint(layer), x, p)[0].sum()


LAYERS = {"a": jnp.ones((3, 3, 7)), "b": jnp.ones((3, 7, 3))}


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_the_three_products_of_a_layer(wrap):
    found = products(jax.grad(wrap(plain), argnums=(0, 1)), PLAIN, X)
    forward = [("l1", *FORWARD), ("l2", *FORWARD)]
    assert found[:2] == forward
    backward = [site for site in found if site not in forward]
    assert backward == [
        ("l2", *BY_WEIGHT),
        ("l2", *BY_INPUT),
        ("l1", *BY_WEIGHT),
        ("l1", *BY_INPUT),
    ]


@pytest.mark.parametrize("program", [scanned, rematerialised])
def test_products_of_scanned_layers(program):
    found = products(jax.grad(program), LAYERS, X)
    backward = [site for site in found if site[1] != "forward"]
    assert set(found) - set(backward) == {("a", *FORWARD), ("b", *FORWARD)}
    assert backward == [("b", *BY_WEIGHT), ("b", *BY_INPUT), ("a", *BY_WEIGHT), ("a", *BY_INPUT)]


def test_products_of_attention_have_no_weight_gradient():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.MultiHeadDotProductAttention(2, name="attention")(x)

    model, x = Attention(), jnp.ones((2, 5, 4))
    variables = model.init(jax.random.key(0), x)
    found = products(
        jax.grad(lambda v, x: (model.apply(v, x) ** 2).sum(), argnums=(0, 1)), variables, x
    )
    of_weights = [path for path, direction, _ in found if direction == "weight_gradient"]
    assert [path.rsplit("/", 1)[-1] for path in of_weights] == ["out", "value", "key", "query"]
    between = [(d, roles) for path, d, roles in found if "->" in path]
    assert between[:2] == [("forward", ("activation", "activation"))] * 2
    assert between[2:] == [("input_gradient", ("gradient", "activation"))] * 4


def test_products_of_a_convolution():
    conv, image = nn.Conv(4, (3, 3), name="conv"), jnp.ones((1, 8, 8, 3))
    variables = conv.init(jax.random.key(0), image)
    loss = jax.grad(lambda v, x: (conv.apply(v, x) ** 2).sum(), argnums=(0, 1))
    assert [(d, roles) for _, d, roles in products(loss, variables, image)] == [
        FORWARD,
        ("weight_gradient", ("activation", "gradient")),
        BY_INPUT,
    ]


def test_nnx_models_have_paths_of_their_parameters():
    graph, state = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    found = products(lambda s, x: nnx.merge(graph, {"layer": s}["layer"])(x), state, X)
    assert [path for path, *_ in found] == ["kernel"]
    found = products(lambda s, x: nnx.merge(graph, s["layer"])(x), {"layer": state}, X)
    assert [path for path, *_ in found] == ["layer"]


def test_paths_are_those_of_scopes_whatever_is_around_them():
    def layer(p, x):
        with jax.named_scope("up"):
            return x @ p

    def total(p, x):
        return jax.vmap(layer, (None, 0))(p, x[None]).sum()

    p = jnp.ones((3, 2))
    assert products(total, p, X, params=0) == [("up", *FORWARD)]
    assert [path for path, *_ in products(jax.grad(jax.checkpoint(total)), p, X, params=0)] == [
        "up",
        "up",
    ]


def test_a_training_step_has_an_update():
    optimizer = optax.adam(1e-3)

    def step(p, state, x):
        gradients = jax.grad(plain)(p, x)
        updates, state = optimizer.update(gradients, state, p)
        return optax.apply_updates(p, updates), state

    with jax.numpy_dtype_promotion("standard"):
        found = qsim.sites(step, PLAIN, optimizer.init(PLAIN), X, params=0, states=1)
    updates = [site for site in found if site.direction == "update"]
    assert {role for site in updates for role in site.roles} >= {"gradient", "state"}
    assert all(site.kind in ("elementwise", "function") for site in updates)
    assert {site.direction for site in found if "state" in site.roles} == {"update"}
    last = found[-1]
    assert (last.primitive, last.direction, set(last.roles)) == (
        "add",
        "update",
        {"weight", "gradient"},
    )


def decode(p, cache, x, place):
    cache = lax.dynamic_update_slice(cache, x @ p["k"], (place, 0))
    return jax.nn.softmax(x @ cache.T) @ cache, cache


DECODER = ({"k": jnp.eye(4)}, jnp.zeros((8, 4)), jnp.ones((1, 4)), jnp.int32(2))


def test_what_is_read_from_a_cache_is_known_as_such():
    found = products(decode, *DECODER, params=0, caches=1)
    assert [roles for *_, roles in found] == [("activation", "weight")] + [
        ("activation", "cache")
    ] * 2


def test_what_is_written_into_a_cache_is_stored_there():
    p, cache, x, place = DECODER
    x, p = 0.3 * x, {"k": p["k"] * 1.1}
    _, written = qsim.simulate(decode, "stored caches=e2m1f", params=0, caches=1)(
        p, cache, x, place
    )
    assert written[2].tolist() == qsim.quantize(x @ p["k"], "e2m1f")[0].tolist()
    assert not written[:2].any() and not written[3:].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"params": 5}, r"params=5, but the function got 2 positional arguments"),
        ({"states": -1}, r"states=-1, but the function got 2"),
        ({"params": "w"}, r"params='w', but the positions of arguments are integers"),
        ({"params": True}, r"params=True, but the positions"),
        ({"states": [1, "a"]}, r"states=\[1, 'a'\], but the positions"),
        ({"params": 0, "caches": 0}, r"argument 0 is said to be weight and cache"),
    ],
)
def test_positions_that_cannot_be_are_refused(given, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        qsim.sites(plain, PLAIN, X, **given)


def test_costs_are_those_of_the_operations():
    found = {site.primitive: site for site in qsim.sites(plain, PLAIN, X)}
    assert found["tanh"].flops == 20 and found["tanh"].bytes == 2 * 4 * 20
    assert found["reduce_sum"].flops == 10 and found["dot_general"].flops == 2 * 5 * 4 * 2


def test_a_loop_over_steps_knows_what_a_step_knows():
    def step(p, x):
        slope = jax.grad(plain)(p, x)
        return jax.tree.map(lambda w, g: w - 0.1 * g, p, slope)

    def steps(p, x):
        return lax.scan(lambda p, _: (step(p, x), None), p, None, length=3)[0]

    def known(fn):
        found = qsim.sites(fn, PLAIN, X)
        return [(site.path, site.primitive, site.direction, site.roles) for site in found]

    assert known(steps) == known(step)


def test_one_layer_that_is_called_twice_is_two_layers():
    layer = jax.jit(lambda w, x: jnp.tanh(x @ w))
    p = {"a": jnp.ones((3, 3)), "b": jnp.ones((3, 3))}
    found = products(jax.grad(lambda p, x: layer(p["b"], layer(p["a"], x)).sum()), p, X)
    backward = [(path, direction) for path, direction, _ in found if direction != "forward"]
    assert backward == [
        ("b", "weight_gradient"),
        ("b", "input_gradient"),
        ("a", "weight_gradient"),
    ]


class Kept(NamedTuple):
    key: jax.Array
    value: jax.Array


def test_paths_keep_what_is_called_value():
    p = {"value": {"kernel": jnp.ones((3, 2))}}
    assert [path for path, *_ in products(lambda p, x: x @ p["value"]["kernel"], p, X)] == ["value"]
    kept = {"layer": Kept(jnp.ones((3, 2)), jnp.ones((3, 2)))}
    explained = qsim.policy("stored layer/value caches=e4m3").explain(
        lambda c, x: (x @ c["layer"].key, x @ c["layer"].value), kept, X, caches=0
    )
    assert [place.path for place in explained.places if place.rule == 0] == ["layer/value"]


LOSSES = {
    "root mean square": lambda y: jnp.sqrt((y**2).mean()),
    "norm": jnp.linalg.norm,
    "logsumexp": jax.nn.logsumexp,
    "largest": jnp.max,
    "sine": lambda y: jnp.sin(y.sum()),
    "product": lambda y: (y**2).mean() * jnp.abs(y).mean(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_begin_at_any_loss(loss):
    fn = lambda p, x: LOSSES[loss](jnp.tanh(x @ p["l1"]["kernel"]) @ p["l2"]["kernel"])  # noqa: E731
    found = [each[1:] for each in products(jax.grad(fn), PLAIN, X)]
    assert set(found) == {FORWARD, BY_INPUT, BY_WEIGHT}
    assert found.count(BY_WEIGHT) == 2 * found.count(BY_INPUT)


def test_gradients_of_a_scaled_loss_and_of_a_given_seed():
    def scaled(p, x, scale):
        return jax.grad(lambda p: plain(p, x) * scale)(p)

    def seeded(p, x):
        y, vjp = jax.vjp(lambda p: x @ p["l1"]["kernel"] @ p["l2"]["kernel"], p)
        return vjp(y - 1)

    backward = [BY_WEIGHT, BY_INPUT, BY_WEIGHT]
    assert [each[1:] for each in products(scaled, PLAIN, X, jnp.float32(8))][2:] == backward
    assert [each[1:] for each in products(seeded, PLAIN, X)][2:] == backward
