"""SGD, Adam, AdamW: a step worked out by hand, decay rules, blocks, saved state. Against PyTorch: tests/parity."""

from __future__ import annotations

import numpy as np
import pytest

from minilm.backend import to_numpy
from minilm.layers.base import Layer
from minilm.optim import optimizer as optimizer_module
from minilm.optim.adam import Adam, AdamW, default_no_decay
from minilm.optim.sgd import SGD
from tests.conftest import Library
from tests.optim.test_flat import Pair, on_host, random_grads

RULES = {
    "sgd": lambda layer: SGD(layer, 0.1, weight_decay=0.1),
    "momentum": lambda layer: SGD(layer, 0.1, momentum=0.9),
    "nesterov": lambda layer: SGD(layer, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda layer: Adam(layer, 0.01, weight_decay=0.1),
    "adamw": lambda layer: AdamW(layer, 0.01, weight_decay=0.1),
}


class One(Layer):
    """A single number, as a 1 × 1 matrix."""

    def __init__(self, value):
        super().__init__()
        self.params["weight"] = np.array([[value]])


def run(rule, layer, xp, steps=3):
    rng = np.random.default_rng(2)
    optimizer = rule(layer)
    for _ in range(steps):
        optimizer.accumulate(random_grads(layer, rng, xp))
        optimizer.step()
    return optimizer


def test_first_steps_by_hand():
    """With g = 4 twice: Adam's m̂ = 4 and √v̂ = 4 exactly, so each step is η; decay is 0.5 · p · η in AdamW."""

    def after_two(optimizer):
        for _ in range(2):
            optimizer.accumulate({"weight": np.array([[4.0]])})
            optimizer.step()
        return optimizer.flat.values[0]

    assert after_two(SGD(One(1.0), lr=0.1)) == pytest.approx(1 - 2 * 0.4)
    assert after_two(SGD(One(1.0), lr=0.1, momentum=0.5)) == pytest.approx(1 - 0.4 - 0.6)
    assert after_two(SGD(One(1.0), lr=0.1, momentum=0.5, nesterov=True)) == pytest.approx(1 - 0.6 - 0.7)
    assert after_two(Adam(One(1.0), lr=0.1)) == pytest.approx(1 - 2 * 0.1)
    assert after_two(AdamW(One(1.0), lr=0.1, weight_decay=0.5)) == pytest.approx((0.95 - 0.1) * 0.95 - 0.1)


@pytest.mark.parametrize("rule", RULES)
def test_same_on_both_libraries_and_in_blocks(rule, xp, monkeypatch):
    """Neither the library nor the size of a block changes a bit."""
    expected, layer = Pair(), Pair().to(xp.module)
    run(RULES[rule], expected, Library("numpy", np))
    monkeypatch.setattr(optimizer_module, "BLOCK", 5)  # blocks end inside of parameters
    optimizer = run(RULES[rule], layer, xp)
    assert optimizer.flat.values.dtype == np.float32
    for name, array in layer.parameters().items():
        got, want = xp.to_numpy(array), expected.parameters()[name]
        if xp.name == "cupy":
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(got, want)


def test_no_decay(xp):
    """With a gradient of 0 AdamW only decays: matrices, but not those a layer lists, and no biases."""
    for rule, decayed in (
        (None, {"b.weight"}),
        (lambda name, array: name.startswith("b"), {"a.weight", "a.bias"}),
    ):
        layer = Pair().to(xp.module)
        before = on_host(layer.parameters())
        optimizer = AdamW(layer, lr=0.5, weight_decay=0.5, no_decay=rule)
        optimizer.accumulate({name: xp.module.zeros_like(p) for name, p in layer.parameters().items()})
        optimizer.step()
        for name, array in layer.parameters().items():
            factor = np.float32(0.75 if name in decayed else 1.0)
            np.testing.assert_allclose(xp.to_numpy(array), factor * before[name], rtol=1e-6)


def test_the_default_rule():
    layer = Pair()
    rule = default_no_decay(layer)
    assert [name for name, array in layer.parameters().items() if rule(name, array)] == ["a.weight", "a.bias", "b.bias"]


@pytest.mark.parametrize("rule", RULES)
def test_state_continues_bit_for_bit(rule, xp, rng):
    whole, half = Pair().to(xp.module), Pair().to(xp.module)
    grads = [random_grads(whole, rng, xp) for _ in range(6)]

    def train(optimizer, part):
        for grad in part:
            optimizer.accumulate(grad)
            optimizer.step()
        return optimizer

    train(RULES[rule](whole), grads)
    saved = train(RULES[rule](half), grads[:3])
    weights, state = on_host(half.state()), on_host(saved.state())
    other = Pair().to(xp.module)
    optimizer = RULES[rule](other)
    other.load_state(weights)
    optimizer.load_state(state)
    train(optimizer, grads[3:])
    for name, array in other.parameters().items():
        np.testing.assert_array_equal(to_numpy(array), to_numpy(whole.parameters()[name]))


def test_state_of_another_kind_or_model():
    adam, sgd = Adam(Pair()), SGD(Pair(), 0.1)
    with pytest.raises(ValueError, match="not the state of SGD"):
        sgd.load_state(adam.state())
    frozen = Pair()
    frozen.freeze("a.*")
    with pytest.raises(ValueError, match="other parameters"):
        Adam(frozen).load_state(adam.state())
    # the same parameters in another order: without the layout's fingerprint moments would be exchanged silently
    with pytest.raises(ValueError, match="other parameters"):
        AdamW(Pair()).load_state(adam.state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda layer: SGD(layer, -1.0), "lr is -1.0, expected"),
        (lambda layer: SGD(layer, 0.1, momentum=-0.1), "momentum is -0.1, expected"),
        (lambda layer: SGD(layer, 0.1, nesterov=True), "needs a momentum"),
        (lambda layer: SGD(layer, 0.1, weight_decay=float("nan")), "weight_decay is nan, expected"),
        (lambda layer: Adam(layer, betas=(0.9, 1.0)), r"betas\[1\] is 1.0, expected .* below 1"),
        (lambda layer: Adam(layer, betas=(0.9,)), "expected two numbers"),
        (lambda layer: AdamW(layer, eps=-1.0), "eps is -1.0, expected"),
    ],
)
def test_impossible_options(make, message):
    with pytest.raises(ValueError, match=message):
        make(Pair())


def test_numpy_scalars_as_options_stay_float32():
    layer = Pair()
    optimizer = AdamW(layer, lr=np.float64(0.1), weight_decay=np.float64(0.1))
    optimizer.accumulate({name: np.ones_like(p) for name, p in layer.parameters().items()})
    optimizer.step(np.float64(0.1))
    assert all(p.dtype == np.float32 for p in layer.parameters().values())
