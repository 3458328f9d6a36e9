"""Perplexity of the model on a text, and the bits it spends on a byte.

python -m models.smollm2.score heldout --windows 4
"""

import argparse
import math
from typing import Any

import jax
import numpy as np
import optax

from models import smollm2
from models.smollm2 import texts, tokenizer
from models.smollm2.model import apply
from models.subject import Subject


@jax.jit
def nats(variables: Any, input_BxL: jax.Array, label_BxL: jax.Array) -> jax.Array:
    """Returns -ln p(label), float32 [B, L]."""
    logits_BxLxV = apply(variables, input_BxL)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, label_BxL)


def mean_nats(subject: Subject) -> float:
    """Returns the mean of -ln p(label) over a subject; its exponential is the perplexity."""
    pairs = zip(subject.inputs, subject.labels, strict=True)
    return float(np.mean([np.asarray(nats(subject.variables, x, y)) for x, y in pairs]))


def main() -> None:
    """Prints the perplexity and the bits per byte on one text."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("text", choices=texts.TEXTS)
    parser.add_argument("--windows", type=int, default=smollm2.WINDOWS)
    options = parser.parse_args()
    subject = smollm2.load_subject(text=options.text, windows=options.windows)
    loss, labels = mean_nats(subject), np.asarray(subject.labels)
    count = tokenizer.count_bytes(smollm2.load_model()[1], labels)
    bits = loss / math.log(2) * labels.size / count
    print(f"{labels.size} tokens, {count} bytes")
    print(f"perplexity {math.exp(loss):.4f}, {bits:.4f} bits per byte")


if __name__ == "__main__":
    main()
