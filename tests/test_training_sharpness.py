"""Sharpness in logits: the corner of the box is its maximum."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsim.training.sharpness import logit_sharpness


def cross_entropy(z, label):
    return math.log(sum(math.exp(x) for x in z)) - z[label]


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0])
def test_no_other_corner_of_the_box_is_higher(epsilon):
    z = [[1.5, -0.3, 0.0, -2.0], [0.1, 0.2, 3.0, -0.7]]
    labels = [1, 2]
    loss = sum(map(cross_entropy, z, labels)) / 2
    highest = [
        max(
            cross_entropy(
                [x + s * epsilon * (abs(x) + 1) for x, s in zip(row, signs, strict=True)], label
            )
            for signs in itertools.product((-1, 1), repeat=4)
        )
        for row, label in zip(z, labels, strict=True)
    ]  # of a convex function, the maximum over a box is in a corner
    expected = 100 * (sum(highest) / 2 - loss) / (1 + loss)
    found = jax.jit(logit_sharpness, static_argnames="epsilon")(
        jnp.float32(z), jnp.int32(labels), epsilon=epsilon
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_axes_of_a_batch_are_one():
    random = np.random.default_rng(0)
    logits, labels = jnp.float32(random.normal(size=(6, 5))), jnp.int32(random.integers(0, 5, 6))
    folded = logit_sharpness(logits.reshape(2, 3, 5), labels.reshape(2, 3))
    np.testing.assert_allclose(folded, logit_sharpness(logits, labels), rtol=1e-3)


def test_larger_logits_are_sharper_where_they_are_wrong():
    logits = jnp.float32([[1.0, 0.0, -1.0]])
    wrong = [float(logit_sharpness(s * logits, jnp.int32([2]))) for s in (1.0, 4.0, 16.0)]
    assert wrong[0] > 0 and logit_sharpness(100 * logits, jnp.int32([0])) >= 0


def test_a_box_has_width():
    with pytest.raises(ValueError, match="epsilon is above zero, got 0"):
        logit_sharpness(jnp.zeros((1, 2)), jnp.array([0]), epsilon=0.0)
