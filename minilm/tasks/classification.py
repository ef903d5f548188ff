"""Classification: one label per text.

A tenth of the training texts is held out to choose the best checkpoint; test texts are never trained on. Long texts
keep their last `max_length` tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minilm.backend import array_namespace, asarray_like, to_numpy
from minilm.layers.base import Layer
from minilm.memory import MemoryPool
from minilm.models.backbone import Backbone
from minilm.models.classifier import Classifier, ClassifierOptions
from minilm.options import check_options, make_options, option, shallow
from minilm.tasks.base import Setting, Task
from minilm.tasks.metrics import classification_scores, confusion_matrix
from minilm.text.batching import BucketSampler, ClassificationBatch, pad_sequences
from minilm.text.datasets import LabelledTexts, load_labelled, train_validation_split
from minilm.train.data import Metric, batch_like

HELD_OUT = 0.1  # of the training texts, to choose the best checkpoint


@dataclass(frozen=True)
class ClassificationOptions:
    """What can be said about labelled texts."""

    text_column: str | None = option(None, "column with the text; by default found by its name")
    label_column: str | None = option(None, "column with the label; by default found by its name")
    max_length: int | None = option(None, "tokens read of each text, the last ones; by default all", at_least=1)
    max_examples: int | None = option(None, "training texts read; by default all", at_least=1)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def columns(self) -> dict[str, Any]:
        return {"text_column": self.text_column, "label_column": self.label_column}


class TrainingTexts(NamedTuple):
    """What a classifier is trained on, and what chooses its best checkpoint."""

    kept: LabelledTexts
    held_out: LabelledTexts

    def texts(self) -> Iterable[str]:
        return self.kept.texts


class Classification(Task):
    name = "classification"
    summary = "one label per text"
    options = ClassificationOptions
    head = ClassifierOptions
    predicts = later_texts = True
    held_out = "the test texts"

    def labelled(self, source: str, split: str | None, options: ClassificationOptions) -> LabelledTexts:
        """The texts of a source to train on or to test on; None: all."""
        return load_labelled(source, split=split, **options.columns)

    def read(self, sources: Sequence[str], options: ClassificationOptions, seed: int) -> TrainingTexts:
        texts = self.labelled(one_source(sources), "train", options)
        if options.max_examples is not None and options.max_examples < len(texts):
            texts = train_validation_split(texts, options.max_examples / len(texts), seed)[1]
        return TrainingTexts(*train_validation_split(texts, HELD_OUT, seed))

    def head_for(self, examples: TrainingTexts, given: dict[str, Any]) -> dict[str, Any]:
        return given | {"labels": examples.kept.label_names}

    def model(self, backbone: Backbone, head: ClassifierOptions, *, rng: Any, dtype: str) -> Layer:
        return backbone.classifier(len(head.labels), head.pooling, rng=rng, dtype=dtype)

    def data(self, setting: Setting) -> ClassificationData:
        kept, held_out = self.read(setting.sources, setting.options, setting.seed)
        batch_size, micro_batches = setting.training.batch_size, setting.training.micro_batches
        sampler = _sampler(setting, kept, batch_size, micro_batches=micro_batches)
        return ClassificationData(sampler, _sampler(setting, held_out, batch_size))

    def scores(
        self, setting: Setting, model: Any, sources: Sequence[str] | None, options: dict[str, Any], batch_size: int
    ) -> dict[str, Any]:
        """Loss, accuracy, precision, recall, F1 (of the second label where there are two, else macro), confusions."""
        if "max_examples" in options:
            raise ValueError("max_examples says how many texts are trained on, not tested on; leave it out")
        chosen = make_options(self.options, shallow(setting.options) | options, self.name)
        setting = setting._replace(options=chosen)
        texts = self._test_texts(setting, sources, chosen)
        batches = (batch for batch, _ in _sampler(setting, texts, batch_size).sequential())
        return evaluate_classifier(model, batches, names=setting.model.head.labels)

    def _test_texts(
        self, setting: Setting, sources: Sequence[str] | None, options: ClassificationOptions
    ) -> LabelledTexts:
        own, labels = setting.sources[0], setting.model.head.labels
        source = own if sources is None else one_source(sources)
        if own in (source, str(Path(source).resolve())):
            return self.labelled(own, "test", options)
        whole_file = Path(source).is_file()  # other sources say themselves which of their texts are for testing
        texts = self.labelled(source, None if whole_file else "test", options)
        if texts.label_names != tuple(labels):
            raise ValueError(
                f"{source} has the labels {', '.join(texts.label_names)}; the run knows {', '.join(labels)}"
            )
        return texts

    def predict(self, setting: Setting, model: Layer, inputs: Sequence[str], batch_size: int) -> list[dict[str, float]]:
        """The probability of every label for each text, by the labels' names."""
        like, labels, predictions = model.array, setting.model.head.labels, []
        sequences = setting.tokenizer.encode_batch(inputs)
        for first in range(0, len(sequences), batch_size):
            part = sequences[first : first + batch_size]
            ids, lengths = pad_sequences(part, setting.tokenizer.pad_id or 0, _longest(setting))
            rows = to_numpy(model.probabilities(asarray_like(ids, like), asarray_like(lengths, like)))  # (B, K)
            predictions += [dict(zip(labels, map(float, row), strict=True)) for row in rows]
        return predictions

    def shown(self, prediction: dict[str, float]) -> tuple[dict[str, Any], str]:
        best = max(prediction, key=prediction.__getitem__)
        return {"label": best, "probabilities": prediction}, f"{best}\t{prediction[best]:.3f}"


