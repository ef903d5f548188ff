"""Every preset, in many settings: gradients by complex step, libraries and precision, freezing."""

import contextlib

import numpy as np
import pytest

from minilm import gradcheck
from minilm.models.bag_of_words import WEIGHTINGS, BagOfWords
from tests import strict_cupy
from tests.layers.helpers import check_freezing
from tests.models.tiny import CLASSIFIERS, MODELS, V, batch, make


def check(model, data):
    report = gradcheck.check_model(model, data, method="complex-step")
    assert report.passed and report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("name", MODELS)
def test_gradient(name):
    check(make(name), batch())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradient_with_three_classes(name):
    check(make(name, classes=3), batch(classes=3))


@pytest.mark.parametrize("name", ["gpt", "attention-lstm-lm", "everything at once"])
def test_gradient_with_dropout(name):
    check(make(name, dropout=0.3), batch())


@pytest.mark.parametrize("name", MODELS)
def test_library(name, xp):
    """A training step in float32 stays in the library and in float32, without a wait, and gives NumPy's numbers."""

    def step(library):
        model = make(name, "float32", dropout=0.2).to(library)
        data = batch() if library is np else batch(xp)
        with strict_cupy.no_sync() if xp.name == "strict" else contextlib.nullcontext():
            loss, cache = model.loss(data, rng=np.random.default_rng(0))
            grads = model.backward(cache)
            inference, none = model.loss(data, train=False)
        assert none is None
        results = [loss, inference, *(grads[key] for key in model.parameters())]
        assert all(array.dtype == np.float32 for array in results)
        return results

    for got, want in zip(step(xp.module), step(np), strict=True):
        np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_freezing(name):
    model, data = make(name), batch()
    check_freezing(model, lambda: model.backward(model.loss(data)[1]))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_bag_of_words(weighting, classes, rng, xp):
    model = BagOfWords(V, classes, weighting=weighting, dtype="float64")
    for array in model.params.values():
        array += rng.normal(size=array.shape)
    data = batch(classes=classes)
    check(model, data)
    check_freezing(model, lambda: model.backward(model.loss(data)[1]))
    want = model.loss(data)[0]
    with strict_cupy.no_sync() if xp.name == "strict" else contextlib.nullcontext():
        loss, cache = model.to(xp.module, "float32").loss(batch(xp, classes=classes))
        grads = model.backward(cache)
    assert loss.dtype == np.float32 and all(g.dtype == np.float32 for g in grads.values())
    np.testing.assert_allclose(xp.to_numpy(loss), want, rtol=1e-5)


def test_backward_stops_below_the_last_trained_block(monkeypatch):
    model = make("gpt", tied=False)
    model.freeze("backbone.embedding.*", "backbone.positions.*", "backbone.blocks.0.*")
    _, cache = model.loss(batch())
    monkeypatch.setattr(model.backbone.blocks.children["0"], "backward", None)
    monkeypatch.setattr(model.backbone.embedding, "backward", None)
    assert model.backward(cache).keys() == model.trainable().keys()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_frozen_backbone_is_a_fixed_extractor(name, monkeypatch):
    """Training the head alone: no cache is made below it, no dropout drawn, no backward run."""
    model = make(name, dropout=0.5)
    model.freeze("backbone.*")
    _, cache = model.loss(batch(), rng=None)
    assert cache.logits.backbone is None
    monkeypatch.setattr(model.backbone, "backward", None)
    assert model.backward(cache).keys() == {"head.weight", "head.bias"}
