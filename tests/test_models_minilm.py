"""The sentence encoder: tokenizer, readers, BERT written out in NumPy, and the released weights."""

import doctest
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from models import minilm
from models.files import packaged
from models.minilm import lee50, tokenizer, weights
from models.minilm.model import Config, MiniLM
from models.minilm.tokenizer import Tokenizer, words
from models.subject import Subject
from tests.test_models import assert_is_a_subject, shapes

# The tokenizer.

PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##ord", "##able", "aff"),
    *("北", "!", "'", "s"),
]
SMALL = Tokenizer({piece: number for number, piece in enumerate(PIECES)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello  World\n", ["hello", "world"]),
        ("isn't $5.50?", ["isn", "'", "t", "$", "5", ".", "50", "?"]),
        ("Ångström naïve", ["angstrom", "naive"]),
        ("“left—right”", ["“", "left", "—", "right", "”"]),
        ("to北京go", ["to", "北", "京", "go"]),
        ("a\tb\u00a0c\0d\u00ade", ["a", "b", "cde"]),
        ("\ufffd \x7f", []),
    ],
)
def test_texts_are_cleaned_and_split(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Unaffordable!", [4, 5, 6, 7, 10]),
        ("affable", [8, 7]),
        ("unaffordably un", [1, 4]),  # cannot be read to its end
        ("ordable", [1]),  # no piece to begin with
        ("北's", [9, 11, 12]),
        ("", []),
        ("s" * 101, [1]),
    ],
)
def test_words_become_their_longest_pieces(text, expected):
    assert SMALL.encode(text) == [2, *expected, 3]


def test_the_examples_of_the_tokenizer_are_true():
    found = doctest.testmod(tokenizer)
    assert found.attempted == 3 and found.failed == 0


def definition(**changes) -> dict:
    model = {"type": "WordPiece", "continuing_subword_prefix": "##", "vocab": SMALL.vocabulary}
    normalizer = {"type": "BertNormalizer", "lowercase": True}
    return {"model": model, "normalizer": normalizer} | changes


def test_a_tokenizer_file_is_read(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition()))
    assert tokenizer.read(tmp_path / "tokenizer.json") == SMALL


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        "\ud800",
        json.dumps(definition(normalizer={"type": "BertNormalizer", "lowercase": False})),
        json.dumps(definition(model={**definition()["model"], "type": "BPE"})),
        json.dumps(definition(model={**definition()["model"], "vocab": ["[PAD]"]})),
        json.dumps(definition(model={**definition()["model"], "vocab": {"[PAD]": 0}})),
        json.dumps(definition(model={**definition()["model"], "vocab": {"[PAD]": []}})),
        json.dumps(definition(model={**definition()["model"], "vocab": {**SMALL[0], "s": 99}})),
    ],
    ids=lambda content: content[:12] or "empty",
)
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"tokenizer\.json: ") as caught:
        tokenizer.read(path)
    assert "\n" not in str(caught.value)


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "LIMIT", 10)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition()))
    with pytest.raises(ValueError, match=r"tokenizer\.json: larger than 10 bytes"):
        tokenizer.read(tmp_path / "tokenizer.json")


# The ratings.


def test_ratings_are_those_above_the_diagonal(tmp_path):
    (tmp_path / "r.txt").write_text("1\t0.5\t0.25\n0 1 0.75\n0 0 1\n")
    table = lee50.read(tmp_path / "r.txt")
    ratings = lee50.upper_triangle(table)
    assert ratings.dtype == np.float32
    assert ratings[np.triu_indices(3, 1)].tolist() == [0.5, 0.25, 0.75]
    assert np.isnan(ratings[np.tril_indices(3)]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not square"),
        ("1 2\n", r"shape \(1, 2\) is not square"),
        ("1 0\n1\n", "no table of numbers"),
        ("1 zero\n0 1\n", "no table of numbers: could not convert string to float: 'zero'"),
        ("1 nan\n0 1\n", "a rating is not from 0 to 1"),
        ("1 2\n0 1\n", "a rating is not from 0 to 1"),
        ("é", "no table of numbers"),
    ],
)
def test_a_damaged_table_of_ratings_is_refused(tmp_path, content, message):
    (tmp_path / "r.txt").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=f"r.txt: .*{message}") as caught:
        lee50.read(tmp_path / "r.txt")
    assert "\n" not in str(caught.value)


# The encoder.

TINY = Config(vocabulary=20, context=9, layers=2, heads=2, head_width=4, expansion=3)


