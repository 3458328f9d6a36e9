"""Trains the byte model in float32 and writes `weights.safetensors`.

    python -m models.byte_lm.train --help

Batches are a function of (seed, step), so that a run that was stopped and resumed sees the same
bytes as one that was not.
"""

import argparse
import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from safetensors.numpy import save_file

from models.byte_lm import corpus, trigram
from models.byte_lm.checkpoint import State, restore, save
from models.byte_lm.model import ByteLM, Config
from models.byte_lm.score import bits_per_byte, nats

HERE = Path(__file__).parent


def sample(key: jax.Array, text_N: np.ndarray, *, batch: int, length: int) -> np.ndarray:
    """Returns [batch, length + 1] bytes of random windows, later ones more often.

    A window's start has a density that grows linearly along the text: speeches are in order of
    year, and the held-out ones follow the last.
    """
    place_B = jnp.sqrt(jax.random.uniform(key, (batch,)))
    start_B = np.asarray(place_B * (text_N.size - length - 1)).astype(int)
    return text_N[start_B[:, None] + np.arange(length + 1)]


def make_optimizer(*, steps: int, rate: float) -> optax.GradientTransformation:
    """Returns AdamW under a linear warm-up and a cosine decay, gradients clipped to norm 1."""
    warmup = min(100, steps // 10)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, steps, rate / 50)
    adamw = optax.adamw(schedule, b1=0.9, b2=0.98, weight_decay=0.05)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


@functools.partial(jax.jit, static_argnames="tx", donate_argnums=(0, 1))
def update(variables: Any, optimizer: Any, window_BxL1: jax.Array, *, tx: Any):
    """Returns (variables, optimizer state, loss in nats per byte) after one step."""

    def loss(variables: Any) -> jax.Array:
        return nats(variables, window_BxL1[:, :-1], window_BxL1[:, 1:]).mean()

    value, gradient = jax.value_and_grad(loss)(variables)
    change, optimizer = tx.update(gradient, optimizer, variables)
    return optax.apply_updates(variables, change), optimizer, value


def report(step: int, steps: int, bits: float, seconds_per_step: float) -> None:
    """Prints the progress bar: on a terminal in place, in a log as lines."""
    done = 30 * step // steps
    left = (steps - step) * seconds_per_step / 60
    line = f"[{'#' * done}{'.' * (30 - done)}] {step}/{steps}  {bits:.3f} bits/byte"
    terminal = sys.stderr.isatty()
    lead, end = ("\r", "") if terminal else ("", "\n")
    print(f"{lead}{line}  {left:.1f} min left ", end=end, file=sys.stderr, flush=True)


def begin(options: argparse.Namespace, tx: optax.GradientTransformation) -> State:
    """Returns the state in the checkpoint, or a fresh one where there is none."""
    byte_BxL = np.zeros((1, Config().context), np.uint8)
    variables = ByteLM().init(jax.random.key(options.seed), byte_BxL)
    fresh = State(0, variables, tx.init(variables))
    return restore(options.checkpoint, fresh) if options.checkpoint.exists() else fresh


def train(text_N: np.ndarray, options: argparse.Namespace) -> Any:
    """Returns the variables after `options.steps` steps, resuming from a checkpoint if any."""
    tx = make_optimizer(steps=options.steps, rate=options.rate)
    state = begin(options, tx)
    key, length = jax.random.key(options.seed), Config().context
    start, first, mean = time.monotonic(), state.step, None
    for step in range(first, options.steps):
        step_key = jax.random.fold_in(key, step)
        window_BxL1 = sample(step_key, text_N, batch=options.batch, length=length)
        variables, optimizer, loss = update(state.variables, state.optimizer, window_BxL1, tx=tx)
        state = State(step + 1, variables, optimizer)
        bits = float(loss) / math.log(2)
        mean = bits if mean is None else 0.98 * mean + 0.02 * bits
        if state.step % 25 == 0:
            pace = (time.monotonic() - start) / (state.step - first)
            report(state.step, options.steps, mean, pace)
        if state.step % options.every == 0 or state.step == options.steps:
            save(options.checkpoint, state)
    return state.variables


def parse() -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(
        description="Trains the byte model.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    option = parser.add_argument
    option("--steps", type=int, default=3400, help="optimizer steps")
    option("--batch", type=int, default=8, help="windows of 256 bytes per step")
    option("--rate", type=float, default=3e-3, help="peak learning rate")
    option("--seed", type=int, default=0, help="of the first weights and the batches")
    option("--every", type=int, default=200, help="steps between checkpoints")
    option("--cache", type=Path, default=Path("build/byte_lm"), help="folder of the download")
    option("--checkpoint", type=Path, default=Path("build/byte_lm/checkpoint.safetensors"))
    option("--out", type=Path, default=HERE, help="folder of the weights and the held-out text")
    return parser.parse_args()


def main() -> None:
    """Fetches the texts, trains, writes the weights and prints the figures of the README."""
    options = parse()
    train_text, heldout_text = corpus.split(corpus.read_speeches(corpus.fetch(options.cache)))
    train_N, heldout_N = (np.frombuffer(text, np.uint8) for text in (train_text, heldout_text))
    variables = train(train_N, options)

    flat = traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.asarray(leaf) for name, leaf in flat.items()}
    save_file(arrays, options.out / "weights.safetensors")
    (options.out / "heldout.txt").write_bytes(heldout_text)

    print(f"training text       {train_N.size} bytes")
    print(f"held-out text       {heldout_N.size} bytes")
    print(f"byte model          {bits_per_byte(variables, heldout_N):.4f} bits per byte")
    print(f"trigram, in-sample  {trigram.in_sample_entropy(heldout_N):.4f}")
    print(f"trigram, smoothed   {trigram.smoothed_loss(train_N, heldout_N):.4f}")


if __name__ == "__main__":
    main()
