"""Rounding gives the same bytes under every transformation, one compilation serves all formats.

The inputs hold zeros, float32 subnormals, infinities and NaN beside ordinary numbers. Strict
dtype promotion and no rank promotion: see the last section.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qsim
from qsim import Float, Integer, lower, parse, stack
from qsim.numbers.catalogue import catalogue
from qsim.numbers.modes import ROUNDINGS, Rounding
from qsim.numbers.random_bits import random_words
from tests.intervals import POLICIES, intervals

BINADES = [name for name, entry in catalogue().items() if isinstance(entry.format, Float | Integer)]
ALIKE = [name for name in BINADES if getattr(parse(name), "subnormals", "") != "normalised"]
NAMES = [name for name in ALIKE if parse(name).precision <= 24][:20]
SPECS = [f"{sign}e{e}m{m}" for sign in ("", "u") for e in (2, 3, 4, 5) for m in range(1, 7)]
FORMATS = [parse(name) for name in (NAMES + SPECS)[:64]]
STACK = stack([lower(fmt) for fmt in FORMATS])

# the first is quick; some of the other modes are tests of a slower tier with one policy, and all of
# the slowest with every policy
QUICK = [("ties_to_even", "saturate"), ("to_odd", "ieee"), ("stochastic", "p3109")]
SLOWER = ("ties_to_odd", "up", "away_from_zero", "stochastic_c")


def mixed_inputs() -> jax.Array:
    """64 x 16 float32 numbers from everywhere, a third of them about the values of E4M3."""
    random = np.random.default_rng(5)
    patterns = np.concatenate(
        [
            np.array([0, 1, 2**31, 2**31 + 1, 0x7FFFFF, 0x800000, 0x7F800000, 0xFF800000]),
            np.array([0x7FC00000, 0x7F800001, 0x7F7FFFFF, 0xFF7FFFFF]),
            random.choice(intervals(parse("ocp_e4m3")).points(), 340),
            random.integers(0, 2**32, 332),
            random.normal(size=340).astype(np.float32).view(np.uint32),
        ]
    )
    return jnp.asarray(patterns.astype(np.uint32).view(np.float32)).reshape(64, 16)


X = mixed_inputs()


def rounds(mode: str, policy: str):
    """``(x, grid) -> rounded``, with the random words of one key where the mode needs them."""
    rounding = Rounding.parse(mode)

    def rounded(x, grid):
        drawn = rounding.is_stochastic
        words = random_words(jax.random.key(6), x.shape, rounding) if drawn else None
        return grid.round(x, mode=rounding, policy=policy, random=words)

    return rounded


def _first(values, *quick):
    """Parameters of which only ``quick`` belong to the quick tier."""
    return [pytest.param(v, marks=() if v in quick else pytest.mark.t1) for v in values]


def same_bytes(*results) -> bool:
    return len({np.asarray(result).tobytes() for result in results}) == 1


ONCE = [(mode, list(POLICIES)[place % len(POLICIES)]) for place, mode in enumerate(ROUNDINGS)]


def _tier(choice: tuple[str, str]):
    if choice in QUICK[:1]:
        return ()
    at_first = choice in QUICK or (choice in ONCE and choice[0] in SLOWER)
    return pytest.mark.t1 if at_first else pytest.mark.t2


CHOICES = [
    pytest.param(*choice, marks=_tier(choice)) for choice in itertools.product(ROUNDINGS, POLICIES)
]


@pytest.mark.t1
@pytest.mark.parametrize(("mode", "policy"), CHOICES)
def test_formats_one_by_one_equal_all_at_once(mode, policy):
    """Solo under jit, ``vmap`` over the stack, and ``lax.map`` over the stack."""
    rounded = rounds(mode, policy)
    solo = jax.jit(rounded)
    loop = jnp.stack([solo(X, lower(fmt)) for fmt in FORMATS])
    batch = jax.jit(jax.vmap(rounded, in_axes=(None, 0)))(X, STACK)
    mapped = jax.jit(lambda x, grids: lax.map(lambda grid: rounded(x, grid), grids))(X, STACK)
    assert same_bytes(loop, batch, mapped)


@pytest.mark.t1
@pytest.mark.parametrize("mode", ["ties_to_even", "up", "to_odd"])
def test_operation_by_operation_equals_compiled(mode):
    rounded = rounds(mode, "ieee")
    for fmt in FORMATS[::8]:
        assert same_bytes(rounded(X, lower(fmt)), jax.jit(rounded)(X, lower(fmt)))


@pytest.mark.parametrize("mode", _first(["ties_to_even", "down"], "ties_to_even"))
def test_rows_one_by_one_equal_all_at_once(mode):
    """``vmap`` over the data, ``scan`` over its rows, and each number alone."""
    rounded = rounds(mode, "p3109")
    for fmt in FORMATS[:2]:
        grid = lower(fmt)
        whole = jax.jit(rounded)(X, grid)
        rows = jax.jit(jax.vmap(rounded, in_axes=(0, None)))(X, grid)
        _, scanned = jax.jit(lambda x, g: lax.scan(lambda c, r: (c, rounded(r, g)), 0, x))(X, grid)
        single = jax.jit(rounded)
        alone = jnp.stack([single(x, grid) for x in X[:2].reshape(-1)])
        assert same_bytes(whole, rows, scanned)
        assert same_bytes(whole[:2], alone)


@pytest.mark.t1
def test_a_grid_for_each_row_of_the_data():
    paired = jax.jit(jax.vmap(rounds("ties_to_even", "saturate")))(X, STACK)
    crossed = qsim.quantize(X, STACK)
    assert same_bytes(paired, jnp.stack([crossed[i, i] for i in range(64)]))


def test_a_constant_format_equals_a_traced_one():
    rounded = rounds("ties_to_even", "ieee")
    for fmt in FORMATS[::16]:
        grid = lower(fmt)
        constant = jax.jit(lambda x, grid=grid: rounded(x, grid))
        assert same_bytes(constant(X), jax.jit(rounded)(X, grid))


def test_one_compilation_serves_sixty_four_formats():
    traces = []

    @jax.jit
    def rounded(x, grid):
        traces.append(grid)
        return rounds("ties_to_even", "saturate")(x, grid)

    results = [rounded(X, lower(fmt)) for fmt in FORMATS]
    assert len(results) == 64 and len(set(map(str, FORMATS))) >= 60
    assert len(traces) == 1 and rounded._cache_size() == 1


@pytest.mark.t1
def test_quantize_with_a_stack_equals_quantize_with_each_format():
    """The stack's axes stand in front of those of the data, for one and for two of them."""
    square = jax.tree.map(lambda leaf: leaf.reshape(8, 8), STACK)
    rows = qsim.quantize(X, STACK)
    assert rows.shape == (64, *X.shape) and qsim.quantize(X, square).shape == (8, 8, *X.shape)
    assert same_bytes(rows, qsim.quantize(X, square))
    assert same_bytes(rows[::9], jnp.stack([qsim.quantize(X, fmt) for fmt in FORMATS[::9]]))


