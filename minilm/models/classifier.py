"""Text classification: a backbone, one vector per text, a linear head.

    logits = W pool(hidden) + b
    two classes      one logit, P(1) = σ(logit), binary cross-entropy: logistic regression on the pooled vector
    K classes        K logits, P = softmax(logits), cross-entropy

`Classifier` is what every classifier has in common: loss and probabilities from the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace
from minilm.checks import whole
from minilm.layers.base import Gradients, Layer
from minilm.layers.chain import ChainCache, Composite
from minilm.layers.linear import Linear
from minilm.layers.pooling import Pooling
from minilm.models.backbone import Backbone, LossCache
from minilm.ops.binary_cross_entropy_with_logits import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
)
from minilm.ops.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.ops.pool import POOLINGS
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


class Classifier(Layer):
    """Loss and probabilities over `forward(ids, lengths=...) -> (logits, cache)` and `backward(dlogits, cache)`.

    logits are (B, 1) for two classes, else (B, K).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = whole("classes", classes, 2)

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
    ) -> tuple[Array, LossCache | None]:
        """Mean cross-entropy in nats per text. batch.ids (B, T), batch.lengths (B,), batch.labels (B,) in 0 … K−1."""
        logits, below = self.forward(batch.ids, lengths=batch.lengths, train=train, cache=cache, rng=rng)
        loss, own = self.loss_of(logits, batch.labels, cache=cache)
        return loss, (LossCache(below, own) if cache else None)

    def loss_of(self, logits: Array, labels: Array, *, cache: bool = True) -> tuple[Array, Any]:
        """The mean cross-entropy of logits (B, 1 or K), and its cache. labels (B,)."""
        if self.outputs == 1:
            return binary_cross_entropy_with_logits(logits[:, 0], labels.astype(logits.real.dtype), cache=cache)
        return cross_entropy(logits, labels, cache=cache)

    def predictions(self, logits: Array) -> Array:
        """The likeliest class (B,) of logits (B, 1 or K)."""
        return (logits[:, 0] > 0).astype("int64") if self.outputs == 1 else logits.argmax(axis=1)

    def loss_backward(self, dloss: float | Array, cache: LossCache) -> Gradients:
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


class TextClassifier(Classifier, Composite):
    """Children backbone, pool and head (Linear C -> 1 or K). pooling: "last", "mean" or "max", see `ops.pool`.

    The backbone may come from a language model.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int = 2,
        pooling: str = "last",
        *,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__(classes)
        self.children["backbone"] = backbone
        self.children["pool"] = Pooling(pooling, backbone.directions)
        self.children["head"] = Linear(backbone.width, self.outputs, rng=rng, dtype=dtype)

    @property
    def context(self) -> int | None:
        return self.backbone.context

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, ChainCache | None]:
        """logits (B, 1 or K), cache, of ids (B, T). lengths (B,): tokens from there on are padding."""
        given = {"lengths": lengths}
        return self.chain.forward(ids, train=train, cache=cache, rng=rng, backbone=given, pool=given)
