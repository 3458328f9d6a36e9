"""The table of primitives knows every one that JAX has, and its page in the docs is true."""

import importlib
import pkgutil
import re
import sys
from pathlib import Path

import jax
import jax.extend.core
import jax.extend.core.primitives
import jax.numpy as jnp
import pytest

import qsim
from qsim.simulate import primitives
from qsim.simulate.regions import STRUCTURED
from tests.unchecked import unchecked

PAGE = Path(__file__).parents[1] / "docs" / "primitives.md"
LOADED = (
    *("lax", "lax.control_flow", "random"),  # packages, with all that is in them
)
MODULES = (
    *("ad_checkpoint", "callback", "checkify", "custom_batching", "custom_derivatives"),
    *("custom_partitioning", "debugging", "ffi", "hijax", "pjit", "shard_map", "state.primitives"),
    *("cudnn.fused_attention_stablehlo", "cudnn.scaled_matmul_stablehlo", "pallas.pallas_call"),
)
# what only kernels are made of, which are opaque as a whole
KERNELS = re.compile(r"jax\.(_src\.(pallas|tpu|mosaic)|experimental)\b")


def primitives_of_jax() -> set[str]:
    """The names of all primitives in the modules of JAX that a user's program can reach."""
    for name in LOADED:
        package = importlib.import_module(f"jax._src.{name}")
        for module in pkgutil.iter_modules(
            getattr(package, "__path__", None) or [], f"jax._src.{name}."
        ):
            importlib.import_module(module.name)
    for name in MODULES:
        try:
            importlib.import_module(f"jax._src.{name}")
        except ModuleNotFoundError:
            continue  # of another release
    kind = jax.extend.core.Primitive
    return {
        value.name
        for name, module in list(sys.modules.items())
        if name.split(".")[0] == "jax" and not KERNELS.match(name) and module
        for value in list(vars(module).values())
        if isinstance(value, kind)
    }


def test_every_primitive_of_jax_is_known():
    found = primitives_of_jax()
    assert len(found) > 250 and {"dot_general", "scan", "psum"} <= found
    unknown = found - primitives.known.keys()
    assert not unknown, f"say in qsim/simulate/primitives.py what these are: {sorted(unknown)}"


def test_the_structure_that_is_known_can_be_entered():
    named = {name for name, kind in primitives.known.items() if kind == "structure"}
    assert named == set(STRUCTURED)


def page(text: str) -> str:
    """The page with the rows of its table as the table of primitives has them."""
    rows = [
        f"| {kind} | {' '.join(f'`{name}`' for name in sorted(names))} |"
        for kind in primitives.CLASSES
        if (names := [name for name, of in primitives.known.items() if of == kind])
    ]
    head = "|---|---|\n"
    return text[: text.index(head)] + head + "\n".join(rows) + "\n"


def test_the_page_of_primitives_is_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "run python -m tests.test_primitives"


def test_a_primitive_of_ones_own_is_refused_until_it_is_registered(monkeypatch):
    own = jax.extend.core.Primitive("my_doubling")
    own.def_impl(lambda x: 2 * x)
    own.def_abstract_eval(lambda x: x)
    monkeypatch.setattr(primitives, "_classes", dict(primitives._classes))
    fn = lambda x: own.bind(x)  # noqa: E731
    x = jnp.array([1.06])
    with pytest.raises(
        NotImplementedError, match=r"my_doubling at test_primitives.py:\d+ is a prim"
    ):
        qsim.simulate(fn, "all=e4m3")(x)
    assert qsim.simulate(fn, None)(x) == fn(x)
    qsim.register("my_doubling", "elementwise")
    assert qsim.simulate(fn, "all=e4m3")(x) == qsim.quantize(2 * x, "e4m3")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("add", "function", "add is known as elementwise"),
        ("mine", "functions", "no class 'functions' for mine; did you mean 'function'"),
        ("mine", "contraction", "no class 'contraction' for mine"),
    ],
)
def test_mistakes_in_registering_are_named(name, kind, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        qsim.register(name, kind)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