def test_lanes_do_not_touch_each_other():
    """A NaN or an infinity in one lane leaves the bytes of the others."""
    rounded = jax.jit(jax.vmap(rounds("ties_to_even", "ieee"), in_axes=(0, None)))
    grid, clean = lower(parse("ocp_e4m3")), jnp.linspace(-3.0, 3.0, 64).reshape(4, 16)
    spoilt = clean.at[2].set(jnp.nan).at[3].set(jnp.inf)
    assert same_bytes(rounded(clean, grid)[:2], rounded(spoilt, grid)[:2])


def test_encode_and_decode_under_jit_and_vmap():
    finite = jnp.nan_to_num(X)
    codes = qsim.encode(finite, "ocp_e4m3")
    assert same_bytes(codes, jax.jit(lambda x: qsim.encode(x, "ocp_e4m3"))(finite))
    assert same_bytes(codes, jax.vmap(lambda x: qsim.encode(x, "ocp_e4m3"))(finite))
    values = qsim.decode(codes, "ocp_e4m3")
    assert same_bytes(values, jax.jit(lambda c: qsim.decode(c, "ocp_e4m3"))(codes))
    assert same_bytes(values, jax.vmap(lambda c: qsim.decode(c, "ocp_e4m3"))(codes))
    assert same_bytes(values, qsim.quantize(finite, "ocp_e4m3"))


def test_data_over_two_devices():
    """Sharded data gives the bytes of data on one device."""
    if len(jax.devices()) < 2:
        pytest.skip("one device")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("rows",))
    spec = jax.sharding.PartitionSpec("rows")
    sharded = jax.device_put(X, jax.sharding.NamedSharding(mesh, spec))
    rounded = jax.jit(rounds("ties_to_even", "ieee"))
    assert same_bytes(rounded(X, lower(FORMATS[0])), rounded(sharded, lower(FORMATS[0])))


# --- shapes and dtypes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", _first(["float32", "float16", "bfloat16"], "float32"))
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4)])
def test_shape_and_dtype_are_kept(shape, dtype):
    x = jnp.full(shape, 1.3, dtype)
    result = qsim.quantize(x, "ocp_e2m1")
    assert result.shape == shape and result.dtype == dtype
    assert (result == 1.5).all()
    codes = qsim.encode(x, "ocp_e2m1")
    assert codes.shape == shape and qsim.decode(codes, "ocp_e2m1").shape == shape


def test_a_stack_of_formats_with_empty_data():
    assert qsim.quantize(jnp.zeros((3, 0)), STACK).shape == (64, 3, 0)


@pytest.mark.parametrize("x", [1.3, np.float32(1.3), np.array(1.3, np.float32), jnp.float32(1.3)])
def test_scalars_are_arrays_without_axes(x):
    result = qsim.quantize(x, "ocp_e2m1")
    assert result.shape == () and result.dtype == jnp.float32 and result == 1.5


