"""dropout: what it drops, its scale, its gradient, its edges."""

from __future__ import annotations

import numpy as np
import pytest

from minilm import gradcheck
from minilm.backend import generator
from minilm.ops.dropout import dropout, dropout_backward
from tests.strict_cupy import no_sync


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(64, 33), (2, 3, 5), (1,), (0, 4), ()])
def test_definition(shape, p, xp, rng):
    """What the mask in the cache keeps is scaled, the rest is zero; the mask is the generator's draw."""
    x = np.asarray(rng.normal(size=shape))
    y, cache = dropout(xp.asarray(x), p, generator(7))
    kept = generator(7).random(shape, dtype=np.float32) >= p
    if p > 0:
        assert cache.mask.dtype == np.bool_
        np.testing.assert_array_equal(xp.to_numpy(cache.mask), kept)
    want = np.where(kept, x / (1 - p) if p < 1 else 0.0, 0.0)
    np.testing.assert_allclose(xp.to_numpy(y), want, rtol=1e-15)


def test_expectation(rng):
    """50,000 draws: the mean of y is the mean of x to five standard errors, and the share dropped is p."""
    y, cache = dropout(np.ones(50_000), 0.3, rng)
    assert abs(y.mean() - 1) < 5 * (0.3 / 0.7 / 50_000) ** 0.5
    assert abs(cache.mask.mean() - 0.7) < 5 * (0.3 * 0.7 / 50_000) ** 0.5


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(4, 7), (1,), (0, 4)])
def test_gradient(shape, p, xp, rng):
    def op(x):
        return dropout(x, p, generator(3))  # the same draw at each evaluation

    report = gradcheck.gradcheck(op, dropout_backward, xp.asarrays((rng.normal(size=shape),)), method="complex-step")
    assert report.max_rel_error <= 1e-11, report


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_laws(p, xp, rng):
    def op(x):
        return dropout(x, p, generator(3))

    gradcheck.check_laws(op, dropout_backward, xp.asarrays((rng.normal(size=(3, 7)),)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_dtype(dtype, xp, rng):
    x = rng.normal(size=(5, 6)).astype(dtype)
    y, cache = dropout(xp.asarray(x), 0.25, generator(1))
    dx = dropout_backward(xp.asarray(x), cache)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(xp.to_numpy(dx), xp.to_numpy(y))


def test_nothing_is_drawn_without_dropout(xp):
    x, rng = xp.asarray(np.ones((2, 3))), generator(5)
    y, _ = dropout(x, 0.0, rng)
    assert rng.random() == generator(5).random()
    assert dropout(x, 0, None)[0] is x and y is x


def test_same_generator_same_mask(xp, rng):
    x = xp.asarray(rng.normal(size=(9, 9)))
    first, second, other = (xp.to_numpy(dropout(x, 0.5, generator(1, n))[0]) for n in (0, 0, 1))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_non_contiguous(xp, rng):
    x = rng.normal(size=(6, 8))
    y, _ = dropout(xp.asarray(x)[::2].T, 0.5, generator(2))
    np.testing.assert_array_equal(xp.to_numpy(y), dropout(x[::2].T.copy(), 0.5, generator(2))[0])


def test_no_synchronisation(xp, rng):
    x = xp.asarray(rng.normal(size=(6, 8)).astype(np.float32))
    with no_sync():
        _, cache = dropout(x, 0.5, generator(2))
        dropout_backward(x, cache)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), float("inf")])
def test_p_is_a_probability(p, xp):
    with pytest.raises(ValueError, match="no probability"):
        dropout(xp.asarray(np.ones(3)), p, generator(0))


@pytest.mark.parametrize("p", [0.1, 1.0])
def test_a_generator_is_needed(p, xp):
    with pytest.raises(ValueError, match="needs a generator"):
        dropout(xp.asarray(np.ones(3)), p, None)


def test_integers_are_refused(xp):
    with pytest.raises(TypeError, match="int64"):
        dropout(xp.asarray(np.arange(3)), 0.5, generator(0))
