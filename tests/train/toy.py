"""A model and data that are as small as they can be and still have what makes resuming hard: dropout and buffers."""

from __future__ import annotations

import numpy as np

from minilm.layers.chain import Composite
from minilm.layers.dropout import Dropout
from minilm.layers.embedding import Embedding
from minilm.layers.linear import Linear
from minilm.layers.normalization import BatchNorm
from minilm.ops.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.tasks.language_modelling import LanguageData
from minilm.train import Metric

V, C = 7, 5  # vocabulary, channels


class Toy(Composite):
    """A language model that looks at one token only."""

    def __init__(self, dropout: float = 0.3, norm: bool = True, dtype: str = "float32") -> None:
        super().__init__()
        rng = np.random.default_rng(5)
        self.children["embedding"] = Embedding(V, C, rng=rng, dtype=dtype)
        if norm:
            self.children["norm"] = BatchNorm(C, dtype=dtype)
        self.children["dropout"] = Dropout(dropout)
        self.children["head"] = Linear(C, V, rng=rng, dtype=dtype)

    def loss(self, batch, *, train=True, cache=True, rng=None):
        logits, below = self.forward(batch.ids, train=train, cache=cache, rng=rng)
        loss, loss_cache = cross_entropy(logits, batch.targets, cache=cache)
        return loss, (below, loss_cache) if cache else None

    def loss_backward(self, dloss, cache):
        below, loss_cache = cache
        return self.backward(cross_entropy_backward(dloss, loss_cache), below)[1]


class FakeData:
    """What the loop asks of data, but for batches."""

    metric = Metric("val_loss", higher_is_better=False)
    steps_per_epoch, eval_every, micro_batches = 1, 250, 1

    def validate(self, model):
        return {"val_loss": 1.0}


def toy_tokens(count: int) -> np.ndarray:
    """Counting upwards modulo V, with one error in ten: something to learn, and something not to."""
    rng = np.random.default_rng(6)
    return np.where(rng.random(count) < 0.1, rng.integers(0, V, count), np.arange(count) % V)


def toy_data(micro_batches: int = 1, batch_size: int = 4) -> LanguageData:
    return LanguageData(toy_tokens(300), toy_tokens(45), 6, batch_size, seed=3, micro_batches=micro_batches)
