"""Policies: their text form, which rule counts, and what the rules' words address."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import qsim
from qsim.numbers.gradients import GRADIENTS
from qsim.numbers.modes import OVERFLOWS, ROUNDINGS
from qsim.numbers.specs import listed
from qsim.simulate.primitives import ROUNDED, known
from qsim.simulate.program import DIRECTIONS
from qsim.simulate.selector import DTYPES, ROLE_WORDS, Selector
from tests.bytewise import same
from tests.unchecked import unchecked

X = jnp.linspace(-3, 3, 24).reshape(4, 6)
P = {
    "up": {"w": jnp.linspace(-1, 1, 48).reshape(6, 8)},
    "down": {"w": jnp.linspace(-2, 1, 24).reshape(8, 3)},
}


def model(p, x):
    with jax.named_scope("mlp"):
        h = jnp.tanh(x @ p["up"]["w"])
    with jax.named_scope("head"):
        return jax.nn.softmax(h @ p["down"]["w"])


# --- text -----------------------------------------------------------------------------------

TEXTS = [
    "weights=e2m1f[32,e8m0,floor]; activations=e4m3",
    ".*softmax.*=e8m7",
    ".*head.*=none; all=e5m10 ieee",
    "gradients=e5m2 stochastic:8",
    "stored states=e4m3 absmax; stored=e8m7",
    "weights=e4m3|e4m3|e2m1f",
    "layer_[0-9]+/mlp weight_gradient gradients=int8 absmax dge:5",
    "collective operands=e5m2; all activations=e4m3; dot_general caches=int8",
    "path:add=e4m3; path:path:x=e4m3; bfloat16: elementwise=e4m3 toward_zero",
    "backward=e5m2; update=e8m7; contraction=e8m7; exp=e5m10; contraction forward operands=none",
    "operands=e4m3_nan=7f.ff; all=codebook(-1,0,0.5,1)",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_printing_and_reading_are_inverse(text):
    parsed = qsim.policy(text)
    assert qsim.policy(str(parsed)) == parsed and hash(parsed.rules) is not None
    assert len(parsed.rules) == len([rule for rule in listed(text, ";") if rule])


PATHS = st.one_of(
    st.sampled_from([*known, *DIRECTIONS, *ROLE_WORDS, "all", "outputs", "stored", "float32:"]),
    st.from_regex(r"[a-z_]{1,5}(/[a-z0-9.*]{1,4}){0,2}", fullmatch=True).filter(
        lambda text: "**" not in text and "/*" not in text
    ),
)


@st.composite
def selectors(draw):
    part = draw(st.sampled_from(["operand", "result", "stored"]))
    roles = {"result": [], "stored": ["weight", "state", "cache"], "operand": ROLE_WORDS.values()}
    role = draw(st.sampled_from([None, *roles[part]]))
    return Selector(
        path=draw(st.none() | PATHS),
        operation=draw(st.sampled_from([None, *ROUNDED, "exp", "add", "scatter-add"])),
        direction=draw(st.sampled_from([None, *DIRECTIONS])),
        dtype=draw(st.sampled_from([None, *DTYPES])),
        part=part,
        role=role,
    )


@given(selectors())
def test_any_selector_is_read_as_it_is_printed(selector):
    assert Selector.parse(str(selector)) == selector


@given(
    st.sampled_from(["e4m3", "int8", "mxfp4", "e4m3|e5m2"]),
    st.sampled_from([*ROUNDINGS, "stochastic:7"]),
    st.sampled_from([mode for mode in OVERFLOWS if mode != "wrap"]),
    st.sampled_from([*(name for name in GRADIENTS), "dge:3"]),
)
def test_any_precision_is_read_as_it_is_printed(spec, rounding, overflow, gradient):
    formats = tuple(map(qsim.parse, spec.split("|")))
    precision = qsim.Precision(
        formats=formats, rounding=rounding, overflow=overflow, gradient=gradient
    )
    assert qsim.Precision.parse(str(precision)) == precision


MISTAKES = [
    ("weights", "'weights' is no rule; write what it is for, '=' and a format: weights=e4m3"),
    ("weights=", "rule 'weights=': a rule says nothing after its '='"),
    ("=e4m3", "'=e4m3' is no rule"),
    ("weights=e4m33x", "rule 'weights=e4m33x': no format 'e4m33x'; did you mean"),
    (
        "weights=e4m3 staturate",
        "no mode 'staturate' for rounding, overflow, scale or gradient; did you",
    ),
    ("weights=e4m3 up down", "has two words for rounding: drop 'down'"),
    ("weights activations=e4m3", "says twice what role it is for: 'activations'"),
    ("outputs weights=e4m3", "results are of every role; drop the word for it"),
    ("forward backward=e4m3", "says twice what direction it is for: 'backward'"),
    ("a/.* b/.*=e4m3", "says twice what path it is for"),
    ("a(=e4m3", "no rule"),
    ("*softmax=e4m3", "path pattern '*softmax' is no regular expression"),
    ("weights=e4m3 absmax; activations=mxfp4 absmax", "is for formats without scales"),
    ("a" * 70000 + "=e4m3", "a policy has at most 65536 letters, this one 70005"),
    ("a" * 600 + "=e4m3", "a path pattern has at most 500 letters, this one 600"),
    ("weights=e4m3 dge:1", "gradient 'dge:1' needs a number above 1"),
    ("weights=e4m3 wrap", "wrap"),
    ("reshape=e4m3", "reshape computes nothing that could be rounded (movement)"),
    ("foward weights=e4m3", "did you mean 'forward'"),
    ("weight_grad=e4m3", "did you mean 'weight_gradient'"),
    ("bfloat16 weights=e4m3", "a dtype is written with a colon behind it: bfloat16:"),
    ("stored gradients=e4m3", "stored are weights, states and caches"),
    ("weights=e4m3|none", "a layer is left alone by binary32, not by none"),
    ("path:=e4m3", "a path pattern is empty"),
    ("weight=e4m3", "no word 'weight' for what a rule addresses; did you mean 'weights'?"),
    ("Wieghts=e4m3", "did you mean 'weights'? A path of that name is written path:Wieghts"),
    ("a{99999999999}=e4m3", "is no regular expression: the repetition number is too large"),
    ("scan=e4m3", "scan computes nothing that could be rounded (structure)"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=lambda text: text[:30])
def test_mistakes_name_the_rule(text, message):
    with unchecked(), pytest.raises(ValueError) as error:
        qsim.policy(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_paths_may_have_escaped_brackets():
    [rule] = qsim.policy(r"layers\[\d\]\(.* weights=e4m3").rules
    assert rule.select.path == r"layers\[\d\]\(.*"


def test_layers_may_be_spaced_and_of_any_floats():
    [rule] = qsim.policy("a{1,2} weights=e4m3 | binary32 | int8 ieee").rules
    assert str(rule) == "a{1,2} weights=e4m3|e8m23|int8 ieee"
    assert qsim.Policy((rule,)).lower(alone=True).rules[0].to.layers == 3
    with pytest.raises(ValueError, match="have formats of different families"):
        qsim.policy("weights=e4m3|nf4").lower()


@pytest.mark.parametrize("given", ["none", "e4m3 absmax", "e4m3|e5m2"])
def test_formats_given_by_name_are_formats(given):
    with pytest.raises(ValueError, match="are said in the text form"):
        qsim.policy(weights=given)


def test_an_empty_text_is_the_empty_policy():
    assert qsim.simulate(jnp.sin, str(qsim.Policy()))(1.0) == jnp.sin(1.0)


# --- what rules address ---------------------------------------------------------------------


def test_the_first_rule_that_matches_counts():
    general = qsim.simulate(model, "weights=e2m1; mlp.* weights=e5m10")(P, X)
    special = qsim.simulate(model, "mlp.* weights=e5m10; weights=e2m1")(P, X)
    assert same(general, qsim.simulate(model, "weights=e2m1")(P, X))
    assert not same(general, special)
    assert same(special, qsim.simulate(model, "mlp weights=e5m10; head weights=e2m1")(P, X))


def test_none_leaves_alone_what_it_matches():
    assert same(qsim.simulate(model, "all=none; all operands=none; all=e2m1")(P, X), model(P, X))
    head = qsim.simulate(model, "mlp=none; mlp operands=none; operands=e4m3")(P, X)
    assert same(head, qsim.simulate(model, "head operands=e4m3")(P, X))


def test_rules_round_by_class_primitive_and_direction():
    def fn(p, x):
        return jnp.exp(x @ p["w"]).sum()

    p, x = {"w": jnp.array([[0.3, 0.7]])}, jnp.array([[1.1], [0.9]])
    round_ = lambda x: qsim.quantize(x, "e4m3")  # noqa: E731
    product = x @ p["w"]
    assert same(qsim.simulate(fn, "contraction=e4m3")(p, x), jnp.exp(round_(product)).sum())
    assert same(qsim.simulate(fn, "function=e4m3")(p, x), round_(jnp.exp(product)).sum())
    assert same(qsim.simulate(fn, "exp=e4m3")(p, x), round_(jnp.exp(product)).sum())
    assert same(qsim.simulate(fn, "reduction=e4m3")(p, x), round_(jnp.exp(product).sum()))
    assert same(qsim.simulate(fn, "reduction operands=e4m3")(p, x), round_(jnp.exp(product)).sum())
    slope = qsim.simulate(jax.grad(fn), "weight_gradient gradients=e4m3")(p, x)["w"]
    assert same(slope, x.T @ round_(jnp.exp(product)))
    slope = qsim.simulate(jax.grad(fn), "weight_gradient activations=e4m3")(p, x)["w"]
    assert same(slope, round_(x).T @ jnp.exp(product))
    slope = qsim.simulate(jax.grad(fn), "forward=e4m3")(p, x)["w"]
    assert same(slope, x.T @ round_(jnp.exp(round_(product))))


def test_six_positions_of_a_layer_are_addressed_one_by_one():
    weights, data = {"w": jnp.array([[0.3, 0.7]])}, jnp.array([[1.1], [0.9]])

    def loss(p, x):
        with jax.named_scope("layer"):
            y = x @ p["w"]
        return (y**3).sum()

    grads = jax.grad(loss, argnums=(0, 1))
    found = {
        position: qsim.simulate(grads, f"layer {position}=e2m1f")(weights, data)
        for position in (
            *("forward activations", "forward weights", "input_gradient gradients"),
            *("input_gradient weights", "weight_gradient gradients", "weight_gradient activations"),
        )
    }
    plain = grads(weights, data)
    assert all(not same(result, plain) for result in found.values())
    changed = {
        name: (not same(r[0], plain[0]), not same(r[1], plain[1])) for name, r in found.items()
    }
    assert changed["input_gradient gradients"] == changed["input_gradient weights"] == (False, True)
    assert changed["weight_gradient gradients"] == (True, False)
    assert changed["weight_gradient activations"] == (True, False)


def test_integers_that_become_numbers_are_rounded():
    found = qsim.simulate(lambda n: n.astype(jnp.float32), "all=e4m3")(jnp.arange(20))
    assert same(found, qsim.quantize(jnp.arange(20.0), "e4m3"))


def test_numbers_that_are_made_of_integers_or_parts_are_rounded():
    found = qsim.simulate(lambda: jnp.arange(20.0), "all=e4m3")()
    assert same(found, qsim.quantize(jnp.arange(20.0), "e4m3"))
    found = qsim.simulate(lambda x, y: jnp.abs(lax.complex(x, y)), "abs=e4m3")(X, X)
    assert same(found, qsim.quantize(jnp.abs(lax.complex(X, X)), "e4m3"))


def test_a_precision_needs_a_format():
    with pytest.raises(ValueError, match="a precision needs a format"):
        qsim.Precision(formats=())


def test_policies_are_lowered_to_the_carrier_of_the_program():
    with jax.enable_x64(True):
        x = jnp.linspace(0, 1, 6, dtype=jnp.float64).reshape(2, 3)
        policy = qsim.policy("all=e11m30")
        with pytest.raises(TypeError, match=r"policy\.lower\('float64'\)"):
            qsim.simulate(jnp.exp, "all=e4m3")(x)
        found = qsim.simulate(jnp.exp, policy.lower("float64"))(x)
        assert same(found, qsim.quantize(jnp.exp(x), "e11m30"))


def test_explain_shows_every_place_and_what_matched_nothing():
    policy = qsim.policy("weights=e4m3; decoder.*=e5m2; function=none; all=e8m7")
    explained = policy.explain(model, P, X)
    assert explained.unused == (1,)
    text = str(explained)
    assert "0. weights=e4m3: 2 places" in text and "1. decoder.*=e5m2: 0 places" in text
    assert "mlp  dot_general forward, weight" in text and "head  exp forward, result" in text
    assert sum(place.rule is None for place in explained.places) == int(
        text.split("no rule: ")[1].split()[0]
    )


# --- layers ---------------------------------------------------------------------------------

LAYERS = jax.random.normal(jax.random.key(0), (3, 6, 6))
SPECS = ("e4m3", "e2m1f", "e5m2")


def stacked(w, x, reverse=False):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w, reverse=reverse)[0]


@pytest.mark.t1
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_each_layer_of_a_scan_has_a_format_of_its_own(reverse, transform):
    def by_hand(w, x):
        for n in reversed(range(3)) if reverse else range(3):
            x = jnp.tanh(x @ qsim.quantize(w[n], SPECS[n]))
        return x

    fn = lambda w, x: stacked(w, x, reverse)  # noqa: E731
    found = transform(qsim.simulate(fn, f"weights={'|'.join(SPECS)}", params=0))(LAYERS, X)
    np.testing.assert_allclose(found, transform(by_hand)(LAYERS, X), rtol=1e-6)
    backwards = transform(qsim.simulate(fn, f"weights={'|'.join(SPECS[::-1])}", params=0))
    assert not same(found, backwards(LAYERS, X))


def test_layers_keep_their_format_in_the_backward_pass():
    def loss(w, x):
        return stacked(w, x).sum()

    policy = qsim.policy("input_gradient weights=e4m3|e2m1f|e5m2")
    found = qsim.simulate(jax.grad(loss, argnums=1), policy, params=0)(LAYERS, X)
    states = [X]
    for w in LAYERS:
        states.append(jnp.tanh(states[-1] @ w))
    slope = jnp.ones_like(X)
    for w, spec, after in zip(LAYERS[::-1], SPECS[::-1], states[:0:-1], strict=True):
        slope = (slope * (1 - after**2)) @ qsim.quantize(w, spec).T
    np.testing.assert_allclose(found, slope, rtol=1e-5)


def test_policies_with_layers_sweep():
    texts = ["weights=e4m3|e2m1f|e5m2", "weights=e5m2|e5m2|e4m3"]
    found = qsim.sweep(stacked, texts, params=0)(LAYERS, X)
    alone = [jax.jit(qsim.simulate(stacked, text, params=0))(LAYERS, X) for text in texts]
    np.testing.assert_allclose(found, jnp.stack(alone), rtol=1e-6)


@pytest.mark.parametrize("layers", ["e4m3|e2m1", "e4m3|e2m1|e4m3|e2m1"])
def test_layers_that_no_scan_has_are_refused(layers):
    with pytest.raises(
        ValueError, match=r"one for each layer of a scan, but addresses what is in no"
    ):
        qsim.simulate(stacked, f"weights={layers}", params=0)(LAYERS, X)


# --- gradients ------------------------------------------------------------------------------


def slopes(x, spec, gradient):
    return jax.vmap(jax.grad(lambda x: qsim.quantize(x, spec, gradient=gradient)))(jnp.float32(x))


def test_trust_passes_what_is_moved_by_half_a_gap_at_most():
    x = np.array([0.0, 6.0, 6.9, 7.0, 7.1, -7.0, -7.1])
    assert slopes(x, "e2m1f", "trust").tolist() == [1, 1, 1, 1, 0, 1, 0]
    assert slopes(x, "int4", "trust").tolist() == [1, 1, 1, 1, 1, 1, 1]
    assert slopes(np.array([7.5, 7.6, -8.5, -8.6]), "int4", "trust").tolist() == [1, 0, 1, 0]


def test_trust_of_blocks_is_of_the_numbers_over_their_scales():
    x = jnp.array([0.5, 7.9, -7.1, 1.0])  # the scale is 1 by the rule floor, the largest element 6
    slope = jax.grad(lambda x: qsim.quantize(x, "e2m1f[4,e8m0,floor]", gradient="trust").sum())(x)
    assert slope.tolist() == [1, 0, 0, 1]
    slope = jax.grad(lambda x: qsim.quantize(x, "e2m1f[4]", gradient="trust").sum())(x)
    assert slope.tolist() == [1, 1, 1, 1]


def test_dge_is_the_derivative_of_a_power_function():
    x = np.array([1.1, 1.2, 1.25, 1.4, 1.5, 4.5, 7.0])
    t = np.array([0.2, 0.4, 0.5, 0.8, 0.0, 0.25])
    expected = np.minimum(np.maximum(np.abs(2 * t - 1), 1e-38) ** (1 / 5 - 1) / 5, 3)
    np.testing.assert_allclose(slopes(x, "e2m1f", "dge:5")[:-1], expected, rtol=1e-5)
    assert slopes(x, "e2m1f", "dge")[-1] == 0


def test_surrogates_are_of_the_scaled_number():
    quantizer = qsim.Precision(
        formats=(qsim.parse("e2m1f"),), scale="absmax", gradient="dge:5"
    ).lower()
    x = jnp.array([12.0, 2.5, -3.2])
    slope = jax.grad(lambda x: quantizer(x).sum())(x)
    np.testing.assert_allclose(slope, slopes(np.asarray(x) / 2, "e2m1f", "dge:5"), rtol=1e-5)
