"""Random words are those of the published generators, the same however they are asked for.

Statistical tests state what they count: of n fair and independent bits, the number of ones less
that of zeros has the standard deviation sqrt(n), and so has the sum of products of two such bits,
each written as +1 or -1. All limits are five standard deviations, for fixed seeds.
"""

import math
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qsim
from qsim import counter_key, fold_in, parse
from qsim.numbers import exact
from qsim.numbers.modes import Rounding
from qsim.numbers.random_bits import (
    GENERATORS,
    CounterKey,
    random_words,
    squares32,
    squares64,
    triple32,
    words_at,
)
from tests.unchecked import unchecked

SIGMAS = 5
ALL = Rounding("stochastic", 32)
KEYS = {
    "threefry": lambda seed: jax.random.key(seed),
    **{name: partial(counter_key, generator=name) for name in GENERATORS},
}
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param("threefry", marks=pytest.mark.t1), *GENERATORS]
)
every_counter_key = pytest.mark.parametrize("kind", GENERATORS)
X = jnp.linspace(-3.0, 3.0, 240)


def halves(number: int) -> tuple[jax.Array, jax.Array]:
    return jnp.uint32(number >> 32), jnp.uint32(number & 0xFFFFFFFF)


# --- the generators -------------------------------------------------------------------------------

VECTORS_32 = {
    0xC58EFD154CE32F6D: "8352d815 4d645c71 5f664b34 5502129e fdadfdcf f7991d47",
    0x548C9DECBCE65297: "36d88366 944716e0 c8a8f4e0 35cc666a 7094eab1 a2a1b6f5",
}
VECTORS_64 = {
    0xC58EFD154CE32F6D: "8352d81514c3f20f 4d645c710dea443c 5f664b34b649cc78 5502129ef0e4b900"
}


@pytest.mark.parametrize("key", VECTORS_32)
def test_squares32_gives_the_published_words(key):
    found = squares32(*halves(key), jnp.arange(6, dtype=jnp.uint32))
    assert " ".join(f"{word:08x}" for word in found.tolist()) == VECTORS_32[key]


@pytest.mark.parametrize("key", VECTORS_64)
def test_squares64_gives_the_published_words(key):
    words = [squares64(*halves(key), *halves(counter)) for counter in range(4)]
    found = " ".join(f"{int(high):08x}{int(low):08x}" for high, low in words)
    assert found == VECTORS_64[key]


def squares_in_integers(counter: int, key: int) -> tuple[int, int]:
    """Both functions of the paper, in Python integers."""
    mask = 2**64 - 1
    swap = lambda v: (v >> 32 | v << 32) & mask  # noqa: E731
    x = y = counter * key & mask
    z = y + key & mask
    for addend in (y, z, y):
        x = swap(x * x + addend & mask)
    fourth = x * x + z & mask
    x = swap(fourth)
    return fourth >> 32, fourth ^ (x * x + y & mask) >> 32


def test_squares_of_any_key_and_counter():
    random = np.random.default_rng(0)
    for key, counter in random.integers(0, 2**64, (50, 2), dtype=np.uint64).tolist():
        high, low = squares64(*halves(key), *halves(counter))
        assert int(high) << 32 | int(low) == squares_in_integers(counter, key)[1]
        short = counter % 2**32
        assert int(squares32(*halves(key), jnp.uint32(short))) == squares_in_integers(short, key)[0]


def test_triple32_in_integers():
    random = np.random.default_rng(1)
    for high, low, counter in random.integers(0, 2**32, (50, 3)).tolist():
        x = counter + low & 0xFFFFFFFF
        x = (x ^ x >> 17) * 0xED5AD4BB + high & 0xFFFFFFFF
        x = (x ^ x >> 11) * 0xAC4C1B51 & 0xFFFFFFFF
        x = (x ^ x >> 15) * 0x31848BAB & 0xFFFFFFFF
        assert int(triple32(*map(jnp.uint32, (high, low, counter)))) == x ^ x >> 14


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.t1
@pytest.mark.parametrize("kind", [pytest.param("threefry", marks=pytest.mark.t2), *GENERATORS])
def test_same_bytes_eagerly_and_compiled(kind):
    """For the eager call, ``jit``, a key made inside of it, ``vmap``, ``scan`` and x64."""
    shape = (6, 40)
    solo = [random_words(KEYS[kind](seed), shape, ALL) for seed in range(3)]
    draw = lambda key: random_words(key, shape, ALL)  # noqa: E731
    make = lambda seed: draw(KEYS[kind](seed))  # noqa: E731
    seeds = jnp.arange(3)
    keys = jax.vmap(KEYS[kind])(seeds)
    rows = {
        "jit": map(jax.jit(draw), map(KEYS[kind], range(3))),
        "inside jit": map(jax.jit(make), seeds),
        "vmap": jax.vmap(draw)(keys),
        "jit of vmap": jax.jit(jax.vmap(draw))(keys),
        "scan": lax.scan(lambda _, key: (None, draw(key)), None, keys)[1],
        "map": jax.jit(lambda seeds: lax.map(make, seeds))(seeds),
    }
    with jax.enable_x64(True):
        rows["x64"] = [random_words(KEYS[kind](seed), shape, ALL) for seed in range(3)]
    for way, found in rows.items():
        assert b"".join(np.asarray(row).tobytes() for row in found) == b"".join(
            row.tobytes() for row in solo
        ), way


