"""Accumulators by rule: contractions of any kind add up as ``qsim.arithmetic.matmul`` does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qsim
from qsim.arithmetic import Accumulation, Accumulator, matmul
from tests.bytewise import same
from tests.unchecked import unchecked

FORMATS = ("e4m3", "e4m3")
KERNELS = {
    "plain": {},
    "strides": {"window_strides": (2, 1)},
    "dilated window": {"rhs_dilation": (2, 1)},
    "dilated image": {"lhs_dilation": (1, 2)},
    "groups of features": {"feature_group_count": 2},
    "groups of images": {"batch_group_count": 2},
}


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def rounded(x):
    return qsim.quantize(x, "e4m3")


def layer(p, x):
    return x @ p["w"]


P, X = {"w": normal(0, 40, 6)}, normal(1, 3, 40)


@pytest.mark.t1
@pytest.mark.every(2)
@pytest.mark.parametrize("text", ["e5m10", "e8m13:chunk16", "e5m7 pairwise product=e5m10"])
def test_products_of_matrices(text):
    simulated = qsim.simulate(layer, f"accumulators={text}; operands=e4m3")
    expected = matmul(rounded(X), rounded(P["w"]), text, formats=FORMATS)
    assert same(simulated(P, X), expected) and same(jax.jit(simulated)(P, X), expected)
    assert same(jax.vmap(simulated, (None, 0))(P, X[:, None])[:, 0], expected)


def test_scales_of_tensors_are_left_out_of_sums():
    text = "accumulators=e5m7; operands=int8 power_of_two"
    scale = lambda x: 2.0 ** np.ceil(np.log2(float(jnp.abs(x).max()) / 127))  # noqa: E731
    x, w = (qsim.quantize(v / scale(v), "int8") for v in (X, P["w"]))
    expected = matmul(x, w, "e5m7", formats=("int8", "int8")) * (scale(X) * scale(P["w"]))
    assert same(qsim.simulate(layer, text)(P, X), expected)


def test_sums_in_integers():
    text = "accumulators=int12 wrap; operands=int8 power_of_two"
    narrow = qsim.simulate(layer, text)(P, X)
    wide = qsim.simulate(layer, text.replace("int12", "int32"))(P, X)
    none = qsim.simulate(layer, "operands=int8 power_of_two")(P, X)
    assert same(wide, none) and not same(narrow, none)
    with pytest.raises(ValueError, match="give both operands integer formats"):
        qsim.simulate(layer, "accumulators=int32 wrap; operands=e4m3")(P, X)


@pytest.mark.t1
@pytest.mark.every(3)
@pytest.mark.parametrize("kind", KERNELS)
def test_convolutions(kind):
    options = {"window_strides": (1, 1), **KERNELS[kind]}
    image = normal(2, 2, 7, 6, 4)
    kernel = normal(3, 3, 2, 4 // options.get("feature_group_count", 1), 6)

    def convolved(p, x):
        return lax.conv_general_dilated(
            x, p, padding=((1, 2), (0, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )

    exact = qsim.simulate(convolved, "accumulators=binary32 exact; operands=e4m3", params=0)
    native = qsim.simulate(convolved, "operands=int4", params=0)
    of_integers = qsim.simulate(convolved, "accumulators=e5m10 pairwise; operands=int4", params=0)
    plain = convolved(*(np.asarray(rounded(x), np.float32) for x in (kernel, image)))
    np.testing.assert_allclose(exact(kernel, image), plain, rtol=1e-5, atol=1e-6)
    assert same(of_integers(kernel, image), native(kernel, image))  # small sums, exact in both


@pytest.mark.ci
def test_batched_and_ragged_products():
    einsum = lambda p, x: jnp.einsum("bik,jkb->bji", x, p)  # noqa: E731
    p, x = normal(4, 5, 7, 2), normal(5, 2, 3, 7)
    expected = matmul(rounded(x), rounded(p).transpose(2, 1, 0), "e5m7", formats=FORMATS)
    found = qsim.simulate(einsum, "accumulators=e5m7; operands=e4m3", params=0)(p, x)
    assert same(found, expected.transpose(0, 2, 1))
    sizes, weights, rows = jnp.array([1, 0, 2], jnp.int32), normal(6, 3, 8, 4), normal(7, 4, 8)
    ragged = qsim.simulate(
        lambda p, x: lax.ragged_dot(x, p, sizes), "accumulators=e5m7; operands=e4m3", params=0
    )(weights, rows)
    for row, group in enumerate((0, 2, 2)):
        one = matmul(rounded(rows)[row], rounded(weights)[group], "e5m7", formats=FORMATS)
        assert same(ragged[row], one)
    assert not ragged[3].any()


@pytest.mark.t1
def test_gradients_are_those_of_the_product():
    loss = lambda policy: lambda p: qsim.simulate(layer, policy)(p, X).sum()  # noqa: E731
    found = jax.grad(loss("accumulators=e5m7 chunk8; operands=e4m3 absmax"))(P)
    expected = jax.grad(loss("operands=e4m3 absmax"))(P)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-5)


@pytest.mark.t1
def test_a_backward_pass_has_accumulators_of_its_own():
    step = jax.grad(lambda p, x: (layer(p, x) ** 2).sum())
    text = "weight_gradient accumulators=e4m3; accumulators=e8m13; operands=e4m3 absmax"
    said = str(qsim.policy(text).explain(step, P, X))
    assert "w  dot_general weight_gradient, accumulator" in said
    assert "w  dot_general forward, accumulator" in said
    assert not same(
        qsim.simulate(step, text)(P, X), qsim.simulate(step, text.split("; ", 1)[1])(P, X)
    )


FLOATS = [
    f"accumulators=e{e}m{m} chunk8; operands={fmt}"
    for e, m, fmt in ((5, 10, "e4m3"), (8, 13, "e5m2"), (4, 3, "e3m4"), (8, 20, "e4m3"))
]
INTEGERS = [
    f"accumulators=int{bits} wrap; operands=int{n}" for bits, n in ((24, 14), (28, 16), (32, 15))
]


@pytest.mark.t1
@pytest.mark.parametrize("texts, size", [(FLOATS, 1), (INTEGERS, 3000)], ids=["floats", "integers"])
def test_accumulators_of_one_structure_sweep_in_one_trace(texts, size):
    traced = []

    def counted(p, x):
        traced.append(1)
        return layer(p, x)

    p, x = {"w": size * jnp.abs(P["w"])}, size * jnp.abs(X)
    found = qsim.sweep(counted, texts)(p, x)
    assert len(traced) == 1
    assert len({row.tobytes() for row in np.asarray(found)}) == len(set(texts))  # sums wrap
    for row, text in zip(found, texts, strict=True):
        assert same(row, qsim.simulate(layer, text)(p, x))


def test_integer_accumulators_of_lowered_policies():
    text = "accumulators=int32 wrap; operands=int8 absmax"
    expected = qsim.simulate(layer, text)(P, X)
    assert same(qsim.simulate(layer, qsim.policy(text).lower(known=True))(P, X), expected)
    with pytest.raises(ValueError, match=r"no format is known: .*lower with known=True"):
        qsim.simulate(layer, qsim.policy(text).lower())(P, X)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accumulators=e5m10 chunks", "no word 'chunks' for accumulators"),
        ("weights accumulators=e5m10", "accumulators are of every role; drop the word for it"),
        ("accumulators=e5m10 lanes2 pairwise", "says twice what its order is"),
        ("accumulators=e5m10 lanes0", "order 'lanes' needs a number above zero: write lanes8"),
        ("accumulators=e8m7 toward_zero normalise0-1", "removes at least one zero"),
        ("accumulators=e5m10 stochastic:99", "1 to 32 random bits, got 99"),
        ("accumulators=int16 wrap product=e5m10", "overflow='wrap' is for integers"),
        ("accumulators=e11m40 toward_zero normalise1-1", "more mantissa bits than a coarse"),
        ("accumulators=e8m0", "e8m0 has no zero, where sums begin"),
        ("accumulators=e5m10 chunk8 outer=e8m0", "e8m0 has no zero, where sums begin"),
        ("accumulators=hoper_fp8", "no format or profile 'hoper_fp8'; did you mean 'hopper_fp8'"),
        ("accumulators=hopper_fp8 chunk4", "hopper_fp8 stands by itself: .* 'e8m13 toward_zero"),
    ],
)
def test_mistakes_name_the_rule(text, message):
    with pytest.raises(ValueError, match=message):
        qsim.policy(text)


def test_what_is_no_text_of_an_accumulator_is_refused():
    for how in (None, 5, b"e5m10"):
        with unchecked(), pytest.raises(TypeError, match="an accumulator is named by a text"):
            matmul(jnp.ones((1, 1)), jnp.ones((1, 1)), how)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fmt": "e8m13"}, r"fmt is 'e8m13', but it is a Format: parse\('e8m13'\)"),
        ({"chunk": 8.0}, "Accumulator chunk must be a Python int, got 8.0"),
        ({"order": "lanes", "count": True}, "Accumulator count must be a Python int, got True"),
        ({"chunk": 8, "outer": "e8m23"}, "outer is 'e8m23', but it is a Format"),
    ],
)
def test_fields_of_other_types_are_refused(fields, message):
    with unchecked(), pytest.raises(TypeError, match=message):
        Accumulator(**{"fmt": qsim.parse("e8m13"), **fields})


@pytest.mark.parametrize("lowered", [False, True])
def test_random_bits_that_nothing_draws_are_refused(lowered):
    how = Accumulator.parse("e8m13")
    with pytest.raises(ValueError, match="draws no random bits: it takes no key"):
        matmul(X, X.T, Accumulation.of(how) if lowered else how, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("hopper_fp8", r"adds them as they are: say of what formats .* formats=\('e4m3', 'e4m3'\)"),
        ("e5m10 kahan", "adds them as they are: round them with product=FORMAT, or say"),
        ("e5m10 stochastic", "take a narrower accumulator or fewer random bits, stochastic:8"),
    ],
)
def test_what_an_order_needs_is_said(how, message):
    with pytest.raises(ValueError, match=message):
        matmul(jnp.ones((1, 3)), jnp.ones((3, 1)), how)


def test_what_cannot_be_rounded_once_names_its_rule_and_place():
    message = r"rule 'accumulators', w \(dot_general\): sums .* of 24 bits cannot be rounded once"
    with pytest.raises(ValueError, match=message):
        qsim.simulate(layer, "accumulators=binary32 up")(P, X)


def test_the_text_of_accumulators_is_read_as_it_is_printed():
    text = (
        ".*mlp.* accumulators=e8m13 toward_zero align13 group32 chunk128 outer=e8m23; weights=e4m3"
    )
    assert str(qsim.policy(text)) == text and qsim.policy(str(qsim.policy(text))) == qsim.policy(
        text
    )
