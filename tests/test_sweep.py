"""Sweeps: one compilation, the rows of separate simulations, and the study of a subject."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qsim
from qsim.studies.run import Work, found
from qsim.studies.study import Study
from qsim.sweeps.subject import load
from tests.unchecked import unchecked

SPECS = [f"e{e}m{m}" for e in range(2, 9) for m in range(1, 9)] + [f"int{n}" for n in range(2, 10)]


@pytest.fixture
def data():
    """Multiples of 1/4, whose products sum up exactly, in whatever order."""
    a, b, x = (
        jnp.round(4 * jax.random.normal(key, shape)) / 4
        for key, shape in zip(
            jax.random.split(jax.random.key(0), 3), [(16, 16), (16, 16), (8, 16)], strict=True
        )
    )
    return {"a": a, "b": b}, x


def perceptron(p, x, power=1):
    return {"y": jax.nn.relu(x @ p["a"]) @ p["b"], "total": (x @ p["a"]).sum() * power}


class Compilations:
    """Counts what is traced and compiled while it is active."""

    def __init__(self):
        self.compiled = 0
        jax.monitoring.register_event_duration_secs_listener(self._heard)
        self.active = False

    def _heard(self, event, duration, **_):
        self.compiled += self.active and event == "/jax/core/compile/backend_compile_duration"

    def __enter__(self):
        self.active = True
        return self

    def __exit__(self, *_):
        self.active = False


def rows_of(policies, p, x):
    one = jax.jit(lambda policy, p, x: qsim.simulate(perceptron, policy)(p, x))
    made = [qsim.policy(weights=spec, activations=spec) for spec in policies]
    return [one(policy, p, x) for policy in made]


def same(stacked, rows) -> bool:
    return all(
        np.asarray(stacked[name]).tobytes() == np.stack([row[name] for row in rows]).tobytes()
        for name in stacked
    )


def test_64_formats_are_traced_and_compiled_once(data):
    calls = 0

    def counted(p, x):
        nonlocal calls
        calls += 1
        return (x @ p["a"]).sum()

    assert len(SPECS) == 64
    swept = qsim.sweep(counted, SPECS)
    with Compilations() as seen:
        first = jax.block_until_ready(swept(*data))
    assert (calls, seen.compiled) == (1, 1)
    with Compilations() as again:
        second = jax.block_until_ready(swept(*data))
    assert (calls, again.compiled) == (1, 0)
    assert first.tobytes() == second.tobytes() and len(set(first.tolist())) > 4


def test_the_counter_counts():
    with Compilations() as seen:
        for spec in SPECS[:3]:  # static formats compile one by one
            jax.jit(lambda x, spec=spec: qsim.quantize(x, spec))(jnp.ones(5)).block_until_ready()
    assert seen.compiled >= 3


@pytest.mark.t1
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_are_those_of_separate_simulations(data, devices, batch):
    options = {"devices": jax.devices()[:devices], "batch": batch}
    specs = SPECS[::9]
    found = qsim.sweep(perceptron, specs, **options)(*data)
    assert same(found, rows_of(specs, *data))


@pytest.mark.t1
def test_policies_of_several_structures_keep_their_order(data):
    policies = [
        "e4m3",
        None,
        qsim.policy(weights="int4", scale="absmax"),
        "e2m1f",
        qsim.policy(weights="int8", scale="absmax"),
        qsim.parse("int4"),
    ]
    found = qsim.sweep(perceptron, policies)(*data)
    rows = [jax.jit(qsim.simulate(perceptron, policy))(*data) for policy in policies]
    assert same(found, rows)
    assert found["y"].shape == (6, 8, 16)


def test_arguments_that_are_no_arrays_stay_static(data):
    found = qsim.sweep(perceptron, ["e4m3"])(*data, power=3)
    assert same(
        found, [jax.jit(lambda p, x: qsim.simulate(perceptron, "e4m3")(p, x, power=3))(*data)]
    )


def test_arguments_that_are_equal_but_not_the_same_are_told_apart(data):
    def run(p, x, n):
        return (x @ p["a"]).sum() * 0 + (100.0 if n is True else n)

    swept = qsim.sweep(run, ["e4m3"])
    assert [float(swept(*data, n)[0]) for n in (1, True, 0.0)] == [1.0, 100.0, 0.0]


@pytest.mark.t1
def test_a_format_that_diverges_leaves_the_others_alone(data):
    p, x = data
    x = x.at[0, 0].set(100.0)

    def run(p, x):
        y = x @ p["a"]
        return y @ p["b"]

    def policy(spec):
        return qsim.policy(weights=spec, activations=spec, outputs=spec, overflow="ieee")

    healthy = ["e5m10", "e8m7", "e6m5"]
    alone = qsim.sweep(run, [policy(spec) for spec in healthy])(p, x)
    mixed = qsim.sweep(run, [policy(spec) for spec in ["e5m10", "e2m1fn", "e8m7", "e6m5"]])(p, x)
    assert np.isnan(mixed[1]).any()
    assert mixed[np.array([0, 2, 3])].tobytes() == alone.tobytes()


@pytest.mark.t1
def test_stream_gives_every_place_once(data):
    seen, rows = [], []
    for places, results, seconds in qsim.stream(perceptron, SPECS[:7], chunk=3)(*data):
        assert seconds > 0
        seen += places
        rows += [{name: results[name][n] for name in results} for n in range(len(places))]
    assert seen == list(range(7))
    assert same(qsim.sweep(perceptron, SPECS[:7])(*data), rows)


@pytest.mark.parametrize(
    "policies, options, message",
    [
        ([], {}, "at least one policy"),
        ("e4m3", {}, "a sequence of policies"),
        (["e4m3"], {"batch": 0}, "batch is 0"),
        (["e4m3"], {"batch": 1.5}, "batch is 1.5, but it must be an integer"),
        (["e4m3"], {"batch": True}, "batch is True"),
        (["e4m3"], {"devices": []}, r"devices is a list such as jax.devices\(\)\[:1\], got \[\]"),
        (["e4m3"], {"devices": "cpu"}, "devices is a list such as"),
        (["e4m3", "e4mm3"], {}, "no format 'e4mm3'"),
        ([qsim.stack([qsim.lower(qsim.parse("e4m3"))])], {}, "takes single formats"),
    ],
)
def test_mistakes_are_named(policies, options, message):
    with unchecked(), pytest.raises((TypeError, ValueError), match=message):
        qsim.sweep(perceptron, policies, **options)


# --- the study of a subject -----------------------------------------------------------------


@pytest.fixture(scope="module")
def spiral():
    return load("tests.own_subject:subject")


@pytest.fixture(scope="module")
def rows():
    study = Study(
        name="spiral",
        subject="tests.own_subject:subject",
        formats=("e2m1", "e4m3", "e5m10", "int2", "int8"),
        targets=("both",),
        scales=("absmax",),
        roundings=("ties_to_even",),
        overflows=("saturate",),
    )
    work = Work(study)
    return [result for part in found(work, work.evaluations) for result in part]


@pytest.mark.t1
def test_measures_are_those_of_plain_numpy(spiral, rows):
    inputs, labels = np.asarray(spiral.inputs), np.asarray(spiral.labels)

    def log_softmax(logits):
        logits = np.asarray(logits, np.float64)
        shifted = logits - logits.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    policy = qsim.policy(weights="e4m3", activations="e4m3", scale="absmax")
    simulated = qsim.simulate(spiral.apply, policy)
    expected = np.stack([log_softmax(spiral.apply(spiral.variables, x)) for x in inputs])
    answers = np.stack([log_softmax(simulated(spiral.variables, x)) for x in inputs])
    row = next(row for row in rows if row.spec == "e4m3")
    loss, float32 = (
        -np.take_along_axis(each, labels[..., None], -1).mean() for each in (answers, expected)
    )
    np.testing.assert_allclose(row.measures["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(row.measures["loss_difference"], loss - float32, atol=1e-6)
    kl = (np.exp(expected) * (expected - answers)).sum(-1).mean()
    np.testing.assert_allclose(row.measures["kl"], kl, rtol=1e-4)
    assert row.measures["top1"] == (answers.argmax(-1) == labels).mean()


def test_fewer_bits_lose_more(rows):
    kl = {row.spec: row.measures["kl"] for row in rows}
    assert kl["e2m1"] > kl["e4m3"] > kl["e5m10"]
    assert kl["int2"] > kl["int8"] > 0
    assert [row.facts["bits"] for row in rows] == [4, 8, 16, 2, 8]
    assert all(row.seconds > 0 for row in rows)


SUBJECTS = {
    "models.byte_lm": "has no attribute part",
    "models.byte_lm:": "has no attribute part",
    "models/byte_lm:subject": "is not of the form",
    "models.byte_ml:subject": "cannot import models.byte_ml: ModuleNotFoundError",
    "models.byte_lm:subjet": "did you mean 'subject'",
    "models.byte_lm:BATCHES": "it lacks name, apply, variables",
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_that_is_none_is_named(name):
    with pytest.raises(ValueError, match=SUBJECTS[name]):
        load(name)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"score": "accuracy"}, "has the score 'accuracy'"),
        ({"labels": np.zeros((3, 64), np.int32)}, "same number of batches"),
        ({"labels": np.zeros((4, 63), np.int32)}, "gives logits of shape"),
        ({"inputs": np.zeros((0, 64, 2), np.float32)}, "same number of batches"),
        ({"inputs": [[1.0]]}, "inputs that are no array"),
        ({"labels": np.full((4, 64), -1)}, "labels from -1 to -1"),
        ({"labels": np.full((4, 64), 3)}, "labels from 3 to 3"),
        ({"apply": lambda variables, inputs: None}, "gives NoneType for a batch"),
        ({"apply": lambda variables, inputs: variables["no"]}, "cannot be applied to a batch: Key"),
    ],
)
def test_a_subject_whose_parts_do_not_fit_is_named(spiral, monkeypatch, changed, message):
    monkeypatch.setattr("tests.own_subject.broken", spiral._replace(**changed), raising=False)
    with pytest.raises(ValueError, match=message):
        load("tests.own_subject:broken")


def test_own_folder_is_searched(tmp_path, monkeypatch):
    source = Path(__file__).with_name("own_subject.py").read_text(encoding="utf-8")
    (tmp_path / "their_subject.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    assert load("their_subject:subject").name == "spiral"
