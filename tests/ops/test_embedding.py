"""embedding: its definition, its gradient with repeated ids, its edges."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm import gradcheck, reference
from minilm.kernels.cuda.embedding import TournamentCache
from minilm.ops.embedding import EmbeddingCache, embedding, embedding_backward
from tests import strict_cupy

IDS = {
    "scalar": np.array(3),
    "one": np.array([[2]]),
    "repeated": np.array([[0, 4, 4, 1], [4, 0, 4, 4]]),
    "all the same": np.full(17, 2),  # one past a power of two: the odd one out in every round
    "three axes": np.arange(12).reshape(2, 3, 2) % 5,
    "none": np.zeros((2, 0), dtype=np.int64),
    "bytes": np.array([4, 0, 4], dtype=np.uint8),
    "unsigned": np.array([1, 1, 3], dtype=np.uint64),  # uint64 and int64 would promote to float64
}


def sum_in_a_loop(ids, dy, V):
    dweight = np.zeros((V, dy.shape[-1]), dtype=np.float64)
    for v, row in zip(ids.ravel(), dy.reshape(-1, dy.shape[-1]), strict=True):
        dweight[int(v)] += row
    return dweight


@pytest.mark.parametrize("name", IDS)
def test_definition(name, xp, rng):
    ids, weight = IDS[name], rng.normal(size=(5, 3))
    y, cache = embedding(*xp.asarrays((ids, weight)))
    assert y.shape == (*ids.shape, 3)
    assert np.array_equal(xp.to_numpy(y), weight[ids.astype(np.int64)])

    dy = rng.normal(size=y.shape)
    dweight = xp.to_numpy(embedding_backward(xp.asarray(dy), cache))
    assert np.allclose(dweight, sum_in_a_loop(ids, dy, 5), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("padding_idx", [None, 1])
@pytest.mark.parametrize("name", IDS)
def test_definition_without_tuned_versions(name, padding_idx, xp, rng):
    """On CuPy arrays another version runs unless it is told not to."""
    ids, weight = xp.asarrays((IDS[name], rng.normal(size=(5, 3))))
    chosen, taken = embedding(ids, weight, padding_idx)
    dy = xp.asarray(rng.normal(size=chosen.shape))
    with reference():
        y, cache = embedding(ids, weight, padding_idx)
    assert type(cache) is EmbeddingCache
    assert (type(taken) is TournamentCache) == (xp.name != "numpy")
    assert np.array_equal(xp.to_numpy(y), xp.to_numpy(chosen))
    got, want = embedding_backward(dy, cache), embedding_backward(dy, taken)
    assert np.allclose(xp.to_numpy(got), xp.to_numpy(want), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("padding_idx", [None, 4, -1, 0])
@pytest.mark.parametrize("name", IDS)
def test_gradient(name, padding_idx, xp, rng):
    ids = xp.asarray(IDS[name])

    def forward(weight):
        y, cache = embedding(ids, weight, padding_idx)
        return without_padding(y, ids, padding_idx), cache

    args = xp.asarrays((rng.normal(size=(5, 3)),))
    report = gradcheck.gradcheck(forward, embedding_backward, args, method="complex-step", mode="full")
    assert report.max_rel_error <= 1e-11, report


def without_padding(y, ids, padding_idx):
    """The positions that hold padding are constants for the gradient: so are they for the check."""
    return y if padding_idx is None else y * (ids != padding_idx % 5)[..., None]


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_laws(padding_idx, xp, rng):
    ids = xp.asarray(np.array([[0, 1, 1], [2, 1, 0]]))
    gradcheck.check_laws(lambda w: embedding(ids, w, padding_idx), embedding_backward, xp.asarrays((np.eye(3, 4),)))


def test_padding_row_gets_no_gradient(xp, rng):
    ids, weight = np.array([0, 2, 2, 1, 2]), rng.normal(size=(3, 4))
    dy = rng.normal(size=(5, 4))
    y, cache = embedding(*xp.asarrays((ids, weight)), padding_idx=2)
    dweight = xp.to_numpy(embedding_backward(xp.asarray(dy), cache))
    assert np.array_equal(xp.to_numpy(y), weight[ids])  # it is looked up all the same
    assert np.array_equal(dweight[2], np.zeros(4))
    assert np.array_equal(dweight[[0, 1]], dy[[0, 3]])


@given(st.lists(st.integers(0, 6), max_size=70), st.integers(0, 2**32 - 1))
def test_every_row_is_added_once(ids, seed):
    """Small integers are exact in float32: any row lost or added twice shows."""
    ids = np.array(ids, dtype=np.int32)
    dy = np.random.default_rng(seed).integers(-50, 50, (ids.size, 2)).astype(np.float32)
    _, cache = embedding(ids, np.zeros((7, 2), dtype=np.float32))
    dweight = embedding_backward(dy, cache)
    assert dweight.dtype == np.float32
    assert np.array_equal(dweight, sum_in_a_loop(ids, dy, 7))


def test_sums_in_float32_do_not_drift(xp, rng):
    """10,000 times one id: a running float32 sum would be off by about 1e-5, pairwise sums by a rounding."""
    dy = rng.random((10_000, 2), dtype=np.float32)
    _, cache = embedding(*xp.asarrays((np.zeros(10_000, dtype=np.int64), np.zeros((1, 2), dtype=np.float32))))
    got = xp.to_numpy(embedding_backward(xp.asarray(dy), cache))
    want = dy.astype(np.float64).sum(axis=0)
    assert got.dtype == np.float32
    assert np.abs(got[0] / want - 1).max() < 3e-7


def test_repeatable_and_without_waiting(xp, rng):
    """The same bits each time, whatever the order in which ids repeat; nothing is read back from the device."""
    ids, weight, dy = rng.integers(0, 9, (6, 50)), rng.normal(size=(9, 8)), rng.normal(size=(6, 50, 8))
    ids, weight, dy = xp.asarrays((ids, weight.astype(np.float32), dy.astype(np.float32)))
    with strict_cupy.no_sync(("sync", "upload")):
        y, cache = embedding(ids, weight)
        first, second = embedding_backward(dy, cache), embedding_backward(dy, cache)
    assert y.dtype == first.dtype == np.float32
    assert np.array_equal(xp.to_numpy(first), xp.to_numpy(second))


def test_not_a_number_stays_in_its_row(xp):
    """What differences of cumulative sums and one-hot products would spread."""
    dy = np.ones((4, 2))
    dy[1] = np.nan
    _, cache = embedding(*xp.asarrays((np.array([0, 1, 2, 2]), np.zeros((3, 2)))))
    dweight = xp.to_numpy(embedding_backward(xp.asarray(dy), cache))
    assert np.array_equal(dweight, [[1, 1], [np.nan, np.nan], [2, 2]], equal_nan=True)


def test_non_contiguous(xp, rng):
    ids, weight, dy = rng.integers(0, 5, (4, 6)), rng.normal(size=(3, 5)), rng.normal(size=(3, 6, 4))
    y, cache = embedding(xp.asarray(ids).T, xp.asarray(weight).T)
    dweight = xp.to_numpy(embedding_backward(xp.asarray(dy).transpose(1, 2, 0), cache))
    assert np.array_equal(xp.to_numpy(y), weight.T[ids.T])
    assert np.allclose(dweight, sum_in_a_loop(ids.T, dy.transpose(1, 2, 0), 5))


@pytest.mark.parametrize(("bad", "place"), [(5, (1, 2)), (-1, (0, 0)), (10**12, (0, 1))])
def test_id_out_of_range_is_named(bad, place):
    ids = np.zeros((2, 3), dtype=np.int64)
    ids[place] = bad
    message = f"id {bad} at position ({place[0]}, {place[1]}) is out of range; expected 0..4"
    with pytest.raises(ValueError, match=re.escape(message)):
        embedding(ids, np.zeros((5, 2)))


def test_wrong_input(xp):
    ids, weight = xp.asarrays((np.zeros(3, dtype=np.int64), np.zeros((5, 2))))
    with pytest.raises(TypeError, match="ids have dtype float64, expected an integer dtype"):
        embedding(ids.astype("float64"), weight)
    with pytest.raises(TypeError, match="bool"):
        embedding(ids == 0, weight)
    with pytest.raises(TypeError, match="expected a floating dtype"):
        embedding(ids, weight.astype("int64"))
    with pytest.raises(ValueError, match=re.escape("weight has shape (10,), expected (V, C)")):
        embedding(ids, weight.reshape(10))
    with pytest.raises(ValueError, match=re.escape("padding_idx is 5, expected -5..4")):
        embedding(ids, weight, 5)


def test_no_cache_when_not_asked_for(xp):
    assert embedding(*xp.asarrays((np.array([1]), np.ones((2, 2)))), cache=False)[1] is None
