"""Laws of the subjects: what a subject promises, and that those we ship keep it."""

import hashlib
import importlib
import importlib.util
import io
import json
import re
import struct
import tarfile
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import byte_lm, efficientnet_lite0, torch_file
from models.byte_lm import checkpoint, corpus, score, train, trigram
from models.byte_lm.model import ByteLM, rotate
from models.efficientnet_lite0 import photos
from models.efficientnet_lite0.model import EfficientNetLite0
from models.files import packaged
from models.subject import Score, Subject

MODELS = Path(byte_lm.__file__).parents[1]


def assert_is_a_subject(subject: Subject) -> None:
    """Checks the promises in the docstring of `Subject` on the first batch."""
    batch = jax.tree.map(lambda leaf: leaf[0], subject.inputs)
    answers = jax.eval_shape(subject.apply, subject.variables, batch)
    assert answers.dtype == jnp.float32
    if subject.score == "similarity":
        assert subject.labels.shape[1:] == (answers.shape[0], answers.shape[0])
        assert subject.labels.dtype == jnp.float32
    else:
        assert subject.labels.shape[1:] == answers.shape[:-1]
        assert subject.labels.dtype == jnp.int32
    assert all(len(leaf) == len(subject.labels) for leaf in jax.tree.leaves(subject.inputs))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(subject.variables))
    assert subject.score in get_args(Score)
    assert re.fullmatch(r"\w+", subject.name)


def shapes(tree) -> dict:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


# The byte model.


@pytest.mark.ci
def test_byte_lm_is_a_subject():
    subject = byte_lm.subject()
    assert_is_a_subject(subject)
    assert subject.inputs.shape == (8, 4, 256)
    made = jax.eval_shape(ByteLM().init, jax.random.key(0), subject.inputs[0])
    assert shapes(made) == shapes(subject.variables)


def test_byte_lm_labels_are_the_next_bytes_of_the_held_out_text():
    subject = byte_lm.subject()
    text = byte_lm.heldout().tobytes()
    inputs_WxL, labels_WxL = (np.asarray(x).reshape(-1, 256) for x in subject[3:5])
    for inputs, labels in zip(inputs_WxL, labels_WxL, strict=True):
        assert bytes(np.append(inputs, labels[-1]).astype(np.uint8)) in text
        assert (labels[:-1] == inputs[1:]).all()


@pytest.mark.ci
def test_byte_lm_beats_every_trigram_on_held_out_text():
    """The entropy of the text's own trigrams bounds every trigram model's loss from below."""
    text_N = byte_lm.heldout()
    bound = trigram.in_sample_entropy(text_N)
    bits = score.bits_per_byte(byte_lm.subject().variables, text_N)
    assert bits < bound - 0.5
    assert bits == pytest.approx(figure_in_readme("byte model"), abs=2e-3)
    assert bound == pytest.approx(figure_in_readme("trigram, in-sample"), abs=2e-4)


def test_byte_lm_scores_what_the_readme_says():
    subject = byte_lm.subject()
    eights = zip(subject.inputs.reshape(4, 8, 256), subject.labels.reshape(4, 8, 256), strict=True)
    nats = [float(score.nats(subject.variables, x, y).mean()) for x, y in eights]
    bits = np.mean(nats) / np.log(2)
    stated = re.search(r"\| ([\d.]+) bits per byte \|", (MODELS / "README.md").read_text())
    assert bits == pytest.approx(float(stated[1]), abs=2e-3)


def figure_in_readme(row: str) -> float:
    """Returns the second column of a row in the table of the byte model's README."""
    readme = (MODELS / "byte_lm" / "README.md").read_text()
    return float(re.search(rf"^\| {row} \| ([\d.]+) \|", readme, re.MULTILINE)[1])


def test_byte_lm_is_causal():
    subject = byte_lm.subject()
    x_BxL = np.array(subject.inputs[0])
    changed_BxL = x_BxL.copy()
    changed_BxL[:, 40] = ord("#")
    apply = jax.jit(subject.apply)
    before, after = (np.asarray(apply(subject.variables, x)) for x in (x_BxL, changed_BxL))
    np.testing.assert_array_equal(before[:, :40], after[:, :40])
    assert (before[:, 40:] != after[:, 40:]).any(-1).all()


