"""Pooling and zeroed padding: layers that look at the lengths of the texts."""

import numpy as np
import pytest

from minilm.layers.padding import ZeroPadding
from minilm.layers.pooling import Pooling
from tests.layers.helpers import check_gradients, check_library

LENGTHS = np.array([4, 1])


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", ["last", "mean", "max"])
def test_pooling(kind, directions, rng, xp):
    x = rng.normal(size=(2, 4, 6))
    check_gradients(Pooling(kind, directions), x, lengths=LENGTHS)
    check_library(lambda: Pooling(kind, directions), x.astype("float32"), xp, lengths=LENGTHS)


def test_unknown_pooling():
    with pytest.raises(ValueError, match="max"):
        Pooling("first")


def test_zero_padding(rng, xp):
    x = rng.normal(size=(2, 4, 6))
    check_gradients(ZeroPadding(), x, lengths=LENGTHS)
    check_library(ZeroPadding, x.astype("float32"), xp, lengths=LENGTHS)
    y, _ = ZeroPadding().forward(x, lengths=LENGTHS)
    np.testing.assert_array_equal(y[0], x[0])
    np.testing.assert_array_equal(y[1], np.concatenate([x[1, :1], np.zeros((3, 6))]))


def test_without_lengths_there_is_no_padding(rng):
    x = rng.normal(size=(2, 4, 6))
    y, cache = ZeroPadding().forward(x)
    assert y is x
    assert ZeroPadding().backward(x, cache) == (x, {})
