"""check_layer and check_model: whole trees of parameters, with toy layers and what can be wrong in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from minilm.gradcheck import check_layer, check_model
from minilm.layers.base import Layer, merge
from minilm.layers.chain import Composite
from minilm.layers.linear import Linear
from tests.gradcheck import toys


class Sine(Layer):
    def forward(self, x, *, train=True, cache=True, rng=None):
        return toys.array_namespace(x).sin(x), x if cache else None

    def backward(self, dy, cache, *, need_dx=True):
        return (dy * toys.array_namespace(cache).cos(cache) if need_dx else None), {}


class Stack(Composite):
    """Linear, sine, linear; `fault` plants a mistake."""

    def __init__(self, rng, fault=None, dtype="float64"):
        super().__init__()
        self.fault = fault
        self.children["first"] = Linear(4, 6, rng=rng, dtype=dtype)
        self.children["sine"] = Sine()
        self.children["second"] = Linear(6, 3, rng=rng, dtype=dtype)

    def forward(self, x, *, train=True, cache=True, rng=None):
        self.trained = train  # what no layer may do
        y, caches = super().forward(x, train=train, cache=cache or self.fault == "always a cache", rng=rng)
        return (2.0 * y if self.fault == "doubles as it infers" and not train else y), caches

    def backward(self, dy, cache, *, need_dx=True):
        if self.fault == "remembers the mode" and not self.trained:
            dy = 0.5 * dy
        dx, grads = super().backward(dy, cache, need_dx=need_dx or self.fault == "always dx")
        if self.fault == "wrong" and "first.weight" in grads:
            grads["first.weight"] = 1.001 * grads["first.weight"]
        if self.fault == "missing":
            grads.pop("second.bias", None)
        if self.fault == "extra":
            grads["third.weight"] = dy
        if self.fault == "ignores freezing" and "first.bias" not in grads:
            grads["first.bias"] = 0.0 * self.first.bias
        if self.fault == "freezing changes others" and "first.bias" not in grads:
            grads["first.weight"] = 2.0 * grads.get("first.weight", 0.0 * self.first.weight)
        if self.fault == "writes":
            cache.steps[0].x[0, 0] += 1.0
        return dx, grads


def test_sound_layer_passes(xp, rng):
    layer = Stack(rng).to(xp.module if xp.name != "numpy" else None)
    before = {name: (array, xp.to_numpy(array).copy()) for name, array in layer.parameters().items()}
    report = check_layer(layer, xp.asarray(rng.normal(size=(5, 4))))
    assert report, report
    assert report.max_rel_error < 1e-12
    assert {row.argument for row in report.rows} == {"x", *layer.parameters()}
    assert {row.method for row in report.rows} == {"complex-step"}
    for name, array in layer.parameters().items():  # the very same arrays, unchanged
        assert array is before[name][0]
        assert np.array_equal(xp.to_numpy(array), before[name][1])
    assert not any(sub.frozen for _, sub in layer.walk())


@pytest.mark.parametrize("mode", ["fast", "full"])
@pytest.mark.parametrize("method", ["auto", "central-difference"])
def test_modes_and_methods(method, mode, rng):
    assert check_layer(Stack(rng), rng.normal(size=(3, 4)), method=method, mode=mode)


@pytest.mark.parametrize(
    "fault, argument, text",
    [
        ("wrong", "first.weight", "FAIL Stack first.weight"),
        ("missing", "second.bias", "no gradient came back"),
        ("extra", "third.weight", "no trained parameter"),
        ("ignores freezing", "first.bias", "freezing first.bias: it still has a gradient"),
        ("freezing changes others", "first.weight", "freezing first.bias changes its gradient"),
        ("always dx", "x", "need_dx=False: it still has a gradient"),
        ("writes", "(all)", "writes to the argument x"),
        ("always a cache", "(all)", "forward with cache=False returns a cache"),
        ("remembers the mode", "first.weight", "train=False changes its gradient"),
        ("doubles as it infers", "first.weight", "train=False"),
    ],
)
def test_faults_are_found_and_named(fault, argument, text, rng):
    report = check_layer(Stack(rng, fault), rng.normal(size=(5, 4)))
    assert not report
    assert argument in {row.argument for row in report.failures}, report
    assert text in str(report), report


def test_inference_is_checked_alone_on_request(rng):
    layer, x = Stack(rng, "remembers the mode"), rng.normal(size=(5, 4))
    assert not check_layer(layer, x, train=False)
    report = check_layer(Stack(rng), x, train=False)
    assert report, report
    assert "train=False" in report.call


def test_frozen_parameters_stay_out(rng):
    layer = Stack(rng)
    layer.freeze("first.*")
    report = check_layer(layer, rng.normal(size=(5, 4)))
    assert report, report
    assert {row.argument for row in report.rows} == {"x", "second.weight", "second.bias"}
    assert layer.first.frozen == {"weight", "bias"}


class Running(Layer):
    """A layer with a buffer that each forward in training moves, and dropout."""

    def __init__(self):
        super().__init__()
        self.params["weight"] = np.linspace(0.5, 1.5, 4)
        self.buffers["mean"] = np.zeros(4)

    def forward(self, x, *, train=True, cache=True, rng=None):
        keep = rng.random(x.shape) >= 0.3
        self.buffers["mean"] += 0.1 * x.mean(axis=0)
        return x * keep * self.weight, ((x, keep, self.weight) if cache else None)

    def backward(self, dy, cache, *, need_dx=True):
        x, keep, weight = cache
        return (dy * keep * weight if need_dx else None), self.grads(weight=(dy * keep * x).sum(axis=0))


def test_buffers_and_dropout(rng):
    layer = Running()
    for options in ({}, {"rng": np.random.default_rng(4)}):
        report = check_layer(layer, rng.normal(size=(6, 4)), **options)
        assert report, report
        assert {row.method for row in report.rows} == {"complex-step"}
    assert not layer.mean.any()
    assert layer.mean.dtype == np.float64


class Cross(Layer):
    """Two inputs, and a state of two arrays: y = x W + memory, and the sums of the state."""

    def __init__(self, rng):
        super().__init__()
        self.params["weight"] = rng.normal(size=(4, 4))

    def forward(self, x, state=None, *, memory=None, scale=1.0, train=True, cache=True):
        y = x @ self.weight.T * scale
        y = y if memory is None else y + memory * memory
        state = None if state is None else (state[0] * 2.0, state[1] * state[1])
        return (y, state), ((x, memory, state, self.weight, scale) if cache else None)

    def backward(self, dy, cache, *, need_dx=True):
        x, memory, state, weight, scale = cache
        dy, dstate = dy
        dmemory = None if memory is None else 2.0 * memory * dy
        if state is not None:
            dstate = (2.0 * dstate[0], 2.0 * np.sqrt(state[1]) * dstate[1])
        grads = self.grads(weight=dy.T @ x * scale)
        return ((dy @ weight * scale if need_dx else None), dstate, dmemory), grads


def test_further_inputs(rng):
    layer, x = Cross(rng), rng.normal(size=(5, 4))
    assert {row.argument for row in check_layer(layer, x, scale=2.0).rows} == {"x", "weight"}
    state = (rng.uniform(1, 2, 3), rng.uniform(1, 2, 3))
    report = check_layer(layer, x, state=state, memory=rng.normal(size=(5, 4)))
    assert report, report
    assert {row.argument for row in report.rows} == {"x", "state[0]", "state[1]", "memory", "weight"}
    assert report.call == ("check_layer(layer, x, seed=0, method='auto', mode='fast', state=state, memory=memory)")


class Scale:
    """A layer of someone else's: y = weight · x, with no base class of minilm's."""

    def __init__(self):
        self.params, self.buffers, self.frozen = {"weight": np.linspace(0.5, 1.5, 4)}, {}, set()

    def walk(self):
        yield "", self

    def parameters(self):
        return dict(self.params)

    def trainable(self):
        return {name: array for name, array in self.params.items() if name not in self.frozen}

    def forward(self, x, *, train=True, cache=True):
        weight = self.params["weight"]
        return x * weight, ((x, weight) if cache else None)

    def backward(self, dy, cache, *, need_dx=True):
        x, weight = cache
        return (dy * weight if need_dx else None), {name: (dy * x).sum(axis=0) for name in self.trainable()}


def test_any_layer_like_object(rng):
    report = check_layer(Scale(), rng.normal(size=(3, 4)), rtol=1e-12, laws=False)
    assert report, report
    assert {row.argument for row in report.rows} == {"x", "weight"}
    assert "check_layer(layer, x, seed=0, method='auto', mode='fast', rtol=1e-12, laws=False)" in str(report)


class Batch(NamedTuple):
    ids: np.ndarray
    targets: np.ndarray


class Model(Layer):
    """Embedding-less toy: squared error of a stack, one weight used twice."""

    def __init__(self, rng, fault=None):
        super().__init__()
        self.fault = fault
        self.children["stack"] = Stack(rng)

    def loss(self, batch, *, train=True, cache=True, rng=None):
        y, cache_once = self.stack.forward(batch.ids, train=train)
        again, cache_again = self.stack.forward(2.0 * batch.ids, train=train)
        error = y + again - batch.targets
        return (error * error).mean(), ((error, cache_once, cache_again) if cache else None)

    def loss_backward(self, dloss, cache):
        error, first, second = cache
        dy = dloss * 2.0 * error / error.size
        grads = merge({}, self.stack.backward(dy, first, need_dx=False)[1], "stack.")
        if self.fault != "forgets the second use":
            merge(grads, self.stack.backward(dy, second, need_dx=False)[1], "stack.")
        if self.fault == "prefix":
            grads = {name.removeprefix("stack."): gradient for name, gradient in grads.items()}
        return grads


def test_models(rng):
    batch = Batch(rng.normal(size=(5, 4)), rng.normal(size=(5, 3)))
    report = check_model(Model(rng), batch, rng_seed=3)
    assert report, report
    assert {row.argument for row in report.rows} == set(Model(rng).parameters())
    assert "rng_seed=3" in str(report)
    for fault in ("forgets the second use", "prefix"):
        assert not check_model(Model(rng, fault), batch)


def test_float32_layers_are_refused(rng):
    with pytest.raises(TypeError, match=r"first.weight is float32.*float64"):
        check_layer(Stack(rng, dtype="float32"), rng.normal(size=(5, 4)))
