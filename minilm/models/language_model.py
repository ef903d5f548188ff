"""A left-to-right language model: a causal backbone and a linear head over the vocabulary.

    logits_t = W_o hidden_t + b_o             P(w_{t+1} | w_0 … w_t) = softmax(logits_t)
    loss = −⟨log P(w_{t+1} | w_0 … w_t)⟩       in nats a token, over all targets but those that are −100

Maximising the likelihood Π P(w_{t+1} | w_0 … w_t) of a text is minimising this loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import Array
from minilm.layers.base import Gradients, Layer, merge
from minilm.layers.linear import Linear
from minilm.models.backbone import Backbone
from minilm.ops.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.ops.linear import linear, linear_backward
from minilm.options import check_options, option


@dataclass(frozen=True)
class LanguageModelOptions:
    """Options of the head of a language model."""

    tied: bool = option(
        False, "the output layer is the embedding's matrix, which must be as wide as the hidden vectors"
    )

    def __post_init__(self) -> None:
        check_options(self)


class LanguageModelCache(NamedTuple):
    """The caches of backbone and head; the loss's too where there is one."""

    backbone: Any
    head: Any
    loss: Any = None


class LanguageModel(Layer):
    """Children backbone and head (Linear C -> V). With `tied` the head is the embedding's own matrix, without bias.

    Raises ValueError for a backbone that sees later tokens: the word to be predicted would be among its inputs.
    [tying: Press & Wolf 2017]
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        tied: bool = False,
        bias: bool = True,
        rng: np.random.Generator,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        if backbone.bidirectional:
            raise ValueError(
                f"a language model predicts each token from those before it, but this {type(backbone).__name__} sees "
                "later tokens too (bidirectional or unmasked): build it causal and in one direction"
            )
        self.tied = tied
        self.children["backbone"] = backbone
        if not tied:
            self.children["head"] = Linear(backbone.width, backbone.vocab_size, bias, rng=rng, dtype=dtype)
        elif backbone.embedding.weight.shape[1] != backbone.width:
            raise ValueError(
                f"a tied head needs hidden vectors as wide as the embedding, but they are {backbone.width} and "
                f"{backbone.embedding.weight.shape[1]} wide; set tied=False or equal sizes"
            )

    @property
    def context(self) -> int | None:
        return self.backbone.context

    def _head(self, hidden: Array, train: bool, cache: bool, rng: Any = None) -> tuple[Array, Any]:
        if self.tied:
            return linear(hidden, self.backbone.embedding.weight, cache=cache)
        return self.head.forward(hidden, train=train, cache=cache, rng=rng)

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, LanguageModelCache | None]:
        """logits (B, T, V), cache. ids (B, T)."""
        hidden, body = self.backbone.forward(ids, lengths=lengths, train=train, cache=cache, rng=rng)  # (B, T, C)
        logits, head = self._head(hidden, train, cache, rng)  # (B, T, V)
        return logits, (LanguageModelCache(body, head) if cache else None)

    def backward(self, dlogits: Array, cache: LanguageModelCache, *, need_dx: bool = False) -> tuple[None, Gradients]:
        """(None, gradients) from the gradient of the logits (B, T, V): ids have none, whatever `need_dx` says."""
        grads: Gradients = {}
        below = not self.backbone.is_frozen
        if self.tied:
            embedding = self.backbone.embedding
            wrt = ({"x"} if below else set()) | (set() if "weight" in embedding.frozen else {"weight"})
            dhidden, dweight, _ = linear_backward(dlogits, cache.head, wrt=wrt)
            own = {} if dweight is None else {"backbone.embedding.weight": dweight}
        else:
            dhidden, own = self.head.backward(dlogits, cache.head, need_dx=below)
            own = {f"head.{name}": gradient for name, gradient in own.items()}
        if below:
            merge(grads, self.backbone.backward(dhidden, cache.backbone)[1], "backbone.")
        return None, merge(grads, own)

    def loss(
        self, batch: Any, *, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, LanguageModelCache | None]:
        """Cross-entropy in nats a token. batch.ids and batch.targets (B, T); targets of −100 don't count."""
        logits, caches = self.forward(batch.ids, train=train, cache=cache, rng=rng)
        loss, loss_cache = cross_entropy(logits, batch.targets, cache=cache)
        return loss, (None if caches is None else caches._replace(loss=loss_cache))

    def loss_backward(self, dloss: float | Array, cache: LanguageModelCache) -> Gradients:
        """The gradients of dloss · loss."""
        return self.backward(cross_entropy_backward(dloss, cache.loss), cache)[1]

    def next_logits(self, ids: Array, state: Any = None) -> tuple[Array, Any]:
        """The logits (B, V) of the token after ids (B, T), which follow the tokens in `state`, and the new state."""
        hidden, state = self.backbone.step(ids, state)  # (B, T, C)
        logits, _ = self._head(hidden[:, -1], train=False, cache=False)  # (B, V)
        return logits, state