@every_kind
def test_words_follow_the_flat_index(kind):
    """A reshaped array has the same words, and a shorter one the first of them."""
    key = KEYS[kind](4)
    words = random_words(key, (60,), ALL).tolist()
    assert random_words(key, (3, 4, 5), ALL).ravel().tolist() == words
    assert random_words(key, (7,), ALL).tolist() == words[:7]
    assert random_words(key, (), ALL).tolist() == words[0]
    assert random_words(key, (0, 3), ALL).shape == (0, 3)


@every_counter_key
def test_a_chunk_computes_its_own_words(kind):
    key, index = KEYS[kind](5), jnp.arange(60, dtype=jnp.uint32)
    whole = random_words(key, (60,), ALL)
    parts = [words_at(key, index[start : start + 20]) for start in (0, 20, 40)]
    assert jnp.concatenate(parts).tobytes() == whole.tobytes()


@every_counter_key
@pytest.mark.parametrize("shape", [(60,), (3, 4, 5)])
def test_words_by_index(kind, shape):
    """Against the generators in integers, element by element."""
    key = KEYS[kind](6)
    high, low = key.words.tolist()
    found = random_words(key, shape, ALL).ravel().tolist()
    if kind == "squares":
        expected = [squares_in_integers(n, high << 32 | low)[0] for n in range(60)]
    else:
        expected = [int(triple32(*key.words, jnp.uint32(n))) for n in range(60)]
    assert found == expected


@every_counter_key
def test_keys_derive_by_hashing(kind):
    root = 0xC58EFD154CE32F6D
    key = KEYS[kind](2**40 + 3)
    made = squares_in_integers(2**40 + 3, root)[1] | 1
    assert key.words.tolist() == [made >> 32, made % 2**32]
    folded = fold_in(key, 2**32 - 1)
    made = squares_in_integers(2**33 - 1, made)[1] | 1
    assert folded.words.tolist() == [made >> 32, made % 2**32]
    assert folded.generator == kind
    traced = jax.jit(fold_in)(key, jnp.uint32(2**32 - 1))
    assert traced.words.tolist() == folded.words.tolist()


@every_kind
def test_rows_that_fold_their_number_in_differ(kind):
    key = KEYS[kind](7)

    def noisy(key):
        return qsim.quantize(X, "e4m3", rounding="stochastic", key=key)

    captured = jax.vmap(lambda row: noisy(key) + 0 * row)(jnp.arange(3.0))
    assert len({row.tobytes() for row in captured}) == 1
    folded = jax.vmap(lambda row: noisy(fold_in(key, row)))(jnp.arange(3))
    assert len({row.tobytes() for row in folded}) == 3


# --- where qsim takes keys ------------------------------------------------------------------------


@every_kind
def test_quantize_is_the_same_under_transformations(kind):
    key = KEYS[kind](8)
    turn = partial(qsim.quantize, fmt="e4m3", rounding="stochastic_b:8")
    solo = turn(X, key=key)
    assert jax.jit(lambda x, key: turn(x, key=key))(X, key).tobytes() == solo.tobytes()
    gradient = jax.jit(jax.grad(lambda x: (turn(x, key=key) * 2).sum()))(X)
    assert gradient.tolist() == [2.0] * X.size
    stacked = qsim.stack([qsim.lower(parse(name)) for name in ("e4m3", "e2m1f")])
    both = qsim.quantize(X, stacked, rounding="stochastic_b:8", key=key)
    assert both[0].tobytes() == solo.tobytes()


