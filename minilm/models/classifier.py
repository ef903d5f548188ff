"""Text classification: a backbone, one vector a text, a linear head.

    logits = W pool(hidden) + b
    two classes      one logit, P(1) = σ(logit), binary cross-entropy: logistic regression on the pooled vector
    K classes        K logits, P = softmax(logits), cross-entropy

`Classifier` is what every classifier has in common: loss and probabilities from the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.layers.base import Gradients, Layer, merge
from minilm.layers.linear import Linear
from minilm.models.backbone import Backbone
from minilm.ops.binary_cross_entropy_with_logits import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
)
from minilm.ops.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.ops.pool import POOLINGS, pool, pool_backward
from minilm.ops.sigmoid import sigmoid
from minilm.ops.softmax import softmax
from minilm.options import check_options, option


@dataclass(frozen=True)
class ClassifierOptions:
    """Options of the head of a classifier."""

    labels: tuple[str, ...] = option(("0", "1"), "the names of the classes")
    pooling: str | None = option(None, "how a text's hidden vectors become one; by default mean", choices=POOLINGS)

    def __post_init__(self) -> None:
        check_options(self)
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"a classifier needs at least 2 different labels, got {', '.join(self.labels) or 'none'}")


class ClassifierCache(NamedTuple):
    """The cache of the logits and that of the loss."""

    logits: Any
    loss: Any


class Classifier(Layer):
    """Loss and probabilities over `forward(ids, lengths=...) -> (logits, cache)` and `backward(dlogits, cache)`.

    logits are (B, 1) for two classes, else (B, K).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
        self.classes = classes

    def forward(
        self, x: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, Any]:
        """logits (B, 1 or K), cache. x: ids (B, T); lengths (B,), tokens from there on are padding."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    @property
    def outputs(self) -> int:
        """How many logits a text gets."""
        return 1 if self.classes == 2 else self.classes

    def loss(
        self, batch: Any, *, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, ClassifierCache | None]:
        """Mean cross-entropy in nats a text. batch.ids (B, T), batch.lengths (B,), batch.labels (B,) in 0 … K−1."""
        logits, body = self.forward(batch.ids, lengths=batch.lengths, train=train, cache=cache, rng=rng)
        loss, loss_cache = self.loss_of(logits, batch.labels, cache=cache)
        return loss, (ClassifierCache(body, loss_cache) if cache else None)

    def loss_of(self, logits: Array, labels: Array, *, cache: bool = True) -> tuple[Array, Any]:
        """The mean cross-entropy of logits (B, 1 or K), and its cache. labels (B,)."""
        if self.outputs == 1:
            return binary_cross_entropy_with_logits(logits[:, 0], labels.astype(logits.real.dtype), cache=cache)
        return cross_entropy(logits, labels, cache=cache)

    def predictions(self, logits: Array) -> Array:
        """The likeliest class (B,) of logits (B, 1 or K)."""
        return (logits[:, 0] > 0).astype("int64") if self.outputs == 1 else logits.argmax(axis=1)

    def loss_backward(self, dloss: float | Array, cache: ClassifierCache) -> Gradients:
        """The gradients of dloss · loss."""
        if self.outputs == 1:
            dlogits = binary_cross_entropy_with_logits_backward(dloss, cache.loss)[:, None]  # (B, 1)
        else:
            dlogits = cross_entropy_backward(dloss, cache.loss)  # (B, K)
        return self.backward(dlogits, cache.logits)[1]

    def probabilities(self, ids: Array, lengths: Array | None = None) -> Array:
        """P (B, K), rows sum to 1."""
        logits, _ = self.forward(ids, lengths=lengths, train=False, cache=False)
        if self.outputs == 1:
            positive, _ = sigmoid(logits, cache=False)
            negative, _ = sigmoid(-logits, cache=False)  # 1 − P(1) without cancellation
            return array_namespace(logits).concatenate((negative, positive), axis=1)  # (B, 2)
        return softmax(logits, cache=False)[0]


class TextClassifierCache(NamedTuple):
    backbone: Any
    pool: Any
    head: Any


class TextClassifier(Classifier):
    """Children backbone and head (Linear C -> 1 or K). pooling: "last", "mean" or "max", see `ops.pool`.

    The backbone may come from a language model. One that is wholly frozen keeps no cache.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int = 2,
        pooling: str = "last",
        rng: np.random.Generator | None = None,
        *,
        dtype: str = "float32",
    ) -> None:
        super().__init__(classes)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is unknown; choose one of {', '.join(POOLINGS)}")
        if rng is None:
            raise ValueError("TextClassifier draws its head: give rng=numpy.random.default_rng(seed)")
        self.pooling = pooling
        self.children["backbone"] = backbone
        self.children["head"] = Linear(backbone.width, self.outputs, rng=rng, dtype=dtype)

    @property
    def context(self) -> int | None:
        return self.backbone.context

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, TextClassifierCache | None]:
        """logits (B, 1 or K), cache. ids (B, T); lengths (B,), tokens from there on are padding."""
        below = cache and not self.backbone.is_frozen
        hidden, body = self.backbone.forward(ids, lengths=lengths, train=train, cache=below, rng=rng)  # (B, T, C)
        pooled, chosen = pool(hidden, lengths, self.pooling, self.backbone.directions, cache=below)  # (B, C)
        logits, head = self.head.forward(pooled, train=train, cache=cache, rng=rng)  # (B, 1 or K)
        return logits, (TextClassifierCache(body, chosen, head) if cache else None)

    def backward(self, dlogits: Array, cache: TextClassifierCache, *, need_dx: bool = False) -> tuple[None, Gradients]:
        """(None, gradients) from the gradient of the logits: ids have none, whatever `need_dx` says."""
        below = cache.backbone is not None and not self.backbone.is_frozen
        dpooled, own = self.head.backward(dlogits, cache.head, need_dx=below)
        grads: Gradients = {}
        if below:
            dhidden = pool_backward(dpooled, cache.pool)  # (B, T, C)
            merge(grads, self.backbone.backward(dhidden, cache.backbone)[1], "backbone.")
        return None, merge(grads, own, "head.")
