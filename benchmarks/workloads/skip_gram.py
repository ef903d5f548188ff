"""Skip-gram with negative sampling, with negatives that a batch of texts shares: plainly, and by windows.

    L = Σ_(t,s) [ softplus(−h_t · u_s) + K/S Σ_j softplus(h_t · n_j) ]     t, s places of a text, 0 < |t − s| ≤ window

h_t is the row of W_in of the word at t, u_s that of W_out of the word at s, n_j the rows of W_out of S words that are
drawn for the whole batch: K expected negatives for a pair instead of K drawn ones. With σ the logistic function,

    ∂L/∂h_t = Σ_s (σ(h_t·u_s) − 1) u_s + c_t K/S Σ_j σ(h_t·n_j) n_j        c_t the number of pairs of t
    ∂L/∂u_s = Σ_t (σ(h_t·u_s) − 1) h_t                ∂L/∂n_j = K/S Σ_t c_t σ(h_t·n_j) h_t

[Mikolov et al. 2013, section 2.2; shared negatives: Ji et al. 2016, "Parallelizing Word2Vec in Shared and Distributed
Memory"]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minilm import ops


class Options(NamedTuple):
    """Of one update."""

    window: int
    negatives: int  # K, for each pair
    shared: int  # S, drawn for each batch
    lr: float


def negative_table(ids: np.ndarray, vocabulary: int, size: int = 1_000_000) -> np.ndarray:
    """Word ids, each as often as its count to the power of 3/4 asks: a uniform draw from it is a negative."""
    weights = (np.bincount(ids.reshape(-1), minlength=vocabulary) + 1) ** 0.75
    return np.repeat(np.arange(vocabulary), np.maximum(1, (size * weights / weights.sum()).astype(int)))


def pairs(ids: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """All (centre, context) of texts ids (B, T), as two arrays (N,)."""
    near = range(1, min(window, ids.shape[1] - 1) + 1)
    left = np.concatenate([ids[:, :-d].ravel() for d in near])
    right = np.concatenate([ids[:, d:].ravel() for d in near])
    return np.concatenate((left, right)), np.concatenate((right, left))


def plain_update(w_in: np.ndarray, w_out: np.ndarray, ids: np.ndarray, negatives: np.ndarray, options: Options) -> None:
    """W −= lr ∂L/∂W for both tables, pair by pair in the ops of `minilm.ops`; the gradients are dense."""
    centres, contexts = pairs(ids, options.window)
    h, h_cache = ops.embedding(centres, w_in)  # (N, D)
    u, u_cache = ops.embedding(contexts, w_out)  # (N, D)
    n, n_cache = ops.embedding(negatives, w_out)  # (S, D)
    positive, negative = (h * u).sum(axis=1), h @ n.T  # (N,), (N, S)
    _, met = ops.binary_cross_entropy_with_logits(positive, np.ones_like(positive), reduction="sum")
    _, avoided = ops.binary_cross_entropy_with_logits(negative, np.zeros_like(negative), reduction="sum")
    dpositive = ops.binary_cross_entropy_with_logits_backward(1.0, met)[:, None]  # (N, 1)
    dnegative = ops.binary_cross_entropy_with_logits_backward(options.negatives / options.shared, avoided)
    dw_out = ops.embedding_backward(dpositive * h, u_cache) + ops.embedding_backward(dnegative.T @ h, n_cache)
    w_in -= options.lr * ops.embedding_backward(dpositive * u + dnegative @ n, h_cache)
    w_out -= options.lr * dw_out


def update(w_in: np.ndarray, w_out: np.ndarray, ids: np.ndarray, negatives: np.ndarray, options: Options) -> None:
    """The same update, by windows and in place.

    Every word is looked up once, not once a pair: all pairs of a text are the band of H Uᵀ, a small product, and the
    gradients are two more. A word meets the negatives once, weighted by its number of pairs. Only rows that occur are
    written. Measured against the above by `python -m benchmarks word2vec`.
    """
    T = ids.shape[1]
    place = np.arange(T)
    band = (abs(place[:, None] - place) <= options.window) & (place[:, None] != place)  # (T, T)
    h, u, n = w_in[ids], w_out[ids], w_out[negatives]  # (B, T, D), (B, T, D), (S, D)
    g = _logistic(h @ u.swapaxes(1, 2))  # (B, T, T)
    g -= 1
    g *= band
    words = h.reshape(-1, h.shape[-1])  # (B·T, D)
    avoided = _logistic(words @ n.T)  # (B·T, S)
    weight = band.sum(axis=1) * (options.negatives / options.shared)
    avoided *= np.tile(weight, len(ids)).astype(avoided.dtype)[:, None]
    dh = (g @ u).reshape(words.shape)
    dh += avoided @ n
    du = (g.swapaxes(1, 2) @ h).reshape(words.shape)
    _descend(w_in, ids.reshape(-1), dh, options.lr)
    _descend(w_out, np.concatenate((ids.reshape(-1), negatives)), np.concatenate((du, avoided.T @ words)), options.lr)


def _logistic(x: np.ndarray) -> np.ndarray:
    """σ(x) = (1 + tanh(x/2))/2, in place: one fast function, no overflow."""
    x *= 0.5
    np.tanh(x, out=x)
    x += 1
    x *= 0.5
    return x


def _descend(table: np.ndarray, ids: np.ndarray, gradients: np.ndarray, lr: float) -> None:
    """table[ids] −= lr · gradients, where ids repeat: their rows are summed by a product with a one-hot matrix.

    Its size is the square of a batch's words, a few hundred: faster there than sorting and adding runs of rows.
    """
    rows, row = np.unique(ids, return_inverse=True)
    onehot = np.zeros((len(rows), len(ids)), gradients.dtype)
    onehot[row, np.arange(len(ids))] = -lr
    table[rows] += onehot @ gradients
