"""Softmax over rows. y = exp(x − max x) / Σ exp(x − max x), and dx = y (dy − Σ dy y).

One program a row, which is held in registers: each number is read once and written once. x, y, dx, dy (rows, N).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softmax_forward(x, y, rows_stride, N, BLOCK: tl.constexpr):
    """BLOCK is the least power of two that holds a row."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < N
    values = tl.load(x + row * rows_stride + at, mask=inside, other=-float("inf")).to(tl.float32)  # (BLOCK,)
    e = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row * rows_stride + at, e / tl.sum(e, axis=0), mask=inside)


@triton.jit
def softmax_backward(y, dy, dx, rows_stride, N, BLOCK: tl.constexpr):
    """Reads the output, not the input."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < N
    share = tl.load(y + row * rows_stride + at, mask=inside, other=0.0).to(tl.float32)  # (BLOCK,)
    slope = tl.load(dy + row * rows_stride + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(dx + row * rows_stride + at, share * (slope - tl.sum(share * slope, axis=0)), mask=inside)
