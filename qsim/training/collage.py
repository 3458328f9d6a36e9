"""Collage: AdamW in one narrow format, whose parameters are pairs of numbers of that format.

Three variants, every operation of which is rounded once to the format:

- ``"plain"``: no pairs. An update below half a unit in the last place is lost;
- ``"light"``: the parameters are pairs, to which updates are added by ``grow``;
- ``"plus"``: the second moment and its decay are pairs too. In bfloat16 0.999 is 1, and as a pair
  it is (1, -0.00099945068359375).

Pairs are those of ``qsim.training.components``.

Source: T. Yu et al., Collage: Light-weight low-precision strategy for LLM training,
arXiv:2405.03637, 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from qsim.arithmetic.elementwise import add, divide, multiply, sqrt
from qsim.arithmetic.error_free import grow
from qsim.arithmetic.room import require_room
from qsim.numbers.formats import Format
from qsim.numbers.grid import CARRIERS, Grid
from qsim.numbers.modes import Rounding, require_one_of
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.records import require
from qsim.numbers.rounding import quantize, require_float, widen
from qsim.numbers.specs import format_of
from qsim.training.components import Pair, pair_of, product
from qsim.training.scaled_rounding import as_grid

__all__ = ["VARIANTS", "CollageState", "collage", "realised"]

VARIANTS = {
    "plain": "no pairs",
    "light": "pairs of parameters",
    "plus": "pairs of parameters, of second moments and of their decay",
}


class CollageState(NamedTuple):
    """The state of ``collage``, all of whose arrays hold numbers of the format.

    Attributes:
        count: int32 of shape ``[]``, steps done.
        value, residue: the parameters; the residues stay zero in the variant ``"plain"``.
        mu: the first moments.
        nu, nu_residue: the second moments; their residues stay zero but in the variant ``"plus"``.
        intended: the updates of the last step, before they were added.
    """

    count: Any
    value: Any
    residue: Any
    mu: Any
    nu: Any
    nu_residue: Any
    intended: Any


def collage(
    learning_rate: float | Callable,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    variant: str = "plus",
    fmt: str | Format | Grid = "bfloat16",
) -> optax.GradientTransformation:
    """AdamW with every operation rounded to one format, the parameters being pairs.

    Args:
        learning_rate: a number, or a function of the number of steps done.
        b1, b2, eps, weight_decay: as for ``optax.adamw``; they are rounded to the format, as are
            ``1 - b`` and the corrections of bias ``1 - b**t``.
        variant: a key of ``VARIANTS``.
        fmt: a spec string, a ``Format`` or a single ``Grid``, of at most 22 bits of precision.

    ``init`` takes float32 parameters. ``state.value`` are those of the next step; updates lead to
    them from the parameters that ``update`` is given, or from those before.

    Raises:
        ValueError: for an unknown variant, decays outside 0..1, or as ``qsim.arithmetic.add``.

    >>> optimizer = collage(2.0**-10)
    >>> state = optimizer.init(jnp.ones(1))
    >>> for _ in range(3):  # below 1 numbers are 2^-8 apart
    ...     updates, state = optimizer.update(jnp.ones(1), state)
    ...     print(state.value.tolist(), state.residue.tolist())
    [1.0] [-0.0009765625]
    [1.0] [-0.001953125]
    [0.99609375] [0.0009765625]
    """
    require_one_of("variant", variant, VARIANTS)
    for name, decay in (("b1", b1), ("b2", b2)):
        require(0 <= decay < 1, f"{name} is a decay in 0 <= {name} < 1, got {decay}: try 0.9")
    if not isinstance(fmt, Grid):
        require_room(format_of(fmt), Rounding("ties_to_even"), CARRIERS["float32"])
    facts = {"b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay, "variant": variant}
    adam = _AdamW(grid=as_grid(fmt), **facts)

    def init(params: Any) -> CollageState:
        numbers, tree_of = _flat(params)
        value, residue = pair_of(numbers, fmt)
        zeros = tree_of(jnp.zeros_like(value))
        residue = zeros if variant == "plain" else tree_of(residue)
        return CollageState(jnp.int32(0), tree_of(value), residue, zeros, zeros, zeros, zeros)

    def update(gradients: Any, state: CollageState, params: Any = None) -> tuple[Any, CollageState]:
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        count, (slopes, tree_of) = state.count + 1, _flat(gradients)
        kept = (state.value, state.residue, state.mu, state.nu, state.nu_residue)
        parts = adam.step(jnp.float32(rate), count, slopes, *(_flat(tree)[0] for tree in kept))
        new = CollageState(count, *map(tree_of, parts))
        before = state.value if params is None else params
        return jax.tree.map(jnp.subtract, new.value, before), new

    return optax.GradientTransformation(init, update)


def realised(before: CollageState, after: CollageState) -> PyTree:
    """By how much the pairs of parameters differ from one state to another, in float32.

    >>> optimizer = collage(2.0**-10)
    >>> state = optimizer.init(jnp.ones(1))
    >>> realised(state, optimizer.update(jnp.ones(1), state)[1]).tolist()
    [-0.0009765625]
    """

    def difference(value: Array, old: Array, residue: Array, old_residue: Array) -> Array:
        return (value - old) + (residue - old_residue)

    return jax.tree.map(difference, after.value, before.value, after.residue, before.residue)


def _flat(tree: Any) -> tuple[Array, Callable]:
    """All numbers in one array, and the way back: what is compiled is then compiled once."""
    return ravel_pytree(jax.tree.map(lambda leaf: widen(require_float(leaf)), tree))


@pytree
@dataclass(frozen=True, kw_only=True)
class _AdamW:
    """One step of AdamW in a format."""

    grid: Grid
    b1: float = static()
    b2: float = static()
    eps: float = static()
    weight_decay: float = static()
    variant: str = static()

    @jax.jit
    def step(self, rate, count, gradient, value, residue, mu, nu, nu_residue) -> tuple:
        """The parts of the next state, and the update that was added, of all parameters."""
        plus, times, over, root, grown = (
            self._once(count > 0, f) for f in (add, multiply, divide, sqrt, grow)
        )
        g = quantize(gradient, self.grid)
        mu = plus(times(self._constant(self.b1), mu), times(self._constant(1 - self.b1), g))
        square = times(self._constant(1 - self.b2), times(g, g))
        if self.variant == "plus":
            decay = pair_of(jnp.float32(self.b2), self.grid)
            nu, nu_residue = self._once(count > 0, product)(Pair(nu, nu_residue), decay)
            nu, nu_residue = grown(nu, nu_residue, square)
        else:
            nu = plus(times(self._constant(self.b2), nu), square)
        spread = root(over(nu, self._debias(self.b2, count)))
        ratio = over(over(mu, self._debias(self.b1, count)), plus(spread, self._constant(self.eps)))
        if self.weight_decay:
            ratio = plus(ratio, times(self._constant(self.weight_decay), value))
        change = times(-self._constant(rate), ratio)
        if self.variant == "plain":
            return plus(value, change), residue, mu, nu, nu_residue, change
        return *grown(value, residue, change), mu, nu, nu_residue, change

    def _once(self, always: Array, operation: Callable) -> Callable:
        """An operation to the format, whose result is computed once, however many use it.

        XLA on CPUs copies what is cheap into all that use it, and compiles pairs of pairs for
        minutes; it leaves the branches of a condition alone.
        """
        rounded = partial(operation, fmt=self.grid)

        def computed(*operands: Any) -> Any:
            shapes = jax.eval_shape(rounded, *operands)
            never = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
            return lax.cond(always, rounded, lambda *_: never, *operands)

        return computed

    def _debias(self, decay: float, count: Array) -> Array:
        steps = count.astype(jnp.float32)
        return self._constant(-jnp.expm1(steps * jnp.log(jnp.float32(decay))))

    def _constant(self, x: float | Array) -> Array:
        return quantize(jnp.asarray(x, jnp.float32), self.grid)
