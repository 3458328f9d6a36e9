"""Scores: measures against plain NumPy and SciPy, whatever is scored, and from whatever inputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import pearsonr

import qsim
from qsim.report import picture
from qsim.report.terminal import heat_map, result_table, summary
from qsim.studies import export
from qsim.studies.evaluations import facts_of
from qsim.studies.result import Result
from qsim.sweeps import evaluation
from qsim.sweeps.scores import MEASURES, SCORES, Likelihood, Similarity
from qsim.sweeps.subject import first_batch, load
from tests.unchecked import unchecked

BATCHES, BATCH, LENGTH, WIDTH, CLASSES = 3, 6, 5, 8, 7


class Subject(NamedTuple):
    name: str
    apply: Any
    variables: Any
    inputs: Any
    labels: Any
    score: str


def random(*shape: int, seed: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def sequences() -> Subject:
    """Two inputs of different shapes, and sequences of which batches score 30, 7 and 1 labels."""

    def apply(variables, inputs):
        hidden = inputs["steps"] + inputs["picture"][:, None]
        return jnp.tanh(hidden) @ variables["kernel"]

    inputs = {
        "picture": random(BATCHES, BATCH, WIDTH, seed=0),
        "steps": random(BATCHES, BATCH, LENGTH, WIDTH, seed=1),
    }
    labels = np.random.default_rng(2).integers(0, CLASSES, (BATCHES, BATCH, LENGTH), np.int32)
    labels.reshape(BATCHES, -1)[1, 7:] = -1
    labels.reshape(BATCHES, -1)[2, :-1] = -1
    kernel = {"kernel": random(WIDTH, CLASSES, seed=3)}
    return Subject("sequences", apply, kernel, inputs, labels, "perplexity")


def sentences() -> Subject:
    """Embeddings, and noisy ratings of the pairs below the diagonal, fewer in the last batch."""
    inputs = random(BATCHES, BATCH, WIDTH, seed=4)
    kernel = random(WIDTH, 2 * WIDTH, seed=5)
    embedding = np.asarray(inputs @ kernel, np.float64)
    noise = np.random.default_rng(6).normal(0, 50, (BATCHES, BATCH, BATCH))
    ratings = (embedding @ embedding.swapaxes(-1, -2) + noise).astype(np.float32)
    ratings[:, *np.triu_indices(BATCH)] = np.nan
    ratings[2, 3:] = np.nan
    return Subject(
        "sentences", lambda p, x: x @ p["w"], {"w": kernel}, inputs, ratings, "similarity"
    )


def rows_of(subject: Subject, *specs: str, target: str = "both") -> list[Result]:
    roles = ["weights", "activations"] if target == "both" else [target]
    policies = [qsim.policy(**dict.fromkeys(roles, spec), scale="absmax") for spec in specs]
    found = evaluation.evaluate(subject, evaluation.judge(subject), policies)
    facts = [facts_of(qsim.parse(spec)) for spec in specs]
    return [
        Result(
            point={"format": specs[judged.place]},
            facts=facts[judged.place],
            measures=judged.measures,
        )
        for part in found
        for judged in part
    ]


def outputs(subject: Subject, policy: Any) -> np.ndarray:
    """The answers to all batches, one after the other, in float64."""
    apply = qsim.simulate(subject.apply, policy)
    batches = [jax.tree.map(lambda leaf, n=n: leaf[n], subject.inputs) for n in range(BATCHES)]
    return np.stack([np.asarray(apply(subject.variables, x), np.float64) for x in batches])


def e4m3() -> qsim.Policy:
    return qsim.policy(weights="e4m3", activations="e4m3", scale="absmax")


@pytest.mark.t1
def test_means_are_over_the_scored_labels_of_all_batches():
    subject = load("tests.test_scores:sequences")
    (row,) = rows_of(subject, "e4m3")
    expected, answers = (log_softmax(outputs(subject, p), axis=-1) for p in (None, e4m3()))
    scored = subject.labels >= 0
    assert scored.sum() == 30 + 7 + 1
    loss, loss32 = (
        -np.take_along_axis(each[scored], subject.labels[scored][:, None], -1).mean()
        for each in (answers, expected)
    )
    kl = (np.exp(expected) * (expected - answers)).sum(-1)[scored].mean()
    top1 = (answers.argmax(-1) == subject.labels)[scored].mean()
    found = row.measures
    assert tuple(found) == ("loss", "loss_difference", "kl", "top1", "perplexity")
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(found["loss_difference"], loss - loss32, atol=1e-6)
    np.testing.assert_allclose(found["kl"], kl, rtol=1e-4)
    assert found["top1"] == top1
    assert found["perplexity"] == pytest.approx(np.exp(found["loss"]), rel=1e-12)


def test_a_diverged_answer_counts_only_where_it_is_scored():
    labels = np.array([[0, -1]], np.int32)
    expected = jnp.log(jnp.full((2, 4), 0.25))
    score = Likelihood("perplexity")
    for place, diverged in [(1, False), (0, True)]:
        answers = expected.at[place].set(jnp.nan)
        observed = score.observe(answers, expected, jnp.asarray(labels[0]))
        found = score.measure(jax.tree.map(lambda x: np.asarray(x)[None], observed), labels)
        assert {np.isnan(value) for value in found.values()} == {diverged}
    assert found.keys() == set(score.measures)


@pytest.mark.parametrize(
    ("score", "unit"), [("bits_per_byte", np.log2), ("perplexity", lambda x: x), ("top1", None)]
)
def test_a_uniform_answer_scores_the_number_of_classes(score, unit):
    judge, labels = SCORES[score], np.zeros((2, 3), np.int32)
    answers = judge.answers(jnp.zeros((2, 3, 5)))
    found = judge.measure(jax.vmap(judge.observe)(answers, answers, jnp.asarray(labels)), labels)
    assert found["loss"] == pytest.approx(np.log(5)) and found["kl"] == 0
    assert score not in found or unit is None or found[score] == pytest.approx(unit(5))


def test_a_loss_beyond_the_range_of_doubles_has_infinite_perplexity():
    sums = dict.fromkeys(("loss", "loss_difference", "kl", "top1"), np.array([800.0]))
    assert Likelihood("perplexity").measure(sums, np.zeros((1, 1), int))["perplexity"] == np.inf


def test_similarity_is_that_of_numpy_and_scipy():
    subject = load("tests.test_scores:sentences")
    (row,) = rows_of(subject, "e4m3")
    expected, answers = (outputs(subject, p) for p in (None, e4m3()))

    def cosine(a, b):
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

    assert tuple(row.measures) == ("cosine_distance", "pearson")
    distance = 1 - cosine(answers, expected).mean()
    np.testing.assert_allclose(row.measures["cosine_distance"], distance, rtol=1e-4)
    rated = ~np.isnan(subject.labels)
    assert rated.sum() == 15 + 15 + 3
    pairs = cosine(answers[:, :, None], answers[:, None])[rated]
    correlation = pearsonr(pairs, subject.labels[rated]).statistic
    np.testing.assert_allclose(row.measures["pearson"], correlation, rtol=1e-6)
    assert 0.3 < correlation < 0.99


def test_the_float32_answers_are_at_distance_zero():
    for subject in (sequences(), sentences()):
        found = evaluation.judge(subject).measures
        assert found[SCORES[subject.score].distance] == 0


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-5])
def test_small_angles_are_told_from_none(angle):
    """1 - cos(angle) in float32 would be zero for the last of them."""
    score = Similarity()
    vectors = jnp.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]]) * 3.7
    a, b = score.answers(vectors)
    observed = score.observe(b[None], a[None], jnp.zeros((1, 1)))
    exact = 2 * np.sin(angle / 2) ** 2
    assert float(observed["distance"][0]) == pytest.approx(exact, rel=1e-2)


@pytest.mark.t1
def test_fewer_bits_are_farther_away():
    for subject in (sequences(), sentences()):
        distance = SCORES[subject.score].distance
        far = [row.measures[distance] for row in rows_of(subject, "e2m1", "e4m3", "e5m10", "e8m22")]
        # the last is rounding errors of sums, of either sign
        assert far[0] > far[1] > far[2] > abs(far[3])


def test_a_zero_embedding_has_no_direction():
    subject = sentences()
    subject = subject._replace(variables={"w": jnp.zeros_like(subject.variables["w"])})
    assert all(np.isnan(value) for value in evaluation.judge(subject).measures.values())


def test_the_first_batch_of_a_tree_is_a_tree():
    batch = first_batch(sequences())
    assert jax.tree.map(jnp.shape, batch) == {
        "picture": (BATCH, WIDTH),
        "steps": (BATCH, LENGTH, WIDTH),
    }


NONE = np.full((BATCHES, BATCH, LENGTH), -1, np.int32)
FLAT = np.ones((BATCHES, BATCH, BATCH), np.float32)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        (lambda: sequences()._replace(labels=NONE), "labels from -1 to -1, .* 7 classes: .* not"),
        (lambda: sequences()._replace(labels=NONE - 1), "labels from -2 to -2"),
        (lambda: sequences()._replace(labels=NONE + 8), "labels from 7 to 7"),
        (lambda: sequences()._replace(labels=FLAT), "labels of dtype float32; they must be int"),
        (lambda: sequences()._replace(labels=[1]), "labels that are no array but list; give an"),
        (lambda: sequences()._replace(inputs={}), "inputs that are no array but empty; give an"),
        (lambda: sequences()._replace(inputs={"a": 1.0}), "no array but float; give an array"),
        (
            lambda: sequences()._replace(inputs={"a": np.ones((3, 2)), "b": np.ones((2, 2))}),
            r"inputs of shape \(3, 2\), \(2, 2\) and labels of shape \(3, 6, 5\); all need",
        ),
        (lambda: sequences()._replace(inputs={"a": FLAT}), "cannot be applied to a batch: KeyErr"),
        (lambda: sequences()._replace(score="similarity"), "dtype int32; ratings .* be floats"),
        (lambda: sentences()._replace(score="perplexity"), "dtype float32; they must be integers"),
        (
            lambda: sentences()._replace(labels=FLAT[:, :4, :4]),
            r"gives \(6, 16\) for a batch, .* shape \(4, 4\); similarity needs embeddings \[batch,",
        ),
        (lambda: sentences()._replace(labels=FLAT), "has 108 rated pairs, .* at least two must"),
        (lambda: sentences()._replace(labels=FLAT * np.nan), "has 0 rated pairs"),
        (
            lambda: sentences()._replace(labels=np.where(FLAT.cumsum(1) > 1, FLAT, np.inf)),
            "all be finite, and NaN stand for unrated",
        ),
    ],
)
def test_a_subject_whose_labels_do_not_fit_its_score_is_one_line(monkeypatch, subject, message):
    monkeypatch.setattr("tests.test_scores.broken", subject(), raising=False)
    with unchecked(), pytest.raises(ValueError, match=message) as caught:
        load("tests.test_scores:broken")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("tests.test_scores:broken ")


@pytest.mark.t1
@pytest.mark.parametrize("make", [sequences, sentences])
def test_results_are_tabulated_printed_and_drawn(make, tmp_path):
    subject = make()
    score = SCORES[subject.score]
    rows = rows_of(subject, "e2m1", "e4m3", "int4")
    stored = export.table(rows).to_pylist()
    assert [{name: row[name] for name in score.measures} for row in stored] == [
        dict(row.measures) for row in rows
    ]
    assert set(score.measures) <= set(MEASURES)
    table = result_table(rows, subject.score)
    assert len(table.columns) == 3 + len(score.measures)
    texts = [str(part) for part in heat_map(rows, score.headline)[::2]]
    words = score.headline.replace("_", " ")
    assert texts == [
        f"{words}: exponent bits down, mantissa bits across",
        f"{words}: other formats",
    ]
    line = summary(evaluation.judge(subject).measures, subject.score)
    assert line.startswith("perplexity " if score.headline == "perplexity" else "Pearson 0.")
    path = tmp_path / "sweep.png"
    picture.heat_map(path, rows, score.headline, line, distance=score.distance)
    assert path.stat().st_size > 1000
