"""Dropout and activations: layers without parameters."""

import numpy as np
import pytest

from minilm.layers.activation import ACTIVATIONS, Activation
from minilm.layers.dropout import Dropout
from tests.layers.helpers import check_gradients, check_library


def test_gradient(rng):
    check_gradients(Dropout(0.4), rng.normal(size=(3, 5)))


def test_backward_uses_the_drawn_mask(rng, xp):
    layer = Dropout(0.5)
    x = xp.asarray(np.ones((20, 30), np.float32))
    y, cache = layer.forward(x, rng=np.random.default_rng(1))
    dx, grads = layer.backward(x, cache)
    y, dx = xp.to_numpy(y), xp.to_numpy(dx)
    assert y.dtype == np.float32 and not grads
    assert set(np.unique(y)) == {0.0, 2.0} and 200 < (y == 0).sum() < 400
    np.testing.assert_array_equal(y, dx)
    assert layer.backward(x, cache, need_dx=False) == (None, {})


@pytest.mark.parametrize(("p", "train"), [(0.0, True), (0.5, False)])
def test_identity_draws_nothing(p, train, rng):
    x = rng.normal(size=(3, 4))
    y, cache = Dropout(p).forward(x, train=train, rng=None)
    assert y is x
    assert Dropout(p).backward(x, cache) == (x, {})


def test_no_cache_draws_the_same_noise(rng):
    x = rng.normal(size=(30, 40))
    (y, _), (z, none) = (Dropout(0.5).forward(x, cache=c, rng=np.random.default_rng(1)) for c in (True, False))
    assert none is None
    np.testing.assert_array_equal(y, z)


def test_training_needs_a_generator():
    with pytest.raises(ValueError, match="rng="):
        Dropout(0.1).forward(np.ones(3))


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_wrong_probability(p):
    with pytest.raises(ValueError, match="below 1"):
        Dropout(p)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, rng, xp):
    x = rng.normal(size=(3, 5))
    check_gradients(Activation(name), x)
    check_library(lambda: Activation(name), x.astype("float32"), xp)


def test_unknown_activation():
    with pytest.raises(ValueError, match="gelu-tanh"):
        Activation("swish")
