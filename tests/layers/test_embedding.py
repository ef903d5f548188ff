"""Embedding: its draw, its gradient, its padding row."""

import numpy as np
import pytest

from minilm.layers.embedding import Embedding
from tests.layers.helpers import check_gradients, check_library

IDS = np.array([[0, 3, 3, 1], [2, 3, 0, 0]])  # repeated ids add up


@pytest.mark.parametrize("padding_idx", [None, 4])  # a padding row that occurs has no gradient by decree: see below
def test_gradient(rng, padding_idx):
    check_gradients(Embedding(5, 3, padding_idx, rng=rng, dtype="float64"), IDS)


def test_library(xp):
    check_library(lambda: Embedding(5, 3, rng=np.random.default_rng(0)), IDS, xp)


def test_draw(rng):
    assert abs(Embedding(100, 100, std=0.5, rng=rng).weight.std() - 0.5) < 0.02
    bounded = Embedding(100, 100, bound=0.05, rng=rng).weight
    assert 0.049 < np.abs(bounded).max() <= 0.05


def test_padding_row_is_and_stays_zero(rng):
    layer = Embedding(5, 3, 0, rng=rng)
    y, cache = layer.forward(IDS)
    _, grads = layer.backward(y + 1, cache)
    assert not layer.weight[0].any() and not grads["weight"][0].any() and grads["weight"][3].all()


def test_frozen_has_no_gradient(rng):
    layer = Embedding(5, 3, rng=rng)
    layer.freeze("*")
    y, cache = layer.forward(IDS)
    assert layer.backward(y, cache) == (None, {})


@pytest.mark.parametrize("arguments", [(0, 3), (5, 0), (5, 3, 5), (5, 3, -1)])
def test_wrong_sizes(arguments, rng):
    with pytest.raises(ValueError, match="Embedding"):
        Embedding(*arguments, rng=rng)
