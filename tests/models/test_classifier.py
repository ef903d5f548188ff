"""Classifiers: padding changes nothing, pooling takes what it says, probabilities are probabilities."""

import numpy as np
import pytest

from minilm.models.bag_of_words import WEIGHTINGS, BagOfWords
from minilm.models.classifier import TextClassifier
from minilm.models.transformer_backbone import TransformerBackbone
from tests.models.tiny import CLASSIFIERS, V, batch, make


def transformer(rng, pooling):
    backbone = TransformerBackbone(V, 8, 2, 2, positions="rotary", causal=False, rng=rng, dtype="float64")
    return TextClassifier(backbone, 3, pooling, rng=rng, dtype="float64")


def bag(rng, weighting):
    model = BagOfWords(V, 3, weighting=weighting, dtype="float64")
    model.params["weight"] += rng.normal(size=(V, 3))
    return model


MAKERS = {name: lambda rng, name=name: make(name, classes=3) for name in CLASSIFIERS}
MAKERS |= {f"transformer {kind}": lambda rng, kind=kind: transformer(rng, kind) for kind in ("last", "mean", "max")}
MAKERS |= {f"bag of words {kind}": lambda rng, kind=kind: bag(rng, kind) for kind in WEIGHTINGS}


@pytest.mark.parametrize("name", MAKERS)
def test_padding_changes_nothing(name, rng, xp):
    """Each text alone, unpadded, has the logits that it has in a padded batch, whatever the padding holds."""
    model, data = MAKERS[name](rng).to(xp.module), batch()
    padded = np.concatenate([data.ids, rng.integers(0, V, (3, 4))], axis=1)
    got, _ = model.forward(xp.asarray(padded), lengths=xp.asarray(data.lengths), train=False, cache=False)
    for row, length in enumerate(data.lengths):
        alone, _ = model.forward(xp.asarray(data.ids[row : row + 1, :length]), train=False, cache=False)
        np.testing.assert_allclose(xp.to_numpy(got)[row], xp.to_numpy(alone)[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities(classes, xp):
    model, data = make("bilstm-classifier", classes=classes).to(xp.module), batch(xp)
    logits = xp.to_numpy(model.forward(data.ids, lengths=data.lengths, train=False, cache=False)[0])
    got = xp.to_numpy(model.probabilities(data.ids, data.lengths))
    assert logits.shape == (3, 1 if classes == 2 else 3) and got.shape == (3, classes)
    scores = np.concatenate([np.zeros((3, 1)), logits], axis=1) if classes == 2 else logits
    np.testing.assert_allclose(got, np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), rtol=1e-12)


def test_loss_is_the_mean_negative_log_probability():
    for classes in (2, 3):
        model, data = make("conv-lstm-classifier", classes=classes), batch(classes=classes)
        p = model.probabilities(data.ids, data.lengths)
        np.testing.assert_allclose(model.loss(data)[0], -np.log(p[np.arange(3), data.labels]).mean())


@pytest.mark.parametrize("name", ["lstm-classifier", "bilstm-classifier"])
def test_last_is_the_final_state_of_each_direction(name):
    model, data = make(name), batch()
    x, _ = model.backbone.embedding.forward(data.ids, train=False, cache=False)
    (_, (h, _)), _ = model.backbone.rnn.forward(x, lengths=data.lengths, train=False, cache=False)
    want, _ = model.head.forward(np.concatenate(list(h), axis=-1), train=False, cache=False)
    got, _ = model.forward(data.ids, lengths=data.lengths, train=False, cache=False)
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_bag_of_words_is_a_product_with_counts(rng):
    data = batch()
    counts = np.zeros((3, V))
    for row, length in enumerate(data.lengths):
        np.add.at(counts[row], data.ids[row, :length], 1)
    want = {"count": counts, "binary": counts > 0, "frequency": counts / data.lengths[:, None]}
    for weighting, table in want.items():
        model = bag(rng, weighting)
        got, _ = model.forward(data.ids, lengths=data.lengths)
        np.testing.assert_allclose(got, table @ model.weight, atol=1e-14)


def test_backbone_of_a_language_model(rng):
    """Fine-tuning takes the backbone along, weights included."""
    language_model = make("gpt")
    classifier = TextClassifier(language_model.backbone, 3, "mean", rng=rng, dtype="float64")
    assert classifier.backbone is language_model.backbone and classifier.context == 6
    loss, cache = classifier.loss(batch(classes=3))
    assert np.isfinite(loss) and classifier.loss_backward(1.0, cache).keys() == classifier.parameters().keys()


def test_wrong_options(rng):
    backbone = make("gpt").backbone
    with pytest.raises(ValueError, match="max"):
        TextClassifier(backbone, 2, "first", rng=rng)
    with pytest.raises(ValueError, match="at least 2"):
        TextClassifier(backbone, 1, "last", rng=rng)
    with pytest.raises(ValueError, match="binary"):
        BagOfWords(V, weighting="tf")
