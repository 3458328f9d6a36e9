"""Tasks, the command that trains them in many formats, and what it leaves behind."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsim import cli
from qsim.training import results, tasks
from tests.unchecked import unchecked

TASK = "tests.own_task:task"
FORMATS = ["--formats", "e4m3,e2m1"]
lenient = partial(jax.numpy_dtype_promotion, "standard")  # for the code of optax


def typed(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["qsim", "train-sweep", *words])
    monkeypatch.setenv("COLUMNS", "150")
    with unchecked(), lenient(), pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code or 0


@pytest.mark.parametrize("name", ["byte_lm", "digits", TASK])
def test_a_task_is_what_the_protocol_says(name):
    if name == "digits":
        pytest.importorskip("sklearn", reason="pip install 'jax-qsim[models]'")
    task = tasks.load(name)
    weights = jax.eval_shape(task.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {np.dtype("float32")}
    drawn = jax.eval_shape(task.draw, jax.random.key(0))
    held = jax.tree.map(lambda x: x[0], task.heldout)
    for batch in (drawn, held):
        loss = jax.eval_shape(task.loss, weights, batch)
        assert (loss.shape, loss.dtype) == ((), np.dtype("float32"))
    assert len({len(leaf) for leaf in jax.tree.leaves(task.heldout)}) == 1
    assert task.rate > 0 and task.steps > 0 and task.scale > 0


@pytest.mark.ci
def test_digits_are_learnt():
    pytest.importorskip("sklearn", reason="pip install 'jax-qsim[models]'")
    from models import digits

    images, labels = digits.load()
    assert images.shape == (1797, 8, 8, 1) and images.min() == 0 and images.max() == 1
    assert sorted(set(labels.tolist())) == list(range(10))
    course = tasks.course(tasks.load("digits"), steps=80)
    with lenient():
        step = jax.jit(course.step)
        state = course.init(jax.random.key(0))
        before = course.evaluate(*state)["loss"]
        for number in range(80):
            *state, _ = step(*state, course.batches(number, jax.random.key(number)))
        assert course.evaluate(*state)["loss"] < before / 2


@pytest.mark.t1
def test_a_training_sweep_is_told_drawn_and_stored(tmp_path, monkeypatch, capsys):
    words = TASK, *FORMATS, "--seeds", "0-1", "--steps", "20", "--out", str(tmp_path)
    assert typed(monkeypatch, *words) == 0
    out = capsys.readouterr().out
    for word in ("Losses in nats", "float32", "e4m3", "e2m1", "6 runs:", "±"):
        assert word in out
    curves, setting = results.read(tmp_path / "training.parquet")
    assert [(c.name, c.seed) for c in curves] == [
        (name, seed) for name in ("float32", "e4m3", "e2m1") for seed in (0, 1)
    ]
    assert setting["task"] == TASK and setting["steps"] == "20"
    assert all(len(c.losses) == 20 and np.isfinite(c.heldout) for c in curves)
    assert curves[0].losses[-1] < curves[0].losses[0]
    assert (tmp_path / "training.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert typed(monkeypatch, *words, "--resume") == 0  # all is done: the same table
    assert capsys.readouterr().out == out


@pytest.mark.ci
def test_a_policy_may_be_given_several_times(monkeypatch, capsys):
    two = "--policy", "operands=int8 absmax", "--policy", "weights={} absmax"
    assert typed(monkeypatch, TASK, *FORMATS, *two, "--steps", "2") == 0
    out = capsys.readouterr().out
    assert "operands=int8" in out and "weights=e4m3" in out and "weights=e2m1" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "task 'nowhere' has no attribute part: write package.module:attribute"),
        (["tests.own_task:nothing"], "is no task: it lacks name, init, draw"),
        ([TASK, "--formats", "e4mx"], "no format 'e4mx'"),
        ([TASK, "--seeds", "a"], "--seeds"),
        ([TASK, "--seeds", "1,1"], "different integers"),
        ([TASK, "--lr", "-1"], "--lr is -1.0, but a learning rate is above 0"),
        ([TASK, "--steps", "0"], "--steps"),
        ([TASK, "--resume"], "--resume continues what a folder has: say which, --out FOLDER"),
        ([TASK, "--policy", "weight=e4m3"], "did you mean"),
        ([TASK, "--policy", "caches=e4m3"], "addresses anything in spiral"),
        ([TASK, "--policy", "weights=e4m3", *FORMATS], "--policy has no {}"),
        ([TASK, "--out", __file__], "cannot write to"),
    ],
)
def test_mistakes_are_one_line(words, message, monkeypatch, capsys):
    assert typed(monkeypatch, *words) == 2
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in printed and "Traceback" not in printed


def test_courses_warm_up_and_decay():
    course = tasks.course(tasks.load(TASK), rate=0.5, steps=100)
    state, moves = course.optimizer.init(jnp.ones(())), []
    with lenient():
        for _ in range(100):
            change, state = course.optimizer.update(jnp.ones(()), state, jnp.ones(()))
            moves.append(-float(jnp.asarray(change)))
    assert moves[0] < moves[4] < max(moves) and moves[-1] < max(moves) / 5