@pytest.mark.ci
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("squares", marks=pytest.mark.t1),
        *(pytest.param(kind, marks=pytest.mark.t2) for kind in GENERATORS if kind != "squares"),
    ],
)
def test_simulate_and_sweep_fold_counter_keys(kind):
    """By site and iteration; a row of a sweep is its simulation alone."""
    x = jax.random.normal(jax.random.key(0), (4, 8, 8))

    def fn(w, x):
        def body(carry, row):
            return carry, (row @ w["a"], row @ w["a"])

        return lax.scan(body, 0, x)[1]

    same = jnp.stack([x[0], x[0]])
    policies = [
        qsim.policy(weights=fmt, activations=fmt, rounding="stochastic_equal:1")
        for fmt in ("e2m1f", "e3m2f")
    ]
    key = KEYS[kind](9)
    first, second = jax.jit(qsim.simulate(fn, policies[0], key=key))({"a": x[1]}, same)
    assert first.tobytes() != second.tobytes()
    assert first[0].tobytes() != first[1].tobytes()
    swept = qsim.sweep(fn, policies, key=key)({"a": x[1]}, same)
    for row, policy in enumerate(policies):
        alone = jax.jit(qsim.simulate(fn, policy, key=key))({"a": x[1]}, same)
        assert swept[0][row].tobytes() == alone[0].tobytes()


# --- what is refused ------------------------------------------------------------------------------


def test_what_is_no_key_is_refused():
    with pytest.raises(ValueError, match=r"no generator 'square'; did you mean 'squares'"):
        counter_key(0, generator="square")
    for seed in (-1, 2**64):
        with pytest.raises(
            ValueError, match=rf"a seed is an integer in 0\.\.2\*\*64-1, got {seed}"
        ):
            counter_key(seed)
    batch = jax.vmap(counter_key)(jnp.arange(3))
    with pytest.raises(ValueError, match=r"got a batch of shape \(3, 2\): use jax.vmap over keys"):
        random_words(batch, (2,), ALL)
    with pytest.raises(ValueError, match=r"got a batch of shape \(3,\): use jax.vmap over keys"):
        random_words(jax.random.split(jax.random.key(0), 3), (2,), ALL)
    with pytest.raises(ValueError, match="words of a rbg key depend on how it is batched"):
        random_words(jax.random.key(0, impl="rbg"), (2,), ALL)
    with pytest.raises(
        ValueError, match=r"numbers up to 2\*\*32 elements, got shape \(65536, 65537"
    ):
        random_words(counter_key(0), (65536, 65537), ALL)


def test_keys_of_other_kinds():
    """Legacy keys and JAX's other counter-based generators serve as they are."""
    assert random_words(jax.random.PRNGKey(3), (4,), ALL).tolist() == (
        random_words(jax.random.key(3), (4,), ALL).tolist()
    )
    words = random_words(jax.random.key(3, impl="philox2x32"), (4,), Rounding("stochastic", 4))
    assert all(word % 2**28 == 0 for word in words.tolist())


# --- statistics -----------------------------------------------------------------------------------

DRAWS = 2**22
MODES = ("stochastic", "stochastic_b", "stochastic_c")
WORDS = 2**18  # of +1 and -1: sums are exact in float32


@every_kind
@pytest.mark.parametrize(
    "bits",
    [
        *(pytest.param(bits, marks=pytest.mark.t1) for bits in (2, 8, 32)),
        *(pytest.param(bits, marks=pytest.mark.t2) for bits in (4, 16, 23)),
    ],
)
@pytest.mark.every(2)
def test_share_of_ups_is_binomial(bits, kind):
    """Of DRAWS draws, with the exact probability."""
    fmt, x = parse("e4m3"), np.float32(1 + 0.3 * 2**-3)
    for number, mode in enumerate(MODES if bits in (2, 32) else MODES[:1]):
        rounding, key = f"{mode}:{bits}", fold_in(KEYS[kind](100 + bits), number)
        p = float(exact.probability(Fraction(float(x)), fmt, rounding=rounding))
        deviation = math.sqrt(DRAWS * p * (1 - p))
        assert abs(int(ups(key, x, 1.125, rounding)) - DRAWS * p) < SIGMAS * deviation, mode


@partial(jax.jit, static_argnames=("rounding",))
def ups(key, x, upper, rounding):
    result = qsim.quantize(jnp.full(DRAWS, x), "e4m3", rounding=rounding, key=key)
    return (result == upper).sum()


