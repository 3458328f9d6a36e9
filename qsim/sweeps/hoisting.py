"""Work that no policy touches, done once for all of them.

A function of a row and of arrays is traced, and every equation whose inputs depend on the arrays
alone runs early, before the loop over rows. Of a scan, such as that over batches, what its body
computes of the arrays alone becomes a scan of its own, whose results the other one takes slice by
slice. An early equation computes what it would compute in its place; but native float sums, fused
with other neighbours, may take another order.

In a study of one layer at a time the layers below are such work, and so are the float32 answers'
probabilities wherever answers are compared with them.
"""

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from qsim.simulate.jaxprs import Jaxpr, JaxprEqn, Literal, Var, bind

__all__ = ["Hoisted", "hoist"]

SMALL = 2**26  # bytes that may be kept whatever the arguments
Environment = dict[Var, Any]
# what is sooner done again than its results kept
CHEAP = {
    *("broadcast_in_dim", "iota", "reshape", "transpose", "squeeze", "slice", "rev"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select_n", "convert_element_type"),
    *("add", "sub", "mul", "neg", "stop_gradient", "copy"),
}


@dataclass(frozen=True)
class Hoisted:
    """A function of a row and of arrays, in two parts.

    Attributes:
        early: a function of the arrays, whose results ``late`` needs.
        late: a function of a row, the arrays and these results, which gives those of the function.
    """

    early: Callable[[Any], Any]
    late: Callable[[Any, Any, Any], Any]


def hoist(fn: Callable, row: Any, arrays: Any) -> Hoisted:
    """``fn(row, arrays)`` in two parts, traced once.

    Where the early part would hand over more than the largest of the arrays, and than ``SMALL``,
    it is empty.

    >>> import jax.numpy as jnp
    >>> parts = hoist(lambda row, x: jnp.exp(x).sum() * row, jnp.float32(2), jnp.zeros(3))
    >>> kept = parts.early(jnp.zeros(3))
    >>> [leaf.tolist() for leaf in jax.tree.leaves(kept)]
    [3.0]
    >>> float(parts.late(jnp.float32(5), jnp.zeros(3), kept))
    15.0
    """
    closed, shape = jax.make_jaxpr(fn, return_shape=True)(row, arrays)
    rows, held = len(jax.tree.leaves(row)), len(jax.tree.leaves(arrays))
    wanted = [True] * len(closed.jaxpr.outvars)
    given = closed.jaxpr.invars[rows:]
    part = _parted(closed.jaxpr, [False] * rows + [True] * held, given, wanted)
    if _kept_bytes(part) > max([SMALL, *map(_bytes, given)]):
        part = _all_late(closed.jaxpr)
    constants = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))

    def early(arrays: Any) -> Any:
        known = dict(zip(closed.jaxpr.invars[rows:], jax.tree.leaves(arrays), strict=True))
        return _early(part, {**constants, **known})[1]

    def late(row: Any, arrays: Any, kept: Any) -> Any:
        leaves = jax.tree.leaves((row, arrays))
        known = dict(zip(closed.jaxpr.invars, leaves, strict=True))
        results = _late(part, {**constants, **known}, kept)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return Hoisted(early, late)


