"""Flash attention's backward, three kernels. P and its gradient are computed anew from q, k, v, dy and lse, in blocks.

    P = exp(scale · q kᵀ − lse)      dv = Pᵀ dy      dP = dy vᵀ      δ = Σ dy y      dS = P ∘ (dP − δ)
    dq = scale · dS k                dk = scale · dSᵀ q

All (B·H, T, D), contiguous; lse and δ (B·H, T) float32. A program of the second kernel owns a block of keys, one of the
third a block of queries: nothing is added up across programs, so there are no atomics.
[Dao 2023, "FlashAttention-2", algorithm 2]
"""

from __future__ import annotations

import triton
import triton.language as tl

from benchmarks.triton_kernels.attention import LOG2_E, ends, load, store


@triton.jit
def attention_delta(y, dy, delta, rows, D: tl.constexpr, BLOCK: tl.constexpr):
    """δ = Σ dy y over D, per row: what normalising the row takes away. `rows` is B·H·T."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    at = row.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]  # (BLOCK, D)
    out = tl.load(y + at, mask=inside[:, None], other=0.0).to(tl.float32)
    slope = tl.load(dy + at, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(delta + row, tl.sum(out * slope, axis=1), mask=inside)


@triton.jit
def gather_dkdv(
    dk, dv, keys_block, values_block, q, dy, lse, delta, keys, start, stop, T, to_base_2,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, CAUSAL: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The queries start..stop pass by in blocks. All scores are transposed: (BLOCK_K, BLOCK_Q)."""
    d = tl.arange(0, D)
    for first in range(start, stop, BLOCK_Q):
        rows = first + tl.arange(0, BLOCK_Q)
        at = rows[:, None] * D + d[None, :]
        inside = rows < T
        queries = load(q + at, inside[:, None], EDGE)  # (BLOCK_Q, D)
        slope = load(dy + at, inside[:, None], EDGE)  # beyond the end: zeros, so that such a query adds nothing
        log_sum = load(lse + rows, inside, EDGE)
        row_delta = load(delta + rows, inside, EDGE)
        scores = tl.dot(keys_block, tl.trans(queries), input_precision="ieee")
        p = tl.exp2(scores * to_base_2 - (log_sum * LOG2_E)[None, :])
        if CAUSAL:
            p = tl.where(rows[None, :] >= keys[:, None], p, 0.0)
        dv = tl.dot(p.to(slope.dtype), slope, dv, input_precision="ieee")
        dp = tl.dot(values_block, tl.trans(slope), input_precision="ieee")
        ds = p * (dp - row_delta[None, :])
        dk = tl.dot(ds.to(queries.dtype), queries, dk, input_precision="ieee")
    return dk, dv


@triton.jit
def attention_backward_dkdv(
    q, k, v, dy, lse, delta, dk, dv, scale, T,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """One program a block of keys of one head. Causal: first the queries on the diagonal, then those that see it whole.

    Keys beyond the end count as zeros, and what they gather is not written.
    """
    block, head = tl.program_id(0), tl.program_id(1)
    base = head.to(tl.int64) * T * D
    d = tl.arange(0, D)
    keys = block * BLOCK_K + tl.arange(0, BLOCK_K)
    at = keys[:, None] * D + d[None, :]
    inside = (keys < T)[:, None]
    keys_block = load(k + base + at, inside, not EVEN)  # (BLOCK_K, D)
    values_block = load(v + base + at, inside, not EVEN)
    sum_dk = tl.zeros([BLOCK_K, D], tl.float32)
    sum_dv = tl.zeros([BLOCK_K, D], tl.float32)
    whole = 0
    if CAUSAL:
        tl.static_assert(BLOCK_K % BLOCK_Q == 0)
        start = block * BLOCK_K
        whole = start + BLOCK_K
        sum_dk, sum_dv = gather_dkdv(
            sum_dk, sum_dv, keys_block, values_block, q + base, dy + base, lse + head * T, delta + head * T, keys,
            start, tl.minimum(whole, T), T, scale * LOG2_E, D, BLOCK_Q, True, not EVEN,
        )  # fmt: skip
    sum_dk, sum_dv = gather_dkdv(
        sum_dk, sum_dv, keys_block, values_block, q + base, dy + base, lse + head * T, delta + head * T, keys,
        whole, T, T, scale * LOG2_E, D, BLOCK_Q, False, not EVEN,
    )  # fmt: skip
    store(dk + base + at, (sum_dk * scale).to(dk.dtype.element_ty), inside, not EVEN)
    store(dv + base + at, sum_dv.to(dv.dtype.element_ty), inside, not EVEN)


@triton.jit
def gather_dq(
    dq, queries, slope, k, v, log_sum, row_delta, rows, start, stop, T, to_base_2,
    D: tl.constexpr, BLOCK_K: tl.constexpr, CAUSAL: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """The keys start..stop pass by in blocks. log_sum is to base 2."""
    d = tl.arange(0, D)
    for first in range(start, stop, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        at = keys[:, None] * D + d[None, :]
        keys_block = load(k + at, (keys < T)[:, None], EDGE)  # (BLOCK_K, D)
        values_block = load(v + at, (keys < T)[:, None], EDGE)
        scores = tl.dot(queries, tl.trans(keys_block), input_precision="ieee")  # (BLOCK_Q, BLOCK_K)
        p = tl.exp2(scores * to_base_2 - log_sum[:, None])
        if CAUSAL:
            p = tl.where(rows[:, None] >= keys[None, :], p, 0.0)
        if EDGE:  # a score of 0 can still overflow beside a very small lse
            p = tl.where((keys < T)[None, :], p, 0.0)
        dp = tl.dot(slope, tl.trans(values_block), input_precision="ieee")
        ds = p * (dp - row_delta[:, None])
        dq = tl.dot(ds.to(keys_block.dtype), keys_block, dq, input_precision="ieee")
    return dq


@triton.jit
def attention_backward_dq(
    q, k, v, dy, lse, delta, dq, scale, T,
    D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    CAUSAL: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """One program a block of queries of one head: first the keys that all of them see, then those to be masked."""
    block, head = tl.program_id(0), tl.program_id(1)
    base = head.to(tl.int64) * T * D
    d = tl.arange(0, D)
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    at = rows[:, None] * D + d[None, :]
    inside = rows < T
    queries = load(q + base + at, inside[:, None], not EVEN)  # (BLOCK_Q, D)
    slope = load(dy + base + at, inside[:, None], not EVEN)
    log_sum = load(lse + head * T + rows, inside, not EVEN) * LOG2_E
    row_delta = load(delta + head * T + rows, inside, not EVEN)
    whole, stop = ends(block, T, BLOCK_Q, BLOCK_K, CAUSAL, EVEN)
    total = tl.zeros([BLOCK_Q, D], tl.float32)
    total = gather_dq(
        total, queries, slope, k + base, v + base, log_sum, row_delta, rows, 0, whole, T, scale * LOG2_E,
        D, BLOCK_K, False, False,
    )  # fmt: skip
    if CAUSAL or not EVEN:
        total = gather_dq(
            total, queries, slope, k + base, v + base, log_sum, row_delta, rows, whole, stop, T, scale * LOG2_E,
            D, BLOCK_K, CAUSAL, not EVEN,
        )  # fmt: skip
    store(dq + base + at, (total * scale).to(dq.dtype.element_ty), inside[:, None], not EVEN)
