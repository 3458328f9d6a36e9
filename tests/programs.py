"""Models and programs for tests of the transformation: real layers, every kind of operation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx
from jax import lax


class Program(NamedTuple):
    """A function and its arguments, the first of which are parameters."""

    fn: Callable
    arguments: tuple


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


# --- models -------------------------------------------------------------------------------------


class Layer(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x, _):
        y = nn.Dropout(0.3, deterministic=not self.train)(nn.gelu(nn.Dense(8, name="up")(x)))
        return nn.BatchNorm(use_running_average=not self.train)(x + y), None


class Deep(nn.Module):
    """Dropout, batch statistics and a scan over layers, in Linen."""

    train: bool = True

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            Layer,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True, "dropout": True},
            length=3,
        )
        return nn.Dense(2, name="out")(layers(self.train, name="layers")(x, None)[0])


def linen() -> Program:
    x = normal(0, 5, 8)
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    variables = Deep().init(keys, x)

    def apply(variables, x):
        return Deep().apply(
            variables, x, rngs={"dropout": jax.random.key(3)}, mutable=["batch_stats"]
        )

    return Program(apply, (variables, x))


class Graph(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs: nnx.Rngs):
        self.up = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)

    def __call__(self, x):
        return self.norm(x + self.drop(nnx.gelu(self.up(x))))


def graph() -> Program:
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(key):
        return Graph(nnx.Rngs(key))

    definition, params, rest = nnx.split(
        make(jax.random.split(jax.random.key(0), 3)), nnx.Param, ...
    )

    def apply(params, rest, x):
        def layer(x, parts):
            module = nnx.merge(definition, *parts)
            y = module(x)
            return y, nnx.split(module, nnx.Param, ...)[2]

        return lax.scan(layer, x, (params, rest))

    return Program(apply, (params, rest, normal(1, 5, 8)))


def mlp() -> Program:
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="down")(nn.tanh(nn.Dense(16, name="up")(x)))

    x = normal(1, 6, 8)
    return Program(MLP().apply, (MLP().init(jax.random.key(0), x), x))


def training() -> Program:
    model, (variables, x) = mlp()
    optimizer = optax.adam(1e-2)

    def step(variables, state, x):
        loss, slope = jax.value_and_grad(lambda v: jnp.mean(model(v, x) ** 2))(variables)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(slope, state, variables)
        return optax.apply_updates(variables, updates), state, loss

    return Program(step, (variables, optimizer.init(variables), x))


class UNetBlock(nn.Module):
    """A step down, attention, and a step up with a skip connection, as in diffusion models."""

    @nn.compact
    def __call__(self, image, time):
        shift = nn.Dense(8, name="time")(nn.silu(time))[:, None, None]
        x = nn.silu(nn.GroupNorm(2)(nn.Conv(8, (3, 3), name="in")(image))) + shift
        low = nn.Conv(8, (3, 3), strides=2, feature_group_count=2, name="down")(x)
        flat = low.reshape(low.shape[0], -1, 8)
        low = low + nn.MultiHeadDotProductAttention(2, name="attention")(flat).reshape(low.shape)
        up = nn.ConvTranspose(8, (2, 2), strides=(2, 2), name="up")(low)
        return nn.Conv(3, (3, 3), kernel_dilation=2, name="out")(jnp.concatenate([x, up], -1))


def unet() -> Program:
    image, time = normal(0, 2, 8, 8, 3), normal(1, 2, 4)
    variables = UNetBlock().init(jax.random.key(2), image, time)
    return Program(UNetBlock().apply, (variables, image, time))


def lstm() -> Program:
    model, x = nn.RNN(nn.OptimizedLSTMCell(6)), normal(0, 2, 5, 4)
    return Program(model.apply, (model.init(jax.random.key(1), x), x))


def mixture() -> Program:
    """A mixture of experts: each token goes to the expert that a router likes best."""

    def apply(params, x):
        expert = jnp.argmax(x @ params["router"], axis=-1)
        order = jnp.argsort(expert)
        sizes = jnp.bincount(expert, length=3).astype(jnp.int32)
        hidden = nn.relu(lax.ragged_dot(x[order], params["up"], sizes))
        out = lax.ragged_dot(hidden, params["down"], sizes)
        return jnp.zeros_like(out).at[order].set(out)

    params = {"router": normal(0, 4, 3), "up": normal(1, 3, 4, 6), "down": normal(2, 3, 6, 4)}
    return Program(apply, (params, normal(3, 7, 4)))


def attention() -> Program:
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            mask = nn.make_causal_mask(jnp.ones(x.shape[:2]))
            return x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)

    x = normal(1, 2, 6, 8)
    return Program(Attention().apply, (Attention().init(jax.random.key(0), x), x))


MODELS = {fn.__name__: fn for fn in (mlp, attention, linen, graph, training, unet, lstm, mixture)}

# --- operations ---------------------------------------------------------------------------------

SHAPE = (4, 6)


def _unit(x):
    """Into (0, 1), without an operation that has to be exact."""
    return jnp.where(jnp.abs(x) < 1, jnp.abs(x), 1 / jnp.maximum(jnp.abs(x), 1)) * 0.75 + 0.125


def _loop(x, y):
    def unfinished(state):
        return state[0] < 3

    return lax.while_loop(unfinished, lambda s: (s[0] + 1, s[1] * y + 0.5), (0, x))[1]


@jax.custom_vjp
def _with_rule(x):
    return jnp.sin(x) * 2


_with_rule.defvjp(lambda x: (_with_rule(x), x), lambda x, g: (g * 2 * jnp.cos(x),))


@jax.custom_jvp
def _with_slope(x):
    return jnp.exp(-x * x)


_with_slope.defjvps(lambda t, y, x: -2 * x * y * t)

WINDOW = {"window_dimensions": (1, 3), "window_strides": (1, 1), "padding": "SAME"}
IMAGE = ("NHWC", "HWIO", "NHWC")


def _convolved(x, y):
    kernel = y.ravel()[:18].reshape(3, 3, 1, 2)
    return lax.conv_general_dilated(
        x[None, :, :, None], kernel, (1, 1), "SAME", rhs_dilation=(2, 1), dimension_numbers=IMAGE
    )[0, ..., 0]


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    # elementwise
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": lambda x, y: lax.div(x, y + 3),
    "rem": lambda x, y: lax.rem(x, jnp.abs(y) + 1),
    "integer_pow": lambda x, y: lax.integer_pow(x, 3),
    "square": lambda x, y: lax.square(x),
    "sqrt": lambda x, y: lax.sqrt(jnp.abs(x)),
    "floor": lambda x, y: lax.floor(x),
    "ceil": lambda x, y: lax.ceil(x),
    "round": lambda x, y: lax.round(x),
    "sign": lambda x, y: lax.sign(x),
    "nextafter": lax.nextafter,
    # functions
    **{
        name: lambda x, y, fn=getattr(lax, name): fn(x)
        for name in (
            *("atan", "asinh", "bessel_i0e", "bessel_i1e", "cbrt", "cos", "erf", "erfc", "exp"),
            *("exp2", "expm1", "logistic", "sin", "tan", "tanh", "sinh", "cosh"),
        )
    },
    **{
        name: lambda x, y, fn=getattr(lax, name): fn(_unit(x))
        for name in (
            *("acos", "asin", "atanh", "digamma", "erf_inv", "lgamma", "log", "log1p", "rsqrt"),
        )
    },
    "acosh": lambda x, y: lax.acosh(1 + _unit(x)),
    "atan2": lax.atan2,
    "pow": lambda x, y: lax.pow(_unit(x), y),
    "igamma": lambda x, y: lax.igamma(_unit(x), _unit(y)),
    "igammac": lambda x, y: lax.igammac(_unit(x), _unit(y)),
    "igamma_grad_a": lambda x, y: lax.igamma_grad_a(_unit(x), _unit(y)),
    "regularized_incomplete_beta": lambda x, y: lax.betainc(_unit(x), _unit(y), _unit(x)),
    "polygamma": lambda x, y: lax.polygamma(jnp.ones_like(x), _unit(x)),
    "zeta": lambda x, y: lax.zeta(1 + _unit(x), _unit(y)),
    # reductions
    "reduce_sum": lambda x, y: x.sum(0) + y,
    "reduce_prod": lambda x, y: x.prod(1, keepdims=True) + y,
    "reduce": lambda x, y: lax.reduce(x, jnp.float32(0), lambda a, b: a + jnp.sin(b), (0,)) + y,
    "cumsum": lambda x, y: lax.cumsum(x, 1),
    "cumprod": lambda x, y: lax.cumprod(x, 1),
    "cumlogsumexp": lambda x, y: lax.cumlogsumexp(x, 1),
    "reduce_window_sum": lambda x, y: lax.reduce_window(x, 0.0, lax.add, **WINDOW),
    "reduce_window": lambda x, y: lax.reduce_window(
        x, jnp.float32(0), lambda a, b: a + 0.5 * b, **WINDOW
    ),
    "scatter-add": lambda x, y: x.at[jnp.array([0, 2, 0])].add(y[:3]),
    "scatter-mul": lambda x, y: x.at[jnp.array([1, 3])].multiply(y[:2]),
    "scatter-sub": lambda x, y: x.at[jnp.array([1, 3])].subtract(y[:2]),
    "select_and_scatter_add": lambda x, y: jax.grad(
        lambda x: (lax.reduce_window(x, -jnp.inf, lax.max, **WINDOW) * y).sum()
    )(x),
    # contractions
    "dot_general": lambda x, y: jnp.dot(x, jnp.dot(y.T, x)),
    "conv_general_dilated": _convolved,
    "ragged_dot_general": lambda x, y: lax.ragged_dot(
        x, jnp.stack([y.T @ y, y.T @ x]), jnp.array([1, 3], jnp.int32)
    ),
    # movement, comparisons, bits
    "abs": lambda x, y: jnp.abs(x),
    "neg": lambda x, y: -x,
    "max": jnp.maximum,
    "clamp": lambda x, y: lax.clamp(-1.0, x, 1.0),
    "select_n": lambda x, y: jnp.where(x > y, x, y),
    "sort": lambda x, y: lax.sort(x, dimension=1),
    "sort with others": lambda x, y: lax.sort((x, y), dimension=0, num_keys=1)[1],
    "top_k": lambda x, y: jnp.tile(lax.top_k(x, 2)[0], 3),
    "gather": lambda x, y: x[jnp.array([3, 1, 0, 0])],
    "scatter": lambda x, y: x.at[jnp.array([1, 2])].set(y[:2]),
    "dynamic_slice": lambda x, y: jnp.tile(lax.dynamic_slice(x, (1, 2), (2, 3)), (2, 2)),
    "dynamic_update_slice": lambda x, y: lax.dynamic_update_slice(x, y[:2, :2], (1, 1)),
    "concatenate": lambda x, y: jnp.concatenate([x[:2], y[2:]]),
    "pad": lambda x, y: lax.pad(x[1:], jnp.float32(0.3), ((0, 1, 0), (0, 0, 0))),
    "rev": lambda x, y: lax.rev(x, (0,)),
    "transpose": lambda x, y: x.T.reshape(SHAPE),
    "cummax": lambda x, y: lax.cummax(x, 0),
    "argmax": lambda x, y: x + jnp.argmax(y, axis=1, keepdims=True).astype(jnp.float32),
    "bits": lambda x, y: lax.bitcast_convert_type(
        lax.bitcast_convert_type(x, jnp.uint32) ^ jnp.uint32(1), jnp.float32
    ),
    "reduce_precision": lambda x, y: lax.reduce_precision(x, 8, 10),
    "random": lambda x, y: x + jax.random.uniform(jax.random.key(0), SHAPE),
    # structure
    "jit": lambda x, y: jax.jit(lambda x: x * y + 1)(x),
    "scan": lambda x, y: lax.scan(lambda c, r: (c * 0.5 + r, c * r), x[0], y)[1],
    "while": _loop,
    "cond": lambda x, y: lax.cond(x[0, 0] > 0, lambda x: x * y, lambda x: x - y, x),
    "remat": jax.checkpoint(lambda x, y: jnp.sin(x) * y),
    "solve": lambda x, y: jnp.linalg.solve(x[:, :4] + 9 * jnp.eye(4), y),
    "vmap": lambda x, y: jax.vmap(lambda a, b: a * b.sum() + b)(x, y),
    "custom_vjp": lambda x, y: _with_rule(x) + y,
    "custom_jvp": lambda x, y: _with_slope(x) * y,
    "grad": lambda x, y: jax.grad(lambda x: (jnp.tanh(x) * y).sum())(x),
    "softmax": lambda x, y: jax.nn.softmax(x) * y,
    "var": lambda x, y: (x - x.mean(1, keepdims=True)) / jnp.sqrt(x.var(1, keepdims=True) + 0.1),
}


def composed(steps: list[tuple[str, int, int]]) -> Callable:
    """A program of operations, each on two of the values before it; two inputs."""

    def fn(x, y):
        values = [x, y]
        for name, a, b in steps:
            value = OPERATIONS[name](values[a % len(values)], values[b % len(values)])
            values.append(jnp.nan_to_num(value, nan=0.5, posinf=2.0, neginf=-2.0))
        return values[-1], values[-2]

    return fn
