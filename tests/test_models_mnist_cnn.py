"""The digit network: its readers on files made here, and its answers with the released weights."""

import gzip
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import mnist_cnn
from models.mnist_cnn import digits, weights
from models.mnist_cnn.model import MnistCNN, apply
from models.subject import Subject
from tests.test_models import assert_is_a_subject, shapes

COLUMNS = 28 * 28 + 1


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random tensors under torch's names, of moderate outputs."""
    random = np.random.default_rng(seed)
    layers = {
        "features.0": (32, 1, 3, 3),
        "features.3": (64, 32, 3, 3),
        "classifier.0": (128, 3136),
        "classifier.2": (10, 128),
    }
    made = {}
    for name, shape in layers.items():
        spread = 1 / math.sqrt(math.prod(shape[1:]))
        made[f"{name}.weight"] = random.normal(0, spread, shape).astype(np.float32)
        made[f"{name}.bias"] = random.normal(0, 0.1, shape[0]).astype(np.float32)
    return made


def in_numpy(tensors: dict[str, np.ndarray], x_BxHxW: np.ndarray) -> np.ndarray:
    """Returns the logits [B, 10] in float64, computed in torch's layout, tap by tap."""
    x_BxCxHxW = x_BxHxW[:, None].astype(np.float64)
    for name in ("features.0", "features.3"):
        kernel_NxCx3x3 = tensors[f"{name}.weight"].astype(np.float64)
        side = x_BxCxHxW.shape[-1]
        padded = np.pad(x_BxCxHxW, ((0, 0), (0, 0), (1, 1), (1, 1)))
        y = sum(
            np.einsum(
                "BCHW,NC->BNHW", padded[..., i : i + side, j : j + side], kernel_NxCx3x3[..., i, j]
            )
            for i in range(3)
            for j in range(3)
        )
        y = np.maximum(y + tensors[f"{name}.bias"][:, None, None], 0)
        x_BxCxHxW = y.reshape(*y.shape[:2], side // 2, 2, side // 2, 2).max((3, 5))
    x_BxD = x_BxCxHxW.reshape(len(x_BxHxW), -1)
    x_BxD = x_BxD @ tensors["classifier.0.weight"].T + tensors["classifier.0.bias"]
    return np.maximum(x_BxD, 0) @ tensors["classifier.2.weight"].T + tensors["classifier.2.bias"]


def test_the_network_is_the_one_written_out_in_numpy():
    x_BxHxW = np.random.default_rng(1).normal(size=(3, 28, 28)).astype(np.float32)
    variables = weights.variables(tensors())
    made = jax.eval_shape(MnistCNN().init, jax.random.key(0), jnp.asarray(x_BxHxW[..., None]))
    assert shapes(made) == shapes(variables)
    logits = jax.jit(apply)(variables, jnp.asarray(x_BxHxW[..., None]))
    expected = in_numpy(tensors(), x_BxHxW)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def table(path: Path, text: bytes) -> Path:
    path.write_bytes(gzip.compress(text))
    return path


def row(label: int, grey: int = 0) -> bytes:
    return b",".join(b"%d" % n for n in [grey] * (COLUMNS - 1) + [label])


def test_a_table_of_digits_is_read(tmp_path):
    grey, labels = digits.read(table(tmp_path / "d.gz", row(7, 255) + b"\n" + row(0) + b"\n"))
    assert grey.shape == (2, 28, 28, 1) and grey.dtype == labels.dtype == np.int32
    assert labels.tolist() == [7, 0] and grey[0].min() == 255 and grey[1].max() == 0
    scaled = digits.scale(grey)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[:, 0, 0, 0], [(1 - 0.1307) / 0.3081, -0.1307 / 0.3081], 1e-6)


def packed(text: bytes) -> bytes:
    """Returns a gzip file that says nothing of when it was made."""
    return gzip.compress(text, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip", "d.gz: "),
        (packed(row(7))[:-9], "d.gz: "),
        (packed(b""), "no digits in it"),
        (packed(b"1,2,3"), r"shape \(1, 3\), not of 785 columns"),
        (packed(row(7) + b"\n1,2"), "d.gz: "),
        (packed(row(7).replace(b"0", b"x")), "could not convert string"),
        (packed(row(10)), "a label beyond 0 to 9"),
        (packed(row(1).replace(b"0", b"2550", 1)), "a grey level beyond 0 to 255"),
        (packed(row(1).replace(b"0", b"9" * 30, 1)), "could not convert string"),
        (packed(row(1, 256)), "a grey level beyond 0 to 255"),
        (packed(row(-1)), "a label beyond 0 to 9"),
        (packed(bytes(digits.LIMIT + 1)), "more than 16777216 bytes when unpacked"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:20],
)
def test_a_damaged_table_is_refused(tmp_path, content, message):
    (tmp_path / "d.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        digits.read(tmp_path / "d.gz")
    assert str(caught.value).startswith("d.gz: ") and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Returns the subject, or skips where its packages are not installed."""
    try:
        return mnist_cnn.subject()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.t2
def test_mnist_cnn_is_a_subject(subject):
    assert_is_a_subject(subject)
    assert subject.inputs.shape == (10, 500, 28, 28, 1)
    assert all(np.bincount(labels).tolist() == [50] * 10 for labels in np.asarray(subject.labels))


@pytest.mark.t2
def test_mnist_cnn_names_4993_of_5000_digits(subject):
    apply = jax.jit(lambda variables, x: jax.lax.map(lambda b: subject.apply(variables, b), x))
    logits = np.asarray(apply(subject.variables, subject.inputs))
    assert (logits.argmax(-1) == np.asarray(subject.labels)).sum() == 4993