@jax.jit
def products(words, others):
    """Sums of products of the bits, as +1 and -1, of two lists of words: bit by bit."""
    one, two = (
        ((w[:, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1).astype(jnp.float32) * 2 - 1
        for w in (words, others)
    )
    return jnp.einsum("ni,nj->ij", one, two, precision="highest")


@jax.jit
def sums(words):
    return products(words, jnp.full_like(words, 0xFFFFFFFF))[:, 0]


LIMIT = SIGMAS * math.sqrt(WORDS)


@every_kind
@pytest.mark.t1
def test_bits_are_fair_and_independent_of_each_other(kind):
    words = random_words(KEYS[kind](10), (WORDS,), ALL)
    assert np.abs(sums(words)).max() < LIMIT
    within = np.array(products(words, words))
    assert (np.diag(within) == WORDS).all()
    assert np.abs(within - WORDS * np.eye(32)).max() < LIMIT


@every_kind
@pytest.mark.t1
def test_neighbouring_counters_are_independent(kind):
    """At distances that are powers of two, and at those of a matrix's rows."""
    words = random_words(KEYS[kind](11), (WORDS,), ALL)
    for distance in (1, 2, 3, 64, 768, 2**16):
        assert np.abs(products(words, jnp.roll(words, distance))).max() < LIMIT, distance


@every_kind
@pytest.mark.t1
def test_neighbouring_keys_are_independent(kind):
    """Of seeds, and of what is folded in."""
    root = KEYS[kind](12)
    made = [root, KEYS[kind](13), *(fold_in(root, n) for n in (0, 1, 2, 2**31))]
    lanes = [random_words(key, (WORDS,), ALL) for key in made]
    for first in range(len(lanes)):
        for second in range(first):
            assert np.abs(products(lanes[first], lanes[second])).max() < LIMIT, (first, second)


@every_counter_key
@pytest.mark.t1
def test_one_element_over_many_keys(kind):
    """The words that an element has under all keys of a range, as in a scan over steps."""
    root = KEYS[kind](14)
    steps = jnp.arange(WORDS, dtype=jnp.uint32)
    for index in (0, 1, 12345):
        at = jnp.uint32(index)
        by_step = jax.vmap(lambda n, at=at: words_at(fold_in(root, n), at))(steps)
        by_seed = jax.vmap(lambda n, at=at: words_at(KEYS[kind](n), at))(steps)
        for words in (by_step, by_seed):
            assert np.abs(sums(words)).max() < LIMIT
            assert np.abs(products(words, jnp.roll(words, 1))).max() < LIMIT
            within = np.array(products(words, words)) - WORDS * np.eye(32)
            assert np.abs(within).max() < LIMIT


@every_kind
@pytest.mark.t1
def test_bytes_and_pairs_of_bytes_are_uniform(kind):
    """Chi-square has the mean k and the variance 2k for k degrees of freedom."""
    words = np.asarray(random_words(KEYS[kind](15), (DRAWS,), ALL))
    top, low = words >> 24, words & 255
    pairs = {
        "top": (top, 2**8),
        "low": (low, 2**8),
        "neighbours' top": (top[:-1].astype(np.int64) << 8 | top[1:], 2**16),
        "top and low": (top.astype(np.int64) << 8 | low, 2**16),
    }
    for name, (values, bins) in pairs.items():
        expected = len(values) / bins
        found = ((np.bincount(values, minlength=bins) - expected) ** 2).sum() / expected
        assert abs(found - (bins - 1)) < SIGMAS * math.sqrt(2 * (bins - 1)), name


@every_kind
@pytest.mark.t1
def test_lanes_are_uncorrelated(kind):
    """Moves up and down, as +1 and -1, of vmapped keys: like coins that know nothing of others."""
    keys = jax.vmap(partial(fold_in, KEYS[kind](16)))(jnp.arange(8))
    x = jnp.full(WORDS, 1 + 0.5 * 2**-3)
    draw = lambda key: qsim.quantize(x, "e4m3", rounding="stochastic:8", key=key)  # noqa: E731
    moves = jnp.where(jax.jit(jax.vmap(draw))(keys) > 1, 1.0, -1.0)
    assert np.abs(moves.sum(axis=1)).max() < LIMIT
    between = np.array(jnp.einsum("in,jn->ij", moves, moves, precision="highest"))
    assert np.abs(between - WORDS * np.eye(8)).max() < LIMIT


def test_counter_keys_are_pytrees():
    """Keys pass through transformations and are told apart by their generator."""
    key = counter_key(0)
    leaves, tree = jax.tree.flatten(key)
    assert [leaf.shape for leaf in leaves] == [(2,)]
    assert isinstance(jax.tree.unflatten(tree, leaves), CounterKey)
    assert tree != jax.tree.structure(counter_key(0, generator="triple32"))


@pytest.mark.parametrize("key", [counter_key(0), jax.random.key(0), jax.random.PRNGKey(0)])
@pytest.mark.parametrize("number", [1.5, jnp.float32(1), jnp.arange(3), "1", -1, 2**32])
def test_keys_are_folded_with_single_integers_alone(key, number):
    with unchecked(), pytest.raises((TypeError, ValueError), match="integer"):
        fold_in(key, number)


def test_an_empty_array_is_no_key():
    with unchecked(), pytest.raises(ValueError, match="one key is needed"):
        fold_in(jnp.zeros(0, jnp.uint32), 1)
