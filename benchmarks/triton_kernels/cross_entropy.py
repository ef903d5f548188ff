"""Cross-entropy of logits (rows, N) with target classes (rows,): loss = log Σ exp(x) − x[target], per row.

The gradient of the mean over rows is dx = scale · (exp(x − lse) − [column = target]) with scale = ∂L/∂loss / rows.
A row may be longer than registers hold: it passes by in blocks, and maximum and sum are kept up to date.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def cross_entropy_forward(logits, targets, losses, lse, N, BLOCK: tl.constexpr):
    """One program a row; losses and lse = log Σ exp(x), (rows,) float32, the latter for the backward."""
    row = tl.program_id(0)
    base = logits + row.to(tl.int64) * N
    at = tl.arange(0, BLOCK)
    top = tl.full([], -float("inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(0, N, BLOCK):
        values = tl.load(base + start + at, mask=start + at < N, other=-float("inf")).to(tl.float32)  # (BLOCK,)
        new = tl.maximum(top, tl.max(values, axis=0))
        total = total * tl.exp(top - new) + tl.sum(tl.exp(values - new), axis=0)
        top = new
    log_sum = top + tl.log(total)
    tl.store(lse + row, log_sum)
    tl.store(losses + row, log_sum - tl.load(base + tl.load(targets + row)).to(tl.float32))


@triton.jit
def cross_entropy_backward(logits, targets, lse, dlogits, scale, N, BLOCK: tl.constexpr):
    """One program a block of columns of a row."""
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < N
    base = row.to(tl.int64) * N
    values = tl.load(logits + base + at, mask=inside, other=-float("inf")).to(tl.float32)  # (BLOCK,)
    p = tl.exp(values - tl.load(lse + row))
    hit = tl.where(at == tl.load(targets + row), 1.0, 0.0)
    tl.store(dlogits + base + at, scale * (p - hit), mask=inside)
