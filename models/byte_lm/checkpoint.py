"""Checkpoints of a training run, as safetensors files."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import serialization, traverse_util
from safetensors.numpy import load_file, save_file


class State(NamedTuple):
    """What a checkpoint holds: the next step, the variables and the optimizer's state."""

    step: int
    variables: Any
    optimizer: Any


def save(path: Path, state: State) -> None:
    """Writes a checkpoint; the old one is replaced only when the new one is complete."""
    tree = serialization.to_state_dict(state._asdict())
    flat = traverse_util.flatten_dict(tree, sep="/")
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.asarray(leaf) for name, leaf in flat.items()}, partial)
    partial.replace(path)


def restore(path: Path, fresh: State) -> State:
    """Returns the checkpoint at `path` in the structure of `fresh`."""
    tree = serialization.to_state_dict(fresh._asdict())
    flat = traverse_util.flatten_dict(tree, sep="/", keep_empty_nodes=True)
    tree = traverse_util.unflatten_dict(flat | load_file(path), sep="/")
    state = State(**serialization.from_state_dict(fresh._asdict(), tree))
    return state._replace(step=int(state.step))
