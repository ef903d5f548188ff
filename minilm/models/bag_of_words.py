"""Logistic regression on a bag of words: the classifier without order, depth or pretraining to compare others with.

    logits = b + Σ_{t < length} x_t · W[w_t]           W (V, 1 or K)

    weighting "count"        x_t = 1                   a word counts as often as it occurs
              "binary"       x_t = 1 at the first      a word counts once
              "frequency"    x_t = 1/length            the share of the text that is this word

The product of a (B, V) table of counts with W, without the table: its few nonzeros are looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.checks import one_of, whole
from minilm.layers.base import Gradients
from minilm.models.backbone import Backbone
from minilm.models.classifier import Classifier
from minilm.ops.embedding import embedding, embedding_backward
from minilm.options import check_options, option

WEIGHTINGS = ("count", "binary", "frequency")


@dataclass(frozen=True)
class BagOfWordsOptions:
    """Options of a bag of words."""

    weighting: str = option(
        "binary", "what a word counts: once, as often as it occurs, or its share", choices=WEIGHTINGS
    )

    def __post_init__(self) -> None:
        check_options(self)


class WordCounts(Backbone):
    """A text as the counts of its words: a backbone without parameters, on which only `BagOfWords` can stand."""

    causal = False

    def __init__(self, vocab_size: int, *, weighting: str, rng: Any = None, dtype: str = "float32") -> None:
        super().__init__()
        self.vocab_size, self.weighting = vocab_size, weighting

    def classifier(
        self, classes: int, pooling: str | None, *, rng: np.random.Generator, dtype: str = "float32"
    ) -> Classifier:
        if pooling is not None:
            raise ValueError(f"a bag of words has no hidden vectors for {pooling} pooling; leave pooling out")
        return BagOfWords(self.vocab_size, classes, weighting=self.weighting, dtype=dtype)


class BagOfWordsCache(NamedTuple):
    rows: Any  # of the look-up
    counted: Array  # (B, T, 1)  x_t, zero at padding


class BagOfWords(Classifier):
    """Parameters weight (V, 1 or K) and bias, both zero at the start: the problem is convex, so it doesn't matter."""

    def __init__(self, vocab_size: int, classes: int = 2, *, weighting: str = "binary", dtype: str = "float32") -> None:
        super().__init__(classes)
        whole("vocab_size", vocab_size, 1)
        self.weighting, self.context = one_of("weighting", weighting, WEIGHTINGS), None
        self.params["weight"] = np.zeros((vocab_size, self.outputs), dtype)
        self.params["bias"] = np.zeros(self.outputs, dtype)

    def _count(self, ids: Array, lengths: Array | None, dtype: Any) -> tuple[Array, Array]:
        """ids (B, T), in an order of its own, and how much each counts, x (B, T, 1)."""
        xp = array_namespace(ids, lengths)
        B, T = ids.shape
        ends = xp.full((B, 1), T) if lengths is None else lengths[:, None]  # (B, 1)
        valid = xp.arange(T)[None, :] < ends  # (B, T)
        if self.weighting == "frequency":
            return ids, (valid / xp.maximum(ends, 1).astype(dtype)).astype(dtype, copy=False)[:, :, None]
        if self.weighting == "binary":  # sorted, a word's first occurrence is one that differs from its neighbour
            padding = self.weight.shape[0]
            ids = xp.sort(xp.where(valid, ids, padding), axis=1)
            valid = ids < padding
            valid[:, 1:] &= ids[:, 1:] != ids[:, :-1]
            ids = xp.where(ids < padding, ids, 0)
        return ids, valid.astype(dtype)[:, :, None]

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, BagOfWordsCache | None]:
        """logits (B, 1 or K), cache. ids (B, T); lengths (B,), tokens from there on are padding."""
        ids, counted = self._count(ids, lengths, self.weight.real.dtype)
        rows, found = embedding(ids, self.weight, cache=cache)  # (B, T, K)
        logits = (rows * counted).sum(axis=1) + self.bias  # (B, K)
        return logits, (BagOfWordsCache(found, counted) if cache else None)

    def backward(self, dlogits: Array, cache: BagOfWordsCache, *, need_dx: bool = False) -> tuple[None, Gradients]:
        """(None, gradients) from the gradient of the logits: ids have none, whatever `need_dx` says."""
        dweight = dbias = None
        if "weight" not in self.frozen:
            dweight = embedding_backward(dlogits[:, None, :] * cache.counted, cache.rows)
        if "bias" not in self.frozen:
            dbias = dlogits.sum(axis=0)
        return None, self.grads(weight=dweight, bias=dbias)