@pytest.mark.t1
def test_numpy_arrays_of_any_layout_round_like_jax_arrays():
    x = np.asarray(X)
    for view in (x, x.T, x[::2, ::-1], np.asfortranarray(x)):
        assert same_bytes(qsim.quantize(view, "ocp_e4m3"), qsim.quantize(jnp.array(view), "e4m3fn"))


# --- the derivative -------------------------------------------------------------------------------

RANGES = ["ocp_e4m3", "ocp_e2m1", "int8", "uint8", "ocp_e8m0", "bfloat16"]


def inside(x, fmt) -> np.ndarray:
    """Between the lowest and the largest value, or zero; for scales, above zero."""
    with np.errstate(invalid="ignore"):
        number = np.asarray(x, np.float64)
        lowest = float(fmt.lowest) if fmt.has_zero else 0.0
        return (number >= lowest) & (number <= float(fmt.largest))


@pytest.mark.t1
@pytest.mark.parametrize("mode", _first(["ties_to_even", "up", "stochastic:8"], "ties_to_even"))
@pytest.mark.parametrize("name", _first(RANGES, "ocp_e4m3", "uint8"))
def test_gradient_is_one_inside_the_range_and_zero_outside(name, mode):
    key = jax.random.key(0) if mode.startswith("stochastic") else None

    def total(x):
        return jnp.sum(qsim.quantize(x, name, rounding=mode, key=key))

    expected = inside(X, parse(name)).astype(np.float32)
    assert same_bytes(jax.grad(total)(X), expected)
    assert same_bytes(jax.jit(jax.grad(total))(X), expected)


def test_gradient_is_one_everywhere_by_choice():
    x = X.at[0, 0].set(jnp.inf)
    gradient = jax.grad(lambda x: jnp.sum(qsim.quantize(x, "ocp_e2m1", gradient="identity")))(x)
    assert same_bytes(gradient, np.ones(X.shape, np.float32))


@pytest.mark.t1
def test_gradients_are_never_nan():
    """Also where the input or the result is NaN or infinite."""
    for policy in POLICIES:
        for choice in ("clipped", "identity"):
            pulled = jax.vjp(
                lambda x, p=policy, c=choice: qsim.quantize(x, "e4m3fn", overflow=p, gradient=c), X
            )[1](jnp.ones_like(X))
            assert not jnp.isnan(pulled[0]).any()


@pytest.mark.t1
def test_gradient_under_vmap_of_formats_equals_each_alone():
    def slope(x, grid):
        return jax.grad(lambda x: jnp.sum(qsim.quantize(x, grid)))(x)

    batch = jax.vmap(slope, in_axes=(None, 0))(X, STACK)
    assert same_bytes(batch[::16], jnp.stack([slope(X, lower(fmt)) for fmt in FORMATS[::16]]))
    summed = jax.grad(lambda x: jnp.sum(qsim.quantize(x, STACK)))(X)
    assert same_bytes(summed, batch.sum(0))


@pytest.mark.t1
def test_forward_and_second_derivatives():
    x = jnp.array([0.3, 1.2, 700.0])
    value, slope = jax.jvp(lambda x: qsim.quantize(x, "ocp_e4m3"), (x,), (jnp.full(3, 2.0),))
    assert value.tolist() == [0.3125, 1.25, 448.0] and slope.tolist() == [2.0, 2.0, 0.0]
    assert (
        jax.hessian(lambda x: jnp.sum(qsim.quantize(x, "ocp_e4m3")))(x).tolist() == [[0.0] * 3] * 3
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_keep_the_dtype(dtype):
    x = jnp.array([0.3, 700.0], dtype)
    gradient = jax.grad(lambda x: jnp.sum(qsim.quantize(x, "ocp_e4m3")))(x)
    assert gradient.dtype == dtype and gradient.tolist() == [1.0, 0.0]


# --- strict promotion -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", _first(["ties_to_even", "to_odd", "stochastic_equal"], "to_odd"))
def test_strict_dtype_promotion_and_no_rank_promotion(mode):
    key = jax.random.key(0) if mode.startswith("stochastic") else None
    plain = qsim.quantize(X, "ocp_e4m3", rounding=mode, key=key)
    stacked = qsim.quantize(X, STACK, rounding=mode, key=key)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert same_bytes(plain, qsim.quantize(X, "ocp_e4m3", rounding=mode, key=key))
        assert same_bytes(stacked, qsim.quantize(X, STACK, rounding=mode, key=key))
        jax.grad(lambda x: qsim.quantize(x, STACK, rounding=mode, key=key).sum())(X)
        for policy in POLICIES:
            jax.jit(rounds(mode, policy))(X, lower(FORMATS[0]))


@pytest.mark.parametrize("name", _first(["ocp_e4m3", "int8", "ocp_e8m0", "e4m3fnuz"], "int8"))
def test_codes_under_strict_promotion(name):
    x = jnp.nan_to_num(X)
    codes = qsim.encode(x, name)
    values = qsim.decode(codes, name)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        assert same_bytes(codes, qsim.encode(x, name))
        assert same_bytes(values, qsim.decode(codes, name))
        assert qsim.quantize(x.astype(jnp.bfloat16), name).dtype == jnp.bfloat16
