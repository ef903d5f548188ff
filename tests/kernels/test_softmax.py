"""The softmax kernel, run on the CPU from its CUDA source, against the definition in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import minilm
from minilm import gradcheck, ops
from minilm.kernels.check.row_bounds import softmax_bounds
from minilm.kernels.cuda.ladder import softmax as rung_softmax
from minilm.kernels.cuda.rows import MOST_LANES, row_defines
from minilm.kernels.cuda.softmax import (
    BACKWARD_PER_LANE,
    FORWARD_PER_LANE,
    INSTANCES,
    FusedSoftmaxCache,
    softmax,
    softmax_backward,
)
from tests.kernels.tolerances import assert_call_within, assert_within

pytestmark = pytest.mark.usefixtures("host_run", "poisoned_empty")

DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float64": np.float64,
}
INF = np.inf
LONG = 32 * 1024 + 4  # more than a block of 1024 threads holds: two passes


def definition(x, dy, hidden=None):
    """y and dx in float64, of inputs as they are; hidden places count as -inf."""
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    if hidden is not None:
        x, dy = np.where(hidden, -INF, x), np.where(hidden, 0.0, dy)
    with minilm.reference():
        y, cache = ops.softmax(x)
        return y, ops.softmax_backward(dy, cache)


def assert_agrees(x, dy, y, dx, hidden=None):
    assert y.dtype == dx.dtype == x.dtype
    exact = definition(x, dy, hidden)
    visible = True if hidden is None else ~hidden
    for name, got, want, bound in zip(
        ("y", "dx"), (y, dx), exact, softmax_bounds(x, x.dtype.name, visible=visible, dy=dy), strict=True
    ):
        assert_within(got, want, bound, name)


def draw(rng, shape, dtype):
    dtype = DTYPES[dtype]
    return rng.normal(0, 3, shape).astype(dtype), rng.normal(size=shape).astype(dtype)


# ---- values and gradients


@pytest.mark.parametrize(
    "dtype, N",
    [("float32", N) for N in (1, 2, 31, 33, 97, 130, 1000, 4096, 4097, LONG)]
    + [("float16", N) for N in (97, 1000, LONG + 4)]  # 1000 and LONG + 4: rows of 16-byte accesses
    + [("bfloat16", N) for N in (97, 1000)]
    + [("float64", N) for N in (97, 1000)],
)
def test_agrees_with_the_definition(dtype, N, rng):
    x, dy = draw(rng, (5 if N < 2000 else 2, N), dtype)
    y, cache = softmax(x)
    assert type(cache) is FusedSoftmaxCache
    assert_agrees(x, dy, y, softmax_backward(dy, cache))


def test_rows_that_do_not_start_on_16_bytes(rng):
    """N allows wide accesses, the address does not."""
    memory = rng.normal(size=3 * 1000 + 1).astype(np.float32)
    x = memory[1:].reshape(3, 1000)
    dy = rng.normal(size=x.shape).astype(np.float32)
    y, cache = softmax(x)
    assert_agrees(x, dy, y, softmax_backward(dy, cache))


@pytest.mark.parametrize("scale", [0.125, 3.0])
def test_scale(scale, rng):
    x, dy = draw(rng, (4, 97), "float32")
    y, cache = softmax(x, scale=scale)
    assert_call_within("softmax", {"x": x}, {"scale": scale}, (y, softmax_backward(dy, cache)), dy)


@pytest.mark.parametrize("offset", [-1e4, 1e4, 1e38])
def test_large_logits_do_not_overflow(offset, rng):
    x = (rng.normal(size=(3, 33)) + offset).astype(np.float32)
    x[1, 5] = -3e38  # its distance to the maximum is no float32 beside 1e38
    y, cache = softmax(x)
    dy = rng.normal(size=x.shape).astype(np.float32)
    assert_agrees(x, dy, y, softmax_backward(dy, cache))


# ---- what is hidden


def hidden_places(shape, causal, lengths):
    Tq, Tk = shape[-2:]
    hidden = np.zeros(shape, bool)
    if causal:
        hidden |= np.arange(Tk) > np.arange(Tq)[:, None] + Tk - Tq
    if lengths is not None:
        hidden |= np.arange(Tk) >= np.reshape(lengths, (-1, *(1,) * (len(shape) - 1)))
    return hidden


@pytest.mark.parametrize(
    "dtype, shape, causal, lengths",
    [
        ("float32", (2, 3, 31, 33), True, None),
        ("float32", (2, 2, 35, 33), True, [33, 7]),  # more queries than keys: the first rows see nothing
        ("float32", (3, 2, 3, 40), False, [0, 1, 41]),  # no key at all; more than there are; wide accesses
        ("float32", (2, 1, 2, LONG), True, [LONG - 1, 130]),
        ("float16", (2, 2, 5, 40), True, [40, 3]),
        ("bfloat16", (1, 4, 33), True, None),
    ],
)
def test_hidden_columns(dtype, shape, causal, lengths, rng):
    """0 where hidden, and NaN there reaches nothing: neither from x nor from dy."""
    x, dy = draw(rng, shape, dtype)
    hidden = hidden_places(shape, causal, lengths)
    x[hidden], dy[hidden] = np.nan, np.nan
    lengths = None if lengths is None else np.array(lengths, np.int32)
    y, cache = softmax(x, causal=causal, key_lengths=lengths)
    dx = softmax_backward(dy, cache)
    assert not y[hidden].any() and not dx[hidden].any()
    assert_agrees(x, dy, y, dx, hidden)


def test_key_lengths_of_any_integer_type(rng):
    x, _ = draw(rng, (2, 2, 31), "float32")
    want, _ = softmax(x, key_lengths=np.array([31, 5], np.int32))
    for lengths in ([2**40, 5], [31, 5]):
        got, _ = softmax(x, key_lengths=np.array(lengths, np.int64))
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("N", [33, 4096, LONG])
def test_infinities_and_nan(N, rng):
    """A row of -inf gives zeros, one with +inf or NaN is NaN, and its neighbours don't notice."""
    x, dy = draw(rng, (6, N), "float32")
    x[0] = -INF
    x[1, 1:] = -INF
    x[2, N // 2] = INF
    x[3, N - 1] = np.nan
    x[4] = np.nan
    y, cache = softmax(x)
    dx = softmax_backward(dy, cache)
    assert np.isnan(y[2:5]).all() and np.isnan(dx[2:5]).all()
    sound = [0, 1, 5]
    assert not y[0].any() and not dx[0].any() and y[1, 0] == 1
    assert_agrees(x[sound], dy[sound], y[sound], dx[sound])


# ---- gradients, laws


@pytest.mark.parametrize("options", [{}, {"causal": True, "key_lengths": np.array([66, 31], np.int32), "scale": 0.7}])
def test_gradient(options, rng):
    x = rng.normal(size=(2, 3, 66))
    report = gradcheck.gradcheck(
        lambda x: softmax(x, **options), softmax_backward, (x,), method="central-difference", wrt=("x",)
    )
    assert report, report


def test_writes_to_no_argument_and_repeats(rng):
    x, dy = draw(rng, (3, 130), "float32")
    kept = x.copy(), dy.copy()
    y, cache = softmax(x)
    first, again = softmax_backward(dy, cache), softmax_backward(dy, cache)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(softmax(x)[0], y)
    np.testing.assert_array_equal((x, dy), kept)
    assert not np.shares_memory(first, again)


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8)])
def test_no_rows(shape):
    y, cache = softmax(np.zeros(shape))
    assert y.shape == softmax_backward(np.zeros(shape), cache).shape == shape


