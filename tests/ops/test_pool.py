"""pool: what each kind takes, its gradient, wrong input."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import gradcheck
from minilm.ops.pool import POOLINGS, pool, pool_backward


def test_pooling_takes_what_it_says(xp):
    """Channels 0 and 1 run left to right, 2 and 3 right to left; rows are 3 and 1 tokens long."""
    hidden = np.arange(24.0).reshape(2, 3, 4)
    hidden[0, 1, 0] = 100  # the largest of its channel is in the middle
    lengths = xp.asarray(np.array([3, 1]))
    want = {
        ("last", 1): [hidden[0, 2], hidden[1, 0]],
        ("last", 2): [[*hidden[0, 2, :2], *hidden[0, 0, 2:]], hidden[1, 0]],
        ("mean", 1): [hidden[0].mean(axis=0), hidden[1, 0]],
        ("max", 1): [[100, *hidden[0, 2, 1:]], hidden[1, 0]],
    }
    for (kind, directions), rows in want.items():
        pooled, cache = pool(xp.asarray(hidden), lengths, kind, directions)
        np.testing.assert_allclose(xp.to_numpy(pooled), np.array(rows))
        dhidden = xp.to_numpy(pool_backward(pooled, cache))
        assert dhidden.shape == hidden.shape and not dhidden[1, 1:].any()


def test_max_of_equal_values_takes_the_first():
    _, cache = pool(np.ones((1, 3, 2)), None, "max")
    np.testing.assert_array_equal(cache.weights[0, :, 0], [1, 0, 0])


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [None, [3, 1]])
@pytest.mark.parametrize("kind", POOLINGS)
def test_gradient_and_laws(kind, lengths, directions, xp, rng):
    lengths = xp.asarray(np.array(lengths)) if lengths else None

    def forward(hidden):
        return pool(hidden, lengths, kind, directions)

    args = xp.asarrays((rng.normal(size=(2, 3, 4)),))
    report = gradcheck.gradcheck(forward, pool_backward, args, mode="full")
    assert report.max_rel_error <= 1e-7, report
    gradcheck.check_laws(forward, pool_backward, args)


def test_wrong_input():
    with pytest.raises(ValueError, match="empty text"):
        pool(np.zeros((2, 0, 3)), None, "mean")
    with pytest.raises(ValueError, match="unknown"):
        pool(np.zeros((2, 1, 3)), None, "first")