def one_source(sources: Sequence[str]) -> str:
    """The only one of `sources`. Raises ValueError where there are several."""
    if len(sources) != 1:
        raise ValueError(f"one source of labelled texts is expected, {len(sources)} were given: {', '.join(sources)}")
    return sources[0]


def _longest(setting: Setting) -> int | None:
    """Tokens read of each text: no more than the model's context, and no more than the options say."""
    return min((n for n in (setting.options.max_length, setting.model.context) if n), default=None)


def _sampler(setting: Setting, texts: LabelledTexts, batch_size: int, micro_batches: int = 1) -> BucketSampler:
    return BucketSampler(
        setting.tokenizer.encode_batch(texts.texts),
        texts.labels,
        batch_size,
        setting.seed,
        _longest(setting),
        pad_id=setting.tokenizer.pad_id,
        micro_batches=micro_batches,
        vocab_size=setting.model.vocab_size,
    )


class ClassificationData:
    """Labelled texts in batches of similar length: `train` is drawn from, `validation` is held out.

    A step takes as many batches as `train` was told (`BucketSampler(..., micro_batches=M)`).
    """

    metric = Metric("val_accuracy", higher_is_better=True)

    def __init__(self, train: BucketSampler, validation: BucketSampler, *, validation_batch_size: int = 64) -> None:
        self.train, self.validation, self.validation_batch_size = train, validation, validation_batch_size

    @property
    def micro_batches(self) -> int:
        return self.train.micro_batches

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.train.batches_per_epoch // self.micro_batches)  # rounded up

    @property
    def eval_every(self) -> int:
        return self.steps_per_epoch

    def batch(self, step: int, micro: int = 0) -> ClassificationBatch:
        return self.train.batch(step, micro)

    def validate(self, model: Any) -> dict[str, float]:
        batches = (batch for batch, _ in self.validation.sequential(self.validation_batch_size))
        scores = evaluate_classifier(model, batches)
        return {"val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}


def evaluate_classifier(
    model: Classifier, batches: Iterable[ClassificationBatch], *, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """`classification_scores` of a text classifier on `batches`, of any sizes. `names` are those of the classes."""
    like = model.array
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
    loss, _ = model.loss_of(logits, targets, cache=False)
    matrix = confusion_matrix(targets, model.predictions(logits), model.classes)
    return classification_scores(matrix, names or [str(k) for k in range(model.classes)], float(loss))