@pytest.mark.parametrize("N", [97, 4096, LONG])
def test_the_same_bits_in_every_order(N, in_all_orders, rng):
    x, dy = draw(rng, (3, N), "float32")

    def run():
        y, cache = softmax(x)
        return y, softmax_backward(dy, cache)

    in_all_orders(run)


SANITIZED = """
import numpy as np
from minilm.kernels.cuda.softmax import softmax, softmax_backward

rng = np.random.default_rng(0)
for N in (33, 1028):  # a warp, a block per row
    x = rng.normal(size=(2, 3, N)).astype(np.float32)
    y, cache = softmax(x, causal=True, key_lengths=np.array([N, 7], np.int32))
    assert np.isfinite(softmax_backward(x, cache)).all()
for dtype, N in (("float16", 65), ("float64", 8197)):  # read twice: longer than what a block holds
    x = rng.normal(size=(1, N)).astype(dtype)
    y, cache = softmax(x)
    assert np.isfinite(softmax_backward(x, cache)).all()
"""


def test_sanitizers_are_silent(sanitized):
    outcome = sanitized(SANITIZED)
    assert outcome.code == 0, outcome.report


# ---- instances


@pytest.mark.parametrize("dtype", FORWARD_PER_LANE)
@pytest.mark.parametrize("wide", [True, False])
def test_a_row_fits_its_instance(dtype, wide):
    """Rows fit into what the threads of a block hold, or are read twice."""
    width = 16 // np.dtype(DTYPES[dtype]).itemsize if wide else 1
    for most in (FORWARD_PER_LANE[dtype], BACKWARD_PER_LANE[dtype]):
        for N in (1, 8, 31, 64, 130, 1000, 1024, 1025, 4096, 8192, 16384, 32768, 32769, 1 << 20):
            defines = row_defines(dtype, N, wide, most)
            capacity = defines["LANES"] * defines["HELD"] * width
            assert (defines["HELD"] == 0) == (MOST_LANES * most < N), (N, defines)
            assert defines["HELD"] == 0 or (capacity >= N and defines["HELD"] * width <= most), (N, defines)


