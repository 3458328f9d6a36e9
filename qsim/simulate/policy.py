"""What the operations of a program get: rules, and the quantizers that they hand out.

A ``Policy`` is a list of rules; for every operand and result of a program the first rule that
addresses it says how it is rounded. A rule says so by a ``Precision``, which is a format with its
modes and can be printed, or by a ``Quantizer``, to which ``Policy.lower`` brings it: a pytree whose
leaves are grids and whose modes are static, so that policies of the same rules stack, and a sweep
over them is one computation.

The text form is a list of rules, separated by ``;`` or commas, ``SELECTOR = FORMAT MODES``::

    weights=mxfp4, activations=e4m3; .*attention elementwise=bfloat16
    .*head.*=none; all=e5m10 ieee
    gradients=e5m2 stochastic:8; stored states=e4m3 absmax
    weights=e4m3|e4m3|e2m1f                     a format for each layer of a scan over three
    accumulators=e8m13 chunk128; operands=e4m3  see ``qsim.arithmetic.accumulator``

``SELECTOR`` is described in ``qsim.simulate.selector``. ``FORMAT`` is a spec string, a name of the
catalogue, or ``none``, which leaves numbers alone; ``MODES`` are the names of a rounding mode, an
overflow policy, a scale and a gradient, in any order, where the default is not wanted; ``steps``
computes functions by the programs of ``qsim.functions``, every step of which is rounded.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Array

from qsim.arithmetic.accumulation import Accumulation
from qsim.arithmetic.accumulator import Accumulator
from qsim.numbers.formats import Format
from qsim.numbers.grid import Grid
from qsim.numbers.pytrees import pytree, static
from qsim.numbers.random_bits import Key, fold_in
from qsim.numbers.records import shown
from qsim.numbers.specs import format_of, listed, parse
from qsim.simulate.explanation import Explanation, Place
from qsim.simulate.flow import roles_of
from qsim.simulate.primitives import ROUNDED, class_of
from qsim.simulate.program import program
from qsim.simulate.quantizer import Precision, Quantizer, check_modes
from qsim.simulate.selector import Selector
from qsim.simulate.slots import Slot, slots, stored_slots

__all__ = ["Policy", "Rule", "as_policy", "policy", "site_key"]

ALSO = ("abs", "convert_element_type", "iota", "dynamic_update_slice", "scatter")
MAX_TEXT = 2**16  # letters of a policy
NAMED = ("weights", "caches", "activations", "gradients", "states", "operands", "outputs")


@pytree
@dataclass(frozen=True, kw_only=True)
class Rule:
    """What the operands or results that a selector addresses get; None leaves them alone."""

    select: Selector = static()
    to: Precision | Quantizer | Accumulator | Accumulation | None

    def __str__(self) -> str:
        given = "none" if self.to is None else str(self.to)
        lowered = isinstance(self.to, Quantizer | Accumulation)
        return f"{self.select}={'GRID' if lowered else given}"

    def lower(self, carrier: str, **how: bool) -> "Rule":
        """The rule with arrays in place of formats; see ``Policy.lower``."""
        if isinstance(self.to, Precision):
            return replace(self, to=self.to.lower(carrier, **how))
        if isinstance(self.to, Accumulator):
            return replace(self, to=Accumulation.of(self.to, carrier))
        return self


@pytree
@dataclass(frozen=True)
class Policy:
    """An ordered list of rules; of those that address something the first one counts.

    ``str`` gives the text form, which ``policy`` reads.

    >>> str(policy("weights=mxfp4; .*head.*=bfloat16"))
    'weights=e2m1f[32,e8m0,floor]; .*head.*=e8m7'
    """

    rules: tuple[Rule, ...] = ()

    def __str__(self) -> str:
        return "; ".join(map(str, self.rules))

    def lower(
        self, carrier: str = "float32", *, alone: bool = False, known: bool = False
    ) -> "Policy":
        """The policy with grids in place of formats: a pytree that stacks, for a carrier.

        Args:
            carrier: float32 or float64.
            alone: whether cheaper grids will do, that do not stack with those of other formats.
            known: whether to keep what is known of formats, which makes accumulators fast;
                ``among`` makes it the same for policies that are to be stacked.

        Raises:
            ValueError: for a format that the carrier cannot hold.
        """
        how = {"alone": alone, "known": known}
        return Policy(tuple(rule.lower(carrier, **how) for rule in self.rules))

    def among(self, others: "Sequence[Policy]") -> "Policy":
        """The same, what is known of formats being true of all of some policies of one structure.

        Without others nothing is known, and policies that differ in formats only are of one kind.
        """
        return Policy(
            tuple(
                replace(rule, to=rule.to.among([other.rules[n].to for other in others]))
                if isinstance(rule.to, Quantizer | Accumulation)
                else rule
                for n, rule in enumerate(self.rules)
            )
        )

    def find(self, slot: Slot) -> int | None:
        """The number of the first rule that addresses a slot."""
        numbers = (n for n, rule in enumerate(self.rules) if rule.select.matches(slot))
        return next(numbers, None)

    def layer(self, number: Array | None, length: int) -> "Policy":
        """The policy inside one iteration of a scan of this length."""
        return Policy(
            tuple(
                Rule(select=rule.select, to=rule.to.layer(number))
                if isinstance(rule.to, Quantizer) and rule.to.layers == length
                else rule
                for rule in self.rules
            )
        )

    def explain(
        self,
        fn: Callable,
        *args,
        params: int | Sequence[int] | None = None,
        states: int | Sequence[int] | None = None,
        caches: int | Sequence[int] | None = None,
        **kwargs,
    ) -> Explanation:
        """Which rule counts for each operand and result of a function; nothing is computed.

        Args:
            fn, args, kwargs: a function and its arguments.
            params, states, caches: as for ``qsim.simulate``.

        >>> import jax.numpy as jnp
        >>> layer = lambda p, x: jnp.tanh(x @ p["w"])
        >>> arguments = {"w": jnp.eye(2)}, jnp.eye(2)
        >>> print(policy("weights=e2m1; .*head.*=e4m3").explain(layer, *arguments))
        0. weights=e2m1: 1 place
           w  dot_general forward, weight
        1. .*head.*=e4m3: 0 places
        no rule: 7 places
        """
        found = program(fn, args, kwargs, roles_of(params, states, caches))
        places = [
            Place(slot.path, "argument", slot.direction, f"stored {slot.role}", self.find(slot))
            for slot in stored_slots(found)
            if slot is not None
        ]
        for node in found:
            for _, slot in slots(node):
                said = {"operand": slot.role, "stored": f"stored {slot.role}"}.get(slot.part)
                where = (node.path, node.name, node.direction, said or slot.part)
                places.append(Place(*where, self.find(slot)))
        return Explanation(tuple(map(str, self.rules)), tuple(places))

    @property
    def is_stochastic(self) -> bool:
        """Whether a rule draws random bits."""
        return any(rule.to is not None and rule.to.is_stochastic for rule in self.rules)

    @property
    def has_layers(self) -> bool:
        """Whether a rule has a format for each layer."""
        return any(isinstance(rule.to, Quantizer) and rule.to.layers > 0 for rule in self.rules)


Given = str | Format | Grid


def policy(
    text: str | None = None,
    *,
    weights: Given | None = None,
    activations: Given | None = None,
    gradients: Given | None = None,
    states: Given | None = None,
    caches: Given | None = None,
    operands: Given | None = None,
    outputs: Given | None = None,
    rounding: str = "ties_to_even",
    overflow: str = "saturate",
    scale: str = "none",
    gradient: str = "clipped",
) -> Policy:
    """A policy from its text form, or from formats for contractions.

    The text form is ``SELECTOR = FORMAT MODES``, separated by ``;`` or commas, where the first rule
    counts that addresses something. The words of a selector narrow it down: ``weights``,
    ``activations``, ``gradients``, ``states``, ``caches`` or ``operands`` (of contractions);
    ``outputs``; ``stored``; a class (``contraction``, ``elementwise``, ``function``, ``reduction``,
    ``collective``, ``transform``), a primitive or ``all``; a direction (``forward``, ``backward``,
    ``input_gradient``, ``weight_gradient``, ``update``); a dtype (``bfloat16:``); a path, as a
    regular expression. The format may be ``none``, or one for each layer (``e4m3|e5m2``); modes are
    a rounding mode, an overflow policy, a scale and a gradient. ``docs/simulate.md`` has examples.

    Args:
        text: rules. They come before what is given by name.
        weights, activations, gradients, states, caches: for operands of contractions of that
            role: a spec string, a ``Format`` or a ``Grid``. ``weights`` includes what depends on
            no argument, ``activations`` what is read from caches.
        operands: for those of every other role.
        outputs: for results of contractions.
        rounding, overflow, gradient: as for ``qsim.quantize``, for what is given by name.
        scale: one scale per tensor: ``"none"``, ``"absmax"`` or ``"power_of_two"``. Formats as
            wide as the carrier (8 exponent bits in float32) always have the scale 1.

    Raises:
        ValueError: for an unknown name, and for a text that is no list of rules; the message
            names the rule.

    >>> str(policy(weights="e4m3", activations="e5m2", scale="absmax"))
    'weights=e4m3 absmax; activations=e5m2 absmax'
    """
    modes = {"rounding": rounding, "overflow": overflow, "scale": scale, "gradient": gradient}
    check_modes(**modes)
    given = (weights, caches, activations, gradients, states, operands, outputs)
    named = [
        Rule(select=Selector.parse(role), to=_precision(fmt, modes))
        for role, fmt in zip(NAMED, given, strict=True)
        if fmt is not None
    ]
    return Policy((*(_rules(text) if text is not None else ()), *named))


def _precision(fmt: Given, modes: Mapping[str, str]) -> Precision | Quantizer:
    if isinstance(fmt, Grid):
        return Quantizer(grid=fmt, **modes)
    if isinstance(fmt, str) and (fmt.strip() == "none" or set(fmt.strip()) & set(" |")):
        raise ValueError(
            f"{shown(fmt)} is no format alone; modes, layers and 'none' are said in the text form: "
            f"qsim.policy('weights={fmt}')"
        )
    return Precision(formats=(format_of(fmt),), **modes)


def _rules(text: str) -> list[Rule]:
    """The rules of a text."""
    if not isinstance(text, str):
        raise TypeError(f"a policy is a text such as 'weights=e4m3', got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise ValueError(f"a policy has at most {MAX_TEXT} letters, this one {len(text)}")
    parts = [part for some in listed(text, ";") for part in listed(some) if part]
    return [_rule(part) for part in parts]


def _rule(text: str) -> Rule:
    select, *given = listed(text, "=")
    if not given or not select:
        raise ValueError(
            f"{shown(text)} is no rule; write what it is for, '=' and a format: weights=e4m3"
        )
    try:
        to = "=".join(given)  # special codes of a format have an equals sign too
        selector = Selector.parse(select)
        kind = Accumulator if selector.part == "accumulator" else Precision
        rule = Rule(select=selector, to=None if to == "none" else kind.parse(to))
        _require_something_to_round(rule)
        return rule
    except ValueError as error:
        raise ValueError(f"rule {shown(text)}: {error}") from None


def _require_something_to_round(rule: Rule) -> None:
    """A rule that names a primitive names one whose numbers can be rounded."""
    operation = rule.select.operation
    if rule.to is None or operation is None or operation in (*ROUNDED, *ALSO):
        return
    if class_of(operation) not in (*ROUNDED, "opaque"):
        raise ValueError(
            f"{operation} computes nothing that could be rounded ({class_of(operation)}): name a "
            "class or a primitive that does, or leave it out"
        )


def as_policy(what: "Policy | str | Format | Grid | None") -> Policy:
    """A policy as it is; a text is parsed; None stands for no rules.

    A format, or its spec string, stands for itself on the operands of every contraction.

    Raises:
        TypeError: for anything else.
    """
    match what:
        case Policy():
            return what
        case None:
            return Policy()
        case str() if not what.strip() or (len(listed(what, "=")) > 1 and not _is_format(what)):
            return policy(what)
        case str() | Format() | Grid():
            return policy(operands=what)
    raise TypeError(f"a policy is made by qsim.policy(...) or is a format, got {what!r}")


def _is_format(text: str) -> bool:
    """Whether a text with an equals sign is a format with special codes."""
    try:
        return bool(parse(text))
    except ValueError:
        return False


def site_key(key: Key | None, *names: object) -> Key | None:
    """The random key of a place in a program, by its name and not by its position in a batch."""
    if key is None:
        return None
    return fold_in(key, zlib.crc32("/".join(map(str, names)).encode()))
