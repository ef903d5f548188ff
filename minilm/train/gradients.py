"""Loss and gradients of one batch on several threads: each takes some of its rows, all the way forward and back.

    L = Σ_p w_p L_p,   w_p = (terms of part p) / (terms of the batch)          ∂L/∂θ = Σ_p ∂(w_p L_p)/∂θ, in this order

A whole pass in each thread needs two meetings a step, where threads within each operation would need hundreds; NumPy
releases the interpreter's lock while it computes. The rows of a batch must not depend on each other: a model with batch
normalization, whose rows share their statistics, is not split. Nor is a batch that is too small to give every thread
its part: the threads serve within the operations then.

Measured with 2 threads against threads within the operations: a GPT step of 6 layers, width 384 (8 x 256 tokens) is
1.17 times as fast; one of 4 layers, width 128 (12 or 32 x 64) is no faster, and is not split. float32, medians.

The same number of threads gives the same bits. Another number rounds, and draws its dropout, differently.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minilm import threads
from minilm.backend import Array, array_namespace, generator
from minilm.layers.base import Gradients, Layer
from minilm.layers.recurrent import Recurrent
from minilm.memory import MemoryPool
from minilm.train.data import batch_rows

# What each thread gets at least. The interpreter runs one thread at a time: between short calls threads wait in turn.
MINIMUM_NUMBERS = 1 << 18  # in an activation, tokens times width
MINIMUM_STATE = 1 << 11  # in a recurrent state, rows times width


class BatchGradients:
    """The function batch -> (loss, gradients of each part) of one model. Each keeps its thread's memory."""

    def __init__(self, model: Layer) -> None:
        self.model = model
        self.pools: list[MemoryPool] = [MemoryPool()]
        layers = [layer for _, layer in model.walk()]
        self.divisible = not any(layer.mixes_rows for layer in layers)
        self.width = max((min(p.shape) for p in model.parameters().values() if p.ndim == 2), default=0)
        self.hidden = min((layer.hidden_size for layer in layers if isinstance(layer, Recurrent)), default=None)

    def __call__(self, batch: Any, weight: float = 1.0, seed: tuple[int, ...] = (0,)) -> tuple[Array, list[Gradients]]:
        """weight · loss, and the gradients of that, whose sum over the list is the batch's. `seed` is for dropout."""
        pieces = self._pieces(batch)
        if len(pieces) == 1:
            with self.pools[0]:
                loss, grads = self._differentiate(batch, weight, seed)
            return loss, [grads]
        while len(self.pools) < len(pieces):
            self.pools.append(MemoryPool())
        parts = [part for part in (batch_rows(batch, *piece) for piece in pieces) if part.terms]
        terms = [part.terms for part in parts]

        def work(first: int, last: int) -> tuple[Array, Gradients]:
            (number,) = range(first, last)
            with self.pools[number]:
                return self._differentiate(parts[number], weight * terms[number] / sum(terms), (*seed, number))

        results = threads.spread(work, len(parts))
        return sum(loss for loss, _ in results), [grads for _, grads in results]

    def _pieces(self, batch: Any) -> list[tuple[int, int]]:
        rows = len(batch.ids)
        host = array_namespace(batch.ids) is np
        number = threads.count()
        large = rows >= number and batch.ids.size * self.width >= number * MINIMUM_NUMBERS
        if self.hidden is not None:
            large = large and rows * self.hidden >= number * MINIMUM_STATE
        return threads.parts(rows, number) if host and self.divisible and large else [(0, rows)]

    def _differentiate(self, batch: Any, weight: float, seed: tuple[int, ...]) -> tuple[Array, Gradients]:
        # numbers that are not finite are found by the caller and reported once, by name
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            loss, cache = self.model.loss(batch, rng=generator(*seed))
            return loss * weight, self.model.loss_backward(weight, cache)
