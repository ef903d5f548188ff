"""What the training loop asks of data, and the two kinds there are: windows of a long text, and labelled texts.

A batch is a function of (step, micro-batch) and the seed alone, so a resumed run sees the very batches it would have.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from minilm.layers.base import Layer
from minilm.text.batching import BucketSampler, ClassificationBatch, LanguageBatch, WindowSampler
from minilm.text.corpus import TokenFile, token_array
from minilm.train.evaluation import evaluate_classifier, evaluate_language_model


class TrainingData(Protocol):
    """What `train` needs. Batches are NamedTuples of host arrays with a field `ids`, and `targets` or `labels`."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps (not micro-batches) that see each example about once."""

    def batch(self, step: int, micro: int) -> Any:
        """The micro-batch `micro` of step 0, 1, …; the same at every call."""

    def validate(self, model: Layer) -> dict[str, float]:
        """Scores on held-out data: val_loss in nats, val_accuracy where there are labels."""


def terms_of(batch: Any) -> int:
    """The number of terms that the loss of a batch is the mean of."""
    return batch.labels.size if hasattr(batch, "labels") else batch.targets.size


class LanguageData:
    """Windows of `context` tokens from `train_tokens` (N,); held out are `validation_tokens` (M,).

    Both may be token files larger than memory. `validation_batches` limits a validation to a first part
    of the held-out tokens. With `vocab_size` ids beyond it are an error.
    """

    def __init__(
        self,
        train_tokens: TokenFile | np.ndarray,
        validation_tokens: TokenFile | np.ndarray,
        context: int,
        batch_size: int,
        seed: int = 0,
        *,
        micro_batches: int = 1,
        validation_batches: int | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.sampler = WindowSampler(train_tokens, context, batch_size, seed, vocab_size=vocab_size)
        if len(token_array(validation_tokens)) < 2:
            raise ValueError("the held-out text has fewer than 2 tokens; give a longer text, or hold out more of it")
        self.validation_tokens, self.context, self.batch_size = validation_tokens, context, batch_size
        self.micro_batches, self.validation_batches = micro_batches, validation_batches

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.sampler.batches_per_epoch // self.micro_batches)  # rounded up

    def batch(self, step: int, micro: int = 0) -> LanguageBatch:
        return self.sampler.batch(step, micro)

    def validate(self, model: Layer) -> dict[str, float]:
        scores = evaluate_language_model(
            model, self.validation_tokens, self.context, self.batch_size, max_batches=self.validation_batches
        )
        return {"val_loss": scores["loss"]}


class ClassificationData:
    """Labelled texts in batches of similar length: `train` is drawn from, `validation` is held out.

    A step takes as many batches as `train` was told (`BucketSampler(..., micro_batches=M)`).
    """

    def __init__(self, train: BucketSampler, validation: BucketSampler, *, validation_batch_size: int = 64) -> None:
        self.train, self.validation, self.validation_batch_size = train, validation, validation_batch_size

    @property
    def micro_batches(self) -> int:
        return self.train.micro_batches

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.train.batches_per_epoch // self.micro_batches)  # rounded up

    def batch(self, step: int, micro: int = 0) -> ClassificationBatch:
        return self.train.batch(step, micro)

    def validate(self, model: Layer) -> dict[str, float]:
        batches = (batch for batch, _ in self.validation.sequential(self.validation_batch_size))
        report = evaluate_classifier(model, batches)
        return {"val_loss": report.loss, "val_accuracy": report.accuracy}
