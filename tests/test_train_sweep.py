"""Training sweeps: one compilation, runs that know nothing of each other, and no lost steps."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import qsim
from qsim.training.checkpoint import Checkpoint
from qsim.training.divergence import Divergence, Watch
from qsim.training.sweep import train_sweep
from tests.test_sweep import Compilations
from tests.unchecked import unchecked

STEPS = 12
EXACT = "all={} ieee"  # every operation is rounded, so that its bytes do not depend on the program
FORMATS = [f"e{e}m{m}" for e in range(2, 6) for m in range(1, 9)]
OPTIMIZER = optax.sgd(0.125, momentum=0.5)


def init(key):
    params = {"w": jnp.round(4 * jax.random.normal(key, (6, 3))) / 4}
    return params, OPTIMIZER.init(params)


def step(params, states, batch):
    x, y = batch

    def loss(params):
        return jnp.mean(jnp.square(x @ params["w"] - y))

    value, slope = jax.value_and_grad(loss)(params)
    change, states = OPTIMIZER.update(slope, states, params)
    return optax.apply_updates(params, change), states, {"loss": value}


def draw(number, key):
    x = jnp.round(4 * jax.random.normal(key, (4, 6))) / 8
    return x, x[:, :3] - x[:, 3:]


DATA = jax.vmap(draw)(jnp.arange(STEPS), jax.random.split(jax.random.key(1), STEPS))


def train(policies, **options):
    known = {"batches": DATA} | options
    return train_sweep(init, step, [p and EXACT.format(p) for p in policies], **known)


def content(tree) -> bytes:
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))


def everything(runs, places=slice(None), seeds=slice(None)) -> bytes:
    trees = (runs.metrics, runs.diverged, runs.params, runs.states, runs.evaluated)
    return content(jax.tree.map(lambda leaf: leaf[places][:, seeds], trees))


def by_hand(policy, seed, data=DATA, one=step):
    """The losses and the weights of a loop in Python."""
    params, states = jax.jit(init)(jax.random.key(seed))
    one, losses = jax.jit(qsim.simulate(one, policy, params=0, states=1)), []
    for number in range(STEPS):
        batch = jax.tree.map(lambda leaf, n=number: leaf[n], data)
        params, states, metrics = one(params, states, batch)
        losses.append(metrics["loss"])
    return np.array(losses), params, states


@pytest.fixture(scope="module")
def runs():
    return train(["e4m3", "e5m2", "e4m4"], seeds=[0, 3])


# --- one compilation, and the numbers of a plain loop -----------------------------------------


@pytest.mark.parametrize("formats, seeds", [(FORMATS, [0, 1]), (FORMATS[:2], [5])])
def test_any_number_of_runs_is_compiled_once(formats, seeds):
    """Beside the loop there is ``init``, which is a program of its own."""
    calls = 0

    def counted(*args):
        nonlocal calls
        calls += 1
        return step(*args)

    key = qsim.counter_key(0)
    with Compilations() as seen:
        found = train_sweep(
            init, counted, [f"operands={f}" for f in formats], seeds=seeds, batches=DATA, key=key
        )
    assert (calls, seen.compiled) == (2, 2)  # of its calls the first is asked for shapes only
    assert found.loss.shape == (len(formats), len(seeds), STEPS)
    assert np.isfinite(found.loss).all() and (found.diverged == -1).all()


@pytest.mark.t1
def test_a_run_is_a_loop_of_simulated_steps(runs):
    losses, params, states = by_hand(EXACT.format("e5m2"), 3)
    assert runs.loss[1, 1].tobytes() == losses.tobytes() and losses[-1] < losses[0]
    assert runs.params["w"][1, 1].tobytes() == content(params)
    assert content(jax.tree.map(lambda leaf: leaf[1, 1], runs.states)) == content(states)


@pytest.mark.t1
def test_policies_of_several_structures_keep_their_order(runs):
    found = train(["e4m4", None, "e4m3"], seeds=[3], every=1)
    assert everything(found, [0, 2]) == everything(runs, [2, 0], [1])
    np.testing.assert_allclose(found.loss[1, 0], by_hand(None, 3)[0], rtol=1e-5)
    assert found.policies == ("all=e4m4 ieee", "", "all=e4m3 ieee") and found.seeds == (3,)


@pytest.mark.t1
@pytest.mark.parametrize("batch, devices", [(1, 1), (3, 2)])
def test_how_runs_are_shared_out_changes_nothing(runs, batch, devices):
    found = train(
        ["e4m3", "e5m2", "e4m4"], seeds=[0, 3], batch=batch, devices=jax.devices()[:devices]
    )
    assert everything(found) == everything(runs)


@pytest.mark.t1
def test_roles_are_those_of_parameters_and_states():
    """Stored numbers are rounded where a step reads them."""
    policy = qsim.policy("stored weights=e3m2; stored states=e2m1f")

    def rounded(params, states, batch):
        read = lambda tree, fmt: jax.tree.map(lambda leaf: qsim.quantize(leaf, fmt), tree)  # noqa: E731
        return step(read(params, "e3m2"), read(states, "e2m1f"), batch)

    found = train_sweep(init, step, [policy], batches=DATA)
    np.testing.assert_allclose(found.loss[0, 0], by_hand(None, 0, one=rounded)[0], rtol=1e-5)


# --- batches, seeds and random bits -----------------------------------------------------------


@pytest.mark.t1
def test_batches_may_be_drawn():
    found = train([None], seeds=[3, 5], batches=draw, steps=STEPS)
    for place, seed in enumerate([3, 5]):
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"batches"))
        keys = [jax.random.fold_in(key, number) for number in range(STEPS)]
        data = jax.vmap(draw)(jnp.arange(STEPS), jnp.stack(keys))
        np.testing.assert_allclose(found.loss[0, place], by_hand(None, seed, data)[0], rtol=1e-5)


@pytest.mark.t1
def test_random_bits_are_those_of_the_seed_and_the_step():
    def still(params, states, _):  # the same weights and data at every step
        return params, states, {"loss": jnp.sum(DATA[0][0] @ params["w"])}

    def trained(formats, seeds, **options):
        policies = [f"weights={fmt} stochastic:8" for fmt in formats]
        return train_sweep(init, still, policies, batches=DATA, seeds=seeds, **options)

    both = trained(["e4m1", "e5m1"], [0, 1])
    assert all(len(set(losses.tolist())) > STEPS // 2 for losses in both.loss.reshape(4, -1))
    assert everything(both, [1], [1]) == everything(trained(["e5m1"], [1], every=5))
    assert everything(both) == everything(trained(["e4m1", "e5m1"], [0, 1], batch=2))
    assert everything(both) != everything(trained(["e4m1", "e5m1"], [0, 1], key=jax.random.key(7)))


# --- divergence -------------------------------------------------------------------------------


def first_divergence(losses, factor, patience, floor):
    """The rule as it is written down, in plain Python."""
    for t in range(len(losses)):
        if not np.isfinite(losses[t]):
            return t
        high = [
            losses[s] > factor * max(min(losses[: s + 1]), floor * abs(losses[0]))
            for s in range(t + 1)
        ]
        if t + 1 >= patience and all(high[t + 1 - patience :]):
            return t
    return -1


@pytest.mark.t1
def test_the_rule_of_divergence():
    random = np.random.default_rng(0)
    losses = np.exp(np.cumsum(random.normal(0, 0.5, (300, 40)), axis=1)).astype(np.float32)
    losses[:20, 30], losses[20:40, 35] = np.inf, np.nan
    losses[0, 0], losses[1] = np.nan, -losses[1]
    for rule in ({}, {"factor": 1.5, "patience": 3, "floor": 0.5}, {"patience": 5, "floor": 0.0}):
        detector = Divergence(**rule)

        def seen(losses, detector=detector):
            def once(watch, loss):
                return detector.observe(watch, *loss), None

            fresh = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], Watch.fresh(1))
            return jax.lax.scan(once, fresh, (losses, jnp.arange(40)))[0].diverged

        found = jax.jit(jax.vmap(seen))(losses)
        how = (detector.factor, detector.patience, detector.floor)
        assert found.tolist() == [first_divergence(line.tolist(), *how) for line in losses]
        assert len(set(found.tolist())) > 3


@pytest.mark.t1
def test_a_run_that_diverges_changes_no_bit_of_the_others():
    healthy, seeds = ["e4m3", "e5m2", "e5m3"], [0, 1]
    # without saturation the largest value of e2m1 is 3, and infinities meet
    mixed = train([healthy[0], "e2m1", *healthy[1:]], seeds=seeds)
    assert (mixed.diverged[1] >= 0).all() and (mixed.diverged[[0, 2, 3]] == -1).all()
    assert everything(mixed, [0, 2, 3]) == everything(train(healthy, seeds=seeds))
    for seed, last in enumerate(mixed.diverged[1]):
        assert np.isfinite(mixed.loss[1, seed]).tolist() == [t < last for t in range(STEPS)]


@pytest.mark.t1
def test_a_run_that_diverges_stops_there():
    def growing(params, states, x):
        return params + x, states, {"loss": jnp.square(params), "count": jnp.int32(1)}

    def trained(policies=(None,), **options):
        return train_sweep(
            lambda key: (jnp.float32(1), ()), growing, policies, batches=jnp.ones(10), **options
        )

    found = trained(divergence=Divergence(factor=3.0, patience=4))
    assert found.diverged.tolist() == [[4]]  # 4, 9, 16 and 25 are above three
    assert found.params.tolist() == [[6.0]] and found.metrics["count"].sum() == 5
    np.testing.assert_array_equal(found.loss[0, 0], [1, 4, 9, 16, 25, *[np.nan] * 5])
    free = trained(divergence=None)
    assert free.diverged.tolist() == [[-1]] and free.loss[0, 0, -1] == 100
    beside = trained(["all=e8m9", "all=e3m3 ieee", "all=e8m8"], batch=3)  # e3m3 ends at 15
    assert beside.diverged.ravel().tolist() == [-1, 3, -1]
    assert beside.params.ravel().tolist() == [11, 5, 11] and beside.loss[0, 0, -1] == 100


# --- chunks and checkpoints -------------------------------------------------------------------


@pytest.mark.t1
def test_chunks_change_no_byte(runs):
    told = []
    tell = lambda done, total: told.append((done, total))  # noqa: E731
    found = train(["e4m3", "e5m2", "e4m4"], seeds=[0, 3], every=5, progress=tell)
    assert everything(found) == everything(runs)
    assert told == [(30, 72), (60, 72), (72, 72)]


class Stop(Exception):
    pass


def stop_at(steps):
    def progress(done, total):
        if done >= steps:
            raise Stop

    return progress


POLICIES = ["operands=e4m3", None, "operands=e5m2"]


def sittings(**options):
    known = {"policies": POLICIES, "seeds": [0, 1], "batches": DATA} | options
    return train_sweep(init, step, **known)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of runs that were interrupted in their first part, and a copy for each user."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Stop):
        sittings(every=4, checkpoint=folder, progress=stop_at(32))
    return folder


@pytest.fixture
def copied(stopped, tmp_path):
    for path in stopped.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.t1
def test_runs_are_continued_to_the_same_bytes(copied):
    assert sorted(path.name for path in copied.iterdir()) == ["manifest.json", "part-0-step-8.npz"]
    (copied / ".part-0-step-12.npz.1.tmp").write_bytes(b"half a file")  # of a process killed
    told = []
    found = sittings(every=3, checkpoint=copied, progress=lambda *at: told.append(at[0]))
    whole = sittings()
    assert everything(found) == everything(whole)
    assert told == [32, 44, 48, 54, 60, 66, 72]
    again = sittings(checkpoint=copied)
    assert everything(again) == everything(whole)
    manifest = json.loads((copied / "manifest.json").read_text())
    assert manifest["facts"]["policies"] == ["operands=e4m3", "", "operands=e5m2"]
    assert {part["step"] for part in manifest["parts"].values()} == {STEPS}


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"seeds": [0, 2]}, r"holds runs with other seeds, \[0, 1\] instead of \[0, 2\]: choose"),
        ({"steps": 10}, "holds runs with other steps, 12 instead of 10: choose another folder"),
        ({"policies": [*POLICIES[:2], "operands=e5m3"]}, "holds runs with other policies"),
        ({"batches": jax.tree.map(lambda leaf: leaf + 1, DATA)}, "other batches: choose"),
        ({"batch": 2}, r"other programs \(model, optimizer, devices, batch\)"),
    ],
)
def test_other_runs_are_not_mixed(copied, changed, message):
    before = sorted(path.read_bytes() for path in copied.iterdir())
    with pytest.raises(ValueError, match=message):
        sittings(**{"checkpoint": copied} | changed)
    assert sorted(path.read_bytes() for path in copied.iterdir()) == before


@pytest.mark.parametrize("broken", ["manifest.json", "part-0-step-8.npz"])
def test_a_checkpoint_that_cannot_be_read_is_named(copied, broken):
    whole = (copied / broken).read_bytes()
    (copied / broken).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{broken} "):
        sittings(checkpoint=copied)


def test_arrays_of_any_dtype_survive(tmp_path):
    tree = {"a": np.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "b": (np.int8(3), np.ones(2))}
    facts = {"steps": 3, "parts": 1}
    Checkpoint(tmp_path, facts).save(0, 2, tree)
    found = Checkpoint(tmp_path, facts).restore(0, tree)
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda x: x.dtype, tree)
    assert content(found) == content(tree)


# --- evaluation and mistakes ------------------------------------------------------------------


def test_runs_are_evaluated_under_their_policies():
    def evaluate(params, states):
        return {"sum": jnp.sum(params["w"] + states)}

    found = train_sweep(
        lambda key: (init(key)[0], jnp.float32(1 / 3)),
        lambda params, states, batch: (params, states, {"loss": jnp.float32(1)}),
        ["all=e4m3", "elementwise=e5m2"],
        batches=DATA,
        seeds=[0, 3],
        evaluate=evaluate,
    )
    weights = found.params["w"]
    assert weights.shape == (2, 2, 6, 3)
    for place, fmt in enumerate(["e4m3", "e5m2"]):
        total = qsim.quantize(jnp.asarray(weights[place]) + jnp.float32(1 / 3), fmt).sum((1, 2))
        expected = qsim.quantize(total, fmt) if place == 0 else total
        np.testing.assert_allclose(found.evaluated["sum"][place], expected, rtol=1e-6)


def returns(*found):
    return lambda *_: found


MISTAKES = [
    ({"policies": []}, "at least one policy"),
    ({"policies": "e4m3"}, "a sequence of policies"),
    ({"policies": ["e4mm3"]}, "no format 'e4mm3'"),
    ({"seeds": []}, "seeds are different integers"),
    ({"seeds": [1, 1]}, "seeds are different integers"),
    ({"seeds": [-1]}, "seeds are different integers"),
    ({"seeds": 2}, "seeds are a list of integers"),
    ({"steps": 0}, "steps is 0"),
    ({"steps": 13}, "13 steps need as many batches, but there are 12"),
    ({"every": 0}, "every is 0"),
    ({"batch": 0}, "batch is 0"),
    ({"batches": draw}, "say how many steps"),
    ({"batches": (DATA[0], DATA[1][:3])}, "have a leading axis of steps, the same for all"),
    ({"init": lambda key: jnp.ones(3)}, r"init\(key\) returns \(params, states\)"),
    ({"step": returns({}, ())}, r"returns \(params, states, metrics\), but this one"),
    ({"step": returns({}, (), {})}, "step changes the structure of params"),
    ({"metrics": {}}, "among metrics is a floating-point 'loss'"),
    ({"metrics": {"loss": jnp.ones(3)}}, r"single numbers, but 'loss' is float32\[3\]"),
    ({"metrics": {"loss": jnp.int32(3)}}, "among metrics is a floating-point 'loss'"),
    ({"metrics": [1.0]}, "the metrics of step are a dict, not list"),
    ({"dtype": "bfloat16"}, r"step turns params\['w'\] from float32\[6, 3\] into bfloat16\[6, 3\]"),
]


@pytest.mark.parametrize("changed, message", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_named(changed, message):
    changed = dict(changed)
    metrics, dtype = changed.pop("metrics", None), changed.pop("dtype", None)

    def changed_step(params, states, batch):
        params, states, found = step(params, states, batch)
        params = params if dtype is None else {"w": params["w"].astype(dtype)}
        return params, states, found if metrics is None else metrics

    known = {"init": init, "step": changed_step, "policies": ["e4m3"], "batches": DATA} | changed
    with unchecked(), pytest.raises((TypeError, ValueError), match=message):
        train_sweep(known.pop("init"), known.pop("step"), known.pop("policies"), **known)


@pytest.mark.parametrize("rule", [{"factor": 1.0}, {"patience": 0}, {"floor": -1.0}])
def test_a_rule_of_divergence_that_is_none_is_named(rule):
    (name,) = rule
    with pytest.raises(ValueError, match=f"{name} is"):
        Divergence(**rule)
