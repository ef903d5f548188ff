"""Held-out scores: every token and example counts once, on both libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minilm.backend import array_namespace
from minilm.layers.embedding import Embedding
from minilm.models import Classifier
from minilm.tasks.classification import ClassificationData, evaluate_classifier
from minilm.tasks.language_modelling import LanguageData, evaluate_language_model
from minilm.text.batching import BucketSampler
from tests.train.toy import Toy, V, toy_tokens


class Mean(Classifier):
    """A classifier whose logits are the mean of its tokens' rows."""

    def __init__(self, outputs):
        super().__init__(max(outputs, 2))
        self.children["embedding"] = Embedding(V, outputs, rng=np.random.default_rng(8))

    def forward(self, ids, *, lengths=None, train=True, cache=True, rng=None):
        assert not train and not cache
        rows, _ = self.embedding.forward(ids, train=False, cache=False)  # (B, T, K)
        inside = array_namespace(ids).arange(ids.shape[1]) < lengths[:, None]  # (B, T)
        return (rows * inside[:, :, None].astype(rows.dtype)).sum(axis=1) / lengths[:, None].astype(rows.dtype), None


def direct_loss(model, tokens):
    """Mean of −log softmax over all tokens but the first, one at a time, in float64."""
    table = model.embedding.weight.astype(np.float64) @ model.head.weight.T.astype(np.float64) + model.head.bias
    table -= np.log(np.exp(table).sum(axis=1, keepdims=True))
    return -table[tokens[:-1], tokens[1:]].mean()


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("context", [1, 6, 44, 500])
def test_language_model(context, batch_size, xp):
    """45 tokens: the last window is padded and the last batch is short, and neither may shift the mean."""
    model, tokens = Toy(norm=False), toy_tokens(45)
    want = direct_loss(model, tokens)
    scores = evaluate_language_model(model.to(xp.module), tokens, context, batch_size, characters=90)
    assert scores["loss"] == pytest.approx(want, rel=1e-5)
    assert scores["tokens"] == 44
    assert scores["perplexity"] == pytest.approx(math.exp(want), rel=1e-5)
    assert scores["bits_per_character"] == pytest.approx(want * 44 / 90 / math.log(2), rel=1e-5)


def test_first_batches_only():
    model, tokens = Toy(norm=False), toy_tokens(45)
    scores = evaluate_language_model(model, tokens, 4, 2, max_batches=3)
    assert scores["tokens"] == 24
    assert scores["loss"] == pytest.approx(direct_loss(model, tokens[:25]), rel=1e-5)
    assert "bits_per_character" not in scores


def test_a_hopeless_model_has_infinite_perplexity():
    model = Toy(norm=False, dtype="float64")
    model.head.bias[:] = [-2000.0] + [0.0] * (V - 1)
    scores = evaluate_language_model(model, np.zeros(9, int), 4, 2)
    assert scores["perplexity"] == math.inf
    assert scores["loss"] > 1900


def test_too_short():
    with pytest.raises(ValueError, match="nothing to predict"):
        evaluate_language_model(Toy(), np.zeros(1, int), 4, 2)
    with pytest.raises(ValueError, match="held-out"):
        LanguageData(toy_tokens(50), toy_tokens(1), 4, 2)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_classifier(classes, batch_size, xp, rng):
    model = Mean(classes)
    texts = [rng.integers(0, V, length).tolist() for length in rng.integers(1, 9, size=11)]
    labels = rng.integers(0, max(2, classes), size=11)
    logits = np.array([model.embedding.weight.astype(np.float64)[text].mean(axis=0) for text in texts])  # (11, K)
    if classes == 1:  # a logistic regression is a softmax over (0, x)
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)  # (11, 2)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    sampler = BucketSampler(texts, labels, 4)
    batches = (batch for batch, _ in sampler.sequential(batch_size))
    scores = evaluate_classifier(model.to(xp.module), batches, names=["bad", "good", "neither"][: logits.shape[1]])
    assert scores["examples"] == 11
    assert scores["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert scores["loss"] == pytest.approx(-np.log(probabilities[np.arange(11), labels]).mean(), rel=1e-5)

    data = ClassificationData(sampler, sampler, validation_batch_size=batch_size)
    assert data.validate(model) == {"val_loss": scores["loss"], "val_accuracy": scores["accuracy"]}


def test_no_texts():
    with pytest.raises(ValueError, match="no texts"):
        evaluate_classifier(Mean(2), [])


def test_steps_per_epoch():
    assert (
        LanguageData(toy_tokens(300), toy_tokens(9), 6, 4, micro_batches=2).steps_per_epoch == 7
    )  # 299 / 48, rounded up
    sampler = BucketSampler([[1]] * 10, [0] * 10, 3, micro_batches=3)
    assert ClassificationData(sampler, sampler).steps_per_epoch == 2  # 4 batches in threes
