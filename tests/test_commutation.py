"""simulate commutes with JAX's transformations, whatever it rounds."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qsim
from tests.bytewise import same
from tests.programs import normal

POLICIES = [
    "weights=e4m3; activations=e5m2 absmax",
    "all=bfloat16",
    "all=e5m10; contraction operands=int8 absmax; .*head.*=none",
]
# of so few bits that every sum is exact, in whatever order
EXACT = "operands=e4m3; all=e4m3"
WEIGHTS = {"up": normal(0, 6, 8) / 2, "head": normal(1, 8, 4) / 2}
X = normal(2, 3, 5, 6)


def model(p, x):
    y = jnp.tanh(x @ p["up"])
    with jax.named_scope("head"):
        return jax.nn.softmax(y @ p["head"])


def loss(p, x):
    return -jnp.log(model(p, x)[..., 0]).mean()


def close(a, b, rtol=2e-2) -> None:
    """What is rounded after sums in another order differs by a gap at most, and rarely."""
    pairs = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    for x, y in pairs:
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-3)


T2 = pytest.mark.t2


@pytest.fixture(params=[POLICIES[0], POLICIES[1], pytest.param(POLICIES[2], marks=T2)])
def policy(request):
    return request.param


@pytest.mark.t1
def test_with_jit(policy):
    simulated = qsim.simulate(model, policy)
    inside = qsim.simulate(jax.jit(model), policy)
    assert same(jax.jit(simulated)(WEIGHTS, X), simulated(WEIGHTS, X)) or "all" not in policy
    assert same(jax.jit(inside)(WEIGHTS, X), jax.jit(simulated)(WEIGHTS, X))


def test_with_vmap_over_data():
    """Without scales, which would be of an example where vmap is outside."""
    simulated = qsim.simulate(model, EXACT)
    each = jnp.stack([jax.jit(simulated)(WEIGHTS, x) for x in X])
    assert same(jax.jit(jax.vmap(simulated, (None, 0)))(WEIGHTS, X), each)
    assert same(jax.jit(qsim.simulate(jax.vmap(model, (None, 0)), EXACT))(WEIGHTS, X), each)


@pytest.mark.t1
def test_with_vmap_over_policies():
    texts = [f"operands={fmt}; all={fmt}" for fmt in ("e4m3", "e4m2", "e3m4")]
    lowered = [qsim.policy(text).lower() for text in texts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(x) for x in leaves]), *lowered)
    run = lambda policy: qsim.simulate(model, policy)(WEIGHTS, X)  # noqa: E731
    together = jax.jit(jax.vmap(run))(stacked)
    assert same(together, jnp.stack([jax.jit(run)(policy) for policy in lowered]))
    assert same(qsim.sweep(model, texts)(WEIGHTS, X), together)


@pytest.mark.t1
def test_with_grad(policy):
    slope = jax.grad(qsim.simulate(loss, policy))
    assert same(
        jax.jit(slope)(WEIGHTS, X),
        jax.jit(jax.value_and_grad(qsim.simulate(loss, policy)))(WEIGHTS, X)[1],
    )
    emulated = qsim.simulate(jax.grad(loss), policy)
    close(jax.jit(emulated)(WEIGHTS, X), emulated(WEIGHTS, X))
    close(jax.jit(slope)(WEIGHTS, X), jax.jit(emulated)(WEIGHTS, X), rtol=0.5)


@pytest.mark.t1
def test_with_remat(policy):
    plain = jax.jit(qsim.simulate(loss, policy))(WEIGHTS, X)
    assert same(jax.jit(qsim.simulate(jax.checkpoint(loss), policy))(WEIGHTS, X), plain)
    inside, outside = (
        jax.jit(jax.grad(fn))(WEIGHTS, X)
        for fn in (
            qsim.simulate(jax.checkpoint(loss), policy),
            jax.checkpoint(qsim.simulate(loss, policy)),
        )
    )
    close(inside, outside)
    close(inside, jax.jit(jax.grad(qsim.simulate(loss, policy)))(WEIGHTS, X))


@pytest.mark.t1
def test_with_scan(policy):
    def repeated(step, p, x):
        return lax.scan(lambda c, _: (step(p, c), None), x, None, length=3)[0]

    def step(p, x):
        return jnp.tanh(x @ p["up"] @ p["up"].T)

    def unrolled(p, x):
        for _ in range(3):
            x = step(p, x)
        return x

    inside = qsim.simulate(partial(repeated, step), policy)
    outside = partial(repeated, qsim.simulate(step, policy))
    by_hand = qsim.simulate(unrolled, policy)
    found = jax.jit(inside)(WEIGHTS, X)
    assert same(found, jax.jit(outside)(WEIGHTS, X))
    close(found, jax.jit(by_hand)(WEIGHTS, X))
    found, by_hand = (qsim.simulate(fn, EXACT) for fn in (partial(repeated, step), unrolled))
    assert same(jax.jit(found)(WEIGHTS, X), jax.jit(by_hand)(WEIGHTS, X))


TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import qsim
from tests.test_commutation import EXACT, WEIGHTS, X, loss, model, same

mesh = Mesh(np.array(jax.devices()), ("data",))
x = jnp.concatenate([X, X])[:4]
simulated = jax.jit(qsim.simulate(model, EXACT))
sharded = simulated(WEIGHTS, jax.device_put(x, NamedSharding(mesh, P("data"))))
assert len(sharded.sharding.device_set) == 2
assert same(sharded, simulated(WEIGHTS, x))

# gradients travel in e5m2: every device's is rounded before they are added up
def step(p, x):
    slope = jax.grad(loss)(p, x)
    return jax.tree.map(lambda g: lax.psum(g, "data"), slope)

specs = {"mesh": mesh, "in_specs": (P(), P("data")), "out_specs": P(), "check_vma": False}
found = jax.jit(qsim.simulate(jax.shard_map(step, **specs), "collective operands=e5m2"))(WEIGHTS, x)
parts = [jax.jit(jax.grad(loss))(WEIGHTS, half) for half in (x[:2], x[2:])]
rounded = [jax.tree.map(lambda g: qsim.quantize(g, "e5m2"), part) for part in parts]
for name in WEIGHTS:
    both = rounded[0][name] + rounded[1][name]
    np.testing.assert_allclose(found[name], both, rtol=0.3, atol=1e-3)
    plain = parts[0][name] + parts[1][name]
    assert not np.allclose(found[name], plain, rtol=1e-4)
# parts of an array have random bits of their own, what all devices have has the same
specs = {"mesh": mesh, "in_specs": (P("data"), P()), "out_specs": (P("data"), P())}
noisy = jax.shard_map(lambda x, y: (x + 1, y + 1), **specs)
ones = jnp.full((2, 64), 0.06)
found = qsim.simulate(noisy, "all=e4m3 stochastic", key=jax.random.key(0))(ones, ones[0])
assert not same(found[0][0], found[0][1])
assert len({tuple(part.data.tolist()) for part in found[1].addressable_shards}) == 1

# what is gathered is rounded before it travels
specs = {"mesh": mesh, "in_specs": P("data"), "out_specs": P(), "check_vma": False}
gather = jax.shard_map(lambda x: lax.all_gather(x, "data", tiled=True), **specs)
assert same(jax.jit(qsim.simulate(gather, "collective operands=e4m3"))(x), qsim.quantize(x, "e4m3"))
print("same")
"""


@pytest.mark.t1
def test_with_two_devices():
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.strip() == "same", done.stderr