def test_rotated_products_depend_on_distance_alone():
    """q at l and k at m, both rotated: the product is a function of l - m."""
    q_K, k_K = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    everywhere = [np.broadcast_to(x, (1, 20, 1, 32)) for x in (q_K, k_K)]
    q_LxK, k_MxK = (np.asarray(rotate(x))[0, :, 0] for x in everywhere)
    product_LxM = q_LxK @ k_MxK.T
    for distance in range(-19, 20):
        diagonal = np.diagonal(product_LxM, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    np.testing.assert_allclose(product_LxM[0, 0], q_K @ k_K, rtol=1e-5)


# The trigram baselines.


def test_trigram_entropy_of_a_text_known_by_hand():
    """Four trigrams: aa is followed once by b and once by c, ab and ba always by a."""
    text_N = np.frombuffer(b"aabaac", np.uint8)
    assert trigram.in_sample_entropy(text_N) == pytest.approx(2 / 4 * 1.0)


def test_trigram_entropy_bounds_the_smoothed_model_from_below():
    text_N = byte_lm.heldout()[:20_000]
    bound = trigram.in_sample_entropy(text_N)
    assert trigram.smoothed_loss(text_N, text_N) > bound
    assert trigram.smoothed_loss(byte_lm.heldout()[20_000:], text_N) > bound


def test_smoothed_trigram_of_a_text_known_by_hand():
    """Nine sevens: one distinct byte after each context, which is seen 9, 8 and 7 times."""
    sevens_N = np.full(9, 7, np.uint8)
    p = Fraction(1, 256)
    for count in (9, 8, 7):
        p = (count + p) / (count + 1)
    assert trigram.smoothed_loss(sevens_N, sevens_N) == pytest.approx(-np.log2(float(p)))

    unseen_N = np.arange(20, 30, dtype=np.uint8)
    assert trigram.smoothed_loss(sevens_N, unseen_N) == pytest.approx(np.log2(256 * 10))


# The training script.


def tarball(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    """Writes a gzipped tar file with the given members, and a symbolic link if one is named."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(member)
    return path


def test_speeches_are_read_by_exact_name_and_split_by_year(tmp_path):
    long = b"A sentence of the speech. " * 1000
    members = {
        "package/sotu/data/2009_b_d.txt": long,
        "package/sotu/data/1790_a_n.txt": b"Fellow citizens.",
        "package/sotu/data/1790_a_n.json": b"{}",
        "../package/sotu/data/1800_c_n.txt": b"outside",
    }
    speeches = corpus.read_speeches(tarball(tmp_path / "t.tgz", members))
    assert [year for year, _ in speeches] == [1790, 2009]
    train_text, heldout_text = corpus.split(speeches)
    assert train_text == b"Fellow citizens.\n\n"
    assert heldout_text.endswith(b"speech.\n\n")
    assert len(heldout_text) <= corpus.HELDOUT_SHARE + 2
    assert list(tmp_path.iterdir()) == [tmp_path / "t.tgz"]


def test_a_link_in_the_tarball_is_refused(tmp_path):
    path = tarball(tmp_path / "t.tgz", {}, link="package/sotu/data/1790_a_n.txt")
    with pytest.raises(ValueError, match=r"1790_a_n\.txt is not a regular file"):
        corpus.read_speeches(path)


def test_a_tarball_with_another_hash_is_refused(tmp_path):
    (tmp_path / corpus.TARBALL).write_bytes(b"not the package")
    with pytest.raises(ValueError, match=r"sha512 is .* delete the file"):
        corpus.fetch(tmp_path)


def test_batches_are_windows_of_the_text_and_a_function_of_the_key():
    text_N = np.random.default_rng(0).integers(0, 256, 5000, np.uint8)
    window_BxL1 = train.sample(jax.random.key(1), text_N, batch=6, length=32)
    assert window_BxL1.shape == (6, 33)
    assert all(bytes(window) in text_N.tobytes() for window in window_BxL1)
    again = train.sample(jax.random.key(1), text_N, batch=6, length=32)
    np.testing.assert_array_equal(window_BxL1, again)


def test_a_checkpoint_restores_what_was_saved(tmp_path):
    tx = train.make_optimizer(steps=100, rate=1e-3)
    variables = {"params": {"w": jnp.arange(6.0).reshape(2, 3)}}
    optimizer = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(3), tx.init(variables))
    saved = checkpoint.State(7, variables, optimizer)
    checkpoint.save(tmp_path / "c.safetensors", saved)
    fresh = checkpoint.State(0, jax.tree.map(jnp.zeros_like, variables), tx.init(variables))
    restored = checkpoint.restore(tmp_path / "c.safetensors", fresh)
    assert restored.step == 7
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="10 bytes do not fill one window"):
        score.bits_per_byte({}, np.zeros(10, np.uint8))


# The image classifier.


@pytest.fixture(scope="module")
def classifier() -> Subject:
    """Returns the subject, or skips where its packages are not installed."""
    try:
        return efficientnet_lite0.subject()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def logits_BxN(classifier) -> np.ndarray:
    """Returns the logits of the twenty photos, [20, 1000]."""
    apply = jax.jit(classifier.apply)
    return np.concatenate([apply(classifier.variables, batch) for batch in classifier.inputs])


@pytest.fixture(scope="module")
def reference() -> dict:
    """Returns the facts that were found with torch."""
    path = MODELS / "efficientnet_lite0" / "reference.json"
    return json.loads(path.read_text())


@pytest.mark.ci
def test_efficientnet_is_a_subject(classifier):
    assert_is_a_subject(classifier)
    assert classifier.inputs.shape == (2, 10, 224, 224, 3)
    made = jax.eval_shape(EfficientNetLite0().init, jax.random.key(0), classifier.inputs[0])
    assert shapes(made) == shapes(classifier.variables)


@pytest.mark.ci
def test_efficientnet_agrees_with_torch(logits_BxN, reference):
    np.testing.assert_array_equal(logits_BxN.argmax(-1), reference["top1"])
    first_BxN = np.array(reference["first_logits"])
    np.testing.assert_allclose(logits_BxN[:, : first_BxN.shape[1]], first_BxN, atol=5e-5)


@pytest.mark.ci
def test_efficientnet_names_18_of_20_photos(classifier, logits_BxN, reference):
    label_B = np.asarray(classifier.labels).ravel()
    ranked_BxN = logits_BxN.argsort(-1)[:, ::-1]
    np.testing.assert_array_equal(label_B, reference["labels"])
    in_top5_B = (ranked_BxN[:, :5] == label_B[:, None]).any(-1)
    np.testing.assert_array_equal(in_top5_B, reference["in_top5"])
    assert (ranked_BxN[:, 0] == label_B).sum() == 18
    assert in_top5_B.sum() == 19


def test_a_missing_package_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="'foolbox' is not installed; run `make models`"):
        photos.paths()


def test_a_packaged_file_is_located_without_import_and_checked(tmp_path, monkeypatch):
    folder = tmp_path / "weights_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "w.bin").write_bytes(b"1234")
    monkeypatch.syspath_prepend(tmp_path)
    sha256 = hashlib.sha256(b"1234").hexdigest()
    assert packaged("weights_of_a_test", "w.bin", sha256) == folder / "w.bin"
    with pytest.raises(ValueError, match=rf"w\.bin: sha256 is {sha256}, not 00; run `make models`"):
        packaged("weights_of_a_test", "w.bin", "00")
    with pytest.raises(FileNotFoundError, match=r"'v\.bin' is missing from its package; run"):
        packaged("weights_of_a_test", "v.bin", sha256)


def test_a_photo_without_a_label_is_refused():
    with pytest.raises(ValueError, match=r"imagenet_NUMBER_LABEL\.jpg"):
        photos.label(Path("imagenet_00.jpg"))


# The reader of torch's files. Programs are written out, instruction by instruction.


def text(value: str) -> bytes:
    """Returns the pickle instruction BINUNICODE."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def legacy_file(path: Path, state_dict: bytes, *, elements=(), magic=torch_file.MAGIC) -> Path:
    """Writes a file of the legacy format with one float storage under the key `k`."""
    number = magic.to_bytes(10, "little")
    head = [b"\x8a\x0a" + number, b"M\xe9\x03", b"}", state_dict, b"]" + b"(" + text("k") + b"e"]
    data = struct.pack(f"<q{len(elements)}f", len(elements), *elements)
    path.write_bytes(b"".join(b"\x80\x02" + program + b"." for program in head) + data)
    return path


def state_dict(name: str = "w", *, offset: int = 0, shape=(2, 3), strides=(1, 2)) -> bytes:
    """Returns the program of {name: tensor over the storage `k` of six floats}."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("k") + text("cpu")
    numbers = [b"(" + b"".join(b"K" + bytes([n]) for n in ns) + b"t" for ns in (shape, strides)]
    arguments = b"(" + storage + b"K\x06NtQ" + b"K" + bytes([offset]) + b"".join(numbers)
    hooks = b"\x89ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + hooks + b"tR"
    return b"ccollections\nOrderedDict\n)R" + text(name) + tensor + b"s"


def test_a_strided_tensor_is_read(tmp_path):
    path = legacy_file(tmp_path / "w.pth", state_dict(), elements=range(6))
    tensors = torch_file.read(path)
    assert list(tensors) == ["w"]
    np.testing.assert_array_equal(tensors["w"], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
    "program",
    [b"cos\nsystem\n(" + text("true") + b"tR", b"cbuiltins\nopen\n(" + text("f") + b"tR"],
)
def test_a_pickle_that_calls_anything_else_is_refused(tmp_path, program):
    path = legacy_file(tmp_path / "w.pth", program)
    with pytest.raises(ValueError, match=r"the pickle asks for '(os system|builtins open)'"):
        torch_file.read(path)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"ctorch\nFloatStorage\n)R", "the pickle calls"),
        (b"(" + b"ios\nsystem\n", "pickle instruction INST has no place"),
        (state_dict(offset=1), "out of bounds"),
        (state_dict(shape=(7, 3)), "in a storage of 6 elements"),
        (state_dict(shape=(6,)), "strides"),
        (b"0", "."),
        (b"NN", "leaves 2 values"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, program, message):
    path = legacy_file(tmp_path / "w.pth", program, elements=range(6))
    with pytest.raises(ValueError, match=rf"w\.pth: .*{message}"):
        torch_file.read(path)


def test_a_cut_or_foreign_file_is_refused(tmp_path):
    path = legacy_file(tmp_path / "w.pth", state_dict(), elements=range(5))
    with pytest.raises(ValueError, match="storage k has 5 elements, not 6"):
        torch_file.read(path)
    path = legacy_file(tmp_path / "w.pth", state_dict(), elements=range(6), magic=1)
    with pytest.raises(ValueError, match="legacy format"):
        torch_file.read(path)


SIX = struct.pack("<6f", *range(6))


def zip_file(path: Path, *, compression=zipfile.ZIP_STORED, **changes: bytes | None) -> Path:
    """Writes a file of the zip format; None leaves a member out, `key` stands for `data/k`."""
    members = {"data.pkl": b"\x80\x02" + state_dict() + b".", "byteorder": b"little", "data/k": SIX}
    names = {"pickle": "data.pkl", "key": "data/k"}
    members |= {names.get(name, name): content for name, content in changes.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(f"model/{name}", content)
    return path


def test_a_zip_file_is_read(tmp_path):
    tensors = torch_file.read(zip_file(tmp_path / "w.pth"))
    np.testing.assert_array_equal(tensors["w"], [[0, 2, 4], [1, 3, 5]])
    short = (
        b"\x80\x02" + state_dict().replace(text("cpu") + b"K\x06N", text("cpu") + b"K\x06") + b"."
    )
    tensors = torch_file.read(zip_file(tmp_path / "w.pth", pickle=short))
    np.testing.assert_array_equal(tensors["w"], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pickle": None}, "a zip file with 0 state dicts"),
        ({"more/data.pkl": b""}, "a zip file with 2 state dicts"),
        ({"pickle": b""}, "pickle"),
        ({"pickle": b"\x80\x02cos\nsystem\n(" + text("true") + b"tR."}, "asks for 'os system'"),
        ({"pickle": b"}."}, "^w.pth: no tensors$"),
        ({"pickle": b"}" + text("w") + b"K\x01s."}, "something in it is no tensor"),
        ({"pickle": state_dict(shape=(7, 3)) + b"."}, "in a storage of 6 elements"),
        ({"key": None}, "no item named 'model/data/k'"),
        ({"key": SIX[:-1]}, "storage 'k' has 23 bytes, not 6 elements"),
        ({"byteorder": b"big"}, "not little-endian"),
        ({"compression": zipfile.ZIP_DEFLATED}, "is compressed, which torch does not do"),
    ],
)
def test_a_zip_file_of_something_else_is_refused(tmp_path, changes, message):
    path = zip_file(tmp_path / "w.pth", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        torch_file.read(path)
    assert str(caught.value).startswith("w.pth: ") and "\n" not in str(caught.value)


def test_a_zip_file_with_a_changed_byte_is_read_or_refused(tmp_path):
    path = zip_file(tmp_path / "w.pth")
    content = path.read_bytes()
    for place in range(len(content)):
        changed = content[place] ^ 0xFF
        path.write_bytes(content[:place] + bytes([changed]) + content[place + 1 :])
        try:
            torch_file.read(path)
        except ValueError as error:
            assert str(error).startswith("w.pth: ")


@pytest.mark.parametrize("left", [4, 30, 200, -1])
def test_a_cut_zip_file_is_refused(tmp_path, left):
    path = zip_file(tmp_path / "w.pth")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"w\.pth: "):
        torch_file.read(path)


# The example of the README.


@pytest.mark.ci
def test_the_example_of_the_readme_is_a_subject(tmp_path, monkeypatch):
    readme = (MODELS / "README.md").read_text()
    (tmp_path / "blobs.py").write_text(re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    subject = importlib.import_module("blobs").subject()
    assert_is_a_subject(subject)
    logits = jax.jit(jax.vmap(subject.apply, (None, 0)))(subject.variables, subject.inputs)
    hits = np.asarray(logits).argmax(-1) == subject.labels
    assert hits.mean() > 0.9
