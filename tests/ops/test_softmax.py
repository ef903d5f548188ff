"""softmax, log_softmax: definitions, gradients, infinities, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from minilm import gradcheck
from minilm.ops.log_softmax import log_softmax, log_softmax_backward
from minilm.ops.softmax import softmax, softmax_backward
from tests.strict_cupy import no_sync

PAIRS = [(softmax, softmax_backward), (log_softmax, log_softmax_backward)]
SHAPES = [
    ((4, 8), -1),
    ((2, 3, 5), 1),
    ((2, 3, 5), 0),
    ((7,), -1),
    ((3, 1), -1),  # one entry: weight 1, no gradient
    ((0, 8), -1),  # no row at all is legal
    ((2, 1025), -1),  # one past a power of two
]
INF = np.inf


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_definition(shape, axis, xp, rng):
    x = 3 * rng.normal(size=shape)
    y, _ = softmax(xp.asarray(x), axis)
    logs, _ = log_softmax(xp.asarray(x), axis=axis)
    want = np.empty(shape)
    rows_of_x, rows_of_want = np.moveaxis(x, axis, -1), np.moveaxis(want, axis, -1)
    for row in np.ndindex(rows_of_x.shape[:-1]):
        total = math.fsum(math.exp(v) for v in rows_of_x[row])
        rows_of_want[row] = [math.exp(v) / total for v in rows_of_x[row]]
    np.testing.assert_allclose(xp.to_numpy(y), want, rtol=1e-13)
    np.testing.assert_allclose(xp.to_numpy(logs), np.log(want), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("method", ["complex-step", "central-difference"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_gradient(op, backward, shape, axis, method, xp, rng):
    args = xp.asarrays((rng.normal(size=shape),))
    report = gradcheck.gradcheck(lambda x: op(x, axis), backward, args, method=method)
    assert report.max_rel_error <= (1e-11 if method == "complex-step" else 1e-7), report


@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_laws(op, backward, xp, rng):
    gradcheck.check_laws(op, backward, xp.asarrays((rng.normal(size=(3, 4, 7)), 1)))


ROWS = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=6),
    elements=st.one_of(st.floats(-1e4, 1e4), st.just(-INF)),
)


@given(ROWS)
def test_rows_sum_to_one(x):
    """… or to zero, where a row is −inf throughout."""
    total = softmax(x)[0].sum(axis=-1)
    want = np.where(np.isneginf(x).all(axis=-1), 0.0, 1.0)
    np.testing.assert_allclose(total, want, atol=1e-14)


@given(ROWS, st.integers(-1000, 1000))
def test_a_shift_changes_nothing(x, shift):
    x = np.round(x)  # so that the shift itself is exact
    np.testing.assert_allclose(softmax(x + shift)[0], softmax(x)[0], rtol=1e-13, atol=0)
    np.testing.assert_allclose(log_softmax(x + shift)[0], log_softmax(x)[0], rtol=1e-12, atol=1e-12)


@given(ROWS)
def test_logarithm(x):
    """exp(log_softmax) is softmax, except in a row of all −inf, where both are zeros."""
    dead = np.isneginf(x).all(axis=-1, keepdims=True)
    logs = log_softmax(x)[0]
    np.testing.assert_allclose(np.where(dead, 0.0, np.exp(logs)), softmax(x)[0], rtol=1e-11, atol=1e-300)
    assert not np.any(logs[np.broadcast_to(dead, x.shape)])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_rows_with_minus_infinity(dtype, xp):
    x = np.array([[-INF, 0.0, math.log(3.0)], [-INF, -INF, -INF], [-INF, 5.0, -INF]]).astype(dtype)
    dy = np.array([[1.0, 2.0, 3.0]] * 3).astype(dtype)
    y, cache = softmax(xp.asarray(x))
    np.testing.assert_allclose(xp.to_numpy(y), [[0, 0.25, 0.75], [0, 0, 0], [0, 1, 0]], rtol=1e-6)
    dx = softmax_backward(xp.asarray(dy), cache)
    np.testing.assert_allclose(xp.to_numpy(dx), [[0, -0.1875, 0.1875], [0, 0, 0], [0, 0, 0]], rtol=1e-5, atol=1e-7)

    y, cache = log_softmax(xp.asarray(x))
    logs = xp.to_numpy(y).real
    assert np.isneginf(logs[0, 0]) and np.isneginf(logs[2, [0, 2]]).all()
    assert not logs[1].any() and logs[2, 1] == 0
    dx = log_softmax_backward(xp.asarray(dy), cache)
    np.testing.assert_allclose(xp.to_numpy(dx), [[1, 0.5, -1.5], [0, 0, 0], [1, -4, 3]], rtol=1e-5)


@pytest.mark.parametrize("op", [softmax, log_softmax])
@pytest.mark.parametrize("bad", [INF, np.nan])
def test_nan_and_infinity_spoil_their_row_only(op, bad, xp):
    y, _ = op(xp.asarray(np.array([[bad, 1.0, -INF], [0.0, 1.0, 2.0]])))
    assert np.isnan(xp.to_numpy(y)).all(axis=-1).tolist() == [True, False]
    assert np.isfinite(xp.to_numpy(y)[1]).all()


@pytest.mark.parametrize("op", [softmax, log_softmax])
def test_large_logits(op, xp):
    y, _ = op(xp.asarray(np.array([[1e4, 1e4, -1e4]], dtype=np.float32)))
    want = [[0.5, 0.5, 0]] if op is softmax else [[-math.log(2), -math.log(2), -2e4 - math.log(2)]]
    np.testing.assert_allclose(xp.to_numpy(y), want, rtol=1e-6)


@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_float32(op, backward, xp, rng):
    x, dy = (4 * rng.normal(size=(5, 1000))).astype(np.float32), rng.normal(size=(5, 1000)).astype(np.float32)
    want, want_cache = op(x.astype(np.float64))
    got, cache = op(xp.asarray(x))
    assert got.dtype == np.float32
    np.testing.assert_allclose(xp.to_numpy(got), want, rtol=3e-6)
    want_dx = backward(dy.astype(np.float64), want_cache)
    np.testing.assert_allclose(xp.to_numpy(backward(xp.asarray(dy), cache)), want_dx, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("op", "backward"), PAIRS)
def test_no_synchronisation(op, backward, xp, rng):
    x = xp.asarray(rng.normal(size=(3, 4)).astype(np.float32))
    with no_sync(("sync", "upload")):
        y, cache = op(x)
        backward(y, cache)


@pytest.mark.parametrize("op", [softmax, log_softmax])
def test_wrong_input(op, xp):
    with pytest.raises(ValueError, match=r"axis 2 does not exist.*\(2, 3\)"):
        op(xp.asarray(np.ones((2, 3))), axis=2)
    with pytest.raises(ValueError, match="does not exist"):
        op(xp.asarray(np.array(1.0)))
    with pytest.raises(ValueError, match="empty"):
        op(xp.asarray(np.ones((2, 0))))
    with pytest.raises(TypeError, match="int64"):
        op(xp.asarray(np.ones((2, 3), dtype=np.int64)))