# --- which equations are early --------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """A jaxpr whose equations are early, late, or scans that are both.

    Attributes:
        known: variables that early equations have.
        early: the places of equations.
        again: of those among them that the late part runs again.
        scans: the places of scans that are both, and their parts.
        gives: the results of the late part.
        needs: variables that the late part reads.
        kept: those of them that the early part hands over; the others are given to the late one.
    """

    jaxpr: Jaxpr
    known: Set[Var]
    early: Set[int]
    again: Set[int]
    scans: Mapping[int, "_Scan"]
    gives: Sequence[Any]
    needs: Set[Var]
    kept: Sequence[Var]


@dataclass(frozen=True)
class _Scan:
    """A scan of which a part is early.

    Attributes:
        eqn: the equation.
        body: the part of its body.
        carried, stacked: which of its final and of its stacked results are early.
    """

    eqn: JaxprEqn
    body: _Part
    carried: Sequence[bool]
    stacked: Sequence[bool]

    def split(self, values: Sequence[Any]) -> tuple[list, list, list]:
        """What the equation has for each of its inputs: constants, initial and scanned values."""
        fixed = self.eqn.params["num_consts"]
        start = fixed + self.eqn.params["num_carry"]
        return list(values[:fixed]), list(values[fixed:start]), list(values[start:])

    @property
    def reads(self) -> list[Any]:
        """The inputs of the equation that its late part reads."""
        inner, outer = self.split(self.body.jaxpr.invars), self.split(self.eqn.invars)
        initial = [var for var, early in zip(outer[1], self.carried, strict=True) if not early]
        pairs = [*zip(inner[0], outer[0], strict=True), *zip(inner[2], outer[2], strict=True)]
        return [*initial, *(var for own, var in pairs if own in self.body.needs)]

    @property
    def results(self) -> list[bool]:
        """Which of its results are early."""
        return [*self.carried, *self.stacked]


def _all_late(jaxpr: Jaxpr) -> _Part:
    return _Part(jaxpr, set(), set(), set(), {}, jaxpr.outvars, set(), [])


def _parted(
    jaxpr: Jaxpr, early: Sequence[bool], given: Sequence[Var], wanted: Sequence[bool]
) -> _Part:
    """The parts of a jaxpr.

    Args:
        jaxpr: the jaxpr.
        early: which of its inputs are known early.
        given: early inputs that the late part is given too.
        wanted: which results the late part gives, early or not, besides those that are late.
    """
    free = {*given, *jaxpr.constvars}  # what the late part has without being handed it
    known = {*jaxpr.constvars, *(var for var, k in zip(jaxpr.invars, early, strict=True) if k)}
    places, again, scans = set(), set(), {}
    for place, eqn in enumerate(jaxpr.eqns):
        flags = [_among(known, each) for each in eqn.invars]
        if all(flags) and not eqn.effects:
            places.add(place)
            known.update(eqn.outvars)
            if eqn.primitive.name in CHEAP and all(_among(free, each) for each in eqn.invars):
                again.add(place)
                free.update(eqn.outvars)
        elif eqn.primitive.name == "scan" and not eqn.effects:
            scans[place] = scan = _scan(eqn, flags)
            known.update(var for var, k in zip(eqn.outvars, scan.results, strict=True) if k)
    outs = zip(jaxpr.outvars, wanted, strict=True)
    gives = [each for each, also in outs if also or not _among(known, each)]
    read = list(gives)
    for place, eqn in enumerate(jaxpr.eqns):
        if place in scans:
            read += scans[place].reads
        elif place not in places or place in again:
            read += eqn.invars
    needs = dict.fromkeys(each for each in read if not isinstance(each, Literal))
    kept = [var for var in needs if var in known and var not in free]
    return _Part(jaxpr, known, places, again, scans, gives, needs.keys(), kept)


def _among(variables: Set[Var], each: Any) -> bool:
    return isinstance(each, Literal) or each in variables


def _scan(eqn: JaxprEqn, flags: Sequence[bool]) -> _Scan:
    """The parts of a scan, of whose inputs some are early."""
    jaxpr, fixed = eqn.params["jaxpr"].jaxpr, eqn.params["num_consts"]
    count = eqn.params["num_carry"]
    carried = list(flags[fixed : fixed + count])
    while True:
        early = [*flags[:fixed], *carried, *flags[fixed + count :]]
        given = [*jaxpr.invars[:fixed], *jaxpr.invars[fixed + count :]]
        late = [not each for each in carried] + [False] * (len(jaxpr.outvars) - count)
        body = _parted(jaxpr, early, given, late)
        out = [_among(body.known, each) for each in jaxpr.outvars]
        if carried == (both := [a and b for a, b in zip(carried, out[:count], strict=True)]):
            return _Scan(eqn, body, carried, out[count:])
        carried = both


def _kept_bytes(part: _Part) -> int:
    """The bytes that the early part hands over."""
    scans = [scan.eqn.params["length"] * _kept_bytes(scan.body) for scan in part.scans.values()]
    return sum(map(_bytes, part.kept)) + sum(scans)


def _bytes(var: Var) -> int:
    aval: Any = var.aval
    return math.prod(aval.shape) * aval.dtype.itemsize


# --- running them ---------------------------------------------------------------------------


def _early(part: _Part, known: Environment) -> tuple[Environment, Any]:
    """What the early part has for its variables, and what it hands over."""
    known, stacks = dict(known), []
    for place, eqn in enumerate(part.jaxpr.eqns):
        if place in part.early:
            values = [_value(known, each) for each in eqn.invars]
            known.update(zip(eqn.outvars, bind(eqn, values), strict=True))
        elif place in part.scans:
            results, stack = _early_scan(part.scans[place], known)
            known.update(results)
            stacks.append(stack)
    return known, ([known[var] for var in part.kept], stacks)


def _early_scan(scan: _Scan, known: Environment) -> tuple[Environment, Any]:
    """What a scan's early part has for its results, and the stack of what it hands over."""
    inner, outer = scan.split(scan.body.jaxpr.invars), scan.split(scan.eqn.invars)
    fixed, initial, scanned = (
        {own: _value(known, each) for own, each in zip(a, b, strict=True) if own in scan.body.known}
        for a, b in zip(inner, outer, strict=True)
    )
    constants = _constants(scan.eqn)

    def body(carry: list, slices: list) -> tuple[list, Any]:
        own = dict(zip(initial, carry, strict=True)) | dict(zip(scanned, slices, strict=True))
        found, kept = _early(scan.body, {**constants, **fixed, **own})
        outs = [
            _value(found, each)
            for each, k in zip(scan.body.jaxpr.outvars, scan.results, strict=True)
            if k
        ]
        return outs[: sum(scan.carried)], (outs[sum(scan.carried) :], kept)

    carry, (stacked, kept) = _run(scan, body, list(initial.values()), list(scanned.values()))
    early = [var for var, k in zip(scan.eqn.outvars, scan.results, strict=True) if k]
    return dict(zip(early, [*carry, *stacked], strict=True)), kept


