"""Held-out scores of a model: no dropout, no caches, every token or example counted once.

A mean over batches would weigh a short last batch like a full one; here each batch counts by what is in it. Losses are
natural logarithms (nats).  perplexity = exp(loss)   bits per character = loss · tokens / (characters · ln 2)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from minilm.backend import Array, array_namespace, asarray_like, to_numpy
from minilm.layers.base import Layer
from minilm.memory import MemoryPool
from minilm.ops.binary_cross_entropy_with_logits import binary_cross_entropy_with_logits
from minilm.ops.cross_entropy import cross_entropy
from minilm.text.batching import IGNORED, ClassificationBatch, WindowSampler
from minilm.text.corpus import TokenFile, token_array
from minilm.train.metrics import ClassificationReport


def an_array_of(model: Layer) -> Array:
    """Some parameter of `model`: it tells the array library that batches must move to."""
    return next(iter(model.parameters().values()))


def batch_like(batch: Any, like: Array) -> Any:
    """The batch (a NamedTuple) with its host arrays moved to the array library of `like`."""
    if array_namespace(like) is np or not hasattr(batch, "_replace"):
        return batch
    on_host = {name: value for name, value in batch._asdict().items() if isinstance(value, np.ndarray)}
    return batch._replace(**{name: asarray_like(value, like) for name, value in on_host.items()})


def evaluate_language_model(
    model: Layer,
    tokens: TokenFile | np.ndarray,
    context: int,
    batch_size: int,
    *,
    characters: int | None = None,
    max_batches: int | None = None,
) -> dict[str, Any]:
    """Loss of a language model on `tokens` (N,), cut into windows of `context` that do not overlap.

    Returns loss (nats per token), perplexity, tokens (those predicted), and, where the number of `characters` that the
    tokens stand for is given, bits_per_character. `max_batches` looks at a first part only. A text shorter than the
    context is one short window.
    """
    tokens = token_array(tokens)
    if len(tokens) < 2:
        raise ValueError(f"{len(tokens)} tokens leave nothing to predict; give a longer text")
    context = min(context, len(tokens) - 1)
    like = an_array_of(model)
    counts, losses = [], []
    with MemoryPool():
        for batch in islice(WindowSampler(tokens, context, batch_size).sequential(batch_size), max_batches):
            loss, _ = model.loss(batch_like(batch, like), train=False, cache=False)
            losses.append(loss)
            counts.append(int((batch.targets != IGNORED).sum()))
    total = sum(counts)
    loss = float(np.dot(_stack(losses), np.array(counts, dtype=np.float64)) / total)
    scores: dict[str, Any] = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf, "tokens": total}
    if characters is not None:
        scores["bits_per_character"] = loss * total / (characters * math.log(2))
    return scores


def evaluate_classifier(
    model: Layer, batches: Iterable[ClassificationBatch], *, names: Sequence[str] | None = None
) -> ClassificationReport:
    """Scores of a text classifier on `batches`, of any sizes. `names` are those of the classes.

    A model with one logit tells two classes apart (1 where the logit is above 0), else the largest logit wins.
    """
    like = an_array_of(model)
    found, labels = [], []
    with MemoryPool():
        for batch in batches:
            moved = batch_like(batch, like)
            logits, _ = model.forward(moved.ids, lengths=moved.lengths, train=False, cache=False)  # (B, 1 or K)
            found.append(logits)
            labels.append(batch.labels)
    if not labels:
        raise ValueError("there are no texts to evaluate the classifier on; give at least one batch")
    logits = to_numpy(array_namespace(like).concatenate(found)).astype(np.float64)  # (N, 1 or K)
    targets = np.concatenate(labels)  # (N,)
    if logits.shape[1] == 1:
        classes, predictions = 2, (logits[:, 0] > 0).astype(np.int64)
        loss, _ = binary_cross_entropy_with_logits(logits[:, 0], targets.astype(np.float64), cache=False)
    else:
        classes, predictions = logits.shape[1], logits.argmax(axis=1)
        loss, _ = cross_entropy(logits, targets, cache=False)
    return ClassificationReport.of(targets, predictions, classes, names, float(loss))


def _stack(scalars: list[Array]) -> np.ndarray:
    """0-d arrays as one float64 host array: on a GPU one transfer, not one for each."""
    xp = array_namespace(*scalars)
    return to_numpy(xp.stack([xp.asarray(scalar) for scalar in scalars])).astype(np.float64)  # (number of scalars,)
