"""Arrays of more than 2^31 numbers: the kernels reach their last head or row.

The arrays are address space: only the pages that are touched become memory. Of each grid the last head's blocks are
run, and nothing is copied between guard zones.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
import pytest

from minilm import ops
from minilm.kernels.cuda.attention import attention, attention_backward
from minilm.kernels.cuda.cross_entropy import cross_entropy, cross_entropy_backward
from minilm.kernels.cuda.decode import attention_decode
from minilm.kernels.cuda.softmax import softmax, softmax_backward
from minilm.kernels.host import KernelError, host_options
from minilm.selection import reference
from tests.kernels.planting import assert_right, planted

pytestmark = pytest.mark.usefixtures("host_run", "sparse_empty")

LARGE = 2**31  # numbers before the last head
HEADS, T, D = 65535, 264, 128  # as many heads as a grid has; (HEADS - 1) * T * D > 2^31, T * D * 4 < 2^31


def sparse(shape, dtype="float32"):
    """Zeros that take no memory until they are written."""
    dtype = np.dtype(dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    except OSError as error:
        pytest.skip(f"no address space for an array of {shape}: {error}")
    return np.frombuffer(memory, dtype).reshape(shape)


@pytest.fixture
def sparse_empty(monkeypatch):
    """What the launchers allocate is sparse too."""
    empty = np.empty

    def allocate(shape, dtype=float):
        large = math.prod(np.atleast_1d(shape)) > 2**24
        return sparse(shape, dtype) if large else empty(shape, dtype)

    monkeypatch.setattr(np, "empty", allocate)
    monkeypatch.setattr(np, "empty_like", lambda array: allocate(array.shape, array.dtype))


def with_last(shape, dtype, rng):
    """A sparse array, and its last head or row, filled with random numbers."""
    array = sparse(shape, dtype)
    last = array.reshape(-1, *shape[2:])[-1] if len(shape) > 2 else array[-1]
    last[...] = rng.standard_normal(last.shape)
    assert array.size - last.size >= LARGE
    return array, last


def attention_pairs(dtype, rng):
    (q, k, v, do), last = zip(*(with_last((1, HEADS, T, D), dtype, rng) for _ in range(4)), strict=True)
    exact = [x[None, None].astype(np.float64) for x in last]
    with host_options(guard=False, last_part=HEADS):
        y, cache = attention(q, k, v)
        gradients = attention_backward(do, cache)[:3]
    with reference():
        exact_y, exact_cache = ops.attention(*exact[:3])
        wanted = (exact_y, *ops.attention_backward(exact[3], exact_cache)[:3])
    return [(found[0, -1], want[0, 0]) for found, want in zip((y, *gradients), wanted, strict=True)]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_attention(dtype, rng):
    assert_right(attention_pairs(dtype, rng))


def test_decode(rng):
    q = sparse((1, HEADS, D))
    q[0, -1] = rng.standard_normal(D)
    (k, last_k), (v, last_v) = (with_last((1, HEADS, T, D), "float32", rng) for _ in range(2))
    with host_options(guard=False, last_part=HEADS):
        y = attention_decode(q, k, v, splits=2)
    exact, _ = ops.attention(*(x.astype(np.float64)[None, None] for x in (q[0, -1][None], last_k, last_v)))
    assert_right([(y[0, -1], exact[0, 0, 0])])


@pytest.mark.parametrize("N", [4096, 65536], ids=["in registers", "read twice"])
def test_rows(N, rng):
    rows = LARGE // N + 1
    (x, last), (dy, last_dy) = (with_last((rows, N), "float32", rng) for _ in range(2))
    last, last_dy = last.astype(np.float64), last_dy.astype(np.float64)
    with host_options(guard=False, last_part=rows):
        y, cache = softmax(x)
        dx = softmax_backward(dy, cache)
        loss, loss_cache = cross_entropy(x, np.zeros(rows, np.int64), reduction="none")
        dlogits = cross_entropy_backward(0.5, loss_cache)
    with reference():
        exact_y, exact_cache = ops.softmax(last)
        exact_loss, exact_loss_cache = ops.cross_entropy(last[None], np.zeros(1, np.int64), reduction="none")
        exact_dlogits = ops.cross_entropy_backward(np.full(1, 0.5), exact_loss_cache)
        exact_dx = ops.softmax_backward(last_dy, exact_cache)
    assert_right([(y[-1], exact_y), (dx[-1], exact_dx), (loss[-1:], exact_loss), (dlogits[-1:], exact_dlogits)])


def test_a_head_that_is_reached_in_32_bits_is_named(rng):
    bug = ("q += offset_of(head, TQ, D);", "q += head * TQ * D;")
    message = r"attention_tensor_core.cu:\d+: overflow: thread 0 leaves the range of a 'int'"
    with planted("attention_tensor_core.cu", [bug]), pytest.raises(KernelError, match=message):
        attention_pairs("float16", rng)
