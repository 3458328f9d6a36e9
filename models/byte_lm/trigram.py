"""Byte trigrams: the two baselines that the transformer is measured against.

`smoothed_loss` is an honest model: counts of the training text, orders 3, 2, 1 and 0 interpolated
by Witten-Bell weights (Chen and Goodman 1999, section 2.6). `in_sample_entropy` is a bound: the
conditional entropy H(c3 | c1, c2) of the held-out text under its own counts. No trigram model,
whatever it was fitted on, has a lower loss on that text.
"""

import numpy as np


def pairs(first_N: np.ndarray, second_N: np.ndarray, base: int = 256) -> np.ndarray:
    """Returns the integers `first * base + second`, int64."""
    return first_N.astype(np.int64) * base + second_N


def entropy(code_N: np.ndarray) -> float:
    """Returns the entropy in bits of the empirical distribution of the integers `code_N`."""
    count = np.unique(code_N, return_counts=True)[1]
    p = count / count.sum()
    return float(-(p * np.log2(p)).sum())


def in_sample_entropy(text_N: np.ndarray) -> float:
    """Returns H(c1 c2 c3) - H(c1 c2) of all trigrams of `text_N` (uint8 [N]), in bits per byte."""
    pair_N2 = pairs(text_N[:-2], text_N[1:-1])
    return entropy(pairs(pair_N2, text_N[2:])) - entropy(pair_N2)


def smoothed_loss(train_N: np.ndarray, text_N: np.ndarray) -> float:
    """Returns the bits per byte of `text_N` under the trigram model fitted on `train_N`.

    p_k(c | h) = (count(h c) + T(h) p_{k-1}(c | h')) / (count(h) + T(h)), where h' is h without its
    oldest byte, T(h) the number of distinct bytes seen after h, and p_0 uniform.
    """
    p = np.full(text_N.size - 2, 1 / 256)
    for order in range(3):
        table = count_table(train_N, order)
        code = gram_codes(text_N, order)[2 - order :]
        context = table.reshape(-1, 256)
        total, distinct = context.sum(1), (context > 0).sum(1)
        h = code // 256
        n, t = total[h], distinct[h]
        p = np.where(n > 0, (table[code] + t * p) / np.maximum(n + t, 1), p)
    return float(-np.log2(p).mean())


def gram_codes(text_N: np.ndarray, order: int) -> np.ndarray:
    """Returns one integer for each run of `order + 1` bytes, int64 [N - order]."""
    size = text_N.size - order
    code = np.zeros(size, np.int64)
    for i in range(order + 1):
        code = pairs(code, text_N[i : i + size])
    return code


def count_table(text_N: np.ndarray, order: int) -> np.ndarray:
    """Returns how often each run of `order + 1` bytes occurs, int64 [256^(order + 1)]."""
    return np.bincount(gram_codes(text_N, order), minlength=256 ** (order + 1))
