"""Every preset, in many settings: gradients by complex step, libraries and precision, freezing."""

import contextlib

import numpy as np
import pytest

from minilm import gradcheck
from minilm.models.bag_of_words import WEIGHTINGS, BagOfWords
from tests import strict_cupy
from tests.layers.helpers import check_freezing
from tests.models.tiny import CLASSIFIERS, MODELS, V, batch, make


def check(model, data, train=True):
    report = gradcheck.check_model(model, data, train=train, method="complex-step")
    assert report.passed and report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("name", MODELS)
def test_gradient(name):
    check(make(name), batch())


@pytest.mark.parametrize("name", ["gpt", "attention-lstm-lm", "everything at once"])
def test_a_model_is_a_layer(name):
    """Of the logits instead of the loss; ids have no gradient."""
    report = gradcheck.check_layer(make(name), batch().ids, method="complex-step")
    assert report.passed and report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradient_with_three_classes(name):
    check(make(name, classes=3), batch(classes=3))


@pytest.mark.parametrize("name", ["gpt", "attention-lstm-lm", "everything at once"])
def test_gradient_with_dropout(name):
    check(make(name, dropout=0.3), batch())


@pytest.mark.parametrize("name", MODELS)
def test_gradient_in_inference(name):
    """A model is differentiated as it infers: nothing is drawn, although there is dropout and no generator."""
    model, data = make(name, dropout=0.3), batch()
    assert model.loss(data, train=False)[0] == make(name).loss(data)[0]
    check(model, data, train=False)


@pytest.mark.parametrize("name", MODELS)
def test_no_cache(name):
    """cache=False keeps nothing and draws the same noise."""
    model, data = make(name, dropout=0.3), batch()
    loss, _ = model.loss(data, rng=np.random.default_rng(0))
    logits, _ = model.forward(data.ids, rng=np.random.default_rng(0))
    assert model.loss(data, cache=False, rng=np.random.default_rng(0)) == (loss, None)
    again, none = model.forward(data.ids, cache=False, rng=np.random.default_rng(0))
    assert none is None
    np.testing.assert_array_equal(again, logits)


@pytest.mark.parametrize("name", MODELS)
def test_library(name, xp):
    """A training step in float32 stays in the library and in float32, without a wait, and gives NumPy's numbers."""

    def step(library):
        model = make(name, "float32", dropout=0.2).to(library)
        data = batch() if library is np else batch(xp)
        with strict_cupy.no_sync() if xp.name == "strict" else contextlib.nullcontext():
            loss, cache = model.loss(data, rng=np.random.default_rng(0))
            grads = model.loss_backward(1.0, cache)
            inference, none = model.loss(data, train=False, cache=False)
        assert none is None
        results = [loss, inference, *(grads[key] for key in model.parameters())]
        assert all(array.dtype == np.float32 for array in results)
        return results

    for got, want in zip(step(xp.module), step(np), strict=True):
        np.testing.assert_allclose(xp.to_numpy(got), want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_freezing(name):
    model, data = make(name), batch()
    check_freezing(model, lambda: model.loss_backward(1.0, model.loss(data)[1]))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_bag_of_words(weighting, classes, rng, xp):
    model = BagOfWords(V, classes, weighting=weighting, dtype="float64")
    for array in model.params.values():
        array += rng.normal(size=array.shape)
    data = batch(classes=classes)
    check(model, data)
    check(model, data, train=False)
    assert model.loss(data, cache=False) == (model.loss(data)[0], None)
    check_freezing(model, lambda: model.loss_backward(1.0, model.loss(data)[1]))
    want = model.loss(data)[0]
    with strict_cupy.no_sync() if xp.name == "strict" else contextlib.nullcontext():
        loss, cache = model.to(xp.module, "float32").loss(batch(xp, classes=classes))
        grads = model.loss_backward(1.0, cache)
    assert loss.dtype == np.float32 and all(g.dtype == np.float32 for g in grads.values())
    np.testing.assert_allclose(xp.to_numpy(loss), want, rtol=1e-5)


def test_backward_stops_below_the_last_trained_block(monkeypatch):
    model = make("gpt", tied=False)
    model.freeze("backbone.embedding.*", "backbone.positions.*", "backbone.blocks.0.*")
    _, cache = model.loss(batch())
    monkeypatch.setattr(model.backbone.blocks.children["0"], "backward", None)
    monkeypatch.setattr(model.backbone.embedding, "backward", None)
    assert model.loss_backward(1.0, cache).keys() == model.trainable().keys()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_frozen_backbone_is_a_fixed_extractor(name, monkeypatch):
    """Training the head alone: no cache is made below it and no backward run; noise is drawn as ever."""
    model = make(name, dropout=0.5)
    trained, _ = model.loss(batch(), rng=np.random.default_rng(0))
    model.freeze("backbone.*")
    loss, cache = model.loss(batch(), rng=np.random.default_rng(0))
    assert loss == trained
    assert cache.logits.steps[0] is cache.logits.steps[1] is None
    monkeypatch.setattr(model.backbone, "backward", None)
    assert model.loss_backward(1.0, cache).keys() == {"head.weight", "head.bias"}