def tensors(c: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random tensors under BERT's names."""
    random, d, f = np.random.default_rng(seed), c.width, c.expansion * c.width
    shape = {
        "embeddings.word_embeddings.weight": (c.vocabulary, d),
        "embeddings.position_embeddings.weight": (c.context, d),
        "embeddings.token_type_embeddings.weight": (2, d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
    }
    for i in range(c.layers):
        for name in (*weights.DENSE, *weights.NORM):
            out = f if name.startswith("intermediate") else d
            into = (f,) if name == "output.dense" else (d,)
            shape[f"encoder.layer.{i}.{name}.weight"] = (out,) if "Norm" in name else (out, *into)
            shape[f"encoder.layer.{i}.{name}.bias"] = (out,)
    return {name: random.normal(0, 0.5, size).astype(np.float32) for name, size in shape.items()}


def in_numpy(tensors: dict[str, np.ndarray], c: Config, tokens: list[int]) -> np.ndarray:
    """Returns the embedding [D] of one text without padding, in float64."""

    def get(name: str) -> np.ndarray:
        return tensors[name].astype(np.float64)

    def dense(x: np.ndarray, name: str) -> np.ndarray:
        return x @ get(f"{name}.weight").T + get(f"{name}.bias")

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * get(f"{name}.weight") + get(f"{name}.bias")

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), c.heads, c.head_width).swapaxes(0, 1)

    word = get("embeddings.word_embeddings.weight")[tokens]
    position = get("embeddings.position_embeddings.weight")[: len(tokens)]
    segment = get("embeddings.token_type_embeddings.weight")[0]
    h = norm(word + position + segment, "embeddings.LayerNorm")
    for i in range(c.layers):
        at = f"encoder.layer.{i}."
        q, k, v = (heads(dense(h, f"{at}attention.self.{n}")) for n in ("query", "key", "value"))
        attention = softmax(q @ k.swapaxes(1, 2) / np.sqrt(c.head_width), axis=-1)
        out = (attention @ v).swapaxes(0, 1).reshape(h.shape)
        h = norm(h + dense(out, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        up = dense(h, f"{at}intermediate.dense")
        gelu = up * (1 + erf(up / np.sqrt(2))) / 2
        h = norm(h + dense(gelu, f"{at}output.dense"), f"{at}output.LayerNorm")
    mean = h.mean(0)
    return mean / np.linalg.norm(mean)


def test_the_encoder_is_the_one_written_out_in_numpy():
    """Also with padding, which must not change an embedding."""
    texts = [[2, 9, 4, 3], [2, 3], [2, 19, 11, 5, 5, 6, 7, 3]]
    variables = weights.variables(tensors(TINY), layers=TINY.layers)
    tokens = jnp.asarray(minilm.padded(texts))
    model = MiniLM(TINY)
    assert shapes(jax.eval_shape(model.init, jax.random.key(0), tokens)) == shapes(variables)
    found = jax.jit(model.apply)(variables, tokens)
    expected = np.stack([in_numpy(tensors(TINY), TINY, text) for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-6)


# The released weights.


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Returns the subject, or skips where its packages are not installed."""
    try:
        return minilm.subject()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def released() -> Tokenizer:
    """Returns the released vocabulary, or skips where its package is not installed."""
    try:
        path = packaged(weights.PACKAGE, minilm.VOCABULARY, minilm.VOCABULARY_SHA256)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return tokenizer.read(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # as the package `tokenizers` 0.23.3 has them
        (
            "Unaffordable naïveté, isn't it?",
            [14477, 4246, 8551, 3085, 15743, 2618, 1010, 3475, 1005, 1056, 2009, 1029],
        ),
        ("北京 is Beijing", [1781, 1755, 2003, 7211]),
        (
            "U.S. $400 million--up 3.5%",
            [1057, 1012, 1055, 1012, 1002, 4278, 2454, 1011, 1011, 2039, 1017, 1012, 1019, 1003],
        ),
        ("tab\tnul\0soft\u00adhyphen", [21628, 16371, 4877, 15794, 10536, 8458, 2368]),
        ("Ångström's “quote”", [17076, 15687, 1005, 1055, 1523, 14686, 1524]),
        ("İstanbul ǅ ß", [9960, 100, 1096]),
        ("x" * 101, [100]),
    ],
)
def test_tokens_are_those_of_the_package_tokenizers(released, text, expected):
    assert released.encode(text) == [101, *expected, 102]


@pytest.mark.t2
def test_minilm_is_a_subject(subject):
    assert_is_a_subject(subject)
    assert subject.inputs.shape == (1, 50, 154)
    assert np.isfinite(subject.labels).sum() == 1225
    made = jax.eval_shape(MiniLM().init, jax.random.key(0), subject.inputs[0])
    assert shapes(made) == shapes(subject.variables)


@pytest.mark.t2
def test_minilm_agrees_with_numpy_and_with_people(subject):
    found = np.asarray(jax.jit(subject.apply)(subject.variables, subject.inputs[0]), np.float64)
    path = packaged(weights.PACKAGE, weights.FILE, weights.SHA256)
    tensors = weights.load_file(path)
    for place in (0, 17, 49):
        tokens = [token for token in np.asarray(subject.inputs[0, place]).tolist() if token]
        expected = in_numpy(tensors, Config(), tokens)
        np.testing.assert_allclose(found[place], expected, atol=1e-6)
    rated = np.isfinite(subject.labels[0])
    people = np.asarray(subject.labels[0])[rated]
    pearson = np.corrcoef((found @ found.T)[rated], people)[0, 1]
    assert pearson == pytest.approx(0.6564, abs=1e-4)


def test_the_ratings_that_lie_in_the_package_are_read():
    try:
        ratings = lee50.ratings()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert ratings.shape == (50, 50)
    assert len(lee50.texts()) == 50
    assert np.nanmin(ratings) == np.float32(0.2) and np.nanmax(ratings) == 1