def test_instances_are_declared():
    by_entry = {i.entry for i in INSTANCES}
    assert by_entry == {"softmax_forward", "softmax_backward"}
    assert any(i.defines["HELD"] == 0 for i in INSTANCES) and any(i.defines["EXACT"] for i in INSTANCES)


# ---- the ladder


@pytest.mark.parametrize("rung", ["naive", "shared"])
@pytest.mark.parametrize("shape", [(130, 33), (2, 3, 300)])
def test_ladder(rung, shape, rng):
    x, _ = draw(rng, shape, "float32")
    x[0] = -INF
    bound, _ = softmax_bounds(x, "float32", terms=x.shape[-1])  # the first rung has one thread add up a row
    assert_within(rung_softmax(x, rung=rung), definition(x, np.ones_like(x))[0], bound)


# ---- wrong input

X = np.zeros((4, 8), np.float32)


@pytest.mark.parametrize(
    "args, options, error, message",
    [
        ((X.astype(np.int32),), {}, TypeError, "int32 is not served"),
        ((X.astype(complex),), {}, TypeError, "complex128 is not served"),
        (([1.0, 2.0],), {}, TypeError, "expected a NumPy or CuPy array"),
        ((X.T,), {}, ValueError, "not C-contiguous"),
        ((X[:, ::2],), {}, ValueError, "not C-contiguous"),
        ((X, 0), {}, ValueError, "axis 0"),
        ((X, 2), {}, ValueError, "axis 2"),
        ((np.zeros((3, 0), np.float32),), {}, ValueError, "N >= 1"),
        ((np.float32(1).reshape(()),), {}, ValueError, "N >= 1"),
        ((X,), {"scale": 0.0}, ValueError, "positive"),
        ((X,), {"scale": INF}, ValueError, "positive"),
        ((X,), {"scale": -1.0}, ValueError, "positive"),
        ((X[0],), {"causal": True}, ValueError, "Tq, Tk"),
        ((X,), {"key_lengths": np.array([1, 2])}, ValueError, "key_lengths of shape"),
        ((X,), {"key_lengths": np.ones(4)}, TypeError, "expected integers"),
    ],
)
def test_wrong_input(args, options, error, message):
    with pytest.raises(error, match=message):
        softmax(*args, **options)


@pytest.mark.parametrize("dy", [X[:2], X.astype(np.float64)])
def test_a_gradient_that_does_not_fit(dy):
    _, cache = softmax(X)
    with pytest.raises(ValueError, match="dy is"):
        softmax_backward(dy, cache)
    with pytest.raises(ValueError, match="not C-contiguous"):
        softmax_backward(np.zeros((8, 4), np.float32).T, cache)


@pytest.mark.parametrize("x, rung, error", [(X, "fast", ValueError), (X.astype(np.float64), "naive", TypeError)])
def test_wrong_input_of_the_ladder(x, rung, error):
    with pytest.raises(error):
        rung_softmax(x, rung=rung)