def _late(part: _Part, known: Environment, kept: Any) -> list[Any]:
    """The results of the late part, those of its jaxpr that it is asked for."""
    own, stacks = kept
    known = {**known, **dict(zip(part.kept, own, strict=True))}
    following = iter(stacks)
    for place, eqn in enumerate(part.jaxpr.eqns):
        if place in part.scans:
            known.update(_late_scan(part.scans[place], known, next(following)))
        elif place not in part.early or place in part.again:
            values = [_value(known, each) for each in eqn.invars]
            known.update(zip(eqn.outvars, bind(eqn, values), strict=True))
    return [_value(known, each) for each in part.gives]


def _late_scan(scan: _Scan, known: Environment, kept: Any) -> Environment:
    """What a scan's late part has for its results."""
    inner, outer = scan.split(scan.body.jaxpr.invars), scan.split(scan.eqn.invars)
    fixed, scanned = (
        {
            own: _value(known, each)
            for own, each in zip(inner[n], outer[n], strict=True)
            if own in scan.body.needs
        }
        for n in (0, 2)
    )
    carried = [own for own, k in zip(inner[1], scan.carried, strict=True) if not k]
    initial = [_value(known, each) for each, k in zip(outer[1], scan.carried, strict=True) if not k]
    constants = _constants(scan.eqn)

    def body(carry: list, slices: Any) -> tuple[list, list]:
        own = dict(zip(carried, carry, strict=True)) | dict(zip(scanned, slices[0], strict=True))
        outs = _late(scan.body, {**constants, **fixed, **own}, slices[1])
        return outs[: len(carried)], outs[len(carried) :]

    carry, stacked = _run(scan, body, initial, (list(scanned.values()), kept))
    late = [var for var, k in zip(scan.eqn.outvars, scan.results, strict=True) if not k]
    return dict(zip(late, [*carry, *stacked], strict=True))


def _run(scan: _Scan, body: Callable, initial: list, scanned: Any) -> tuple[list, Any]:
    params = scan.eqn.params
    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    with scan.eqn.ctx.manager:
        return lax.scan(body, initial, scanned, **options)


def _constants(eqn: JaxprEqn) -> Environment:
    closed = eqn.params["jaxpr"]
    return dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))


def _value(known: Environment, each: Any) -> Any:
    return each.val if isinstance(each, Literal) else known[each]
