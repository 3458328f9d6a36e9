"""The transformation: a function whose contractions compute on emulated formats.

The function is traced, and its jaxpr evaluated again with every contraction's operands rounded
before it and its result after it. Equations in which nothing changes are run as they are, so
that their derivative rules, names and compilation stay what they were.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax

from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.random_bits import Key, fold_in
from qsim.simulate.flow import Flow, input_flows, join_scopes, nothing, output_flows, settle, walk
from qsim.simulate.jaxprs import (
    STRUCTURED,
    ClosedJaxpr,
    JaxprEqn,
    Literal,
    bind,
    inner_jaxprs,
    place,
    rebuild,
    regions,
    scope,
    trace,
)
from qsim.simulate.policy import Policy, Quantizer, as_policy, site_key
from qsim.simulate.sites import CONTRACTIONS, UNKNOWN_CONTRACTIONS, contracted_axes, site_path

__all__ = ["simulate"]


def simulate(
    fn: Callable,
    policy: Policy | str | Format | Grid | None,
    *,
    params: int | Sequence[int] | None = None,
    key: Key | None = None,
) -> Callable:
    """A function like ``fn`` in which contractions compute on the formats of a policy.

    Every ``dot_general`` and ``conv_general_dilated`` of the program gets operands rounded by the
    policy's quantizer for their role, and its result is rounded by the one for outputs. Products
    are summed in float32 (in float64 for float64), at the highest precision of the back end. It
    reaches into ``jit``, ``custom_jvp``, ``custom_vjp``, ``remat``, ``scan``, ``while`` and
    ``cond``, and composes with ``jit``, ``vmap`` and ``grad`` in either order.

    Args:
        fn: any JAX function: a Flax ``apply``, a loss, the gradient of a loss.
        policy: from ``qsim.policy``; a format or its spec string stands for that format on
            weights and activations; None changes nothing.
        params: positions of the arguments that hold parameters, whose operands are *weights*. By
            default the first argument, if it is a container; captured arrays always are.
        key: random key for stochastic rounding, of ``jax.random.key`` or ``qsim.counter_key``,
            folded by site, operand and loop iteration.

    Gradients are straight-through; see ``gradient`` of ``qsim.policy``. A derivative rule of the
    user's own (``custom_jvp``, ``custom_vjp``) stays in force as it was written, for the function
    without rounding. Integer contractions are exact and stay as they are.

    Raises:
        TypeError: if ``policy`` is neither a policy nor a format.
        ValueError: for an unknown format name.
        NotImplementedError: for complex contractions, and for contractions by or inside a
            primitive that is not known here.

    >>> import jax.numpy as jnp
    >>> dot = lambda p, x: x @ p["w"]
    >>> simulate(dot, "e2m1f")({"w": jnp.array([[0.8]])}, jnp.array([[3.3]])).tolist()
    [[3.0]]
    """
    chosen = as_policy(policy)

    @functools.wraps(fn)
    def simulated(*args, **kwargs):
        traced = trace(fn, args, kwargs)
        flows = input_flows(traced, params)
        context = _Context(chosen, key, _site_numbers(traced.jaxpr, flows))
        arrays = [jnp.asarray(array) for array in traced.arrays]
        results = _evaluate(context, traced.jaxpr, flows, arrays, "")
        return jax.tree.unflatten(traced.out_tree, results)

    return simulated


@dataclass(frozen=True)
class _Context:
    """What stays the same through an evaluation.

    Attributes:
        policy: who gets what.
        key: the random key, already folded by the iterations of the loops around.
        numbers: for every contraction, by the identity of its equation, how many of the same
            path come before it in the program: an equation may be evaluated more than once.
    """

    policy: Policy
    key: Key | None
    numbers: dict[int, int]


def _site_numbers(jaxpr: ClosedJaxpr, flows: list[Flow]) -> dict[int, int]:
    """The number of every contraction among those of its path, in program order."""
    counts: dict[str, int] = {}
    numbers: dict[int, int] = {}

    def visit(eqn: JaxprEqn, path: str, repeats: int, flows: list[Flow]) -> None:
        if eqn.primitive.name in CONTRACTIONS:
            name = site_path(path, flows)
            numbers[id(eqn)] = counts.get(name, 0)
            counts[name] = numbers[id(eqn)] + 1

    walk(jaxpr, flows, visit)
    return numbers


def _evaluate(context: _Context, jaxpr: ClosedJaxpr, flows, values, prefix: str) -> list:
    """The outputs of a jaxpr at values whose origins are ``flows``."""
    inner = jaxpr.jaxpr
    known = dict(zip(inner.invars, zip(values, flows, strict=True), strict=True))
    known.update(
        {
            var: (const, Flow("weight"))
            for var, const in zip(inner.constvars, jaxpr.consts, strict=True)
        }
    )

    def read(atom):
        return (atom.val, Flow()) if isinstance(atom, Literal) else known[atom]

    for eqn in inner.eqns:
        inputs, origins = zip(*map(read, eqn.invars), strict=True) if eqn.invars else ((), ())
        results = _equation(context, eqn, list(inputs), list(origins), prefix)
        outputs = output_flows(eqn, list(origins), nothing)
        known.update(zip(eqn.outvars, zip(results, outputs, strict=True), strict=True))
    return [read(atom)[0] for atom in inner.outvars]


def _equation(context: _Context, eqn: JaxprEqn, values, flows, prefix: str) -> list:
    """The results of one equation, contractions in it simulated."""
    path = join_scopes(prefix, scope(eqn))
    if eqn.primitive.name in CONTRACTIONS:
        return [_contraction(context, eqn, values, flows, path)]
    if eqn.primitive.name in UNKNOWN_CONTRACTIONS and context.policy != Policy():
        raise NotImplementedError(
            f"{eqn.primitive.name} at {place(eqn)} is a contraction that qsim cannot round yet; "
            f"write it with {' or '.join(CONTRACTIONS)}"
        )
    if not any(map(_contracts, inner_jaxprs(eqn))):
        return bind(eqn, values)
    if eqn.primitive.name not in STRUCTURED:
        raise NotImplementedError(
            f"{eqn.primitive.name} at {place(eqn)} holds contractions, and qsim does not know how "
            f"to enter it; known are {', '.join(STRUCTURED)}: write it with those, or simulate "
            "the function inside it"
        )
    inner = regions(eqn)
    starts = [settle(region, flows) for region in inner]

    def run(state, number: int, step, *inputs):
        policy, key = state
        key = key if step is None else fold_in(key, step)
        inside = replace(context, policy=policy, key=key)
        return _evaluate(inside, inner[number].jaxpr, starts[number], inputs, path)

    state = (context.policy, context.key)
    return rebuild(eqn, values, run, state, context.key is not None)


def _contracts(jaxpr) -> bool:
    """Whether a jaxpr holds a contraction, at any depth."""
    eqns = jaxpr.jaxpr.eqns if isinstance(jaxpr, ClosedJaxpr) else jaxpr.eqns
    return any(
        eqn.primitive.name in (*CONTRACTIONS, *UNKNOWN_CONTRACTIONS)
        or any(map(_contracts, inner_jaxprs(eqn)))
        for eqn in eqns
    )


def _contraction(context: _Context, eqn: JaxprEqn, values, flows, path: str):
    """One contraction: operands rounded, multiplied and summed in the carrier, result rounded."""
    policy, result = context.policy, eqn.outvars[0].aval
    chosen = [_quantizer(policy, flow) for flow in flows[:2]]
    if not any((*chosen, policy.outputs)) or jnp.issubdtype(result.dtype, jnp.integer):
        return bind(eqn, values)[0]
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise NotImplementedError(
            f"{eqn.primitive.name} at {place(eqn)} has {result.dtype} numbers, which qsim cannot "
            "round; write it with real and imaginary parts"
        )
    name = site_path(path, flows)
    where = (name, context.numbers[id(eqn)])
    operands = [
        value if quantizer is None else quantizer(value, site_key(context.key, *where, n), axes)
        for n, (value, quantizer, axes) in enumerate(
            zip(values, chosen, contracted_axes(eqn), strict=True)
        )
    ]
    widest = functools.reduce(jnp.promote_types, [value.dtype for value in operands])
    operands = [value.astype(widest) for value in operands]
    with jax.named_scope(name) if name else jax.named_scope(eqn.primitive.name):
        total = bind(eqn, operands, **_summed_in(eqn, widest))[0]
        if policy.outputs is not None:
            total = policy.outputs(total, site_key(context.key, *where, "output"))
        return total.astype(result.dtype)


def _quantizer(policy: Policy, flow: Flow) -> Quantizer | None:
    """A constant operand is nobody's weight, but hardware would hold it as it holds weights."""
    return policy.activations if flow.role == "activation" else policy.weights


def _summed_in(eqn: JaxprEqn, dtype) -> dict:
    """The parameters that keep a contraction from computing in less than float32."""
    changed = {"preferred_element_type": jnp.promote_types(dtype, jnp.float32)}
    if eqn.params.get("precision") in (None, (lax.Precision.DEFAULT, lax.Precision.DEFAULT)):
        changed["precision"] = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    return changed
