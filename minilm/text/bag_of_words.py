"""Bags of words: which tokens a text holds and how often, their order forgotten.

The features of a sparse logistic regression: logits = Σ weight · w[id] over the entries of a text.
Rows are stored one behind the other, row n in [offsets[n], offsets[n + 1]).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from minilm.text.batching import check_ids

WEIGHTINGS = ("count", "log", "binary")


class BagOfWords(NamedTuple):
    """N sparse rows over a vocabulary; E entries in all, ids ascending within a row, none twice."""

    ids: np.ndarray  # (E,) int64
    weights: np.ndarray  # (E,) float32
    offsets: np.ndarray  # (N + 1,) int64

    def rows(self, indices: np.ndarray) -> BagOfWords:
        """Some of the rows, in the order of `indices` (n,): a batch."""
        starts = self.offsets[indices]  # (n,)
        sizes = self.offsets[np.asarray(indices) + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(sizes)])  # (n + 1,)
        entries = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], sizes)
        return BagOfWords(self.ids[entries], self.weights[entries], offsets)


def count_features(
    sequences: Sequence[Sequence[int]],
    vocab_size: int,
    *,
    weighting: str = "log",
    normalise: bool = True,
    exclude: Iterable[int] = (),
) -> BagOfWords:
    """Count the ids of each sequence.

    weighting   "count" c, "log" 1 + ln c, "binary" 1 for each id that occurs c > 0 times
    normalise   scale each row to Euclidean length 1, so that long texts do not outweigh short ones
    exclude     ids that do not count, such as padding
    Raises ValueError for an id outside the vocabulary or an unknown weighting. An empty sequence gives an empty row.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is unknown; choose {', '.join(WEIGHTINGS)}")
    sizes = [len(sequence) for sequence in sequences]
    flat = np.concatenate([np.zeros(0, np.int64), *(np.asarray(s, dtype=np.int64) for s in sequences if len(s))])
    check_ids(flat, vocab_size)
    rows = np.repeat(np.arange(len(sizes)), sizes)
    counted = ~np.isin(flat, list(exclude))
    # One sort of (row, id) pairs counts all texts at once.
    keys, counts = np.unique(rows[counted] * vocab_size + flat[counted], return_counts=True)
    rows, ids = np.divmod(keys, vocab_size)
    weights = {"count": counts, "log": 1 + np.log(counts), "binary": np.ones(len(counts))}[weighting].astype(np.float32)
    if normalise:
        squares = np.bincount(rows, weights=weights * weights, minlength=len(sizes))
        weights = (weights / np.sqrt(squares)[rows]).astype(np.float32)
    return BagOfWords(ids, weights, np.searchsorted(rows, np.arange(len(sizes) + 1)))
