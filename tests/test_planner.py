"""How many policies are run: what differs from policy to policy, and what changes no bytes."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

import qsim
from qsim.sweeps.execution import Executable
from qsim.sweeps.memory import room
from qsim.sweeps.sweep import stream_of
from tests.unchecked import unchecked

SPECS = ["e4m3", "e2m1f", "e5m10", "e3m2", "e5m2"]
STOCHASTIC = [qsim.policy(f"all={spec} stochastic:8") for spec in SPECS]
SEEDS = np.arange(7, 7 + len(SPECS), dtype=np.uint32)
X = jnp.linspace(-2, 3, 24, dtype=jnp.float32).reshape(4, 6)


def product(x):
    return jnp.tanh(x) * x


def seeded(policy, own):
    return lambda x: (
        qsim.simulate(product, policy, key=qsim.counter_key(own["seed"]))(x) * own["by"],
        own["seed"],
    )


OWN = {"seed": SEEDS, "by": np.linspace(1, 2, len(SPECS), dtype=np.float32)}


@pytest.mark.parametrize("how", [{}, {"chunk": 2}, {"batch": 2, "chunk": 3}])
def test_each_policy_has_its_own_row(how):
    traced = 0

    def make(policy, own):
        nonlocal traced
        traced += 1
        return seeded(policy, own)

    places, rows = [], []
    for part in stream_of(make, STOCHASTIC, own=OWN, **how)(X):
        assert part.batch == how.get("batch", 1) and part.seconds > 0
        places += part.places
        rows += zip(*part.results, strict=True)
    assert traced == 1 and places == list(range(len(SPECS)))
    alone = jax.jit(lambda policy, own: seeded(policy, own)(X))
    for n, (found, seed) in enumerate(rows):
        own = {name: leaf[n] for name, leaf in OWN.items()}
        assert seed == own["seed"] == SEEDS[n]
        assert found.tobytes() == alone(STOCHASTIC[n].lower(), own)[0].tobytes()


def test_own_rows_follow_policies_of_several_structures():
    policies = ["e4m3", None, "e2m1f", None]
    own = np.arange(4, dtype=np.int32)
    parts = list(stream_of(lambda policy, own: lambda x: own, policies, own=own)(X))
    assert len(parts) == 2
    assert all(part.places == part.results.tolist() for part in parts)
    assert sorted(place for part in parts for place in part.places) == list(range(4))


@pytest.mark.parametrize("own", [np.float32(1), np.zeros(4), {"seed": np.zeros((6, 2))}])
def test_own_without_a_row_for_each_policy_is_named(own):
    with unchecked(), pytest.raises(ValueError, match="needs a leading axis of 5, a row for each"):
        stream_of(seeded, SPECS, own=own)


# --- plans ----------------------------------------------------------------------------------

ONE = jax.devices()[:1]
POLICIES = [*SPECS, *(qsim.policy(weights=spec, scale="absmax") for spec in SPECS[:2])]


def layers(p, x):
    for w in p:
        x = jnp.tanh(x @ w)
    return {"sum": x.sum(), "x": x}


@pytest.fixture(scope="module")
def arguments():
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (6, 6)) for key in keys[:2]], jax.random.normal(keys[2], (9, 6))


def streamed(fn=layers, policies=POLICIES, **how):
    return stream_of(lambda policy: qsim.simulate(fn, policy), policies, **how)


def collected(parts, count=len(POLICIES)):
    """Rows by place, of which there is one for each."""
    rows = {}
    for part in parts:
        assert not rows.keys() & set(part.places)
        for n, place in enumerate(part.places):
            rows[place] = {name: leaf[n].tobytes() for name, leaf in part.results.items()}
    assert sorted(rows) == list(range(count))
    return rows


def test_a_plan_has_a_program_for_each_structure(arguments):
    traced = 0

    def counted(p, x):
        nonlocal traced
        traced += 1
        return layers(p, x)

    stream = streamed(counted, devices=ONE)
    plan = stream.plan(*arguments, timed=True)
    assert [program.policies for program in plan.programs] == [5, 2]
    assert (plan.policies, traced) == (7, 2)
    assert plan.seconds == sum(program.seconds for program in plan.programs) > 0
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments))
    for program in plan.programs:
        assert (program.batch, program.devices, program.chunk) == (1, 1, program.policies)
        assert program.arguments > held and program.results >= program.policies * 4 * 55
        assert program.bytes <= plan.bytes <= program.room and program.fits
    collected(stream(*arguments))
    assert traced == 2
    assert stream.plan(*arguments).seconds is None


@pytest.mark.t1
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
def test_chunks_and_devices_change_no_byte(arguments, chunk, devices):
    expected = qsim.sweep(layers, POLICIES, devices=ONE)(*arguments)
    expected = {
        place: {name: np.asarray(leaf[place]).tobytes() for name, leaf in expected.items()}
        for place in range(len(POLICIES))
    }
    how = {"chunk": chunk, "devices": jax.devices()[:devices]}
    assert collected(streamed(**how)(*arguments)) == expected


def test_a_chunk_has_so_many_policies(arguments):
    sizes = [
        len(part.places) for part in streamed(policies=SPECS, chunk=2, devices=ONE)(*arguments)
    ]
    assert sizes == [2, 2, 1]
    first, *others = streamed(policies=SPECS * 20, devices=ONE)(*arguments)
    assert len(first.places) == 1 and len(others) < 50  # a policy takes less than half a second


def test_results_that_are_large_come_in_small_chunks(arguments):
    plan = streamed(policies=SPECS * 8, memory=20_000, devices=ONE).plan(*arguments)
    (program,) = plan.programs
    assert program.results <= 2_000 < 2 * program.results and program.chunk == 5
    assert streamed(policies=SPECS, memory=2_000, chunk=5).plan(*arguments).programs[0].chunk == 5


def test_as_many_run_side_by_side_as_fit(arguments, monkeypatch):
    monkeypatch.setattr("qsim.sweeps.plan.SIDE_BY_SIDE", {"cpu": 8})
    p, x = arguments

    def planned(**how):
        stream = streamed(lambda p, x: layers(p, x)["sum"], SPECS * 8, chunk=8, devices=ONE, **how)
        return stream.plan(p, jnp.tile(x, (100, 1))).programs[0]

    wide, alone = planned(), planned(batch=1)
    assert wide.batch == 8 and wide.temporaries > 4 * alone.temporaries
    narrow = planned(memory=wide.bytes - wide.temporaries // 4)
    assert narrow.batch == 4 and narrow.fits and narrow.chunk == 8
    least = planned(memory=1)
    assert least.batch == 1 and not least.fits
    assert planned(memory=1, batch=4).batch == 4


def test_room_is_that_of_the_container_or_the_process(monkeypatch, tmp_path):
    limit, used = tmp_path / "limit", tmp_path / "used"
    monkeypatch.setattr("qsim.sweeps.memory.CGROUPS", {str(limit): str(used)})
    whole = room(ONE)
    limit.write_text("5000\n")
    used.write_text("1000\n")
    assert room(ONE) == 3200 < whole
    limit.write_text("max\n")
    assert room(ONE) > 3200
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(
        "qsim.sweeps.memory._sizes", lambda file: {"VmData": 10, "MemAvailable": 99}
    )
    monkeypatch.setattr(resource, "getrlimit", lambda which: (50, before[1]))
    assert room(ONE) == 32


@pytest.mark.parametrize("free, devices", [(10_000, 1), (10_000, 2)])
def test_room_is_most_of_what_is_free(monkeypatch, free, devices):
    monkeypatch.setattr("qsim.sweeps.memory._free_memory", lambda: free)
    assert room(jax.devices()[:devices]) == 8_000 // devices


# --- out of memory --------------------------------------------------------------------------

ERRORS = [MemoryError("cannot allocate"), JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB\nmore")]


def limited(monkeypatch, error, *, batch, after=0):
    """Executables that fail, from some policy on, with more policies side by side than fit."""
    run = Executable.run

    def failing(self, start, steps, arrays):
        if start >= after and max(self.how.batch, self.most) > batch:
            raise error
        return run(self, start, steps, arrays)

    monkeypatch.setattr(Executable, "run", failing)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_goes_on_in_halves(arguments, monkeypatch, error):
    how = {"policies": SPECS, "devices": ONE, "batch": 4, "chunk": 4}
    limited(monkeypatch, error, batch=1, after=4)
    told = []
    parts = list(streamed(**how, notice=told.append)(*arguments))
    assert [part.batch for part in parts] == [4, 1]
    collected(parts, len(SPECS))
    assert told == [
        "out of memory with 4 policies side by side and up to 4 in a call; goes on with 2 and 2",
        "out of memory with 2 policies side by side and up to 2 in a call; goes on with 1 and 1",
    ]


def test_out_of_memory_is_a_warning(arguments, monkeypatch):
    limited(monkeypatch, ERRORS[0], batch=2)
    with pytest.warns(RuntimeWarning, match="goes on with 1 and 2"):
        collected(streamed(policies=SPECS, devices=ONE, chunk=4)(*arguments), len(SPECS))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_policy_that_does_not_fit_is_an_error(arguments, monkeypatch, error):
    limited(monkeypatch, error, batch=0, after=1)
    how = {"policies": SPECS, "devices": ONE, "chunk": 1}
    parts = streamed(**how)(*arguments)
    assert next(parts).places == [0]
    with pytest.raises(type(error), match="out of memory with a single policy: take fewer"):
        next(parts)


def test_other_errors_are_not_tried_again(arguments, monkeypatch):
    limited(monkeypatch, JaxRuntimeError("INTERNAL: broken"), batch=1)
    with pytest.raises(JaxRuntimeError, match="INTERNAL"):
        list(streamed(chunk=4)(*arguments))
