"""A left-to-right language model: a causal backbone and a linear head over the vocabulary.

    logits_t = W_o hidden_t + b_o             P(w_{t+1} | w_0 … w_t) = softmax(logits_t)
    loss = −⟨log P(w_{t+1} | w_0 … w_t)⟩       in nats per token, over all targets but those that are −100

Maximising the likelihood Π P(w_{t+1} | w_0 … w_t) of a text is minimising this loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minilm.backend import Array
from minilm.layers.base import Gradients
from minilm.layers.chain import ChainCache, Composite
from minilm.layers.linear import Linear, TiedLinear
from minilm.models.backbone import Backbone, BackboneState, LossCache
from minilm.ops.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.options import check_options, option


@dataclass(frozen=True)
class LanguageModelOptions:
    """Options of the head of a language model."""

    tied: bool = option(
        False, "the output layer is the embedding's matrix, which must be as wide as the hidden vectors"
    )

    def __post_init__(self) -> None:
        check_options(self)


class LanguageModel(Composite):
    """Children backbone and head (Linear C -> V). With `tied` the head borrows the embedding's matrix, without bias.

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
        if not backbone.causal:
            raise ValueError(
                f"a language model predicts each token from those before it, but this {type(backbone).__name__} sees "
                "later tokens too (bidirectional or unmasked): build it causal and in one direction"
            )
        self.children["backbone"] = backbone
        if not tied:
            self.children["head"] = Linear(backbone.width, backbone.vocab_size, bias, rng=rng, dtype=dtype)
            return
        if backbone.embedding.weight.shape[1] != backbone.width:
            raise ValueError(
                f"a tied head needs hidden vectors as wide as the embedding, but they are {backbone.width} and "
                f"{backbone.embedding.weight.shape[1]} wide; set tied=False or equal sizes"
            )
        self.children["head"] = TiedLinear(backbone.embedding)

    @property
    def context(self) -> int | None:
        return self.backbone.context

    def forward(
        self, ids: Array, *, lengths: Array | None = None, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, ChainCache | None]:
        """logits (B, T, V), cache, of ids (B, T)."""
        return self.chain.forward(ids, train=train, cache=cache, rng=rng, backbone={"lengths": lengths})

    def loss(
        self, batch: Any, *, train: bool = True, cache: bool = True, rng: Any = None
    ) -> tuple[Array, LossCache | None]:
        """Cross-entropy in nats per token. batch.ids and batch.targets (B, T); targets of −100 don't count."""
        logits, below = self.forward(batch.ids, train=train, cache=cache, rng=rng)
        loss, own = cross_entropy(logits, batch.targets, cache=cache)
        return loss, (LossCache(below, own) if cache else None)

    def loss_backward(self, dloss: float | Array, cache: LossCache) -> Gradients:
        """The gradients of dloss · loss."""
        return self.backward(cross_entropy_backward(dloss, cache.loss), cache.logits)[1]

    def next_logits(self, ids: Array, state: BackboneState | None = None) -> tuple[Array, BackboneState]:
        """The logits (B, V) of the token after ids (B, T), which follow the tokens in `state`, and the new state."""
        hidden, seen = self.backbone.extend(ids, state)  # (B, T, C)
        logits, _ = self.head.forward(hidden[:, -1], train=False, cache=False)  # (B, V)
        return logits, seen
