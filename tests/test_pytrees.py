"""Dataclasses that are pytrees: never taken for one another, and otherwise as JAX's own."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import qsim
from qsim.numbers.cut import lower_alone
from qsim.numbers.pytrees import pytree, static


@dataclass(frozen=True)
class Record:
    first: object
    mode: str = static()
    second: object = None


def record_class() -> type:
    """A class of its own, with the fields of ``Record``."""
    return dataclasses.make_dataclass("Kind", [], bases=(Record,), frozen=True)


def test_programs_compiled_for_one_class_never_run_for_another():
    # with jax.tree_util.register_dataclass 70 of the 400 are taken for another
    program = jax.jit(lambda record: jnp.zeros(type(record).shape))
    for k in range(400):
        kind = pytree(dataclasses.make_dataclass(f"Kind{k}", ["a"], namespace={"shape": (k,)}))
        assert program.eval_shape(kind(1.0)).shape == kind.shape


def test_structures_are_equal_for_equal_classes_and_static_fields_only():
    kinds = [pytree(record_class()) for _ in range(2)]
    structure = jax.tree.structure(kinds[0](1.0, "nearest"))
    assert structure == jax.tree.structure(kinds[0](2.0, "nearest"))
    assert structure != jax.tree.structure(kinds[0](1.0, "down"))
    assert structure != jax.tree.structure(kinds[1](1.0, "nearest"))


def test_grids_of_two_kinds_have_unequal_structures():
    for spec in ("bfloat16", "binary32"):
        alone, stackable = lower_alone(qsim.parse(spec)), qsim.lower(qsim.parse(spec))
        assert type(alone) is not type(stackable)
        assert jax.tree.structure(alone) != jax.tree.structure(stackable)


def test_leaves_paths_and_classes_are_those_of_register_dataclass():
    ours = pytree(record_class())
    theirs = jax.tree_util.register_dataclass(record_class())  # noqa: TID251 - to compare with
    given = ({"a": np.ones(2), "b": 3}, "nearest", [4.0, None])
    flat = [jax.tree_util.tree_flatten_with_path(kind(*given))[0] for kind in (ours, theirs)]
    paths = [[jax.tree_util.keystr(path) for path, _ in leaves] for leaves in flat]
    assert paths[0] == paths[1] == [".first['a']", ".first['b']", ".second[0]"]
    assert [leaf is other for (_, leaf), (_, other) in zip(*flat, strict=True)] == [True] * 3
    back = jax.tree.map(lambda leaf: leaf, ours(*given))
    assert back == ours(*given) and type(back) is ours
